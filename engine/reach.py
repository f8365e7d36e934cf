"""What the server can do itself with an image and a pool, found out without a trace: which methods can serve."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from ..hypervisor.host import PoolInfo, VolumeInfo
from . import files
from .files import FileFacts
from .qcow2 import Header, read_header

REFLINK, COPY, LINKED, LIBVIRT = "reflink", "copy", "linked", "libvirt"

_PLAIN_BYTES = frozenset({"raw", "qcow2", "qcow", "qed", "vdi", "vpc", "vhdx", "luks"})
"""Formats whose image is one file, so that its bytes are all of it. A vmdk may be many."""

_MAY_BE_BACKING = frozenset({"raw", "qcow2"})


@dataclass(frozen=True)
class Reach:
    """For one source and one pool: the methods that cannot serve, with the reason, and the source's file."""

    refusals: Mapping[str, str] = field(default_factory=dict)
    facts: FileFacts | None = None
    snapshots: int = 0


def reach(volume: VolumeInfo, form: str, pool: PoolInfo, *, is_local: bool) -> Reach:
    """Finds out about a source of a format and a pool, both of which may be anywhere."""
    far = _too_far(volume, pool, is_local=is_local)
    facts = files.look(volume.path) if far is None else None
    if far is None and facts is None:
        far = "its file cannot be read by the server"
    if far is not None or facts is None:
        return Reach(_all_but_libvirt(volume, far or ""))
    header = _header(volume.path) if form == "qcow2" else None
    refusals = {}
    image = _image_problem(volume, form, header, pool)
    if image is not None:
        refusals = {REFLINK: image, COPY: image}
    else:
        shared = files.reflink_refusal(volume.path, pool.path)
        refusals = {REFLINK: shared} if shared else {}
        if not _has_qemu_img():
            refusals[COPY] = "qemu-img is not installed (Debian's package qemu-utils)"
    linked = _linked_problem(form, header)
    if linked is not None:
        refusals[LINKED] = linked
    return Reach(refusals | _libvirt_problem(volume), facts, header.snapshots if header else 0)


@cache
def _has_qemu_img() -> bool:
    return shutil.which("qemu-img") is not None


def _all_but_libvirt(volume: VolumeInfo, why: str) -> dict[str, str]:
    linked = None if volume.type in ("file", "block") and volume.format in _MAY_BE_BACKING else why
    found = {REFLINK: why, COPY: why} | ({LINKED: linked} if linked else {})
    return found | _libvirt_problem(volume)


def _libvirt_problem(volume: VolumeInfo) -> dict[str, str]:
    return {} if volume.pool else {LIBVIRT: "its file is no volume of a storage pool"}


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
    if form not in _PLAIN_BYTES:
        return f"an image of format {form} may lie in several files"
    if form != "qcow2":
        return None
    if header is None:
        return "its file is no qcow2 image"
    if header.has_external_data:
        return "its data lies in another file"
    backing = header.backing
    if backing and not os.path.isabs(backing) and os.path.dirname(volume.path) != pool.path:
        return "it names its backing file relative to its own folder"
    return None


def _linked_problem(form: str, header: Header | None) -> str | None:
    if form not in _MAY_BE_BACKING:
        return f"an image of format {form} is not used as backing file"
    if header is not None and header.is_corrupt:
        return "the image is marked as corrupt"
    return None
