"""The OpenAPI document of a running server, and what schemathesis finds when it asks for all of it.

schemathesis makes up requests from the document, good ones and bad ones, and holds each answer against it: no 500, no
status, type, header or shape that is not there. It is deterministic: the same requests each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cloner.control.document import document
from support.documented import PARTS, the_document, undocumented
from support.server import MOUNT_POINT, Server

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ENDLESS = f"{MOUNT_POINT}/events"
KNOWN = {
    "vms": {"name": ["web", "db", "mail"]},
    "storagepools": {"pool": ["default", "data"], "name": ["web.qcow2", "data.qcow2"]},
    "tasks": {"id": ["1", "2", "3"]},
    "batches": {"id": ["1", "2"]},
}
"""What there is, so that not every request is for what is not there."""

api = schemathesis.openapi.from_dict(the_document())


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of its own, since guests are started and deleted here."""
    with Server(None, tmp_path_factory.mktemp("openapi")) as server:
        yield server


@api.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Takes something that is there in half of the requests."""
    resource = context.operation.path.removeprefix(f"{MOUNT_POINT}/").split("/")[0]
    parts = dict(path_parameters or {})
    for name, value in parts.items():
        known = KNOWN[resource][name]
        parts[name] = known[len(str(value)) % len(known)] if len(str(value)) % 2 else value
    return parts


@api.exclude(path=ENDLESS).parametrize()
@settings(
    max_examples=25,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_the_document_says(case: schemathesis.Case[Any], own_server: Server) -> None:
    base = own_server.base.removesuffix(MOUNT_POINT)
    case.call_and_validate(
        base_url=base, headers={"Authorization": f"Bearer {own_server.token}"}, checks=CHECKS, timeout=30
    )


def test_after_all_that_the_server_is_well(own_server: Server) -> None:
    assert own_server.running
    assert "Traceback" not in own_server.log
    assert own_server.request("GET", "vms").status == 200


@pytest.mark.parametrize("headers", [{}, {"Last-Event-ID": "1-1"}, {"Last-Event-ID": "nope"}])
def test_what_never_ends_begins_as_the_document_says(own_server: Server, headers: dict[str, str]) -> None:
    answer = own_server.request("GET", "events", headers=headers)
    assert answer.status == (400 if headers == {"Last-Event-ID": "nope"} else 200)


def test_a_server_gives_the_document(server: Server) -> None:
    assert server.request("GET", "openapi.json").json == document(PARTS)


def test_an_answer_that_the_document_lacks_is_noticed(server: Server) -> None:
    answer = server.request("GET", "vms/nope")
    path, headers, error = f"{MOUNT_POINT}/vms/nope", answer.headers, answer.json
    assert undocumented("GET", path, 404, headers, error) == ""
    assert re.search("shape", undocumented("GET", path, 404, headers, error | {"more": 1}))
    assert re.search("shape", undocumented("GET", path, 404, headers, error | {"reason": "KCHPOOL0002E: no"}))
    assert re.search("not documented", undocumented("GET", path, 418, headers, error))
    del headers["X-Request-Id"]
    assert re.search("always there", undocumented("GET", path, 404, headers, error))
