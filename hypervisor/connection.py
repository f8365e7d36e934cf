"""Connections to libvirt: one for events, some for the many short calls, a few for long ones.

No request waits for a connection to be made. A thread of its own opens them, watches them and opens them again; while
there is none, whoever asks is told so at once. No two threads ever wait in one connection: when libvirtd hangs,
keepalive tells only one of them, and the other may crash the process when libvirtd goes on (measured on libvirt 9.0).
Those for short calls to a libvirtd on this host have no keepalive, since libvirt's event loop would take half of each
call (eventloop.py): when the one for events finds that libvirtd is gone, they are hung up on. Those to one far away
have it: a firewall may forget a single connection, above all one that is silent.
All of libvirtd serves twenty calls at a time (max_workers), hence few long ones, and few starts of guests.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import chain
from urllib.parse import urlsplit
from weakref import WeakSet

import libvirt

from .. import errors
from . import eventloop, xmlparser

log = logging.getLogger(__name__)

KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3
"""A libvirtd that has not answered for interval × count seconds is taken for gone."""

SHORT_CALLS = 8
"""Connections for short calls, and so how many threads may be in one at a time."""

STARTS = 4
"""How many guests may be being started at once: each may wait for another program, and for ever."""

TURN_S = 15.0
"""How long a request waits for its turn."""

_RETRY_S = 0.5
_LOOK_S = 2.0
"""Between two looks at a connection that is there; libvirt's driver of its daemon tells the loss of one by itself."""

