"""Connections to libvirt: one for the many short calls, a few of their own for long ones, all of them kept alive.

No request waits for a connection to be made. A thread of its own opens it, watches it and opens it again; while there
is none, whoever asks is told so at once. A connection serves five calls at a time (libvirtd's max_client_requests), and
all of libvirtd twenty (max_workers), hence few long calls and each on its own connection.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import libvirt

from .. import errors

log = logging.getLogger(__name__)

KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3
"""A libvirtd that has not answered for interval × count seconds is taken for gone."""

_RETRY_S = 0.5

LOST = frozenset(
    {
        libvirt.VIR_ERR_SYSTEM_ERROR,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INTERNAL_ERROR,
    }
)
"""Errors after which it is worth asking whether the connection is still alive: these are what a dead one gives."""

_event_loop_lock = threading.Lock()
_event_loop_runs = False


def _run_event_loop() -> None:
    """Starts libvirt's event loop, which keepalive needs: once a process, and before the first connection."""
    global _event_loop_runs  # noqa: PLW0603 - libvirt's loop is the process's own
    with _event_loop_lock:
        if _event_loop_runs:
            return
        libvirt.virEventRegisterDefaultImpl()
        # libvirt would print each error to stderr; we raise and log them.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        threading.Thread(target=_dispatch_events, name="libvirt-events", daemon=True).start()
        _event_loop_runs = True


def _dispatch_events() -> None:
    while True:
        with suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()


class Connections:
    """The connections of one server to one libvirt. `start()` before use, `stop()` at the end.

    Args:
        uri: libvirt's connection URI.
        long_calls: how many long calls may run at once.
    """

    def __init__(self, uri: str, *, long_calls: int = 4) -> None:
        self.uri = uri
        self.is_test_driver = urlsplit(uri).scheme == "test"
        self.is_local = not urlsplit(uri).netloc and not self.is_test_driver
        self._control: libvirt.virConnect | None = None
        self._cause = "not connected yet"
        self.on_connect: Callable[[libvirt.virConnect], None] = lambda _connection: None
        self.on_lost: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._check = threading.Event()
        self._settled = threading.Event()
        self._stopped = False
        self._long_calls = threading.BoundedSemaphore(long_calls)
        self._idle: list[libvirt.virConnect] = []
        self._keeper = threading.Thread(target=self._keep, name="libvirt-keeper", daemon=True)

    def start(self, wait_s: float = 1.0) -> None:
        """Begins to connect, and waits up to `wait_s` seconds for the first attempt to end, well or not."""
        _run_event_loop()
        self._keeper.start()
        self._settled.wait(wait_s)

    def stop(self) -> None:
        self._stopped = True
        self._check.set()
        self._keeper.join(1.0)

    def control(self) -> libvirt.virConnect:
        """The connection for short calls. Raises LibvirtUnavailable when there is none."""
        connection = self._control
        if connection is None:
            raise errors.LibvirtUnavailable(uri=self.uri, cause=self._cause)
        return connection

    @contextmanager
    def long_call(self) -> Iterator[libvirt.virConnect]:
        """A connection for one long call, when its turn has come. Raises LibvirtUnavailable."""
        with self._long_calls:
            if self.is_test_driver:  # each connection to it is a host of its own
                yield self.control()
                return
            connection = self._borrow()
            try:
                yield connection
            finally:
                self._give_back(connection)

    def failed(self, error: libvirt.libvirtError, connection: libvirt.virConnect | None = None) -> bool:
        """Whether the error means that a connection (the control connection, if none is named) is gone."""
        if error.get_error_code() not in LOST:
            return False
        control = self._control
        used = connection or control
        if used is not None and _is_alive(used):
            return False
        if control is not None and not _is_alive(control):
            self._lose(control, error.get_error_message() or "the connection was lost")
        return True

    def _borrow(self) -> libvirt.virConnect:
        self.control()
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if _is_alive(connection):
                    return connection
        try:
            return self._open()
        except libvirt.libvirtError as error:
            raise errors.LibvirtUnavailable(uri=self.uri, cause=error.get_error_message()) from error

    def _give_back(self, connection: libvirt.virConnect) -> None:
        if _is_alive(connection):
            with self._lock:
                self._idle.append(connection)

    def _lose(self, connection: libvirt.virConnect | None, cause: str) -> None:
        with self._lock:
            if connection is None or self._control is not connection:
                return
            self._control = None
            self._cause = cause
            self._idle.clear()
        log.warning("libvirt at %s is gone: %s", self.uri, cause)
        self.on_lost()
        self._check.set()

    def _keep(self) -> None:
        while not self._stopped:
            connection = self._control
            if connection is None:
                self._connect()
            elif not _is_alive(connection):
                self._lose(connection, "the connection was lost")
            self._check.wait(_RETRY_S)
            self._check.clear()

    def _connect(self) -> None:
        try:
            connection = self._open()
        except libvirt.libvirtError as error:
            cause = error.get_error_message()
            if cause != self._cause:
                log.warning("libvirt at %s does not answer: %s", self.uri, cause)
            self._cause = cause
        else:
            log.info("connected to libvirt at %s", self.uri)
            with self._lock:
                self._control = connection
            self.on_connect(connection)
        self._settled.set()

    def _open(self) -> libvirt.virConnect:
        connection = libvirt.open(self.uri)
        with suppress(libvirt.libvirtError):  # the test driver has no keepalive, and needs none
            connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
        return connection


def _is_alive(connection: libvirt.virConnect) -> bool:
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False
