"""What the domains of a host need, by whatever path: their disks, the backing files under those, and UEFI variables.

It is looked up for what is going to be deleted, so that more is followed here than would be read: a chain goes on
outside of libvirt's pools. Nothing but the headers of plain files is opened, and nothing of them is told.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from .. import errors
from ..engine import domainxml
from ..engine.chain import follow
from ..engine.ownfiles import own_files
from ..engine.qcow2 import read_header
from ..engine.xmltree import Element, parse
from ..hypervisor.host import DomainInfo, VolumeInfo
from .services import Services

Identity = tuple[int, int]
_CHAINED = ("devices/disk//backingStore/source", "devices/disk/mirror/source")
"""What libvirt knows of an image's backing files while a guest runs, and where a block job takes its content."""


class Needs:
    """Who needs what, asked of libvirt once: also what was done to definitions without an event.

    Args:
        services: of this server.
        but: UUID of a domain whose needs do not count.
    """

    def __init__(self, services: Services, but: str = "") -> None:
        self._services = services
        self._is_local = services.connections.is_local
        self._found: dict[str, VolumeInfo | None] = {}
        self._names: dict[str | Identity, set[str]] = {}
        for domain in services.host.list_domains():
            if domain.uuid != but:
                self._add(domain)

    def users(self, *places: str) -> list[str]:
        """Names of the domains that need something, by its places (VolumeInfo.places) or a path."""
        keys = [key for place in places for key in self._keys(place)]
        return sorted({name for key in keys for name in self._names.get(key, ())})

    def _add(self, domain: DomainInfo) -> None:
        roots = [parse(xml) for xml in (domain.xml, domain.live_xml) if xml]
        places = {place for root in roots for place in self._places(root)}
        for key in [key for place in places for key in self._keys(place)]:
            self._names.setdefault(key, set()).add(domain.name)

    def _keys(self, place: str) -> Iterator[str | Identity]:
        yield place
        identity = led_to(place) if self._is_local and place.startswith("/") else None
        if identity is not None:
            yield identity

    def _places(self, root: Element) -> Iterator[str]:
        for disk in domainxml.disks(root):
            if disk.place:
                yield disk.place
                yield from self._below(disk)
        for node in (node for path in _CHAINED for node in root.iterfind(path)):
            yield node.get("file") or node.get("dev") or f"{node.get('pool')}/{node.get('volume')}"
        nvram = own_files(root, self._services.places).nvram
        if nvram is not None:
            yield nvram

    def _below(self, disk: domainxml.Disk) -> tuple[str, ...]:
        """Paths of the backing files of a disk's image."""
        top = self._image_of(disk) if disk.format != "raw" else None
        if top is None:
            return ()
        return follow(top, disk.format or top.format, self._image_at, is_local=self._is_local).paths

    def _image_of(self, disk: domainxml.Disk) -> VolumeInfo | None:
        if disk.pool and disk.volume:
            try:
                return self._services.host.volume(disk.pool, disk.volume)
            except (errors.PoolNotFound, errors.PoolInactive, errors.VolumeNotFound):
                return None
        return self._image_at(disk.path) if disk.path else None

    def _image_at(self, path: str) -> VolumeInfo | None:
        if path not in self._found:  # many may stand on one
            here = _qcow2_at(path) if self._is_local else None
            self._found[path] = here or self._services.host.volume_behind(path)
        return self._found[path]


def led_to(path: str) -> Identity | None:
    """What a path leads to, as all other paths to it have it: device and inode of a file, number of a block device."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    if stat.S_ISBLK(status.st_mode):  # may have several nodes
        return -1, status.st_rdev
    return status.st_dev, status.st_ino


def _qcow2_at(path: str) -> VolumeInfo | None:
    """The image that a path leads to, in a pool or not."""
    real = os.path.realpath(path)
    try:
        header = read_header(real) if stat.S_ISREG(os.lstat(real).st_mode) else None
    except (OSError, ValueError):
        return None
    if header is None:
        return None
    return VolumeInfo(
        pool="",
        name=os.path.basename(real),
        path=real,
        type="file",
        format="qcow2",
        capacity=header.capacity,
        allocation=0,
        compat=None,
        features=(),
        cluster_size=None,
        backing=None,
        encrypted=False,
        changed=None,
    )
