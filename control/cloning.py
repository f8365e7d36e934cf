"""What the clone of a guest and that of a volume have in common over HTTP: the idempotency key, and the answer."""

from __future__ import annotations

from collections.abc import Callable

import cherrypy

from ..model import accepting
from ..model.accepting import Accepted
from ..model.keys import read_key
from ..model.tasks import resource
from . import audit
from .base import Answer, Request, location

KEY_HEADER = "Idempotency-Key"
RETRY_AFTER = {"Retry-After": "1"}
"""When it is worth asking after a task that runs, in seconds."""


def asked(request: Request) -> accepting.Request:
    """The request as the model takes it. Raises BadRequest for a key that is none."""
    header = cherrypy.serving.request.headers.get(KEY_HEADER, "")
    key = read_key(header, request.caller.name, cherrypy.serving.request.path_info, request.body)
    return accepting.Request(request.body, request.mount, request.caller, key, _after_the_answer)


def _after_the_answer(call: Callable[[], None]) -> None:
    """CherryPy ends a request when its answer was sent, or could not be."""
    cherrypy.serving.request.hooks.attach("on_end_request", call)


def accepted(result: Accepted, mount: str) -> Answer:
    """202: the clones will be made, and their tasks tell how it goes; 200 for a dry run."""
    if result.foreseen is not None:
        return Answer(dict(result.foreseen), audit={"outcome": "dry run"})
    tasks = [resource(task) for task in result.tasks]
    first = result.tasks[0]
    told = {"outcome": audit.ACCEPTED, "task": first.id, "made": first.plan["name"]}
    if result.batch is None:
        return Answer(
            tasks[0], 202, {"Location": f"{mount}/tasks/{location(str(first.id))}", **RETRY_AFTER}, audit=told
        )
    told |= {"batch": result.batch, "count": len(tasks)}
    place = {"Location": f"{mount}/batches/{result.batch}", **RETRY_AFTER}
    return Answer({"batch": str(result.batch), "tasks": tasks}, 202, place, audit=told)
