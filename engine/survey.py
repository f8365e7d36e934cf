"""Looks up what a plan needs to know, and nothing else: a few calls per disk, none that grows with the host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from .. import errors
from ..hypervisor.host import DomainInfo, Host, PoolInfo, VolumeInfo
from . import domainxml

FALLBACK_POOL = "default"
_LONGEST_CHAIN = 64


@dataclass(frozen=True)
class SourceDisk:
    """A disk of the source, and the volume that it lies in. `stored` is what its whole chain occupies, in bytes."""

    disk: domainxml.Disk
    volume: VolumeInfo | None
    stored: int
    unrefreshed_pool: str | None = None


@dataclass(frozen=True)
class Survey:
    """What is known about a source when its clone is planned."""

    disks: tuple[SourceDisk, ...]
    pools: Mapping[str, PoolInfo]
    domain: DomainInfo | None = None
    nvram_refusal: str | None = None


def survey_domain(host: Host, name: str, pool: str | None, *, is_local: bool, is_test: bool) -> Survey:
    """Raises DomainNotFound, PoolNotFound."""
    domain = host.domain(name)
    root = domainxml.parse(domain.xml)
    disks = tuple(_source_disk(host, disk) for disk in domainxml.disks(root))
    pools = _pools(host, {item.volume.pool for item in disks if item.volume}, pool)
    nvram = domainxml.nvram(root)
    refusal = None if nvram is None or is_test else _nvram_refusal(nvram, is_local=is_local)
    return Survey(disks, pools, domain, refusal)


def survey_volume(host: Host, pool: str, name: str, target_pool: str | None) -> Survey:
    """Raises PoolNotFound, PoolInactive, VolumeNotFound."""
    volume = host.volume(pool, name)
    disk = domainxml.Disk(
        target="",
        device="disk",
        type="volume",
        format=None,
        path=volume.path,
        pool=pool,
        volume=name,
        has_source=True,
        readonly=False,
        shareable=False,
        oddity=None,
    )
    pools = {wanted: host.pool(wanted) for wanted in {pool, target_pool or pool}}
    return Survey((SourceDisk(disk, volume, _stored(host, volume)),), pools)


def _pools(host: Host, of_disks: set[str], wanted: str | None) -> dict[str, PoolInfo]:
    pools = {name: host.pool(name) for name in of_disks | ({wanted} if wanted else set())}
    if FALLBACK_POOL not in pools:
        with suppress(errors.PoolNotFound):
            pools[FALLBACK_POOL] = host.pool(FALLBACK_POOL)
    return pools


def _source_disk(host: Host, disk: domainxml.Disk) -> SourceDisk:
    if not disk.has_source or disk.readonly or disk.shareable or disk.device == "cdrom":
        return SourceDisk(disk, None, 0)
    volume = _volume_of(host, disk)
    if volume is not None:
        return SourceDisk(disk, volume, _stored(host, volume))
    pool = host.pool_of_folder(os.path.dirname(disk.path)) if disk.path else None
    return SourceDisk(disk, None, 0, pool)


def _volume_of(host: Host, disk: domainxml.Disk) -> VolumeInfo | None:
    if disk.type == "volume" and disk.pool and disk.volume:
        try:
            return host.volume(disk.pool, disk.volume)
        except (errors.PoolNotFound, errors.PoolInactive, errors.VolumeNotFound):
            return None
    return host.volume_at(disk.path) if disk.type in ("file", "block") and disk.path else None


def _stored(host: Host, volume: VolumeInfo) -> int:
    """Bytes that a flat copy of the volume takes; its capacity where a backing file of it is in no pool."""
    stored = volume.allocation
    backing = volume.backing
    for _ in range(_LONGEST_CHAIN):
        if backing is None:
            return stored
        below = host.volume_at(backing)
        if below is None:
            break
        stored += below.allocation
        backing = below.backing
    return volume.capacity


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
