"""Who uses an image: guests that may write to it, those of them that run, and any QEMU that has it open."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress

from .. import errors
from ..engine import domainxml, locks
from ..engine.chain import image_format
from ..engine.survey import network_volume
from ..engine.xmltree import parse
from ..hypervisor.host import Host
from ..hypervisor.infos import SHUT_OFF, DomainInfo, VolumeInfo
from ..hypervisor.inventory import Inventory
from .guests import Guest, disk_mark, read_guest
from .services import Services

LOOKS_S = 5.0
"""How long a program that only looks at an image has it open at most."""

_NAP_S = 0.05


def writers(inventory: Inventory[Guest], host: Host, volume: VolumeInfo) -> set[str]:
    """UUIDs of the guests that may write to a volume. What is not known is asked for."""
    marks = {disk_mark(place) for place in volume.places}
    known = [inventory.having(mark) for mark in marks]
    if None not in known:
        return {guest.uuid for guests in known for guest in guests or ()}
    everyone = (read_guest(domain) for domain in host.list_domains())
    return {guest.uuid for guest in everyone if guest.marks & marks}


def refuse_misread(inventory: Inventory[Guest], host: Host, volume: VolumeInfo) -> None:
    """Raises VolumeNotCloneable for a volume that libvirt takes for an image, and a guest for the bytes of its disk.

    The guest may have written an image's header there, which would have others read what it names.
    """
    found = image_format(volume.format)
    for uuid in sorted(writers(inventory, host, volume)) if found != "raw" else ():
        with suppress(errors.DomainNotFound):
            domain = host.domain_by_uuid(uuid)
            disks = [disk for disk in domainxml.disks(parse(domain.xml)) if disk.place in volume.places]
            stated = next((disk.format or "raw" for disk in disks if (disk.format or "raw") != found), None)
            if stated is not None:
                cause = f"{domain.name} reads it as {stated}, and libvirt takes it for {found}; make them agree"
                raise errors.VolumeNotCloneable(name=volume.name, cause=cause)


def running_users(inventory: Inventory[Guest], host: Host, volume: VolumeInfo, *, but: str = "") -> list[str]:
    """Names of the guests that are not shut off and may write to a volume, but that with the UUID `but`."""
    names = []
    for uuid in sorted(writers(inventory, host, volume) - {but}):
        with suppress(errors.DomainNotFound):
            name, state = host.domain_state(uuid)
            names += [] if state == SHUT_OFF else [name]
    return names


def written_volumes(host: Host, domain: DomainInfo) -> Iterator[VolumeInfo]:
    """The volumes that a domain's writable disks lie in."""
    for disk in domainxml.disks(parse(domain.xml)):
        if not disk.is_written:
            continue
        volume = None
        if disk.pool and disk.volume:
            with suppress(errors.PoolNotFound, errors.PoolInactive, errors.VolumeNotFound):
                volume = host.volume(disk.pool, disk.volume)
        elif disk.path:
            volume = host.volume_behind(disk.path)
        else:
            volume = network_volume(host, disk)
        if volume is not None:
            yield volume


def stopped_volumes(host: Host, domain: DomainInfo) -> Iterator[tuple[str, str]]:
    """Pool and name of the volumes that a domain's writable disks lie in and nobody sees: their pool is stopped."""
    for disk in domainxml.disks(parse(domain.xml)):
        if not disk.is_written:
            continue
        if disk.pool and disk.volume:
            with suppress(errors.PoolNotFound):
                if not host.pool(disk.pool).is_active:
                    yield disk.pool, disk.volume
        elif disk.path and host.volume_behind(disk.path) is None:
            folder, name = os.path.split(disk.path)
            folders = {folder, os.path.realpath(folder) if host.is_local else folder}
            yield from ((pool.name, name) for pool in host.list_pools() if not pool.is_active and pool.path in folders)


def files_in_no_pool(host: Host, domain: DomainInfo) -> list[str]:
    """Paths of files that a domain writes to and no active pool has, as far as the server sees any."""
    loose = [disk.path for disk in domainxml.disks(parse(domain.xml)) if disk.is_written and disk.path]
    return [path for path in loose if host.is_local and host.volume_behind(path) is None]


def written_paths(host: Host, domain: DomainInfo) -> list[str]:
    """Paths of the images that a domain writes to, in a pool or not."""
    loose = [disk.path for disk in domainxml.disks(parse(domain.xml)) if disk.is_written and disk.path]
    return list(dict.fromkeys([volume.path for volume in written_volumes(host, domain)] + loose))


def refuse_open(services: Services, name: str, paths: Collection[str], patience_s: float = 0.0) -> None:
    """Raises SourceInUse for a file that is to go and that a QEMU has open, which libvirt need not know.

    Who has it open for no longer than `patience_s` is waited for, such as a `qemu-img` that only looks at it.
    """
    for path in paths if services.connections.is_local else ():
        if is_kept_open(path, patience_s):
            cause = f"a QEMU that runs has {path} open; end that first"
            raise errors.SourceInUse(name=name, act="deleted", cause=cause)


def is_kept_open(path: str, patience_s: float = LOOKS_S) -> bool:
    """Whether a QEMU has a file open, and for longer than who only looks at it."""
    until = time.monotonic() + patience_s
    while locks.is_open(path):
        if time.monotonic() >= until:
            return True
        time.sleep(_NAP_S)
    return False
