"""Who may come in: a token as Bearer or as password of the user `admin`, a session, or a one-time link."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import os
import secrets
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cherrypy

from .. import errors
from ..control.base import Refusal

USER = "admin"
COOKIE = "wok"
TOKEN_BYTES = 32

_FREE_ATTEMPTS = 3
_FIRST_DELAY_S = 30
_LONGEST_DELAY_S = 3600
_MOST_REMEMBERED = 10_000
_LONGEST_REMEMBERED = 64


def load_token(folder: Path) -> str:
    """The token of CLONER_TOKEN, or the state directory's, made at the first start for its owner's eyes only."""
    given = os.environ.get("CLONER_TOKEN", "").strip()
    if given:
        return given
    path = folder / "token"
    if not path.exists():
        _make_token(path)
    token = path.read_text("utf-8", "replace").strip()
    if not token:
        raise errors.InvalidConfiguration(cause=f"{path} is empty; delete it to get a new token")
    return token


def _make_token(path: Path) -> None:
    """Makes the file appear with its content, so that a server that starts at the same moment reads the same token."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".token-", encoding="ascii") as file:  # of mode 0600
        file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
        file.flush()
        with suppress(FileExistsError):
            os.link(file.name, path)


@dataclass
class _Session:
    user: str
    until: float


class Sessions:
    """Log-ins in memory. Each lasts `lifetime_s` seconds after its last request."""

    def __init__(self, lifetime_s: float) -> None:
        self.lifetime_s = lifetime_s
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def open(self, user: str) -> str:
        """A new session's secret."""
        now = time.monotonic()
        secret = secrets.token_urlsafe(TOKEN_BYTES)
        with self._lock:
            self._sessions = {key: session for key, session in self._sessions.items() if session.until > now}
            self._sessions[secret] = _Session(user, now + self.lifetime_s)
        return secret

    def user(self, secret: str) -> str | None:
        """Whose session it is, prolonging it; None if it is nobody's."""
        now = time.monotonic()
        with self._lock:
            session = self._sessions.get(secret)
            if session is None or session.until <= now:
                self._sessions.pop(secret, None)
                return None
            session.until = now + self.lifetime_s
            return session.user

    def close(self, secret: str) -> None:
        with self._lock:
            self._sessions.pop(secret, None)


class Attempts:
    """Counts wrong log-ins per user and address: after three, each must wait, 30 s at first and then twice as long."""

    def __init__(self) -> None:
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
        self._lock = threading.Lock()

    def check(self, user: str, address: str) -> None:
        """Raises TooManyAttempts while waiting is due."""
        count, since = self._failures.get(_shortened(user, address), (0, 0.0))
        left = since + self._delay(count) - time.monotonic()
        if left > 0:
            raise errors.TooManyAttempts(int(left) + 1)

    def failed(self, user: str, address: str) -> None:
        key = _shortened(user, address)
        with self._lock:
            count, _ = self._failures.pop(key, (0, 0.0))
            self._failures[key] = (count + 1, time.monotonic())
            while len(self._failures) > _MOST_REMEMBERED:
                del self._failures[next(iter(self._failures))]

    def succeeded(self, user: str, address: str) -> None:
        with self._lock:
            self._failures.pop(_shortened(user, address), None)

    @staticmethod
    def _delay(count: int) -> float:
        over = count - _FREE_ATTEMPTS
        return 0.0 if over < 0 else min(_FIRST_DELAY_S * 2.0 ** min(over, 10), _LONGEST_DELAY_S)


def _shortened(user: str, address: str) -> tuple[str, str]:
    """What a log-in is remembered by; a user name from outside can be of any length."""
    return user[:_LONGEST_REMEMBERED], address


