"""Makes one clone: takes the steps of its plan, each written down before it is taken and marked with the next one.

A mark is written together with what follows it, so that a step costs one transaction. A crash in between leaves the
step as begun, which is undone as well: what it made is known by being new, or by its UUID.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from .. import context, errors
from ..errors import plain
from ..hypervisor.host import Host
from ..hypervisor.infos import VolumeInfo
from ..hypervisor.making import NotMade
from . import domainxml, files, locks, qcow2
from .copying import Method
from .job import Job
from .journal import Journal
from .ledger import Ledger
from .plan import Copy, DomainPlan, VolumePlan
from .records import BEGUN, DOMAIN, DONE, FILL, NVRAM, START, TPM, UNDONE, VOLUME, Mark

Plan = DomainPlan | VolumePlan
_Result = TypeVar("_Result")

_TURN_POLL_S = 0.1
_START_S = 2.0
"""What the start of a guest takes at most, as a rule."""


@dataclass(frozen=True)
class Action:
    """A step to be taken: what is written down about it, and how it is done."""

    kind: str
    args: Mapping[str, Any]
    title: str
    do: Callable[[], Mapping[str, Any]]
    promise: str | None = None


class Maker:
    """Makes clones, one call each.

    Args:
        journal: where everything is written down.
        host: the libvirt host.
        methods: the ways to copy a volume, by name.
        ledger: writes the end of what is complete.
        copies: how many volumes are filled at once, of all clones together.
        users: tells the names of the guests that run and may write to a volume, but the one of a UUID.
    """

    def __init__(
        self,
        journal: Journal,
        host: Host,
        methods: Mapping[str, Method],
        ledger: Ledger,
        copies: int,
        users: Callable[[VolumeInfo, str], Collection[str]],
    ) -> None:
        self._journal = journal
        self._host = host
        self._methods = methods
        self._ledger = ledger
        self._copies = threading.BoundedSemaphore(copies)
        self._users = users

    def make(self, job: Job, plan: Plan) -> None:
        """Takes every step of the plan, and ends the task. Raises what kept it from that; nothing is undone here."""
        if any(self._methods[copy.method].is_long for copy in plan.copies):
            self._check_unchanged(plan.copies)  # what is quick is looked at when it is made, in any case
        warning = None
        numbers = itertools.count(1)
        sources = self._copy_side_by_side(job, plan.copies, numbers)
        if isinstance(plan, DomainPlan):
            if plan.nvram is not None:
                made = self._take(job, next(numbers), _copy_nvram(*plan.nvram, is_stamped=plan.is_stamped))
                job.made |= {plan.nvram[1]: made} if made else {}
            if plan.tpm is not None:
                self._take(job, next(numbers), _copy_tpm(*plan.tpm))
            self._take(job, next(numbers), self._define(job, plan, sources))
            warning = self._start(job, next(numbers), plan) if plan.wishes.start else None
        else:
            self._check_unchanged(plan.copies)
            _check_there(job)
            # From here on it is complete, whatever happens; a domain shows that by being there.
            self._journal.mark(job.task, job.take_marks())
        self._ledger.complete(job.task, job.steps, job.done(), warning)

    def _copy_side_by_side(
        self, job: Job, copies: Sequence[Copy], numbers: Iterator[int]
    ) -> dict[str, domainxml.NewSource]:
        """Makes the volumes of a clone side by side; the first failure ends them all."""
        if len(copies) <= 1:
            return {copy.item: self._copy(job, copy, next(numbers), next(numbers)) for copy in copies}
        futures = {
            copy.item: _begun(partial(self._copy_or_stop, job, copy, next(numbers), next(numbers)), f"task-{job.task}")
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
        known = names | {"parents": list(copy.depends_on), "stamped": copy.is_stamped}
        known |= {"empty_bytes": qcow2.empty_bytes(copy.source.capacity, copy.source.cluster_size)}

        def reserve_it() -> Mapping[str, Any]:
            return method.reserve(copy, job, partial(self._note, job, first))

        def reserve_and_fill() -> Mapping[str, Any]:
            made = reserve_it()
            try:
                method.fill(copy, made, job)
            except BaseException:  # its pool may be gone by the time that it is undone
                job.mark(Mark(first, BEGUN, made))
                raise
            return made

        title = plain(f"Copying {copy.source.name} to {copy.name}")
        with self._turn(job) if method.is_long else nullcontext():
            if copy.is_stamped and not method.is_long:  # known as ours by its name alone, whatever is in it
                args = known | {"filled": True}
                made = self._take(job, first, Action(VOLUME, args, title, reserve_and_fill, copy.name))
            else:
                made = self._take(job, first, Action(VOLUME, known, plain(f"Making {copy.name}"), reserve_it))
                self._take(job, second, Action(FILL, names, title, lambda: _fill(method, copy, made, job), copy.name))
        job.made |= {made["path"]: made["file"]} if made["file"] else {}
        return domainxml.NewSource(made["type"], made["path"], copy.pool, copy.name, copy.format)

    def _note(self, job: Job, number: int, result: Mapping[str, Any]) -> None:
        """Writes what a step is making as soon as that is known: a server that dies in it is followed by another."""
        with suppress(errors.ClonerError):
            self._journal.mark(job.task, [Mark(number, BEGUN, result)])

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
        marks = job.take_marks()
        try:
            step = self._journal.begin(job.task, number, action.kind, action.args, action.title, marks)
        except errors.ClonerError:
            job.put_back(marks)
            raise
        job.steps.append(step)
        try:
            result = action.do()
        except (errors.VolumeInTheWay, errors.NameTaken, NotMade) as error:
            job.not_ours.add(step.number)  # what is there, if anything, is somebody else's
            job.mark(Mark(step.number, UNDONE))
            with suppress(errors.ClonerError):  # now, since a server that dies cannot tell; else with the task's end
                self._journal.mark(job.task, [Mark(step.number, UNDONE)])
            raise errors.CloneFailed(step=action.title, cause=errors.cause_of(error)) from error
        except (errors.CloneCancelled, errors.ServerStopped, errors.CloneFailed):
            raise
        except (errors.SourceStarted, errors.SourceChanged):
            raise
        except errors.ClonerError as error:
            raise errors.CloneFailed(step=action.title, cause=errors.cause_of(error)) from error
        job.mark(Mark(step.number, DONE, result, action.promise))
        return result

    def _check_unchanged(self, copies: Sequence[Copy], *, but: str = "") -> None:
        """Raises SourceStarted if a guest, or any QEMU, runs on a source, SourceChanged if it was written to since.

        One that could be seen then and cannot be now may have been: CloneFailed, with the cause. `but` is the UUID of a
        guest that is known not to run.
        """
        for copy in copies:
            if self._has_users(copy, but) or self._has_writer(copy):
                raise errors.SourceStarted
            for path, written in copy.written.items():
                try:
                    now = files.examine(path)
                except OSError as error:
                    step = plain(f"Checking that {os.path.basename(path)} is unchanged")
                    raise errors.CloneFailed(step=step, cause=error) from error
                if now.has_writer:
                    raise errors.SourceStarted
                if now.written != written:
                    raise errors.SourceChanged(name=os.path.basename(path))

    def _has_writer(self, copy: Copy) -> bool:
        """Whether a QEMU may write to a block device that is read; of files their facts tell that."""
        devices = [volume.path for volume in copy.reads if volume.type == "block"] if self._host.is_local else []
        return any(map(locks.is_written, devices))

    def _has_users(self, copy: Copy, but: str) -> bool:
        try:
            return any(self._users(volume, but) for volume in copy.reads)
        except errors.ClonerError as error:
            step = plain(f"Checking that no guest writes to {copy.source.name}")
            raise errors.CloneFailed(step=step, cause=errors.cause_of(error)) from error

    def _start(self, job: Job, number: int, plan: DomainPlan) -> str | None:
        """Starts the clone; why it does not start, if so: it is whole all the same, and kept."""
        uuid = plan.identity.uuid

        def start() -> Mapping[str, Any]:
            until = time.monotonic() + _START_S
            with ExitStack() as stack:

                def is_wanted() -> bool:
                    nonlocal until
                    if time.monotonic() > until:  # which waits for another program, and maybe for long
                        until = math.inf
                        stack.enter_context(job.stood_in())
                    return not job.is_cancelled

                self._host.start(uuid, is_wanted)
            return {}

        args = {"uuid": uuid, "name": plan.identity.name}
        try:
            self._take(job, number, Action(START, args, plain(f"Starting {plan.identity.name}"), start))
        except errors.CloneFailed as error:
            if job.is_cancelled:  # which the journal may not have been told yet
                raise errors.CloneCancelled from error
            return errors.NotStarted(cause=error.data["cause"]).reason
        return None

    def _define(self, job: Job, plan: DomainPlan, sources: Mapping[str, domainxml.NewSource]) -> Action:
        def define() -> Mapping[str, Any]:
            try:
                name, runs = self._host.domain_runs(plan.source_uuid)
            except errors.DomainNotFound as error:
                raise errors.StepFailed(cause=f"somebody has undefined {plan.source} meanwhile") from error
            if runs:
                raise errors.SourceStarted
            if name != plan.source:
                raise errors.StepFailed(cause=f"{plan.source} is called {name} by now; repeat")
            self._check_unchanged(plan.copies, but=plan.source_uuid)
            _check_there(job)
            xml = domainxml.clone(
                plan.xml,
                plan.identity,
                sources,
                plan.nvram[1] if plan.nvram and plan.nvram_in_xml else None,
                domainxml.Texts(plan.wishes.title, plan.wishes.description),
                drop_hostdevs=plan.wishes.drop_hostdevs,
            )
            # Where what it booted from is left out, libvirt chooses.
            self._host.define(plan.identity.name, plan.identity.uuid, xml, is_whole=not plan.wishes.drop_hostdevs)
            return {}

        args = {"uuid": plan.identity.uuid, "name": plan.identity.name, "start": plan.wishes.start}
        args["files"] = _made_by_start(plan)
        return Action(DOMAIN, args, plain(f"Defining {plan.identity.name}"), define)


def _check_there(job: Job) -> None:
    """Raises CloneFailed for what somebody has removed or replaced meanwhile: another disk may have taken hours."""
    for path, known in job.made.items():
        is_there = files.may_be_there(path)
        if not (is_there and files.may_be_still(path, known)):
            step = plain(f"Checking that {os.path.basename(path)} is there")
            what = "replaced" if is_there else "removed"
            raise errors.CloneFailed(step=step, cause=f"somebody has {what} it meanwhile")


def _begun(call: Callable[[], _Result], name: str) -> Future[_Result]:
    """What a call comes to, in a thread of its own.

    It is none of an executor, for which Python waits at its end: libvirt's copies cannot be stopped.
    """
    future: Future[_Result] = Future()
    here = context.current()

    def run() -> None:
        context.take(here)
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:  # there are too many; those that have begun have to be waited for
        future.set_exception(error)
    return future


def _made_by_start(plan: DomainPlan) -> list[str]:
    """Where libvirt and QEMU are going to make files when the clone starts: its variables, logs, and the like."""
    found = [*plan.paths, *([plan.nvram[1]] if plan.nvram else [])]
    return [path for path in found if os.path.isabs(path) and not files.may_be_there(path)]


def _copy_nvram(source: str, target: str, *, is_stamped: bool) -> Action:
    args = {"source": source, "target": target, "name": target, "stamped": is_stamped}
    return Action(
        NVRAM, args, plain(f"Copying the NVRAM to {os.path.basename(target)}"), lambda: files.copy_small(source, target)
    )


def _copy_tpm(source: str, target: str) -> Action:
    args = {"source": source, "target": target, "name": target}
    return Action(TPM, args, "Copying the TPM's state", lambda: files.copy_folder(source, target))


def _fill(method: Method, copy: Copy, made: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    method.fill(copy, made, job)
    return {}
