"""Filters of a list: `field=value`; the value is the field's or a regular expression that matches from its start.

The expressions run on RE2, which is linear in its input whatever the expression: Python's own engine lets one request
like `^((/|[a-z-])+)+X$` occupy the server for ever. Where RE2 is not installed, expressions.py does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import cherrypy

from .. import errors
from .base import Answer, Request
from .expressions import Expression, NotUsable

try:
    import re2
except ImportError:  # of a host with Wok
    re2 = None

_MAX_EXPRESSION = 1000
_MEMORY_BYTES = 1 << 20


def select(items: list[dict[str, Any]], query: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The items for which every filter holds. A key that starts with `_` is no filter. Raises InvalidFilter."""
    for field, value in query.items():
        if not field.startswith("_"):
            matches = _matcher(field, value)
            items = [item for item in items if field in item and matches(item[field])]
    return items


def _matcher(field: str, value: Any) -> Callable[[Any], bool]:
    if not isinstance(value, str):
        raise errors.InvalidFilter(field=field, cause="it is given more than once")
    if len(value) > _MAX_EXPRESSION:
        raise errors.InvalidFilter(field=field, cause=f"it is longer than {_MAX_EXPRESSION} characters")
    matches = _expression(field, value) if re2 is None else _re2_expression(field, value)
    return lambda found: _text(found) == value or matches(_text(found))


def _re2_expression(field: str, value: str) -> Callable[[str], bool]:
    options = re2.Options()
    options.max_mem = _MEMORY_BYTES
    options.log_errors = False
    try:
        expression = re2.compile(value, options)
    except re2.error as error:
        cause = error.args[0] if error.args else error
        raise errors.InvalidFilter(
            field=field, cause=cause.decode("utf-8", "replace") if isinstance(cause, bytes) else cause
        ) from error
    return lambda text: expression.match(text) is not None


def _expression(field: str, value: str) -> Callable[[str], bool]:
    try:
        expression = Expression(value)
    except NotUsable as error:
        raise errors.InvalidFilter(field=field, cause=error) from error

    def matches(text: str) -> bool:
        try:
            return expression.matches_start(text)
        except NotUsable as error:
            raise errors.InvalidFilter(field=field, cause=error) from error

    return matches


def _text(found: Any) -> str:
    """A field as a filter sees it: JSON's words for what is no text."""
    if isinstance(found, bool) or found is None:
        return {True: "true", False: "false", None: "null"}[found]
    return str(found)


# --- Pages -----------------------------------------------------------------------------------------------------------

LONGEST_PAGE = 1000


def by_name(item: Mapping[str, Any]) -> str:
    return str(item["name"])


def by_id(item: Mapping[str, Any]) -> int:
    """Raises ValueError for what is no id; int() alone takes signs, spaces and other scripts too."""
    text = str(item["id"])
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def listed(
    items: list[dict[str, Any]], request: Request, key: Callable[[Mapping[str, Any]], str | int] = by_name
) -> Answer:
    """A list as it is answered: those for which every filter holds, a page at a time where that is asked for.

    The flag `_limit` says how many, `_after` the id or name of the last one before them. The header `Link` leads to the
    next page, if there is one. Raises InvalidFilter, InvalidParameter.
    """
    found = sorted(select(items, request.query), key=key)
    after = request.query.get("_after")
    if after is not None:
        last = _position(after, key)
        found = [item for item in found if key(item) > last]  # type: ignore[operator]  # both are names, or both ids
    limit = request.query.get("_limit")
    if limit is None:
        return Answer(found)
    size = _size(limit)
    page = found[:size]
    if len(found) <= size:
        return Answer(page)
    query = {**request.query, "_after": str(key(page[-1]))}
    path = cherrypy.serving.request.script_name + cherrypy.serving.request.path_info
    return Answer(page, headers={"Link": f'<{quote(path, safe="/")}?{urlencode(query)}>; rel="next"'})


def part(request: Request) -> tuple[str, int | None]:
    """What of a list by name is enough for `listed`: what comes after a name, and of that so many; None for all.

    Raises InvalidParameter.
    """
    after, limit = request.query.get("_after", ""), request.query.get("_limit")
    has_filters = any(not key.startswith("_") for key in request.query)
    most = None if limit is None or has_filters else _size(limit) + 1  # which tells whether there is another page
    return str(_position(after, by_name)), most


def _position(after: Any, key: Callable[[Mapping[str, Any]], str | int]) -> str | int:
    if not isinstance(after, str):
        raise errors.InvalidParameter(field="_after", cause="it is given more than once")
    try:
        return key({"id": after, "name": after})
    except ValueError as error:
        raise errors.InvalidParameter(field="_after", cause="it must be an id of this list") from error


def _size(limit: Any) -> int:
    if isinstance(limit, str) and limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= LONGEST_PAGE:
        return int(limit)
    raise errors.InvalidParameter(field="_limit", cause=f"it must be a number from 1 to {LONGEST_PAGE}")
