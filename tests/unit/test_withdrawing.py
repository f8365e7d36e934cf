"""Batches that are withdrawn: asked for again and again, and by an admin who is not their user."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock
from uuid import uuid4

import pytest

from cloner import errors
from cloner.callers import ANYBODY, Caller
from cloner.engine.lease import Lease
from cloner.engine.records import FINISHED, KILLED, Task
from cloner.hypervisor.infos import Definition
from cloner.model.accepting import Request
from cloner.model.batches import BatchesModel
from cloner.model.deleting import Deleting
from cloner.model.guests import disk_mark
from cloner.model.needs import Needs, RecentNeeds
from cloner.model.services import Services
from cloner.model.tasks import TasksModel
from cloner.model.vms import VMsModel
from cloner.server import commands
from cloner.settings import Settings, demo_uri
from support.running import wait_until
from support.services import connected


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with connected(tmp_path) as found:
        yield found


def accepted(services: Services) -> tuple[str, list[int]]:
    """A batch of two that nobody makes, and its tasks."""
    found = VMsModel(services).clone("web", Request({"count": 2}, "/p", ANYBODY))
    return str(found.batch), [task.id for task in found.tasks]


def withdrawals(batch: str) -> int:
    return sum(thread.name == f"batch-{batch}" for thread in threading.enumerate())


def test_who_asks_again_and_again_costs_one_thread_and_is_heard(services: Services) -> None:
    batch, tasks = accepted(services)
    model, asked, go_on = BatchesModel(services), [], threading.Event()
    undone: list[int] = []

    def tasks_of(found: list[int]) -> list[Task]:
        undone.extend(found)
        return []

    def cancel(task: int) -> bool:
        asked.append(task)
        return go_on.wait(60)

    with (
        mock.patch.object(services.executor, "cancel", side_effect=cancel),
        mock.patch.object(services.journal, "tasks_of", side_effect=tasks_of),
    ):
        try:
            for undo in (False, True, False, True) * 10:
                model.delete(batch, ANYBODY, undo=undo)
            assert withdrawals(batch) == 1
        finally:
            go_on.set()
        wait_until(lambda: withdrawals(batch) == 0, 30, "it ends")
    assert asked == tasks[::-1] * 2  # once more, since what could not be done then may be possible now
    assert undone
    model.delete(batch, ANYBODY, undo=False)
    wait_until(lambda: withdrawals(batch) == 0, 30, "it can be asked for after that")


def test_a_user_is_told_no_names_though_an_admin_withdraws(services: Services) -> None:
    """Why a clone could not be removed stands in its task, which is the user's."""
    batch, tasks = accepted(services)
    tellers: list[Caller] = []

    def refuse(_model: VMsModel, _uuid: str, caller: Caller, _needs: Needs) -> None:
        tellers.append(caller)
        raise errors.SourceInUse(name="x", act="deleted", cause="a test")

    for owner in ("ann", ANYBODY.name):
        found = [
            mock.Mock(id=task, status=FINISHED, owner=owner, server="", kind="domain", plan={"uuid": ""})
            for task in tasks
        ]
        with (
            mock.patch.object(services.journal, "tasks_of", return_value=found),
            mock.patch.object(VMsModel, "delete_made", refuse),
        ):
            BatchesModel(services).delete(batch, ANYBODY, undo=True)
            wait_until(lambda: withdrawals(batch) == 0, 30, "it ends")
    assert [caller.is_admin for caller in tellers] == [False, False, True, True]


def test_what_is_finished_of_a_batch_goes_though_another_of_it_cannot_be_ended_yet(services: Services) -> None:
    """It waits for a pool, say; the batch waited with it, for an hour."""
    batch, tasks = accepted(services)
    services.journal.end(tasks[0], FINISHED, "OK")
    with mock.patch.object(services.executor, "cancel"), mock.patch.object(VMsModel, "delete_made") as deleted:
        BatchesModel(services).delete(batch, ANYBODY, undo=True)
        wait_until(lambda: deleted.call_count == 1, 30, "the clone that is there is removed")
        assert withdrawals(batch) == 1
        services.journal.end(tasks[1], FINISHED, "OK")
        wait_until(lambda: withdrawals(batch) == 0, 30, "it ends")
        assert deleted.call_count == 2
    assert [task.status for task in services.journal.tasks_of(tasks)] == [KILLED, KILLED]


