"""What `cloner serve` has beside the plugin: log-in, log-out and the pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import cherrypy

from .. import errors
from ..callers import FIRST_ADMIN
from ..control import audit
from ..control.base import Answer, Controller, Refusal, Request, route
from ..control.document import Part
from .auth import Door
from .operations import OPERATIONS

UI_FOLDER = Path(__file__).resolve().parent.parent / "ui"
HTML_TYPE = "text/html;charset=utf-8"


class LogIn(Controller):
    url_auth: ClassVar[bool] = False

    def __init__(self, door: Door) -> None:
        self._door = door

    @route("POST", "", schema="login")
    def log_in(self, request: Request) -> dict[str, Any]:
        user = cherrypy.serving.request.claimed = request.body["username"]
        caller = self._door.log_in(user, request.body["password"])
        audit.record("log-in", "session", audit.DONE, user=caller.name)
        return {"username": caller.name, "groups": sorted(caller.groups), "role": caller.role}


class LogOut(Controller):
    url_auth: ClassVar[bool] = False

    def __init__(self, door: Door) -> None:
        self._door = door

    @route("POST", "", schema="logout")
    def log_out(self, _request: Request) -> dict[str, Any]:
        caller = self._door.sessions.end()
        if caller is not None:
            audit.record("log-out", "session", audit.DONE, user=caller.name)
        return {}


class Docs(Controller):
    """The page that shows the OpenAPI document. What it shows it asks for with its reader's log-in."""

    url_auth: ClassVar[bool] = False

    @route("GET", "")
    def lookup(self, _request: Request) -> Answer:
        return Answer((UI_FOLDER / "docs.html").read_bytes(), headers={"Content-Type": HTML_TYPE})


class Root:
    """Everything outside the plugin's mount."""

    def __init__(self, door: Door, others: Mapping[str, Controller]) -> None:
        self._door = door
        controllers = {"login": LogIn(door), "logout": LogOut(door), "docs": Docs(), **others}
        self.resources = frozenset(controllers)
        for name, controller in controllers.items():
            setattr(self, name, controller)
        self.described = Part("", {name: type(controller) for name, controller in controllers.items()}, OPERATIONS)

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def index(self, /, once: str | None = None, **_query: Any) -> bytes:
        """The page. With the secret of the one-time link: logs in, and opens the page without it."""
        cherrypy.serving.request.route = "/"
        _refuse_other_methods()
        if once is not None:
            is_it = _method() == "GET" and isinstance(once, str) and self._door.redeem(once)
            outcome = audit.DONE if is_it else errors.WrongCredentials.code
            audit.record("log-in", "one-time link", outcome, user=FIRST_ADMIN if is_it else "")
            raise cherrypy.HTTPRedirect("/", 303)
        cherrypy.serving.response.headers["Content-Type"] = HTML_TYPE
        return (UI_FOLDER / "index.html").read_bytes()


def _method() -> str:
    return str(cherrypy.serving.request.method)


def _refuse_other_methods() -> None:
    """Lets pass what only reads; CherryPy itself would answer any method, TRACE too."""
    if _method() not in ("GET", "HEAD"):
        cherrypy.serving.response.headers["Allow"] = "GET, HEAD"
        raise Refusal(errors.MethodNotAllowed(method=_method(), allow="GET, HEAD"))
