"""How a task ends, by what the journal says of its steps: complete, or taken back step by step, also after a crash.

Nothing is removed that is not known to be ours: a domain by its UUID, a file by its inode, a volume by having been made
exclusively and not before the step.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from .. import context, errors
from ..context import NOBODY, Context
from ..hypervisor.host import Host
from ..hypervisor.infos import VolumeInfo
from . import domainxml, files, ownership
from .copying import take_back
from .journal import Journal
from .lease import Lease
from .observer import Observer
from .records import BEGUN, DONE, FAILED, FINISHED, KILLED, RUNNING, UNDONE, Clone, Link, Mark, Step, Task
from .xmltree import parse

log = logging.getLogger(__name__)

VOLUME, FILL, NVRAM, TPM, DOMAIN, START = "volume", "fill", "nvram", "tpm", "domain", "start"
"""Kinds of steps."""

LATER = (errors.LibvirtUnavailable, errors.Busy, errors.JournalUnavailable, errors.PoolInactive, files.Unseen)
"""What may pass, so that undoing is tried again."""

ALONE = (errors.Busy, errors.PoolInactive, files.Unseen)
"""Of these what one task may have to wait for while others need not."""

ANOTHERS = "it is of another libvirt than this server's, and waits for a server with that (setting connect)"

_COARSE_CLOCK_US = 50_000
"""A file system takes its times from the kernel's coarse clock, which lags: a file this much older may be ours."""


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
        outcome = _with_leftovers(ending.error, self._undo(known, tell, was_seen=was_seen))
        self._journal.end(ending.task, ending.status, outcome.reason)
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

    # --- Undoing -----------------------------------------------------------------------------------------------------

    def _undo(self, steps: Sequence[Step], tell: Callable[[Collection[Mark]], None], *, was_seen: bool) -> list[str]:
        """Takes a task's steps back; returns what could not be, in words. Raises what can be tried again."""
        leftovers = []
        for step in reversed(steps):
            if step.state == UNDONE:
                continue
            try:
                if was_seen:
                    self._check_unused(step)
                _UNDO[step.kind](self, step)
            except errors.ClonerError as error:
                if isinstance(error, LATER):
                    raise
                log.error("task %d: step %d cannot be undone: %s", step.task, step.number, error)
                leftovers.append(f"{step.args.get('name')} ({cause_of(error)})")
            else:
                tell([Mark(step.number, UNDONE)])
        return leftovers

    def _undo_volume(self, step: Step) -> None:
        if step.state == DONE or step.result or self._is_ours(step):
            take_back(self._host, step.args["pool"], step.args["name"], step.result)

    def _undo_fill(self, step: Step) -> None:
        """The volume goes as a whole."""

    def _is_ours(self, step: Step) -> bool:
        """Whether the volume of a step that was interrupted is the one that the step was about to make.

        Libvirt may still have to make it, for whoever asked it for that and did not live to hear the answer.
        A name that has a stamp of the journal in it is nobody else's, whatever the clock says of its volume: that of
        another host, or of a file server, may be behind. By a name that a person chose somebody may have made another
        one since the server died: it is ours as long as it is empty, no domain names it, and it was not last changed
        before the step began. Raises StepFailed for what is another's, lest it be passed over in silence.
        """
        self._host.catch_up()
        volume = self._look_at(step.args["pool"], step.args["name"])
        if volume is None:
            self._remove_unseen(step)
            return False
        is_new = volume.changed is not None and volume.changed >= step.begun - _COARSE_CLOCK_US
        if step.args.get("stamped") or (is_new and self._is_unused(volume, step)):
            return True
        raise errors.StepFailed(cause=f"{volume.path} cannot be told from another's, and is left alone")

    def _look_at(self, pool: str, name: str) -> VolumeInfo | None:
        """A volume, or None. Raises Busy while libvirt may be making it and its `qemu-img` has not begun its file."""
        for _ in range(2):
            try:
                return self._host.volume(pool, name)
            except errors.VolumeNotFound:
                if not self._host.looked_again(pool, name):
                    break
        return None

    def _remove_unseen(self, step: Step) -> None:
        """Removes the file that a libvirtd which was killed left its qemu-img to make.

        The next libvirtd has looked into its pools before that. Raises StepFailed for what may be another's.
        """
        pool = self._host.pool(step.args["pool"])
        if not (self._host.is_local and pool.holds_files):
            return
        path = os.path.join(pool.path, step.args["name"])
        if files.is_barred(path):  # and that may be so for good: libvirt's word counts, as of another host
            return
        is_stamped = bool(step.args.get("stamped"))
        made = files.made_since(path, 0 if is_stamped else step.begun - _COARSE_CLOCK_US)
        if made and not is_stamped:
            raise errors.StepFailed(cause=f"{path} cannot be told from another's, and is left alone")
        files.remove(path, made)

    def _check_unused(self, step: Step) -> None:
        """Raises StepFailed for a file that is a guest's by now. The clone itself is undone before."""
        if step.kind == VOLUME:
            path = (step.result or {}).get("path", "")
            places = [path, f"{step.args['pool']}/{step.args['name']}"]
        elif step.kind == NVRAM:
            path = step.args["target"]
            places = [path]
        else:
            return
        if self._is_named(places):
            raise errors.StepFailed(cause=f"{path or places[-1]} is another guest's by now, and is left alone")

    def _is_unused(self, volume: VolumeInfo, step: Step) -> bool:
        return volume.allocation <= step.args.get("empty_bytes", 0) and not self._is_named(volume.places)

    def _is_named(self, places: Collection[str]) -> bool:
        """Whether a disk, the NVRAM, a log or a socket of any domain lies in one of these places."""
        for domain in self._host.list_domains():
            for root in map(parse, filter(None, (domain.xml, domain.live_xml))):
                named = {disk.place for disk in domainxml.disks(root)} | {domainxml.nvram(root)}
                named |= {node.get(attribute) for node, attribute in ownership.paths(root)}
                if not (named - {"", None}).isdisjoint(places):
                    return True
        return False

    def _undo_nvram(self, step: Step) -> None:
        path = step.args["target"]
        if step.result is not None:
            files.remove(path, dict(step.result))
            return
        made = files.made_since(path, 0)
        if not made:
            return
        # What the step had copied when it was interrupted is the beginning of its source.
        is_new = bool(files.made_since(path, step.begun - _COARSE_CLOCK_US))
        is_ours = is_new and files.begins(step.args["source"], path) and not self._is_named([path])
        if not (step.args.get("stamped") or is_ours):
            raise errors.StepFailed(cause=f"{path} cannot be told from another's, and is left alone")
        files.remove(path, made)

    def _undo_tpm(self, step: Step) -> None:
        """The folder is named by the clone's UUID, which is new: nobody else has made it, finished or not."""
        files.remove_folder(step.args["target"])

    def _undo_start(self, step: Step) -> None:
        """It is stopped when it is undefined."""

    def _undo_domain(self, step: Step) -> None:
        """Somebody may have started it, before it is undefined or meanwhile; then it would go on without a disk.

        What QEMU and libvirt made because of that, where nothing was before, goes as well. One whose definition was
        interrupted libvirt may still have to define, and would without a disk.
        """
        uuid = step.args["uuid"]
        try:
            if step.state == BEGUN:
                self._host.catch_up()
            self._host.stop(uuid)
            self._host.undefine(uuid, keep_nvram=True)
            self._host.stop(uuid)
        except errors.LibvirtFailed as error:  # what it is made of stays with it, and all of it is tried again
            raise errors.Busy(what=f"the clone: {error.data['cause']}") from error
        for path in step.args.get("files", ()) if self._host.is_local else ():
            made = files.made_since(path, step.begun - _COARSE_CLOCK_US)
            if made and not self._is_named([path]):  # another guest may have the clone's name by now
                files.remove(path, made)


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


_UNDO: Mapping[str, Callable[[Ledger, Step], None]] = {
    VOLUME: Ledger._undo_volume,
    FILL: Ledger._undo_fill,
    NVRAM: Ledger._undo_nvram,
    TPM: Ledger._undo_tpm,
    DOMAIN: Ledger._undo_domain,
    START: Ledger._undo_start,
}


def _not_started(steps: Sequence[Step]) -> str | None:
    """What is to be said of a clone that was to be started, when nobody knows whether it was."""
    wanted = any(step.kind == DOMAIN and step.args.get("start") for step in steps)
    if not wanted or any(step.kind == START and step.state == DONE for step in steps):
        return None
    return errors.NotStarted(cause="the server stopped before that. Start it, if it does not run").reason


def cause_of(error: errors.ClonerError) -> str:
    """What went wrong, without the code of an error that only wraps it."""
    return str(error.data["cause"]) if isinstance(error, errors.StepFailed) else error.reason


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
