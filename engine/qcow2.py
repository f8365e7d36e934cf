"""What a qcow2 image says of itself: its header, what follows it, and its snapshots' names; no other file is opened.

The layout is that of the specification, docs/interop/qcow2.txt in QEMU. Images come from guests and users, so every
length in them is bounded before it is believed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from .opening import open_file

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES = struct.Struct(">Q")
_FEATURES_AT = 72
_LENGTH = struct.Struct(">I")
_LENGTH_AT = 100
_V2_BYTES = 72
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE = 0x44415441
_BITMAPS = 0x23852875
_AUTOCLEAR_AT = 88
_HAS_BITMAPS = 1 << 0
_EXTERNAL_DATA_FILE = 1 << 2
_CORRUPT = 1 << 1
_LONGEST_BACKING_NAME = 1023
_HEADER_BYTES = 4096
"""As far as the header and its extensions are read; QEMU's own end within some 500 bytes."""

_CAPACITY = struct.Struct(">Q")
_CAPACITY_AT = 24
_SECTOR = 512
_LIBVIRTS_UNIT = 1024
"""What libvirt has qemu-img count an image's size in, rounded up, in bytes; what QEMU counts it in are sectors."""

_USUAL_CLUSTER = 1 << 16
"""What a cluster has where nobody says otherwise, in bytes."""

_EMPTY_BYTES = 1 << 20
"""What an image without data takes where its clusters are usual, rounded up."""

_SNAPSHOT = struct.Struct(">QIHHIIQII")
_MOST_SNAPSHOTS = 100
_SNAPSHOT_BYTES = 1 << 16
_BITMAP_DIRECTORY = struct.Struct(">IIQQ")
_BITMAP = struct.Struct(">QIIBBHI")
_MOST_BITMAPS = 100
_BITMAP_BYTES = 1 << 16


@dataclass(frozen=True)
class Header:
    """`backing` is the name of the backing file as the image has it: relative to the image, absolute, or a URI."""

    version: int
    capacity: int
    backing: str | None
    backing_format: str | None
    snapshots: tuple[str, ...]
    """Names of the internal snapshots; the first hundred, where there are more."""

    has_external_data: bool
    is_corrupt: bool
    bitmaps: tuple[str, ...] = ()
    """Names of its bitmaps, likewise; none where they do not count, because something wrote that knows of none."""

    data_file: str | None = None
    """The name of the file that the data lies in, as the image has it, where it is another one."""


