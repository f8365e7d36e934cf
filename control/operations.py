"""What each route answers and refuses, for the OpenAPI document: its path and its body, the route has itself.

Schemas of answers are named as in ANSWERS.json. What every route may answer is not repeated here; document.py adds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .. import errors

Error = type[errors.ClonerError]

JSON, HTML, EVENT_STREAM, TEXT = "application/json", "text/html", "text/event-stream", "text/plain"
OPEN_METRICS = "application/openmetrics-text"


@dataclass(frozen=True)
class Reply:
    """An answer that is no refusal.

    `schemas` are those of which one holds, `items` the schema of a list's items. `media` are its types, of which the
    header Accept may choose. `headers` are always there, `at_times` not; what they are, parameters.py says.
    """

    schemas: tuple[str, ...] = ()
    items: str = ""
    media: tuple[str, ...] = (JSON,)
    headers: tuple[str, ...] = ()
    at_times: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operation:
    """A route's part of the document.

    `summary` may be empty where API.json has a title for the body. `parameters` are those in query and headers, by
    name; those of lists are known. `refused_as` is the schema of refusals that say more than other errors do.
    """

    replies: Mapping[int, Reply]
    refusals: tuple[Error, ...] = ()
    summary: str = ""
    parameters: tuple[str, ...] = ()
    refused_as: str = "error"


def _one(schema: str) -> dict[int, Reply]:
    return {200: Reply((schema,))}


def _list(items: str) -> dict[int, Reply]:
    return {200: Reply(items=items, at_times=("Link",))}


HOST = (errors.LibvirtUnavailable, errors.LibvirtFailed, errors.Busy)
_CLONE = (
    *HOST,
    *(errors.PoolNotFound, errors.PoolInactive, errors.PoolCannotCreate, errors.NoRoom),
    *(errors.InvalidName, errors.NameTaken, errors.MethodCannotServe, errors.SourceInUse),
    *(errors.KeyReused, errors.KeyInUse, errors.TaskNotFound),
    *(errors.TooManyRunning, errors.TooManyBytes),
)
_ACCEPTED = {
    200: Reply(("dry_run",)),
    202: Reply(("task", "accepted_batch"), headers=("Location", "Retry-After")),
}

OPERATIONS: Mapping[str, Operation] = {
    "GET vms": Operation(_list("guest"), HOST, "List the guests"),
    "GET vms/{name}": Operation(_one("guest"), (errors.DomainNotFound, *HOST), "Look a guest up"),
    "DELETE vms/{name}": Operation(
        {204: Reply()},
        (
            *(errors.DomainNotFound, errors.NotYours, errors.DomainIsRunning, errors.SourceInUse),
            *(errors.DomainDeletedInPart, errors.PoolInactive, *HOST),
        ),
    ),
    "POST vms/{name}/start": Operation(
        _one("guest"), (errors.DomainNotFound, errors.NotYours, errors.DomainIsActive, errors.SourceInUse, *HOST)
    ),
    "POST vms/{name}/clone": Operation(
        _ACCEPTED,
        (
            *(errors.DomainNotFound, errors.DomainNotShutOff, errors.DomainHasSavedState),
            *(errors.DeviceNotCloneable, errors.DiskNotCloneable, *_CLONE),
        ),
        parameters=("Idempotency-Key",),
    ),
    "GET storagepools": Operation(_list("pool"), (errors.ResourceNotFound, *HOST), "List the storage pools"),
    "GET storagepools/{pool}": Operation(_one("pool"), (errors.PoolNotFound, *HOST), "Look a storage pool up"),
    "GET storagepools/{pool}/storagevolumes": Operation(
        _list("volume"), (errors.PoolNotFound, errors.PoolInactive, *HOST), "List the volumes of a pool"
    ),
    "GET storagepools/{pool}/storagevolumes/{name}": Operation(
        _one("volume"),
        (errors.PoolNotFound, errors.PoolInactive, errors.VolumeNotFound, *HOST),
        "Look a storage volume up",
    ),
    "POST storagepools/{pool}/storagevolumes/{name}/clone": Operation(
        _ACCEPTED,
        (errors.VolumeNotFound, errors.VolumeNotCloneable, errors.VolumeIsWritten, *_CLONE),
        parameters=("Idempotency-Key",),
    ),
    "GET tasks": Operation(_list("task"), summary="List the tasks"),
    "GET tasks/{id}": Operation(
        {200: Reply(("task",), at_times=("Retry-After",))},
        (errors.TaskNotFound, errors.InvalidParameter),
        "Look a task up, or wait for its end",
        parameters=("wait",),
    ),
    "DELETE tasks/{id}": Operation(
        {**_one("task"), 202: Reply(("task",)), 204: Reply()}, (errors.TaskNotFound, errors.NotYours)
    ),
    "GET batches/{id}": Operation(_one("batch"), (errors.BatchNotFound,), "Look a batch up"),
    "DELETE batches/{id}": Operation({202: Reply(("batch",))}, (errors.BatchNotFound, errors.NotYours, errors.Busy)),
    "GET events": Operation(
        {200: Reply(("event_stream",), media=(EVENT_STREAM,))},
        (errors.TooManyStreams, errors.InvalidParameter),
        "Follow what becomes of tasks, and of guests",
        parameters=("Last-Event-ID", "_after", "guests"),
    ),
    "GET config": Operation(_one("config"), summary="See what this server is"),
    "GET openapi.json": Operation(_one("openapi"), summary="Get this document"),
}
"""By method and path of the route, below the mount."""
