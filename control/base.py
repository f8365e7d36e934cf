"""HTTP, once for all resources: routes, bodies, answers, errors.

A controller is a class whose methods carry a route. What a method returns is rendered as JSON; what it raises from
errors.py becomes the answer of that error, and anything else a 500 whose stack is in the log only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import uuid4

import cherrypy
from cheroot.errors import MaxSizeExceeded
from cherrypy._cpdispatch import Dispatcher

from .. import context, errors
from ..callers import Caller
from . import activity, audit, pages
from .caller import current
from .validation import is_text, validate

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
JSON_TYPE = "application/json;charset=utf-8"
PROBLEM_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Request:
    """What a handler gets: `path` has the parts of the path that the route names, `query` the filters and flags."""

    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Mapping[str, Any]
    mount: str
    caller: Caller


@dataclass(frozen=True)
class Answer:
    """What a handler returns when it is not a plain 200."""

    content: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Iterator[bytes] | None = None
    """What is sent piece by piece, in place of content, for as long as it goes on."""

    audit: Mapping[str, Any] = field(default_factory=dict)
    """What the audit log's line says beside, or instead of, what it says by itself."""


@dataclass(frozen=True)
class Route:
    """A method and a path below the controller, such as ('POST', '{name}/clone'), and API.json's key for the body.

    `action` is what the audit log calls it; without one it is not told there.
    """

    method: str
    parts: tuple[str, ...]
    schema: str | None
    handler: str = ""
    action: str | None = None

    def match(self, segments: tuple[str, ...]) -> dict[str, str] | None:
        """The named parts of a path that is this route's, or None."""
        if len(segments) != len(self.parts):
            return None
        pairs = list(zip(self.parts, segments, strict=True))
        if any(part != segment for part, segment in pairs if not part.startswith("{")):
            return None
        return {part[1:-1]: segment for part, segment in pairs if part.startswith("{")}


Handler = Callable[[Any, Request], Any]


def route(
    method: str, path: str, *, schema: str | None = None, action: str | None = None
) -> Callable[[Handler], Handler]:
    """Makes a controller's method answer a route. Without `schema` a body is not read; without `action` no audit."""

    def mark(handler: Handler) -> Handler:
        parts = tuple(part for part in path.split("/") if part)
        handler.route = Route(method, parts, schema, handler.__name__, action)  # type: ignore[attr-defined]  # read below
        return handler

    return mark


class Controller:
    """A resource: routes below one path. Wok reads `url_auth`, and protects the path for which it is true."""

    url_auth: ClassVar[bool] = True
    routes: ClassVar[tuple[Route, ...]] = ()

    def __init_subclass__(cls) -> None:
        found = (getattr(member, "route", None) for member in vars(cls).values())
        cls.routes = (*cls.routes, *(item for item in found if isinstance(item, Route)))

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def default(self, /, *_segments: str, **query: Any) -> bytes | Iterator[bytes]:
        """Every request below this resource. The path is read anew: CherryPy takes some names for attributes."""
        return _answer(lambda: self._serve(_segments_below_resource(), query))

    def _serve(self, segments: tuple[str, ...], query: Mapping[str, Any]) -> Any:
        request = cherrypy.serving.request
        method = "GET" if request.method == "HEAD" else request.method
        matches = [(item, path) for item in self.routes if (path := item.match(segments)) is not None]
        if not matches:
            raise nothing_here()
        chosen = next(((item, path) for item, path in matches if item.method == method), None)
        if chosen is None:
            allow = ", ".join(
                sorted({item.method for item, _ in matches} | _implied(item.method for item, _ in matches))
            )
            cherrypy.serving.response.headers["Allow"] = allow
            raise errors.MethodNotAllowed(method=request.method, allow=allow)
        item, path = chosen
        request.route = _template(item)
        if item.action is None:
            return self._handle(item, path, query)
        target = _target(item, segments)
        with audit.action(item.action, target) as line, activity.action(item.action, target) as outcome:
            answer = self._handle(item, path, query)
            if isinstance(answer, Answer):
                line.update(answer.audit)
                outcome.status = answer.status
            return answer

    def _handle(self, item: Route, path: Mapping[str, str], query: Mapping[str, Any]) -> Any:
        caller = current()
        if item.method != "GET" and pages.is_foreign():  # inside Wok, whose door asks nobody
            raise errors.ForeignOrigin
        if self.url_auth and item.method != "GET" and not caller.may_change:
            raise errors.OnlyReads
        body = read_json(item.schema) if item.schema else {}
        asked = Request(path, query, body, cherrypy.serving.request.script_name, caller)
        self.admit(asked)
        return getattr(self, item.handler)(asked)

    def admit(self, request: Request) -> None:
        """Raises what the caller gets instead of every answer of this resource. Unless it is overridden: nothing."""


