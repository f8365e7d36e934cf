"""The OpenAPI document: it is one, and it has every route, every error and every field, each once and with examples."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from cloner import errors
from cloner.control.base import Controller, Request, route
from cloner.control.document import Part, answers_schema, document
from cloner.control.validation import api_schema
from support.documented import PARTS, validator

NEVER_ANSWERED = {
    # They are what a task or the log says, or end a command or the server's start.
    *(errors.CloneFailed, errors.CloneFailedWithLeftovers, errors.CloneCancelled, errors.ServerStopped),
    *(errors.SourceStarted, errors.SourceChanged, errors.NotRemoved, errors.Withdrawn, errors.NotStarted),
    *(errors.UnderWayInBackup, errors.UndoneLater, errors.StepFailed, errors.VolumeInTheWay),
    *(errors.TokenNotFound, errors.TokenExists),
    *(errors.InvalidConfiguration, errors.JournalTooNew, errors.BackupFailed),
    # It is the answer to a method that the document does not have.
    errors.MethodNotAllowed,
}

THE = document(PARTS)


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in THE["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def test_it_is_a_document_of_openapi_3_1() -> None:
    assert THE["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(THE).validate()


def test_every_route_is_in_it_and_everything_that_is_said_is_of_a_route() -> None:
    for part in PARTS:
        assert {f"{item.method} {path}" for path, _, item in part.routes()} == part.operations.keys()
    routes = {f"{item.method} {part.path}/{path}" for part in PARTS for path, _, item in part.routes()}
    assert {name for name, _ in operations()} == routes


def test_a_route_that_nothing_is_said_of_is_noticed() -> None:
    class New(Controller):
        @route("GET", "")
        def lookup(self, _request: Request) -> None: ...

    with pytest.raises(KeyError, match="GET new"):
        document([Part("", {"new": New}, {})])


def test_every_operation_is_told_apart_and_summed_up() -> None:
    found = [operation for _, operation in operations()]
    assert len({operation["operationId"] for operation in found}) == len(found)
    assert all(operation["summary"] for operation in found)


def test_requests_are_as_api_json_has_them() -> None:
    schemas = THE["components"]["schemas"]
    assert {name: schemas[name] for name in api_schema()["properties"]} == api_schema()["properties"]
    asked = {item.schema for part in PARTS for _, _, item in part.routes() if item.schema}
    assert asked == api_schema()["properties"].keys()


def test_the_schemas_of_answers_are_schemas_and_each_is_used() -> None:
    Draft202012Validator.check_schema(answers_schema())
    told = str(THE["paths"]) + str(THE["components"])
    assert [name for name in answers_schema()["$defs"] if f"'#/components/schemas/{name}'" not in told] == []
    assert not api_schema()["properties"].keys() & answers_schema()["$defs"].keys()


@pytest.mark.parametrize("name", THE["components"]["schemas"])
def test_examples_are_what_they_are_examples_of(name: str) -> None:
    schema = THE["components"]["schemas"][name]
    assert schema.get("examples") or name in ("openapi", "page", "plan")
    for example in schema.get("examples", ()):
        validator("components", "schemas", name).validate(example)


def codes() -> set[str]:
    return {
        code
        for _, operation in operations()
        for status, response in operation["responses"].items()
        if int(status) >= 400
        for code in response["content"]["application/json"]["examples"]
    }


def test_every_error_is_some_routes_or_none_that_is_answered() -> None:
    classes = [member for _, member in inspect.getmembers(errors, inspect.isclass)]
    known = {member for member in classes if issubclass(member, errors.ClonerError)}
    assert codes() == {error.code for error in known - NEVER_ANSWERED}
    assert known > NEVER_ANSWERED


def test_an_error_has_an_example_without_a_gap() -> None:
    for code, example in THE["components"]["examples"].items():
        assert example["value"]["reason"].startswith(f"{code}: ")
        assert not {"{", "}"} & set(example["value"]["reason"].replace("{}", ""))


def test_who_needs_no_log_in() -> None:
    open_ones = {name for name, operation in operations() if operation.get("security") == []}
    assert open_ones == {"POST /login", "POST /logout", "GET /livez", "GET /readyz", "GET /docs"}
