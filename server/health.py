"""`/livez` and `/readyz`: whether the server serves, and whether it can clone now, for whoever watches over it.

Both answer without log-in, so they give nothing away, and so no question may cost more than the one before it: a check
runs in a thread of its own, once at a time, and what it finds is everybody's answer for a second. What may hang, hangs
there. libvirt is not asked at all; the keeper of its connections knows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, ClassVar

import cherrypy

from .. import errors
from ..control.base import Answer, Controller, Request, error_content, route
from ..model.services import Services

log = logging.getLogger(__name__)

_PATIENCE_S = 1.0
_FRESH_S = 1.0

OK = "ok"
NO_ANSWER = f"no answer within {_PATIENCE_S:g} s"
NOT_WRITABLE = "cannot be written now"
NOT_CONNECTED = "not connected"

_NEVER_STORED = {"Cache-Control": "no-store"}


class Check:
    """Something that is looked at again when somebody asks, if what is known of it is no longer fresh.

    Args:
        name: what the log calls it.
        look: raises a ClonerError when it is not well; may take any time.
        words: what is said of that error to anybody, who is not told its cause.
    """

    def __init__(self, name: str, look: Callable[[], None], words: str) -> None:
        self._name = name
        self._look = look
        self._words = words
        self._lock = threading.Lock()
        self._latest: Future[str] | None = None
        self._begun = 0.0
        self._told = OK

    def ask(self) -> str:
        """`ok`, or what is wrong; after _PATIENCE_S seconds at the latest."""
        with self._lock:
            if self._latest is None or (self._latest.done() and time.monotonic() > self._begun + _FRESH_S):
                self._latest, self._begun = Future(), time.monotonic()
                threading.Thread(target=self._answer, args=(self._latest,), name="health", daemon=True).start()
            latest, until = self._latest, self._begun + _PATIENCE_S
        try:
            return latest.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            return NO_ANSWER

    def _answer(self, future: Future[str]) -> None:
        words, cause = OK, ""
        try:
            self._look()
        except errors.ClonerError as error:
            words, cause = self._words, error.reason
        except Exception:  # whoever asks must be answered; the stack is in the log
            log.exception("the %s cannot be looked at", self._name)
            words = self._words
        if words != self._told:
            self._tell(words, cause)
        future.set_result(words)

    def _tell(self, words: str, cause: str) -> None:
        """Of a change, and not of each look."""
        self._told = words
        if words == OK:
            log.warning("the %s is well again", self._name)
        else:
            log.warning("the %s is not well: %s", self._name, cause or words)


class Livez(Controller):
    """Answers as long as there is a thread to answer, and the server is not on its way out."""

    url_auth: ClassVar[bool] = False

    @route("GET", "")
    def lookup(self, _request: Request) -> Answer:
        if is_stopping():
            raise errors.ShuttingDown
        return Answer({"alive": True}, headers=_NEVER_STORED)


class Readyz(Controller):
    """Whether a clone that is asked for now would be accepted, as far as that lies with the server."""

    url_auth: ClassVar[bool] = False

    def __init__(self, services: Services) -> None:
        self._journal = Check("journal", services.journal.check, NOT_WRITABLE)
        self._connections = services.connections

    @route("GET", "")
    def lookup(self, _request: Request) -> Answer:
        if is_stopping():
            raise errors.ShuttingDown
        checks = {
            "journal": self._journal.ask(),
            "libvirt": OK if self._connections.is_connected else NOT_CONNECTED,
        }
        return Answer({"ready": True, "checks": checks}, headers=_NEVER_STORED) if _are_ok(checks) else _not_yet(checks)


def is_stopping() -> bool:
    """Whether the process has begun to end."""
    states = cherrypy.engine.states
    return cherrypy.engine.state in (states.STOPPING, states.STOPPED, states.EXITING)


def _are_ok(checks: Mapping[str, str]) -> bool:
    return all(words == OK for words in checks.values())


def _not_yet(checks: Mapping[str, str]) -> Answer:
    """An error in the shape of all others, and in the shape of what is said when all is well."""
    error = errors.NotReady(checks="; ".join(f"{name}: {words}" for name, words in checks.items() if words != OK))
    content: dict[str, Any] = {**error_content(error), "ready": False, "checks": checks}
    return Answer(content, error.status, {**_NEVER_STORED, "Retry-After": str(error.retry_after)})
