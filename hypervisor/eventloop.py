"""libvirt's event loop, which events and keepalive need: one a process, in a thread of its own.

Where the loop watches a connection, each call over it tells the loop twice to look elsewhere and back, which costs as
much as all else of a short call (libvirt 9.0). libvirt leaves the choice to the loop: a connection whose socket it does
not take has no events and no keepalive, and is otherwise as any (remoteConnectOpen in remote_driver.c). libvirt's own
loop takes all, so this is ours. Where somebody else in the process, such as Kimchi, was faster, it is theirs.
"""

from __future__ import annotations

import itertools
import logging
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import libvirt

log = logging.getLogger(__name__)

_FLAGS = {
    libvirt.VIR_EVENT_HANDLE_READABLE: select.POLLIN,
    libvirt.VIR_EVENT_HANDLE_WRITABLE: select.POLLOUT,
    libvirt.VIR_EVENT_HANDLE_ERROR: select.POLLERR,
    libvirt.VIR_EVENT_HANDLE_HANGUP: select.POLLHUP,
}

_AFTER_A_STUMBLE_S = 0.1

Call = Callable[..., Any]


@dataclass
class _Handle:
    """A file that libvirt wants to be told of."""

    file: int
    events: int
    call: Call
    opaque: Any


@dataclass
class _Timer:
    """What libvirt wants to be called every so many ms, -1 for not at all; `due` by the monotonic clock."""

    every_ms: int
    due: float
    call: Call
    opaque: Any

    def is_due(self, now: float) -> bool:
        return self.every_ms >= 0 and self.due <= now


