"""Runs plans step by step against the journal, undoes what fails, and recovers what a crash left.

A step is written down, taken, and marked. Whatever goes wrong, the steps written down are undone in reverse order, so
that a clone is there whole or not at all. What cannot be undone yet, because libvirt is away or busy, is tried again by
the janitor until it can; a server that starts finds the tasks of the dead and does the same for them.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from .. import errors
from ..hypervisor.host import Host
from . import domainxml, files
from .copying import Method, take_back
from .job import Job
from .journal import DONE, FAILED, FINISHED, KILLED, RUNNING, UNDONE, Clone, Journal, Link, Step, Task
from .lease import Lease
from .plan import Copy, DomainPlan, VolumePlan

log = logging.getLogger(__name__)

Plan = DomainPlan | VolumePlan

VOLUME, FILL, NVRAM, DOMAIN = "volume", "fill", "nvram", "domain"

_JANITOR_INTERVAL_S = 1.0
_REPORT_INTERVAL_S = 0.5
_TURN_POLL_S = 0.1
_COARSE_CLOCK_US = 50_000
"""A file system takes its times from the kernel's coarse clock, which lags: a file this much older may be ours."""

_LATER = (errors.LibvirtUnavailable, errors.Busy, errors.JournalUnavailable, errors.PoolInactive)
"""What may pass, so that undoing is tried again."""


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
        defining: what surrounds the definition of a domain, whose UUID it is given.
        workers: how many clones are made at once.
        copies: how many volumes are filled at once, of all clones together.
    """

    def __init__(  # noqa: PLR0913 - its parts and its bounds, named where it is built
        self,
        journal: Journal,
        host: Host,
        methods: Mapping[str, Method],
        lease: Lease,
        *,
        defining: Callable[[str], AbstractContextManager[None]] = lambda _uuid: nullcontext(),
        workers: int = 8,
        copies: int = 4,
    ) -> None:
        self._journal = journal
        self._host = host
        self._methods = methods
        self._lease = lease
        self._defining = defining
        # Clones of milliseconds do not wait behind those of minutes.
        self._quick: deque[tuple[int, Plan]] = deque()
        self._long: deque[tuple[int, Plan]] = deque()
        self._jobs: dict[int, tuple[Job, Plan]] = {}
        self._endings: deque[Ending] = deque()
        self._adopted: deque[Task] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._copies = threading.BoundedSemaphore(copies)
        lanes = [self._quick] * workers + [self._long] * copies
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"clone-{n}", daemon=True)
            for n, lane in enumerate(lanes)
        ]
        self._threads.append(threading.Thread(target=self._report, name="reporter", daemon=True))
        self._janitor = threading.Thread(target=self._tidy, name="janitor", daemon=True)

    def start(self) -> None:
        for thread in (*self._threads, self._janitor):
            thread.start()

    def submit(self, task: int, plan: Plan) -> None:
        """Queues a task that the journal has accepted."""
        lane = self._long if any(self._methods[copy.method].is_long for copy in plan.copies) else self._quick
        with self._changed:
            lane.append((task, plan))
            self._changed.notify_all()

    def cancel(self, task: int) -> bool:
        """Asks for a running task's end: it ends at once, and what it made is undone. False if it has ended."""
        if not self._journal.cancel(task):
            return False
        with self._changed:
            waiting = any(_take_out(lane, task) for lane in (self._quick, self._long))
            running = self._jobs.get(task)
        if waiting:
            self._finish(Ending(task, KILLED, errors.CloneCancelled()))
        if running is not None:
            running[0].stop(errors.CloneCancelled())
        return True

    def domain_started(self, uuid: str) -> None:
        """Ends the clones of a domain that runs: what they read may change under their hands."""
        with self._changed:
            jobs = [
                job for job, plan in self._jobs.values() if isinstance(plan, DomainPlan) and plan.source_uuid == uuid
            ]
        for job in jobs:
            job.stop(errors.SourceStarted())

    def progress(self, task: int) -> dict[str, int] | None:
        """Bytes done by item, of a task that this server works on."""
        with self._changed:
            running = self._jobs.get(task)
        return running[0].done() if running else None

    def stop(self, patience_s: float) -> bool:
        """Ends every task, and undoes it. False if something went on for `patience_s`, which libvirt's own copies may.

        What such a one leaves is in the journal, and undone by the next server that starts.
        """
        deadline = time.monotonic() + patience_s
        self._stopping.set()
        with self._changed:
            waiting = [*self._quick, *self._long]
            self._quick.clear()
            self._long.clear()
            running = [job for job, _ in self._jobs.values()]
            self._changed.notify_all()
        for job in running:
            job.stop(errors.ServerStopped())
        for task, _plan in waiting:
            self._finish(Ending(task, FAILED, errors.ServerStopped()))
        for thread in (*self._threads, self._janitor):
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in (*self._threads, self._janitor))

    # --- Doing -------------------------------------------------------------------------------------------------------

    def _work(self, lane: deque[tuple[int, Plan]]) -> None:
        while (item := self._next(lane)) is not None:
            self._run(*item)

    def _next(self, lane: deque[tuple[int, Plan]]) -> tuple[int, Plan] | None:
        with self._changed:
            self._changed.wait_for(lambda: lane or self._stopping.is_set())
            if self._stopping.is_set():
                return None
            task, plan = lane.popleft()
            self._jobs[task] = (Job(task, {copy.item: copy.total for copy in plan.copies}), plan)
            return task, plan

    def _run(self, task: int, plan: Plan) -> None:
        job = self._jobs[task][0]
        try:
            self._make(job, plan)
        except errors.CloneCancelled as error:
            self._finish(Ending(task, KILLED, error))
        except errors.ClonerError as error:
            self._finish(Ending(task, FAILED, error))
        except Exception:  # a worker outlives whatever a clone runs into; the stack is in the log
            reference = uuid4().hex[:12]
            log.exception("task %d failed, reference %s", task, reference)
            self._finish(Ending(task, FAILED, errors.ClonerError(reference=reference)))
        finally:
            with self._changed:
                del self._jobs[task]

    def _make(self, job: Job, plan: Plan) -> None:
        numbers = itertools.count(1)
        sources = self._copy_side_by_side(job, plan.copies, numbers)
        if isinstance(plan, DomainPlan):
            if plan.nvram is not None:
                self._take(job, next(numbers), _copy_nvram(*plan.nvram))
            self._take(job, next(numbers), self._define(plan, sources))
        else:
            self._check_unchanged(plan.copies)
        self._complete(job.task, job.done())

    def _copy_side_by_side(
        self, job: Job, copies: Sequence[Copy], numbers: Iterator[int]
    ) -> dict[str, domainxml.NewSource]:
        """Makes the volumes of a clone side by side; the first failure ends them all."""
        if len(copies) <= 1:
            return {copy.item: self._copy(job, copy, next(numbers), next(numbers)) for copy in copies}
        with ThreadPoolExecutor(len(copies), thread_name_prefix=f"task-{job.task}") as threads:
            futures = {
                copy.item: threads.submit(self._copy_or_stop, job, copy, next(numbers), next(numbers))
                for copy in copies
            }
            wait(futures.values())
        job.check()
        return {item: future.result() for item, future in futures.items()}

    def _copy_or_stop(self, job: Job, copy: Copy, first: int, second: int) -> domainxml.NewSource:
        try:
            return self._copy(job, copy, first, second)
        except errors.ClonerError as error:
            job.stop(error)
            raise

    def _copy(self, job: Job, copy: Copy, first: int, second: int) -> domainxml.NewSource:
        method = self._methods[copy.method]
        names = {"pool": copy.pool, "name": copy.name}
        if copy.overlay_of is not None:
            names["parent"] = copy.overlay_of[0]
        reserve = Action(VOLUME, names, f"Making {copy.name}", lambda: method.reserve(copy, job))
        with self._turn(job) if method.is_long else nullcontext():
            made = self._take(job, first, reserve)
            title = f"Copying {copy.source.name} to {copy.name}"
            self._take(job, second, Action(FILL, names, title, lambda: _fill(method, copy, made, job), copy.name))
        return domainxml.NewSource(made["type"], made["path"], copy.pool, copy.name, copy.format)

    @contextmanager
    def _turn(self, job: Job) -> Iterator[None]:
        """Waits for one of the server's long copies to end, or for the job's end, which is raised."""
        while not self._copies.acquire(timeout=_TURN_POLL_S):
            job.check()
        try:
            yield
        finally:
            self._copies.release()

    def _take(self, job: Job, number: int, action: Action) -> Mapping[str, Any]:
        """Takes a step: written down, done, marked. Raises CloneFailed, or the job's end."""
        job.check()
        step = self._journal.begin(job.task, number, action.kind, action.args, action.title)
        try:
            result = action.do()
        except (errors.VolumeInTheWay, errors.NameTaken) as error:
            self._journal.mark(step, UNDONE)  # what is there is somebody else's
            raise errors.CloneFailed(step=action.title, cause=error.reason) from error
        except (errors.CloneCancelled, errors.ServerStopped, errors.SourceStarted, errors.CloneFailed):
            raise
        except errors.ClonerError as error:
            raise errors.CloneFailed(step=action.title, cause=_cause(error)) from error
        self._journal.mark(step, DONE, result, kept=action.promise)
        return result

    def _check_unchanged(self, copies: Sequence[Copy]) -> None:
        """Raises SourceChanged if a source that the server can see was written to since the clone was planned."""
        for copy in copies:
            facts = files.look(copy.source.path) if copy.written is not None else None
            if facts is not None and facts.written != copy.written:
                raise errors.SourceChanged(name=copy.source.name)

    def _define(self, plan: DomainPlan, sources: Mapping[str, domainxml.NewSource]) -> Action:
        def define() -> Mapping[str, Any]:
            source = self._host.domain(plan.source)
            if source.uuid != plan.source_uuid or not source.is_off:
                raise errors.SourceStarted
            self._check_unchanged(plan.copies)
            xml = domainxml.clone(
                plan.xml,
                plan.identity,
                sources,
                plan.nvram[1] if plan.nvram else None,
                drop_hostdevs=plan.drop_hostdevs,
            )
            with self._defining(plan.identity.uuid):
                self._host.define(plan.identity.name, xml)
            return {}

        args = {"uuid": plan.identity.uuid, "name": plan.identity.name}
        return Action(DOMAIN, args, f"Defining {plan.identity.name}", define)

    def _complete(self, task: int, done: Mapping[str, int] | None = None) -> None:
        """Ends a task whose every step is taken."""
        steps = self._journal.steps(task)
        domain = next((step for step in steps if step.kind == DOMAIN), None)
        clone = None
        if domain is not None:
            storage = [_storage(step) for step in steps if step.kind in (VOLUME, NVRAM)]
            clone = Clone(domain.args["uuid"], domain.args["name"], domain.begun, storage)
        made = [step.args for step in steps if step.kind == VOLUME and "parent" in step.args]
        links = [Link(args["parent"], args["pool"], args["name"]) for args in made]
        self._journal.end(task, FINISHED, "OK", clone, done, links)

    # --- Undoing -----------------------------------------------------------------------------------------------------

    def _finish(self, ending: Ending) -> None:
        """Undoes a task and ends it; what has to wait goes to the janitor."""
        try:
            outcome = _with_rests(ending.error, self._undo(ending.task))
            self._journal.end(ending.task, ending.status, outcome.reason)
        except _LATER as error:
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
            except _LATER:
                raise
            except errors.ClonerError as error:
                log.error("task %d: step %d cannot be undone: %s", task, step.number, error)
                rests.append(f"{step.args.get('name')} ({_cause(error)})")
            else:
                self._journal.mark(step, UNDONE)
        return rests

    def _undo_volume(self, step: Step) -> None:
        if step.state == DONE or self._is_ours(step):
            take_back(self._host, step.args["pool"], step.args["name"], step.result)

    def _undo_fill(self, step: Step) -> None:
        """The volume goes as a whole."""

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
            files.remove(path, dict(step.result))
            return
        try:
            status = os.lstat(path)
        except OSError:
            return
        if status.st_ctime_ns // 1000 >= step.begun - _COARSE_CLOCK_US:
            files.remove(path, {"device": status.st_dev, "inode": status.st_ino})

    def _undo_domain(self, step: Step) -> None:
        self._host.undefine(step.args["uuid"], keep_nvram=True)

    # --- Reporting -------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Tells the journal how far the jobs are, and the jobs that another server was asked to cancel them."""
        told: dict[int, dict[str, int]] = {}
        while not self._stopping.wait(_REPORT_INTERVAL_S):
            with self._changed:
                jobs = {task: job for task, (job, _) in self._jobs.items()}
            news = {task: done for task, job in jobs.items() if (done := job.done()) != told.get(task)}
            told = {task: told.get(task, {}) for task in jobs} | news
            try:
                for task in self._journal.report(news, set(jobs)) if jobs else ():
                    jobs[task].stop(errors.CloneCancelled())
            except errors.ClonerError as error:
                log.warning("progress cannot be reported: %s", error)

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

    def orphans(self) -> list[tuple[Task, list[Step]]]:
        """The running tasks of servers that are dead, with the steps of each that would be undone."""
        tasks = [task for task in self._journal.tasks(RUNNING) if not self._lease.is_alive(task.server)]
        return [(task, [] if self._is_complete(task) else self._journal.steps(task.id)) for task in tasks]

    def recover(self) -> None:
        """Finishes or undoes the tasks of dead servers now. Raises what keeps it from that."""
        self._adopt_orphans()
        while self._endings:
            ending = self._endings.popleft()
            self._journal.end(ending.task, ending.status, _with_rests(ending.error, self._undo(ending.task)).reason)

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
        return last.kind == FILL and last.state == DONE and task.kind == VOLUME and not task.cancelled


_UNDO: Mapping[str, Callable[[Executor, Step], None]] = {
    VOLUME: Executor._undo_volume,
    FILL: Executor._undo_fill,
    NVRAM: Executor._undo_nvram,
    DOMAIN: Executor._undo_domain,
}


def _copy_nvram(source: str, target: str) -> Action:
    args = {"source": source, "target": target, "name": target}
    return Action(
        NVRAM, args, f"Copying the NVRAM to {os.path.basename(target)}", lambda: files.copy_small(source, target)
    )


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


def _fill(method: Method, copy: Copy, made: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    method.fill(copy, made, job)
    return {}


def _take_out(lane: deque[tuple[int, Plan]], task: int) -> bool:
    """Takes a task out of those that wait; whether it was among them."""
    waiting = next((item for item in lane if item[0] == task), None)
    if waiting is not None:
        lane.remove(waiting)
    return waiting is not None
