"""Copies what one file has into another, piece by piece, so that it can be told how far it is.

What the file is the image of makes no difference: it is plain bytes here, and its holes stay holes.

There are two ways, and which is the faster one nobody can tell beforehand: copy_file_range(2), which a file server does
by itself, and a buffer of ours, which is a sixth faster on ext4. So the first pieces go by turns. Where a file system
keeps holes and does not tell where (most of those in FUSE), blocks of zeros are looked for in that buffer.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from itertools import groupby

from .job import Job

_PIECE = 1 << 22
"""Bytes between two looks at whether the copy is still wanted: large enough to cost nothing, and soon done."""

_BUFFER = 1 << 18
_ZEROS = bytes(1 << 12)
_TURNS = 3
"""Pieces that go each way, before it is known which is the faster one."""

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
    moved, began, ways = 0, time.monotonic(), _Ways(source, target)
    piece = _PIECE if bytes_a_second is None else max(1, min(_PIECE, bytes_a_second // _PIECES_A_SECOND))
    for start, end in _data(source):
        place = start
        while place < end:
            job.check()
            count = ways.move(place, min(piece, end - place))
            if count == 0:  # it was cut off meanwhile, and has another time of writing then
                return
            place, moved = place + count, moved + count
            progress(moved)
            if bytes_a_second is not None:
                job.wait(max(0.0, began + moved / bytes_a_second - time.monotonic()))
    job.check()


def occupied_in_blocks(descriptor: int, block: int) -> int:
    """The bytes that a copy of a file occupies on a file system with blocks of `block` bytes. Raises OSError."""
    count = reached = 0
    for start, end in _data(descriptor):
        first, behind = max(start // block, reached), -(-end // block)
        count, reached = count + max(behind - first, 0), max(behind, reached)
    return count * block


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


def _hides_holes(descriptor: int) -> bool:
    """Whether a file occupies less than its length, and all of it is said to be data."""
    status = os.fstat(descriptor)
    return status.st_blocks * 512 < status.st_size and next(_data(descriptor), None) == (0, status.st_size)


class _Ways:
    """Moves bytes from one file to the same place of another, by the way that has proved to be the faster one."""

    def __init__(self, source: int, target: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._source = source
        self._target = target
        self._clock = clock
        self._hides_holes = _hides_holes(source)
        self._ways = [self._through_buffer] if self._hides_holes else [self._in_kernel, self._through_buffer]
        self._turns = [way for _ in range(_TURNS) for way in self._ways]
        self._fastest: dict[Callable[[int, int], int], float] = {}
        self._buffer = memoryview(bytearray(_BUFFER))

    def move(self, place: int, count: int) -> int:
        """How many bytes were moved; 0 at the end of the source. Raises OSError."""
        if len(self._ways) == 1:
            return self._ways[0](place, count)
        way, begun = self._turns.pop(0), self._clock()
        try:
            moved = way(place, count)
        except OSError as error:
            if way != self._in_kernel or error.errno not in _NOT_HERE:
                raise
            self._ways = [self._through_buffer]
            return self.move(place, count)
        pace = moved / max(self._clock() - begun, 1e-9)
        self._fastest[way] = max(self._fastest.get(way, 0.0), pace)
        if not self._turns:
            self._ways = [max(self._ways, key=lambda each: self._fastest[each])]
        return moved

    def _in_kernel(self, place: int, count: int) -> int:
        return os.copy_file_range(self._source, self._target, count, place, place)

    def _through_buffer(self, place: int, count: int) -> int:
        moved = 0
        while moved < count:
            found = os.preadv(self._source, [self._buffer[: count - moved]], place + moved)
            if found == 0:
                break
            if self._hides_holes:
                self._put_but_zeros(found, place + moved)
            else:
                self._put(0, found, place + moved)
            moved += found
        return moved

    def _put_but_zeros(self, count: int, place: int) -> None:
        """The target is all holes, so that what is left out is zeros there as well."""
        block = len(_ZEROS)
        starts = range(0, count, block)
        for has_data, run in groupby(starts, lambda start: self._has_data(start, min(start + block, count))):
            if has_data:
                blocks = list(run)
                self._put(blocks[0], min(blocks[-1] + block, count), place)

    def _has_data(self, start: int, end: int) -> bool:
        return bytes(self._buffer[start:end]) != _ZEROS[: end - start]

    def _put(self, start: int, end: int, place: int) -> None:
        """Writes a part of the buffer, which begins at `place`."""
        while start < end:
            start += os.pwrite(self._target, self._buffer[start:end], place + start)
