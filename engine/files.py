"""What the server itself can do with the files of volumes: look, copy, clone, remove, and know its own again."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .. import errors
from ..hypervisor.infos import VolumeInfo
from . import locks
from .opening import open_file

_FICLONE = 0x40049409
_FICLONERANGE = 0x4020940D
_MOST_TO_CLEAR = 1 << 20
_PIECE_BYTES = 1 << 16
_GET_GENERATION = 0x80087601
_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820
_ATTRIBUTES = struct.Struct("=5I8s")
"""`struct fsxattr` of ioctl_xfs_fsgetxattr(2): flags, extent size hint, and what is left as it is."""

_HAS_EXTENT_SIZE = 0x800
_ROUNDED_US = 2
"""How far off a time in µs may be that went through a floating-point number."""

_NO_REFLINK = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EISDIR}


class Unseen(errors.StepFailed):
    """What lies at a path cannot be told for now: a folder was closed to the server, or a file server is away."""


@dataclass(frozen=True)
class FileFacts:
    """A file as it is: its identity, its length and what it occupies in bytes, and when it was last written in ns."""

    device: int
    inode: int
    length: int
    occupied: int
    written: int
    has_writer: bool = False
    """Whether a QEMU that runs may write to it, of whomever and by whatever path."""


def look(path: str) -> FileFacts | None:
    """The facts of a regular file that the server can read; None for anything else."""
    with suppress(OSError):
        return examine(path)
    return None


def examine(path: str) -> FileFacts:
    """The facts of a regular file. Raises OSError for anything else, and for one that cannot be read."""
    with _opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "It is no regular file", path)
        has_writer = locks.has_writer(descriptor)
    size, occupied = status.st_size, status.st_blocks * 512
    return FileFacts(status.st_dev, status.st_ino, size, occupied, status.st_mtime_ns, has_writer)


@contextmanager
def opened(path: str, flags: int) -> Iterator[int]:
    """A regular file, for as long as the block takes; no symbolic link is followed. Raises OSError."""
    with _opened(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "It is no regular file", path)
        yield descriptor


@contextmanager
def _opened(path: str, flags: int, mode: int = 0o600) -> Iterator[int]:
    descriptor = open_file(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_elsewhere(volume: VolumeInfo) -> bool:
    """Whether libvirt's file at a volume's path is another than the server's: in a container, say, or by a tunnel.

    Their inodes have changed at different times then. No where there is none here, or libvirt does not tell.
    """
    if volume.type != "file" or volume.changed is None:
        return False
    try:
        changed = os.stat(volume.path).st_ctime_ns // 1000
    except (OSError, ValueError):
        return False
    return abs(changed - volume.changed) > _ROUNDED_US


def can_write(folder: str) -> bool:
    """Whether the server can write the files of a folder: those of libvirt are their owner's alone, so as root."""
    return os.geteuid() == 0 and os.access(folder, os.W_OK | os.X_OK)


def reflink_refusal(source: str, folder: str) -> str | None:
    """Why a file cannot be cloned into a folder by its file system; None if it can.

    Tried for real, on the first block and a file without a name, since neither the file system's type nor its device
    number tells: XFS may be made without, btrfs refuses across files with and without copy on write.
    """
    try:
        with _opened(source, os.O_RDONLY | os.O_NOFOLLOW) as reader:
            return _sharing_refusal(reader, folder)
    except OSError as error:
        return f"its file cannot be read: {error.strerror}"


def _sharing_refusal(reader: int, folder: str) -> str | None:
    try:
        block = os.fstatvfs(reader).f_frsize  # file systems share whole blocks, of 64 KiB some
        with _opened(folder, os.O_TMPFILE | os.O_RDWR) as writer:
            if os.fstat(reader).st_size >= block:
                fcntl.ioctl(writer, _FICLONERANGE, _range(reader, block))
            else:
                fcntl.ioctl(writer, _FICLONE, reader)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return "the file system cannot share blocks between the two files"
        return f"a file cannot be cloned into the pool's folder: {error.strerror}"
    return None


def _range(descriptor: int, length: int) -> bytes:
    """`struct file_clone_range` of ioctl_ficlonerange(2), from the start to the start."""
    return b"".join(number.to_bytes(8, "little", signed=True) for number in (descriptor, 0, length, 0))


