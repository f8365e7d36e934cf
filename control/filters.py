"""Filters of a list: `field=value`; the value is the field's or a regular expression that matches from its start.

The expressions run on RE2, which is linear in its input whatever the expression: Python's own engine lets one request
like `^((/|[a-z-])+)+X$` occupy the server for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import re2

from .. import errors

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
    return lambda found: _text(found) == value or expression.match(_text(found)) is not None


def _text(found: Any) -> str:
    """A field as a filter sees it: JSON's words for what is no text."""
    if isinstance(found, bool) or found is None:
        return {True: "true", False: "false", None: "null"}[found]
    return str(found)
