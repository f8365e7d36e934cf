"""How a task ends, by what the journal says of its steps: complete, or taken back step by step, also after a crash."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from .. import context, errors
from ..context import NOBODY, Context
from ..hypervisor.host import Host
from . import files
from .journal import Journal
from .lease import Lease
from .observer import Observer
from .records import (
    BEGUN,
    DOMAIN,
    DONE,
    FAILED,
    FILL,
    FINISHED,
    KILLED,
    NVRAM,
    RUNNING,
    START,
    UNDONE,
    VOLUME,
    Clone,
    Link,
    Mark,
    Step,
    Task,
)
from .undoing import ALONE, LATER, Undoing

log = logging.getLogger(__name__)

ANOTHERS = "it is of another libvirt than this server's, and waits for a server with that (setting connect)"


@dataclass(frozen=True)
class Ending:
    """How a task is going to end once everything is undone."""

    task: int
    status: str
    error: errors.ClonerError
    not_ours: frozenset[int] = frozenset()
    """Numbers of steps that met something of somebody else's."""

    marks: tuple[Mark, ...] = ()
    """How steps went that the journal has not been told yet."""

    done: Mapping[str, int] | None = None
    """Its bytes by item; None where nobody knows them better than the journal."""

    context: Context = NOBODY
    """For whom the task was."""

    is_adopted: bool = False
    """Whether its server died; nobody knows what was done to the clone since."""


class Ledger:
    """Ends the tasks of one journal on one host."""

    def __init__(self, journal: Journal, host: Host, lease: Lease, observer: Observer | None = None) -> None:
        self.observer = observer or Observer()
        self._journal = journal
        self._host = host
        self._undoing = Undoing(host)
        self._lease = lease
        self._adopted: deque[Task] = deque()
        self._strangers: set[int] = set()
        self._waits: dict[int, str] = {}
        """What adopted tasks were last said to wait for."""

    def complete(
        self, task: int, steps: Sequence[Step], done: Mapping[str, int] | None = None, warning: str | None = None
    ) -> None:
        """Ends a task whose every step is taken. Raises CloneCancelled if it may not.

        `done` are its bytes by item, `warning` is what is to be said of it all the same.
        """
        domain = next((step for step in steps if step.kind == DOMAIN), None)
        clone = None
        if domain is not None:
            storage = [_storage(step) for step in steps if step.kind in (VOLUME, NVRAM)]
            clone = Clone(domain.args["uuid"], domain.args["name"], domain.begun, storage)
        links = self._links(task) if any(step.args.get("parents") for step in steps) else []
        self._journal.end(task, FINISHED, "OK", clone, done=done, links=links, warning=warning)
        log.info("task %d is finished", task)

    def _links(self, task: int) -> list[Link]:
        """What a task made that stands on other images."""
        made = [(step.args, step.result or {}) for step in self._journal.steps(task) if step.kind == VOLUME]
        return [
            Link(parent, args["pool"], args["name"], path=result.get("path", ""))
            for args, result in made
            for parent in args["parents"]
        ]

    def fail(self, ending: Ending) -> None:
        """Undoes a task and ends it. Raises one of LATER when that has to wait."""
        steps = self._journal.steps(ending.task)
        # That a volume is full is not told: whoever recovers this task would take it for complete.
        filled = {step.number for step in steps if _fills(step)}
        marks = {
            mark.number: Mark(mark.number, BEGUN, mark.result) if mark.number in filled else mark
            for mark in ending.marks
        }
        tell = _Teller(self._journal, ending.task)
        tell(list(marks.values()))
        known = [_marked(step, marks.get(step.number)) for step in steps if step.number not in ending.not_ours]
        # A clone that was defined was there for everybody, who may have put its disks into another guest.
        was_seen = ending.is_adopted and any(step.kind == DOMAIN and step.state != UNDONE for step in steps)
        outcome = _with_leftovers(ending.error, self._undoing.undo(known, tell, was_seen=was_seen))
        self._journal.end(ending.task, ending.status, outcome.reason, done=ending.done)
        log.warning("task %d ended: %s", ending.task, outcome.reason)

    def tell_wait(self, task: int, why: errors.ClonerError) -> None:
        """Says in a task's message, and once in the log, what its undoing waits for."""
        try:
            is_news = self._journal.say(task, errors.UndoneLater(cause=why.reason).reason)
        except errors.JournalUnavailable:
            is_news = True
        if is_news:
            log.warning("task %d: what it made cannot be removed yet: %s", task, why)

    def _tell_stranger(self, task: Task) -> None:
        """Nothing of a task is to be looked for, and found missing, where it never was."""
        if task.id not in self._strangers:
            self._strangers.add(task.id)
            self.tell_wait(task.id, errors.StepFailed(cause=ANOTHERS))

    def waiting(self) -> list[Task]:
        """Tasks that servers which live cannot undo yet, and those of another libvirt."""
        return [task for task in self._journal.tasks(RUNNING) if self._is_left(task)]

    def _is_left(self, task: Task) -> bool:
        if self._lease.is_alive(task.server):
            return task.message.startswith(errors.UndoneLater.code)
        return not self._lease.is_of_here(task.server)

    # --- Tasks of servers that died ----------------------------------------------------------------------------------

    def orphans(self) -> list[tuple[Task, list[Step]]]:
        """The running tasks of servers that are dead, with the steps of each that would be undone.

        Those of another libvirt are not among them.
        """
        dead = [task for task in self._journal.tasks(RUNNING) if not self._lease.is_alive(task.server)]
        tasks = [task for task in dead if self._lease.is_of_here(task.server)]
        return [(task, [] if self._seems_complete(task) else self._journal.steps(task.id)) for task in tasks]

    def _seems_complete(self, task: Task) -> bool:
        """Whether a task is complete; no where that cannot be told yet."""
        try:
            return self._is_complete(task)
        except ALONE:
            return False

    def adopt_orphans(self) -> list[Ending]:
        """Takes over the running tasks of servers that are dead: finishes the complete ones, returns the others.

        One that cannot be settled yet is kept for the next call.
        """
        self._lease.keep()
        dead = {server for server in self._journal.servers_with_tasks() if not self._lease.is_alive(server)}
        for task in self._journal.tasks(RUNNING) if dead else ():
            if task.server in dead and not self._lease.is_of_here(task.server):
                self._tell_stranger(task)
            elif task.server in dead and self._journal.adopt(task.id, task.server, self._lease.id):
                self._adopted.append(task)
        self._lease.forget_the_dead()
        endings = []
        for _ in range(len(self._adopted)):
            task = self._adopted.popleft()
            with context.use(Context(request_id=task.request, user=task.owner, task=task.id)):
                try:
                    ending = self._settle(task)
                except errors.CloneCancelled as error:
                    ending = Ending(task.id, KILLED, error, context=context.current(), is_adopted=True)
                except errors.ClonerError as error:
                    self._adopted.append(task)
                    if self._waits.get(task.id) != error.reason:  # it is tried each second
                        self._waits[task.id] = error.reason
                        log.warning("task %d of a dead server waits: %s", task.id, error)
                    if isinstance(error, ALONE):
                        continue
                    break  # the others would wait for the same
                except Exception:  # they are the only ones who still know of their tasks; the stack is in the log
                    self._adopted.append(task)
                    log.exception("task %d of a dead server cannot be settled", task.id)
                    continue
            endings += [ending] if ending else []
            self.observer.recovered(ending.status if ending else FINISHED)
        return endings

    def _settle(self, task: Task) -> Ending | None:
        """Finishes a task that is complete but for its last mark; else how it is to end. Raises CloneCancelled."""
        if task.cancelled:
            raise errors.CloneCancelled
        if not self._is_complete(task):
            return Ending(task.id, FAILED, errors.ServerStopped(), context=context.current(), is_adopted=True)
        steps = self._journal.steps(task.id)
        self.complete(task.id, steps, warning=_not_started(steps))
        log.warning("task %d was complete when its server stopped, and is finished", task.id)
        return None

    def recover(self) -> None:
        """Finishes or undoes the tasks of dead servers now. Raises what keeps it from that for one of them, at last."""
        problem: errors.ClonerError | None = None
        for ending in self.adopt_orphans():
            with context.use(ending.context):
                try:
                    self.fail(ending)
                except LATER as error:
                    self.tell_wait(ending.task, error)
                    problem = problem or error
        if problem is not None:
            raise problem

    def _is_complete(self, task: Task) -> bool:
        """Whether the last thing that makes a clone was done: a guest is defined last."""
        steps = self._journal.steps(task.id)
        if not steps:
            return False
        last = steps[-1]
        domain = next((step for step in steps if step.kind == DOMAIN), None)
        if domain is not None:
            return domain.state != UNDONE and self._host.has_domain_uuid(domain.args["uuid"])
        is_filled = _fills(last) and last.state == DONE and task.kind == VOLUME
        return is_filled and all(self._is_there(step) for step in steps if step.kind == VOLUME)

    def _is_there(self, step: Step) -> bool:
        """Whether a volume that was made is still there: its server may have begun to undo it."""
        made = step.result or {}
        if made.get("file"):
            return files.is_still(made["path"], made["file"])
        try:
            self._host.volume(step.args["pool"], step.args["name"])
        except (errors.VolumeNotFound, errors.PoolNotFound):
            return False
        return True


