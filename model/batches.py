"""Batches: clones that were accepted together, seen as one."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import Any

from .. import errors
from ..callers import NOBODY, Caller
from ..engine.ledger import ANOTHERS
from ..engine.records import FINISHED, RUNNING, Task
from .needs import RecentNeeds
from .services import DOMAIN_NAME, Services
from .storagevolumes import StorageVolumesModel
from .tasks import read_id, resource, rfc3339
from .vms import VMsModel

log = logging.getLogger(__name__)

_POLL_S = 0.1
_LONGEST_S = 3600.0

_under_way: dict[tuple[str, int], _Withdrawal] = {}
"""What this process withdraws, by server and batch."""

_lock = threading.Lock()


class BatchesModel:
    def __init__(self, services: Services) -> None:
        self._services = services

    def lookup(self, batch: str, caller: Caller) -> dict[str, Any]:
        """Raises BatchNotFound."""
        return self._resource(batch, self._find(batch, caller))

    def delete(self, batch: str, caller: Caller, *, undo: bool) -> dict[str, Any]:
        """Begins to cancel what runs of a batch, and to remove what it has made if `undo`; returns it as it is.

        Can be repeated. What is to be undone is written down, lest a server that dies leave it. Raises BatchNotFound,
        NotYours, and Busy where no thread is to be had for it.
        """
        tasks = self._find(batch, caller)
        if not all(caller.may_remove(task.owner) for task in tasks):
            raise errors.NotYours(what=f"Batch {batch}")
        if undo:
            self._services.journal.removals.begin_withdrawal(int(batch), self._services.lease.id)
        self._withdraw(_Withdrawal(self._services, caller, int(batch), [task.id for task in tasks], undo=undo))
        return self._resource(batch, tasks)

    def sweep(self) -> None:
        """Goes on with undoing what nobody undoes now, though it was asked for. Raises JournalUnavailable."""
        journal = self._services.journal
        for batch, server in self.left().items():
            if journal.removals.adopt_withdrawal(batch, server, self._services.lease.id):
                tasks = [task.id for task in journal.batch(batch)]
                self._withdraw(_Withdrawal(self._services, NOBODY, batch, tasks, undo=True))

    def left(self) -> dict[int, str]:
        """What is to be undone on this libvirt and is by nobody now: the server that was asked for it, by batch."""
        there = self._services.journal.removals.withdrawals()
        return {batch: server for batch, server in there.items() if self._is_left(batch, server)}

    def _is_left(self, batch: int, server: str) -> bool:
        lease = self._services.lease
        if server == lease.id:
            return (server, batch) not in _under_way
        return lease.is_of_here(server) and not lease.is_alive(server)

    def _withdraw(self, work: _Withdrawal) -> None:
        """Begins it in a thread, one for each batch: what is under way goes on once more if it is asked for again."""
        with _lock:
            under_way = _under_way.setdefault(self._place(work), work)
            if under_way is not work:
                under_way.repeat(undo=work.undo)
                return
        try:
            threading.Thread(target=self._run, args=(work,), name=f"batch-{work.batch}", daemon=True).start()
        except RuntimeError as error:  # there are too many
            self._forget(work)
            raise errors.Busy(what="other requests") from error

    def _run(self, work: _Withdrawal) -> None:
        try:
            while self._is_due(work):
                work.run()
        finally:
            self._forget(work)

    def _forget(self, work: _Withdrawal) -> None:
        with _lock:
            if _under_way.get(self._place(work)) is work:  # it broke off
                del _under_way[self._place(work)]

    def _is_due(self, work: _Withdrawal) -> bool:
        """Whether there is more to do; nobody can ask for more of it once there is not."""
        with _lock:
            is_due, work.is_asked_for = work.is_asked_for, False
            if not is_due:
                del _under_way[self._place(work)]
            return is_due

    def _place(self, work: _Withdrawal) -> tuple[str, int]:
        return self._services.lease.id, work.batch

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
        parts = [resource(task)["progress"] for task in tasks]
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

    def __init__(self, services: Services, caller: Caller, batch: int, tasks: list[int], *, undo: bool) -> None:
        self._services = services
        self._caller = caller
        self.batch = batch
        self._tasks = tasks
        self.undo = undo
        self.is_asked_for = True

    def repeat(self, *, undo: bool) -> None:
        self.undo, self.is_asked_for = self.undo or undo, True

    def run(self) -> None:
        try:
            self._run()
        except errors.ClonerError as error:
            log.warning("batch %d cannot be withdrawn for now: %s", self.batch, error)

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
        if not left:
            journal.removals.end_withdrawal(self.batch)

    def _remove(self, task: Task, needs: RecentNeeds) -> None:
        """Removes what a task made; if it cannot be, the task says why: to its owner, whoever withdraws it.

        Raises LibvirtUnavailable and JournalUnavailable.
        """
        reader = self._caller if self._caller.made(task.owner) else Caller(task.owner)
        try:
            if not self._services.lease.is_of_here(task.server):
                raise errors.StepFailed(cause=ANOTHERS)
            if task.kind == DOMAIN_NAME:
                VMsModel(self._services).delete_made(task.plan["uuid"], reader, needs.get())
            else:
                place = (task.plan["pool"], task.plan["name"])
                StorageVolumesModel(self._services).delete_made(*place, task.ended or task.created, reader, needs.get())
        except (errors.LibvirtUnavailable, errors.JournalUnavailable):
            raise
        except errors.ClonerError as error:
            self._services.journal.withdraw(task.id, warning=errors.NotRemoved(cause=errors.cause_of(error)).reason)
        else:
            self._services.journal.withdraw(task.id)
