"""Copies what one file has into another, within the kernel and piece by piece, so that it can be told how far it is.

What the file is the image of makes no difference: it is plain bytes here, and its holes stay holes.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator

from .job import Job

_PIECE = 1 << 22
"""Bytes between two looks at whether the copy is still wanted: large enough to cost nothing, and soon done."""

_PIECES_A_SECOND = 20
"""At least so many where the speed is limited."""

_NOT_HERE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}
"""What copy_file_range(2) says between files that it does not serve: from one file system to another, mostly."""


def duplicate(
    source: int, target: int, job: Job, progress: Callable[[int], None], *, bytes_a_second: int | None = None
) -> None:
    """Copies a file.

    Args:
        source: descriptor of a file that can be read.
        target: descriptor of one that can be written, as long as the source, and all holes.
        job: whose end is the copy's.
        progress: gets the bytes that were copied.
        bytes_a_second: how many at most.

    Raises OSError, and the job's reason when that is stopped.
    """
    moved, began = 0, time.monotonic()
    piece = _PIECE if bytes_a_second is None else max(1, min(_PIECE, bytes_a_second // _PIECES_A_SECOND))
    for start, end in _data(source):
        place = start
        while place < end:
            job.check()
            count = _move(source, target, place, min(piece, end - place))
            if count == 0:  # it was cut off meanwhile, and has another time of writing then
                return
            place, moved = place + count, moved + count
            progress(moved)
            if bytes_a_second is not None:
                job.wait(max(0.0, began + moved / bytes_a_second - time.monotonic()))
    job.check()


def _data(descriptor: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, from and to; all of it where the file system does not tell."""
    end, length = 0, os.fstat(descriptor).st_size
    while end < length:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            if error.errno != errno.EINVAL:
                raise
            yield end, length
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def _move(source: int, target: int, place: int, count: int) -> int:
    """Copies bytes to the same place of another file; how many."""
    try:
        return os.copy_file_range(source, target, count, place, place)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    os.lseek(target, place, os.SEEK_SET)
    return os.sendfile(target, source, place, count)
