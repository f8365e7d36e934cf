"""Slow clients cost a place and no thread: others are served meanwhile, and in the end the slow ones are cut off."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.answers import parsed, refusal
from support.server import MOUNT_POINT, Server
from support.tls import Certificate, make_certificate

SLOW, OTHERS = 200, 800
HEAD = b"POST /login HTTP/1.1\r\nHost: localhost\r\n"
BODY = HEAD + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
CHUNKS = HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
WAYS = [  # how one begins, and what one sends from then on, byte by byte
    (b"", b""),
    (b"P", b"X"),
    (HEAD, b"X"),
    (BODY, b" "),
    (CHUNKS + b"400\r\n", b" "),
    (CHUNKS, b"1\r\n \r\n"),
    (HEAD + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n", b""),
]
GO_AHEAD = b"HTTP/1.1 100 Continue\r\n\r\n"
LATE = (408, "CLNAPI0007E")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, certificate: Certificate, tmp_path: Path) -> Iterator[Server]:
    is_https = request.param == "https"
    args, trusted = (certificate.args, certificate.trusted) if is_https else ([], None)
    with Server(None, tmp_path, args=args, tls=trusted) as running:
        yield running


def connected(server: Server) -> socket.socket:
    connection = socket.create_connection(server.address, timeout=60)
    return server.tls.wrap_socket(connection, server_hostname="localhost") if server.tls else connection


@contextmanager
def dribbling(connections: list[tuple[socket.socket, bytes]]) -> Iterator[None]:
    """Meanwhile each connection is sent a byte now and then; whatever it answers, and if it hangs up."""
    ended = threading.Event()

    def dribble() -> None:
        place = 0
        while not ended.wait(0.5):
            for connection, more in connections:
                try:
                    connection.send(more[place % len(more) :][:1] if more else b"")
                except OSError:
                    continue
            place += 1

    thread = threading.Thread(target=dribble)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_800_are_answered_while_200_are_slow(server: Server) -> None:
    with ExitStack() as closing:
        slow = []
        for number in range(SLOW):
            begin, more = WAYS[number % len(WAYS)]
            slow.append((closing.enter_context(connected(server)), more))
            slow[-1][0].sendall(begin)
        if server.tls:  # and some who do not even shake hands
            slow += [(closing.enter_context(socket.create_connection(server.address)), b"") for _ in range(50)]
        with dribbling(slow), ThreadPoolExecutor(40) as threads:
            answers = list(threads.map(lambda _: server.request("GET", "config", timeout=120).status, range(OTHERS)))
    assert answers == [200] * OTHERS


def test_who_dribbles_or_says_nothing_more_is_cut_off(server: Server) -> None:
    """However regularly a byte comes: the time is for the whole."""
    clients = [(begin, more) for begin, more in WAYS] + [(begin, b"") for begin, _ in WAYS]
    with ExitStack() as closing:
        connections = [closing.enter_context(connected(server)) for _ in clients]
        for connection, (begin, _) in zip(connections, clients, strict=True):
            connection.sendall(begin)
        pieces = [(connection, more) for connection, (_, more) in zip(connections, clients, strict=True)]
        with dribbling(pieces), ThreadPoolExecutor(len(clients)) as threads:
            said = list(threads.map(everything, connections))
    for (begin, _), answer in zip(clients, said, strict=True):
        assert answer == b"" if begin == b"" else refusal(parsed(answer.removeprefix(GO_AHEAD))) == LATE


def everything(connection: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    return b"".join(iter(lambda: received(connection), b""))


def received(connection: socket.socket) -> bytes:
    """What comes next; nothing when the server has hung up in whatever way."""
    try:
        return connection.recv(65536)
    except (ConnectionError, ssl.SSLError):
        return b""


def test_who_does_not_shake_hands_is_hung_up_on(certificate: Certificate, tmp_path: Path) -> None:
    with (
        Server(None, tmp_path, args=certificate.args, tls=certificate.trusted) as server,
        socket.create_connection(server.address, timeout=60) as silent,
        socket.create_connection(server.address, timeout=60) as half,
    ):
        half.sendall(b"\x16\x03\x01\x02\x00")  # a client's greeting begins so
        assert (received(silent), received(half)) == (b"", b"")
        assert server.running


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"nonsense\r\n\r\n", b"\x16\x03\x01\x00\x01\xff" * 10]
)
def test_who_does_not_speak_tls_is_told_so_and_leaves_no_stack(
    certificate: Certificate, tmp_path: Path, said: bytes
) -> None:
    with Server(None, tmp_path, args=certificate.args, tls=certificate.trusted) as server:
        with socket.create_connection(server.address, timeout=60) as connection:
            connection.sendall(said)
            answer = everything(connection)
        assert server.request("GET", "config").status == 200
        assert "Traceback" not in server.log
    assert answer.startswith(b"HTTP/1.1 400 ") == said.startswith(b"GET")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_who_does_not_take_answers_keeps_none_from_others(
    certificate: Certificate, tmp_path: Path, scheme: str
) -> None:
    """More of them than there are threads; what they had not taken when they listen at last is there as a whole."""
    conf = tmp_path / "cloner.conf"
    conf.write_text("[server]\nthreads = 2\n")
    args, trusted = (certificate.args, certificate.trusted) if scheme == "https" else ([], None)
    with Server(None, tmp_path, args=["--config", str(conf), *args], tls=trusted) as server, ExitStack() as closing:
        get = f"GET {MOUNT_POINT}/openapi.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n"
        slow = [closing.enter_context(connected(server)) for _ in range(5)]
        for connection in slow:
            connection.sendall(f"{get}\r\n".encode() * 50 + f"{get}Connection: close\r\n\r\n".encode())
        for _ in range(10):
            assert server.request("GET", "config", timeout=10).status == 200
        for connection in slow:
            answers = everything(connection).split(b"HTTP/1.1 200 OK\r\n")[1:]
            bodies = {answer.partition(b"\r\n\r\n")[2] for answer in answers}
            assert bodies == {server.request("GET", "openapi.json").body}


def test_who_takes_answers_slowly_is_not_served_for_ever(server: Server) -> None:
    """It asks for more than it reads, so that a thread has to wait for it once the buffers between are full."""
    get = f"GET {MOUNT_POINT}/vms HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode()
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        plain.connect(server.address)
        with server.tls.wrap_socket(plain, server_hostname="localhost") if server.tls else plain as connection:
            connection.settimeout(0.5)
            until, left = time.monotonic() + 180, b""
            while time.monotonic() < until:
                left = left or get * 100
                try:
                    left = left[connection.send(left) :]
                except TimeoutError:
                    connection.recv(512)
                except OSError:
                    return  # it has hung up
    raise AssertionError("it is still served")


def test_more_connections_than_there_is_room_for_make_room(tmp_path: Path) -> None:
    """The one that has been silent longest goes, so that whoever has something to say gets through."""
    with Server(None, tmp_path, prefix=("prlimit", "--nofile=1024:1024")) as server, ExitStack() as closing:
        silent = [closing.enter_context(socket.create_connection(server.address, timeout=60)) for _ in range(1500)]
        assert server.request("GET", "config", timeout=60).status == 200
        assert received(silent[0]) == b""
        assert "Traceback" not in server.log  # which it would have, had it run out of files