class Door:
    """Decides about each request. `token` None lets everybody in."""

    def __init__(self, token: str | None, session_s: float) -> None:
        self._token = token
        self.sessions = Sessions(session_s)
        self._attempts = Attempts()
        self._link = secrets.token_urlsafe(TOKEN_BYTES)
        self._link_lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        return self._token is None

    def one_time_link(self) -> str:
        """The secret of a link that logs in once."""
        return self._link

    def redeem(self, secret: str) -> bool:
        """Whether the secret is the link's, which is then used up."""
        with self._link_lock:
            if not _same(secret, self._link):
                return False
            self._link = secrets.token_urlsafe(TOKEN_BYTES)
            return True

    def log_in(self, user: str, password: str) -> str:
        """A new session's secret. Raises WrongCredentials, TooManyAttempts."""
        self._check_password(user, password)
        return self.sessions.open(user)

    def check_origin(self) -> None:
        """CherryPy's tool, for what needs no log-in too: raises a Refusal, ForeignOrigin or ForeignHost."""
        try:
            _refuse_foreign_pages()
            if self.is_open:
                _refuse_foreign_names()
        except errors.ClonerError as error:
            raise Refusal(error) from error

    def check(self) -> None:
        """CherryPy's tool: lets a request pass, or raises a Refusal: NotLoggedIn, WrongCredentials, TooManyAttempts."""
        try:
            cherrypy.serving.request.login = USER if self.is_open else self._who()
        except errors.ClonerError as error:
            raise Refusal(error) from error

    def _who(self) -> str:
        request = cherrypy.serving.request
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if not _same(credentials.strip(), self._token or ""):
                raise errors.NotLoggedIn
            return USER
        if scheme.lower() == "basic":
            user, password = _basic(credentials)
            self._check_password(user, password)
            return user
        user_of_session = self._session_user()
        if user_of_session is None:
            raise errors.NotLoggedIn
        return user_of_session

    def _session_user(self) -> str | None:
        cookie = cherrypy.serving.request.cookie.get(COOKIE)
        user = self.sessions.user(cookie.value) if cookie is not None else None
        if user is not None:
            cherrypy.serving.response.headers["Session-Expires-On"] = str(int(self.sessions.lifetime_s))
        return user

    def _check_password(self, user: str, password: str) -> None:
        address = cherrypy.serving.request.remote.ip
        self._attempts.check(user, address)
        # Both are compared in any case, so that the time taken says nothing.
        is_user, is_token = _same(user, USER), _same(password, self._token or "")
        if not (is_user and is_token):
            self._attempts.failed(user, address)
            raise errors.WrongCredentials
        self._attempts.succeeded(user, address)


def _refuse_foreign_pages() -> None:
    """A browser says of what a page of another site has it send (W3C, Fetch Metadata). Raises ForeignOrigin."""
    request = cherrypy.serving.request
    site = request.headers.get("Sec-Fetch-Site", "none").lower()
    if request.method not in ("GET", "HEAD") and site not in ("none", "same-origin"):
        raise errors.ForeignOrigin


def _refuse_foreign_names() -> None:
    """Against DNS rebinding, where a page's own name leads to this server. Raises ForeignHost."""
    name = urlsplit(f"//{cherrypy.serving.request.headers.get('Host', '')}").hostname or ""
    if name == "localhost":
        return
    try:
        is_loopback = ipaddress.ip_address(name).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise errors.ForeignHost(host=name[:100])


def _same(given: str, expected: str) -> bool:
    """Constant-time comparison; nothing equals an empty secret."""
    return bool(expected) and hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))


def _basic(credentials: str) -> tuple[str, str]:
    try:
        user, colon, password = base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        raise errors.WrongCredentials from None
    if not colon:
        raise errors.WrongCredentials
    return user, password


def claimed_user(authorization: str) -> str:
    """Who a header says that a request comes from, which nobody has checked; empty where it does not say."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return _basic(credentials)[0][:_LONGEST_REMEMBERED]
    except errors.WrongCredentials:
        return ""


def set_cookie(secret: str, lifetime_s: float) -> None:
    """Gives the browser its session; an empty secret takes it away."""
    cookie: Any = cherrypy.serving.response.cookie
    cookie[COOKIE] = secret
    cookie[COOKIE]["path"] = "/"
    cookie[COOKIE]["httponly"] = True
    cookie[COOKIE]["samesite"] = "Lax"
    cookie[COOKIE]["max-age"] = int(lifetime_s) if secret else 0
    if cherrypy.serving.request.scheme == "https":
        cookie[COOKIE]["secure"] = True
