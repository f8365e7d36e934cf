"""Who needs an image: guests that run on it, clones that read it, linked clones that stand on it, and who holds it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from .. import errors
from ..callers import Caller
from ..engine import domainxml, files, locks
from ..engine.chain import image_format
from ..engine.records import Link
from ..engine.survey import network_volume
from ..engine.transaction import Transaction
from ..engine.xmltree import parse
from ..hypervisor.host import Host
from ..hypervisor.infos import SHUT_OFF, DomainInfo, VolumeInfo
from ..hypervisor.inventory import Inventory
from ..utils import few
from .guests import Guest, disk_mark, read_guest
from .needs import Needs, led_to, may_stand_on
from .reserving import is_file_being_made
from .services import Services


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


_NAP_S = 0.05

Place = tuple[str, str]

_held_here: set[Place] = set()
"""What requests of this process hold: its server, and the image's path."""


@contextmanager
def held(services: Services, name: str, paths: Collection[str], act: str, caller: Caller) -> Iterator[None]:
    """Keeps images for one thing that is done to them: meanwhile nobody clones, deletes or starts what they are of.

    Args:
        services: of this server.
        name: of the guest that they belong to.
        paths: of the images.
        act: what is done: `deleted`, `started`.
        caller: who does it; an admin is told which clones are in the way.

    Raises SourceInUse when a clone reads one of them, a linked clone stands on one, or somebody else holds one.
    """
    known = services.journal.image_paths()
    paths = _with_other_paths(services, paths, known)
    _forget_gone(services, name, paths, act, caller)
    ours: set[Place] = set()
    try:
        with services.journal.transaction() as transaction:
            new = services.journal.image_paths() - known  # to which nobody adds any more
            paths = _with_other_paths(services, paths, new)
            _refuse_used(services, transaction, name, paths, act, caller)
            transaction.hold(paths, services.lease.id, act)
            ours.update((services.lease.id, path) for path in paths)
            _held_here.update(ours)  # before anybody can see it in the journal
        yield
    finally:
        if ours:
            _let_go(services, ours)


def _let_go(services: Services, ours: set[Place]) -> None:
    """Frees what a request held, here and in the journal at once: who finds the one without the other takes it over."""
    try:
        with suppress(errors.JournalUnavailable), services.journal.transaction() as transaction:
            transaction.release([path for _, path in ours], services.lease.id)
            _forget_held(ours)
    finally:
        _forget_held(ours)  # nobody heeds what is left of it in the journal, see refuse_held


def _forget_held(ours: set[Place]) -> None:
    _held_here.difference_update(ours)
    ours.clear()


def _refuse_used(
    services: Services, transaction: Transaction, name: str, paths: Collection[str], act: str, caller: Caller
) -> None:
    """Raises SourceInUse while anybody else makes, reads, holds or needs one of the images."""
    refuse_held(services, transaction, name, paths, act)
    if any(is_file_being_made(services, transaction, path) for path in paths):
        cause = "a disk of it is still being made; wait for its task, or cancel that"
        raise errors.SourceInUse(name=name, act=act, cause=cause)
    tasks, links = transaction.dependents(paths)
    if tasks:
        which = f"task {few([str(task) for task in tasks])}" if caller.is_admin else "a task"
        cause = f"{which} is cloning it; wait, or cancel that"
        raise errors.SourceInUse(name=name, act=act, cause=cause)
    if links:
        raise _needed(name, act, {f"{link.pool}/{link.name}" for link in links}, caller)


def _with_other_paths(services: Services, paths: Collection[str], known: Collection[str]) -> list[str]:
    """Paths of images, and all others among those that are known which lead to the same images."""
    same = {led_to(path) for path in paths} - {None} if known and services.connections.is_local else set()
    others = (path for path in known if led_to(path) in same) if same else ()
    return list(dict.fromkeys([*paths, *others]))


