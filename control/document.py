"""The OpenAPI 3.1 document, made of the routes, of API.json and ANSWERS.json, and of what operations.py says.

OpenAPI 3.1's schemas are JSON Schema 2020-12, so those of the two files are in the document as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from .. import __version__, errors
from .base import PROBLEM_TYPE, Controller, Route
from .operations import JSON, Error, Operation, Reply
from .parameters import HEADERS, PARAMETERS, described_part
from .validation import api_schema

ANSWERS_FILE = Path(__file__).resolve().parent.parent / "ANSWERS.json"

_ALWAYS: tuple[Error, ...] = (errors.ClonerError, errors.BadRequest, errors.BodyTooLarge, errors.ForeignHost)
_LOG_IN: tuple[Error, ...] = (
    *(errors.NotLoggedIn, errors.WrongCredentials, errors.TooManyAttempts, errors.LoginUnavailable),
    errors.JournalUnavailable,
)
_BODY: tuple[Error, ...] = (
    *(errors.WrongMediaType, errors.MalformedJSON, errors.NotAnObject, errors.InvalidParameter),
    errors.BodyTooLarge,
)
_LIST: tuple[Error, ...] = (errors.InvalidFilter, errors.InvalidParameter)
_TOO_LONG = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_URI_TOO_LONG)
"""Statuses with which cheroot refuses headers and addresses, in the words of BadRequest."""


@dataclass(frozen=True)
class Part:
    """Controllers that are served below one path, by their names there, and what is said of their routes."""

    path: str
    controllers: Mapping[str, type[Controller]]
    operations: Mapping[str, Operation]

    def routes(self) -> Iterator[tuple[str, type[Controller], Route]]:
        """Each route with its path below that of the part."""
        for name, controller in self.controllers.items():
            for route in controller.routes:
                yield "/".join((name, *route.parts)), controller, route


@cache
def answers_schema() -> dict[str, Any]:
    """ANSWERS.json as it is."""
    schema: dict[str, Any] = json.loads(ANSWERS_FILE.read_text("utf-8"))
    return schema


def document(parts: Iterable[Part]) -> dict[str, Any]:
    """The document. Raises KeyError for a route that nothing is said of."""
    paths: dict[str, Any] = {}
    for part in parts:
        for path, controller, route in part.routes():
            operation = part.operations[f"{route.method} {path}"]
            described = _operation(path, controller, route, operation)
            paths.setdefault(f"{part.path}/{path}", {})[route.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cloner",
            "version": __version__,
            "description": "Clones of virtual machines and storage volumes, each whole and with a name of its own. "
            "Where there is a GET, HEAD answers as it does, without the body.",
            "license": {"name": "LGPL-2.1-or-later", "identifier": "LGPL-2.1-or-later"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"basic": []}, {"session": []}],
        "paths": paths,
        "components": _components(),
    }


def _components() -> dict[str, Any]:
    schemas = api_schema()["properties"] | _in_components(answers_schema()["$defs"])
    classes = (error for error in vars(errors).values() if isinstance(error, type))
    return {
        "schemas": schemas,
        "headers": HEADERS,
        "parameters": PARAMETERS,
        "examples": {
            error.code: {"summary": error.text.replace("{{}}", "{}"), "value": _example(error, error.status)}
            for error in classes
            if issubclass(error, errors.ClonerError)
        },
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "description": "A token."},
            "basic": {"type": "http", "scheme": "basic", "description": "A user and their password or token."},
            "session": {"type": "apiKey", "in": "cookie", "name": "wok", "description": "From POST /login."},
        },
    }


def _in_components(value: Any) -> Any:
    """A schema of ANSWERS.json with references as the document has them."""
    if isinstance(value, dict):
        return {
            key: inner.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _in_components(inner)
            for key, inner in value.items()
        }
    return [_in_components(inner) for inner in value] if isinstance(value, list) else value


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


# --- Operations ------------------------------------------------------------------------------------------------------


def _operation(path: str, controller: type[Controller], route: Route, operation: Operation) -> dict[str, Any]:
    resource = path.split("/", maxsplit=1)[0]
    body = api_schema()["properties"][route.schema] if route.schema else None
    parameters = [described_part(resource, part[1:-1]) for part in route.parts if part.startswith("{")]
    parameters += [_ref("parameters", name) for name in ("X-Request-Id", *operation.parameters)]
    for reply in operation.replies.values():
        parameters += _list_parameters(reply.items) if reply.items else []
    described = {
        "operationId": f"{resource.partition('.')[0]}_{route.handler}",
        "tags": [resource],
        "summary": operation.summary or (body or {})["title"],
        "parameters": parameters,
        "responses": {
            **{str(status): _reply(status, reply) for status, reply in operation.replies.items()},
            **_refusals(_all_refusals(controller, route, operation), operation.refused_as),
        },
    }
    if body is not None:
        content = {JSON: {"schema": _ref("schemas", str(route.schema))}}
        described["requestBody"] = {"required": "required" in body, "content": content}
    return described if controller.url_auth else described | {"security": []}


def _list_parameters(items: str) -> list[dict[str, Any]]:
    """The flags of a list, and a filter for each field of its items."""
    flags = [_ref("parameters", name) for name in ("_limit", "_after")]
    fields = answers_schema()["$defs"][items]["properties"]
    text = "The value of the field, or a regular expression (RE2) that matches it from the start."
    schema = {"type": "string", "maxLength": 1000}
    return flags + [{"name": name, "in": "query", "description": text, "schema": schema} for name in fields]


def _reply(status: int, reply: Reply) -> dict[str, Any]:
    headers = {name: _ref("headers", name) for name in ("X-Request-Id", *reply.headers, *reply.at_times)}
    described: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": headers}
    choices = [_ref("schemas", name) for name in reply.schemas]
    if reply.items:
        schema: dict[str, Any] = {"type": "array", "items": _ref("schemas", reply.items)}
    elif choices:
        schema = choices[0] if len(choices) == 1 else {"oneOf": choices}
    else:
        return described
    return described | {"content": {media: {"schema": schema} for media in reply.media}}


# --- Refusals --------------------------------------------------------------------------------------------------------


def _all_refusals(controller: type[Controller], route: Route, operation: Operation) -> set[Error]:
    """Those of the operation, and those that come with how it is asked for."""
    found = {*_ALWAYS, *operation.refusals}
    found |= {*_LOG_IN} if controller.url_auth else set()
    found |= {*_BODY} if route.schema else set()
    found |= {errors.ForeignOrigin} if route.method != "GET" else set()
    found |= {errors.OnlyReads} if route.method != "GET" and controller.url_auth else set()
    found |= {errors.ResourceNotFound} if any(part.startswith("{") for part in route.parts) else set()
    found |= {*_LIST} if any(reply.items for reply in operation.replies.values()) else set()
    return found


def _refusals(found: Iterable[Error], schema: str) -> dict[str, Any]:
    by_status: dict[int, set[Error]] = {}
    for error in found:
        for status in (error.status, *(_TOO_LONG if error is errors.BadRequest else ())):
            by_status.setdefault(int(status), set()).add(error)
    return {
        str(status): _refusal(status, sorted(refusals, key=lambda error: error.code), schema)
        for status, refusals in sorted(by_status.items())
    }


def _refusal(status: int, refusals: list[Error], schema: str) -> dict[str, Any]:
    names = ["X-Request-Id"]
    names += ["Retry-After"] if any(_may_pass(error) for error in refusals) else []
    names += ["WWW-Authenticate"] if status == HTTPStatus.UNAUTHORIZED else []
    codes = "|".join(re.escape(error.code) for error in refusals)
    narrowed = {"properties": {"code": {"const": _status_line(status)}, "reason": {"pattern": f"^({codes}): "}}}
    examples = {error.code: _error_example(error, status) for error in refusals}
    shapes = {JSON: schema, PROBLEM_TYPE: "problem"}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {name: _ref("headers", name) for name in names},
        "content": {
            media: {"schema": {"allOf": [_ref("schemas", shape), narrowed]}}
            | ({"examples": examples} if media == JSON else {})
            for media, shape in shapes.items()
        },
    }


def _may_pass(error: Error) -> bool:
    return error.retry_after is not None or error in (errors.TooManyAttempts, errors.TooManyBytes)


def _error_example(error: Error, status: int) -> dict[str, Any]:
    if status == error.status:
        return _ref("examples", error.code)
    return {"value": _example(error, status)}


def _example(error: Error, status: int) -> dict[str, str]:
    """An error with `…` for what differs."""
    text = re.sub(r"(?<!{){\w+}(?!})", "…", error.text).replace("{{}}", "{}")
    return {"code": _status_line(status), "reason": f"{error.code}: {text}"}


def _status_line(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"
