"""Endings that have to wait until a pool, libvirt or the journal is back: each is tried again, ever more seldom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .ledger import Ending

_LONGEST_S = 30.0


@dataclass(frozen=True)
class Item:
    """An ending, how often it was tried, and when it is due."""

    ending: Ending
    tries: int
    due: float


class Postponed:
    """What waits.

    Args:
        first_s: seconds until an ending is tried for the second time; from then on twice as long each time.
        clock: seconds that go on.
    """

    def __init__(self, first_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first_s = first_s
        self._clock = clock
        self._items: list[Item] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, ending: Ending, tries: int, *, is_alone: bool) -> None:
        """`is_alone` tells that it waits for something that no other need wait for, so that it gets slower."""
        wait_s = min(self._first_s * 2 ** min(tries, 16), _LONGEST_S) if is_alone else self._first_s
        with self._lock:
            self._items.append(Item(ending, tries + 1, self._clock() + wait_s))

    def take_due(self) -> list[Item]:
        """Those whose time has come; they wait here no more."""
        now = self._clock()
        with self._lock:
            due = [item for item in self._items if item.due <= now]
            self._items = [item for item in self._items if item.due > now]
        return due
