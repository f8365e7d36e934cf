"""Log-ins of browsers: a secret in a cookie for as long as it is used."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cherrypy

from ..callers import Caller
from .origin import is_https

COOKIE = "wok"
_SECRET_BYTES = 32
_MOST_A_USER = 1000

Who = Callable[[], Caller | None]
"""Says who the holder of a credential is now; None once the credential is worth nothing any more."""


@dataclass
class _Session:
    who: Who
    until: float
    last: Caller | None = None
    """Whose it was when that was last asked."""

    @property
    def name(self) -> str:
        return "" if self.last is None else self.last.name


class Sessions:
    """Log-ins in memory. Each lasts `lifetime_s` seconds after its last request."""

    def __init__(self, lifetime_s: float) -> None:
        self.lifetime_s = lifetime_s
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def open(self, who: Who, caller: Caller | None = None) -> str:
        """A new session's secret; `caller` is whose it is now, where that is known.

        Who has a thousand loses the one that has not been used for longest.
        """
        now, name = time.monotonic(), "" if caller is None else caller.name
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        with self._lock:
            self._sessions = {key: session for key, session in self._sessions.items() if session.until > now}
            own = [key for key, session in self._sessions.items() if session.name == name]
            if len(own) >= _MOST_A_USER:
                del self._sessions[min(own, key=lambda key: self._sessions[key].until)]
            self._sessions[secret] = _Session(who, now + self.lifetime_s, caller)
        return secret

    def caller(self, secret: str) -> Caller | None:
        """Whose session it is, prolonging it; None if it is nobody's, or its user's no longer."""
        now = time.monotonic()
        with self._lock:
            session = self._sessions.get(secret)
            if session is None or session.until <= now:
                self._sessions.pop(secret, None)
                return None
            session.until = now + self.lifetime_s
        session.last = caller = session.who()  # without the lock: it may ask a data base
        if caller is None:
            self.close(secret)
        return caller

    def holder(self, secret: str) -> Caller | None:
        """As `caller`, without prolonging it."""
        with self._lock:
            session = self._sessions.get(secret)
        return None if session is None or session.until <= time.monotonic() else session.who()

    def close(self, secret: str) -> Caller | None:
        """Ends a session, and says whose it was, as far as that was ever asked."""
        with self._lock:
            session = self._sessions.pop(secret, None)
        return None if session is None else session.last

    def begin(self, who: Who, caller: Caller) -> None:
        """A new session for the browser that sends this request. One that it presents is nobody's from now on."""
        self.close(presented())
        set_cookie(self.open(who, caller), self.lifetime_s)

    def end(self) -> Caller | None:
        """Ends the session of the browser that sends this request, and says whose it was."""
        if not presented():
            return None
        set_cookie("", 0)
        return self.close(presented())


def presented() -> str:
    """The secret in the request's cookie; '' if it has none."""
    cookie = cherrypy.serving.request.cookie.get(COOKIE)
    return "" if cookie is None else str(cookie.value)


def set_cookie(secret: str, lifetime_s: float) -> None:
    """Gives the browser its session; an empty secret takes it away."""
    cookie: Any = cherrypy.serving.response.cookie
    cookie[COOKIE] = secret
    cookie[COOKIE]["path"] = "/"
    cookie[COOKIE]["httponly"] = True
    cookie[COOKIE]["samesite"] = "Lax"
    cookie[COOKIE]["max-age"] = int(lifetime_s) if secret else 0
    if is_https():
        cookie[COOKIE]["secure"] = True