def reflink(source: str, target: str, known: Mapping[str, int]) -> None:
    """Makes our file `target` share all of another's blocks; at any size, and independent from then on. OSError."""
    with opened(source, os.O_RDONLY) as reader, opened_own(target, known) as writer:
        if os.fstat(writer).st_size > os.fstat(reader).st_size:  # what is longer keeps its end
            os.ftruncate(writer, 0)
        fcntl.ioctl(writer, _FICLONE, reader)


@contextmanager
def opened_own(path: str, known: Mapping[str, int]) -> Iterator[int]:
    """A file that we made, to be written. Raises OSError unless it has the identity that is given, to the end."""
    with opened(path, os.O_RDWR) as descriptor:
        if known and _differ(_identity(descriptor, os.fstat(descriptor)), known):
            raise OSError(errno.ESTALE, "It was replaced by somebody else", path)
        yield descriptor
        if not os.path.samestat(os.lstat(path), os.fstat(descriptor)):
            raise OSError(errno.ESTALE, "It was replaced by somebody else", path)


def clear(descriptor: int, length: int) -> None:
    """Gives a file that was just made a length, and zeros all over. Raises OSError.

    It is not cut off: ext4 and XFS write all of a file that was to the disk as soon as it is closed, and wait for it.
    """
    status = os.fstat(descriptor)
    if status.st_blocks and status.st_size > min(length, _MOST_TO_CLEAR):
        os.ftruncate(descriptor, 0)
    elif status.st_blocks:
        os.pwrite(descriptor, bytes(status.st_size), 0)
    os.ftruncate(descriptor, length)


def allot_singly(descriptor: int, is_too_much: Callable[[int], bool]) -> None:
    """Has a file that was cleared be allotted what is written and no more, if what it gets at a time is too much.

    QEMU has XFS allot its images a MiB at a time, which for one that is mostly holes may be many times what it holds;
    `is_too_much` is asked with those bytes. It can be changed only while nothing is allotted. Raises OSError.
    """
    try:
        flags, at_once, *others = _ATTRIBUTES.unpack(fcntl.ioctl(descriptor, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size)))
    except OSError:  # a file system that has no such thing
        return
    if at_once and is_too_much(at_once):
        length = os.fstat(descriptor).st_size
        os.ftruncate(descriptor, 0)
        fcntl.ioctl(descriptor, _SET_ATTRIBUTES, _ATTRIBUTES.pack(flags & ~_HAS_EXTENT_SIZE, 0, *others))
        os.ftruncate(descriptor, length)


def identity(path: str) -> dict[str, int]:
    """What tells a file from another of the same name later on; empty where there is no such file to see.

    An inode's number is given to the next file once it is free; its generation then differs (FS_IOC_GETVERSION, which
    not every file system has).
    """
    with suppress(OSError, errors.Busy), _opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as descriptor:
        status = os.fstat(descriptor)
        return _identity(descriptor, status) if stat.S_ISREG(status.st_mode) else {}
    with suppress(OSError):  # one that cannot be opened can still be told by its number
        status = os.lstat(path)
        return {"device": status.st_dev, "inode": status.st_ino} if stat.S_ISREG(status.st_mode) else {}
    return {}


def _identity(descriptor: int, status: os.stat_result) -> dict[str, int]:
    known = {"device": status.st_dev, "inode": status.st_ino}
    with suppress(OSError):
        answer = fcntl.ioctl(descriptor, _GET_GENERATION, bytes(8))
        known["generation"] = int.from_bytes(answer[:4], "little")
    return known


def made_since(path: str, moment: int) -> dict[str, int]:
    """The identity of a file that was made or changed since a moment, in µs since 1970; empty where there is none.

    Raises Unseen if that cannot be told.
    """
    status = _status(path)
    return identity(path) if status is not None and status.st_ctime_ns // 1000 >= moment else {}


def is_anothers(path: str, known: Mapping[str, int]) -> bool:
    """Whether a path leads to something else than the file that `identity` saw; no where it saw none.

    Devices are numbered anew at each start of the host, so their number counts only where there is no generation.
    Raises Unseen if it cannot be told.
    """
    if not known or _status(path) is None:
        return False
    return _differ(identity(path), known)


def is_still(path: str, known: Mapping[str, int]) -> bool:
    """Whether a path leads to the file that `identity` saw. Raises Unseen if it cannot be told."""
    return _status(path) is not None and not _differ(identity(path), known)


def _differ(now: Mapping[str, int], known: Mapping[str, int]) -> bool:
    names = ("inode", "generation") if {"generation"} <= known.keys() & now.keys() else ("inode", "device")
    return any(now.get(name) != known[name] for name in names)


