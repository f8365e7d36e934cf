"""`cloner serve`: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import http.client
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from cloner import errors
from cloner.server import cli
from cloner.settings import Settings
from support import nursery
from support.answers import at_once, cloned
from support.server import Server


def refused(*args: str, folder: Path) -> str:
    """What `cloner serve --demo` says when it is refused: with status 2, in one line, and without a stack."""
    argv = [sys.executable, "-m", "cloner", "serve", "--demo", "--port", "0", "--state-dir", str(folder), *args]
    environment = {name: value for name, value in os.environ.items() if name != "CLONER_TOKEN"}
    done = nursery.run(argv, environment)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def refused_before_the_start(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The same in this process, in a hundredth of the time, for what must be refused before anything begins."""
    with mock.patch("cloner.server.http.mount", side_effect=AssertionError("it starts")):
        try:
            status = cli.main(["serve", "--demo", "--port", "0", *args])
        except SystemExit as ended:  # argparse's way
            status = int(ended.code or 0)
    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    return said.err.splitlines()[-1]


def config_file(folder: Path, text: str) -> str:
    path = folder / "cloner.conf"
    path.write_text(text)
    return str(path)


# --- The ready line --------------------------------------------------------------------------------------------------


def test_the_ready_line_is_one_line_with_the_address_to_open(start: Callable[..., Server]) -> None:
    server = start()
    assert re.fullmatch(
        r"cloner \d+\.\d+\.\d+ is ready: open http://127\.0\.0\.1:\d+/\?once=[\w-]{40,}", server.ready_line
    )


def test_it_says_loudly_that_it_is_the_demo(server: Server) -> None:
    assert "DEMO" in server.log


def test_port_0_picks_a_free_one(server: Server, start: Callable[..., Server]) -> None:
    assert 0 not in {server.address[1], start().address[1]}
    assert server.request("GET", "config").status == 200


def test_the_command_line_comes_before_the_file(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start(
        "--config", config_file(tmp_path, "[server]\nport = 1\nauth = token\nthreads = 4\n"), "--auth", "none"
    )
    assert server.address[1] != 1
    assert server.request("GET", "config", anonymous=True).status == 200


# --- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - that is what must not be
def test_auth_none_is_refused_where_others_can_come_in(tmp_path: Path, host: str) -> None:
    said = refused("--auth", "none", "--host", host, folder=tmp_path)
    assert said.startswith("cloner: CLNCONF0001E: ")
    assert host in said
    assert "loopback" in said


@pytest.mark.parametrize(
    "host", ["", "*", "0", "192.168.0.1", "fe80::1", "example.org", "localhost.example.org", "127.0.0.1.example.org"]
)
def test_auth_none_is_refused_on_whatever_is_no_loopback_address(host: str) -> None:
    with pytest.raises(errors.InvalidConfiguration):
        cli._refuse_open_door(Settings(auth="none", host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_auth_none_is_fine_on_loopback(host: str) -> None:
    cli._refuse_open_door(Settings(auth="none", host=host))


def test_a_port_that_is_in_use_is_refused_and_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("--port", str(port), folder=tmp_path)
    assert str(port) in said
    assert "in use" in said
    assert list(tmp_path.iterdir()) == []  # nothing was begun


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_refused_and_named(capsys: pytest.CaptureFixture[str], host: str) -> None:
    assert host in refused_before_the_start(capsys, "--host", host)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[cloner]\nnope = 1\n", "nope"),
        ("[server]\nworkerz = 1\n", "workerz"),
        ("[cloner]\nworkers = many\n", "workers"),
        ("[cloner]\nworkers = 0\n", "workers"),
        ("[cloner]\nkeep_tasks_hours = -1\n", "keep_tasks_hours"),
        ("[cloner]\nkeep_tasks_hours = nan\n", "keep_tasks_hours"),
        ("[server]\nauth = maybe\n", "auth"),
        ("[server]\nthreads = 1\n", "threads"),
        ("[server]\nsession_minutes = 0\n", "session_minutes"),
        ("[server]\nauth = pam\n", "admin_groups"),
        ("nonsense\n", "cloner.conf"),
    ],
)
def test_a_setting_that_is_none_is_refused_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, named: str
) -> None:
    said = refused_before_the_start(capsys, "--config", config_file(tmp_path, text))
    assert said.startswith("cloner: CLNCONF0001E: ")
    assert named in said


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--port", "99999"), "port"),
        (("--port", "-1"), "port"),
        (("--port", "http"), "--port"),
        (("--auth", "maybe"), "--auth"),
        (("--connect", "test:///default"), "--connect"),  # not with --demo
        (("--nope",), "--nope"),
        (("--config", "/no/such/file"), "/no/such/file"),
        (("--tls-cert", "/no/such/file"), "/no/such/file"),
        (("--tls-cert", "/dev/null"), "/dev/null"),
        (("--tls-key", "/dev/null"), "tls_key"),
    ],
)
def test_an_argument_that_is_none_is_refused_and_named(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], named: str
) -> None:
    assert named in refused_before_the_start(capsys, *args)


