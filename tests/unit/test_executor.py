"""What ends a clone while it is made, and what is told of it; on libvirt's test driver and a real journal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cloner import errors
from cloner.callers import ANYBODY
from cloner.engine import files
from cloner.engine.copying import ThroughLibvirt
from cloner.engine.executor import Bounds
from cloner.engine.job import Job
from cloner.engine.lease import Lease
from cloner.engine.ledger import Ending
from cloner.engine.plan import Copy, VolumePlan
from cloner.engine.postponed import Postponed
from cloner.engine.records import DONE, FAILED, FILL, FINISHED, KILLED, RUNNING, VOLUME, Mark, Task
from cloner.hypervisor.infos import VolumeInfo
from cloner.model.accepting import Request
from cloner.model.services import Services
from cloner.model.storagevolumes import StorageVolumesModel
from cloner.model.tasks import TasksModel
from cloner.model.vms import VMsModel
from cloner.server import commands
from cloner.settings import Settings, demo_uri
from support.running import wait_until
from support.services import connected

MOUNT = "/plugins/kimchi"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with connected(tmp_path) as found:
        yield found


def clone_volume(services: Services) -> int:
    return StorageVolumesModel(services).clone("default", "web.qcow2", Request({}, MOUNT, ANYBODY)).tasks[0].id


def ended(services: Services, task: int) -> Task:
    """The task as it is when it has ended."""

    def has_ended() -> bool:
        found = services.journal.task(task)
        return found is not None and found.status != RUNNING

    wait_until(has_ended, 20, "it ends")
    found = services.journal.task(task)
    assert found is not None
    return found


def filling(act: Callable[[Copy, Job], object]) -> Any:
    """Does something where a volume is filled."""

    def fill(_method: ThroughLibvirt, copy: Copy, _made: Mapping[str, Any], job: Job) -> None:
        act(copy, job)
        job.check()

    return mock.patch.object(ThroughLibvirt, "fill", fill)


# --- What is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/base", "default/base"])
def test_a_guest_that_writes_to_a_backing_file_whose_content_is_copied_ends_the_clone(
    services: Services, place: str
) -> None:
    with mock.patch.object(services.executor, "submit") as submitted:
        task = clone_volume(services)
    copy = submitted.call_args.args[1].copy
    services.executor.submit(task, VolumePlan(replace(copy, below=(replace(copy.source, name="base", path="/base"),))))
    with filling(lambda *_: services.executor.images_written({place})):
        services.executor.start()
        found = ended(services, task)
    assert (found.status, found.message[:12]) == ("failed", "CLNTASK0006E")


def test_a_backing_file_whose_content_is_copied_must_have_no_user(services: Services) -> None:
    asked = []
    with mock.patch.object(services.executor, "submit") as submitted:
        clone_volume(services)
    copy = submitted.call_args.args[1].copy
    base = replace(copy.source, name="base", path="/base")
    maker = services.executor._maker
    with mock.patch.object(maker, "_users", side_effect=lambda volume, _: asked.append(volume)):
        maker._check_unchanged([replace(copy, below=(base,))])
    assert asked == [copy.source, base]


@pytest.mark.parametrize("is_local", [True, False])
def test_a_block_device_that_a_qemu_writes_to_ends_the_clone(services: Services, is_local: bool) -> None:
    """Its time of writing tells nothing, so the locks alone do, where the server sees them."""
    with mock.patch.object(services.executor, "submit") as submitted:
        clone_volume(services)
    copy = submitted.call_args.args[1].copy
    base = replace(copy.source, name="base", path="/dev/base", type="block")
    looked = []

    def is_written(path: str) -> bool:
        looked.append(path)
        return True

    with (
        mock.patch.object(type(services.host), "is_local", is_local),
        mock.patch("cloner.engine.locks.is_written", is_written),
        pytest.raises(errors.SourceStarted) if is_local else nullcontext(),
    ):
        services.executor._maker._check_unchanged([replace(copy, below=(base,))])
    assert looked == (["/dev/base"] if is_local else [])


# --- How many at once ------------------------------------------------------------------------------------------------


def test_disks_are_copied_side_by_side_and_of_all_guests_together_no_more_than_four(services: Services) -> None:
    """Each has a worker and a thread for each of its disks."""
    running: list[str] = []
    seen: list[int] = []

    def count(copy: Copy, job: Job) -> None:
        running.append(copy.name)
        seen.append(len(running))
        job.wait(0.2)
        running.remove(copy.name)

    with filling(count):
        services.executor.start()
        tasks = [VMsModel(services).clone("db", Request({}, MOUNT, ANYBODY)).tasks[0] for _ in range(4)]
        assert {ended(services, task.id).status for task in tasks} == {FINISHED}
    assert len(seen) == 2 * len(tasks)
    assert 1 < max(seen) <= Bounds().copies


# --- How far it is ---------------------------------------------------------------------------------------------------


def test_what_is_being_made_is_reported_also_after_nothing_was(services: Services) -> None:
    """And another server is heard that was asked to cancel it. While nothing is made, nobody wakes for that."""
    executor = services.executor

    def some(copy: Copy, job: Job) -> None:
        job.progress(copy.item)(1)
        job.wait(20)

    with filling(some):
        executor.start()
        for _ in range(2):
            wait_until(lambda: not executor._has_work.is_set(), 20, "nothing is left to report")
            task = clone_volume(services)
            wait_until(lambda: (found := services.journal.task(task)) and found.done, 20, "it is reported")  # noqa: B023
            assert services.journal.cancel(task)
            assert ended(services, task).status == KILLED


def test_the_reporter_goes_on_after_what_nobody_thought_of(services: Services) -> None:
    report, has_failed = services.journal.report, threading.Event()

    def report_but_once(news: Mapping[int, Mapping[str, int]]) -> list[int]:
        if threading.current_thread().name == "reporter" and not has_failed.is_set():
            has_failed.set()
            raise OSError("a test")
        return report(news)

    with filling(lambda _, job: job.wait(20)), mock.patch.object(services.journal, "report", report_but_once):
        services.executor.start()
        task = clone_volume(services)
        assert has_failed.wait(20)
        assert services.journal.cancel(task)  # as another server does it
        assert ended(services, task).status == KILLED


def test_a_copy_by_libvirt_is_as_far_as_its_new_volume_is_large(services: Services) -> None:
    with mock.patch.object(services.executor, "submit") as submitted:
        task = clone_volume(services)
    copy = submitted.call_args.args[1].copy
    job, shown = Job(task, {copy.item: copy.total}), []

    def create_from(
        source: VolumeInfo, _pool: str, _name: str, _xml: str, see: Callable[[VolumeInfo], None]
    ) -> VolumeInfo:
        for allocation in (5, 7):
            see(replace(source, name=copy.name, allocation=allocation))
            shown.append(job.done())
        return source

    maker = mock.Mock(is_local=False, create_from=create_from)
    ThroughLibvirt(maker).reserve(copy, job, lambda _: None)
    assert shown == [{copy.item: 5}, {copy.item: 7}]


def seen(services: Services, task: int) -> int:
    return int(TasksModel(services).lookup(str(task), ANYBODY)["bytes_done"])


def test_what_is_shown_of_a_clone_that_fails_is_not_less_afterwards_though_the_journal_takes_nothing(
    services: Services,
) -> None:
    shown = []

    def some(copy: Copy, job: Job) -> None:
        job.progress(copy.item)(1000)
        shown.append(seen(services, job.task))
        raise errors.StepFailed(cause="a test")

    full = errors.JournalUnavailable(cause="its disk is full")
    with filling(some), mock.patch.object(services.journal, "report", side_effect=full):
        services.executor.start()
        task = clone_volume(services)
        assert ended(services, task).status == FAILED
    shown.append(seen(services, task))
    assert shown == sorted(shown)


def test_a_clone_that_fails_does_not_wait_for_the_reporter_and_how_far_it_was_stays_told(services: Services) -> None:
    """The reporter's transaction has to wait, and meanwhile the clone goes on, and fails."""
    report, is_seen, may_go_on, is_late = services.journal.report, *(threading.Event() for _ in range(3))

    def report_late(news: Mapping[int, Mapping[str, int]]) -> list[int]:
        if news:
            is_seen.set()
            assert may_go_on.wait(40)
        found = report(news)
        if news:
            is_late.set()
        return found

    def some(copy: Copy, job: Job) -> None:
        job.progress(copy.item)(1)
        assert is_seen.wait(20)
        job.progress(copy.item)(2)
        raise errors.StepFailed(cause="a test")

    with filling(some), mock.patch.object(services.journal, "report", report_late):
        services.executor.start()
        task = clone_volume(services)
        assert ended(services, task).status == FAILED
        assert seen(services, task) == 2
        may_go_on.set()
        assert is_late.wait(20)
        assert seen(services, task) == 2


