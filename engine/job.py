"""A clone that is being made: whether it is to end, and how far it is. Shared by its copies, which run side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from .. import errors
from .records import Mark, Step


class Job:
    """Progress and end of one task.

    Args:
        task: its id.
        totals: bytes that each of its copies handles, by item.
    """

    def __init__(self, task: int, totals: Mapping[str, int]) -> None:
        self.task = task
        self.totals = dict(totals)
        self.not_ours: set[int] = set()
        """Steps that met something of somebody else's, which is to be left alone."""

        self.steps: list[Step] = []
        """Those that were written down."""

        self.made: dict[str, Mapping[str, int]] = {}
        """What the files that were made are known by, as far as the server sees them; by path."""

        self.stood_in: Callable[[], AbstractContextManager[None]] = nullcontext
        """What surrounds a long wait for somebody else, in which another worker takes this one's place."""

        self._marks: list[Mark] = []
        self._done = dict.fromkeys(totals, 0)
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._why: errors.ClonerError | None = None

    def stop(self, why: errors.ClonerError) -> None:
        """Asks for the end of everything that the job does. The first reason counts."""
        with self._lock:
            self._why = self._why or why
        self._end.set()

    @property
    def is_stopped(self) -> bool:
        return self._end.is_set()

    @property
    def is_cancelled(self) -> bool:
        return isinstance(self._why, errors.CloneCancelled)

    def check(self) -> None:
        """Raises the reason for which the job has to end, if it has."""
        if self._why is not None:
            raise self._why

    def wait(self, seconds: float) -> bool:
        """Waits for `stop`, at most so long; whether it came."""
        return self._end.wait(seconds)

    def mark(self, mark: Mark) -> None:
        """Remembers how a step went, until it is written with the next one."""
        with self._lock:
            self._marks.append(mark)

    def take_marks(self) -> list[Mark]:
        """What is not written yet, for the caller to write."""
        with self._lock:
            marks, self._marks = self._marks, []
        return marks

    def put_back(self, marks: list[Mark]) -> None:
        """Marks that could not be written."""
        with self._lock:
            self._marks = marks + self._marks

    def progress(self, item: str) -> Callable[[int], None]:
        """What a copy tells its bytes to. They only grow, and never beyond the total."""

        def tell(done: int) -> None:
            with self._lock:
                self._done[item] = max(self._done[item], min(done, self.totals[item]))

        return tell

    def done(self) -> dict[str, int]:
        """Bytes done, by item."""
        with self._lock:
            return dict(self._done)
