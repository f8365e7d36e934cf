"""Decides what a clone will do: for each disk whether, how and where to it is cloned. Pure: a survey in, a draft out.

Whatever can be refused is refused here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .. import errors
from ..hypervisor.infos import PoolInfo, VolumeInfo
from . import domainxml, ownership, qcow2
from .chain import NAME_FILE, Chain, contradiction, image_format
from .plan import CLONE, EMPTY, SHARE, Copy, Draft, Left, Wishes, extension
from .reach import COPY, LIBVIRT, LINKED, REFLINK, Reach
from .survey import SourceDisk, Survey, candidates

AUTO = (REFLINK, COPY, LIBVIRT)
"""Methods in the order in which `auto` tries them. A linked clone depends on its source, so it must be asked for."""

_REASONS = {
    REFLINK: "source and target lie on one file system that can share blocks",
    COPY: "both are files within reach of the server; a reflink cannot serve, since {why}",
    LIBVIRT: "libvirt does it, since {why}",
    LINKED: "asked for; the source must not change from now on",
}
_ANOTHER_METHOD = "Choose another, or auto"
_ANOTHER_POOL = "Name another pool, or define one for the folder of its file"
_DEFINE = "define a pool for its folder, start that (virsh pool-start), or refresh it (virsh pool-refresh)"
_CONVERT = "convert it to an image that is not (qemu-img convert)"
_DETACH = "detach it from the guest first, or give it a plain image of what it has (qemu-img convert)"
_IMAGE_TYPES = ("file", "block", "network")
"""libvirt's types of volumes that hold one disk image each."""

_REFLINK_BYTES = 1 << 16
"""What a reflink takes, rounded up: an inode and its extents. Blocks are shared until one of the two is written."""

_SNAPSHOT_BYTES = 1 << 20
"""What a child of a snapshot in Ceph takes, rounded up."""

_BLOCK = 1 << 16
"""What files are allotted at a time, in bytes, where that is most."""

_IMAGE_GROWTH = 1 << 20
"""What XFS allots an image at a time, in bytes, because qemu-img, which makes all but raw ones, asks for that (qemu(1):
extent_size_hint). Nor is more of what it has made kept, and written over (files.py, clear)."""


def draft_domain(survey: Survey, wishes: Wishes, room: Callable[[PoolInfo], int]) -> Draft:
    """Decides about each disk of a domain.

    Args:
        survey: of the source.
        wishes: what was asked for.
        room: bytes free in a pool, less what was promised to others.

    Raises DomainNotShutOff, DomainHasSavedState, DeviceNotCloneable, DiskNotCloneable, and what `_Placing` raises.
    """
    domain = survey.domain
    if domain is None:
        raise ValueError("the survey is of a volume")
    if not domain.is_off:
        raise errors.DomainNotShutOff(name=domain.name, state=domain.state)
    if domain.saved_state:
        raise errors.DomainHasSavedState(name=domain.name)
    causes = [*survey.refusals, *ownership.obstacles(domain.tree, drop_hostdevs=wishes.drop_hostdevs)]
    if causes:
        raise errors.DeviceNotCloneable(name=domain.name, cause="; ".join(causes))
    copies, left, placing = [], [], _Placing(survey, wishes, room)
    for disk in survey.disks:
        action, reason = _action(domain.name, disk)
        if action == CLONE and disk.volume is not None:
            copies.append(placing.place(disk.disk.target, disk, disk.volume, wishes.pool))
        else:
            left.append(Left(disk.disk.target, action, reason))
    return Draft(tuple(copies), tuple(left), survey, wishes)


def draft_volume(survey: Survey, wishes: Wishes, room: Callable[[PoolInfo], int]) -> Draft:
    """Decides about the clone of a volume. Raises VolumeNotCloneable, and what `_Placing` raises."""
    (disk,) = survey.disks
    volume = disk.volume
    if volume is None:
        raise ValueError("the survey has no volume")
    if volume.encrypted:
        cause = f"it is encrypted, which is not supported yet: {_CONVERT}"
        raise errors.VolumeNotCloneable(name=volume.name, cause=cause)
    if volume.type not in _IMAGE_TYPES:
        cause = f"it is of type {volume.type}, not a disk image: clone a volume that is one"
        raise errors.VolumeNotCloneable(name=volume.name, cause=cause)
    if disk.chain.problem:
        raise errors.VolumeNotCloneable(name=volume.name, cause=disk.chain.problem)
    named = volume.link or volume
    copy = _Placing(survey, wishes, room).place("volume", disk, volume, wishes.pool or named.pool)
    return Draft((copy,), (), survey, wishes)