# --- How it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filled", [True, False], ids=["made-and-filled", "made, then filled"])
def test_a_volume_whose_source_was_changed_is_not_finished_by_the_next_server(
    services: Services, *, filled: bool
) -> None:
    """The server dies when it has written down how the steps went, and before it has undone the first of them."""
    with mock.patch.object(services.executor, "submit"):
        task = clone_volume(services)
    marks = [Mark(1, DONE, {"path": "/new.img", "file": {}}), Mark(2, DONE, {}, "new.img")]
    for number, kind in enumerate((VOLUME,) if filled else (VOLUME, FILL), 1):
        args = {"pool": "default", "name": "new.img", "parents": [], "stamped": True, "filled": filled}
        services.journal.begin(task, number, kind, args, "")
    ending = Ending(task, FAILED, errors.SourceChanged(name="web.qcow2"), marks=tuple(marks[: 2 - filled]))
    died = errors.Busy(what="a test")
    with mock.patch.object(services.ledger._undoing, "undo", side_effect=died), pytest.raises(errors.Busy):
        services.ledger.fail(ending)
    assert services.journal.adopt(task, services.lease.id, "a dead server")
    services.ledger.recover()
    assert ended(services, task).status == FAILED


@pytest.mark.parametrize("is_there", [True, False])
def test_a_volume_that_was_complete_is_finished_by_the_next_server_where_it_is_there(
    services: Services, *, is_there: bool
) -> None:
    """Else its server had begun to undo it: the journal was away as it was to be finished, say."""
    with mock.patch.object(services.executor, "submit"):
        task = clone_volume(services)
    args: dict[str, Any] = {"pool": "default", "parents": [], "filled": True}
    args["name"] = "web.qcow2" if is_there else "new.img"
    services.journal.begin(task, 1, VOLUME, args, "")
    services.journal.mark(task, [Mark(1, DONE, {"path": "/new.img", "file": {}})])
    assert services.journal.adopt(task, services.lease.id, "a dead server")
    services.ledger.recover()
    assert ended(services, task).status == (FINISHED if is_there else FAILED)


