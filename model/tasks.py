"""Tasks: the clones that were accepted, and how they are doing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from .. import errors
from ..callers import Caller
from ..clock import wall_clock
from ..engine.records import FAILED, FINISHED, KILLED, RUNNING, Task
from .services import Services

_US = 1_000_000

_TOO_LATE = {
    FINISHED: "It was finished before it could be cancelled. To take it back, delete what it made",
    FAILED: "It had failed before it could be cancelled. Nothing is left of it, unless its message says so",
    KILLED: "It was cancelled before. Everything made for it was removed",
    RUNNING: "It is ending",
}

_WITHDRAWN = "What it made is being removed with its batch. Take it out of the list when it is killed"


class TasksModel:
    def __init__(self, services: Services) -> None:
        self._services = services

    def get_list(self, caller: Caller, status: str | None = None) -> list[dict[str, Any]]:
        """Every task that is there for the caller, or those of one status."""
        owner = None if caller.is_admin else caller.name
        return [resource(task) for task in self._services.journal.tasks(status, owner)]

    def lookup(self, task_id: str, caller: Caller, wait_s: float = 0.0) -> dict[str, Any]:
        """A task; with `wait_s` as it is when it has ended, or after so many seconds. Raises TaskNotFound."""
        task = self._find(task_id, caller)
        if wait_s and self._services.feed.wait_for_end(task, wait_s) is None:
            raise errors.TaskNotFound(id=task_id)
        return resource(self._find(task_id, caller))

    def delete(self, task_id: str, caller: Caller, *, only_cancel: bool = False) -> dict[str, Any] | None:
        """Cancels a running task, and returns it; takes an ended one out of the list.

        One that ended before it could be cancelled stays, and is returned with an explanation; `only_cancel` holds
        that for one that had ended before it was asked for, too. So does one that is being undone with its batch, whose
        clone would be forgotten otherwise. Raises TaskNotFound, NotYours.
        """
        task = self._find(task_id, caller)
        if not caller.may_remove(task.owner):
            raise errors.NotYours(what=f"Task {task.id}")
        if task.status == RUNNING and self._services.executor.cancel(task.id):
            return self.lookup(task_id, caller)
        if task.status == RUNNING or only_cancel:
            ended = self._find(task_id, caller)
            return resource(ended) | {"explanation": _TOO_LATE[ended.status]}
        return None if self._services.journal.forget(task.id) else resource(task) | {"explanation": _WITHDRAWN}

    def _find(self, task_id: str, caller: Caller) -> Task:
        """A task that is there for the caller: a user's own, and every one for an admin."""
        number = read_id(task_id)
        task = self._services.journal.task(number) if number is not None else None
        if task is None or not (caller.is_admin or caller.made(task.owner)):
            raise errors.TaskNotFound(id=task_id)
        return task


def read_id(text: str) -> int | None:
    """The number of a task or a batch; None for what is none."""
    is_id = text.isascii() and text.isdigit() and len(text) < 19  # noqa: PLR2004 - digits of a 64-bit number
    return int(text) if is_id else None


def resource(task: Task) -> dict[str, Any]:
    """A task in Wok's words and order, then ours.

    What it shows is the journal's alone, so that it is the same by whichever server, and is never less than before.
    """
    shown = {"id": str(task.id), "status": task.status, "message": task.message, "target_uri": task.target_uri}
    return (
        shown
        | {"kind": task.kind, "owner": task.owner, "batch": None if task.batch is None else str(task.batch)}
        | {"warning": task.warning}
        | _times(task)
        | _progress(task)
        | dict(task.plan)
    )


def _times(task: Task) -> dict[str, Any]:
    return {"started": rfc3339(task.created), "ended": None if task.ended is None else rfc3339(task.ended)}


def rfc3339(microseconds: int) -> str:
    """A time in µs since 1970, as RFC 3339 has it."""
    return datetime.fromtimestamp(microseconds / _US, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _progress(task: Task) -> dict[str, Any]:
    """100 percent only when everything is there, which is after the last byte."""
    total = sum(disk.get("total", 0) for disk in task.plan.get("disks", ()))
    bytes_done = total if task.status == FINISHED else sum(task.done.values())
    part = bytes_done / total if total else 0.0
    elapsed = max(0.0, ((task.ended or wall_clock()) - task.created) / _US)  # the clock may have been set back
    return {
        "progress": 100 if task.status == FINISHED else min(int(100 * part), 99),
        "bytes_done": bytes_done,
        "bytes_total": total,
        "eta_seconds": round(elapsed * (1 - part) / part, 1) if task.status == RUNNING and part > 0 else None,
        "may_cancel": task.status == RUNNING,
    }
