"""Parameters and headers as the OpenAPI document has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import context
from ..model.keys import LONGEST_KEY
from .filters import LONGEST_PAGE
from .tasks import LONGEST_WAIT_S


def _text(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}}


def _number(description: str, low: int, high: int) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "integer", "minimum": low, "maximum": high}}


_SECONDS = {"schema": {"type": "string", "pattern": "^[0-9]+$"}}

HEADERS: Mapping[str, dict[str, Any]] = {
    context.HEADER: {"required": True, **_text("The request's id, by which the log knows it.")},
    "Location": {"required": True, **_text("The path of the task or of the batch.")},
    "Retry-After": {"description": "After so many seconds it is worth asking again.", **_SECONDS},
    "Link": _text('The next page, as rel="next", while there is one.'),
    "WWW-Authenticate": _text("How to log in; not for scripts of a page (X-Requested-With: XMLHttpRequest)."),
}

_REQUEST_ID = "An id for the log and for the answer; left out, or of other characters, it gets a new one."
_KEY = (
    "Made up anew for each request; sent again with the same body, the request is answered as before and nothing is "
    "done twice (draft-ietf-httpapi-idempotency-key-header-07)."
)

PARAMETERS: Mapping[str, dict[str, Any]] = {
    context.HEADER: {"name": context.HEADER, "in": "header", **_text(_REQUEST_ID)},
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        **_text(_KEY, minLength=1, maxLength=LONGEST_KEY, pattern="^[ -~]+$"),
    },
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        **_text("The id of the last event that was seen, to go on after it.", pattern="^[0-9]{1,18}-[0-9]{1,18}$"),
    },
    "wait": {
        "name": "wait",
        "in": "query",
        **_number("Seconds to wait for the end of the task; where many wait already, none.", 0, LONGEST_WAIT_S),
    },
    "guests": {
        "name": "guests",
        "in": "query",
        "description": "Whether to tell of guests as well.",
        "schema": {"type": "boolean"},
    },
    "_limit": {"name": "_limit", "in": "query", **_number("How many, for a page at a time.", 1, LONGEST_PAGE)},
    "_after": {"name": "_after", "in": "query", **_text("What comes after this name, id or event.")},
}

_PARTS = {
    ("vms", "name"): ("The name of the guest.", "web"),
    ("storagepools", "pool"): ("The name of the pool.", "default"),
    ("storagepools", "name"): ("The name of the volume.", "web.qcow2"),
    ("tasks", "id"): ("The id of the task.", "1"),
    ("batches", "id"): ("The id of the batch.", "1"),
}


def described_part(resource: str, name: str) -> dict[str, Any]:
    """A named part of a route's path, as a parameter."""
    text, example = _PARTS[resource, name]
    described = _text(text, minLength=1, pattern="^[^/]+$")
    return {"name": name, "in": "path", "required": True, **described, "example": example}