def empty_bytes(capacity: int, cluster: int | None) -> int:
    """What an image takes at most before it has content.

    Its header, what counts its clusters, and its first table are made at once; that table has 8 bytes for each cluster
    of tables, which have 8 bytes for each cluster, or 16 (QEMU, docs/interop/qcow2.rst).
    """
    size = cluster or _USUAL_CLUSTER
    return max(_EMPTY_BYTES, 4 * size + 128 * capacity // size**2)


def table_bytes(capacity: int, cluster: int | None) -> int:
    """What all tables of an image that is full take at most: of each cluster where it lies, and that it is in use."""
    size = cluster or _USUAL_CLUSTER
    return max(capacity // 1024, 18 * capacity // size + 2 * size)


def is_made_exactly(capacity: int) -> bool:
    """Whether an empty image that libvirt makes is as large as a disk of so many bytes is to its guest."""
    return _in_whole(capacity, _SECTOR) == _in_whole(capacity, _LIBVIRTS_UNIT)


def set_capacity(descriptor: int, capacity: int) -> None:
    """Gives an image that libvirt has just made the size of a disk of so many bytes. Raises OSError."""
    os.pwrite(descriptor, _CAPACITY.pack(_in_whole(capacity, _SECTOR)), _CAPACITY_AT)


def _in_whole(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def read_header(path: str) -> Header | None:
    """The header of an image; None if the file is no qcow2 of a known version. Raises OSError and Busy."""
    with open(path, "rb", opener=_not_followed) as file:
        start = file.read(_HEADER_BYTES)
        if len(start) < _FEATURES_AT + _FEATURES.size:
            return None
        magic, version, offset, length, _, capacity, _, _, _, _, _, snapshots, at = _HEADER.unpack_from(start)
        if magic != _MAGIC or version not in (2, 3):
            return None
        features = _FEATURES.unpack_from(start, _FEATURES_AT)[0] if version > 2 else 0  # noqa: PLR2004 - v2 has none
        backing = None
        if offset:
            backing = _read_at(file, offset, min(length, _LONGEST_BACKING_NAME)).decode("utf-8", "replace")
        names = tuple(_snapshot_names(_read_at(file, at, _SNAPSHOT_BYTES), snapshots)) if snapshots else ()
        bitmaps = tuple(_bitmap_names(file, start)) if version > 2 else ()  # noqa: PLR2004
    return Header(
        version=version,
        capacity=capacity,
        backing=backing,
        backing_format=_extension(start, version, _BACKING_FORMAT, "ascii"),
        snapshots=names,
        has_external_data=bool(features & _EXTERNAL_DATA_FILE),
        is_corrupt=bool(features & _CORRUPT),
        bitmaps=bitmaps,
        data_file=_extension(start, version, _DATA_FILE, "utf-8") if features & _EXTERNAL_DATA_FILE else None,
    )


def _not_followed(path: str, flags: int) -> int:
    return open_file(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    try:
        file.seek(offset)
    except (OSError, OverflowError):  # beyond what a file can be
        return b""
    return file.read(length)


def _extension(start: bytes, version: int, wanted: int, encoding: str) -> str | None:
    """The text of a header extension, such as the format that the image says its backing file has."""
    found = _extension_bytes(start, version, wanted)
    return None if found is None else found.decode(encoding, "replace")


def _extension_bytes(start: bytes, version: int, wanted: int) -> bytes | None:
    at = _V2_BYTES if version == 2 else _LENGTH.unpack_from(start.ljust(_HEADER_BYTES, b"\0"), _LENGTH_AT)[0]  # noqa: PLR2004
    while at + _EXTENSION.size <= len(start):
        kind, length = _EXTENSION.unpack_from(start, at)
        if kind == 0:
            break
        at += _EXTENSION.size
        if kind == wanted:
            return start[at : at + length]
        at += _padded(length)
    return None


def _snapshot_names(table: bytes, count: int) -> Iterator[str]:
    at = 0
    for number in range(min(count, _MOST_SNAPSHOTS)):
        if at + _SNAPSHOT.size > len(table):
            yield f"number {number + 1}"  # it is there, and its name is too far away to be looked for
            return
        _, _, id_length, name_length, _, _, _, _, extra = _SNAPSHOT.unpack_from(table, at)
        name = at + _SNAPSHOT.size + extra + id_length
        yield table[name : name + name_length].decode("utf-8", "replace")
        at += _padded(_SNAPSHOT.size + extra + id_length + name_length)


def _bitmap_names(file: BinaryIO, start: bytes) -> Iterator[str]:
    found = _extension_bytes(start, 3, _BITMAPS)
    features = _FEATURES.unpack_from(start.ljust(_HEADER_BYTES, b"\0"), _AUTOCLEAR_AT)[0]
    if found is None or len(found) < _BITMAP_DIRECTORY.size or not features & _HAS_BITMAPS:
        return
    count, _, _, offset = _BITMAP_DIRECTORY.unpack_from(found)
    directory, at = _read_at(file, offset, _BITMAP_BYTES), 0
    for number in range(min(count, _MOST_BITMAPS)):
        if at + _BITMAP.size > len(directory):
            yield f"number {number + 1}"
            return
        *_, name_length, extra = _BITMAP.unpack_from(directory, at)
        name = at + _BITMAP.size + extra
        yield directory[name : name + name_length].decode("utf-8", "replace")
        at += _padded(_BITMAP.size + extra + name_length)


def _padded(length: int) -> int:
    return (length + 7) // 8 * 8
