"""`P/tasks`: accepted clones over HTTP."""

from __future__ import annotations

from typing import Any

from ..engine.journal import Task
from ..model.services import Services
from ..model.tasks import TasksModel, resource
from . import audit
from .base import Answer, Controller, Request, location, route
from .filters import select


def accepted(task: Task, mount: str) -> Answer:
    """202: the clone will be made, and the task tells how it goes."""
    told = {"outcome": audit.ACCEPTED, "task": task.id, "made": task.plan["name"]}
    return Answer(resource(task), 202, {"Location": f"{mount}/tasks/{location(str(task.id))}"}, told)


class Tasks(Controller):
    def __init__(self, services: Services) -> None:
        self._model = TasksModel(services)

    @route("GET", "")
    def get_list(self, request: Request) -> list[dict[str, Any]]:
        status = request.query.get("status")
        known = status if status in ("running", "finished", "failed", "killed") else None
        return select(self._model.get_list(request.caller, known), request.query)

    @route("GET", "{id}")
    def lookup(self, request: Request) -> dict[str, Any]:
        return self._model.lookup(request.path["id"], request.caller)

    @route("DELETE", "{id}", schema="task_delete", action="cancel")
    def delete(self, request: Request) -> Answer:
        task = self._model.delete(request.path["id"], request.caller, only_cancel=request.body.get("cancel", False))
        if task is None:
            return Answer(status=204, audit={"action": "forget"})
        if "explanation" in task:
            return Answer(task, audit={"outcome": "too late"})
        return Answer(task, 202, audit={"outcome": audit.ACCEPTED})
