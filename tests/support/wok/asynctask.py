"""Tasks: src/wok/asynctask.py and src/wok/model/tasks.py."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, KeysView
from typing import Any

from support.wok.exception import InvalidOperation, NotFoundError

tasks_queue: dict[str, Any] = {}

OLD_S = 12 * 3600


def clean_old_tasks() -> None:
    """src/wok/asynctask.py, clean_old_tasks: it goes through the queue, which fails when one of them is removed."""
    for task in tasks_queue.values():
        if task.timestamp < time.time() - OLD_S and task.status in ("finished", "failed"):
            task.remove()


def save_request_log_id(log_id: str, task_id: str) -> None:
    """src/wok/asynctask.py, save_request_log_id."""
    tasks_queue[task_id].log_id = log_id


class AsyncTask:
    """src/wok/asynctask.py, AsyncTask: a thread that begins at once; who makes one cleans the queue."""

    def __init__(self, target_uri: str, fn: Callable[[Callable[..., None]], None]) -> None:
        self.id = str(uuid.uuid1())
        self.target_uri = target_uri
        self.log_id: str | None = None
        self.timestamp = time.time()
        self.status, self.message = "running", "The request is being processed"
        self._fn = fn
        threading.Thread(target=self._run, daemon=True).start()
        clean_old_tasks()
        tasks_queue[self.id] = self

    def _run(self) -> None:
        try:
            self._fn(self._tell)
        except Exception as error:  # noqa: BLE001 - it is Wok's rule
            self._tell(str(error), success=False)

    def _tell(self, message: str, success: bool | None = None) -> None:
        if success is not None:
            self.status = "finished" if success else "failed"
        self.message = message or self.message

    def remove(self) -> None:
        """src/wok/asynctask.py, remove."""
        tasks_queue.pop(self.id, None)

    def kill(self) -> None:
        """src/wok/asynctask.py, kill: of a task that was made without a function for it."""
        raise InvalidOperation("WOKASYNC0002E")


class TasksModel:
    """src/wok/model/tasks.py, TasksModel."""

    def get_list(self) -> KeysView[str]:
        """The queue's own keys, which follow it while somebody goes through them."""
        return tasks_queue.keys()


class TaskModel:
    """src/wok/model/tasks.py, TaskModel."""

    def lookup(self, task_id: str) -> dict[str, Any]:
        """A task as the page knows it."""
        if task_id not in tasks_queue:
            raise NotFoundError("WOKASYNC0001E", {"id": task_id})
        task = tasks_queue[task_id]
        return {"id": task_id, "status": task.status, "message": task.message, "target_uri": task.target_uri}

    def delete(self, task_id: str) -> None:
        """Kills one that runs, and does nothing to another."""
        if task_id not in tasks_queue:
            raise NotFoundError("WOKASYNC0001E", {"id": task_id})
        if tasks_queue[task_id].status == "running":
            tasks_queue[task_id].kill()
