"""Which file system a folder lies on, so that what shares free space is known to share it."""

from __future__ import annotations

import errno
import fcntl
import os

_BTRFS_FS_INFO = 0x8400941F
_INFO_BYTES = 1024
_FSID = slice(16, 24)
"""BTRFS_IOC_FS_INFO of linux/btrfs.h, and the first half of the UUID in its answer."""

_APART = 1 << 62
_MOST = _APART - 1


def number(folder: str) -> int:
    """A number of 63 bits that a folder's file system has and no other: its device's, or one made of its UUID.

    The subvolumes of a btrfs have a device number each, and one free space. Raises OSError.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return os.stat(folder).st_dev
    try:
        return _btrfs_number(descriptor) or os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def _btrfs_number(descriptor: int) -> int | None:
    try:
        answer = fcntl.ioctl(descriptor, _BTRFS_FS_INFO, bytes(_INFO_BYTES))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # it is no btrfs
            return None
        raise
    return _APART | (int.from_bytes(answer[_FSID], "little") & _MOST)