def _template(item: Route) -> str:
    """A route as it is written: what all its paths have in common."""
    request = cherrypy.serving.request
    return "/".join((request.script_name, request.path_info.split("/")[1], *item.parts))


def _target(item: Route, segments: tuple[str, ...]) -> str:
    """What an action is done to, as a path below the mount: without the last part if that only names the action."""
    resource = cherrypy.serving.request.path_info.split("/")[1]
    verbs = 1 if item.parts and not item.parts[-1].startswith("{") else 0
    return "/".join((resource, *segments[: len(segments) - verbs]))


def _implied(methods: Iterable[str]) -> set[str]:
    return {"HEAD"} if "GET" in methods else set()


def _segments_below_resource() -> tuple[str, ...]:
    """The parts of the path after the resource's own; one slash at the end makes no difference.

    An escaped slash stays as it was sent, as the HTTP server hands it on: no name has a slash. Raises ResourceNotFound
    for what is no text, which CherryPy would take for Latin-1 and thus for another name.
    """
    request = cherrypy.serving.request
    sent = str(request.wsgi_environ.get("PATH_INFO", "")).encode("latin-1", "replace")  # WSGI's form, see PEP 3333
    if not is_text(sent):
        raise nothing_here()
    parts = request.path_info.split("/")[2:]
    return tuple(parts[:-1] if parts and parts[-1] == "" else parts)


def nothing_here() -> errors.ResourceNotFound:
    """The error of a path that nothing is at."""
    request = cherrypy.serving.request
    return errors.ResourceNotFound(path=request.script_name + request.path_info)


class ResourceDispatcher(Dispatcher):  # type: ignore[misc]  # CherryPy has no types
    """Finds the controller by the first part of the path and nothing more.

    CherryPy's own walks on through the attributes of what it finds, so that a guest called `__class__` is one of them.
    """

    def find_handler(self, path: str) -> tuple[Any, list[str]]:
        first = path.split("/")[1] if path.startswith("/") else ""
        known = first in getattr(cherrypy.serving.request.app.root, "resources", ())
        handler, _ = super().find_handler(f"/{first}" if known else "/")
        return (handler, []) if handler and (known or path in ("", "/")) else (_no_resource, [])


def _no_resource(**_query: Any) -> bytes:
    return render_error(nothing_here())


# --- Bodies ----------------------------------------------------------------------------------------------------------


def read_json(action: str) -> Mapping[str, Any]:
    """The request's body, validated as API.json says of the action; no body is `{}`.

    Raises BadRequest, BodyTooLarge, WrongMediaType, MalformedJSON, NotAnObject, InvalidParameter.
    """
    raw = _read_body()
    if not raw:
        validate(action, {})
        return {}
    media = cherrypy.serving.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise errors.WrongMediaType
    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise errors.MalformedJSON(cause=error) from error
    if not isinstance(body, dict):
        raise errors.NotAnObject(kind=_JSON_KINDS[type(body)])
    validate(action, body)
    return body


_JSON_KINDS = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field is there more than once")
    return found


def _read_body() -> bytes:
    request = cherrypy.serving.request
    if "Transfer-Encoding" in request.headers:
        return _read_chunks()
    length = request.headers.get("Content-Length") or "0"
    if not (length.isascii() and length.isdigit()):
        raise errors.BadRequest(cause=f"{length} is no Content-Length")
    if int(length) > MAX_BODY_BYTES:
        raise errors.BodyTooLarge(limit=MAX_BODY_BYTES)
    raw = _read(int(length))
    if len(raw) < int(length):
        raise errors.BadRequest(cause="the body ends before its Content-Length")
    return raw


def _read_chunks() -> bytes:
    try:
        raw = _read(MAX_BODY_BYTES + 1)
    except ValueError as error:
        raise errors.BadRequest(cause=error) from error
    except (OSError, MaxSizeExceeded):  # cheroot's two ways to say it
        raise errors.BodyTooLarge(limit=MAX_BODY_BYTES) from None
    if len(raw) > MAX_BODY_BYTES:
        raise errors.BodyTooLarge(limit=MAX_BODY_BYTES)
    return raw


def _read(size: int) -> bytes:
    try:
        return bytes(cherrypy.serving.request.rfile.read(size))
    except (TimeoutError, ConnectionError) as error:
        raise errors.BadRequest(cause=f"the body did not arrive: {error}") from error


# --- Answers ---------------------------------------------------------------------------------------------------------


def _answer(serve: Callable[[], Any]) -> bytes | Iterator[bytes]:
    if not context.current().request_id:  # inside Wok, whose requests have none
        with within_request():
            return _answer(serve)
    try:
        return render(serve())
    except errors.ClonerError as error:
        return render_error(error)
    except cherrypy.HTTPRedirect:
        raise
    except Exception:  # noqa: BLE001 - the last place where anything unforeseen can be turned into an answer
        return render_error(unforeseen())


