"""What the connections know of libvirt without asking it."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import libvirt
import pytest

from cloner.hypervisor import connection
from cloner.hypervisor.connection import Connections
from support.running import wait_until

PATIENCE = 20  # seconds


@pytest.fixture
def connections() -> Iterator[Connections]:
    found = Connections("test:///default")
    found.start()
    yield found
    found.stop()


def test_they_are_connected_once_libvirt_has_answered(connections: Connections) -> None:
    assert not Connections("test:///default").is_connected
    wait_until(lambda: connections.is_connected, PATIENCE, "they are connected")


def test_they_are_not_when_libvirt_is_gone(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_until(lambda: connections.is_connected, PATIENCE, "they are connected")
    monkeypatch.setattr(connection, "_is_alive", lambda _: False)
    monkeypatch.setattr(libvirt, "open", lambda _: _refused())
    wait_until(lambda: not connections.is_connected, PATIENCE, "the loss is known")


def test_they_are_not_when_their_keeper_hangs(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does in a libvirtd that takes its connection and is silent."""
    wait_until(lambda: connections.is_connected, PATIENCE, "they are connected")
    go_on = threading.Event()
    monkeypatch.setattr(connection, "_STALE_S", 1.0)
    monkeypatch.setattr(connection, "_is_alive", lambda _: go_on.wait(PATIENCE))
    try:
        wait_until(lambda: not connections.is_connected, PATIENCE, "the silence is known")
    finally:
        go_on.set()
    wait_until(lambda: connections.is_connected, PATIENCE, "they are connected again")


def _refused() -> None:
    raise libvirt.libvirtError("refused")


def test_a_connection_that_is_lost_is_let_go_of_with_what_listened_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[weakref.ref[libvirt.virConnect]] = []

    def listen(control: libvirt.virConnect) -> None:
        control.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, print, None)
        lost.append(weakref.ref(control))

    found = Connections("test:///default")
    found.on_connect = listen
    found.start()
    wait_until(lambda: len(lost) == 1, PATIENCE, "it is connected")
    monkeypatch.setattr(connection, "_is_alive", lambda which: which is not lost[0]())
    wait_until(lambda: len(lost) > 1, PATIENCE, "it is connected again")
    wait_until(lambda: gc.collect() >= 0 and lost[0]() is None, PATIENCE, "the one that was lost is gone")
    found.stop()
