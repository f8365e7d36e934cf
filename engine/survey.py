"""Looks up what a plan needs to know, and nothing else: a few calls per disk, none that grows with the host."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from .. import errors
from ..hypervisor.host import Host
from ..hypervisor.infos import DomainInfo, PoolInfo, VolumeInfo
from ..hypervisor.places import Places
from . import domainxml, files, locks, qemuimg
from .chain import Chain, Image, follow, image_format, is_link
from .ownfiles import own_files, problems
from .qcow2 import read_header
from .reach import COPY, LIBVIRT, REFLINK, Reach, reach

FALLBACK_POOL = "default"

_READ_BY_LIBVIRT = frozenset({"qcow", "qed"})
"""Formats whose images may stand on others, and which of them only libvirt's pools tell."""


@dataclass(frozen=True)
class SourceDisk:
    """A disk of the source, and the volume that it lies in. `stored` is what a flat copy of it occupies, in bytes.

    A file that no pool knows is described as a volume whose pool is ''.
    """

    disk: domainxml.Disk
    volume: VolumeInfo | None
    stored: int
    reach: Mapping[str, Reach] = field(default_factory=dict)
    """By pool that it could be cloned into, what the server can do itself."""

    chain: Chain = field(default_factory=Chain)
    """The backing files that it stands on."""

    flat_source: str = ""
    """What qemu-img reads where the clone is to be flat; '' where it is not, or cannot be."""

    is_link: bool = False
    """Whether what the guest names is a symbolic link that no pool knows."""

    is_written: bool = False
    """Whether a QEMU that runs may write to it: of a block device, of which `reach` does not tell."""

    @property
    def has_writer(self) -> bool:
        """Whether a QEMU that runs may write to it, as far as the server can see that."""
        return self.is_written or any(each.facts is not None and each.facts.has_writer for each in self.reach.values())


@dataclass(frozen=True)
class Survey:
    """What is known about a source when its clone is planned."""

    disks: tuple[SourceDisk, ...]
    pools: Mapping[str, PoolInfo]
    domain: DomainInfo | None = None
    places: Places = field(default_factory=Places)
    refusals: tuple[str, ...] = ()
    """Why its NVRAM or TPM state cannot be copied."""

    not_made: frozenset[str] = frozenset()
    """Where they would lie and do not: libvirt makes them when a guest starts for the first time."""


