"""`cloner ls` and the like as real processes: in a pipe, where programs read, or on a terminal, where people do."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from support import nursery
from support.running import wait_until
from support.server import MOUNT_POINT, TOKEN, Server

TIMEOUT = 60.0  # seconds
ROWS, COLUMNS = 24, 80


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


def cloner(server: Server | str, *args: str, env: Mapping[str, str] | None = None) -> Done:
    """Run a command of the client in pipes. `server` is one, or the address of something else."""
    done = nursery.run([sys.executable, "-m", "cloner", *args], environment(server, env), TIMEOUT)
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def environment(server: Server | str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the client learns of the server; nothing of the tests' own terminal."""
    url = server if isinstance(server, str) else server.base.removesuffix(MOUNT_POINT)
    unwanted = ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    inherited = {name: value for name, value in os.environ.items() if name not in unwanted}
    known = {"CLONER_URL": url, "CLONER_TOKEN": TOKEN if isinstance(server, str) else server.token}
    return inherited | known | {"TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"} | dict(more or {})


class Running:
    """A command that goes on: `with Running(server, "clone", "web", "--wait") as command: command.until("finished")`.

    On a pseudo-terminal of 80 columns and 24 rows (man 7 pty) if `on_terminal`, else in a pipe; both outputs go there.
    """

    def __init__(
        self, server: Server | str, *args: str, on_terminal: bool = False, env: Mapping[str, str] | None = None
    ) -> None:
        self._reading, writing = pty.openpty() if on_terminal else os.pipe()
        if on_terminal:
            fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
        self._said = bytearray()
        argv = [sys.executable, "-m", "cloner", *args]
        self._process = nursery.spawn(argv, environment(server, env), writing, writing)
        os.close(writing)
        os.set_blocking(self._reading, False)

    @property
    def text(self) -> str:
        """All that it said so far, with the line ends of a pipe."""
        with suppress(OSError):  # nothing for now; and of a terminal that nobody writes to any more
            while more := os.read(self._reading, 65536):
                self._said += more
        return self._said.decode(errors="replace").replace("\r\n", "\n")

    def until(self, words: str) -> None:
        """Wait until it has said something. TimeoutError, with what it said, after TIMEOUT; it may not end before."""

        def said_or_ended() -> bool:
            ended = self._process.poll() is not None  # looked at first, so that its last words are heard
            return words in self.text or ended

        wait_until(said_or_ended, TIMEOUT, f"it says {words!r}", lambda: self.text)
        assert words in self.text, self.text

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def end(self) -> int:
        """Wait for its end; the exit status. TimeoutError, with what it said, after TIMEOUT."""
        wait_until(lambda: [self.text, self._process.poll()][1] is not None, TIMEOUT, "it ends", lambda: self.text)
        assert "Traceback" not in self.text, self.text
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(TIMEOUT)
        os.close(self._reading)


def on_terminal(server: Server | str, *args: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command on a terminal; its exit status and all that it wrote."""
    with Running(server, *args, on_terminal=True, env=env) as command:
        return command.end(), command.text


def fields(text: str) -> Sequence[Sequence[str]]:
    """The fields of each line, for programs."""
    return [line.split("\t") for line in text.splitlines()]
