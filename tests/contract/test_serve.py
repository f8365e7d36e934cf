"""`cloner serve` left to itself: which libvirt it takes, and how many clients it keeps waiting without losing one."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from unittest import mock

import pytest

from cloner.server import cli
from cloner.settings import Settings, demo_uri
from support.answers import parsed
from support.running import wait_until
from support.server import MOUNT_POINT, Server

# --- Without --connect and --demo ------------------------------------------------------------------------------------


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a plain user's libvirt sockets, with none in it."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "libvirt"
    folder.mkdir()
    return folder


@pytest.fixture
def listen() -> Iterator[Callable[[Path], None]]:
    """Listen on a unix socket until the test ends."""
    with ExitStack() as sockets:

        def begin(path: Path) -> None:
            listener = sockets.enter_context(closing(socket.socket(socket.AF_UNIX)))
            listener.bind(str(path))
            listener.listen()

        yield begin


def leave_behind(path: Path) -> None:
    """A socket's file as a libvirtd that died leaves it: nobody listens there."""
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))


def chosen(tmp_path: Path, *args: str) -> Settings:
    """What `cloner serve` would work on, with a configuration file that says nothing."""
    silent = tmp_path / "silent.conf"
    silent.touch()
    options = cli.parser().parse_args(["serve", "--config", str(silent), *args])
    return cli._settings(options, ("connect", "host", "port", "state_dir", "auth"))


@pytest.mark.parametrize("name", ["libvirt-sock", "virtqemud-sock"])
def test_the_hosts_libvirt_is_taken_when_it_listens(
    runtime: Path, tmp_path: Path, listen: Callable[[Path], None], name: str
) -> None:
    listen(runtime / name)
    assert chosen(tmp_path).connect == "qemu:///session"


def test_the_modular_libvirt_is_taken_beside_the_socket_of_a_libvirtd_that_died(
    runtime: Path, tmp_path: Path, listen: Callable[[Path], None]
) -> None:
    leave_behind(runtime / "libvirt-sock")
    listen(runtime / "virtqemud-sock")
    assert chosen(tmp_path).connect == "qemu:///session"


def test_the_demo_is_taken_when_nobody_listens_on_the_sockets(runtime: Path, tmp_path: Path) -> None:
    for name in ("libvirt-sock", "virtqemud-sock"):
        leave_behind(runtime / name)
    settings = chosen(tmp_path)
    assert settings.connect == demo_uri()
    assert settings.is_demo


def test_the_demo_is_taken_when_there_is_no_socket(runtime: Path, tmp_path: Path) -> None:
    assert chosen(tmp_path).connect == demo_uri()


def test_what_was_asked_for_is_taken_whoever_listens(
    runtime: Path, tmp_path: Path, listen: Callable[[Path], None]
) -> None:
    listen(runtime / "libvirt-sock")
    assert chosen(tmp_path, "--demo").connect == demo_uri()
    assert chosen(tmp_path, "--connect", "qemu+ssh://far/system").connect == "qemu+ssh://far/system"


@pytest.mark.parametrize(
    ("user", "variable", "folder", "uri"),
    [
        (0, "/run/user/0", "/run", "qemu:///system"),
        (1000, "/somewhere", "/somewhere", "qemu:///session"),
        (1000, None, "/run/user/1000", "qemu:///session"),
    ],
    ids=["root", "user", "user-without-XDG_RUNTIME_DIR"],
)
def test_the_sockets_are_looked_for_where_libvirt_puts_them_for_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, variable: str | None, folder: str, uri: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if variable is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", variable)
    with mock.patch.object(cli, "_answers", side_effect=lambda path: path.name == "virtqemud-sock") as asked:
        assert chosen(tmp_path).connect == uri
    looked_at = [call.args[0] for call in asked.call_args_list]
    assert looked_at == [Path(folder, "libvirt", name) for name in ("libvirt-sock", "virtqemud-sock")]


# --- Connections that wait -------------------------------------------------------------------------------------------


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for thousands of descriptors, here and in the servers that are started."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 4096), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_1100_connections_wait_for_a_server_that_is_held_up_and_are_answered_then(
    many_files: None, start: Callable[..., Server]
) -> None:
    server = start("--auth", "none")
    host, port = server.address
    question = f"GET {MOUNT_POINT}/config HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
    with ExitStack() as connections:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            waiting = [
                connections.enter_context(socket.create_connection(server.address, timeout=5)) for _ in range(1100)
            ]
            asking = waiting[::100]
            for connection in asking:
                connection.sendall(question)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        for connection in asking:
            connection.settimeout(30)
            said = b"".join(iter(lambda taken=connection: taken.recv(65536), b""))  # type: ignore[misc]
            assert parsed(said).status == 200


# --- Its end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_to_any_thread_ends_it(start: Callable[..., Server], number: signal.Signals) -> None:
    """The kernel gives it to one that it finds, and Python handles it in the first."""
    server = start()
    threads = {int(each.name) for each in Path(f"/proc/{server.pid}/task").iterdir()} - {server.pid}
    assert ctypes.CDLL(None, use_errno=True).tgkill(server.pid, max(threads), int(number)) == 0
    wait_until(lambda: not server.running, 10, f"{number.name} ends the server", lambda: server.log)
