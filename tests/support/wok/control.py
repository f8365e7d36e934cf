"""How a model's functions become resources: src/wok/control/base.py and src/wok/control/utils.py."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import cherrypy

from support.wok.asynctask import save_request_log_id
from support.wok.exception import UnauthorizedError, WokException
from support.wok.reqlogger import log_request

JSON = "application/json;charset=utf-8"


def render(data: Any) -> bytes:
    """src/wok/template.py, render, for those who accept JSON."""
    cherrypy.serving.response.headers["Content-Type"] = JSON
    return json.dumps(data, indent=2, separators=(",", ":")).encode()


def parse_request() -> dict[str, Any]:
    """src/wok/control/utils.py, parse_request: no Content-Length, or an empty body, is no fields."""
    request = cherrypy.serving.request
    if "Content-Length" not in request.headers or request.body.length == 0:
        return {}
    fields: dict[str, Any] = json.loads(request.body.read())
    return fields


class Resource:
    """src/wok/control/base.py, Resource: `name` is the model's prefix for it, `args` what its functions are given."""

    def __init__(self, model: Any, name: str, args: list[str], actions: tuple[str, ...] = ()) -> None:
        self._model, self._name, self._args = model, name, args
        for action in actions:
            setattr(self, action, self._task_handler(action))

    def _function(self, action: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self._model, f"{self._name}_{action}")
        return found

    def lookup(self) -> dict[str, Any]:
        """src/wok/control/base.py, lookup and is_authorized: what is somebody else's is refused."""
        found: dict[str, Any] = self._function("lookup")(*self._args)
        users, groups = found.get("users"), found.get("groups")
        session = cherrypy.session
        is_theirs = session.get("username", "") in (users or ()) or set(session.get("groups") or ()) & set(groups or ())
        if (users is not None or groups is not None) and session.get("role") != "admin" and not is_theirs:
            raise UnauthorizedError("WOKAPI0009E")
        return found

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def index(self, **_query: str) -> bytes:
        """src/wok/control/base.py, index: errors of the model's are answers; what changes something is in the log."""
        method = cherrypy.serving.request.method
        if method not in ("GET", "DELETE"):
            raise cherrypy.HTTPError(405)
        status, details = 500, None
        try:
            found = self.lookup()
            if method == "GET":
                return render(found)
            self._function("delete")(*self._args)
            cherrypy.serving.response.status = status = 204
        except WokException as error:
            details, status = error, error.getHttpStatusCode()
            raise cherrypy.HTTPError(status, str(error)) from error
        finally:
            if method != "GET":
                log_request("WOKRES0001L", {"ident": self._args[-1]}, details, method, status)
        return b""

    def _task_handler(self, action: str) -> Callable[..., bytes]:
        """src/wok/control/base.py, generate_action_handler_task: 202, and the request in the activity log."""

        def handle(**_query: str) -> bytes:
            if cherrypy.serving.request.method != "POST":
                raise cherrypy.HTTPError(405)
            status, details = 500, None
            try:
                parse_request()
                self.lookup()
                task = self._function(action)(*self._args)
                cherrypy.serving.response.status = status = 202
                return render(task)
            except WokException as error:
                details, status = error, error.getHttpStatusCode()
                raise cherrypy.HTTPError(status, str(error)) from error
            finally:
                log_id = log_request("WOKRES0001L", {"ident": self._args[-1]}, details, "POST", status)
                if status == 202:
                    save_request_log_id(log_id, task["id"])

        handle.exposed = True  # type: ignore[attr-defined]  # CherryPy's mark
        return handle


class Collection:
    """src/wok/control/base.py, Collection: its resources by their names in the path, and their list."""

    url_auth = True

    def __init__(self, model: Any, name: str, one: Callable[[str], Any], args: tuple[str, ...] = ()) -> None:
        self._model, self._name, self._one, self._args = model, name, one, args

    def _cp_dispatch(self, vpath: list[str]) -> Any:
        return self._one(unquote(vpath.pop(0))) if vpath else None

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def index(self, **filters: str) -> bytes:
        """src/wok/control/base.py, get, _get_resources and filter_data: equal, or Python's `re.match`."""
        if cherrypy.serving.request.method != "GET":
            raise cherrypy.HTTPError(405)
        found = []
        for ident in getattr(self._model, f"{self._name}_get_list")(*self._args):
            try:
                found.append(self._one(ident).lookup())
            except Exception as error:  # noqa: BLE001 - it is Wok's rule
                cherrypy.log.error_log.error("Problem in lookup of resource '%s'. Detail: %s", ident, error)
        return render([item for item in found if all(_holds(item, key, value) for key, value in filters.items())])


def _holds(item: dict[str, Any], key: str, value: str) -> bool:
    return key in item and bool(item[key] == value or re.match(str(value), item[key]))


def tasks(model: Any) -> Collection:
    """src/wok/control/tasks.py: of Wok's own and, by way of its root, of each plugin that is made like it."""
    return Collection(model, "tasks", lambda ident: Resource(model, "task", [ident]))
