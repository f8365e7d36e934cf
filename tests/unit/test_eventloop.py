"""libvirt's event loop: ours, which leaves alone what is opened apart from it, or that of whoever was faster."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import libvirt
import pytest

from cloner.hypervisor import eventloop
from cloner.hypervisor.eventloop import Loop

READABLE, WRITABLE, HANGUP = (
    libvirt.VIR_EVENT_HANDLE_READABLE,
    libvirt.VIR_EVENT_HANDLE_WRITABLE,
    libvirt.VIR_EVENT_HANDLE_HANGUP,
)

# In a process of its own, since a process has one loop, and it runs for ever.
HEARS = """
import sys
import threading
import libvirt
from cloner.hypervisor import eventloop
if sys.argv[1] == "theirs":
    libvirt.virEventRegisterDefaultImpl()
calls = []
their_own = libvirt.virEventRunDefaultImpl
libvirt.virEventRunDefaultImpl = lambda: calls.append(1) or their_own()
eventloop.run()
with eventloop.apart():  # the test driver has no socket
    connection = libvirt.open("test:///default")
heard = threading.Event()
connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *_: heard.set(), None)
connection.lookupByName("test").suspend()
print(heard.wait(10), bool(calls))
"""


@pytest.mark.parametrize("loop", ["ours", "theirs"])
def test_events_arrive(loop: str) -> None:
    heard = subprocess.run([sys.executable, "-c", HEARS, loop], capture_output=True, text=True, timeout=60, check=True)
    assert heard.stdout.split() == ["True", str(loop == "theirs")]


class Libvirt:
    """What the loop is told by it, and tells it."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.told: list[Any] = []
        self.freed: list[Any] = []

    def handle(self, *about: Any) -> None:
        self.told.append(about)


@pytest.fixture
def lib() -> Iterator[Libvirt]:
    lib = Libvirt(Loop())
    with mock.patch.object(libvirt, "virEventInvokeFreeCallback", lib.freed.append):
        yield lib


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def turns(loop: Loop, count: int = 1) -> None:
    """Some turns, each of which finds something to do at once."""
    for _ in range(count):
        loop._wake()
        loop.turn()


def test_a_handle_is_told_of_what_it_asked_for_and_of_the_end(
    lib: Libvirt, pair: tuple[socket.socket, socket.socket]
) -> None:
    here, there = pair
    number = lib.loop.add_handle(here.fileno(), READABLE, lib.handle, "x")
    turns(lib.loop)
    assert lib.told == []
    there.send(b"!")
    turns(lib.loop)
    assert lib.told == [(number, here.fileno(), READABLE, "x")]
    lib.loop.update_handle(number, WRITABLE)
    turns(lib.loop)
    assert lib.told[1:] == [(number, here.fileno(), WRITABLE, "x")]
    lib.loop.update_handle(number, 0)
    turns(lib.loop)
    assert len(lib.told) == 2
    lib.loop.update_handle(number, READABLE)
    there.close()
    here.recv(1)
    turns(lib.loop)
    assert lib.told[2][2] & HANGUP


