"""Who is told what becomes of clones, to count it. This one does nothing with it; see server/metrics.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Observer:
    """Is told of each event once, in the thread that it happens in, and must not take long nor raise.

    `kind` is `domain` or `volume`. `method` is how the disks are cloned: a method's name, `mixed` for several of them,
    `none` where nothing is copied.
    """

    def started(self, kind: str, method: str) -> None:
        """A clone was accepted by this server."""

    def ended(self, kind: str, method: str, status: str, seconds: float, size: int) -> None:
        """A clone that this server accepted has ended as a task's `status` says, `seconds` after that.

        `size` is what there was to read, in bytes.
        """

    def recovered(self, status: str) -> None:
        """A clone of a server that died has been taken over: `finished`, or to be undone."""

    def name_skipped(self, kind: str) -> None:
        """The next name for a clone was somebody else's already, who is no server on this journal."""

    @contextmanager
    def event_stream(self) -> Iterator[None]:
        """To be entered for as long as a client is told of events."""
        yield
