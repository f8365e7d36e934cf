"""What is documented is what there is: requests and their fields, errors, extensions and settings."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from cloner import errors
from cloner.control.validation import api_schema
from cloner.model.config import EXTENSIONS
from cloner.settings import Settings
from support.documented import PARTS

ROOT = Path(__file__).resolve().parents[2]
API = (ROOT / "docs" / "API.md").read_text("utf-8")


def test_every_error_is_documented_with_its_status_and_nothing_else_is() -> None:
    classes = [
        member for _, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, errors.ClonerError)
    ]
    documented = re.findall(r"^\| `([A-Z]+[0-9]{4}E)` \| ([0-9]{3}) \|", API, re.MULTILINE)
    assert sorted(documented) == sorted((error.code, str(error.status)) for error in classes)


Requests = list[tuple[str, str, set[str]]]
"""Method, path and the fields of the body."""


def documented_requests() -> Requests:
    rows = re.findall(r"^\| `([A-Z]+) (\S+)` \|(.*?)\|", API, re.MULTILINE)
    return sorted((method, path, set(re.findall(r"`(\w+)`", body))) for method, path, body in rows)


def served_requests() -> Requests:
    return sorted(
        (
            route.method,
            f"{'P' if part.path else ''}/{path}".replace("{", "<").replace("}", ">"),
            fields_of(route.schema),
        )
        for part in PARTS
        for path, _, route in part.routes()
    )


def fields_of(action: str | None) -> set[str]:
    """The fields of a request's body, by API.json."""
    return set(api_schema()["properties"][action].get("properties", ())) if action else set()


def test_every_route_is_documented_once_and_nothing_else_is() -> None:
    assert [request[:2] for request in documented_requests()] == [request[:2] for request in served_requests()]


def test_every_field_of_a_request_is_documented_and_nothing_else_is() -> None:
    assert documented_requests() == served_requests()


def test_every_extension_is_documented_and_nothing_else_is() -> None:
    table = API.partition("\n### Extensions\n")[2].partition("\n#")[0]
    names = [name for cell in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall("`(.+?)`", cell)]
    assert names == list(EXTENSIONS)


@pytest.mark.parametrize("action", ["vm_clone", "storagevolume_clone", "vm_delete"])
def test_every_field_of_a_request_has_its_extension(action: str) -> None:
    verb = action.rpartition("_")[2]
    assert {f"{verb}-{field.replace('_', '-')}" for field in fields_of(action)} <= set(EXTENSIONS)


def test_every_setting_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for setting in fields(Settings):
        assert re.search(rf"`(\[[a-z]+\] )?{setting.name}`", readme), setting.name
