"""What systemd is told: ready when it serves, alive only while it answers, stopping when it does. And the unit."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from unittest import mock

import pytest

from cloner.server.systemd import Systemd
from support.server import Server
from support.tls import make_certificate

UNIT = Path(__file__).resolve().parents[2] / "server" / "cloner.service"
PATIENCE = 30.0  # seconds
PERIOD_S = 1.5


class Manager:
    """Systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.address = address

    def hear(self, seconds: float = PATIENCE) -> list[str]:
        """The lines of the next message. TimeoutError."""
        self.socket.settimeout(seconds)
        return self.socket.recv(65536).decode().split("\n")

    def wait_for(self, line: str) -> list[str]:
        """The first message with a line, and all before it forgotten. TimeoutError when it falls silent."""
        while line not in (message := self.hear()):
            pass
        return message

    def hears_no_more(self, line: str, seconds: float) -> bool:
        """Whether there comes a while in which no message has a line."""
        return any(not self._hears(line, seconds) for _ in range(20))

    def _hears(self, line: str, seconds: float) -> bool:
        until = time.monotonic() + seconds
        with suppress(TimeoutError):
            while (left := until - time.monotonic()) > 0:
                if line in self.hear(left):
                    return True
        return False

    def environment(self, **more: str) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address, **more}


