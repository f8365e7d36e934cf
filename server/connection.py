"""Connections: read without a thread until a request is all there, written to for a bounded time, with TLS or without.

A client that dribbles, or says nothing at all, costs a place among the sockets that are watched and no thread; so does
one that does not take its answer, what a refused client still sends, and a handshake of TLS.
"""

from __future__ import annotations

import errno
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any

from cheroot.server import HTTPConnection

from ..control.base import MAX_BODY_BYTES
from .intake import Intake

HEAD_S = 10.0
"""How long the head of a request may take to come, from its first byte on."""

BODY_S = 20.0
"""How long its body may take after that."""

WRITE_S = 15.0
"""How long one piece of an answer may take to be taken, and a second more for each 64 KiB of it."""

_MOST_ASIDE = 64 * 1024 * 1024
"""Bytes of answers that are kept, of all connections together, for clients that do not take them at once."""

_SLOW_S = 2.0
_ROOM_S = 0.25
_DRAIN_S = 2.0
_DRAIN_BYTES = 16 * 1024 * 1024
_BLOCK_BYTES = 64 * 1024
_GO_AHEAD = b"HTTP/1.1 100 Continue\r\n\r\n"
_PLAIN_HTTP = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Next(Enum):
    """What is to be done with a connection."""

    SERVE = "a request is there"
    WAIT = "there is more to come"
    CLOSE = "nothing comes any more"


class _Taken(io.BytesIO):
    """A request's bytes as the file that cheroot reads from; `more` says whether those of the next are there."""

    bytes_read = 0

    def __init__(self, taken: bytes = b"", more: Callable[[], bool] = lambda: False) -> None:
        super().__init__(taken)
        self._more = more

    def has_data(self) -> bool:
        return self._more()


class Aside:
    """How many bytes of answers wait for their clients without a thread.

    Args:
        make_room: is asked for so many bytes where there is no room for more; they may be there a little later.
    """

    def __init__(self, make_room: Callable[[int], None] = lambda _: None) -> None:
        self._most = self._left = _MOST_ASIDE
        self._make_room = make_room
        self._lock = threading.Lock()

    @property
    def is_empty(self) -> bool:
        return self._left == self._most

    def take(self, size: int) -> bool:
        """Whether there is room for so many more."""
        with self._lock:
            has_room = size <= self._left
            self._left -= size if has_room else 0
        if not has_room:
            self._make_room(size)
        return has_room

    def give_back(self, size: int) -> None:
        with self._lock:
            self._left += size


