"""Users of the system: which groups they are in, and by PAM whether a password is theirs.

The system is asked in a process of its own (system_user.py), for a bounded time and without holding a lock, so that a
name service or a PAM module that hangs keeps only those waiting whom it is about. Which groups a user is in is good for
a minute.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import errors
from ..callers import ADMIN, CLONE, FIRST_ADMIN, USER, Caller
from ..settings import Settings, listed

log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""How long the system may take to answer."""

CHECKS = 8
"""How many passwords are checked at the same time, half of them for one address at most."""

MOST_WAITING = 8
"""How many log-ins wait until one of these is over, since each keeps a thread; more are told to come back."""

SERVICE_FOLDERS = ("/etc/pam.d", "/usr/lib/pam.d", "/usr/local/etc/pam.d")
_FALLBACK = "login"
_TURN_S = 3.0
_KEPT_S = 60.0
_MOST_KEPT = 1000
_PROGRAM = Path(__file__).with_name("system_user.py")
_KEPT_OUTPUT = 1000


@dataclass(frozen=True)
class Rules:
    """Who may log in by PAM, and as what: by the groups that a user is in. Others may not."""

    service: str
    admin_groups: frozenset[str]
    user_groups: frozenset[str]

    def role(self, groups: frozenset[str]) -> str | None:
        if groups & self.admin_groups:
            return ADMIN
        return USER if groups & self.user_groups else None


def rules(settings: Settings) -> Rules:
    """Those of the configuration; a service that the host does not have is `login`."""
    has_service = any(Path(folder, settings.pam_service).is_file() for folder in SERVICE_FOLDERS)
    service = settings.pam_service if has_service else _FALLBACK
    log.info("passwords are checked by the PAM service %s", service)
    return Rules(service, frozenset(listed(settings.admin_groups)), frozenset(listed(settings.user_groups)))


@dataclass
class _Known:
    """What the system said of a user, or is being asked."""

    until: float
    caller: Future[Caller | None] = field(default_factory=Future)


class Accounts:
    """The users of the system as callers. Methods raise LoginUnavailable when the system does not answer in time.

    Args:
        rules: for log-ins by PAM; without them nobody logs in, and tokens may act for every user.
    """

    def __init__(self, rules: Rules | None = None) -> None:
        self._rules = rules
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self._checks: Counter[str] = Counter()
        self._checked = threading.Condition()
        self._waiting = 0

    def log_in(self, user: str, password: str, address: str) -> Caller | None:
        """Who it is that has this password; None for one who may not come in."""
        if self._rules is None or not user or not password:
            return None
        question = {"user": user, "password": password, "address": address, "service": self._rules.service}
        with self._turn(address):
            said = _ask(question)
        return self._judged(user, said) if said["right"] else None

    @contextmanager
    def _turn(self, address: str) -> Iterator[None]:
        """Some who guess passwords must not keep everybody else from logging in, nor fill the host with processes."""

        def is_free() -> bool:
            return self._checks.total() < CHECKS and self._checks[address] < CHECKS // 2

        with self._checked:
            if not is_free() and self._waiting >= MOST_WAITING:
                raise errors.LoginUnavailable
            self._waiting += 1
            has_turn = self._checked.wait_for(is_free, _TURN_S)
            self._waiting -= 1
            if not has_turn:
                raise errors.LoginUnavailable
            self._checks[address] += 1
        try:
            yield
        finally:
            with self._checked:
                self._checks[address] -= 1
                self._checks += Counter()  # forgets addresses of which none is left
                self._checked.notify_all()

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
        """Without rules every user is one, known to the system or not."""
        name, groups = said["name"] or user, frozenset(said["groups"])
        role = USER if self._rules is None else self._rules.role(groups)
        if role is None or (self._rules and name == FIRST_ADMIN and role == USER):  # the name is somebody else's here
            log.info("user %s is in none of the groups that may come in, or has the first admin's name", name)
            return None
        return Caller(name, groups, role, ADMIN if role == ADMIN else CLONE)


def _ask(question: dict[str, Any]) -> dict[str, Any]:
    """What the program says. Raises LoginUnavailable."""
    with subprocess.Popen(
        [sys.executable, "-P", str(_PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name not in ("CLONER_TOKEN", "DISPLAY")},
        start_new_session=True,  # so that it can be ended with all that it started
    ) as program:
        try:
            said, complaint = program.communicate(json.dumps(question).encode(), PATIENCE_S)
        except subprocess.TimeoutExpired:
            said, complaint = b"", b"no answer in time"
            os.killpg(program.pid, signal.SIGKILL)
    try:
        found: dict[str, Any] = json.loads(said)
    except ValueError:
        log.error(
            "the system does not tell of a user: %s", errors.plain(complaint[-_KEPT_OUTPUT:].decode("utf-8", "replace"))
        )
        raise errors.LoginUnavailable from None
    return found
