"""The backing files that an image stands on, followed inside libvirt's storage pools and nowhere else.

Whoever can write to an image can write into it that its backing file is /etc/shadow, and QEMU would read that as the
disk's content. So a file is opened here only when libvirt knows it as a volume, and its format is what the image above
it says, never what the content looks like.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..hypervisor.host import VolumeInfo
from . import files
from .qcow2 import Header, read_header

_LONGEST = 64
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True)
class Image:
    """A file and the format that it is to be read as; None where nobody says."""

    path: str
    format: str | None


@dataclass(frozen=True)
class Chain:
    """The backing files of an image, the nearest first."""

    images: tuple[Image, ...] = ()
    stored: int = 0
    """Bytes that they occupy together."""

    written: tuple[tuple[str, int], ...] = ()
    """Path of each that the server can see, and when it was last written, in ns."""

    problem: str | None = None
    """Why the chain cannot be followed to its end, in words."""

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(image.path for image in self.images)

    @property
    def untold(self) -> str | None:
        """A backing file whose format its overlay does not tell, in words."""
        path = next((image.path for image in self.images if image.format is None), None)
        return None if path is None else f"nothing says what format its backing file {path} has"


def follow(volume: VolumeInfo, form: str, find: Callable[[str], VolumeInfo | None], *, is_local: bool) -> Chain:
    """The chain below a volume that is read as `form`.

    Args:
        volume: the image on top.
        form: its format, as the domain or the pool has it.
        find: the volume at a path, of any active pool.
        is_local: whether the server sees the images, and so what they say; else libvirt tells what its pools knew last.
    """
    images: list[Image] = []
    written: list[tuple[str, int]] = []
    stored, top, problem = 0, volume, None
    while problem is None:
        backing, its_form, problem = _below(top, form, is_local=is_local)
        if backing is None:
            break
        images.append(Image(backing, its_form))
        below = find(backing)
        if below is None:
            problem = f"its backing file {backing} is no volume of an active storage pool"
        elif len(images) > _LONGEST:
            problem = f"it stands on more than {_LONGEST} backing files"
        else:
            facts = files.look(below.path) if is_local else None
            stored += facts.occupied if facts else below.allocation
            written += [(backing, facts.written)] if facts else []
            top, form = below, its_form or below.format
    return Chain(tuple(images), stored, tuple(written), problem)


def _below(image: VolumeInfo, form: str, *, is_local: bool) -> tuple[str | None, str | None, str | None]:
    """Path and format of an image's backing file, and why there is none to follow though there should be."""
    if form == "raw":  # whatever its content looks like
        return None, None, None
    if not is_local or image.type != "file" or form != "qcow2":
        return image.backing, None, None
    header = _header(image.path)
    if header is None or header.backing is None:
        return None, None, None
    name = header.backing
    if _URI.match(name):
        return None, None, f"its backing file {name} is no plain file"
    return os.path.normpath(os.path.join(os.path.dirname(image.path), name)), header.backing_format, None


def _header(path: str) -> Header | None:
    try:
        return read_header(path)
    except OSError:
        return None