def _status(path: str) -> os.stat_result | None:
    """None only where there is nothing: what cannot be seen may be there."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unseen(cause=error) from error


def may_be_there(path: str) -> bool:
    """Whether something lies at a path, or that cannot be told."""
    try:
        return _status(path) is not None
    except Unseen:
        return True


def may_be_still(path: str, known: Mapping[str, int]) -> bool:
    """Whether a path leads to the file that `identity` saw, or that cannot be told."""
    try:
        return is_still(path, known)
    except Unseen:
        return True


def is_barred(path: str) -> bool:
    """Whether the server may not look at what lies at a path, in a folder of somebody else's."""
    try:
        os.lstat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def may_be_in_sight(path: str) -> bool:
    """Whether something lies at a path, or that cannot be told for now; no where the server may never look."""
    return not is_barred(path) and may_be_there(path)


def is_closed(path: str) -> bool:
    """Whether a path leads to something that the server may not read."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return not os.access(path, os.R_OK)


def begins(whole: str, part: str) -> bool:
    """Whether a small file is the beginning of another. False where one of them cannot be read."""
    try:
        with (
            opened(whole, os.O_RDONLY) as one,
            opened(part, os.O_RDONLY) as other,
            open(one, "rb", closefd=False) as first,
            open(other, "rb", closefd=False) as second,
        ):
            while piece := second.read(_PIECE_BYTES):
                if first.read(len(piece)) != piece:
                    return False
    except OSError:
        return False
    return True


def copy_small(source: str, target: str) -> dict[str, int]:
    """Copies a small file with its owner and mode to a name that must be free; returns its identity.

    A source that is not there leaves the target missing as well, and returns nothing. Raises VolumeInTheWay and
    StepFailed.
    """
    try:
        # Its folder may belong to somebody who would have the server read something else in its place.
        with opened(source, os.O_RDONLY) as reader:
            return _copied(reader, target)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise errors.StepFailed(cause=error) from error


def _copied(source: int, target: str) -> dict[str, int]:
    """Raises VolumeInTheWay and StepFailed."""
    status, flags = os.fstat(source), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with (
            _opened(target, flags) as descriptor,
            open(source, "rb", closefd=False) as reader,
            open(descriptor, "wb", closefd=False) as writer,
        ):
            made = _identity(descriptor, os.fstat(descriptor))
            try:
                shutil.copyfileobj(reader, writer)
                writer.flush()
                _take_over_rights(descriptor, status)
            except OSError:
                with suppress(OSError):  # what was the matter is to be told; the file goes when the step is undone
                    os.unlink(target)
                raise
    except FileExistsError as error:
        place = Path(target)
        raise errors.VolumeInTheWay(name=place.name, pool=str(place.parent), cause=error) from error
    except OSError as error:
        raise errors.StepFailed(cause=error) from error
    return made


def _take_over_rights(descriptor: int, status: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, status.st_mode & 0o777)


def copy_folder(source: str, target: str) -> dict[str, int]:
    """Copies a folder of small files, as it is, to a name that must be free. Locks (`.lock`) are not copied.

    A source that is not there leaves the target missing as well. Raises VolumeInTheWay and StepFailed.
    """
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise errors.StepFailed(cause=error) from error
    try:
        os.mkdir(target, 0o700)
        for name in os.listdir(descriptor):
            _copy_entry(os.path.join(source, name), os.path.join(target, name))
        made = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _take_over_rights(made, os.fstat(descriptor))
        finally:
            os.close(made)
    except FileExistsError as error:
        place = Path(target)
        raise errors.VolumeInTheWay(name=place.name, pool=str(place.parent), cause=error) from error
    except OSError as error:
        raise errors.StepFailed(cause=error) from error
    finally:
        os.close(descriptor)
    return {}


def _copy_entry(source: str, target: str) -> None:
    mode = os.lstat(source).st_mode
    if stat.S_ISDIR(mode):
        copy_folder(source, target)
    elif not stat.S_ISREG(mode):
        raise errors.StepFailed(cause=f"{source} is neither a file nor a folder")
    elif os.path.basename(source) != ".lock":
        copy_small(source, target)


def remove_folder(path: str) -> None:
    """Removes a folder and what is in it; one that is not there is fine. Raises StepFailed."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise errors.StepFailed(cause=error) from error


def remove(path: str, known: Mapping[str, int]) -> None:
    """Removes a file if it is still the one whose identity is given. Raises StepFailed, and Unseen which is one."""
    if not known or is_anothers(path, known):
        return
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as error:
        raise errors.StepFailed(cause=error) from error
