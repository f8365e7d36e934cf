"""What a qcow2 image says of itself in its header, and nothing beyond: no table is followed, no other file opened.

The layout is that of the specification, docs/interop/qcow2.txt in QEMU.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES = struct.Struct(">Q")
_FEATURES_AT = 72
_EXTERNAL_DATA_FILE = 1 << 2
_CORRUPT = 1 << 1
_LONGEST_BACKING_NAME = 1023


@dataclass(frozen=True)
class Header:
    """`backing` is the name of the backing file as the image has it: relative to the image, absolute, or a URI."""

    version: int
    capacity: int
    backing: str | None
    snapshots: int
    has_external_data: bool
    is_corrupt: bool


def read_header(path: str) -> Header | None:
    """The header of an image; None if the file is no qcow2 of a known version. Raises OSError."""
    with open(path, "rb") as file:
        start = file.read(_FEATURES_AT + _FEATURES.size)
        if len(start) < _FEATURES_AT + _FEATURES.size:
            return None
        magic, version, offset, length, _, capacity, _, _, _, _, _, snapshots, _ = _HEADER.unpack_from(start)
        if magic != _MAGIC or version not in (2, 3):
            return None
        features = _FEATURES.unpack_from(start, _FEATURES_AT)[0] if version > 2 else 0  # noqa: PLR2004 - v2 has none
        backing = None
        if offset:
            file.seek(offset)
            backing = file.read(min(length, _LONGEST_BACKING_NAME)).decode("utf-8", "replace")
    return Header(
        version, capacity, backing, snapshots, bool(features & _EXTERNAL_DATA_FILE), bool(features & _CORRUPT)
    )
