"""Who asks, for the handlers: whom the door of cloner serve let in, or whose session Wok has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cherrypy

from ..callers import ADMIN, CLONE, FIRST_ADMIN, NOBODY, TOKEN, USER, Caller


def current() -> Caller:
    """The caller of this request. Where neither a door nor Wok has said who it is, it is nobody."""
    decided = getattr(cherrypy.serving.request, "caller", None)
    if isinstance(decided, Caller):
        return decided
    session = getattr(cherrypy.serving, "session", None)
    return NOBODY if session is None else of_session(session)


def lasting() -> Callable[[], Caller | None]:
    """Says who the caller of this request is by now, for an answer that goes on; None for one who may not ask any more.

    It does not prolong a session. Of Wok's all requests share what is in it, and a log-out takes the user out.
    """
    ask: Callable[[], Caller | None] | None = getattr(cherrypy.serving.request, "who", None)
    session = getattr(cherrypy.serving, "session", None)
    if ask is not None or session is None:
        caller = current()
        return ask or (lambda: caller)

    def still() -> Caller | None:
        caller = of_session(session)
        return None if caller is NOBODY else caller

    return still


def of_session(session: Mapping[str, Any]) -> Caller:
    """Whose a session of Wok's is (src/wok/auth.py): it has the user's name, the groups or None, and a role."""
    name, groups = session.get("username"), session.get("groups")
    if not isinstance(name, str) or not name:
        return NOBODY
    is_admin = session.get("role") == "admin"
    if not is_admin and (name == FIRST_ADMIN or name.startswith(TOKEN)):  # somebody else's name, on the same journal
        return NOBODY
    known = frozenset(map(str, groups)) if isinstance(groups, list | tuple | set | frozenset) else frozenset()
    return Caller(name, known, ADMIN if is_admin else USER, ADMIN if is_admin else CLONE)
