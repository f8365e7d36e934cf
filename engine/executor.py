"""Runs plans step by step against the journal, undoes what fails, and recovers what a crash left.

A step is written down, taken, and marked. Whatever goes wrong, the steps written down are undone in reverse order, so
that a clone is there whole or not at all. What cannot be undone yet, because libvirt is away or busy, is tried again by
the janitor until it can; a server that starts finds the tasks of the dead and does the same for them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from .. import errors
from ..hypervisor.host import Host
from . import domainxml
from .copying import Method, copy_file, remove_file
from .journal import BEGUN, DONE, FAILED, FINISHED, KILLED, RUNNING, UNDONE, Clone, Journal, Step, Task
from .lease import Lease
from .plan import Copy, DomainPlan, VolumePlan

log = logging.getLogger(__name__)

Plan = DomainPlan | VolumePlan

VOLUME, NVRAM, DOMAIN = "volume", "nvram", "domain"

_JANITOR_INTERVAL_S = 1.0
_COARSE_CLOCK_US = 50_000
"""A file system takes its times from the kernel's coarse clock, which lags: a file this much older may be ours."""


@dataclass(frozen=True)
class Action:
    """A step to be taken: what is written down about it, and how it is done."""

    kind: str
    args: Mapping[str, Any]
    title: str
    do: Callable[[], Mapping[str, Any]]
    promise: str | None = None


@dataclass(frozen=True)
class Ending:
    """How a task is going to end once everything is undone."""

    task: int
    status: str
    error: errors.ClonerError


