"""What is documented is what there is: errors, settings and fields of requests."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields
from pathlib import Path

from cloner import errors
from cloner.control import sub_nodes
from cloner.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
API = (ROOT / "docs" / "API.md").read_text("utf-8")


def test_every_error_is_documented_with_its_status_and_nothing_else_is() -> None:
    classes = [
        member for _, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, errors.ClonerError)
    ]
    documented = re.findall(r"^\| `([A-Z]+[0-9]{4}E)` \| ([0-9]{3}) \|", API, re.MULTILINE)
    assert sorted(documented) == sorted((error.code, str(error.status)) for error in classes)


def test_every_field_of_a_request_is_documented() -> None:
    schema = json.loads((ROOT / "API.json").read_text("utf-8"))
    for action, request in schema["properties"].items():
        for field in request.get("properties", {}):
            assert re.search(rf'[`"]{field}[`"]', API), f"{field} of {action}"


def test_every_route_is_documented() -> None:
    for name, controller in sub_nodes.items():
        for route in controller.routes:
            part = route.parts[-1] if route.parts else name
            assert route.method in API
            assert (part.strip("{}") if part.startswith("{") else f"/{part}") in API, route


def test_every_setting_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for setting in fields(Settings):
        assert re.search(rf"`(\[[a-z]+\] )?{setting.name}`", readme), setting.name