def test_pam_without_its_package_is_refused_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = config_file(tmp_path, "[server]\nauth = pam\nuser_groups = staff\n")
    with mock.patch("cloner.server.http.find_spec", return_value=None):
        said = refused_before_the_start(capsys, "--config", conf)
    assert said.startswith("cloner: CLNCONF0001E: ")
    assert "python-pam" in said


@pytest.mark.parametrize("folder", ["/proc/nope", "/dev/null"])
def test_a_state_directory_that_cannot_be_is_refused_and_named(folder: str) -> None:
    assert folder in refused(folder=Path(folder))


def test_an_empty_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    assert str(tmp_path / "token") in refused(folder=tmp_path)


# --- How it ends -----------------------------------------------------------------------------------------------------


def test_told_to_stop_it_exits_with_0(start: Callable[..., Server]) -> None:
    server = start()
    cloned(server, "vms/web")
    assert server.terminate() == 0
    assert "Traceback" not in server.log


def tells_when_taken_apart(folder: Path) -> tuple[Path, dict[str, str]]:
    """A file that Python makes as it is taken apart, and the variables with which it does."""
    taken_apart = folder / "taken apart"
    text = f"import atexit, pathlib\natexit.register(pathlib.Path({str(taken_apart)!r}).touch)\n"
    (folder / "sitecustomize.py").write_text(text)
    return taken_apart, {"PYTHONPATH": str(folder)}


def test_told_to_stop_it_leaves_without_taking_python_apart(start: Callable[..., Server], tmp_path: Path) -> None:
    """Libvirt may call into Python from another thread in that moment, and the server would crash."""
    taken_apart, env = tells_when_taken_apart(tmp_path)
    server = start(folder=tmp_path / "state", env=env)
    assert server.terminate() == 0
    assert not taken_apart.exists()
    assert nursery.run([sys.executable, "-m", "cloner", "--version"], {**os.environ, **env}).returncode == 0
    assert taken_apart.exists(), "of another command it is told"


@pytest.mark.parametrize("command", ["audit", "recover"])
def test_so_does_what_works_on_the_host_without_serving(tmp_path: Path, command: str) -> None:
    """One of 80 audits crashed, and so did not end with what it had found."""
    taken_apart, env = tells_when_taken_apart(tmp_path)
    argv = [sys.executable, "-m", "cloner", command, "--demo", "--state-dir", str(tmp_path / "state")]
    ended = nursery.run(argv, {**os.environ, **env})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout
    assert not taken_apart.exists()


def test_told_to_stop_under_load_it_exits_with_0(start: Callable[..., Server]) -> None:
    """Requests that are being served are answered or cut off, and nothing hangs."""
    server = start()

    def ask(number: int) -> None:
        if number == 10:
            assert server.terminate() == 0
            return
        try:
            while server.running:
                server.request("POST", "vms/web/clone")
        except (OSError, http.client.HTTPException):
            pass  # nobody listens any more

    at_once(20, ask)
    assert "Traceback" not in server.log


def test_told_to_stop_with_connections_open_it_exits_with_0(start: Callable[..., Server]) -> None:
    server = start()
    idle = [socket.create_connection(server.address) for _ in range(20)]
    half = [socket.create_connection(server.address) for _ in range(150)]  # more than there are threads
    for connection in half:
        connection.sendall(b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
    try:
        assert server.terminate() == 0
    finally:
        for connection in (*idle, *half):
            connection.close()


def test_told_to_stop_while_a_request_hangs_it_exits_with_0(start: Callable[..., Server], tmp_path: Path) -> None:
    """Here the journal is held by somebody else; with a libvirtd that does not answer it is the same."""
    server = start()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as journal, ThreadPoolExecutor(1) as client:
        journal.execute("BEGIN IMMEDIATE")
        hanging = client.submit(server.request, "POST", "vms/web/clone")
        assert server.request("GET", "config").status == 200
        assert server.terminate() == 0
        assert isinstance(hanging.exception(), OSError | http.client.HTTPException)


@pytest.mark.parametrize("args", [("--help",), ("serve", "--help"), ("--version",)])
def test_help_is_given(args: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", "cloner", *args], cwd="/", capture_output=True, text=True, check=True)
    assert "cloner" in done.stdout
