"""A libvirtd that hangs, and goes on after a while: the server answers meanwhile, and lives."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import libvirt

from support.libvirtd import PrivateLibvirtd
from support.running import wait_until
from support.server import Response, Server
from support.storage import MiB, make_qcow2

LONGER_THAN_KEEPALIVE_S = 25


def test_a_libvirtd_that_hangs_and_goes_on_does_not_take_the_server_along(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Callable[..., libvirt.virDomain],
    tmp_path: Path,
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", MiB)])
    with Server(libvirtd.uri, tmp_path / "state") as server, ThreadPoolExecutor(24) as threads:
        os.kill(libvirtd.pid, signal.SIGSTOP)
        try:
            hanging = [threads.submit(server.request, "POST", "vms/web/clone", timeout=90) for _ in range(24)]
            ready: list[Response] = []
            until = time.monotonic() + LONGER_THAN_KEEPALIVE_S
            while time.monotonic() < until:
                assert server.request("GET", "tasks", timeout=10).status == 200
                assert server.request("GET", "/livez", anonymous=True, timeout=10).status == 200
                ready.append(server.request("GET", "/readyz", anonymous=True, timeout=10))
                time.sleep(0.5)
        finally:
            os.kill(libvirtd.pid, signal.SIGCONT)
        assert [answer.json["checks"]["libvirt"] for answer in (ready[0], ready[-1])] == ["ok", "not connected"]
        answers = [future.result() for future in hanging]
        assert {answer.status for answer in answers} <= {202, 503}, [answer.text for answer in answers]
        wait_until(lambda: server.request("GET", "vms/web").status == 200, 30, "it is well again", lambda: server.log)
        wait_until(lambda: server.request("GET", "/readyz", anonymous=True).status == 200, 30, "it is ready again")
        for answer in answers:
            if answer.status == 202:
                assert server.wait_task(answer.json["id"])["status"] == "finished"
        assert server.running
        assert server.terminate() == 0
