"""Stamps that the journal is going to give out, so that names can be looked at before the journal is locked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..clock import StampSource
from ..engine.journal import Journal


class Ahead(StampSource):
    """The stamps that come next, as long as nobody else asks the journal for one; `first` to `last` were given out."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.last = first - 1

    def stamp(self) -> int:
        self.last += 1
        return self.last


class Foresight:
    """Knows the next stamps of a journal, for one request of this server at a time.

    Whether it was right, the journal says when they are claimed: another server may have been faster, or the clock may
    have been set back.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._last = 0
        self._one_by_one = threading.Lock()

    @contextmanager
    def stamps(self) -> Iterator[Ahead]:
        """While the block runs, no other request of this server foresees any."""
        with self._one_by_one:
            yield Ahead(max(self._journal.clock(), self._last + 1))

    def learn(self, last: int) -> None:
        """Takes in the last stamp that the journal has given out."""
        self._last = max(self._last, last)
