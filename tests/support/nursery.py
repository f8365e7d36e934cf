"""Pythons that start at once: `spawn([sys.executable, "-m", "cloner", …])` is a fork of a process that waits for it.

Tests start some thousand servers and commands. Each is a process of its own, which has its own environment and runs the
module as its `__main__`. What it is spared is the loading of modules, nine tenths of the processor's time of a start:
its parent has done that once. Inside Wok cloner has another name, so there are two such parents for each process of
pytest: one that has loaded libraries alone, and one that has loaded cloner too.

Run as a program, with the number of a socket, this file is the parent.
"""

from __future__ import annotations

import atexit
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

LIBRARIES = (
    "cherrypy._cpwsgi_server",
    "cheroot.ssl.builtin",
    "email.parser",
    "jsonschema",
    "libvirt",
    "lxml.builder",
    "lxml.etree",
    "prometheus_client",
    "re2",
    "rich.live",
    "rich.table",
    "sqlalchemy.dialects.sqlite",
    "multiprocessing.util",
    "tempfile",
)
"""What they load of others, where it is installed."""

OURS = ("cloner.client.commands", "cloner.server.commands", "cloner.server.http")
"""Which load the rest of ours."""

_INSIDE_WOK = "support.wok"
"""The module whose process has another name for ours."""

_READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_")
"""How variables begin that Python, or the system before it, looks at when it starts."""

_TAKEN_OVER = ("PYTHONPATH", "PYTHONUNBUFFERED")
"""Those of them that a fork can be given; a path only if it is this one, on which there are no libraries."""

_TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_BYTES = 1 << 20
"""More than a command and its environment have."""

_FILES = 4
"""What is sent with a command: its input, its outputs, and where to tell what becomes of it."""


class Forked:
    """A process that was forked in the nursery: as much of subprocess.Popen as is needed."""

    def __init__(self, argv: Sequence[str], told: int) -> None:
        self._argv = argv
        self._told = os.fdopen(told, "rb", buffering=0)
        self.pid = int(self._line())
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def __del__(self) -> None:
        self._told.close()  # not sooner: several threads may look at once

    def poll(self) -> int | None:
        """As Popen.poll."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """As Popen.wait."""
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self._argv, timeout or 0.0)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """As Popen.send_signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """As Popen.terminate."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """As Popen.kill."""
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], timeout)[0]:
            with self._lock:
                if self.returncode is None:
                    self.returncode = int(self._line())
        return self.returncode

    def _line(self) -> bytes:
        line = self._told.readline()
        if not line:
            raise RuntimeError("the nursery has ended")
        return line


class _Nursery:
    """A parent, as this process has it; it ends when this one does."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.environment = dict(os.environ)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BYTES)
        with theirs:
            argv = [sys.executable, "-P", __file__, str(theirs.fileno()), *modules]
            self._process = subprocess.Popen(
                argv,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for pytest
            )
        self._socket = ours
        atexit.register(self._close)

    def fork(self, argv: Sequence[str], command: Mapping[str, object], files: Sequence[int]) -> Forked:
        reading, writing = os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps(command).encode()], [*files, writing])
        finally:
            os.close(writing)
        return Forked(argv, reading)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()


is_open = False
"""Whether there are forks; the rules of our tests say so. What a bench measures is started as users start it."""

_nurseries: dict[bool, _Nursery] = {}
_lock = threading.Lock()


def spawn(
    argv: Sequence[str],
    env: Mapping[str, str],
    stdout: int,
    stderr: int,
    *,
    cwd: str = "/",
    start_new_session: bool = False,
) -> Forked | subprocess.Popen[bytes]:
    """Starts `argv` with no input, as Popen would; it is a fork if it is a module, and nothing is in the way."""
    words = [word for word in argv[1:] if word != "-P"]
    if is_open and argv[0] == sys.executable and words[0] == "-m":
        nursery = _nursery(inside_wok=words[1] == _INSIDE_WOK)
        if not _differs_at_start(env, nursery.environment):
            command = {"argv": words[1:], "env": dict(env), "cwd": cwd, "session": start_new_session}
            with open(os.devnull, "rb") as silence:
                return nursery.fork(argv, command, [silence.fileno(), stdout, stderr])
    return subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=start_new_session,
    )


def run(
    argv: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """What a command said, as subprocess.run has it. Raises TimeoutExpired when it does not end in so many seconds."""
    outputs = [os.memfd_create("stdout"), os.memfd_create("stderr")]  # which cannot fill up, as a pipe can
    try:
        process = spawn(argv, os.environ if env is None else env, *outputs)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        out, err = (os.pread(output, os.fstat(output).st_size, 0).decode() for output in outputs)
    finally:
        for output in outputs:
            os.close(output)
    return subprocess.CompletedProcess(argv, status, out, err)


def _nursery(*, inside_wok: bool) -> _Nursery:
    with _lock:
        if inside_wok not in _nurseries:
            _nurseries[inside_wok] = _Nursery(LIBRARIES if inside_wok else LIBRARIES + OURS)
        return _nurseries[inside_wok]


def _differs_at_start(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    names = {name for name in {*one, *other} if name.startswith(_READ_AT_START)}
    is_path_other = one.get("PYTHONPATH") not in (other.get("PYTHONPATH"), _TESTS)
    return is_path_other or any(one.get(name) != other.get(name) for name in names - {*_TAKEN_OVER})


# --- The parent ------------------------------------------------------------------------------------------------------


def _main(control: socket.socket, modules: Sequence[str]) -> None:
    """Forks until nobody can ask for it any more; in a fork, runs what was asked for."""
    for module in modules:
        with suppress(ImportError):  # it is optional, and absent here; or what asks for it will say why
            importlib.import_module(module)
    told: dict[int, tuple[int, int]] = {}  # a process's handle: its pid, and where to tell its end
    while True:
        handles = [control.fileno(), *told]
        for ready in select.select(handles, [], [])[0]:
            if ready in told:
                pid, where = told.pop(ready)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.close(ready)
                _tell(where, status)
                os.close(where)
                continue
            data, files, _, _ = socket.recv_fds(control, _BYTES, _FILES)
            if not data:
                return
            pid = os.fork()
            if pid == 0:
                control.detach()  # its number may be another file's by the time that it is closed
                _become(json.loads(data), files)
                return
            for number in files[:-1]:
                os.close(number)
            _tell(files[-1], pid)
            told[os.pidfd_open(pid)] = (pid, files[-1])


def _tell(where: int, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody wants to know
        os.write(where, b"%d\n" % number)


def _become(command: Mapping[str, object], files: Sequence[int]) -> None:
    """Turns a fork into the process that was asked for."""
    argv, env = command["argv"], command["env"]
    assert isinstance(argv, list)
    assert isinstance(env, dict)
    if command["session"]:
        os.setsid()
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    os.closerange(3, max(os.sysconf("SC_OPEN_MAX"), 3))
    os.chdir(str(command["cwd"]))
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.path[0:0] = [place for place in env.get("PYTHONPATH", "").split(os.pathsep) if place and place not in sys.path]
    is_unbuffered = bool(env.get("PYTHONUNBUFFERED"))
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(line_buffering=stream is sys.stderr or stream.isatty(), write_through=is_unbuffered)
    sys.argv = list(argv)
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
