"""Request bodies against API.json, the one source of what a request may say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from .. import errors

API_FILE = Path(__file__).resolve().parent.parent / "API.json"


@cache
def api_schema() -> dict[str, Any]:
    """API.json as it is."""
    schema: dict[str, Any] = json.loads(API_FILE.read_text("utf-8"))
    return schema


def is_text(value: bytes | str) -> bool:
    """Whether a value from outside can be handed to libvirt and to the journal: UTF-8 without NUL."""
    try:
        encoded = value if isinstance(value, bytes) else value.encode("utf-8")
        return "\0" not in encoded.decode("utf-8")
    except UnicodeError:
        return False


@cache
def _validator(action: str) -> Draft202012Validator:
    return Draft202012Validator(api_schema()["properties"][action])


def validate(action: str, body: Mapping[str, Any]) -> None:
    """Raises InvalidParameter, naming the field, when the body is not as API.json says of the action."""
    for field, value in body.items():
        if isinstance(value, str) and not is_text(value):
            raise errors.InvalidParameter(field=field, cause="it has characters that no text can have")
    problem = best_match(_validator(action).iter_errors(body))
    if problem is not None:
        raise errors.InvalidParameter(field=_field(problem), cause=_cause(problem))


def _field(problem: ValidationError) -> str:
    path = ".".join(str(part) for part in problem.absolute_path)
    if problem.validator == "additionalProperties" and isinstance(problem.instance, Mapping):
        known = problem.schema.get("properties", {})  # type: ignore[union-attr]  # a schema with this keyword is an object
        return ", ".join(sorted(set(problem.instance) - set(known)))[:200]
    if problem.validator == "required" and isinstance(problem.instance, Mapping):
        required: Any = problem.validator_value
        return ", ".join(name for name in required if name not in problem.instance)
    return path or "(the body)"


def _cause(problem: ValidationError) -> str:
    if problem.validator == "additionalProperties":
        known = ", ".join(problem.schema.get("properties", {})) or "none"  # type: ignore[union-attr]  # as above
        return f"not a field of this request. Its fields: {known}"
    if problem.validator == "required":
        return "it is required"
    if problem.validator == "pattern":
        return "it has characters that cannot be there, such as control characters"
    return problem.message[:300]
