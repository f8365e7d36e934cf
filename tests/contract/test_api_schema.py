"""API.json is the one source of what a request may say: handlers read its fields, all of them, and no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import cherrypy
import pytest
from jsonschema import Draft202012Validator

from cloner.callers import ANYBODY
from cloner.control import sub_nodes
from cloner.control.base import Request
from cloner.control.validation import api_schema
from cloner.plugin import Cloner
from cloner.server.auth import Door
from cloner.server.root import LogIn, LogOut
from cloner.settings import Settings, demo_uri
from support.server import Server

ACTIONS: Mapping[str, Any] = api_schema()["properties"]
CONTROLLERS: tuple[Any, ...] = (*sub_nodes.values(), LogIn, LogOut)
ROUTES = {
    route.schema: (controller, route) for controller in CONTROLLERS for route in controller.routes if route.schema
}
PATHS = {
    "vm_clone": {"name": "web"},
    "vm_delete": {"name": "db"},
    "vm_start": {"name": "db"},
    "storagevolume_clone": {"pool": "default", "name": "web.qcow2"},
    "task_delete": {"id": "1"},
    "batch_delete": {"id": "1"},
}
ALONE = {"count"}  # not with name
REQUESTS = {  # that are refused after their bodies were found good
    "vm_clone": ("POST", "vms/mail/clone"),
    "vm_delete": ("DELETE", "vms/mail"),
    "vm_start": ("POST", "vms/mail/start"),
    "storagevolume_clone": ("POST", "storagepools/default/storagevolumes/nope/clone"),
    "task_delete": ("DELETE", "tasks/999999"),
    "batch_delete": ("DELETE", "batches/999999"),
    "login": ("POST", "/login"),
    "logout": ("POST", "/logout"),
}


def some_body(action: str) -> dict[str, Any]:
    """A value for each field of a request; the texts are names of a pool, which is a good name for anything."""
    by_type = {"string": "data", "boolean": False, "integer": 1}
    fields = {name: field for name, field in ACTIONS[action].get("properties", {}).items() if name not in ALONE}
    return {name: field["enum"][0] if "enum" in field else by_type[field["type"]] for name, field in fields.items()}


class Reads(dict[str, Any]):
    """A body that remembers which of its fields were read."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.read: set[str] = set()

    def __getitem__(self, field: str) -> Any:
        self.read.add(field)
        return super().__getitem__(field)

    def get(self, field: str, default: Any = None) -> Any:
        self.read.add(field)
        return super().get(field, default)


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Cloner]:
    plugin = Cloner(Settings(connect=demo_uri(), state_dir=str(tmp_path)))
    cherrypy.engine.unsubscribe("start", plugin.start)
    cherrypy.engine.unsubscribe("stop", plugin.stop)
    plugin.start()
    yield plugin
    plugin.stop()


def test_it_is_a_schema_of_2020_12() -> None:
    schema = api_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_request_is_closed_and_every_field_is_explained(action: str) -> None:
    request = ACTIONS[action]
    assert request["type"] == "object"
    assert request["additionalProperties"] is False
    assert request["title"]
    assert action in ("login", "logout") or all(
        field["description"] for field in request.get("properties", {}).values()
    )


def test_every_request_has_a_route_and_every_route_that_writes_a_request() -> None:
    assert ROUTES.keys() == ACTIONS.keys()
    unchecked = {route.method for controller in CONTROLLERS for route in controller.routes if not route.schema}
    assert unchecked == {"GET"}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_handler_reads_the_fields_of_its_request_and_no_other(action: str, plugin: Cloner) -> None:
    controller, route = ROUTES[action]
    made = controller(Door("x", 60) if controller in (LogIn, LogOut) else plugin.services)
    with mock.patch("cherrypy.serving.request", headers={}, path_info="/"):
        clone = plugin.vms.clone  # type: ignore[attr-defined]  # set by name
        task = clone(Request({"name": "web"}, {}, {"count": 1}, "", ANYBODY)).content["tasks"][0]["id"]
    body = Reads({"username": "admin", "password": "x"} if action == "login" else {})
    path = PATHS.get(action, {}) | ({"id": task} if action == "task_delete" else {})
    with mock.patch("cherrypy.serving.request", headers={}, path_info="/"), mock.patch("cherrypy.serving.response"):
        getattr(made, route.handler)(Request(path, {}, body, "", ANYBODY))
    assert body.read == set(ACTIONS[action].get("properties", {}))


@pytest.mark.parametrize("action", ACTIONS)
def test_a_request_takes_all_its_fields_together(action: str, server: Server) -> None:
    answer = server.request(*REQUESTS[action], some_body(action))
    assert "CLNAPI" not in answer.text
    assert "WOKAPI" not in answer.text


@pytest.mark.parametrize("action", ACTIONS)
def test_a_field_that_it_lacks_is_refused(action: str, server: Server) -> None:
    answer = server.request(*REQUESTS[action], some_body(action) | {"nope": 1})
    assert answer.status == 400
    assert "Field nope: " in answer.json["reason"]
