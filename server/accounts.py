"""Users of the system, for tokens that act for them: which groups they are in.

The system is asked in a process of its own (system_user.py), for a bounded time and without holding a lock, so that a
name service that hangs keeps only those waiting whom it is about. What it says is good for a minute.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import errors
from ..callers import CLONE, USER, Caller

PATIENCE_S = 10.0
"""How long the system may take to answer."""

_KEPT_S = 60.0
_MOST_KEPT = 1000
_PROGRAM = Path(__file__).with_name("system_user.py")


@dataclass
class _Known:
    """What the system said of a user, or is being asked."""

    until: float
    caller: Future[Caller | None] = field(default_factory=Future)


class Accounts:
    """The users of the system as callers. Methods raise LoginUnavailable when the system does not answer in time."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def caller(self, user: str) -> Caller | None:
        """The caller that a user is now, asked for at most once a minute; None for one who may not come in."""
        now = time.monotonic()
        with self._lock:
            known = self._known.get(user)
            is_known = known is not None and known.until > now
            if known is None or not is_known:
                self._known[user] = known = _Known(now + _KEPT_S)
            while len(self._known) > _MOST_KEPT:
                del self._known[next(iter(self._known))]
        if not is_known:
            self._look_up(user, known)
        try:
            return known.caller.result(PATIENCE_S + 1)
        except (CancelledError, TimeoutError):
            raise errors.LoginUnavailable from None

    def _look_up(self, user: str, known: _Known) -> None:
        """Answers everybody who waits; when that fails they are told so, and the next one asks anew."""
        try:
            known.caller.set_result(self._judged(user, _ask({"user": user})))
        finally:
            if known.caller.cancel():
                with self._lock:
                    self._known.pop(user, None)

    def _judged(self, user: str, said: dict[str, Any]) -> Caller | None:
        return Caller(said["name"] or user, frozenset(said["groups"]), USER, CLONE)


def _ask(question: dict[str, Any]) -> dict[str, Any]:
    """What the program says. Raises LoginUnavailable."""
    with subprocess.Popen(
        [sys.executable, "-P", str(_PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # so that it can be ended with all that it started
    ) as program:
        try:
            said, _ = program.communicate(json.dumps(question).encode(), PATIENCE_S)
        except subprocess.TimeoutExpired:
            said = b""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
    try:
        found: dict[str, Any] = json.loads(said)
    except ValueError:
        raise errors.LoginUnavailable from None
    return found
