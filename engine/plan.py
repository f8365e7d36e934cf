"""What a clone will do, as data. A draft has everything but the names, and becomes a plan when the journal has made a
name ours. What is decided, and why, is deciding.py's."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..hypervisor.infos import PoolInfo, VolumeInfo
from ..utils import MAX_FILE_NAME_BYTES, MAX_NAME_BYTES, byte_length, compose
from . import domainxml, ownership
from .ownfiles import OwnFiles, own_files, tpm_folder
from .survey import Survey
from .xmltree import Element, parse

CLONE, SHARE, EMPTY = "clone", "share", "empty"

_MAX_EXTENSION_BYTES = 16


@dataclass(frozen=True)
class Wishes:
    """What was asked for."""

    pool: str | None = None
    """Where disks go; None: where they come from, or to `default` if they cannot stay there."""

    method: str = "auto"
    """How they are cloned; `auto`: as well as possible."""

    flatten: bool = False
    """Whether the clone is to stand on no backing file."""

    drop_hostdevs: bool = False
    """Whether devices of the host may be left out."""

    start: bool = False
    """Whether the clone is to be started once it is there."""

    title: str | None = None
    description: str | None = None
    bandwidth: int | None = None
    """How many MiB a second are read at most, for each disk that is copied by us."""


@dataclass(frozen=True)
class Copy:
    """A volume to be made from another. `item` is the disk's target device, or `volume`.

    `size` is what it is going to occupy, `total` what is going to be handled, in bytes.
    """

    item: str
    source: VolumeInfo
    pool: str
    format: str
    size: int
    total: int
    method: str
    reason: str
    extension: str
    overlay_of: tuple[str, str] | None = None
    """Path and format of the backing file of a linked clone."""

    type: str = "file"
    """What it is going to be, in libvirt's words: `file`, `block` or `network`."""

    depends_on: tuple[str, ...] = ()
    """Paths of the images that it is lost without: the backing files that it shares with its source."""

    below: tuple[VolumeInfo, ...] = ()
    """The backing files whose content is in the copy, and which therefore must not change meanwhile either."""

    written: Mapping[str, int] = field(default_factory=dict)
    """When the files that are read were last written, in ns, as far as the server can see them."""

    bandwidth: int | None = None
    """MiB a second that are read at most."""

    flat_source: str = ""
    """What qemu-img reads, where backing files' content is to be in the copy; '' where the file is copied as it is."""

    note: str = ""
    refusals: Mapping[str, str] = field(default_factory=dict)
    """The methods that could not serve here, with the reason."""

    name: str = ""
    is_stamped: bool = False
    """Whether a stamp of the journal is in its name, so that nobody else's is called so."""

    @property
    def is_allotted(self) -> bool:
        """Whether the pool has to set its whole capacity aside."""
        return self.type == "block"

    @property
    def reads(self) -> tuple[VolumeInfo, ...]:
        """The volumes whose content is copied."""
        return (self.source, *self.below)

    def describe(self) -> dict[str, object]:
        """As a task shows it."""
        source = {"pool": self.source.pool, "name": self.source.name, "path": self.source.path}
        target = {"pool": self.pool, "name": self.name, "format": self.format}
        shown: dict[str, object] = {"disk": self.item, "action": CLONE, "source": source, "target": target}
        shown |= {"bytes": self.size, "total": self.total, "method": self.method, "reason": self.reason}
        return shown | ({"note": self.note} if self.note else {})


@dataclass(frozen=True)
class Left:
    """A disk that is not cloned: shared with the source, or an empty drive."""

    item: str
    action: str
    reason: str

    def describe(self) -> dict[str, object]:
        return {"disk": self.item, "action": self.action, "reason": self.reason}


@dataclass(frozen=True)
class DomainPlan:
    """The clone of a domain, complete."""

    source: str
    source_uuid: str
    xml: str
    identity: domainxml.Identity
    copies: tuple[Copy, ...]
    left: tuple[Left, ...]
    nvram: tuple[str, str] | None
    """Paths of the source's and the clone's NVRAM."""

    nvram_in_xml: bool = True
    """Whether the XML names it; else libvirt goes by the domain's name."""

    tpm: tuple[str, str] | None = None
    """Folders of the source's and the clone's TPM state."""

    wishes: Wishes = field(default_factory=Wishes)
    paths: tuple[str, ...] = ()
    """The sockets, logs and pipes that the clone has."""

    is_stamped: bool = False
    """Whether a stamp of the journal is in its name, so that nobody else's is called so."""

    not_made: frozenset[str] = frozenset()
    """Of the source's own files those that are not there, so that there is nothing to copy."""

    def foresee(self) -> dict[str, object]:
        """As a dry run shows it: what is made up anew each time is left out."""
        shown = {key: value for key, value in self.describe().items() if key != "uuid"}
        nvram, tpm = (
            {"source": paths[0], "target": paths[1]} if paths and paths[0] not in self.not_made else None
            for paths in (self.nvram, self.tpm)
        )
        return {**shown, "nvram": nvram, "tpm": tpm is not None, "start": self.wishes.start}

    def describe(self) -> dict[str, object]:
        items: tuple[Copy | Left, ...] = (*self.copies, *self.left)
        shown = {"source": self.source, "name": self.identity.name, "uuid": self.identity.uuid}
        return {**shown, "disks": [item.describe() for item in items]}