def test_a_clone_on_another_libvirt_is_not_said_to_be_removed(services: Services) -> None:
    """Here nothing of it is there: as if it were gone already."""
    other = Lease(services.lease._folder, "qemu:///system")
    other.release()
    plans = {"domain": {"uuid": str(uuid4())}, "volume": {"pool": "default", "name": "x"}}
    with services.journal.transaction() as transaction:
        batch = transaction.new_batch_id()
        tasks = [
            transaction.add_task(
                transaction.new_task_id(), kind, "", other.id, {"source": "web"} | plan, batch=batch
            ).id
            for kind, plan in plans.items()
        ]
    for task in tasks:
        services.journal.end(task, FINISHED, "OK")
    BatchesModel(services).delete(str(batch), ANYBODY, undo=True)
    wait_until(lambda: withdrawals(str(batch)) == 0, 30, "it ends")
    found = services.journal.batch(batch)
    assert [task.status for task in found] == [FINISHED, FINISHED]
    assert ["another libvirt" in str(task.warning) for task in found] == [True, True]


# --- What a deletion needs to know -----------------------------------------------------------------------------------


def test_a_batch_is_undone_with_one_look_at_the_host(services: Services) -> None:
    """Each look reads every domain: with one for each clone, a thousand clones took as long as a million reads."""
    batch, tasks = accepted(services)
    found = [
        mock.Mock(id=task, status=FINISHED, owner="", server="", kind="domain", plan={"uuid": ""}) for task in tasks
    ]
    with (
        mock.patch.object(services.journal, "tasks_of", return_value=found),
        mock.patch.object(services.host, "definitions", wraps=services.host.definitions) as looks,
        mock.patch.object(VMsModel, "delete_made", autospec=True) as deleted,
    ):
        BatchesModel(services).delete(batch, ANYBODY, undo=True)
        wait_until(lambda: withdrawals(batch) == 0, 30, "it ends")
    assert deleted.call_count == len(tasks)
    assert looks.call_count == 1


def test_a_look_at_the_host_lasts_for_two_seconds(services: Services) -> None:
    now = [0.0]
    needs = RecentNeeds(services, lambda: now[0])
    first = needs.get()
    now[0] = 1.9  # seconds
    assert needs.get() is first
    now[0] = 2.1
    assert needs.get() is not first


def test_a_user_of_whom_an_event_has_told_since_counts_too(services: Services) -> None:
    """Where the look at the host is older than that."""
    volume = services.host.volume("default", "web.qcow2")
    needs = mock.Mock(**{"users.return_value": [], "overlays.return_value": []})
    deleting, uuid = Deleting(services), services.host.domain("web").uuid
    wait_until(lambda: services.inventory.is_complete, 10, "the inventory is complete")
    assert [user.uuid for user in services.inventory.having(disk_mark(volume.path)) or ()] == [uuid]
    assert not deleting._is_needed(volume, uuid, needs)
    assert deleting._is_needed(volume, "of another", needs)


def test_a_look_at_the_host_that_takes_long_lasts_as_long(services: Services) -> None:
    now = [0.0]

    def slow() -> list[Definition]:
        now[0] += 9
        return []

    with mock.patch.object(services.host, "definitions", side_effect=slow) as looks:
        needs = RecentNeeds(services, lambda: now[0])
        needs.get()
        now[0] += 8.9
        needs.get()
        assert looks.call_count == 1
        now[0] += 0.2
        needs.get()
        assert looks.call_count == 2


def finished(services: Services) -> tuple[str, list[int]]:
    """A batch of two whose tasks are finished."""
    with mock.patch.object(services.executor, "submit"):
        batch, tasks = accepted(services)
    for task in tasks:
        services.journal.end(task, FINISHED, "OK")
    return batch, tasks


def test_a_batch_that_was_being_undone_when_its_server_died_is_undone_by_the_next(
    services: Services, tmp_path: Path
) -> None:
    batch, tasks = finished(services)
    with mock.patch.object(BatchesModel, "_withdraw"):  # it dies before it has begun
        BatchesModel(services).delete(batch, ANYBODY, undo=True)
    with connected(tmp_path) as heir, mock.patch.object(VMsModel, "delete_made") as deleted:
        BatchesModel(heir).sweep()
        assert withdrawals(batch) == 0, "as long as its server lives"
        services.lease.release()
        BatchesModel(heir).sweep()
        wait_until(lambda: heir.journal.removals.withdrawals() == {}, 30, "it is undone")
        assert deleted.call_count == 2
        assert [task.status for task in heir.journal.tasks_of(tasks)] == [KILLED, KILLED]