class _Placing:
    """Finds a pool for each copy of one clone, and counts them together."""

    def __init__(self, survey: Survey, wishes: Wishes, room: Callable[[PoolInfo], int]) -> None:
        self._survey = survey
        self._wishes = wishes
        self._room = room
        self._taken: dict[int | str, int] = {}

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
        is_flat = self._wishes.flatten and _stands_on_others(disk.chain)
        reached = disk.reach[pool.name]
        refusals = reached.flat_refusals if is_flat else reached.refusals
        way = _choose(self._wishes.method, refusals, item, is_flat=is_flat)
        copy = replace(_copy(item, disk, volume, pool, way), refusals=refusals)
        if way.method == COPY:
            copy = replace(copy, bandwidth=self._wishes.bandwidth)
        needed = copy.size + self._taken.get(pool.store, 0)
        available = self._room(pool)
        if needed > available:
            raise errors.NoRoom(pool=pool.name, available=max(available, 0), needed=needed)
        self._taken[pool.store] = needed
        return copy


def _stands_on_others(chain: Chain) -> bool:
    return bool(chain.images or chain.problem)


@dataclass(frozen=True)
class _Way:
    """How a disk is cloned, and why so; `is_flat`: without the backing files that its source stands on."""

    method: str
    reason: str
    is_flat: bool


def _choose(wanted: str, refusals: Mapping[str, str], item: str, *, is_flat: bool) -> _Way:
    """Raises MethodCannotServe."""
    if wanted != "auto":
        if wanted in refusals:
            raise errors.MethodCannotServe(method=wanted, disk=item, cause=refusals[wanted], advice=_ANOTHER_METHOD)
        return _Way(wanted, _REASONS[wanted] if wanted == LINKED else "asked for", is_flat)
    for method in AUTO:
        if method not in refusals:
            why = refusals.get(AUTO[AUTO.index(method) - 1], "") if method != REFLINK else ""
            return _Way(method, _REASONS[method].format(why=why), is_flat)
    cause = f"{refusals[COPY]}; nor can libvirt do it, since {refusals[LIBVIRT]}"
    raise errors.MethodCannotServe(method="auto", disk=item, cause=cause, advice=_ANOTHER_POOL)


def _copy(item: str, disk: SourceDisk, volume: VolumeInfo, pool: PoolInfo, way: _Way) -> Copy:
    method, is_flat = way.method, way.is_flat
    same = image_format(volume.format)
    form = "qcow2" if method == LINKED else same if pool.holds_files else "raw"
    reached = disk.reach[pool.name]
    as_it_is = method in (REFLINK, COPY) and not is_flat
    total = reached.facts.occupied if reached.facts and as_it_is else _flat_size(disk, volume, pool, form)
    stands_on = () if is_flat or method == LIBVIRT else disk.chain.paths
    return Copy(
        item=item,
        source=volume,
        pool=pool.name,
        format=form,
        size=_size(method, total, volume, form),
        total=total,
        method=method,
        reason=way.reason,
        extension=extension(volume.name) if form == same else ".qcow2" if method == LINKED else "",
        overlay_of=(volume.path, same) if method == LINKED else None,
        depends_on=(volume.path, *stands_on) if method == LINKED else stands_on,
        type=pool.volume_type,
        below=disk.chain.volumes if is_flat or method == LIBVIRT else (),
        written=_written(disk, reached, with_chain=is_flat or method == LIBVIRT),
        flat_source=disk.flat_source if is_flat and method == COPY else "",
        note=_note(method, disk, reached, is_flat=is_flat),
    )