class Loop:
    """An event loop as libvirt asks for it (libvirt-event.h). All of it may be called from any thread.

    It has no lock, but changes its dictionaries in single steps: libvirt may call it out of Python's collection of
    garbage, thus in the midst of any line here.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._handles: dict[int, _Handle] = {}
        self._timers: dict[int, _Timer] = {}
        self._gone: deque[Any] = deque()
        self._opening = threading.local()
        self.is_in_charge = False
        """Whether libvirt has ever asked for anything here, and not another loop."""

    @cached_property
    def _waker(self) -> int:
        """Ends a wait. It is there when the loop is in use, and not when this is imported: a fork would share it."""
        return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def register(self) -> None:
        """Offers it to libvirt, which takes the first that it is offered."""
        self._wake()  # so that there is one before several threads may want it
        handles = (self.add_handle, self.update_handle, self.remove_handle)
        libvirt.virEventRegisterImpl(*handles, self.add_timer, self.update_timer, self.remove_timer)
        libvirt.virEventRemoveTimeout(libvirt.virEventAddTimeout(-1, lambda *_: None, None))

    @contextmanager
    def apart(self) -> Iterator[list[socket.socket]]:
        """What this thread opens within the block is not watched; gives its sockets, to be closed by who has them."""
        sockets: list[socket.socket] = []
        self._opening.sockets = sockets
        try:
            yield sockets
        except BaseException:
            for each in sockets:
                each.close()
            raise
        finally:
            self._opening.sockets = None

    # --- What libvirt calls ------------------------------------------------------------------------------------------

    def add_handle(self, file: int, events: int, call: Call, opaque: Any) -> int:
        self.is_in_charge = True
        sockets: list[socket.socket] | None = getattr(self._opening, "sockets", None)
        if sockets is not None and stat.S_ISSOCK(os.fstat(file).st_mode):  # nothing else could be hung up
            with suppress(OSError):  # no file is left: it is watched then, and has keepalive
                sockets.append(socket.socket(fileno=os.dup(file)))
                return -1
        return self._add(self._handles, _Handle(file, events, call, opaque))

    def update_handle(self, number: int, events: int) -> None:
        handle = self._handles.get(number)
        if handle is not None:
            handle.events = events
        self._wake()

    def remove_handle(self, number: int) -> int:
        return self._remove(self._handles, number)

    def add_timer(self, every_ms: int, call: Call, opaque: Any) -> int:
        self.is_in_charge = True
        return self._add(self._timers, _Timer(every_ms, _due(every_ms), call, opaque))

    def update_timer(self, number: int, every_ms: int) -> None:
        timer = self._timers.get(number)
        if timer is not None:
            timer.every_ms, timer.due = every_ms, _due(every_ms)
        self._wake()

    def remove_timer(self, number: int) -> int:
        return self._remove(self._timers, number)

    def _add(self, known: dict[int, Any], new: _Handle | _Timer) -> int:
        number = next(self._numbers)
        known[number] = new
        self._wake()
        return number

    def _remove(self, known: dict[int, Any], number: int) -> int:
        gone = known.pop(number, None)
        if gone is None:
            return -1
        self._gone.append(gone.opaque)  # to be freed by the loop: libvirt is busy here, and holds its locks
        self._wake()
        return 0

    def _wake(self) -> None:
        os.eventfd_write(self._waker, 1)

    # --- The loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """For ever."""
        while True:
            try:
                self.turn()
            except Exception:  # without it the server hears nothing any more; the stack is in the log
                log.exception("libvirt's event loop stumbled")
                time.sleep(_AFTER_A_STUMBLE_S)

    def turn(self) -> None:
        """Waits for the next thing that libvirt wants to be told of, and tells it."""
        for number, events in self._wait():
            handle = self._handles.get(number)
            if handle is not None and handle.events:
                self._tell(handle.call, number, handle.file, events, handle.opaque)
        now = time.monotonic()
        for number, timer in self._timers.copy().items():
            if number in self._timers and timer.is_due(now):
                timer.due = _due(timer.every_ms)
                self._tell(timer.call, number, timer.opaque)
        while self._gone:
            libvirt.virEventInvokeFreeCallback(self._gone.popleft())

    def _wait(self) -> list[tuple[int, int]]:
        """Which handles have something to tell, and what, in libvirt's words."""
        handles = self._handles.copy()
        wanted: dict[int, int] = {}
        for handle in handles.values():
            events = handle.events  # another thread may change it meanwhile
            if events:
                wanted[handle.file] = wanted.get(handle.file, 0) | _in_words_of_poll(events)
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        for file, flags in wanted.items():
            poll.register(file, flags)
        found = dict(poll.poll(self._patience_ms()))
        if found.pop(self._waker, 0):
            with suppress(BlockingIOError):
                os.eventfd_read(self._waker)
        told = {file: _in_words_of_libvirt(flags) for file, flags in found.items()}
        return [(number, told[handle.file]) for number, handle in handles.items() if handle.file in told]

    def _patience_ms(self) -> float | None:
        """Until the next timer is due; None where there is none."""
        if self._gone:
            return 0.0
        soonest = min((timer.due for timer in self._timers.copy().values() if timer.every_ms >= 0), default=None)
        return None if soonest is None else max(0.0, soonest - time.monotonic()) * 1000

    def _tell(self, call: Call, *about: Any) -> None:
        try:
            call(*about)
        except Exception:  # one event must not end all others; the stack is in the log
            log.exception("an event of libvirt's could not be told")


def _due(every_ms: int) -> float:
    return time.monotonic() + every_ms / 1000


def _in_words_of_poll(events: int) -> int:
    return sum(flag for event, flag in _FLAGS.items() if events & event)


def _in_words_of_libvirt(flags: int) -> int:
    told: int = sum(event for event, flag in _FLAGS.items() if flags & flag)
    return told | (int(libvirt.VIR_EVENT_HANDLE_HANGUP) if flags & select.POLLNVAL else 0)


# --- The process's own -----------------------------------------------------------------------------------------------

_loop = Loop()
_lock = threading.Lock()
_runs = False


def run() -> None:
    """Starts the loop, once a process; to be called before the first connection is opened."""
    global _runs  # noqa: PLW0603 - libvirt's loop is the process's own
    with _lock:
        if _runs:
            return
        _loop.register()
        # libvirt would print each error to stderr; we raise and log them.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        threading.Thread(target=_run, name="libvirt-events", daemon=True).start()
        _runs = True


apart = _loop.apart


def _run() -> None:
    if _loop.is_in_charge:
        _loop.run()
    log.info("somebody else in this process has libvirt's event loop")
    while True:
        with suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()