def test_recovery_by_hand_tells_of_a_batch_that_is_still_to_be_undone(
    services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch, _ = finished(services)
    with mock.patch.object(BatchesModel, "_withdraw"):  # its server dies before it has begun
        BatchesModel(services).delete(batch, ANYBODY, undo=True)
    services.lease.release()
    commands.recover(Settings(connect=demo_uri(), state_dir=str(tmp_path)), dry_run=False)
    said = f"batch {batch}, whose undoing was interrupted: the next server goes on with that\n"
    assert capsys.readouterr().out == said


def test_a_batch_whose_libvirt_is_away_is_undone_when_that_is_back(services: Services) -> None:
    batch, tasks = finished(services)
    away = errors.LibvirtUnavailable(uri="x", cause="a test")
    with mock.patch.object(VMsModel, "delete_made", side_effect=away):
        BatchesModel(services).delete(batch, ANYBODY, undo=True)
        wait_until(lambda: withdrawals(batch) == 0, 30, "it breaks off")
    kept = services.journal.tasks_of(tasks)
    assert [(task.status, task.warning) for task in kept] == [(FINISHED, None), (FINISHED, None)]
    with mock.patch.object(VMsModel, "delete_made"):
        BatchesModel(services).sweep()
        wait_until(lambda: services.journal.removals.withdrawals() == {}, 30, "it is undone")
    assert [task.status for task in services.journal.tasks_of(tasks)] == [KILLED, KILLED]


def test_what_is_still_to_be_undone_does_not_leave_the_list(services: Services) -> None:
    """Because it is old, as after a night in which libvirt or the server was away, or since somebody tidies up."""
    batch, tasks = finished(services)
    away = errors.LibvirtUnavailable(uri="x", cause="a test")
    with mock.patch.object(VMsModel, "delete_made", side_effect=away):
        BatchesModel(services).delete(batch, ANYBODY, undo=True)
        wait_until(lambda: withdrawals(batch) == 0, 30, "it breaks off")
    tomorrow = services.journal.clock() + 24 * 3_600_000_000
    assert services.journal.age_out(tomorrow, tomorrow) == 0
    kept = TasksModel(services).delete(str(tasks[0]), ANYBODY)
    assert kept is not None
    assert "being removed with its batch" in kept["explanation"]
    with mock.patch.object(VMsModel, "delete_made") as deleted:
        BatchesModel(services).sweep()
        wait_until(lambda: services.journal.removals.withdrawals() == {}, 30, "it is undone")
    assert deleted.call_count == 2
    assert TasksModel(services).delete(str(tasks[0]), ANYBODY) is None
    assert services.journal.age_out(tomorrow, tomorrow) == 1


def test_a_batch_that_is_undone_is_begun_once(services: Services) -> None:
    """The server looks each minute for what nobody undoes."""
    batch, _ = finished(services)
    begun, go_on = threading.Event(), threading.Event()

    def delete(*_args: object) -> None:
        begun.set()
        go_on.wait(60)

    with mock.patch.object(VMsModel, "delete_made", side_effect=delete) as deleted:
        try:
            BatchesModel(services).delete(batch, ANYBODY, undo=True)
            assert begun.wait(30)
            BatchesModel(services).sweep()
            assert withdrawals(batch) == 1
        finally:
            go_on.set()
        wait_until(lambda: withdrawals(batch) == 0, 30, "it ends")
        assert deleted.call_count == 2


def test_a_batch_for_which_there_was_no_thread_is_undone_all_the_same(services: Services) -> None:
    batch, tasks = finished(services)
    model = BatchesModel(services)
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
        for undo in (False, True):
            with pytest.raises(errors.Busy):
                model.delete(batch, ANYBODY, undo=undo)
        with pytest.raises(errors.Busy):
            model.sweep()
    with mock.patch.object(VMsModel, "delete_made"):
        model.sweep()
        wait_until(lambda: services.journal.removals.withdrawals() == {}, 30, "it is undone")
    assert [task.status for task in services.journal.tasks_of(tasks)] == [KILLED, KILLED]


def test_a_task_whose_batch_is_undone_from_this_moment_on_stays_in_the_list(services: Services) -> None:
    batch, tasks = finished(services)
    with (
        mock.patch.object(BatchesModel, "_withdraw"),
        mock.patch.object(services.journal.removals, "withdrawals", dict),
    ):
        BatchesModel(services).delete(batch, ANYBODY, undo=True)  # just after it was looked for
        assert TasksModel(services).delete(str(tasks[0]), ANYBODY) is not None
    assert [task.id for task in services.journal.tasks_of(tasks)] == tasks
