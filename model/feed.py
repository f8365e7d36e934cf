"""Tells those who wait when something has become of a task: at once for this server's, soon for those of others."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from .. import errors
from ..engine.journal import Journal, position
from ..engine.records import RUNNING, Forgotten, Task
from .guests import Guest

OTHERS_S = 0.5
"""How often the journal is asked what other servers have written, in seconds."""

_AT_ONCE = 200
_MOST_WAITING = 32
_GUEST_CHANGES = 1000
"""How many changes of guests are kept for readers that are slow; one that missed some is told to read all anew."""


@dataclass(frozen=True)
class GuestChange:
    """A guest as it was and as it is, None where it was or is not there; two None: any may have changed."""

    before: Guest | None
    now: Guest | None


News = Task | Forgotten | GuestChange | None


class Feed:
    """What happens to the tasks of one journal.

    Args:
        journal: it is told by it of what this server writes.
        most_streams: how many may follow everything at a time.
        most_waiting: how many may wait for the end of a task at a time.
    """

    def __init__(self, journal: Journal, most_streams: int, most_waiting: int = _MOST_WAITING) -> None:
        self._journal = journal
        self._changed = threading.Condition()
        self._serial = 0
        self._stopped = False
        self._streams = threading.BoundedSemaphore(most_streams)
        self._waiting = threading.BoundedSemaphore(min(most_waiting, _MOST_WAITING))
        self._guest_changes: deque[GuestChange] = deque(maxlen=_GUEST_CHANGES)
        self._guest_serial = 0
        self._ends: dict[int, set[threading.Event]] = defaultdict(set)
        journal.on_change = self._on_change
        journal.on_end = self._on_end

    def stop(self) -> None:
        """Ends all waiting."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            for events in self._ends.values():
                for event in events:
                    event.set()

    @property
    def serial(self) -> int:
        """Another one after each change that this server has written."""
        return self._serial

    def await_change(self, serial: int) -> bool:
        """Waits until the serial is another one, or for OTHERS_S. False when the server stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._serial != serial or self._stopped, OTHERS_S)
            return not self._stopped

    def guest_changed(self, before: Guest | None, now: Guest | None) -> None:
        """Is to be told of each change, as Inventory.on_change is."""
        with self._changed:
            self._guest_changes.append(GuestChange(before, now))
            self._guest_serial += 1
            self._serial += 1
            self._changed.notify_all()

    def wait_for_end(self, task: Task, seconds: float) -> Task | None:
        """The task as it is when it has ended, or after so many seconds; None if it is not in the list any more.

        When many wait already, at once.
        """
        if task.status != RUNNING or not self._waiting.acquire(blocking=False):
            return task
        try:
            with self._end_of(task.id) as ended:
                return self._wait(task.id, ended, time.monotonic() + seconds)
        finally:
            self._waiting.release()

    def _wait(self, task_id: int, ended: threading.Event, deadline: float) -> Task | None:
        while True:
            task = self._journal.task(task_id)
            left = deadline - time.monotonic()
            if task is None or task.status != RUNNING or left <= 0 or self._stopped:
                return task
            ended.wait(min(left, OTHERS_S))

    @contextmanager
    def _end_of(self, task_id: int) -> Iterator[threading.Event]:
        event = threading.Event()
        with self._changed:
            self._ends[task_id].add(event)
        try:
            yield event
        finally:
            with self._changed:
                self._ends[task_id].discard(event)
                if not self._ends[task_id]:
                    del self._ends[task_id]

    def follow(self, after: tuple[int, int] | None, heartbeat_s: float, *, guests: bool = False) -> Iterator[News]:
        """What becomes of tasks after a (change, task), or from now on: each as it is, and None now and then.

        With `guests` what becomes of guests from now on, too.
        Raises TooManyStreams, before anything is told. Ends when the server does.
        """
        if not self._streams.acquire(blocking=False):
            raise errors.TooManyStreams
        try:
            start = after if after is not None else (self._journal.last_change(), _AFTER_ALL)
        except BaseException:
            self._streams.release()
            raise
        news = self._follow(start, heartbeat_s, self._guest_serial if guests else None)
        next(news)  # it has begun, so that it gives its place back whatever becomes of it
        return news

    def _follow(self, at: tuple[int, int], heartbeat_s: float, guests_at: int | None) -> Iterator[News]:
        try:
            quiet_since = time.monotonic()
            yield None
            while not self._stopped:
                serial = self._serial
                news = self._journal.changes(at, _AT_ONCE)
                for item in news:
                    at = position(item)
                    yield item
                of_guests, guests_at = self._guests_since(guests_at)
                yield from of_guests
                now = time.monotonic()
                if news or of_guests:
                    quiet_since = now
                elif now - quiet_since >= heartbeat_s:
                    quiet_since = now
                    yield None
                else:
                    self.await_change(serial)
        finally:
            self._streams.release()

    def _guests_since(self, serial: int | None) -> tuple[list[GuestChange], int | None]:
        """What became of guests since a serial, and the serial after it; nothing where there is none."""
        if serial is None:
            return [], None
        with self._changed:
            missed, kept = self._guest_serial - serial, len(self._guest_changes)
            if missed > kept:
                return [GuestChange(None, None)], self._guest_serial
            return list(islice(self._guest_changes, kept - missed, None)), self._guest_serial

    def _on_change(self) -> None:
        with self._changed:
            self._serial += 1
            self._changed.notify_all()

    def _on_end(self, task_id: int) -> None:
        with self._changed:
            for event in self._ends.get(task_id, ()):
                event.set()


_AFTER_ALL = 1 << 62
