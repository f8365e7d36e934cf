"""`P/tasks`: accepted clones over HTTP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .. import errors
from ..model.services import Services
from ..model.tasks import TasksModel
from . import audit
from .base import Answer, Controller, Request, route
from .cloning import RETRY_AFTER
from .filters import by_id, listed

LONGEST_WAIT_S = 60
"""As long as `?wait=` waits at most, in seconds."""


class Tasks(Controller):
    def __init__(self, services: Services) -> None:
        self._model = TasksModel(services)

    @route("GET", "")
    def get_list(self, request: Request) -> Answer:
        status = request.query.get("status")
        known = status if status in ("running", "finished", "failed", "killed") else None
        asked = replace(request, query={field: _exact(field, value) for field, value in request.query.items()})
        return listed(self._model.get_list(request.caller, known), asked, key=by_id)

    @route("GET", "{id}")
    def lookup(self, request: Request) -> Answer:
        task = self._model.lookup(request.path["id"], request.caller, _seconds(request.query.get("wait", "0")))
        return Answer(task, headers=RETRY_AFTER if task["status"] == "running" else {})

    @route("DELETE", "{id}", schema="task_delete", action="cancel")
    def delete(self, request: Request) -> Answer:
        task = self._model.delete(request.path["id"], request.caller, only_cancel=request.body.get("cancel", False))
        if task is None:
            return Answer(status=204, audit={"action": "forget"})
        if "explanation" in task:
            return Answer(task, audit={"outcome": "too late"})
        return Answer(task, 202, audit={"outcome": audit.ACCEPTED})


def _exact(field: str, value: Any) -> Any:
    """A filter by a number as an expression for that number alone: as others do, 1 would match 10 as well."""
    return f"{value}$" if field in ("id", "batch") and isinstance(value, str) and value.isdigit() else value


def _seconds(text: Any) -> float:
    """The flag `wait`. Raises InvalidParameter."""
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 4:  # noqa: PLR2004 - of seconds
        return float(min(int(text), LONGEST_WAIT_S))
    raise errors.InvalidParameter(field="wait", cause=f"it must be a number of seconds, such as {LONGEST_WAIT_S}")
