"""The HTTP server itself, without a process around it."""

from __future__ import annotations

import threading

import pytest
from cherrypy._cpserver import Server

from cloner.server.protocol import HTTPServer
from support.running import wait_until

NEVER_S = 3600


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])  # noqa: S104 - as an administrator may say it
def test_it_stops_without_waiting_for_its_loop_to_come_round(host: str) -> None:
    """Which cheroot's does twice a second, unless something comes."""
    adapter = Server()
    adapter.socket_host, adapter.socket_port = host, 0
    server = HTTPServer(adapter)
    server.expiration_interval = NEVER_S
    serving = threading.Thread(target=server.safe_start, daemon=True)
    serving.start()
    wait_until(lambda: server.ready and server._connections._serving, 10, "it serves")
    stopping = threading.Thread(target=server.stop, daemon=True)
    stopping.start()
    stopping.join(10)
    serving.join(10)
    assert not stopping.is_alive()
    assert not serving.is_alive()
    server.stop()  # again it does nothing