class Surveyor:
    """Looks a source up on one host.

    Args:
        host: the host.
        is_local: whether the server sees libvirt's files as its own.
        is_test: whether it is libvirt's test driver, which has no files at all.
        places: where libvirt keeps a domain's own files.
        max_chain: how many backing files a linked clone may stand on.
    """

    def __init__(self, host: Host, *, is_local: bool, is_test: bool, places: Places, max_chain: int) -> None:
        self._host = host
        self._is_local = is_local
        self._is_test = is_test
        self._places = places
        self._max_chain = max_chain

    def domain(self, name: str, pool: str | None, method: str = "auto", *, flatten: bool = False) -> Survey:
        """Raises DomainNotFound, PoolNotFound."""
        with self._host.together():
            domain = self._host.source(name)
            root = domain.tree
            found = [(disk, self._volume_of(disk)) for disk in domainxml.disks(root)]
            pools = self._pools({volume.pool for _, volume in found if volume and volume.pool}, pool)
        disks = tuple(
            self._source_disk(
                disk,
                volume,
                [pools[each] for each in candidates(volume, pool) if each in pools],
                method,
                flatten=flatten,
            )
            if volume
            else SourceDisk(disk, None, 0, is_link=self._is_local and os.path.islink(disk.path or ""))
            for disk, volume in found
        )
        is_local = self._is_local and not any(volume and is_elsewhere(self._host, volume) for _, volume in found)
        refusals = () if self._is_test else tuple(problems(root, self._places, is_local=is_local))
        own = own_files(root, self._places)
        paths = filter(None, (own.nvram, own.tpm) if is_local else ())
        not_made = frozenset(path for path in paths if not os.path.lexists(path))
        return Survey(disks, pools, domain, self._places, refusals, not_made)

    def volume(
        self, pool: str, name: str, target_pool: str | None, method: str = "auto", *, flatten: bool = False
    ) -> Survey:
        """Raises PoolNotFound, PoolInactive, VolumeNotFound."""
        volume = self._led_to(self._host.volume(pool, name))
        wanted = self._host.target(target_pool or pool)
        disk = self._source_disk(_as_disk(volume), volume, [wanted], method, flatten=flatten)
        return Survey((disk,), {wanted.name: wanted})

    def _pools(self, of_disks: set[str], wanted: str | None) -> dict[str, PoolInfo]:
        pools = {name: self._host.target(name) for name in of_disks | ({wanted} if wanted else set())}
        if FALLBACK_POOL not in pools and wanted is None:
            with suppress(errors.PoolNotFound):
                pools[FALLBACK_POOL] = self._host.target(FALLBACK_POOL)
        return pools

    def _source_disk(
        self, disk: domainxml.Disk, volume: VolumeInfo, pools: Sequence[PoolInfo], method: str, *, flatten: bool
    ) -> SourceDisk:
        form = image_format(disk.format or volume.format)
        is_local = self._is_local
        chain = follow(volume, form, self._host.volume_at, is_local=is_local)
        if is_local and any(is_elsewhere(self._host, each) for each in (volume, *chain.volumes)):
            is_local = False
            chain = follow(volume, form, self._host.volume_at, is_local=False)
        found = {
            pool.name: reach(volume, form, pool, chain, is_local=is_local, max_chain=self._max_chain)
            for pool in pools
            if pool.is_active
        }
        stored = volume.capacity if chain.problem else volume.allocation + chain.stored
        is_written = self._is_local and volume.type == "block" and locks.is_written(volume.path)
        known = SourceDisk(disk, volume, stored, found, chain, is_written=is_written)
        if flatten and chain.images and not all(COPY in each.flat_refusals for each in found.values()):
            return _measured(known)
        of_files = [found[pool.name] for pool in pools if pool.name in found and pool.holds_files]
        return _unpacked(known) if _is_libvirts(known, of_files, method) else known

    def _volume_of(self, disk: domainxml.Disk) -> VolumeInfo | None:
        """The volume of a disk that is to be cloned."""
        if not disk.has_source or disk.readonly or disk.shareable or disk.device == "cdrom":
            return None
        if disk.type == "volume" and disk.pool and disk.volume:
            with suppress(errors.PoolNotFound, errors.PoolInactive, errors.VolumeNotFound):
                return self._led_to(self._host.volume(disk.pool, disk.volume))
            return None
        if disk.type == "network":
            return network_volume(self._host, disk)
        if disk.type not in ("file", "block") or not disk.path:
            return None
        volume = self._host.volume_behind(disk.path) or (_loose_file(disk) if self._is_local else None)
        return volume and self._led_to(volume)

    def _led_to(self, volume: VolumeInfo) -> VolumeInfo:
        """The volume that one is a symbolic link to; the link itself, which is not followed, where that is none."""
        if not self._is_local or not is_link(volume):
            return volume
        real = self._host.volume_at(os.path.realpath(volume.path))
        return replace(real, link=volume) if real else volume


def is_elsewhere(host: Host, volume: VolumeInfo) -> bool:
    """As `files` has it; looked at once more, since its file may have changed in between."""
    if not files.is_elsewhere(volume):
        return False
    now = host.volume_at(volume.path)
    return now is not None and files.is_elsewhere(now)


def _measured(source: SourceDisk) -> SourceDisk:
    """The disk with what qemu-img reads to flatten it, and what that takes: stored may be less, with compression."""
    volume = source.volume
    if volume is None:
        return source
    flat_source = _flat_source(source, volume)
    try:
        stored = _measure(source, volume)
    except errors.StepFailed as error:
        why = {COPY: f"its size cannot be told: {error.data['cause']}"}
        found = {
            name: replace(each, flat_refusals={**each.flat_refusals, **why}) for name, each in source.reach.items()
        }
        return replace(source, reach=found)
    return replace(source, stored=stored, flat_source=flat_source)


