"""Which file system a folder lies on, so that what shares free space is known to share it; and how much that has."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from uuid import UUID

_BTRFS_FS_INFO = 0x8400941F
_INFO_BYTES = 1024
_FSID = slice(16, 32)
"""BTRFS_IOC_FS_INFO of linux/btrfs.h, and the UUID in its answer."""

_ALLOCATION = "/sys/fs/btrfs/{}/allocation"
_KINDS = ("data", "mixed")
_UNCOUNTED = ("bytes_may_use", "bytes_reserved")
"""What btrfs tells of the space for files' data, or for these and its own: what waits to be put on its disk, and what
is being put there (the kernel's fs/btrfs/space-info.c)."""

_APART = 1 << 62
_MOST = _APART - 1


def number(folder: str) -> int:
    """A number of 63 bits that a folder's file system has and no other: its device's, or one made of its UUID.

    The subvolumes of a btrfs have a device number each, and one free space. Raises OSError.
    """
    uuid = _btrfs_uuid(folder)
    return os.stat(folder).st_dev if uuid is None else _APART | (int.from_bytes(uuid[:8], "little") & _MOST)


def available(folder: str) -> int:
    """Bytes that are free where a folder lies. Raises OSError.

    What was written to a btrfs in the last half minute it has yet to put on its disk, and takes it for free until then.
    What a user has mounted by FUSE is closed to root as well, who is told that there is nothing at all.
    """
    room = os.statvfs(folder)
    if not room.f_blocks:
        raise OSError(errno.ENODATA, "It does not say how much room it has", folder)
    uuid = _btrfs_uuid(folder)
    return room.f_bavail * room.f_frsize - (0 if uuid is None else _uncounted(uuid))


def is_read_only(folder: str) -> bool:
    """Whether nobody can write where a folder lies, such as in a snapshot, or what was mounted so.

    A folder that the server alone may not write to is another matter, and so is a mount of its own, as systemd makes
    (ProtectSystem): libvirt may have another of the same file system.
    """
    if os.access(folder, os.W_OK):
        return False
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR))
    except OSError as error:
        return error.errno == errno.EROFS and not _is_of_mount(folder)
    return False


def _is_of_mount(folder: str) -> bool:
    """Whether a folder that cannot be written is so because of its mount alone. Raises OSError."""
    if not os.statvfs(folder).f_flag & os.ST_RDONLY:
        return False
    descriptor = os.open(folder, os.O_PATH)
    try:
        told = Path(f"/proc/self/fdinfo/{descriptor}").read_text("ascii").split()
    finally:
        os.close(descriptor)
    mount = told[told.index("mnt_id:") + 1].encode()
    mounts = map(bytes.split, Path("/proc/self/mountinfo").read_bytes().splitlines())
    return not any(words[0] == mount and b"ro" in words[-1].split(b",") for words in mounts)  # of the file system


def _uncounted(uuid: bytes) -> int:
    """Bytes that a btrfs holds ready for what it has yet to put on its disk."""
    folder, total = _ALLOCATION.format(UUID(bytes=uuid)), 0
    for path in (Path(folder, kind, name) for kind in _KINDS for name in _UNCOUNTED):
        with suppress(OSError, ValueError):  # there is one of the two kinds; in a container there may be neither
            total += int(path.read_text("ascii"))
    return total


def _btrfs_uuid(folder: str) -> bytes | None:
    """None for what is no btrfs, or cannot be looked at. Raises OSError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return None
    try:
        return fcntl.ioctl(descriptor, _BTRFS_FS_INFO, bytes(_INFO_BYTES))[_FSID]
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # it is no btrfs
            return None
        raise
    finally:
        os.close(descriptor)
