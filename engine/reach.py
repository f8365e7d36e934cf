"""What the server can do itself with an image and a pool, found out without a trace: which methods can serve."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from ..hypervisor.infos import PoolInfo, VolumeInfo
from . import files, qemuimg
from .chain import PLAIN_BYTES, Chain
from .duplicating import occupied_in_blocks
from .files import FileFacts
from .qcow2 import Header, is_made_exactly, read_header

REFLINK, COPY, LINKED, LIBVIRT = "reflink", "copy", "linked", "libvirt"

_MAY_BE_BACKING = frozenset({"raw", "qcow2"})


_KEEPS_LINK = "it would keep the link to the backing file, and flatten was asked for"
_ROUNDED_UP = "libvirt makes it of whole KiB, as its source is not, and the server may not write the pool's files"
_MAY_BE_RELATIVE = "it may name its backing file relative to its own folder"
_NO_QEMU_IMG = "qemu-img is not installed (Debian's package qemu-utils)"


@dataclass(frozen=True)
class Reach:
    """For one source and one pool: the methods that cannot serve, with the reason, and the source's file."""

    refusals: Mapping[str, str] = field(default_factory=dict)
    flat_refusals: Mapping[str, str] = field(default_factory=dict)
    """The same where the clone is to have no backing file."""

    facts: FileFacts | None = None
    """Of a source that the server can read, whoever copies it. What it occupies is what its copy by us will."""

    snapshots: tuple[str, ...] = ()
    """Names of the image's internal snapshots."""

    bitmaps: tuple[str, ...] = ()
    """Names of its bitmaps, as backups have them."""


def reach(
    volume: VolumeInfo, form: str, pool: PoolInfo, chain: Chain, *, is_local: bool, max_chain: int = 1 << 10
) -> Reach:
    """Finds out about a source of a format and a pool, both of which may be anywhere.

    Args:
        volume: the source.
        form: its format, as the domain or the pool has it.
        pool: where the clone would go.
        chain: the backing files that the source stands on.
        is_local: whether the server sees libvirt's files as its own.
        max_chain: how many backing files a linked clone may stand on.
    """
    far = _too_far(volume, pool, is_local=is_local)
    facts = files.look(volume.path) if is_local and volume.type == "file" else None
    if far is None and facts is None:
        far = "its file cannot be read by the server"
    refusals = _followed(volume, pool, chain, max_chain) | _rounded(volume, pool, is_local=is_local)
    header = _header(volume.path) if facts and form == "qcow2" else None
    inside = (header.snapshots, header.bitmaps) if header else ((), ())
    if far is not None or facts is None:
        plain = _all_but_libvirt(volume, far or "") | refusals
        return Reach(plain, _flat(plain, far or "", chain), facts, *inside)
    image = _image_problem(volume, form, header, pool)
    shared = image or files.reflink_refusal(volume.path, pool.path)
    linked = _linked_problem(form, header)
    found = {REFLINK: shared, COPY: image} | ({LINKED: linked} if linked else {})
    plain = {method: why for method, why in found.items() if why} | refusals
    flat = _flat(plain, _whole_problem(form, header), chain)
    return Reach(plain, flat, _there(volume.path, facts, pool.path), *inside)


def _there(path: str, facts: FileFacts, folder: str) -> FileFacts:
    """The facts of a file's copy in a folder, whose file system may have larger blocks."""
    with suppress(OSError), files.opened(path, os.O_RDONLY) as descriptor:
        block = os.statvfs(folder).f_frsize
        if block > os.fstatvfs(descriptor).f_frsize:
            return replace(facts, occupied=max(facts.occupied, occupied_in_blocks(descriptor, block)))
    return facts


def _followed(volume: VolumeInfo, pool: PoolInfo, chain: Chain, max_chain: int) -> dict[str, str]:
    """Methods that have libvirt or QEMU open what the source stands on, or that would stand on too much themselves."""
    refusals = _libvirt_problem(volume, pool)
    if chain.problem:
        refusals |= {LIBVIRT: chain.problem, LINKED: chain.problem}
    elif len(chain.images) >= max_chain:
        deep = f"it would stand on {len(chain.images) + 1} backing files, and max_chain allows {max_chain}"
        refusals |= {LINKED: deep}
    return refusals


def _rounded(volume: VolumeInfo, pool: PoolInfo, *, is_local: bool) -> dict[str, str]:
    can_mend = is_local and pool.holds_files and files.can_write(pool.path)
    return {} if can_mend or is_made_exactly(volume.capacity) else {LINKED: _ROUNDED_UP}


def _flat(plain: Mapping[str, str], whole: str | None, chain: Chain) -> dict[str, str]:
    """What cannot serve where the backing files' content has to be in the clone."""
    copy = whole or chain.problem or chain.untold or (None if qemuimg.is_installed() else _NO_QEMU_IMG)
    found = {REFLINK: _KEEPS_LINK, LINKED: _KEEPS_LINK, COPY: copy, LIBVIRT: plain.get(LIBVIRT)}
    return {method: why for method, why in found.items() if why}


def _all_but_libvirt(volume: VolumeInfo, why: str) -> dict[str, str]:
    linked = None if volume.type in ("file", "block") and volume.format in _MAY_BE_BACKING else why
    return {REFLINK: why, COPY: why} | ({LINKED: linked} if linked else {})


def _libvirt_problem(volume: VolumeInfo, pool: PoolInfo) -> dict[str, str]:
    if not volume.pool:
        return {LIBVIRT: "its file is no volume of a storage pool"}
    if "network" in (volume.type, pool.volume_type) and volume.pool != pool.name:
        return {LIBVIRT: f"a volume of type {volume.type} cannot leave or enter a pool of type {pool.type}"}
    return {}


def _too_far(volume: VolumeInfo, pool: PoolInfo, *, is_local: bool) -> str | None:
    if not is_local:
        return "libvirt's files are not within reach of the server"
    if volume.type != "file":
        return f"the source is a {volume.type} device"
    if not pool.holds_files:
        return f"a storage pool of type {pool.type} holds no files"
    if not files.can_write(pool.path):
        return "the server may not write the pool's files"
    return None


def _header(path: str) -> Header | None:
    try:
        return read_header(path)
    except OSError:
        return None


def _image_problem(volume: VolumeInfo, form: str, header: Header | None, pool: PoolInfo) -> str | None:
    """Why the image's file is not all of the image, if so."""
    if form not in PLAIN_BYTES:
        return f"an image of format {form} may lie in several files"
    is_beside = os.path.dirname(volume.path) == pool.path
    if form != "qcow2":  # what libvirt tells of is a whole path in any case
        return None if form == "raw" or not volume.backing or is_beside else _MAY_BE_RELATIVE
    if header is None:
        return "its file is no qcow2 image"
    if header.has_external_data:
        return "its data lies in another file"
    if header.backing and not os.path.isabs(header.backing) and not is_beside:
        return "it names its backing file relative to its own folder"
    return None


def _whole_problem(form: str, header: Header | None) -> str | None:
    """Why an image cannot be read as what it is, on its backing files, if so."""
    if form != "qcow2" or header is None:
        return f"its file is no qcow2 image, and an image of format {form} is not flattened"
    return "its data lies in another file" if header.has_external_data else None


def _linked_problem(form: str, header: Header | None) -> str | None:
    if form not in _MAY_BE_BACKING:
        return f"an image of format {form} is not used as backing file"
    if header is not None and header.is_corrupt:
        return "the image is marked as corrupt"
    return None