@contextmanager
def within_request() -> Iterator[None]:
    """Works for the present request of Wok's until the end of the block; it is answered with an id."""
    with context.within(**_sender()):
        yield


def _sender() -> dict[str, str]:
    """What the context has to know of a request."""
    request = cherrypy.serving.request
    request_id = context.request_id(request.headers.get(context.HEADER, ""))
    cherrypy.serving.response.headers[context.HEADER] = request_id
    path = request.script_name + request.path_info
    known = {"request_id": request_id, "address": request.remote.ip, "method": request.method, "path": path}
    return known | {"user": current().name}


def unforeseen() -> errors.ClonerError:
    """The error being handled as one with a reference, under which the log has its stack."""
    reference = uuid4().hex[:12]
    log.exception("unforeseen error, reference %s", reference)
    return errors.ClonerError(reference=reference)


def render(content: Any) -> bytes | Iterator[bytes]:
    """A handler's return value as the answer's body; sets status and headers."""
    answer = content if isinstance(content, Answer) else Answer(content)
    response = cherrypy.serving.response
    response.status = answer.status
    response.headers.update(answer.headers)
    if answer.status == HTTPStatus.NO_CONTENT:
        response.headers.pop("Content-Type", None)
        return b""
    if answer.stream is not None:
        response.stream = True
        return answer.stream
    if isinstance(answer.content, bytes):  # of the type that its headers say
        return answer.content
    response.headers["Content-Type"] = JSON_TYPE
    return to_json(answer.content)


def to_json(content: Any) -> bytes:
    """As compact as can be; what is no text (half of a surrogate pair) is escaped."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def render_error(error: errors.ClonerError) -> bytes:
    """The error's answer: Wok's object, and RFC 9457's members for those who ask for `application/problem+json`."""
    response = cherrypy.serving.response
    cherrypy.serving.request.error_code = error.code
    status = HTTPStatus(error.status)
    content = error_content(error)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if status == HTTPStatus.UNAUTHORIZED and not _is_script():
        response.headers["WWW-Authenticate"] = "Basic realm=wok"
    response.status = status.value
    response.headers["Content-Type"] = JSON_TYPE
    if PROBLEM_TYPE in cherrypy.serving.request.headers.get("Accept", ""):
        code, _, detail = error.reason.partition(": ")
        problem = {"type": f"urn:cloner:error:{code}", "title": status.phrase, "status": status.value, "detail": detail}
        content |= problem
        response.headers["Content-Type"] = PROBLEM_TYPE
    return to_json(content)


def error_content(error: errors.ClonerError) -> dict[str, Any]:
    """The error as Wok's consumers know it."""
    status = HTTPStatus(error.status)
    return {"code": f"{status.value} {status.phrase}", "reason": error.reason}


def _is_script() -> bool:
    """Whether a page's script asks, for which a browser must not open its own log-in window."""
    return bool(cherrypy.serving.request.headers.get("X-Requested-With", "").lower() == "xmlhttprequest")


class Refusal(cherrypy.HTTPError):  # type: ignore[misc]  # CherryPy has no types
    """An error of ours raised where CherryPy, not a controller, has the word: in a tool, before any handler."""

    def __init__(self, error: errors.ClonerError) -> None:
        super().__init__(error.status)
        self.error = error

    def set_response(self) -> None:
        cherrypy.serving.response.body = render_error(self.error)


def error_page(status: str, message: str, **_rest: str) -> bytes:
    """CherryPy's own errors (`error_page.default`) in our shape."""
    code = int(status[:3])
    if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return render_error(unforeseen())
    if code == HTTPStatus.UNAUTHORIZED:
        return render_error(errors.NotLoggedIn())
    if code == HTTPStatus.NOT_FOUND:  # not of a path, since those are ours to find: of a query that is no UTF-8
        code = HTTPStatus.BAD_REQUEST
    return render_error(Foreign(code, message))


class Foreign(errors.BadRequest):
    """An error that CherryPy or cheroot found, with its status."""

    def __init__(self, status: int, cause: str) -> None:
        super().__init__(cause=cause)
        self.status = status  # type: ignore[misc]  # the one error whose status is somebody else's


def handle_error() -> None:
    """CherryPy's `request.error_response`: what nobody caught."""
    cherrypy.serving.response.body = render_error(unforeseen())


def config() -> dict[str, Any]:
    """What CherryPy must be told of every mount of ours."""
    return {
        "request.dispatch": ResourceDispatcher(),
        "request.process_request_body": False,
        "request.show_tracebacks": False,
        "request.error_response": handle_error,
        "error_page.default": error_page,
        "tools.trailing_slash.on": False,
    }


def location(*parts: str) -> str:
    """A path whose parts are safe in a header."""
    return "/".join(quote(part, safe="") for part in parts)
