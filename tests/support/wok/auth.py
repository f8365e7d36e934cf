"""The log-in: src/wok/auth.py, and what it needs of src/wok/template.py."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any

import cherrypy

from support.wok.message import message

USER, PASSWORD = "root", "the-tests-own-password"
KNOWN: Mapping[str, Mapping[str, Any]] = {
    USER: {"groups": ["root"], "role": "admin"},
    "ann": {"groups": ["staff", "web team"], "role": "user"},
    "bob": {"groups": None, "role": "user"},  # of a log-in by LDAP no groups are known
    "eve": {"groups": ["root"], "role": None},
}
"""Who can log in, all with one password: the groups and the role that Wok finds for them."""

SESSION_MINUTES = 10
JSON = "application/json"


def wokauth() -> None:
    """src/wok/auth.py, wokauth: the tool that lets a request pass, or raises a redirection to the log-in or 401."""
    request = cherrypy.serving.request
    is_new = cherrypy.session.missing
    if has_session() or has_password():
        return
    if "Accept" in request.headers and not accepts(JSON):
        raise cherrypy.HTTPRedirect("/login.html", 303)
    if is_new and "lastPage" in request.cookie:
        raise cherrypy.HTTPError(401, "sessionTimeout")
    if not is_script():
        cherrypy.serving.response.headers["WWW-Authenticate"] = "Basic realm=wok"
    raise cherrypy.HTTPError(401, message("WOKAUTH0002E"))


def has_session() -> bool:
    """src/wok/auth.py, check_auth_session: the page's own polling (Wok-Robot) does not prolong a session."""
    session = cherrypy.session
    if session.get("username") is None:
        return False
    if cherrypy.serving.request.headers.get("Wok-Robot") != "wok-robot":
        session["robot-refresh"] = time.time()
    elif time.time() - session["robot-refresh"] > SESSION_MINUTES * 60:
        session["username"] = None
        raise cherrypy.HTTPError(401, "sessionTimeout")
    return True


def has_password() -> bool:
    """src/wok/auth.py, check_auth_httpba: Basic, but not for a page's script, nor without JSON in `Accept`."""
    header = cherrypy.serving.request.headers.get("Authorization")
    if is_script() or not accepts(JSON) or not header:
        return False
    user, password = base64.b64decode(header.replace("Basic ", "")).decode().split(":", 1)
    log_in(user, password)
    return True


def log_in(user: str, password: str) -> dict[str, Any]:
    """src/wok/auth.py, login: who it is, and a session under a new id."""
    if user not in KNOWN or password != PASSWORD:
        raise cherrypy.HTTPError(401, message("WOKAUTH0001E"))
    session = cherrypy.session
    session.regenerate()
    known = {"username": user, **KNOWN[user]}
    session.update({**known, "robot-refresh": time.time()})
    return known


def is_script() -> bool:
    """src/wok/auth.py, from_browser."""
    return bool(cherrypy.serving.request.headers.get("X-Requested-With") == "XMLHttpRequest")


def accepts(media: str) -> bool:
    """src/wok/template.py, can_accept: named, before the first parameter; `*/*` names nothing."""
    accepted = cherrypy.serving.request.headers.get("Accept", "text/html")
    return media in [part.strip() for part in accepted.partition(";")[0].split(",")]
