"""Runs clones side by side: what waits, what is being made, how far it is, and how it ends.

Whatever goes wrong, the ledger undoes the steps written down in reverse order, so that a clone is there whole or not at
all. What cannot be undone yet, because libvirt is away or busy, is tried again by the janitor until it can; a server
that starts finds the tasks of the dead and does the same for them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from uuid import uuid4

from .. import context, errors
from ..context import Context
from ..hypervisor.host import Host
from ..hypervisor.infos import VolumeInfo
from .copying import Method
from .job import Job
from .journal import Journal
from .ledger import Ending, Ledger
from .maker import Maker, Plan
from .plan import DomainPlan
from .postponed import Postponed
from .records import FAILED, FINISHED, KILLED
from .undoing import ALONE, LATER

log = logging.getLogger(__name__)

QUICK, LONG = LANES = ("quick", "long")
"""Where clones wait for a worker: those whose disks take a moment, and those that copy bytes."""

_STAND_INS = 32
"""Workers at most that take the place of those which wait for a guest to start."""

_JANITOR_INTERVAL_S = 1.0
_REPORT_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Bounds:
    """How many clones are made at once, and how many volumes are filled at once, of all clones together."""

    workers: int = 8
    copies: int = 4


@dataclass(frozen=True)
class Waiting:
    """A task that was accepted, for whom, and when (by the clock that never jumps)."""

    task: int
    plan: Plan
    context: Context
    since: float


@dataclass(frozen=True)
class Load:
    """How many clones of a lane wait for a worker, and how many have one."""

    waiting: int
    running: int


class Executor:
    """The workers of one server.

    Args:
        journal: where everything is written down.
        host: the libvirt host.
        methods: the ways to copy a volume, by name.
        ledger: ends what they began.
        bounds: how much is done at once.
        users: tells the names of the guests that run and may write to a volume, but the one of a UUID.
    """

    def __init__(
        self,
        journal: Journal,
        host: Host,
        methods: Mapping[str, Method],
        ledger: Ledger,
        bounds: Bounds,
        users: Callable[[VolumeInfo, str], Collection[str]],
    ) -> None:
        self._journal = journal
        self._methods = methods
        self._ledger = ledger
        self._maker = Maker(journal, host, methods, ledger, bounds.copies, users)
        self._observer = ledger.observer
        # Clones of milliseconds do not wait behind those of minutes.
        self._lanes: dict[str, deque[Waiting]] = {lane: deque() for lane in LANES}
        self._busy = dict.fromkeys(LANES, 0)
        self._jobs: dict[int, tuple[Job, Plan]] = {}
        self._postponed = Postponed(_JANITOR_INTERVAL_S)
        self._lock = threading.Lock()
        self._waiting = {lane: threading.Condition(self._lock) for lane in LANES}
        self._stand_ins = threading.BoundedSemaphore(_STAND_INS)
        self._stopping = threading.Event()
        self._has_work = threading.Event()
        lanes = [QUICK] * bounds.workers + [LONG] * bounds.copies
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
        lane = LONG if any(self._methods[copy.method].is_long for copy in plan.copies) else QUICK
        item = Waiting(task, plan, context.current().of_task(task), time.monotonic())
        self._observer.started(_kind(plan), _method(plan))
        with self._lock:
            is_late = self._stopping.is_set()
            if not is_late:
                self._lanes[lane].append(item)
                self._waiting[lane].notify()
                self._has_work.set()
        if is_late:
            self._give_up(item, FAILED, errors.ServerStopped())

    def cancel(self, task: int) -> bool:
        """Asks for a running task's end: it ends at once, and what it made is undone. False if it has ended."""
        waiting, is_running = self._stop_here(task)  # now: the journal may have to wait for others
        try:
            was_running = self._journal.cancel(task)
        finally:
            if waiting is not None:  # it is in no lane any more; what cannot be written yet, the janitor writes
                self._give_up(waiting, KILLED, errors.CloneCancelled())
        if was_running or not is_running:
            return was_running
        ended = self._journal.task(task)
        return ended is not None and ended.status == KILLED  # because of us, sooner than it was written down

    def _stop_here(self, task: int) -> tuple[Waiting | None, bool]:
        """Takes a task out of those that wait, for the caller to give up, or has it end; whether it was being made."""
        with self._lock:
            waiting = next(filter(None, (_take_out(queue, task) for queue in self._lanes.values())), None)
            running = self._jobs.get(task)
        if running is not None:
            running[0].stop(errors.CloneCancelled())
        return waiting, running is not None

    def domain_started(self, uuid: str) -> None:
        """Ends the clones of a domain that runs: what they read may change under their hands."""
        with self._lock:
            jobs = [
                job for job, plan in self._jobs.values() if isinstance(plan, DomainPlan) and plan.source_uuid == uuid
            ]
        for job in jobs:
            job.stop(errors.SourceStarted())

    def images_written(self, places: Collection[str]) -> None:
        """Ends the clones that read one of these images, to which a guest that runs may write."""
        with self._lock:
            jobs = [job for job, plan in self._jobs.values() if _reads(plan, places)]
        for job in jobs:
            job.stop(errors.SourceStarted())

    def stop(self, patience_s: float) -> bool:
        """Ends every task, and undoes it. False if something went on for `patience_s`, which libvirt's own copies may.

        What such a one leaves is in the journal, and undone by the next server that starts.
        """
        deadline = time.monotonic() + patience_s
        self._stopping.set()
        self._has_work.set()
        with self._lock:
            waiting = [item for queue in self._lanes.values() for item in queue]
            for queue in self._lanes.values():
                queue.clear()
            running = [job for job, _ in self._jobs.values()]
            for condition in self._waiting.values():
                condition.notify_all()
        for job in running:
            job.stop(errors.ServerStopped())
        for item in waiting:
            self._give_up(item, FAILED, errors.ServerStopped())
        for thread in (*self._threads, self._janitor):
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in (*self._threads, self._janitor))

    def load(self) -> Mapping[str, Load]:
        """What there is to do, by lane."""
        with self._lock:
            return {lane: Load(len(self._lanes[lane]), self._busy[lane]) for lane in LANES}

    def to_undo(self) -> int:
        """How many clones have failed and cannot be undone yet."""
        return len(self._postponed)

    # --- Doing -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _stood_in(self, lane: str) -> Iterator[None]:
        """Has another worker do what this one would, until the end of the block; if there may be one more."""
        is_over = threading.Event()
        stand_in = threading.Thread(target=self._stand_in, args=(lane, is_over), name="clone-stand-in", daemon=True)
        if self._stand_ins.acquire(blocking=False):
            try:
                stand_in.start()
            except RuntimeError:  # there are too many threads
                self._stand_ins.release()
            else:
                with self._lock:
                    self._threads = [*(thread for thread in self._threads if thread.is_alive()), stand_in]
        try:
            yield
        finally:
            with self._lock:
                is_over.set()
                self._waiting[lane].notify_all()

    def _stand_in(self, lane: str, is_over: threading.Event) -> None:
        try:
            self._work(lane, is_over)
        finally:
            self._stand_ins.release()

    def _work(self, lane: str, is_over: threading.Event | None = None) -> None:
        while (item := self._next(lane, is_over)) is not None:
            with context.use(item.context):
                status = self._run(item.task, item.plan)
            with self._lock:
                self._busy[lane] -= 1
            self._tell_end(item, status)

    def _next(self, lane: str, is_over: threading.Event | None) -> Waiting | None:
        """The next that waits for a worker; None where the server stops, or a stand-in's time is over."""
        queue = self._lanes[lane]

        def has_ended() -> bool:
            return self._stopping.is_set() or (is_over is not None and is_over.is_set())

        with self._lock:
            self._waiting[lane].wait_for(lambda: queue or has_ended())
            if has_ended():
                return None
            item = queue.popleft()
            self._busy[lane] += 1
            job = Job(item.task, {copy.item: copy.total for copy in item.plan.copies})
            job.stood_in = partial(self._stood_in, lane)
            self._jobs[item.task] = (job, item.plan)
            return item

    def _run(self, task: int, plan: Plan) -> str:
        """Makes a clone or undoes it; returns the status that its task ends with."""
        job = self._jobs[task][0]
        ending = None
        try:
            self._maker.make(job, plan)
        except errors.CloneCancelled as error:
            ending = Ending(task, KILLED, error)
        except errors.ClonerError as error:
            ending = Ending(task, FAILED, error)
            if job.is_cancelled:  # and has failed in what could not be broken off
                ending = Ending(task, KILLED, errors.CloneCancelled())
        except Exception:  # a worker outlives whatever a clone runs into; the stack is in the log
            reference = uuid4().hex[:12]
            log.exception("task %d failed, reference %s", task, reference)
            ending = Ending(task, FAILED, errors.ClonerError(reference=reference))
        if ending is not None:
            # Its bytes are not told by themselves: where the journal is locked, what was made would stay for longer.
            ending = replace(ending, done=job.done(), not_ours=frozenset(job.not_ours), marks=tuple(job.take_marks()))
            self._finish(replace(ending, context=context.current()))
        with self._lock:
            del self._jobs[task]
        return ending.status if ending is not None else FINISHED

    # --- Ending ------------------------------------------------------------------------------------------------------

    def _give_up(self, item: Waiting, status: str, why: errors.ClonerError) -> None:
        """Ends a task that no worker has begun."""
        self._finish(Ending(item.task, status, why, context=item.context))
        self._tell_end(item, status)

    def _tell_end(self, item: Waiting, status: str) -> None:
        size = sum(copy.total for copy in item.plan.copies)
        self._observer.ended(_kind(item.plan), _method(item.plan), status, time.monotonic() - item.since, size)

    def _finish(self, ending: Ending, tries: int = 0) -> None:
        """Undoes a task and ends it; what has to wait goes to the janitor. It was tried so often before."""
        with context.use(replace(ending.context, task=ending.task)):
            self._undo_and_end(ending, tries)

    def _undo_and_end(self, ending: Ending, tries: int) -> None:
        try:
            why = self._waits_for(ending)
        except Exception:  # an ending must not be lost, nor end its thread; the stack is in the log
            log.exception("task %d cannot be ended yet", ending.task)
            is_alone = True
        else:
            if why is None:
                return
            is_alone = isinstance(why, ALONE)
        self._postponed.add(ending, tries, is_alone=is_alone)

    def _waits_for(self, ending: Ending) -> errors.ClonerError | None:
        """Undoes a task and ends it; what that has to wait for, if it has."""
        try:
            self._ledger.fail(ending)
        except LATER as error:
            self._ledger.tell_wait(ending.task, error)
            return error
        return None

    # --- Reporting -------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Tells the journal how far the jobs are, and the jobs that another server was asked to cancel them."""
        told: dict[int, dict[str, int]] = {}
        while self._has_work.wait() and not self._stopping.wait(_REPORT_INTERVAL_S):
            with self._lock:
                jobs = {task: job for task, (job, _) in self._jobs.items()}
                is_idle = not jobs and not any(self._lanes.values())
                if is_idle:
                    self._has_work.clear()
            try:
                # A job that ends before it is looked at twice has its last word in its end.
                news = {task: done for task, job in jobs.items() if task in told and (done := job.done()) != told[task]}
                told = {task: told.get(task, {}) for task in jobs} | news
                for task in self._journal.report(news) if not is_idle else ():
                    self._cancelled_elsewhere(task)
            except errors.ClonerError as error:
                log.warning("progress cannot be reported: %s", error)
            except Exception:  # who asks another server to cancel is heard by nobody else; the stack is in the log
                log.exception("the reporter stumbled")

    def _cancelled_elsewhere(self, task: int) -> None:
        """Ends a task, if it is one of this server's, of which another server was asked for that."""
        waiting, _ = self._stop_here(task)
        if waiting is not None:
            self._give_up(waiting, KILLED, errors.CloneCancelled())

    # --- The janitor -------------------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        while not self._stopping.is_set():
            try:
                for ending in self._ledger.adopt_orphans():
                    self._finish(ending)
            except errors.ClonerError as error:
                log.warning("the janitor tries again: %s", error)
            except Exception:  # the janitor must not die of one task; the stack is in the log
                log.exception("the janitor stumbled")
            for item in self._postponed.take_due():
                self._finish(item.ending, item.tries)
            self._stopping.wait(_JANITOR_INTERVAL_S)


def _reads(plan: Plan, places: Collection[str]) -> bool:
    return any(place in places for copy in plan.copies for volume in copy.reads for place in volume.places)


def _kind(plan: Plan) -> str:
    """As a task's `kind` has it."""
    return "domain" if isinstance(plan, DomainPlan) else "volume"


def _method(plan: Plan) -> str:
    """How the disks are cloned, in a word."""
    found = {copy.method for copy in plan.copies}
    return found.pop() if len(found) == 1 else ("mixed" if found else "none")


def _take_out(lane: deque[Waiting], task: int) -> Waiting | None:
    """Takes a task out of those that wait; None if it is not among them."""
    waiting = next((item for item in lane if item.task == task), None)
    if waiting is not None:
        lane.remove(waiting)
    return waiting