def refuse_open(services: Services, name: str, paths: Collection[str], patience_s: float = 0.0) -> None:
    """Raises SourceInUse for a file that is to go and that a QEMU has open, which libvirt need not know.

    Who has it open for no longer than `patience_s` is waited for, such as a `qemu-img` that only looks at it.
    """
    until = time.monotonic() + patience_s
    for path in paths if services.connections.is_local else ():
        while locks.is_open(path):
            if time.monotonic() < until:
                time.sleep(_NAP_S)
                continue
            cause = f"a QEMU that runs has {path} open; end that first"
            raise errors.SourceInUse(name=name, act="deleted", cause=cause)


def refuse_held(
    services: Services, transaction: Transaction, name: str, paths: Collection[str], act: str = "cloned"
) -> None:
    """Raises SourceInUse while a server that lives holds one of the images, by whatever path."""
    known = transaction.held()
    for hold in transaction.holds(_with_other_paths(services, paths, known)) if known else ():
        here = services.lease.id
        is_here = hold.server == here
        if hold.path in _held_by(here) if is_here else services.lease.is_alive(hold.server):
            raise errors.SourceInUse(name=name, act=act, cause=f"it is being {hold.act}; try again in a moment")
        transaction.drop_holds(hold.server, but=_held_by(hold.server))


def release_left(services: Services) -> None:
    """Frees what servers held that died, and what no request of this one holds any more: the journal was away then."""
    lease = services.lease
    with services.journal.transaction() as transaction:
        for server in transaction.holders():
            if server == lease.id or not lease.is_alive(server):
                transaction.drop_holds(server, but=_held_by(server))


def _held_by(server: str) -> list[str]:
    """Paths of the images that requests of this process hold for a server."""
    return [path for holder, path in _held_here.copy() if holder == server]


def _needed(name: str, act: str, children: Collection[str], caller: Caller) -> errors.SourceInUse:
    which = f": {few(sorted(children))}" if caller.is_admin else ""
    return errors.SourceInUse(name=name, act=act, cause=f"linked clones need its disks{which}; delete them first")


def _forget_gone(services: Services, name: str, paths: Collection[str], act: str, caller: Caller) -> None:
    """Forgets linked clones that are not there any more, by whoever's hand.

    Raises SourceInUse where something stands on such an image all the same: they may have been moved, or renamed.
    """
    gone = [link for link in services.journal.links(paths) if not _is_there(services, link)]
    parents = {link.parent for link in gone}
    needs = Needs(services) if gone else None
    if needs is not None and (above := {each for parent in parents for each in needs.above(parent)}):
        raise _needed(name, act, above, caller)
    services.journal.unlink(gone)


def forget_deleted(services: Services, volumes: Collection[VolumeInfo]) -> None:
    """Forgets that volumes which were deleted stood on others: else each is looked for when such a one is held next."""
    paths = {(volume.pool, volume.name): volume.path for volume in volumes}
    links = services.journal.links_named([volume.name for volume in volumes]) if paths else []
    gone = [link for link in links if paths.get((link.pool, link.name)) == link.path]
    if services.connections.is_local:
        gone = [link for link in gone if not files.may_be_in_sight(link.path)]
    services.journal.unlink([link for link in gone if services.lease.is_of_here(link.server)])


def _is_there(services: Services, link: Link) -> bool:
    if not services.lease.is_of_here(link.server):
        return True  # where nobody sees it from here
    is_local = services.connections.is_local
    try:
        pool = services.host.pool(link.pool)
        paths = list(dict.fromkeys(filter(None, [os.path.join(pool.path, link.name), link.path])))
        seen = [path for path in paths if files.may_be_in_sight(path)] if is_local else []
        if pool.is_active and seen:  # it may be another one's by now, or stand on nothing any more
            return any(may_stand_on(path, link.parent) for path in seen)
        if not pool.is_active or services.host.has_volume(pool, link.name):
            return True  # or may come back with its pool
        if link.path and services.host.volume_at(link.path) is not None:
            return True
    except (errors.PoolNotFound, errors.PoolInactive, errors.LibvirtFailed):
        return True
    # A host that starts without a disk has an empty folder for a pool; whose guest is there still needs its own.
    return any(map(services.taken_marks(), map(disk_mark, [*paths, f"{link.pool}/{link.name}"])))
