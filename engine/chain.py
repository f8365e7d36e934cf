"""The backing files that an image stands on, followed inside libvirt's storage pools and nowhere else.

Whoever can write to an image can write into it that its backing file is /etc/shadow, or that its data lies there, and
QEMU would read that as the disk's content; so does libvirt where a volume is a symbolic link. So a file is opened here
only when libvirt knows it as a volume and it is one, and its format is what the image above it says, never what the
content looks like. An image that leads anywhere else is not cloned at all, by whatever method: its clone would lead
there as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ..hypervisor.infos import VolumeInfo
from . import files
from .domainxml import ToldChain
from .qcow2 import Header, read_header

_LONGEST = 64
PLAIN_BYTES = frozenset({"raw", "qcow2", "qcow", "qed", "vdi", "vpc", "vhdx", "luks"})
"""Formats whose image is one file, so that its bytes are all of it. A vmdk may be many, wherever they are."""

_OUTSIDE = (
    "its backing file {path} is no volume of an active storage pool. Define a pool for its folder, or refresh the pool "
    "that has it (virsh pool-refresh); or rebase the image on something else (qemu-img rebase)"
)
_BESIDE_LINK = (
    "it is named by the symbolic link {link}, and QEMU looks for its backing file beside the link, not beside {path}. "
    "Name {path} instead, or rebase the image on an absolute path (qemu-img rebase)"
)
_ALL_IN_ONE = "convert it to an image that has its data in itself (qemu-img convert)"
_REBASE = "rebase the image on one that is (qemu-img rebase)"
NAME_FILE = "name the file that it leads to instead, and define a pool for its folder"
_DISAGREE = "the guest's configuration {}; make them agree"
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

    volumes: tuple[VolumeInfo, ...] = ()
    """The images as libvirt knows them: all of them where there is no problem."""

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
    volumes: list[VolumeInfo] = []
    written: list[tuple[str, int]] = []
    stored, top, problem = 0, volume, _untrusted(volume, form, is_local=is_local) or _misled(volume, form)
    while problem is None:
        backing, its_form, problem = _below(top, form, is_local=is_local)
        if backing is None:
            break
        images.append(Image(backing, its_form))
        below = find(backing)
        if below is None:
            problem = _OUTSIDE.format(path=backing)
        elif len(images) > _LONGEST:
            problem = f"it stands on more than {_LONGEST} backing files: commit some of them (qemu-img commit)"
        else:
            volumes.append(below)
            problem = _untrusted(below, its_form or below.format, is_local=is_local)
            facts = files.look(below.path) if is_local else None
            stored += facts.occupied if facts else below.allocation
            written += [(backing, facts.written)] if facts else []
            if facts and facts.has_writer:
                problem = f"a QEMU that runs may write to its backing file {backing}; end that first"
            top, form = below, its_form or below.format
    return Chain(tuple(images), stored, tuple(written), problem, tuple(volumes))


def contradiction(told: ToldChain | None, chain: Chain) -> str | None:
    """What a domain says of a disk's backing files and the images do not, in words. QEMU goes by the domain."""
    if told is None:
        return None
    for number, (place, form) in enumerate(told.images):
        image = chain.images[number] if number < len(chain.images) else None
        if image is None or not _is_at(image, chain.volumes[number], place):
            said = f"stands on {image.path}" if image else "stands on nothing more"
            return _DISAGREE.format(f"names {place or 'another'} as a backing file, and the image {said}")
        if None not in (form, image.format) and form != image.format:
            return _DISAGREE.format(f"says {form} of the backing file {place}, and the image {image.format}")
    if told.is_whole and len(told.images) < len(chain.images):
        path = chain.images[len(told.images)].path
        return _DISAGREE.format(f"leaves out the backing file {path}, which the image names")
    return None


def _is_at(image: Image, volume: VolumeInfo, place: str) -> bool:
    if place in (image.path, *volume.places):
        return True
    return os.path.isabs(place) and os.path.realpath(place) == os.path.realpath(image.path)


def _misled(volume: VolumeInfo, form: str) -> str | None:
    """Why the image that a symbolic link leads to stands on another file where QEMU opens it by the link, if so."""
    link = volume.link
    if link is None or form == "raw":
        return None
    by_link, by_path = link.backing, volume.backing  # as libvirt's pools knew them last
    with suppress(OSError):
        header = read_header(volume.path) if form == "qcow2" else None
        if header is not None:
            if header.backing is None or "\0" in header.backing or _URI.match(header.backing):
                return None
            by_link, by_path = (_joined(os.path.dirname(each.path), header.backing) for each in (link, volume))
    if by_link == by_path or (by_link and by_path and os.path.realpath(by_link) == os.path.realpath(by_path)):
        return None
    return _BESIDE_LINK.format(link=link.path, path=volume.path)


def _below(image: VolumeInfo, form: str, *, is_local: bool) -> tuple[str | None, str | None, str | None]:
    """Path and format of an image's backing file, and why there is none to follow though there should be."""
    if form == "raw":  # whatever its content looks like
        return None, None, None
    if not is_local or image.type != "file" or form != "qcow2":
        return image.backing, None, None
    try:
        header = read_header(image.path)
    except OSError:  # as it is for a server that is not root; libvirt's view is of its pool's last refresh
        return image.backing, None, None
    if header is None:
        return None, None, f"{image.path} is said to be a qcow2 image and is none: say what it is instead"
    return _told(image.path, header)


def _told(path: str, header: Header) -> tuple[str | None, str | None, str | None]:
    """What an image says of the files that it needs."""
    if header.has_external_data:
        return None, None, f"the data lies in another file than {path}, wherever that says: {_ALL_IN_ONE}"
    name = header.backing
    if name is None:
        return None, None, None
    if "\0" in name:
        return None, None, f"the name of its backing file in {path} is none that a file can have: {_REBASE}"
    if _URI.match(name):
        return None, None, f"its backing file {name} is no plain file: {_REBASE}"
    return _joined(os.path.dirname(path), name), header.backing_format, None


def _joined(folder: str, name: str) -> str:
    """The path that a name leads to from a folder: where that is a link, its `..` is the one of what it leads to."""
    above, last = os.path.split(os.path.join(folder, name))
    plain = os.path.normpath(above)
    real = os.path.realpath(above)
    return os.path.join(plain if os.path.realpath(plain) == real else real, last)


def _untrusted(volume: VolumeInfo, form: str, *, is_local: bool) -> str | None:
    """Why nothing of a volume may be read, if so."""
    if is_local and is_link(volume):
        return f"{volume.path} is a symbolic link that leads out of libvirt's storage pools: {NAME_FILE}"
    if image_format(form) not in PLAIN_BYTES:
        return f"an image of format {form} may lie in several files, wherever it says; convert it to qcow2 first"
    return None


def image_format(form: str) -> str:
    """libvirt's `format` of a volume as the format of a disk image: what it cannot name, and an ISO, is raw."""
    return "raw" if form in ("unknown", "iso", "none", "") else form


def is_link(volume: VolumeInfo) -> bool:
    """Whether a volume that should be a file is a symbolic link. Those of LVM lie in /dev, and should be links."""
    return volume.type in ("file", "block") and not volume.path.startswith("/dev/") and os.path.islink(volume.path)