class _Writer:
    """The file that cheroot writes to. What the client does not take at once is put aside, to be sent later."""

    bytes_written = 0
    closed = False

    def __init__(self, connection: socket.socket, aside: Aside) -> None:
        self._socket = connection
        self._aside = aside
        self._unsent = bytearray()
        self._begun = 0.0
        self.patience_s = WRITE_S
        self.is_endless = False
        """Whether a thread stays with the answer anyway, since it goes on or the server ends: nothing is put aside."""

        self.is_slow = False
        """Whether the client was waited for, so that it shall keep no place another time."""

    @property
    def has_more(self) -> bool:
        """Whether something is put aside."""
        return bool(self._unsent)

    @property
    def late(self) -> int:
        """Bytes of that which have been waiting for longer than others should have to."""
        return len(self._unsent) if time.monotonic() > self._begun + _SLOW_S else 0

    @property
    def until(self) -> float:
        """By when that has to be taken."""
        return self._begun + WRITE_S + len(self._unsent) / _BLOCK_BYTES

    def write(self, data: bytes) -> int:
        """Raises TimeoutError when the client does not take what cannot be put aside in time."""
        left, begun = memoryview(data), time.monotonic()
        until = begun + self.patience_s + (len(data) / _BLOCK_BYTES if self.patience_s else 0)
        may_be_aside = not self.is_endless and self.patience_s > 0
        if may_be_aside and not self.has_more:
            left = self._send(left, 0.0)
        while left or (self.has_more and not may_be_aside):
            if may_be_aside and self._put_aside(left):
                break
            left = self._send_more(left, until, _ROOM_S if may_be_aside else until)
        self.is_slow = self.is_slow or time.monotonic() > begun + _SLOW_S
        return len(data)

    def _put_aside(self, left: memoryview) -> bool:
        if not self._aside.take(len(left)):
            return False
        if not self.has_more:
            self._begun = time.monotonic()
        self._unsent += left
        return True

    def _send_more(self, left: memoryview, until: float, at_most_s: float) -> memoryview:
        """Sends a piece of what was put aside, or then of what is left. Raises TimeoutError."""
        seconds = max(min(until - time.monotonic(), at_most_s), 0.0)
        if self.has_more:
            rest, has_sent = left, self.flush(seconds)
        else:
            rest = self._send(left, seconds)
            has_sent = len(rest) < len(left)
        if not has_sent and time.monotonic() >= until:
            raise TimeoutError("timed out")
        return rest

    def _send(self, data: memoryview, seconds: float) -> memoryview:
        """What is left of it after as much as the client takes at once, or within so many seconds."""
        self._socket.settimeout(seconds)
        try:
            while data:
                data = data[self._socket.send(data) :]
                if seconds:
                    break
        except (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except ssl.SSLError as error:  # which cheroot would log with its stack, for each client that has gone
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error
        return data

    def flush(self, seconds: float = 0.0) -> bool:
        """Sends of what was put aside what the client takes now, or a piece of it; whether it took anything."""
        with memoryview(self._unsent) as unsent:
            sent = len(unsent) - len(self._send(unsent, seconds))
        del self._unsent[:sent]
        self._aside.give_back(sent)
        if not self.has_more:
            self.is_slow = self.is_slow or time.monotonic() > self._begun + _SLOW_S
        return sent > 0

    def drop(self) -> None:
        """Forgets what was put aside."""
        self._aside.give_back(len(self._unsent))
        self._unsent = bytearray()


class Connection(HTTPConnection):
    """One client's connection. `is_whole` says whether the request that is served has come in full."""

    def __init__(self, server: Any, connection: Any, _makefile: Any = None) -> None:
        super().__init__(server, connection, self._file)
        self._intake = Intake(MAX_BODY_BYTES)
        self._is_shaken = not isinstance(connection, ssl.SSLSocket)
        self._is_new_to_look_at = False
        self._until: float | None = None
        self._to_drain: int | None = None
        self._put_at: float | None = None
        self._goes_on = True
        self.verdict: tuple[str, str] | None = None
        self.is_whole = True

    def _file(self, connection: socket.socket, mode: str, _size: int) -> Any:
        return _Taken() if "r" in mode else _Writer(connection, self.server.aside)

    @property
    def has_more(self) -> bool:
        """Whether the client has not taken all of its answer, so that it is watched for when it does."""
        return bool(self.wfile.has_more)

    @property
    def last_used(self) -> float | None:
        """What cheroot goes by: it hangs up when that is older than its timeout, thus when a client's time is over.

        By the clock that it is given in protocol.py, which nobody sets.
        """
        return self._put_at if self._until is None else float(self._until - self.server.timeout)

    @last_used.setter
    def last_used(self, at: float) -> None:
        self._put_at = at

    # --- In the thread that watches all sockets ----------------------------------------------------------------------

    def take_in(self) -> Next:
        """Reads what has come, and never waits."""
        self._is_new_to_look_at = False
        try:
            self.socket.settimeout(0)
            if self.has_more and not self._sent_all():
                return self._wait()
            if not self._goes_on:
                return Next.CLOSE
            return self._drain() if self._to_drain is not None else self._receive()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return self._wait()
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                with suppress(OSError):
                    socket.socket.send(self.socket, _PLAIN_HTTP)
            return Next.CLOSE
        except OSError:
            self._until = None  # nobody is there to be told anything
            return Next.CLOSE

    def _sent_all(self) -> bool:
        """Whether the client has taken all of its answer by now; then what was to come after it comes."""
        self.wfile.flush()
        if self.has_more:
            return False
        self._until = None
        if self._to_drain is not None or self.wfile.is_slow:
            self.drain()
        self._goes_on = self._goes_on or self._to_drain is not None
        return True

    def _receive(self) -> Next:
        if not self._is_shaken:
            self._begin(HEAD_S)
            self.socket.do_handshake()
            self._is_shaken = True
        if self._intake.has_begun:  # by what came with the request before
            self._begin(HEAD_S)
        while not self._intake.is_ready():
            self._tell_to_go_ahead()
            block = self.socket.recv(_BLOCK_BYTES)
            if not block:
                return self._hand_over() if self._intake.has_begun else Next.CLOSE
            self._begin(HEAD_S)
            had_head = self._intake.has_head
            self._intake.add(block)
            if self._intake.is_ready():
                break
            if self._intake.has_head and not had_head:
                self._until = time.monotonic() + BODY_S
        return self._hand_over()

    def _begin(self, patience_s: float) -> None:
        if self._until is None:
            self._until = time.monotonic() + patience_s

    def _tell_to_go_ahead(self) -> None:
        if self._intake.go_ahead_is_due():
            self.socket.send(_GO_AHEAD)

    def _hand_over(self) -> Next:
        self.verdict = self._intake.verdict
        taken, self.is_whole = self._intake.take()
        self.rfile = _Taken(taken, self._has_more)
        self._until, self._is_new_to_look_at = None, self._intake.has_begun
        self.socket.settimeout(WRITE_S)
        return Next.SERVE

    def _has_more(self) -> bool:
        """Whether there is something to look at that the socket will not tell of."""
        return self._is_new_to_look_at or (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0)

    def _wait(self) -> Next:
        return Next.WAIT if self._until is None or time.monotonic() < self._until else Next.CLOSE

    def give_up(self) -> None:
        """Has cheroot hang up on the client, since others wait for its place."""
        self._until = time.monotonic()

    def give_way(self) -> int:
        """The same, if the client has not taken its answer for a while; the bytes that this is going to free."""
        size: int = self.wfile.late
        if not size or self._until is None or self._until <= time.monotonic():
            return 0
        self.give_up()
        return size

    # --- The end -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Reads away for a while what is still sent: closing with it unread resets the connection, answer and all."""
        self._to_drain, self._until = _DRAIN_BYTES, time.monotonic() + _DRAIN_S
        self._is_new_to_look_at = False
        if self.has_more:
            return
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def _drain(self) -> Next:
        while (self._to_drain or 0) > 0 and (block := self.socket.recv(_BLOCK_BYTES)):
            self._to_drain = (self._to_drain or 0) - len(block)
        return Next.CLOSE

    def communicate(self) -> bool:
        """Whether the connection is to be watched on: for another request, or to be drained."""
        self.wfile.is_endless = False
        goes_on = bool(super().communicate())  # type: ignore[no-untyped-call]  # cheroot's types are incomplete
        if self.has_more:
            self._goes_on, self._until = goes_on, self.wfile.until
            return True
        if goes_on and self.wfile.is_slow:
            self.drain()
        return goes_on or self._to_drain is not None

    def close(self) -> None:
        """Tells a client that took too long, if it listens, and hangs up."""
        self.server.forget(self)
        is_told = not self.has_more and self._to_drain is None and self._intake.has_begun and self._is_shaken
        self.wfile.drop()
        if self._until is not None and is_told:
            self.wfile.patience_s = 0
            with suppress(OSError):
                self.RequestHandlerClass(self.server, self).simple_response("408 Request Timeout", "It took too long.")
        with suppress(OSError):
            super().close()
