"""Batches: clones that were accepted together, seen as one."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import Any

from .. import errors
from ..callers import Caller
from ..engine.ledger import ANOTHERS, cause_of
from ..engine.records import FINISHED, RUNNING, Task
from .needs import RecentNeeds
from .services import DOMAIN_NAME, Services
from .storagevolumes import StorageVolumesModel
from .tasks import TasksModel, read_id, rfc3339
from .vms import VMsModel

log = logging.getLogger(__name__)

_POLL_S = 0.1
_LONGEST_S = 3600.0


class BatchesModel:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._tasks = TasksModel(services)
        self._under_way: dict[int, _Withdrawal] = {}
        self._lock = threading.Lock()

    def lookup(self, batch: str, caller: Caller) -> dict[str, Any]:
        """Raises BatchNotFound."""
        return self._resource(batch, self._find(batch, caller))

    def delete(self, batch: str, caller: Caller, *, undo: bool) -> dict[str, Any]:
        """Begins to cancel what runs of a batch, and to remove what it has made if `undo`; returns it as it is.

        Can be repeated. Raises BatchNotFound, NotYours.
        """
        tasks = self._find(batch, caller)
        if not all(caller.may_remove(task.owner) for task in tasks):
            raise errors.NotYours(what=f"Batch {batch}")
        self._withdraw(int(batch), _Withdrawal(self._services, caller, [task.id for task in tasks], undo=undo))
        return self._resource(batch, tasks)

    def _withdraw(self, batch: int, work: _Withdrawal) -> None:
        """Begins it in a thread, one for each batch: what is under way goes on once more if it is asked for again."""
        with self._lock:
            under_way = self._under_way.setdefault(batch, work)
            if under_way is not work:
                under_way.repeat(undo=work.undo)
                return
        threading.Thread(target=self._run, args=(batch, work), name=f"batch-{batch}", daemon=True).start()

    def _run(self, batch: int, work: _Withdrawal) -> None:
        try:
            while self._is_due(batch, work):
                work.run()
        finally:
            with self._lock:
                if self._under_way.get(batch) is work:  # it broke off
                    del self._under_way[batch]

    def _is_due(self, batch: int, work: _Withdrawal) -> bool:
        """Whether there is more to do; nobody can ask for more of it once there is not."""
        with self._lock:
            is_due, work.is_asked_for = work.is_asked_for, False
            if not is_due:
                del self._under_way[batch]
            return is_due

    def _find(self, batch: str, caller: Caller) -> list[Task]:
        number = read_id(batch)
        tasks = self._services.journal.batch(number) if number is not None else []
        there = [task for task in tasks if caller.is_admin or caller.made(task.owner)]
        if not there:
            raise errors.BatchNotFound(id=batch)
        return there

    def _resource(self, batch: str, tasks: list[Task]) -> dict[str, Any]:
        by_status = Counter(task.status for task in tasks)
        ends = [task.ended for task in tasks]
        parts = [self._tasks.resource(task)["progress"] for task in tasks]
        return {
            "id": batch,
            "count": len(tasks),
            **{status: by_status[status] for status in ("running", "finished", "failed", "killed")},
            "progress": int(sum(parts) / len(parts)),
            "source": tasks[0].plan["source"],
            "started": rfc3339(tasks[0].created),
            "ended": None if None in ends else rfc3339(max(end for end in ends if end is not None)),
            "tasks": [str(task.id) for task in tasks],
        }


class _Withdrawal:
    """The end of a batch before its time."""

    def __init__(self, services: Services, caller: Caller, tasks: list[int], *, undo: bool) -> None:
        self._services = services
        self._caller = caller
        self._tasks = tasks
        self.undo = undo
        self.is_asked_for = True

    def repeat(self, *, undo: bool) -> None:
        self.undo, self.is_asked_for = self.undo or undo, True

    def run(self) -> None:
        try:
            self._run()
        except errors.ClonerError as error:
            log.warning("a batch cannot be withdrawn for now, ask again: %s", error)

    def _run(self) -> None:
        journal, deadline = self._services.journal, time.monotonic() + _LONGEST_S
        for number in reversed(self._tasks):  # what waits longest first, so that little is begun for nothing
            self._services.executor.cancel(number)
        if not self.undo:
            return
        needs, left = RecentNeeds(self._services), self._tasks
        while left and time.monotonic() < deadline:
            tasks = journal.tasks_of(left)
            for task in tasks:  # one that waits for a pool, say, keeps no other
                if task.status == FINISHED:
                    self._remove(task, needs)
            left = [task.id for task in tasks if task.status == RUNNING]
            if left:
                time.sleep(_POLL_S)

    def _remove(self, task: Task, needs: RecentNeeds) -> None:
        """Removes what a task made; if it cannot be, the task says why: to its owner, whoever withdraws it."""
        reader = self._caller if self._caller.made(task.owner) else Caller(task.owner)
        try:
            if not self._services.lease.is_of_here(task.server):
                raise errors.StepFailed(cause=ANOTHERS)
            if task.kind == DOMAIN_NAME:
                VMsModel(self._services).delete_made(task.plan["uuid"], reader, needs.get())
            else:
                place = (task.plan["pool"], task.plan["name"])
                StorageVolumesModel(self._services).delete_made(*place, task.ended or task.created, reader, needs.get())
        except errors.ClonerError as error:
            self._services.journal.withdraw(task.id, warning=errors.NotRemoved(cause=cause_of(error)).reason)
        else:
            self._services.journal.withdraw(task.id)
