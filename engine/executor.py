"""Runs plans step by step against the journal: each step is written down, taken, and marked.

Whatever goes wrong, the ledger undoes the steps written down in reverse order, so that a clone is there whole or not at
all. What cannot be undone yet, because libvirt is away or busy, is tried again by the janitor until it can; a server
that starts finds the tasks of the dead and does the same for them.
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
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from .. import errors
from ..errors import plain
from ..hypervisor.host import Host
from . import domainxml, files
from .copying import Method
from .job import Job
from .journal import DONE, FAILED, KILLED, UNDONE, Journal
from .ledger import DOMAIN, FILL, LATER, NVRAM, VOLUME, Ending, Ledger, cause_of
from .plan import Copy, DomainPlan, VolumePlan
from .reach import LIBVIRT

log = logging.getLogger(__name__)

Plan = DomainPlan | VolumePlan

_JANITOR_INTERVAL_S = 1.0
_REPORT_INTERVAL_S = 0.5
_TURN_POLL_S = 0.1


@dataclass(frozen=True)
class Action:
    """A step to be taken: what is written down about it, and how it is done."""

    kind: str
    args: Mapping[str, Any]
    title: str
    do: Callable[[], Mapping[str, Any]]
    promise: str | None = None


class Executor:
    """The workers of one server.

    Args:
        journal: where everything is written down.
        host: the libvirt host.
        methods: the ways to copy a volume, by name.
        ledger: ends what they began.
        workers: how many clones are made at once.
        copies: how many volumes are filled at once, of all clones together.
    """

    def __init__(
        self,
        journal: Journal,
        host: Host,
        methods: Mapping[str, Method],
        ledger: Ledger,
        *,
        workers: int = 8,
        copies: int = 4,
    ) -> None:
        self._journal = journal
        self._host = host
        self._methods = methods
        self._ledger = ledger
        # Clones of milliseconds do not wait behind those of minutes.
        self._quick: deque[tuple[int, Plan]] = deque()
        self._long: deque[tuple[int, Plan]] = deque()
        self._jobs: dict[int, tuple[Job, Plan]] = {}
        self._endings: deque[Ending] = deque()
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
        ending = None
        try:
            self._make(job, plan)
        except errors.CloneCancelled as error:
            ending = Ending(task, KILLED, error)
        except errors.ClonerError as error:
            ending = Ending(task, FAILED, error)
        except Exception:  # a worker outlives whatever a clone runs into; the stack is in the log
            reference = uuid4().hex[:12]
            log.exception("task %d failed, reference %s", task, reference)
            ending = Ending(task, FAILED, errors.ClonerError(reference=reference))
        if ending is not None:
            self._finish(replace(ending, not_ours=frozenset(job.not_ours)))
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
        self._ledger.complete(job.task, job.done())

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
        made_empty = names | {"empty": copy.method != LIBVIRT, "parents": list(copy.depends_on)}
        reserve = Action(VOLUME, made_empty, plain(f"Making {copy.name}"), lambda: method.reserve(copy, job))
        with self._turn(job) if method.is_long else nullcontext():
            made = self._take(job, first, reserve)
            title = plain(f"Copying {copy.source.name} to {copy.name}")
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
            job.not_ours.add(step.number)  # what is there is somebody else's
            self._journal.mark(step, UNDONE)
            raise errors.CloneFailed(step=action.title, cause=error.reason) from error
        except (errors.CloneCancelled, errors.ServerStopped, errors.SourceStarted, errors.CloneFailed):
            raise
        except errors.ClonerError as error:
            raise errors.CloneFailed(step=action.title, cause=cause_of(error)) from error
        self._journal.mark(step, DONE, result, kept=action.promise)
        return result

    def _check_unchanged(self, copies: Sequence[Copy]) -> None:
        """Raises SourceChanged if a source that the server can see was written to since the clone was planned.

        One that it could see then and cannot now may have been: CloneFailed, with the cause.
        """
        for copy in copies:
            if copy.written is None:
                continue
            try:
                written = files.examine(copy.source.path).written
            except OSError as error:
                step = plain(f"Checking that {copy.source.name} is unchanged")
                raise errors.CloneFailed(step=step, cause=error) from error
            if written != copy.written:
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
            self._host.define(plan.identity.name, plan.identity.uuid, xml)
            return {}

        args = {"uuid": plan.identity.uuid, "name": plan.identity.name}
        return Action(DOMAIN, args, plain(f"Defining {plan.identity.name}"), define)

    # --- Ending ------------------------------------------------------------------------------------------------------

    def _finish(self, ending: Ending) -> None:
        """Undoes a task and ends it; what has to wait goes to the janitor."""
        try:
            self._ledger.fail(ending)
        except LATER as error:
            log.warning("task %d: what it made cannot be removed yet: %s", ending.task, error)
            self._endings.append(replace(ending, tries=ending.tries + 1))
        except Exception:  # an ending must not be lost, nor end its thread; the stack is in the log
            log.exception("task %d cannot be ended yet", ending.task)
            self._endings.append(replace(ending, tries=ending.tries + 1))

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
                self._endings.extend(self._ledger.adopt_orphans())
            except errors.ClonerError as error:
                log.warning("the janitor tries again: %s", error)
            except Exception:  # the janitor must not die of one task; the stack is in the log
                log.exception("the janitor stumbled")
            for _ in range(len(self._endings)):
                self._finish(self._endings.popleft())
            self._stopping.wait(_JANITOR_INTERVAL_S)


def _copy_nvram(source: str, target: str) -> Action:
    args = {"source": source, "target": target, "name": target}
    return Action(
        NVRAM, args, plain(f"Copying the NVRAM to {os.path.basename(target)}"), lambda: files.copy_small(source, target)
    )


def _fill(method: Method, copy: Copy, made: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    method.fill(copy, made, job)
    return {}


def _take_out(lane: deque[tuple[int, Plan]], task: int) -> bool:
    """Takes a task out of those that wait; whether it was among them."""
    waiting = next((item for item in lane if item[0] == task), None)
    if waiting is not None:
        lane.remove(waiting)
    return waiting is not None
