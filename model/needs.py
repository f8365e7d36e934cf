"""What the domains of a host need, by whatever path: what they name, and what the images of their disks stand on.

It is looked up for what is going to be deleted, so that more is followed here than would be read: a chain goes on
outside of libvirt's pools. Nothing but the headers of plain files is opened, and nothing of them is told.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

from lxml import etree

from .. import errors
from ..engine import domainxml, files
from ..engine.imagenames import files_named
from ..engine.ownfiles import own_files
from ..engine.qcow2 import read_header
from ..engine.survey import is_elsewhere
from ..engine.xmltree import Element, parse
from ..hypervisor.infos import Definition
from .services import Services

Identity = tuple[int, int]
_SAID = "name title description metadata"
_PARTS = "*[{}]".format(" and ".join(f"not(self::{tag})" for tag in _SAID.split()))
_TEXTS = etree.XPath(f"{_PARTS}//@*[contains(., '/')] | {_PARTS}//text()[contains(., '/')]", smart_strings=False)
"""What a definition says that may be a path. Asked of thousands of them, so that Python does not look at the rest."""

_PIECES = re.compile(r'[=,"]')
"""Between the parts of what is passed to QEMU as it is."""

_RECENT_S = 2.0
_MOST = 1000
"""Files that one disk is followed to: images come from users."""


class Needs:
    """Who needs what, asked of libvirt once: also what was done to definitions without an event."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._is_local = services.connections.is_local
        self._found: dict[str, Collection[tuple[str, str | None]]] = {}
        self._names: dict[str | Identity, dict[str, str]] = {}
        self._above: dict[str | Identity, set[str]] = {}
        self._overlays: dict[str | Identity, set[str]] | None = None
        for domain in services.host.definitions():
            self._add(domain)

    def users(self, *places: str, but: str = "") -> list[str]:
        """Names of the domains that need something, by its places (VolumeInfo.places) or a path.

        The domain with the UUID `but` does not count.
        """
        keys = [key for place in places for key in self._keys(place)]
        found = {uuid: name for key in keys for uuid, name in self._names.get(key, {}).items()}
        return sorted(name for uuid, name in found.items() if uuid != but)

    def overlays(self, *places: str) -> list[str]:
        """`pool/volume` of the images in active pools that name something, whether a domain has them or not."""
        if self._overlays is None:
            self._overlays = {}
            for name, below in self._volumes():
                for key in self._keys(below):
                    self._overlays.setdefault(key, set()).add(name)
        keys = [key for place in places for key in self._keys(place)]
        return sorted({name for key in keys for name in self._overlays.get(key, ())})

    def above(self, place: str) -> set[str]:
        """What stands on an image: `pool/volume`, or the name of a domain with such a disk."""
        found = {name for key in self._keys(place) for name in self._above.get(key, ())}
        return found.union(self.overlays(place))

    def _volumes(self) -> Iterator[tuple[str, str]]:
        """Every image, and what it names. Files are read where they can be: libvirt would read them as well."""
        host = self._services.host
        for pool in host.list_pools():
            if not (pool.is_active and pool.holds_files):
                continue
            is_seen = self._is_seen(pool.name) if self._is_local else False
            if is_seen is not False:
                try:
                    paths = [os.path.join(pool.path, name) for name in os.listdir(pool.path)]
                except OSError:
                    paths, is_seen = [], None
                for path in paths:
                    found = _named_by_qcow2(path)
                    is_seen = None if found is None and files.is_closed(path) else is_seen
                    yield from ((f"{pool.name}/{os.path.basename(path)}", below) for below, _ in found or ())
            if is_seen:
                continue
            with suppress(errors.PoolNotFound, errors.PoolInactive):
                volumes = host.list_volumes(pool.name)
                yield from ((f"{pool.name}/{each.name}", each.backing) for each in volumes if each.backing)

    def _is_seen(self, pool: str) -> bool | None:
        """Whether the server sees the files of a pool, as one of them tells; None where that may have been removed."""
        with suppress(errors.PoolNotFound, errors.PoolInactive):
            volume = self._services.host.any_file(pool)
            if volume is not None:
                is_here = os.path.lexists(volume.path)
                return not is_elsewhere(self._services.host, volume) if is_here else None
        return True

    def _add(self, domain: Definition) -> None:
        roots = [parse(xml) for xml in (domain.xml, domain.live_xml) if xml]
        places = {place for root in roots for place in self._places(root)}
        for key in [key for place in places for key in self._keys(place)]:
            self._names.setdefault(key, {})[domain.uuid] = domain.name
        below = {each for root in roots for disk in domainxml.disks(root) for each in self._below(disk)}
        for key in [key for place in below for key in self._keys(place)]:
            self._above.setdefault(key, set()).add(domain.name)

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
        yield from _named(root)
        nvram = own_files(root, self._services.places).nvram
        if nvram is not None:
            yield nvram

    def _below(self, disk: domainxml.Disk) -> Iterator[str]:
        """Paths of the files that a disk's image stands on, and of those that their data lies in."""
        pending, seen = [(self._path_of(disk), disk.format)], set[str]()
        while pending and len(seen) < _MOST:
            path, form = pending.pop()
            for below, its_form in self._named_by(path) if path and form != "raw" else ():
                if below not in seen:
                    seen.add(below)
                    pending.append((below, its_form))
                    yield below

    def _path_of(self, disk: domainxml.Disk) -> str | None:
        if disk.pool and disk.volume:
            with suppress(errors.PoolNotFound, errors.PoolInactive, errors.VolumeNotFound):
                return self._services.host.volume(disk.pool, disk.volume).path
            return None
        return disk.path

    def _named_by(self, path: str) -> Collection[tuple[str, str | None]]:
        if path not in self._found:  # many may stand on one
            found = _named_by_qcow2(path) if self._is_local else None
            self._found[path] = found if found is not None else self._told_of(path)
        return self._found[path]

    def _told_of(self, path: str) -> Collection[tuple[str, str | None]]:
        """What libvirt says that an image stands on."""
        volume = self._services.host.volume_behind(path)
        return [(volume.backing, None)] if volume is not None and volume.backing else []


