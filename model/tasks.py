"""Tasks: the clones that were accepted, and how they are doing."""

from __future__ import annotations

from typing import Any

from .. import errors
from ..engine.journal import RUNNING, Task
from .services import Services


class TasksModel:
    def __init__(self, services: Services) -> None:
        self._services = services

    def get_list(self, status: str | None = None) -> list[dict[str, Any]]:
        """Every task, or those of one status."""
        return [resource(task) for task in self._services.journal.tasks(status)]

    def lookup(self, task_id: str) -> dict[str, Any]:
        """Raises TaskNotFound."""
        return resource(self._find(task_id))

    def delete(self, task_id: str) -> dict[str, Any] | None:
        """Cancels a running task, and returns it; takes an ended one out of the list. Raises TaskNotFound."""
        task = self._find(task_id)
        if task.status == RUNNING and self._services.executor.cancel(task.id):
            return self.lookup(task_id)
        self._services.journal.forget(task.id)
        return None

    def _find(self, task_id: str) -> Task:
        is_id = task_id.isascii() and task_id.isdigit() and len(task_id) < 19  # noqa: PLR2004 - digits of a 64-bit number
        task = self._services.journal.task(int(task_id)) if is_id else None
        if task is None:
            raise errors.TaskNotFound(id=task_id)
        return task


def resource(task: Task) -> dict[str, Any]:
    """A task in Wok's words and order, then ours."""
    shown = {"id": str(task.id), "status": task.status, "message": task.message, "target_uri": task.target_uri}
    return shown | {"kind": task.kind} | dict(task.plan)
