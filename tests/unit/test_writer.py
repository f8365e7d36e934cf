"""Answers on their way to clients that do not take them at once."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from cloner.server import connection
from cloner.server.connection import Aside, _Writer
from support.tls import make_certificate

MUCH = bytes(range(256)) * 32 * 1024  # more than the buffers between hold


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        theirs.settimeout(30)
        yield ours, theirs


def received(client: socket.socket, size: int) -> bytes:
    return client.recv(size, socket.MSG_WAITALL)


def test_what_is_not_taken_is_put_aside_and_sent_in_order(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    writer = _Writer(ours, Aside())
    for piece in (MUCH, b"then", b"the rest"):
        assert writer.write(piece) == len(piece)
    assert writer.has_more
    assert not writer.flush()  # nobody has taken anything
    expected = MUCH + b"thenthe rest"
    taken = b""
    while len(taken) < len(expected):
        taken += theirs.recv(len(expected))
        writer.flush()
    assert taken == expected
    assert not writer.has_more


def test_nothing_is_put_aside_where_there_is_no_room_for_it_or_a_thread_stays(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    for room, is_endless in ((1000, False), (10 * len(MUCH), True)):
        with mock.patch.object(connection, "_MOST_ASIDE", room):
            writer = _Writer(ends[0], Aside())
        writer.patience_s, writer.is_endless = 0.05, is_endless
        with mock.patch.object(connection, "_BLOCK_BYTES", 1 << 40), pytest.raises(TimeoutError):
            writer.write(MUCH)
        assert not writer.has_more


def test_what_was_sent_or_given_up_makes_room_for_more(ends: tuple[socket.socket, socket.socket]) -> None:
    with mock.patch.object(connection, "_MOST_ASIDE", len(MUCH)):
        aside = Aside()
    writer = _Writer(ends[0], aside)
    writer.write(MUCH)
    assert not aside.take(len(MUCH))
    received(ends[1], len(MUCH) // 64)
    assert writer.flush()
    writer.drop()
    assert aside.take(len(MUCH))
    assert not aside.take(1)


def test_who_has_hung_up_has_done_so_with_tls_too(ends: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    """Its own error for that would be told in the log with its stack, for each such client."""
    certificate = make_certificate(tmp_path)
    ours, theirs = ends
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.chain, certificate.key)
    wrapped = context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
    shaking = threading.Thread(target=wrapped.do_handshake)
    shaking.start()
    with certificate.trusted.wrap_socket(theirs, server_hostname="localhost"):
        shaking.join()
    with wrapped, pytest.raises(ConnectionError):
        _Writer(wrapped, Aside()).write(MUCH)