class RecentNeeds:
    """What is needed while one thing after another is deleted: to look it up takes the longer the more there are.

    It is never older than the time that two lookups take, or two seconds.
    """

    def __init__(self, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._clock = clock
        self._needs: Needs | None = None
        self._until = 0.0

    def get(self) -> Needs:
        if self._needs is None or self._clock() > self._until:
            begun = self._clock()
            self._needs = Needs(self._services)
            now = self._clock()
            self._until = now + max(_RECENT_S, now - begun)
        return self._needs


def _named(root: Element) -> Iterator[str]:
    """Whatever a definition names, but in texts for people and in what is others': paths, and volumes of pools."""
    for text in map(str, _TEXTS(root)):
        yield from (piece for piece in (text.strip(), *_PIECES.split(text)) if piece.startswith("/"))
    for node in root.iterfind(".//*[@pool][@volume]"):
        yield f"{node.get('pool')}/{node.get('volume')}"


def led_to(path: str) -> Identity | None:
    """What a path leads to, as all other paths to it have it: device and inode of a file, number of a block device."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    if stat.S_ISBLK(status.st_mode):  # may have several nodes
        return -1, status.st_rdev
    return status.st_dev, status.st_ino


def may_stand_on(path: str, below: str) -> bool:
    """Whether what was a qcow2 image on another still is one.

    No only where it and each image that it does stand on could be looked into.
    """
    if _is_no_qcow2(path):  # it is another's, of that name
        return False
    wanted, pending = led_to(below), list[tuple[str, str | None]]([(path, None)])
    for place, form in pending:
        if wanted is None or led_to(place) == wanted or len(pending) > _MOST:
            return True
        named = () if form == "raw" else _named_by_qcow2(place)
        if named is None:
            return True
        pending.extend(named)
    return False


def _is_no_qcow2(path: str) -> bool:
    """Whether a path leads to a file that can be read and is no qcow2 image."""
    real = os.path.realpath(path)
    with suppress(OSError, ValueError):
        return stat.S_ISREG(os.lstat(real).st_mode) and read_header(real) is None
    return False


def _named_by_qcow2(path: str) -> Collection[tuple[str, str | None]] | None:
    """What the image that a path leads to names; None where that is no qcow2 image which can be read."""
    real = os.path.realpath(path)
    try:
        header = read_header(real) if stat.S_ISREG(os.lstat(real).st_mode) else None
    except (OSError, ValueError):
        return None
    # A relative name is taken from the folder of the link, if there is one.
    return None if header is None else list(dict.fromkeys([*files_named(path, header), *files_named(real, header)]))
