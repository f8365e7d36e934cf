"""Who may come in, and as whom: by a token as Bearer or as password, a session, or a one-time link."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import threading
from functools import partial

import cherrypy

from .. import errors
from ..callers import ADMIN, ANYBODY, FIRST_ADMIN, TOKEN, USER, Caller
from ..control.base import Refusal
from ..engine.tokens import PREFIX, Tokens, digest
from .accounts import Accounts
from .attempts import Attempts
from .origin import Origins
from .sessions import Sessions, Who, presented

_LINK_BYTES = 32
_LONGEST_CLAIM = 64


class Door:
    """Decides about each request. `token` is the first admin's; None lets everybody in."""

    def __init__(
        self,
        token: str | None,
        session_s: float,
        tokens: Tokens | None = None,
        accounts: Accounts | None = None,
        origins: Origins | None = None,
    ) -> None:
        self._token = token
        self._tokens = tokens
        self._accounts = accounts or Accounts()
        self._origins = origins or Origins()
        self.sessions = Sessions(session_s)
        self._attempts = Attempts()
        self._link = secrets.token_urlsafe(_LINK_BYTES)
        self._link_lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        return self._token is None

    def one_time_link(self) -> str:
        """The secret of a link that logs in once, as the first admin."""
        return self._link

    def redeem(self, secret: str) -> bool:
        """Begins a session of the first admin's, if the secret is the link's, which is then used up."""
        with self._link_lock:
            if not _same(secret, self._link):
                return False
            self._link = secrets.token_urlsafe(_LINK_BYTES)
        self.sessions.begin(anybody, ANYBODY)
        return True

    def log_in(self, user: str, password: str) -> Caller:
        """Begins a session and says whose it is. Raises WrongCredentials, TooManyAttempts."""
        who = anybody if self.is_open else self._by_password(user, password)
        caller = _still(who)
        self.sessions.begin(who, caller)
        return caller

    def check_origin(self) -> None:
        """CherryPy's tool, for what needs no log-in too: raises a Refusal, ForeignOrigin or ForeignHost."""
        try:
            self._origins.check_host()
            self._origins.check_page()
        except errors.ClonerError as error:
            raise Refusal(error) from error

    def check(self) -> None:
        """CherryPy's tool: lets a request pass, or raises a Refusal: NotLoggedIn, WrongCredentials, TooManyAttempts."""
        request = cherrypy.serving.request
        try:
            request.caller, request.who = (ANYBODY, anybody) if self.is_open else self._caller()
        except errors.ClonerError as error:
            raise Refusal(error) from error
        request.login = request.caller.name

    def _caller(self) -> tuple[Caller, Who]:
        """Who asks, and what says so again while an answer goes on."""
        scheme, _, credentials = cherrypy.serving.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() in ("bearer", "basic"):
            is_token = scheme.lower() == "bearer"
            who = self._by_token(credentials.strip()) if is_token else self._by_password(*_basic(credentials))
            if who is None:
                raise errors.NotLoggedIn
            return _still(who), who
        secret = presented()
        caller = self.sessions.caller(secret)
        if caller is None:
            raise errors.NotLoggedIn
        cherrypy.serving.response.headers["Session-Expires-On"] = str(int(self.sessions.lifetime_s))
        return caller, partial(self.sessions.holder, secret)

    def _by_token(self, secret: str) -> Who | None:
        """Whose token it is, if it is one: that is found out when it is asked who that is."""
        if _same(secret, self._token or ""):
            return anybody
        if self._tokens is None or not secret.startswith(PREFIX):
            return None
        return partial(self._holder, self._tokens, digest(secret))

    def _by_password(self, user: str, password: str) -> Who:
        """Who logs in. A token is a password as well: the first one of its user, any other of every user name."""
        address = cherrypy.serving.request.remote.ip
        self._attempts.check(user, address)
        by_token = self._named(user, password)
        who = by_token or self._by_account(user, password, address)
        if who is None:
            self._attempts.failed(user, address)
            raise errors.WrongCredentials
        if by_token in (None, anybody):  # any other token goes with every name, and so says nothing of who guesses
            self._attempts.succeeded(user, address)
        return who

    def _named(self, user: str, token: str) -> Who | None:
        """Whose token it is, if it may go with the user's name."""
        # Both are compared in any case, so that the time taken says nothing.
        is_first, who = _same(user, FIRST_ADMIN), self._by_token(token)
        return None if who is None or who() is None or (who is anybody and not is_first) else who

    def _by_account(self, user: str, password: str, address: str) -> Who | None:
        """Who of the system's users has that password; asked anew from then on whether they still may come in."""
        caller = self._accounts.log_in(user, password, address)
        return partial(self._accounts.caller, caller.name) if caller else None

    def _holder(self, tokens: Tokens, of_digest: str) -> Caller | None:
        """Whom a token makes of its holder: an admin as far as its scope goes, or the user that it acts for."""
        token = tokens.find(of_digest)
        if token is None:
            return None
        if not token.owner:
            return Caller(f"{TOKEN}{token.name}", role=ADMIN, scope=token.scope)
        user = self._accounts.caller(token.owner)
        role = ADMIN if token.scope == ADMIN or (user and user.is_admin) else USER
        return user and Caller(user.name, user.groups, role, token.scope)


def anybody() -> Caller:
    """Who the first token, the one-time link and an open door let in."""
    return ANYBODY


def _still(who: Who) -> Caller:
    """Who it is now. Raises NotLoggedIn if that is nobody."""
    caller = who()
    if caller is None:
        raise errors.NotLoggedIn
    return caller


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
        return _basic(credentials)[0][:_LONGEST_CLAIM]
    except errors.WrongCredentials:
        return ""