def _is_libvirts(source: SourceDisk, of_files: Sequence[Reach], method: str) -> bool:
    """Whether libvirt may make a flat image of one that can be measured, in pools of files: others allot it whole."""
    volume, chain = source.volume, source.chain
    if volume is None or (source.disk.format or volume.format) != "qcow2" or method not in ("auto", LIBVIRT):
        return False
    if chain.problem or chain.untold or any(each.type != "file" for each in (volume, *chain.volumes)):
        return False
    left = [each for each in of_files if method == LIBVIRT or {REFLINK, COPY} <= each.refusals.keys()]
    return any(each.facts for each in left) and qemuimg.is_installed()


def _unpacked(source: SourceDisk) -> SourceDisk:
    """The disk with what its data takes without compression and in clusters, which may be many times what is stored."""
    if source.volume is not None:
        with suppress(errors.StepFailed):
            return replace(source, stored=_measure(source, source.volume))
    return source


def _measure(source: SourceDisk, volume: VolumeInfo) -> int:
    """Bytes that a flat copy takes. Raises StepFailed."""
    options = [f"cluster_size={volume.cluster_size}"] if volume.cluster_size else []
    options += ["extended_l2=on"] if "extended_l2" in volume.features else []
    return qemuimg.measure(_flat_source(source, volume), source.disk.format or volume.format, options)


def _flat_source(source: SourceDisk, volume: VolumeInfo) -> str:
    return qemuimg.flat_source([Image(volume.path, source.disk.format or volume.format), *source.chain.images])


def network_volume(host: Host, disk: domainxml.Disk) -> VolumeInfo | None:
    """The volume that an image in Ceph is in a pool of libvirt's: its path there is `<Ceph pool>/<image>`.

    None for any other disk, whatever its name looks like, and for an image of that name on other monitors.
    """
    if disk.network is None or disk.network.protocol != "rbd":
        return None
    volume = host.volume_at(disk.network.name)
    if volume is None or volume.type != "network":
        return None
    monitors = set(host.pool_hosts(volume.pool))
    return volume if not (monitors and disk.network.hosts) or monitors & set(disk.network.hosts) else None


def candidates(volume: VolumeInfo, wanted: str | None) -> Sequence[str]:
    """Pools for a clone, in the order in which they are tried."""
    if wanted is not None:
        return (wanted,)
    return tuple(dict.fromkeys(name for name in (volume.pool, FALLBACK_POOL) if name))


def _as_disk(volume: VolumeInfo) -> domainxml.Disk:
    return domainxml.Disk(
        target="",
        device="disk",
        type="volume",
        format=None,
        path=volume.path,
        pool=volume.pool,
        volume=volume.name,
        has_source=True,
        readonly=False,
        shareable=False,
        oddity=None,
        network=None,
    )


def _loose_file(disk: domainxml.Disk) -> VolumeInfo | None:
    """A disk's file that no pool knows. Its format is what the domain says; no content is asked for that."""
    path = disk.path or ""
    form = disk.format or "raw"
    facts = files.look(path) if form not in _READ_BY_LIBVIRT else None
    if facts is None:
        return None
    try:
        header = read_header(path) if form == "qcow2" else None
    except OSError:
        return None
    return VolumeInfo(
        pool="",
        name=os.path.basename(path),
        path=path,
        type="file",
        format=form,
        capacity=header.capacity if header else facts.length,
        allocation=facts.occupied,
        compat=None if header is None or header.version == 2 else "1.1",  # noqa: PLR2004 - qcow2's version
        features=(),
        cluster_size=None,
        backing=header.backing if header else None,
        encrypted=False,
        changed=None,
    )
