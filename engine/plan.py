"""What a clone will do, as data, decided before anything is written. Pure: a survey in, a plan or a refusal out.

A draft has everything but the names; it becomes a plan when the journal has made a name ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from .. import errors
from ..hypervisor.host import PoolInfo, VolumeInfo
from ..utils import MAX_FILE_NAME_BYTES, MAX_NAME_BYTES, byte_length, compose
from . import domainxml, ownership
from .reach import COPY, LIBVIRT, LINKED, REFLINK, Reach
from .survey import SourceDisk, Survey, candidates
from .xmltree import Element, parse

CLONE, SHARE, EMPTY = "clone", "share", "empty"

AUTO = (REFLINK, COPY, LIBVIRT)
"""Methods in the order in which `auto` tries them. A linked clone depends on its source, so it must be asked for."""

_REASONS = {
    REFLINK: "source and target lie on one file system that can share blocks",
    COPY: "both are files within reach of the server; they cannot share blocks, since {why}",
    LIBVIRT: "libvirt does it, since {why}",
    LINKED: "asked for; the source must not change from now on",
}
_REFLINK_BYTES = 1 << 16
"""What a reflink takes, rounded up: an inode and its extents. Blocks are shared until one of the two is written."""

_OVERLAY_BYTES = 1 << 20
"""What an overlay without data takes, rounded up."""

_MAX_EXTENSION_BYTES = 16
_QCOW2_METADATA = 1 << 20
"""What an empty qcow2 image takes, rounded up, in bytes; its tables grow by 1/1024 of the data beyond that."""


@dataclass(frozen=True)
class Wishes:
    """What was asked for: where disks go (None: where they come from, or `default` if they cannot stay there), how they

    are cloned (`auto`: as well as possible), and whether devices of the host may be left out.
    """

    pool: str | None = None
    method: str = "auto"
    drop_hostdevs: bool = False


@dataclass(frozen=True)
class Copy:
    """A volume to be made from another. `item` is the disk's target device, or `volume`.

    `size` is what it is going to occupy, `total` what is going to be handled, in bytes. `written` is when the source's
    file was last written, in ns, where the server can see that.
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

    allotted: bool = False
    """Whether the pool has to set its whole capacity aside."""

    depends_on: tuple[str, ...] = ()
    """Paths of the images that it is lost without: the backing files that it shares with its source."""

    written: int | None = None
    note: str = ""
    name: str = ""

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

    drop_hostdevs: bool = False

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

    def describe(self) -> dict[str, object]:
        copy = self.copy
        return {"source": copy.source.name, "name": copy.name, "pool": copy.pool, "disks": [copy.describe()]}


@dataclass(frozen=True)
class Draft:
    """A plan without its names. `pools` are those that it writes to."""

    copies: tuple[Copy, ...]
    left: tuple[Left, ...]
    survey: Survey
    drop_hostdevs: bool = False

    def pool(self, name: str) -> PoolInfo:
        return self.survey.pools[name]

    def volume_name(self, copy: Copy, clone: str) -> str:
        """A disk is named after its guest's clone, so that people can tell whose it is."""
        return compose(clone, f"-{copy.item}{copy.extension}", MAX_FILE_NAME_BYTES)

    def nvram_path(self, clone: str) -> str | None:
        path = domainxml.nvram(self._domain)
        if not path:
            return None
        folder, name = os.path.split(path)
        return os.path.join(folder, compose(clone, "_VARS" + _extension(name), MAX_FILE_NAME_BYTES))

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

    def domain_plan(self, identity: domainxml.Identity) -> DomainPlan:
        domain = self.survey.domain
        if domain is None:
            raise ValueError("the draft is of a volume")
        source, target = domainxml.nvram(self._domain), self.nvram_path(identity.name)
        return DomainPlan(
            source=domain.name,
            source_uuid=domain.uuid,
            xml=domain.xml,
            identity=identity,
            copies=tuple(_named(copy, self.volume_name(copy, identity.name)) for copy in self.copies),
            left=self.left,
            nvram=(source, target) if source and target else None,
            drop_hostdevs=self.drop_hostdevs,
        )

    def volume_plan(self, name: str) -> VolumePlan:
        return VolumePlan(_named(self.copies[0], name))

    @property
    def _domain(self) -> Element:
        return parse(self.survey.domain.xml if self.survey.domain else "<domain/>")