@dataclass(frozen=True)
class VolumePlan:
    """The clone of a volume, complete."""

    copy: Copy

    @property
    def copies(self) -> tuple[Copy, ...]:
        return (self.copy,)

    def foresee(self) -> dict[str, object]:
        """As a dry run shows it."""
        return self.describe()

    def describe(self) -> dict[str, object]:
        copy = self.copy
        return {"source": copy.source.name, "name": copy.name, "pool": copy.pool, "disks": [copy.describe()]}


@dataclass(frozen=True)
class Draft:
    """A plan without its names. `pools` are those that it writes to."""

    copies: tuple[Copy, ...]
    left: tuple[Left, ...]
    survey: Survey
    wishes: Wishes = field(default_factory=Wishes)

    @property
    def reads(self) -> list[str]:
        """Paths of the images that the clone reads, backing files included, each once."""
        chains = [(disk.volume.path, *disk.chain.paths) for disk in self.survey.disks if disk.volume]
        return list(dict.fromkeys(path for paths in chains for path in paths))

    def pool(self, name: str) -> PoolInfo:
        return self.survey.pools[name]

    def fits(self, room: Callable[[PoolInfo], int]) -> bool:
        """Whether there is room for it; `room` gives the bytes free in a pool, less what was promised to others."""
        needed: dict[int | str, int] = {}
        for copy in self.copies:
            pool = self.pool(copy.pool)
            needed[pool.store] = needed.get(pool.store, 0) + copy.size
            if needed[pool.store] > room(pool):
                return False
        return True

    def volume_name(self, copy: Copy, clone: str) -> str:
        """A disk is named after its guest's clone, so that people can tell whose it is."""
        return compose(clone, f"-{copy.item}{copy.extension}", MAX_FILE_NAME_BYTES)

    def nvram_path(self, clone: str) -> str | None:
        """Where the clone's UEFI variables lie: beside the source's."""
        path = self._own_files.nvram
        if not path:
            return None
        folder, name = os.path.split(path)
        ending = extension(name) if not self._own_files.nvram_is_implied else ".fd"
        return os.path.join(folder, compose(clone, "_VARS" + ending, MAX_FILE_NAME_BYTES))

    def own_paths(self, clone: str, uuid: str) -> dict[str, bool]:
        """The sockets, logs and pipes that a clone would have, and whether each is made anew when it starts."""
        if self.survey.domain is None or not self._has_own_paths:
            return {}
        domain = parse(self.survey.domain.xml)
        ownership.make_own(domain, domain.findtext("name", ""), clone, uuid, drop_hostdevs=self.wishes.drop_hostdevs)
        found: dict[str, bool] = {}
        for node, attribute in ownership.paths(domain):
            path = node.get(attribute, "")
            found[path] = found.get(path, False) or ownership.is_made_anew(node)
        return found

    def max_name_bytes(self) -> int:
        """The longest name whose disks and NVRAM can still be called after it in full."""
        endings = [byte_length(f"-{copy.item}{copy.extension}") for copy in self.copies]
        return min(self.max_wanted_bytes(), MAX_FILE_NAME_BYTES - max(endings, default=0))

    def max_wanted_bytes(self) -> int:
        """The longest name that may be asked for. Its disks' names may be shortened; two NVRAMs must not become one."""
        nvram = self.nvram_path("x")
        if not nvram:
            return MAX_NAME_BYTES
        ending = os.path.basename(nvram)[1:] + ".new"  # what libvirt calls it while it makes it from its template
        return min(MAX_NAME_BYTES, MAX_FILE_NAME_BYTES - byte_length(ending))

    def macs(self) -> list[str]:
        return domainxml.macs(self._domain)

    def domain_plan(self, identity: domainxml.Identity, *, is_stamped: bool = False) -> DomainPlan:
        """The plan; `is_stamped` tells whether the clone's name comes of the journal, and not from a person."""
        domain = self.survey.domain
        if domain is None:
            raise ValueError("the draft is of a volume")
        own, nvram = self._own_files, self.nvram_path(identity.name)
        return DomainPlan(
            source=domain.name,
            source_uuid=domain.uuid,
            xml=domain.xml,
            identity=identity,
            copies=tuple(
                replace(copy, name=self.volume_name(copy, identity.name), is_stamped=is_stamped) for copy in self.copies
            ),
            left=self.left,
            nvram=(own.nvram, nvram) if own.nvram and nvram else None,
            nvram_in_xml=not own.nvram_is_implied,
            tpm=(own.tpm, tpm_folder(identity.uuid, self.survey.places)) if own.tpm else None,
            wishes=self.wishes,
            paths=tuple(self.own_paths(identity.name, identity.uuid)),
            is_stamped=is_stamped,
            not_made=self.survey.not_made,
        )

    def volume_plan(self, name: str, *, is_stamped: bool = False) -> VolumePlan:
        return VolumePlan(replace(self.copies[0], name=name, is_stamped=is_stamped))

    @cached_property
    def _domain(self) -> Element:
        return self.survey.domain.tree if self.survey.domain else parse("<domain/>")

    @cached_property
    def _has_own_paths(self) -> bool:
        return any(ownership.paths(self._domain))

    @cached_property
    def _own_files(self) -> OwnFiles:
        return own_files(self._domain, self.survey.places)


def split_volume_name(name: str) -> tuple[str, str]:
    """A volume's name as base and extension; an ending too long to be one belongs to the base."""
    ending = extension(name)
    return name[: len(name) - len(ending)], ending


def extension(name: str) -> str:
    """The ending of a file's name with its dot; '' where there is none, or one too long to be one."""
    ending = os.path.splitext(name)[1]
    return ending if byte_length(ending) <= _MAX_EXTENSION_BYTES else ""
