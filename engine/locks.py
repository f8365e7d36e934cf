"""Who has an image open, by the locks that QEMU puts on its bytes: whoever runs it, and by whatever path."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from contextlib import suppress

from .opening import open_file

_LOCK = "hhqqi4x"
"""`struct flock` of fcntl(2) on 64 bits: type, whence, start, length, process."""

_WRITERS_BYTE = (101, 1)
"""The byte that QEMU locks in an image which it may write to: RAW_LOCK_PERM_BASE and BLK_PERM_WRITE in its sources."""

_USERS_BYTES = (100, 64)
"""Those of which it locks some in any image that it has open: one for each thing that it may do."""


def has_writer(descriptor: int) -> bool:
    """Whether a QEMU that runs may write to an image."""
    return _is_locked(descriptor, *_WRITERS_BYTE)


def is_written(path: str) -> bool:
    """Whether a QEMU that runs may write to the image at a path."""
    return _is_locked_at(path, *_WRITERS_BYTE)


def is_open(path: str) -> bool:
    """Whether a QEMU that runs has the image at a path open, and be it only to read it as a backing file."""
    return _is_locked_at(path, *_USERS_BYTES)


def _is_locked_at(path: str, start: int, length: int) -> bool:
    """No for what is neither a file nor a block device, or cannot be read. Raises Busy."""
    if path.startswith("/dev/"):  # LVM's names are links to devices
        path = os.path.realpath(path)
    with suppress(OSError, ValueError):
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
            descriptor = open_file(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                return _is_locked(descriptor, start, length)
            finally:
                os.close(descriptor)
    return False


def _is_locked(descriptor: int, start: int, length: int) -> bool:
    """QEMU holds shared locks for what it may do, and leaves it to others whether they ask (block/file-posix.c)."""
    wanted = struct.pack(_LOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    try:
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted)
    except OSError:  # a file system without locks, on which QEMU has none either
        return False
    return bool(struct.unpack(_LOCK, found)[0] != fcntl.F_UNLCK)
