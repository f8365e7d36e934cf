"""Whether an answer is one that the OpenAPI document has: its status, its type, its headers, its shape, its code.

The document is made here and not asked for, so that looking at an answer is no request; a test sees to it that a server
gives the same one. Shapes are closed: a key that the document lacks is an error here, while readers must expect it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.message import Message
from functools import cache
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote

from jsonschema import Draft202012Validator

from cloner.control import sub_nodes
from cloner.control.base import Controller
from cloner.control.document import Part, document
from cloner.control.operations import OPERATIONS
from cloner.server import operations
from cloner.server.health import Livez, Readyz
from cloner.server.root import Docs, LogIn, LogOut

METRICS: dict[str, type[Controller]] = {}
if find_spec("prometheus_client"):  # which a host with Wok need not have; then there is no /metrics
    from cloner.server.metrics import MetricsPage

    METRICS["metrics"] = MetricsPage

MOUNT_POINT = "/plugins/kimchi"
BESIDE: Mapping[str, type[Controller]] = {
    **{"login": LogIn, "logout": LogOut, "docs": Docs},
    **{"livez": Livez, "readyz": Readyz, **METRICS},
}
PARTS = [Part(MOUNT_POINT, sub_nodes, OPERATIONS), Part("", BESIDE, operations.OPERATIONS)]


@cache
def the_document() -> dict[str, Any]:
    """As a server gives it, with every shape closed."""
    closed: dict[str, Any] = close(document(PARTS))
    return closed


def close(value: Any) -> Any:
    """A document or schema in which an object has no key but those that are described."""
    if isinstance(value, list):
        return [close(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    closed = {key: close(inner) for key, inner in value.items()}
    is_shape = value.get("type") == "object" and isinstance(value.get("properties"), dict)
    return {"additionalProperties": False, **closed} if is_shape else closed


def operation_of(method: str, path: str) -> tuple[str, ...] | None:
    """Where the document has a request; None for one that it does not have."""
    path = path.partition("?")[0]
    path = path.rstrip("/") or path
    for template, item in the_document()["paths"].items():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in item:
            return "paths", template, method.lower()
    return None


def at(*place: str) -> dict[str, Any]:
    """What is at a place in the document."""
    found = the_document()
    for step in place:
        found = found[step]
    return found


def validator(*place: str) -> Draft202012Validator:
    """Of the schema at a place in the document."""
    return _validator("".join("/" + step.replace("~", "~0").replace("/", "~1") for step in place))


@cache
def _validator(pointer: str) -> Draft202012Validator:
    return Draft202012Validator({**the_document(), "$ref": f"#{quote(pointer)}"})


def undocumented(method: str, path: str, status: int, headers: Message, content: Any) -> str:
    """What of an answer the document lacks, in words; empty where it has all of it, or lacks the whole request.

    `content` is the body: as JSON where it is that, else as text. Of a HEAD it is not looked at.
    """
    place = operation_of("GET" if method == "HEAD" else method, path)
    if place is None:
        return ""
    asked = f"{method} {path} answered {status}"
    response = at(*place)["responses"].get(str(status))
    if response is None:
        return f"{asked}, which is not documented: {str(content)[:300]}"
    known = the_document()["components"]["headers"]
    missing = [name for name in response["headers"] if known[name].get("required") and name not in headers]
    if missing:
        return f"{asked} without {missing}, of which the document says that they are always there"
    if method == "HEAD" or "content" not in response:
        return ""
    media = (headers.get("Content-Type") or "").partition(";")[0]
    if media not in response["content"]:
        return f"{asked} as {media}, which is not documented"
    place = (*place, "responses", str(status), "content", media, "schema")
    problem = next(iter(validator(*place).iter_errors(content)), None)
    return f"{asked}, whose shape is not documented: {problem.message[:500]}" if problem else ""