def test_two_handles_of_one_file_are_told_each_its_own(lib: Libvirt, pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    there.send(b"!")
    numbers = [lib.loop.add_handle(here.fileno(), READABLE, lib.handle, name) for name in ("a", "b")]
    turns(lib.loop)
    assert [(about[0], about[3]) for about in lib.told] == list(zip(numbers, ("a", "b"), strict=True))


def test_what_is_removed_is_told_nothing_more_and_freed_by_the_loop_alone(
    lib: Libvirt, pair: tuple[socket.socket, socket.socket]
) -> None:
    here, there = pair
    number = lib.loop.add_handle(here.fileno(), READABLE, lib.handle, "x")
    timer = lib.loop.add_timer(0, lib.handle, "y")
    there.send(b"!")
    assert [lib.loop.remove_handle(number), lib.loop.remove_timer(timer)] == [0, 0]
    assert lib.freed == []
    turns(lib.loop)
    assert (lib.told, lib.freed) == ([], ["x", "y"])
    assert [lib.loop.remove_handle(number), lib.loop.remove_timer(timer)] == [-1, -1]
    turns(lib.loop)
    assert lib.freed == ["x", "y"]


def test_one_handle_may_remove_another_that_has_something_to_tell(
    lib: Libvirt, pair: tuple[socket.socket, socket.socket]
) -> None:
    here, there = pair
    numbers: list[int] = []

    def remove_both(number: int, *_about: object) -> None:
        lib.told.append(number)
        for each in numbers:
            lib.loop.remove_handle(each)

    for side in (here, there):
        numbers.append(lib.loop.add_handle(side.fileno(), WRITABLE, remove_both, None))
    turns(lib.loop)
    assert lib.told == numbers[:1]


def test_a_timer_is_called_again_and_again_until_it_is_off(lib: Libvirt) -> None:
    timer = lib.loop.add_timer(-1, lib.handle, "x")
    turns(lib.loop, 3)
    assert lib.told == []
    lib.loop.update_timer(timer, 0)
    turns(lib.loop, 3)
    assert lib.told == [(timer, "x")] * 3
    lib.loop.update_timer(timer, -1)
    turns(lib.loop, 3)
    assert len(lib.told) == 3


def test_a_timer_waits_for_its_time(lib: Libvirt) -> None:
    begun = time.monotonic()
    timer = lib.loop.add_timer(50, lib.handle, "x")
    lib.loop.turn()  # woken by the addition itself
    while not lib.told:
        lib.loop.turn()
    assert time.monotonic() - begun >= 0.05
    assert lib.told == [(timer, "x")]


def test_a_loop_that_waits_is_woken_by_what_another_thread_changes(
    lib: Libvirt, pair: tuple[socket.socket, socket.socket]
) -> None:
    turns(lib.loop)
    begun = threading.Event()

    def change() -> None:
        begun.set()
        lib.loop.add_handle(pair[0].fileno(), WRITABLE, lib.handle, "x")

    thread = threading.Thread(target=change)
    thread.start()
    while not lib.told:
        lib.loop.turn()
    thread.join()
    assert begun.is_set()


def test_what_is_wanted_may_change_at_any_moment(lib: Libvirt, pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    there.send(b"!")
    here.send(b"!")
    first, second = lib.loop.add_handle(here.fileno(), READABLE, lib.handle, "x"), 0
    in_words = eventloop._in_words_of_poll

    def change(events: int) -> int:
        lib.loop.update_handle(second, READABLE)
        return in_words(events)

    second = lib.loop.add_handle(there.fileno(), 0, lib.handle, "y")
    with mock.patch.object(eventloop, "_in_words_of_poll", change):
        turns(lib.loop, 2)
    assert {about[0] for about in lib.told} == {first, second}


def test_what_fails_is_logged_and_ends_nothing(lib: Libvirt, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_about: object) -> None:
        raise ZeroDivisionError

    lib.loop.add_timer(0, fail, None)
    after = lib.loop.add_timer(0, lib.handle, "x")
    turns(lib.loop)
    assert lib.told == [(after, "x")]
    assert "ZeroDivisionError" in caplog.text


def test_a_socket_that_is_opened_apart_is_not_watched_and_can_be_hung_up(
    lib: Libvirt, pair: tuple[socket.socket, socket.socket]
) -> None:
    here, there = pair
    with lib.loop.apart() as sockets:
        assert lib.loop.add_handle(here.fileno(), READABLE, lib.handle, "x") == -1
    assert [each.fileno() == here.fileno() for each in sockets] == [False]
    there.send(b"!")
    turns(lib.loop)
    assert lib.told == []
    sockets[0].shutdown(socket.SHUT_RDWR)
    assert select.select([there], [], [], 5)[0]
    assert there.recv(1) == b""
    sockets[0].close()
    assert lib.loop.add_handle(here.fileno(), READABLE, lib.handle, "x") > 0


def test_what_could_not_be_hung_up_for_want_of_files_is_watched(
    lib: Libvirt, pair: tuple[socket.socket, socket.socket]
) -> None:
    with lib.loop.apart() as sockets, mock.patch.object(os, "dup", side_effect=OSError(errno.EMFILE, "too many")):
        assert lib.loop.add_handle(pair[0].fileno(), READABLE, lib.handle, "x") > 0
    assert sockets == []


def test_what_is_no_socket_is_watched_even_so(lib: Libvirt) -> None:
    reader, writer = os.pipe()
    with lib.loop.apart() as sockets:
        number = lib.loop.add_handle(reader, READABLE, lib.handle, "x")
    os.write(writer, b"!")
    turns(lib.loop)
    assert (sockets, lib.told) == ([], [(number, reader, READABLE, "x")])
    os.close(reader)
    os.close(writer)


def test_others_open_what_they_open_as_ever_meanwhile(lib: Libvirt, pair: tuple[socket.socket, socket.socket]) -> None:
    numbers: list[int] = []
    with lib.loop.apart():
        thread = threading.Thread(
            target=lambda: numbers.append(lib.loop.add_handle(pair[0].fileno(), READABLE, lib.handle, "x"))
        )
        thread.start()
        thread.join()
    assert numbers[0] > 0


def test_a_turn_that_fails_is_logged_and_followed_by_the_next(
    lib: Libvirt, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lib.loop, "turn", mock.Mock(side_effect=[MemoryError, None, SystemExit]))
    with pytest.raises(SystemExit):
        lib.loop.run()
    assert caplog.messages == ["libvirt's event loop stumbled"]