class Executor:
    """The workers of one server.

    Args:
        journal: where everything is written down.
        host: the libvirt host.
        methods: the ways to copy a volume, by name.
        lease: this server's sign of life.
        workers: how many clones are made at once.
    """

    def __init__(
        self, journal: Journal, host: Host, methods: Mapping[str, Method], lease: Lease, *, workers: int = 4
    ) -> None:
        self._journal = journal
        self._host = host
        self._methods = methods
        self._lease = lease
        self._queue: deque[tuple[int, Plan]] = deque()
        self._endings: deque[Ending] = deque()
        self._adopted: deque[Task] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"clone-{n}", daemon=True) for n in range(workers)]
        self._janitor = threading.Thread(target=self._tidy, name="janitor", daemon=True)

    def start(self) -> None:
        for thread in (*self._threads, self._janitor):
            thread.start()

    def submit(self, task: int, plan: Plan) -> None:
        """Queues a task that the journal has accepted."""
        with self._changed:
            self._queue.append((task, plan))
            self._changed.notify()

    def cancel(self, task: int) -> bool:
        """Asks for a running task's end: now if it waits, before its next step if it runs. False if it has ended."""
        if not self._journal.cancel(task):
            return False
        with self._changed:
            waiting = next((item for item in self._queue if item[0] == task), None)
            if waiting is not None:
                self._queue.remove(waiting)
        if waiting is not None:
            self._finish(Ending(task, KILLED, errors.CloneCancelled()))
        return True

    def stop(self, patience_s: float) -> bool:
        """Ends every task that waits, and those that run before their next step. False if one went on for `patience_s`.

        What such a one leaves is in the journal, and undone by the next server that starts.
        """
        deadline = time.monotonic() + patience_s
        self._stopping.set()
        with self._changed:
            waiting = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for task, _plan in waiting:
            self._finish(Ending(task, FAILED, errors.ServerStopped()))
        for thread in (*self._threads, self._janitor):
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in (*self._threads, self._janitor))

    # --- Doing -------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (item := self._next()) is not None:
            self._run(*item)

    def _next(self) -> tuple[int, Plan] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopping.is_set())
            return self._queue.popleft() if self._queue and not self._stopping.is_set() else None

    def _run(self, task: int, plan: Plan) -> None:
        try:
            for number, action in enumerate(self._actions(plan), 1):
                self._take(task, number, action)
            self._complete(task)
        except errors.CloneCancelled as error:
            self._finish(Ending(task, KILLED, error))
        except errors.ClonerError as error:
            self._finish(Ending(task, FAILED, error))
        except Exception:  # a worker must outlive whatever a clone runs into; the stack is in the log
            reference = uuid4().hex[:12]
            log.exception("task %d failed, reference %s", task, reference)
            self._finish(Ending(task, FAILED, errors.ClonerError(reference=reference)))

    def _take(self, task: int, number: int, action: Action) -> None:
        if self._stopping.is_set():
            raise errors.ServerStopped
        step = self._journal.begin(task, number, action.kind, action.args, action.title)
        try:
            result = action.do()
        except (errors.VolumeInTheWay, errors.NameTaken) as error:
            self._journal.mark(step, UNDONE)  # what is there is somebody else's
            raise errors.CloneFailed(step=action.title, cause=error.reason) from error
        except errors.ClonerError as error:
            raise errors.CloneFailed(step=action.title, cause=_cause(error)) from error
        self._journal.mark(step, DONE, result, kept=action.promise)

    def _actions(self, plan: Plan) -> Iterator[Action]:
        sources: dict[str, domainxml.NewSource] = {}
        for copy in plan.copies:
            yield self._copy(copy, sources)
        if isinstance(plan, DomainPlan):
            if plan.nvram is not None:
                yield _copy_nvram(*plan.nvram)
            yield self._define(plan, sources)

    def _copy(self, copy: Copy, sources: dict[str, domainxml.NewSource]) -> Action:
        def make() -> Mapping[str, Any]:
            volume = self._methods[copy.method].make(copy)
            sources[copy.item] = domainxml.NewSource(volume.type, volume.path, copy.pool, copy.name, copy.format)
            return {"path": volume.path}

        args = {"pool": copy.pool, "name": copy.name, "method": copy.method}
        return Action(VOLUME, args, f"Copying {copy.source.name} to {copy.name}", make, promise=copy.item)

    def _define(self, plan: DomainPlan, sources: Mapping[str, domainxml.NewSource]) -> Action:
        def define() -> Mapping[str, Any]:
            source = self._host.domain(plan.source)
            if source.uuid != plan.source_uuid or not source.is_off:
                raise errors.DomainNotShutOff(name=plan.source, state=source.state)
            xml = domainxml.clone(plan.xml, plan.identity, sources, plan.nvram[1] if plan.nvram else None)
            self._host.define(plan.identity.name, xml)
            return {}

        args = {"uuid": plan.identity.uuid, "name": plan.identity.name}
        return Action(DOMAIN, args, f"Defining {plan.identity.name}", define)

    def _complete(self, task: int) -> None:
        """Ends a task whose every step is taken."""
        steps = self._journal.steps(task)
        domain = next((step for step in steps if step.kind == DOMAIN), None)
        clone = None
        if domain is not None:
            storage = [_storage(step) for step in steps if step.kind in (VOLUME, NVRAM)]
            clone = Clone(domain.args["uuid"], domain.args["name"], domain.begun, storage)
        self._journal.end(task, FINISHED, "OK", clone)

    # --- Undoing -----------------------------------------------------------------------------------------------------

    def _finish(self, ending: Ending) -> None:
        """Undoes a task and ends it; what has to wait goes to the janitor."""
        try:
            outcome = _with_rests(ending.error, self._undo(ending.task))
            self._journal.end(ending.task, ending.status, outcome.reason)
        except (errors.LibvirtUnavailable, errors.Busy, errors.JournalUnavailable, errors.PoolInactive) as error:
            log.warning("task %d: what it made cannot be removed yet: %s", ending.task, error)
            self._endings.append(ending)
        else:
            log.warning("task %d ended: %s", ending.task, outcome.reason)

    def _undo(self, task: int) -> list[str]:
        """Takes the task's steps back; returns what could not be, in words. Raises what can be tried again."""
        rests = []
        for step in reversed(self._journal.steps(task)):
            if step.state == UNDONE:
                continue
            try:
                _UNDO[step.kind](self, step)
            except (errors.LibvirtUnavailable, errors.Busy, errors.JournalUnavailable, errors.PoolInactive):
                raise
            except errors.ClonerError as error:
                log.error("task %d: step %d cannot be undone: %s", task, step.number, error)
                rests.append(f"{step.args.get('name')} ({_cause(error)})")
            else:
                self._journal.mark(step, UNDONE)
        return rests

    def _undo_volume(self, step: Step) -> None:
        pool, name = step.args["pool"], step.args["name"]
        if step.state == BEGUN and not self._is_ours(step):
            return
        self._methods[step.args["method"]].remove(pool, name)

    def _is_ours(self, step: Step) -> bool:
        """Whether the volume of a step that was interrupted is the one that the step was about to make.

        It was made exclusively or not at all, so one that was last changed before the step began is another's.
        """
        try:
            volume = self._host.volume(step.args["pool"], step.args["name"])
        except (errors.VolumeNotFound, errors.PoolNotFound):
            return False
        if volume.changed is None or volume.changed >= step.begun - _COARSE_CLOCK_US:
            return True
        log.warning("task %d: %s is older than the task and not ours: left alone", step.task, volume.path)
        return False

    def _undo_nvram(self, step: Step) -> None:
        path = step.args["target"]
        if step.result is not None:
            remove_file(path, dict(step.result))
            return
        try:
            status = os.lstat(path)
        except OSError:
            return
        if status.st_ctime_ns // 1000 >= step.begun - _COARSE_CLOCK_US:
            remove_file(path, {"device": status.st_dev, "inode": status.st_ino})

    def _undo_domain(self, step: Step) -> None:
        self._host.undefine(step.args["uuid"], keep_nvram=True)

    # --- The janitor -------------------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        while not self._stopping.is_set():
            try:
                self._adopt_orphans()
                for _ in range(len(self._endings)):
                    self._finish(self._endings.popleft())
            except errors.ClonerError as error:
                log.warning("the janitor tries again: %s", error)
            except Exception:  # the janitor must not die of one task; the stack is in the log
                log.exception("the janitor stumbled")
            self._stopping.wait(_JANITOR_INTERVAL_S)

    def _adopt_orphans(self) -> None:
        """Takes over the running tasks of servers that are dead: what is complete is finished, the rest undone."""
        dead = {server for server in self._journal.servers_with_tasks() if not self._lease.is_alive(server)}
        for task in self._journal.tasks(RUNNING) if dead else ():
            if task.server in dead and self._journal.adopt(task.id, task.server, self._lease.id):
                self._adopted.append(task)
        self._lease.forget_the_dead()
        while self._adopted:
            self._settle(self._adopted[0])
            self._adopted.popleft()

    def _settle(self, task: Task) -> None:
        """Ends a task whose server died: finishes one that was complete but for its last mark, undoes any other."""
        if self._is_complete(task):
            self._complete(task.id)
            log.warning("task %d was complete when its server stopped, and is finished", task.id)
        else:
            self._endings.append(Ending(task.id, FAILED, errors.ServerStopped()))

    def _is_complete(self, task: Task) -> bool:
        """Whether the last thing that makes a clone was done: a guest is defined last."""
        steps = self._journal.steps(task.id)
        if not steps:
            return False
        last = steps[-1]
        if last.kind == DOMAIN:
            return last.state != UNDONE and self._host.has_domain_uuid(last.args["uuid"])
        return last.state == DONE and task.kind == VOLUME and not task.cancelled


_UNDO: Mapping[str, Callable[[Executor, Step], None]] = {
    VOLUME: Executor._undo_volume,
    NVRAM: Executor._undo_nvram,
    DOMAIN: Executor._undo_domain,
}


def _copy_nvram(source: str, target: str) -> Action:
    args = {"source": source, "target": target, "name": target}
    return Action(NVRAM, args, f"Copying the NVRAM to {os.path.basename(target)}", lambda: copy_file(source, target))


def _storage(step: Step) -> dict[str, str]:
    if step.kind == NVRAM:
        return {"file": step.args["target"]}
    return {"pool": step.args["pool"], "volume": step.args["name"]}


def _cause(error: errors.ClonerError) -> str:
    return str(error.data["cause"]) if isinstance(error, errors.StepFailed) else error.reason


def _with_rests(error: errors.ClonerError, rests: list[str]) -> errors.ClonerError:
    if not rests:
        return error
    step, cause = error.data.get("step", "The clone"), error.data.get("cause", error.reason)
    return errors.CloneFailedLeavingRests(step=step, cause=cause, rest=", ".join(rests))