def _size(method: str, total: int, volume: VolumeInfo, form: str) -> int:
    """Bytes that a copy occupies, where `total` are handled; `form` is the format that it has."""
    if method == LINKED:
        return qcow2.empty_bytes(volume.capacity, volume.cluster_size)
    if method == REFLINK:
        return _REFLINK_BYTES
    return total + (_IMAGE_GROWTH if form != "raw" else 0)


def _written(disk: SourceDisk, reached: Reach, *, with_chain: bool) -> dict[str, int]:
    """When what is read was last written: the image, and what it stands on where its content is read with that's."""
    image = {disk.volume.path: reached.facts.written} if disk.volume and reached.facts else {}
    return image | (dict(disk.chain.written) if with_chain else {})


def _note(method: str, disk: SourceDisk, reached: Reach, *, is_flat: bool) -> str:
    """What does not travel with the method, and what it does to the source's pool."""
    if disk.volume is not None and disk.volume.type == "network":
        return "Ceph makes it a child of a snapshot of its source, which stays there as long as the clone does"
    if method in (REFLINK, COPY) and not is_flat:
        return ""
    parts = {"internal snapshots": reached.snapshots, "bitmaps": reached.bitmaps}
    lost = [f"{what} ({', '.join(names)})" for what, names in parts.items() if names]
    if method != LINKED and _stands_on_others(disk.chain):
        lost.append("the link to its backing file, whose content is copied")
    told = " and ".join(filter(None, [", ".join(lost[:-1]), *lost[-1:]]))
    return f"not in the clone: {told}" if told else ""


def _flat_size(disk: SourceDisk, volume: VolumeInfo, pool: PoolInfo, form: str) -> int:
    """Bytes that a converted copy occupies: what is stored, not the capacity, except where a pool allots it whole."""
    if pool.volume_type == "network":
        return _SNAPSHOT_BYTES
    if not pool.holds_files:
        return volume.capacity
    if form == "raw":
        return min(disk.stored, -(-volume.capacity // _BLOCK) * _BLOCK)
    full = volume.capacity + qcow2.table_bytes(volume.capacity, volume.cluster_size)
    return min(disk.stored, full) + qcow2.empty_bytes(volume.capacity, volume.cluster_size)


def _action(domain: str, source: SourceDisk) -> tuple[str, str]:
    """What happens to a disk, and why. Raises DiskNotCloneable."""
    disk, volume = source.disk, source.volume
    if not disk.has_source:
        return EMPTY, "an empty drive"
    if disk.readonly or disk.device == "cdrom":
        return SHARE, "read-only"
    if disk.shareable:
        return SHARE, "marked as shareable"
    cause = f"{disk.oddity}: {_DETACH}" if disk.oddity else None
    cause = cause or (_volume_problem(disk, volume) if volume else _no_volume(source)) or source.chain.problem
    cause = cause or contradiction(disk.told_chain, source.chain)
    if cause:
        raise errors.DiskNotCloneable(name=domain, disk=disk.target, cause=cause)
    return CLONE, ""


def _volume_problem(disk: domainxml.Disk, volume: VolumeInfo) -> str | None:
    if volume.encrypted:
        return f"its volume is encrypted, which is not supported yet: {_DETACH}"
    if volume.type not in _IMAGE_TYPES:
        return f"its volume is of type {volume.type}, not a disk image: {_DETACH}"
    stated, found = disk.format or "raw", image_format(volume.format)
    if stated != found:
        # The guest may have written an image header into its own raw disk; to follow it would read files of the host.
        return f"the guest's configuration says {stated}, and libvirt takes the volume for {found}; make them agree"
    return None


def _no_volume(source: SourceDisk) -> str:
    disk = source.disk
    if disk.network is not None and disk.network.protocol == "rbd":
        return f"{disk.network.name} is no volume of an active storage pool; define one of type rbd for its Ceph pool"
    if disk.type not in ("file", "block", "volume"):
        return f"a disk of type {disk.type} is not supported yet: {_DETACH}"
    place = disk.path or f"{disk.pool}/{disk.volume}"
    if source.is_link:
        return f"{place} is a symbolic link that lies in no storage pool: {NAME_FILE}"
    return f"{place} is no volume of an active storage pool, and no file within reach of the server: {_DEFINE}"