def test_a_volume_that_was_complete_and_cannot_be_seen_for_a_while_is_finished_when_it_can(
    services: Services, tmp_path: Path
) -> None:
    folder, away = tmp_path / "folder", tmp_path / "away"
    folder.mkdir()
    path = folder / "new.img"
    path.touch()
    made = {"path": str(path), "file": files.identity(str(path))}
    with mock.patch.object(services.executor, "submit"):
        task = clone_volume(services)
    args = {"pool": "default", "parents": [], "filled": True, "name": "new.img"}
    services.journal.begin(task, 1, VOLUME, args, "")
    services.journal.mark(task, [Mark(1, DONE, made)])
    assert services.journal.adopt(task, services.lease.id, "a dead server")
    folder.rename(away)
    folder.symlink_to(folder)  # which root cannot follow either
    assert services.ledger.adopt_orphans() == []
    folder.unlink()
    away.rename(folder)
    assert services.ledger.adopt_orphans() == []
    assert ended(services, task).status == FINISHED


def test_a_clone_whose_pool_is_stopped_keeps_no_other_from_being_finished(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = []
    for _ in range(2):
        with mock.patch.object(services.executor, "submit"):
            tasks.append(clone_volume(services))
        assert services.journal.adopt(tasks[-1], services.lease.id, "a dead server")
    stopped = errors.PoolInactive(pool="default")
    with mock.patch.object(services.ledger, "_is_complete", side_effect=[stopped, False, stopped]):
        assert [ending.task for ending in services.ledger.adopt_orphans()] == tasks[1:]
        assert services.ledger.adopt_orphans() == []
    assert caplog.text.count("of a dead server waits") == 1
    assert [ending.task for ending in services.ledger.adopt_orphans()] == tasks[:1]


def test_what_cannot_be_undone_yet_says_why_and_is_tried_ever_more_seldom(
    services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    task = clone_volume(services)
    stopped = errors.PoolInactive(pool="default")
    recover = partial(commands.recover, Settings(connect=demo_uri(), state_dir=str(tmp_path)), dry_run=True)
    with filling(lambda *_: services.executor.cancel(task)), mock.patch.object(services.ledger, "fail") as fail:
        fail.side_effect = stopped
        services.executor.start()
        wait_until(lambda: fail.call_count == 2, 20, "it is tried again")
        now = services.journal.task(task)
        assert recover() == 0
    assert now is not None
    assert (now.status, now.message) == (RUNNING, errors.UndoneLater(cause=stopped.reason).reason)
    said = capsys.readouterr().out.splitlines()
    assert said == [f"task {task}, {now.target_uri}: {now.message}", "nothing is left to recover"]
    assert [record.message for record in caplog.records if "yet" in record.message] == [
        f"task {task}: what it made cannot be removed yet: {stopped}"
    ]
    assert ended(services, task).status == KILLED


def test_what_cannot_be_undone_yet_is_kept_in_mind_though_that_cannot_be_told(services: Services) -> None:
    """The worker ended of it, and nobody knew of its clone any more."""
    task = clone_volume(services)
    with (
        filling(lambda *_: services.executor.cancel(task)),
        mock.patch.object(services.ledger, "fail", side_effect=errors.Busy(what="a test")),
        mock.patch.object(services.ledger, "tell_wait", side_effect=KeyError) as tell,
    ):
        services.executor.start()
        wait_until(lambda: tell.call_count == 2, 20, "it is tried again")
    assert ended(services, task).status == KILLED


def test_waiting_gets_longer_for_what_waits_alone() -> None:
    now = 0.0
    waits: dict[bool, list[float]] = {}
    postponed = Postponed(1.0, lambda: now)
    for is_alone in (True, False):
        for tries in range(7):
            postponed.add(Ending(1, KILLED, errors.CloneCancelled()), tries, is_alone=is_alone)
            asked = now
            while not (due := postponed.take_due()):
                now += 1.0
            assert [item.tries for item in due] == [tries + 1]
            waits.setdefault(is_alone, []).append(now - asked)
    assert waits == {True: [1, 2, 4, 8, 16, 30, 30], False: [1] * 7}


def test_a_clone_that_cannot_be_undone_keeps_no_other_from_it(services: Services) -> None:
    with services.journal.transaction() as transaction:
        tasks = [
            transaction.add_task(transaction.new_task_id(), "volume", "", "a dead server", {}).id for _ in range(2)
        ]
    undone = mock.patch.object(services.ledger._undoing, "undo", side_effect=[errors.Busy(what="a test"), []])
    with undone, pytest.raises(errors.Busy):
        services.ledger.recover()
    statuses = [task.status for task in services.journal.tasks_of(tasks)]
    assert statuses == [RUNNING, FAILED]


def test_a_clone_of_a_dead_server_that_nobody_can_make_sense_of_is_kept_in_mind(services: Services) -> None:
    with services.journal.transaction() as transaction:
        task = transaction.add_task(transaction.new_task_id(), "volume", "", "a dead server", {}).id
    with mock.patch.object(services.ledger, "_is_complete", side_effect=KeyError):
        assert services.ledger.adopt_orphans() == []
    services.ledger.recover()
    assert ended(services, task).status == FAILED


def test_a_clone_that_libvirt_does_not_let_go_keeps_its_disks(services: Services) -> None:
    """Its QEMU cannot be ended, say: a guest without disks would be neither all nor nothing."""
    undefine, left = services.host.undefine, []

    def refuse_once(uuid: str, *, keep_nvram: bool) -> None:
        left.append([services.host.has_volume(services.host.pool("default"), name) for name in names])
        if len(left) == 1:
            raise errors.LibvirtFailed(act="undefine the domain", cause="it is refused")
        undefine(uuid, keep_nvram=keep_nvram)

    task = VMsModel(services).clone("web", Request({}, MOUNT, ANYBODY)).tasks[0]
    names = [disk["target"]["name"] for disk in task.plan["disks"] if disk["action"] == "clone"]
    failed = mock.patch.object(services.ledger, "complete", side_effect=errors.StepFailed(cause="a test"))
    with failed, mock.patch.object(services.host, "undefine", refuse_once):
        services.executor.start()
        assert ended(services, task.id).status == FAILED
    assert left == [[True]] * 2
    assert not services.host.has_domain(task.plan["name"])
    assert not services.host.has_volume(services.host.pool("default"), names[0])


def test_a_clone_on_another_libvirt_is_left_to_a_server_on_that(
    services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here nothing of it is there: as if all had been undone, but for its files, which both may see."""
    other = Lease(services.lease._folder, "qemu:///system")
    other.release()
    with services.journal.transaction() as transaction:
        task = transaction.add_task(transaction.new_task_id(), "domain", "", other.id, {}).id
    assert services.ledger.adopt_orphans() == []
    assert services.ledger.orphans() == []
    settings = Settings(connect=demo_uri(), state_dir=str(tmp_path))
    assert [commands.recover(settings, dry_run=is_dry) for is_dry in (True, False)] == [0, 0]
    assert capsys.readouterr().out.count("another libvirt") == 2
    (found,) = services.ledger.waiting()
    assert (found.id, found.server) == (task, other.id)
    assert "another libvirt" in found.message


def test_a_source_that_runs_when_its_clone_is_to_be_defined_was_started_though_no_event_told(
    services: Services,
) -> None:
    task = VMsModel(services).clone("web", Request({}, MOUNT, ANYBODY)).tasks[0]
    with mock.patch.object(services.host, "domain_runs", return_value=("web", True)):
        services.executor.start()
        found = ended(services, task.id)
    assert (found.status, found.message[:12]) == (FAILED, "CLNTASK0006E")


def test_a_source_that_was_renamed_meanwhile_is_not_said_to_have_been_started(services: Services) -> None:
    task = VMsModel(services).clone("web", Request({}, MOUNT, ANYBODY)).tasks[0]
    with mock.patch.object(services.host, "domain_runs", return_value=("other", False)):
        services.executor.start()
        found = ended(services, task.id)
    assert (found.status, found.message[:12]) == (FAILED, "CLNTASK0001E")
    assert "web is called other by now" in found.message


def test_a_source_that_was_undefined_meanwhile_is_called_by_its_name(services: Services) -> None:
    task = VMsModel(services).clone("web", Request({}, MOUNT, ANYBODY)).tasks[0]
    with services.connections.short_call() as connection:
        connection.lookupByName("web").undefine()
    services.executor.start()
    found = ended(services, task.id)
    assert (found.status, found.message[:12]) == (FAILED, "CLNTASK0001E")
    assert "has undefined web meanwhile" in found.message


def test_a_clone_that_was_cancelled_is_killed_whatever_fails_before_it_could_end(services: Services) -> None:
    """As when libvirt hangs in a call, and is gone in the end."""
    task = VMsModel(services).clone("web", Request({}, MOUNT, ANYBODY)).tasks[0]

    def hang(*_: object, **__: object) -> None:
        assert services.executor.cancel(task.id)
        raise errors.LibvirtUnavailable(uri="", cause="a test")

    with mock.patch.object(services.host, "define", hang):
        services.executor.start()
        found = ended(services, task.id)
    assert (found.status, found.message[:12]) == (KILLED, "CLNTASK0003E")