def draft_domain(survey: Survey, wishes: Wishes, room: Callable[[PoolInfo], int]) -> Draft:
    """Decides about each disk of a domain.

    Args:
        survey: of the source.
        wishes: what was asked for.
        room: bytes free in a pool, less what was promised to others.

    Raises: DomainNotShutOff, DomainHasSavedState, DeviceNotCloneable, DiskNotCloneable, and what `_Room.place` raises.
    """
    domain = survey.domain
    if domain is None:
        raise ValueError("the survey is of a volume")
    if not domain.is_off:
        raise errors.DomainNotShutOff(name=domain.name, state=domain.state)
    if domain.saved_state:
        raise errors.DomainHasSavedState(name=domain.name)
    if survey.nvram_refusal:
        raise errors.DeviceNotCloneable(name=domain.name, cause=survey.nvram_refusal)
    root = parse(domain.xml)
    causes = ownership.obstacles(root, drop_hostdevs=wishes.drop_hostdevs)
    if domainxml.has_emulated_tpm(root):
        causes.append("it has an emulated TPM, whose state cannot be cloned yet")
    if causes:
        raise errors.DeviceNotCloneable(name=domain.name, cause="; ".join(causes))
    copies, left, space = [], [], _Room(survey, wishes.method, room)
    for disk in survey.disks:
        action, reason = _action(domain.name, disk)
        if action == CLONE and disk.volume is not None:
            copies.append(space.place(disk.disk.target, disk, disk.volume, wishes.pool))
        else:
            left.append(Left(disk.disk.target, action, reason))
    return Draft(tuple(copies), tuple(left), survey, wishes.drop_hostdevs)


def draft_volume(survey: Survey, wishes: Wishes, room: Callable[[PoolInfo], int]) -> Draft:
    """Decides about the clone of a volume. Raises VolumeNotCloneable, and what `_Room.place` raises."""
    (disk,) = survey.disks
    volume = disk.volume
    if volume is None:
        raise ValueError("the survey has no volume")
    if volume.encrypted:
        raise errors.VolumeNotCloneable(name=volume.name, cause="it is encrypted, which is not supported yet")
    if volume.type not in ("file", "block"):
        raise errors.VolumeNotCloneable(name=volume.name, cause=f"it is of type {volume.type}, not a disk image")
    copy = _Room(survey, wishes.method, room).place("volume", disk, volume, wishes.pool or volume.pool)
    return Draft((copy,), (), survey)


def split_volume_name(name: str) -> tuple[str, str]:
    """A volume's name as base and extension; an ending too long to be one belongs to the base."""
    extension = _extension(name)
    return name[: len(name) - len(extension)], extension


class _Room:
    """Finds a pool for each copy of one clone, and counts them together."""

    def __init__(self, survey: Survey, method: str, room: Callable[[PoolInfo], int]) -> None:
        self._survey = survey
        self._method = method
        self._room = room
        self._taken: dict[str, int] = {}

    def place(self, item: str, disk: SourceDisk, volume: VolumeInfo, wanted: str | None) -> Copy:
        """A copy in the first pool that can take it.

        Raises PoolInactive, PoolCannotCreate, MethodCannotServe or NoRoom, as the first of the pools has it.
        """
        refusal: errors.ClonerError | None = None
        names = candidates(volume, wanted)
        for name in names:
            pool = self._survey.pools.get(name)
            if pool is None:
                continue
            try:
                return self._placed(item, disk, volume, pool)
            except errors.ClonerError as problem:
                refusal = refusal or problem
        domain = self._survey.domain
        if refusal is None and domain is not None:
            cause = f"its file {volume.path} lies in no storage pool, so name one in the field pool"
            refusal = errors.DiskNotCloneable(name=domain.name, disk=item, cause=cause)
        raise refusal or errors.PoolNotFound(pool=names[0])

    def _placed(self, item: str, disk: SourceDisk, volume: VolumeInfo, pool: PoolInfo) -> Copy:
        if not pool.is_active:
            raise errors.PoolInactive(pool=pool.name)
        if not pool.can_create:
            raise errors.PoolCannotCreate(pool=pool.name, type=pool.type)
        method, reason = _choose(self._method, disk.reach[pool.name], item)
        copy = _copy(item, disk, volume, pool, method, reason)
        needed = copy.size + self._taken.get(pool.name, 0)
        available = self._room(pool)
        if needed > available:
            raise errors.NoRoom(pool=pool.name, available=max(available, 0), needed=needed)
        self._taken[pool.name] = needed
        return copy


