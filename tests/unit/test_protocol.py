"""The HTTP server itself, without a process around it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from cherrypy._cpserver import Server

from cloner.server import connection
from cloner.server.protocol import HTTPServer
from support.running import wait_until

NEVER_S = 3600
MUCH = bytes(range(256)) * 16 * 1024  # more than the buffers between hold
FEW_BYTES, MORE_BYTES = 16 * 1024, 256 * 1024
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Padding: " + b"x" * 30_000 + b"\r\n\r\n"


def answer(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", str(len(MUCH)))])
    return [MUCH]


@contextmanager
def serving(host: str = "127.0.0.1", *, looks_each_s: float = NEVER_S, threads: int = 10) -> Iterator[HTTPServer]:
    adapter = Server()
    adapter.thread_pool = threads
    adapter.socket_host, adapter.socket_port = host, 0
    server = HTTPServer(adapter)
    server.wsgi_app = answer
    server.expiration_interval = looks_each_s
    thread = threading.Thread(target=server.safe_start, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.ready and server._connections._serving, 10, "it serves")
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MORE_BYTES)  # those of its connections, too
        yield server
    finally:
        server.stop()
        thread.join(10)
    assert not thread.is_alive()


@contextmanager
def client(server: HTTPServer) -> Iterator[socket.socket]:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, FEW_BYTES)
        connection.settimeout(30)
        connection.connect(server.bind_addr)
        yield connection


def everything(connection: socket.socket) -> list[bytes]:
    """The bodies of all the answers that come until the server hangs up."""
    said = b"".join(iter(lambda: connection.recv(FEW_BYTES), b""))
    return [each.partition(b"\r\n\r\n")[2] for each in said.split(b"HTTP/1.1 200 OK\r\n")[1:]]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])  # noqa: S104 - as an administrator may say it
def test_it_stops_without_waiting_for_its_loop_to_come_round(host: str) -> None:
    """Which cheroot's does twice a second, unless something comes."""
    with serving(host) as server:
        stopping = threading.Thread(target=server.stop, daemon=True)
        stopping.start()
        stopping.join(10)
        assert not stopping.is_alive()
    server.stop()  # again it does nothing


def test_an_answer_that_is_being_taken_is_whole_though_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloner.server.protocol._LAST_S", 30)
    with serving() as server, client(server) as slow:
        slow.sendall(GET)
        wait_until(lambda: not server.aside.is_empty, 10, "some of the answer waits")
        stopping = threading.Thread(target=server.stop, daemon=True)
        stopping.start()
        assert everything(slow) == [MUCH]
        stopping.join(10)
        assert not stopping.is_alive()


def test_who_takes_its_answer_slowly_gets_all_of_it_before_it_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it has asked for more: closing with that unread would reset the connection."""
    monkeypatch.setattr(connection, "_SLOW_S", 0)
    with serving() as server, client(server) as slow:

        def ask() -> None:
            with suppress(OSError):
                slow.sendall(GET * 50)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: not server.aside.is_empty, 10, "some of the answer waits")
        assert everything(slow) == [MUCH]
        asking.join()


def test_who_does_not_take_an_answer_makes_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there was none, a thread waited for who did not listen either: a minute and more for this one."""
    monkeypatch.setattr(connection, "_SLOW_S", 0.1)
    monkeypatch.setattr(connection, "_MOST_ASIDE", len(MUCH))
    with serving(looks_each_s=0.05, threads=1) as server, client(server) as deaf, client(server) as deaf_too:
        deaf.sendall(GET)
        wait_until(lambda: not server.aside.is_empty, 10, "most of an answer waits")
        deaf_too.sendall(GET)
        with client(server) as other:
            other.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert everything(other) == [MUCH]


@pytest.mark.parametrize("said", [b"", b"GET /"])
def test_a_clock_that_is_set_back_keeps_nobody_who_is_silent(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """By it, cheroot would not look again before the hour is over."""
    monkeypatch.setattr(connection, "HEAD_S", 0.1)
    with serving(looks_each_s=0.05) as server, client(server) as silent:
        server.timeout = 0.1
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() - 3600)
        silent.sendall(said)
        assert b"200 OK" not in b"".join(iter(lambda: silent.recv(FEW_BYTES), b""))


def test_a_clock_that_is_set_forward_hangs_up_on_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(looks_each_s=0.01) as server, client(server) as silent:
        wait_until(lambda: server._watched, 10, "it is known")
        now, looked = time.time, threading.Event()
        expire = server._connections._expire

        def look(threshold: float) -> None:
            expire(threshold)
            looked.set()

        monkeypatch.setattr(time, "time", lambda: now() + 86_400)
        monkeypatch.setattr(server._connections, "_expire", look)
        assert looked.wait(10)
        silent.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert everything(silent) == [MUCH]
