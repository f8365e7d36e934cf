"""Looks up what a plan needs to know, and nothing else: a few calls per disk, none that grows with the host."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from .. import errors
from ..hypervisor.host import DomainInfo, Host, PoolInfo, VolumeInfo
from . import domainxml, files
from .qcow2 import read_header
from .reach import Reach, reach
from .xmltree import parse

FALLBACK_POOL = "default"
_LONGEST_CHAIN = 64


@dataclass(frozen=True)
class SourceDisk:
    """A disk of the source, and the volume that it lies in. `stored` is what its whole chain occupies, in bytes.

    A file that no pool knows is described as a volume whose pool is ''.
    """

    disk: domainxml.Disk
    volume: VolumeInfo | None
    stored: int
    reach: Mapping[str, Reach] = field(default_factory=dict)
    """By pool that it could be cloned into, what the server can do itself."""

    chain: tuple[str, ...] = ()
    """Paths of its backing files, the nearest first."""


@dataclass(frozen=True)
class Survey:
    """What is known about a source when its clone is planned."""

    disks: tuple[SourceDisk, ...]
    pools: Mapping[str, PoolInfo]
    domain: DomainInfo | None = None
    nvram_refusal: str | None = None


class Surveyor:
    """Looks a source up on one host. `is_local` says whether the server sees libvirt's files as its own."""

    def __init__(self, host: Host, *, is_local: bool, is_test: bool) -> None:
        self._host = host
        self._is_local = is_local
        self._is_test = is_test

    def domain(self, name: str, pool: str | None) -> Survey:
        """Raises DomainNotFound, PoolNotFound."""
        domain = self._host.domain(name)
        root = parse(domain.xml)
        found = [(disk, self._volume_of(disk)) for disk in domainxml.disks(root)]
        pools = self._pools({volume.pool for _, volume in found if volume and volume.pool}, pool)
        disks = tuple(self._source_disk(disk, volume, pool, pools) for disk, volume in found)
        nvram = domainxml.nvram(root)
        refusal = None if nvram is None or self._is_test else _nvram_refusal(nvram, is_local=self._is_local)
        return Survey(disks, pools, domain, refusal)

    def volume(self, pool: str, name: str, target_pool: str | None) -> Survey:
        """Raises PoolNotFound, PoolInactive, VolumeNotFound."""
        volume = self._host.volume(pool, name)
        wanted = target_pool or pool
        pools = {each: self._host.pool(each) for each in {pool, wanted}}
        return Survey((self._source_disk(_as_disk(volume), volume, wanted, pools),), pools)

    def _pools(self, of_disks: set[str], wanted: str | None) -> dict[str, PoolInfo]:
        pools = {name: self._host.pool(name) for name in of_disks | ({wanted} if wanted else set())}
        if FALLBACK_POOL not in pools and wanted is None:
            with suppress(errors.PoolNotFound):
                pools[FALLBACK_POOL] = self._host.pool(FALLBACK_POOL)
        return pools

    def _source_disk(
        self, disk: domainxml.Disk, volume: VolumeInfo | None, wanted: str | None, pools: Mapping[str, PoolInfo]
    ) -> SourceDisk:
        if volume is None:
            return SourceDisk(disk, None, 0)
        form = disk.format or volume.format
        there = [pools[name] for name in candidates(volume, wanted) if name in pools]
        reached = {pool.name: reach(volume, form, pool, is_local=self._is_local) for pool in there if pool.is_active}
        stored, chain = self._stored(volume)
        return SourceDisk(disk, volume, stored, reached, chain)

    def _volume_of(self, disk: domainxml.Disk) -> VolumeInfo | None:
        """The volume of a disk that is to be cloned."""
        if not disk.has_source or disk.readonly or disk.shareable or disk.device == "cdrom":
            return None
        if disk.type == "volume" and disk.pool and disk.volume:
            with suppress(errors.PoolNotFound, errors.PoolInactive, errors.VolumeNotFound):
                return self._host.volume(disk.pool, disk.volume)
            return None
        if disk.type not in ("file", "block") or not disk.path:
            return None
        return self._host.volume_at(disk.path) or (_loose_file(disk) if self._is_local else None)

    def _stored(self, volume: VolumeInfo) -> tuple[int, tuple[str, ...]]:
        """Bytes that a flat copy of the volume takes, and the paths of its backing files.

        It is its capacity where a backing file is in no pool, so that nobody can tell what that holds.
        """
        chain: list[str] = []
        stored, backing = volume.allocation, volume.backing
        while backing is not None and len(chain) < _LONGEST_CHAIN:
            chain.append(backing)
            below = self._host.volume_at(backing)
            if below is None:
                return volume.capacity, tuple(chain)
            stored, backing = stored + below.allocation, below.backing
        return stored, tuple(chain)


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
    )


def _loose_file(disk: domainxml.Disk) -> VolumeInfo | None:
    """A disk's file that no pool knows. Its format is what the domain says; no content is asked for that."""
    path = disk.path or ""
    facts = files.look(path)
    if facts is None:
        return None
    form = disk.format or "raw"
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


def _nvram_refusal(path: str, *, is_local: bool) -> str | None:
    """Why the UEFI variables cannot be copied, if so."""
    if not path:
        return "its NVRAM is not a file"
    if not is_local:
        return "its NVRAM lies on another host, where it cannot be copied"
    if os.path.exists(path) and not os.access(path, os.R_OK):
        return f"its NVRAM {path} cannot be read by the server"
    folder = os.path.dirname(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder of its NVRAM {path} cannot be written by the server"
    return None