class _Teller:
    """Writes how a task's steps went, as long as the journal takes it: its disk may be full of what is to be undone.

    What is undone and not written is undone again, which changes nothing.
    """

    def __init__(self, journal: Journal, task: int) -> None:
        self._journal = journal
        self._task = task
        self._is_heard = True

    def __call__(self, marks: Collection[Mark]) -> None:
        if self._is_heard:
            try:
                self._journal.mark(self._task, marks)
            except errors.JournalUnavailable:  # and it may have taken long to say so
                self._is_heard = False


def _fills(step: Step) -> bool:
    """Whether a volume has its content once the step is done."""
    return step.kind == FILL or bool(step.args.get("filled"))


def _marked(step: Step, mark: Mark | None) -> Step:
    """A step as it is known to have gone."""
    return step if mark is None else replace(step, state=mark.state, result=mark.result)


def _not_started(steps: Sequence[Step]) -> str | None:
    """What is to be said of a clone that was to be started, when nobody knows whether it was."""
    wanted = any(step.kind == DOMAIN and step.args.get("start") for step in steps)
    if not wanted or any(step.kind == START and step.state == DONE for step in steps):
        return None
    return errors.NotStarted(cause="the server stopped before that. Start it, if it does not run").reason


def _storage(step: Step) -> dict[str, str]:
    if step.kind == NVRAM:
        return {"file": step.args["target"]}
    return {"pool": step.args["pool"], "volume": step.args["name"]}


def _with_leftovers(error: errors.ClonerError, leftovers: list[str]) -> errors.ClonerError:
    if not leftovers:
        return error
    step, cause = error.data.get("step", "The clone"), error.data.get("cause") or _without_undoing(error)
    return errors.CloneFailedWithLeftovers(step=step, cause=cause, rest=", ".join(leftovers))


def _without_undoing(error: errors.ClonerError) -> str:
    """What has ended a clone, without what its text says of everything being removed."""
    return error.reason.removeprefix(f"{error.code}: ").partition(". Everything made")[0]