_STALE_S = 5.0

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
        self._looked = time.monotonic()
        self._long_calls = threading.BoundedSemaphore(long_calls)
        self.starts = threading.BoundedSemaphore(STARTS)
        """The turns of those that start a guest."""

        self._opens = threading.BoundedSemaphore(long_calls + STARTS)
        """One for each that may need a connection of its own: to open it may last for ever, too."""

        self._idle: list[libvirt.virConnect] = []
        self._useless: WeakSet[libvirt.virConnect] = WeakSet()
        self._short: queue.LifoQueue[libvirt.virConnect] = queue.LifoQueue()
        self._sockets: dict[libvirt.virConnect, list[socket.socket]] = {}
        self._opening: list[socket.socket] = []
        self._missing = threading.Event()
        self._mine = threading.local()
        self._keeper = threading.Thread(target=self._keep, name="libvirt-keeper", daemon=True)
        self._opener = threading.Thread(target=self._open_missing, name="libvirt-opener", daemon=True)

    def start(self, wait_s: float = 1.0) -> None:
        """Begins to connect, and waits up to `wait_s` seconds for the first attempt to end, well or not."""
        eventloop.run()
        self._keeper.start()
        if not self.is_test_driver:  # each connection to it is a host of its own
            self._opener.start()
        self._settled.wait(wait_s)

    def stop(self) -> None:
        self._stopped = True
        self._check.set()
        self._missing.set()
        self._keeper.join(1.0)

    @property
    def is_connected(self) -> bool:
        """Whether libvirt was there when the keeper last looked; libvirt itself is not asked, and cannot hang this.

        A keeper that has not looked for some seconds hangs itself, in a libvirt that takes a connection and is silent.
        """
        return self._control is not None and time.monotonic() < self._looked + _STALE_S

    @contextmanager
    def short_call(self) -> Iterator[libvirt.virConnect]:
        """A connection that is this thread's until the end of the block; the same one for a block within a block.

        Raises LibvirtUnavailable when there is none, Busy when none is free for some seconds.
        """
        mine: libvirt.virConnect | None = getattr(self._mine, "connection", None)
        if mine is not None:
            yield mine
            return
        if self.is_test_driver:  # each connection to it is a host of its own
            yield self._connected()
            return
        self._mine.connection = connection = self._take_short()
        try:
            yield connection
        finally:
            self._mine.connection = None
            self._give_back_short(connection)

    def _give_back_short(self, connection: libvirt.virConnect) -> None:
        is_alive = _is_alive(connection)
        with self._lock:
            is_kept = is_alive and connection in self._sockets and connection not in self._useless
            if is_kept:
                self._short.put(connection)
            sockets = [] if is_kept else self._sockets.pop(connection, [])
        if not is_kept:
            _hang_up(sockets)
            self._check.set()

    def _connected(self) -> libvirt.virConnect:
        connection = self._control
        if connection is None:
            raise errors.LibvirtUnavailable(uri=self.uri, cause=self._cause)
        return connection

    def _take_short(self) -> libvirt.virConnect:
        self._connected()
        try:
            return self._short.get(timeout=TURN_S)
        except queue.Empty:
            self._connected()
            raise errors.Busy(what="other requests") from None

    @contextmanager
    def long_call(self) -> Iterator[libvirt.virConnect]:
        """A connection for one long call, when its turn has come. Raises LibvirtUnavailable, and Busy as below."""
        with self._long_calls, self.own_call() as connection:
            yield connection

    @contextmanager
    def own_call(self) -> Iterator[libvirt.virConnect]:
        """A connection that nobody else waits for, for who has had their turn.

        Raises LibvirtUnavailable, and Busy where libvirt takes no more clients for some seconds.
        """
        if self.is_test_driver:  # each connection to it is a host of its own
            yield self._connected()
            return
        connection = self._borrow()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def failed(self, error: libvirt.libvirtError, connection: libvirt.virConnect, *, of_storage: bool = False) -> bool:
        """Whether the error means that the connection is gone, or, in a call about storage, what is behind it.

        Where libvirt is modular, virtqemud asks virtstoraged over a connection for each of its clients, and opens no
        other one when virtstoraged was restarted (remote_daemon_dispatch.c, remoteOpenConn): then we have to.
        """
        if error.get_error_code() not in LOST:
            return False
        if _is_alive(connection):
            is_behind = of_storage and error.get_error_domain() == libvirt.VIR_FROM_RPC
            if is_behind and error.get_error_code() == libvirt.VIR_ERR_INTERNAL_ERROR:  # "client socket is closed"
                self._give_up(connection)
            return is_behind
        control = self._control
        if control is not None and not _is_alive(control):
            self._lose(control, error.get_error_message() or "the connection was lost")
        return True

    def _give_up(self, useless: libvirt.virConnect) -> None:
        """Has a connection that is still in use opened anew, and those that nobody uses, which are no better."""
        with self._lock:
            self._useless.add(useless)
            idle, self._idle = self._idle, []
            while not self._short.empty():
                idle.append(self._short.get_nowait())
            sockets = [each for connection in idle for each in self._sockets.pop(connection, ())]
        _hang_up(sockets)
        self._check.set()

    def _borrow(self) -> libvirt.virConnect:
        self._connected()
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if _is_alive(connection):
                    return connection
        opened = self._begin_to_open()
        with suppress(TimeoutError):
            return opened.result(TURN_S)
        if opened.cancel():
            raise errors.Busy(what="its other clients")
        return opened.result()

    def _begin_to_open(self) -> Future[libvirt.virConnect]:
        """A connection that is being opened, in a thread of its own: a libvirtd that has all clients lets that wait.

        One that nobody waits for any more is kept for the next. Raises Busy.
        """
        opened: Future[libvirt.virConnect] = Future()
        if not self._opens.acquire(timeout=TURN_S):
            raise errors.Busy(what="its other clients")
        try:
            threading.Thread(target=self._open_for, args=(opened,), name="libvirt-own", daemon=True).start()
        except RuntimeError as error:  # there are too many
            self._opens.release()
            raise errors.Busy(what="other requests") from error
        return opened

    def _open_for(self, opened: Future[libvirt.virConnect]) -> None:
        try:
            connection = self._open()
        except libvirt.libvirtError as error:
            if opened.set_running_or_notify_cancel():
                opened.set_exception(errors.LibvirtUnavailable(uri=self.uri, cause=error.get_error_message()))
        else:
            if opened.set_running_or_notify_cancel():
                opened.set_result(connection)
            else:
                self._give_back(connection)
        finally:
            self._opens.release()

    def _give_back(self, connection: libvirt.virConnect) -> None:
        if _is_alive(connection) and connection not in self._useless:
            with self._lock:
                self._idle.append(connection)

    def _lose(self, connection: libvirt.virConnect | None, cause: str) -> None:
        with self._lock:
            if connection is None or self._control is not connection:
                return
            self._control = None
            self._cause = cause
            idle, self._idle = self._idle, []
            while not self._short.empty():
                self._short.get_nowait()
            lost, self._sockets = self._sockets, {}
            sockets = [*self._opening, *chain.from_iterable(lost.values())]
        _hang_up(sockets)
        _stop_listening(connection)
        log.warning("libvirt at %s is gone: %s", self.uri, cause)
        self.on_lost()
        self._check.set()
        idle.clear()  # which closes them: a libvirtd that hangs lets that wait

    def _keep(self) -> None:
        while not self._stopped:
            connection = self._control
            if connection is None:
                self._connect()
            elif not _is_alive(connection):
                self._lose(connection, "the connection was lost")
            elif not self.is_test_driver and len(self._sockets) < SHORT_CALLS:
                self._missing.set()
            self._looked = time.monotonic()
            self._check.wait(_RETRY_S if self._control is None else _LOOK_S)
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
            if not self.is_test_driver:  # which is never lost, and would keep the callback for ever
                with suppress(libvirt.libvirtError):  # some drivers have no such thing; it is looked at in any case
                    connection.registerCloseCallback(self._tell_loss, None)
            with self._lock:
                self._control = connection
            if not self.is_test_driver:
                self._missing.set()
            self.on_connect(connection)
        self._settled.set()

    def _tell_loss(self, _connection: libvirt.virConnect, _reason: int, _opaque: object) -> None:
        """Is called by libvirt's event loop, in which nothing may wait: the keeper looks."""
        self._check.set()

    def _open_missing(self) -> None:
        """Opens what is missing of the connections for short calls.

        In a thread of its own: a libvirtd that hangs, or has all clients that it takes, lets whoever comes wait, and
        meanwhile the keeper has to see whether the control connection is lost.
        """
        while not self._stopped:
            if len(self._sockets) >= SHORT_CALLS or not self._open_short():
                self._missing.wait()
                self._missing.clear()

    def _open_short(self) -> bool:
        control = self._control  # no longer than for this: one that is lost is to go
        if control is None:
            return False
        apart: AbstractContextManager[list[socket.socket]] = eventloop.apart() if self.is_local else nullcontext([])
        try:
            with apart as self._opening:
                connection = self._open()
        except libvirt.libvirtError as error:
            log.warning("libvirt at %s takes no more connections: %s", self.uri, error.get_error_message())
            return False
        with self._lock:
            sockets, self._opening = self._opening, []
            is_wanted = self._control is control
            if is_wanted:
                self._sockets[connection] = sockets
                self._short.put(connection)
        if not is_wanted:  # it may be one to a libvirtd that is gone
            _hang_up(sockets)
        return is_wanted

    def _open(self) -> libvirt.virConnect:
        with xmlparser.lock if self.is_test_driver else nullcontext():
            connection = libvirt.open(self.uri)
        with suppress(libvirt.libvirtError):  # the test driver has no keepalive, and needs none
            connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
        return connection


def _hang_up(sockets: Iterable[socket.socket]) -> None:
    """Ends connections for short calls, also for threads that wait in them for a libvirt which hangs."""
    for each in sockets:
        with suppress(OSError):  # it has been hung up on
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def _stop_listening(connection: libvirt.virConnect) -> None:
    """What listens to a connection keeps it, and is kept by it, for ever."""
    for number in list(getattr(connection, "domainEventCallbackID", ())):
        with suppress(libvirt.libvirtError):  # libvirtd could not be told
            connection.domainEventDeregisterAny(number)
    with suppress(libvirt.libvirtError):  # there was none
        connection.unregisterCloseCallback()


def _is_alive(connection: libvirt.virConnect) -> bool:
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False