def _choose(wanted: str, reached: Reach, item: str) -> tuple[str, str]:
    """The method and the reason for it. Raises MethodCannotServe."""
    refusals = reached.refusals
    if wanted != "auto":
        if wanted in refusals:
            raise errors.MethodCannotServe(method=wanted, disk=item, cause=refusals[wanted])
        return wanted, _REASONS[wanted] if wanted == LINKED else "asked for"
    for method in AUTO:
        if method not in refusals:
            why = refusals.get(AUTO[AUTO.index(method) - 1], "") if method != REFLINK else ""
            return method, _REASONS[method].format(why=why)
    raise errors.MethodCannotServe(method="auto", disk=item, cause=refusals.get(COPY, "no method can serve"))


def _copy(item: str, disk: SourceDisk, volume: VolumeInfo, pool: PoolInfo, method: str, reason: str) -> Copy:
    same = _image_format(volume.format)
    form = "qcow2" if method == LINKED else same if pool.holds_files else "raw"
    facts = disk.reach[pool.name].facts
    total = facts.occupied if facts and method in (REFLINK, COPY) else _flat_size(disk, volume, pool, form)
    return Copy(
        item=item,
        source=volume,
        pool=pool.name,
        format=form,
        size={REFLINK: _REFLINK_BYTES, LINKED: _OVERLAY_BYTES}.get(method, total),
        total=total,
        method=method,
        reason=reason,
        extension=_extension(volume.name) if form == same else ".qcow2" if method == LINKED else "",
        overlay_of=(volume.path, same) if method == LINKED else None,
        depends_on={LIBVIRT: (), LINKED: (volume.path, *disk.chain)}.get(method, disk.chain),
        allotted=not pool.holds_files,
        written=facts.written if facts else None,
        note=_note(method, disk.reach[pool.name], volume),
    )


def _note(method: str, reached: Reach, volume: VolumeInfo) -> str:
    """What does not travel with the method."""
    if method not in (LIBVIRT, LINKED):
        return ""
    lost = [f"{reached.snapshots} internal snapshots"] if reached.snapshots else []
    if volume.backing and method == LIBVIRT:
        lost.append("the link to its backing file, whose content is copied")
    return f"not in the clone: {' and '.join(lost)}" if lost else ""


def _flat_size(disk: SourceDisk, volume: VolumeInfo, pool: PoolInfo, form: str) -> int:
    """Bytes that a converted copy occupies: what is stored, not the capacity, except where a pool allots it whole."""
    if not pool.holds_files:
        return volume.capacity
    if form == "raw":
        return min(disk.stored, volume.capacity)
    return min(disk.stored, volume.capacity + volume.capacity // 1024) + _QCOW2_METADATA


def _action(domain: str, source: SourceDisk) -> tuple[str, str]:
    """What happens to a disk, and why. Raises DiskNotCloneable."""
    disk, volume = source.disk, source.volume
    if not disk.has_source:
        return EMPTY, "an empty drive"
    if disk.readonly or disk.device == "cdrom":
        return SHARE, "read-only"
    if disk.shareable:
        return SHARE, "marked as shareable"
    cause = disk.oddity or (_volume_problem(disk, volume) if volume else _no_volume(source))
    if cause:
        raise errors.DiskNotCloneable(name=domain, disk=disk.target, cause=cause)
    return CLONE, ""


def _volume_problem(disk: domainxml.Disk, volume: VolumeInfo) -> str | None:
    if volume.encrypted:
        return "its volume is encrypted, which is not supported yet"
    if volume.type not in ("file", "block"):
        return f"its volume is of type {volume.type}"
    stated, found = disk.format or "raw", _image_format(volume.format)
    if stated != found:
        # The guest may have written an image header into its own raw disk; to follow it would read files of the host.
        return f"the guest's configuration says {stated}, and libvirt takes the volume for {found}; make them agree"
    return None


def _no_volume(source: SourceDisk) -> str:
    disk = source.disk
    if disk.type not in ("file", "block", "volume"):
        return f"a disk of type {disk.type} is not supported yet"
    place = disk.path or f"{disk.pool}/{disk.volume}"
    return f"{place} is no volume of an active storage pool, and no file within reach of the server"


def _image_format(form: str) -> str:
    """libvirt's `format` of a volume as the format of a disk image: what it cannot name, and an ISO, is raw."""
    return "raw" if form in ("unknown", "iso", "none", "") else form


def _extension(name: str) -> str:
    extension = os.path.splitext(name)[1]
    return extension if byte_length(extension) <= _MAX_EXTENSION_BYTES else ""


def _named(copy: Copy, name: str) -> Copy:
    return Copy(**{**vars(copy), "name": name})
