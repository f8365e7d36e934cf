"""Starts guests: each by a call of its own, that is broken off when nobody wants it any more, or takes too long.

libvirt's call lasts until QEMU is up, and that waits for other programs: for a switch that is to connect to a socket of
vhost-user for ever. Until then the guest has not run, so that nothing is lost when its plug is pulled, which also ends
the call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for

from .. import errors
from .connection import TURN_S, Connections

MOST_S = 300.0
"""Longer than it takes to set a TiB of memory aside, in seconds."""

MOST_RESTORED_S = 3600.0
"""The same for a guest whose saved memory is read from a disk."""

_POLL_S = 0.1
_END_S = 20.0
"""How long a call that is broken off may go on: libvirt gives a QEMU that does not end up after some 15 s."""

_UNWANTED = "it was broken off"
_TOO_LONG = (
    "it was broken off after {:g} s: its QEMU waits for another program, such as one that is to connect to a socket of "
    "vhost-user. Start that first"
)


def start(
    connections: Connections,
    create: Callable[[], None],
    stop: Callable[[], None],
    is_wanted: Callable[[], bool] | None,
    *,
    most: float = MOST_S,
) -> None:
    """Has a guest started when its turn has come.

    Args:
        connections: whose turns are waited for.
        create: starts it, and may take as long as it likes.
        stop: pulls its plug.
        is_wanted: whether it is still to be started; None for who waits some seconds for a turn at most.
        most: how long it may take, in seconds.

    Raises what `create` and `stop` raise, LibvirtFailed when it was broken off, and Busy.
    """
    _wait_for_turn(connections, is_wanted)
    call = _begun(create, connections.starts.release)
    until = time.monotonic() + most
    while not wait_for([call], _POLL_S).done:
        is_unwanted = is_wanted is not None and not is_wanted()
        if is_unwanted or time.monotonic() > until:
            stop()
            wait_for([call], _END_S)
            cause = _UNWANTED if is_unwanted else _TOO_LONG.format(most)
            raise errors.LibvirtFailed(act="start the domain", cause=cause)
    call.result()


def _wait_for_turn(connections: Connections, is_wanted: Callable[[], bool] | None) -> None:
    if is_wanted is None:
        if not connections.starts.acquire(timeout=TURN_S):
            raise errors.Busy(what="guests that are being started")
        return
    until = time.monotonic() + MOST_S
    while not connections.starts.acquire(timeout=_POLL_S):
        if not is_wanted():
            raise errors.LibvirtFailed(act="start the domain", cause=_UNWANTED)
        if time.monotonic() > until:
            raise errors.Busy(what="guests that are being started")


def _begun(call: Callable[[], None], ended: Callable[[], None]) -> Future[None]:
    """What a call comes to, in a thread of its own; `ended` is called in any case."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)
        else:
            future.set_result(None)
        finally:
            ended()

    try:
        threading.Thread(target=run, name="start", daemon=True).start()
    except RuntimeError as error:  # there are too many
        ended()
        raise errors.Busy(what="other requests") from error
    return future