@pytest.fixture(params=["path", "abstract", "path of a user@host"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    names = {"path": str(tmp_path / "notify"), "abstract": f"@cloner-test-{os.getpid()}"}
    found = Manager(names.get(request.param, str(tmp_path / "notify@1")))
    with closing(found.socket):
        yield found


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(str(tmp_path / "notify"))
    with closing(found.socket):
        yield found


def microseconds(seconds: float) -> str:
    return str(int(seconds * 1_000_000))


# --- Ready and stopping ----------------------------------------------------------------------------------------------


def test_systemd_is_told_that_it_is_ready_and_that_it_stops(start: Callable[..., Server], manager: Manager) -> None:
    server = start(env=manager.environment())
    ready, status = manager.hear()
    assert ready == "READY=1"
    assert re.fullmatch(r"STATUS=0 clones are being made, 0 wait; libvirt (answers|does not answer)", status)
    assert server.terminate() == 0
    assert manager.hear() == ["STOPPING=1", "STATUS=Stopping"]


def test_it_serves_by_the_time_that_it_is_ready(tmp_path: Path, watched: Manager) -> None:
    """Whoever is started after it, by systemd, finds it."""
    port = free_port()
    server = Server(None, tmp_path, args=["--port", str(port)], env=watched.environment())
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        watched.wait_for("READY=1")
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as client:
            client.request("GET", "/livez")
            assert client.getresponse().status == 200
    finally:
        starting.join(PATIENCE)
        server.close()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port: int = taken.getsockname()[1]
        return port


def test_a_server_that_is_refused_is_never_ready(tmp_path: Path, watched: Manager) -> None:
    server = Server(None, tmp_path, args=["--host", "203.0.113.7"], env=watched.environment())
    with pytest.raises(RuntimeError, match="CLNCONF0001E"):
        server.start()
    server.close()
    with pytest.raises(TimeoutError):
        watched.hear(0.1)


def test_a_systemd_that_is_gone_is_no_reason_to_fail(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start(env={"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert server.request("GET", "config").status == 200
    assert server.log.count("systemd cannot be told") == 1
    server.terminate()
    assert server.log.count("systemd cannot be told") == 1  # and not each time


# --- The watchdog ----------------------------------------------------------------------------------------------------


def test_it_says_that_it_lives_as_often_as_it_is_asked_to(start: Callable[..., Server], watched: Manager) -> None:
    server = start(env=watched.environment(WATCHDOG_USEC=microseconds(PERIOD_S)))
    for _ in range(5):
        assert watched.wait_for("WATCHDOG=1")[1].startswith("STATUS=")
    os.kill(server.pid, signal.SIGSTOP)
    assert watched.hears_no_more("WATCHDOG=1", 2 * PERIOD_S)
    os.kill(server.pid, signal.SIGCONT)
    watched.wait_for("WATCHDOG=1")


def test_it_is_ready_and_lives_with_https_too(tmp_path: Path, watched: Manager) -> None:
    """It asks itself by an address for which its certificate need not be good."""
    certificate = make_certificate(tmp_path)
    args = [*certificate.args, "--host", "0.0.0.0"]  # noqa: S104 - it asks itself by another then
    env = watched.environment(WATCHDOG_USEC=microseconds(PERIOD_S))
    with Server(None, tmp_path / "state", args=args, env=env, tls=certificate.trusted):
        assert watched.hear()[0] == "READY=1"
        for _ in range(2):
            assert watched.wait_for("WATCHDOG=1")[1].startswith("STATUS=")
    watched.wait_for("STOPPING=1")


def test_it_does_not_while_no_request_is_answered(
    start: Callable[..., Server], tmp_path: Path, watched: Manager
) -> None:
    """Both threads wait for the journal, which somebody keeps: it is that, or whatever else threads hang in."""
    conf = tmp_path / "cloner.conf"
    conf.write_text("[server]\nthreads = 2\n")
    server = start("--config", str(conf), env=watched.environment(WATCHDOG_USEC=microseconds(PERIOD_S)))
    watched.wait_for("WATCHDOG=1")
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as journal, ExitStack() as hanging:
        journal.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            client = threading.Thread(target=ask, args=(server,))
            client.start()
            hanging.callback(client.join)
        assert watched.hears_no_more("WATCHDOG=1", 2 * PERIOD_S)
        assert "No request is answered any more" in "".join(watched.hear())
        journal.rollback()
        watched.wait_for("WATCHDOG=1")


def ask(server: Server) -> None:
    with suppress(OSError, http.client.HTTPException):
        server.request("POST", "vms/web/clone")


def test_it_lives_while_requests_are_answered_though_none_of_its_threads_is_free(
    start: Callable[..., Server], tmp_path: Path, watched: Manager
) -> None:
    """Clients keep their connections, and both threads with them, and are answered one request after the other."""
    conf = tmp_path / "cloner.conf"
    conf.write_text("[server]\nthreads = 2\n")
    server = start("--config", str(conf), env=watched.environment(WATCHDOG_USEC=microseconds(PERIOD_S)))
    ended = threading.Event()

    def crowd() -> None:
        while not ended.is_set():
            server.request("GET", "vms")

    clients = [threading.Thread(target=crowd) for _ in range(20)]
    for client in clients:
        client.start()
    try:
        for _ in range(5):
            watched.wait_for("WATCHDOG=1")
    finally:
        ended.set()
        for client in clients:
            client.join()


def test_the_watchdog_of_another_process_is_not_ours() -> None:
    environ = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert Systemd(dict(environ)).watchdog_s == 0
    assert Systemd(environ | {"WATCHDOG_PID": str(os.getpid())}).watchdog_s == 1
    assert Systemd({"WATCHDOG_USEC": "1000000"}).watchdog_s == 1
    assert Systemd({"WATCHDOG_USEC": "nonsense"}).watchdog_s == 0


# --- Messages --------------------------------------------------------------------------------------------------------


def test_without_systemd_nothing_is_sent_anywhere() -> None:
    with mock.patch("socket.socket", side_effect=AssertionError("it sends")):
        Systemd({}).tell("READY=1")
        Systemd({"NOTIFY_SOCKET": "vsock:2:1234"}).tell("READY=1")


def test_what_it_starts_is_not_taken_for_it() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/root"}
    Systemd(environ)
    assert environ == {"HOME": "/root"}


def test_a_line_is_a_line(watched: Manager) -> None:
    Systemd(watched.environment()).tell("STATUS=a\nREADY=1")
    assert watched.hear() == ["STATUS=a READY=1"]


# --- The unit --------------------------------------------------------------------------------------------------------


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text("ascii")
    unit = tmp_path / "cloner.service"
    unit.write_text(text.replace("/opt/cloner/bin/cloner", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_finds_the_service_well_confined() -> None:
    argv = ["systemd-analyze", "security", "--offline=yes", "--threshold=30", "--no-pager", str(UNIT)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def service() -> dict[str, list[str]]:
    """The unit's section [Service]: every value of every key."""
    found: dict[str, list[str]] = {}
    section = UNIT.read_text("ascii").partition("\n[Service]\n")[2].partition("\n[")[0]
    for line in section.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_does_what_the_server_does() -> None:
    found = service()
    assert found["Type"] == ["notify"]
    assert float(found["WatchdogSec"][0]) >= 30  # a third of it is how long an answer may take
    assert float(found["TimeoutStopSec"][0]) > 5  # which the server promises to need at most
    assert found["StateDirectory"] == ["cloner"]
    assert "--connect qemu:///system" in found["ExecStart"][0]  # never the demo, which is taken when libvirt is away
    assert found["Restart"] == ["on-failure"]


def test_the_one_time_link_does_not_get_into_the_journal_and_the_log_does(server: Server) -> None:
    assert (service()["StandardOutput"], service()["StandardError"]) == (["null"], ["journal"])
    assert "once=" in server.ready_line
    assert "once=" not in server.log
    assert f"ready at http://127.0.0.1:{server.address[1]}" in server.log
