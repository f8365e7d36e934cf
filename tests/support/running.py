"""Running commands and waiting for things: always bounded, always with the reason in the error."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

COMMAND_TIMEOUT = 60.0  # seconds
POLL_INTERVAL = 0.02  # seconds, at first
_PART = 20
"""What has been waited for some time is looked at less often: after a part of that time."""


class CommandError(RuntimeError):
    """A command ended with an exit code other than 0; the message has the command, the code and stderr."""


def run(*argv: str | Path, timeout: float = COMMAND_TIMEOUT) -> str:
    """Run a command and return its stdout.

    Raises CommandError when it fails, FileNotFoundError when it is missing, subprocess.TimeoutExpired after
    `timeout` seconds.
    """
    words = [str(word) for word in argv]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise CommandError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def run_as_root(*argv: str | Path, timeout: float = COMMAND_TIMEOUT) -> str:
    """Like run, through `sudo -n` when we are not root ourselves (loop mounts need it)."""
    prefix = () if os.geteuid() == 0 else ("sudo", "-n")
    return run(*prefix, *argv, timeout=timeout)


def wait_until(condition: Callable[[], object], timeout: float, what: str, log: Callable[[], str] = str) -> None:
    """Poll until `condition` is true.

    Raises TimeoutError after `timeout` seconds; its message says what was waited for and ends with `log()`.
    """
    begun = time.monotonic()
    while not condition():
        waited = time.monotonic() - begun
        if waited > timeout:
            raise TimeoutError(f"{what}: not within {timeout:g} s\n{log()}".rstrip())
        time.sleep(max(POLL_INTERVAL, waited / _PART))


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a log file; empty when there is none."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
