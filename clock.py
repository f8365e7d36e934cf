"""The process's clock: microseconds since 1970 that never repeat, in any thread or forked child.

A wall clock stands still, jumps back and is read by two threads at once. Names are made from stamps, so a stamp is what
is left when those three are taken away: `last = max(last + 1, now)`, under a lock. Across processes that are no
relations, and across restarts, the journal does the same (engine/journal.py).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Clock = Callable[[], int]
"""Reads a clock: microseconds since 1970-01-01 UTC. It may repeat itself and may go backwards."""

_LAST = struct.Struct("=Q")
_LOCKED_BYTE = 1 << 62  # beyond any real file, should the descriptor ever come to mean another one


def wall_clock() -> int:
    """The system's time, in microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


class StampSource(ABC):
    """Gives out stamps that are distinct by themselves, such as an open transaction of the journal."""

    @abstractmethod
    def stamp(self) -> int:
        """A stamp in microseconds since 1970, greater than every one given out before it."""


class ProcessStamps:
    """Stamps for one process and the children that it forks.

    The last stamp lies in memory that a forked child shares with its parent; a record lock, which a dying process drops
    by itself, keeps the two apart, and a thread lock the threads of each.
    """

    def __init__(self) -> None:
        self._last = mmap.mmap(-1, _LAST.size)
        self._file = os.memfd_create("cloner-stamp")
        self._lock = threading.Lock()
        # A child must not inherit the lock as held by a thread that it does not have.
        os.register_at_fork(
            before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._lock.release
        )

    def after(self, now: int) -> int:
        """The first stamp that is at least `now` and greater than every stamp given out before.

        Raises ValueError for a `now` that is negative or beyond 63 bits.
        """
        if not 0 <= now < 1 << 63:
            raise ValueError(f"a clock must give microseconds since 1970 as 0 … 2⁶³-1, not {now}")
        with self._lock, self._alone_among_relations():
            stamp: int = max(_LAST.unpack(self._last[:])[0] + 1, now)
            self._last[:] = _LAST.pack(stamp)
        return stamp

    @contextmanager
    def _alone_among_relations(self) -> Iterator[None]:
        locked = False
        with suppress(OSError):  # a daemon that closed every descriptor still has its thread lock
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, _LOCKED_BYTE)
            locked = True
        try:
            yield
        finally:
            if locked:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _LOCKED_BYTE)


process_stamps = ProcessStamps()
