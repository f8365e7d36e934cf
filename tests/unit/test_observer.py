"""What becomes of clones is told once each, with what it was about; on libvirt's test driver and a real journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cloner import errors
from cloner.callers import ANYBODY
from cloner.engine.copying import ThroughLibvirt
from cloner.engine.executor import Load
from cloner.engine.job import Job
from cloner.engine.observer import Observer
from cloner.engine.plan import Copy
from cloner.model.accepting import Request
from cloner.model.services import Services
from cloner.model.storagevolumes import StorageVolumesModel
from cloner.model.vms import VMsModel
from support.running import wait_until
from support.services import connected

MOUNT = "/plugins/kimchi"
NOON = 4_000_000_000_000_000  # µs since 1970, later than any stamp before
IDLE = {"quick": Load(0, 0), "long": Load(0, 0)}


class Recorder(Observer):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.seconds: list[float] = []
        self.sizes: list[int] = []

    def started(self, kind: str, method: str) -> None:
        self.told.append(("started", kind, method))

    def ended(self, kind: str, method: str, status: str, seconds: float, size: int) -> None:
        self.told.append(("ended", kind, method, status))
        self.seconds.append(seconds)
        self.sizes.append(size)

    def recovered(self, status: str) -> None:
        self.told.append(("recovered", status))

    def name_skipped(self, kind: str) -> None:
        self.told.append(("skipped", kind))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def services(tmp_path: Path, recorder: Recorder) -> Iterator[Services]:
    with connected(tmp_path, recorder) as found:
        yield found


def clone(services: Services, source: str = "web", **params: str) -> int:
    return VMsModel(services).clone(source, Request(params, MOUNT, ANYBODY)).tasks[0].id


def clone_volume(services: Services, **params: str) -> int:
    return StorageVolumesModel(services).clone("default", "web.qcow2", Request(params, MOUNT, ANYBODY)).tasks[0].id


def name_of(services: Services, task: int) -> str:
    """What the clone of a task is called."""
    found = services.journal.task(task)
    assert found is not None
    return str(found.plan["name"])


def filling(act: Callable[[Copy], object]) -> Any:
    """Does something where a volume is filled."""

    def fill(_method: ThroughLibvirt, copy: Copy, _made: Mapping[str, Any], job: Job) -> None:
        act(copy)
        job.progress(copy.item)(copy.total)

    return mock.patch.object(ThroughLibvirt, "fill", fill)


# --- Clones ----------------------------------------------------------------------------------------------------------


def test_a_clone_is_told_of_when_it_is_accepted_and_when_it_has_ended(services: Services, recorder: Recorder) -> None:
    clone(services)
    assert recorder.told == [("started", "domain", "libvirt")]
    services.executor.start()
    wait_until(lambda: len(recorder.told) == 2, 20, "it ends")
    assert recorder.told[1] == ("ended", "domain", "libvirt", "finished")
    assert recorder.seconds[0] > 0
    assert recorder.sizes == [sum(disk.get("total", 0) for disk in services.journal.tasks()[0].plan["disks"])]


def test_a_clone_that_fails_is_told_of(services: Services, recorder: Recorder) -> None:
    def fail(_: Copy) -> None:
        raise errors.StepFailed(cause="the disk is bad")

    clone_volume(services)
    with filling(fail):
        services.executor.start()
        wait_until(lambda: len(recorder.told) == 2, 20, "it ends")
    assert recorder.told == [("started", "volume", "libvirt"), ("ended", "volume", "libvirt", "failed")]


def test_a_clone_that_is_cancelled_before_it_began_is_told_of(services: Services, recorder: Recorder) -> None:
    services.executor.cancel(clone(services))
    assert recorder.told == [("started", "domain", "libvirt"), ("ended", "domain", "libvirt", "killed")]


def test_a_clone_that_is_cancelled_while_it_is_made_is_told_of_once(services: Services, recorder: Recorder) -> None:
    task = clone(services)
    with filling(lambda _: services.executor.cancel(task)):
        services.executor.start()
        wait_until(lambda: len(recorder.told) == 2, 20, "it ends")
    assert recorder.told == [("started", "domain", "libvirt"), ("ended", "domain", "libvirt", "killed")]


def test_a_clone_that_waits_when_the_server_stops_is_told_of(services: Services, recorder: Recorder) -> None:
    clone(services)
    services.executor.stop(10)
    assert recorder.told == [("started", "domain", "libvirt"), ("ended", "domain", "libvirt", "failed")]


def test_a_refused_clone_is_not_told_of(services: Services, recorder: Recorder) -> None:
    with pytest.raises(errors.DomainNotShutOff):
        clone(services, "mail")
    assert recorder.told == []


def test_a_clone_of_a_dead_server_is_told_of_when_it_is_taken_over(services: Services, recorder: Recorder) -> None:
    with services.journal.transaction() as transaction:
        transaction.add_task(transaction.new_task_id(), "domain", "/x", "a dead server", {})
    services.ledger.recover()
    assert recorder.told == [("recovered", "failed")]


# --- Names -----------------------------------------------------------------------------------------------------------


def test_a_name_that_somebody_else_took_is_told_of(services: Services, recorder: Recorder) -> None:
    clone(services, "db", name=f"web-clone-{NOON}")
    clone_volume(services, name=f"web-clone-{NOON + 2}.qcow2")
    recorder.told.clear()
    with mock.patch.object(services.journal, "clock", return_value=NOON):
        tasks = [clone(services), clone_volume(services)]
    assert [name_of(services, task) for task in tasks] == [f"web-clone-{NOON + 1}", f"web-clone-{NOON + 3}.qcow2"]
    assert recorder.told == [
        ("skipped", "domain"),
        ("started", "domain", "libvirt"),
        ("skipped", "volume"),
        ("started", "volume", "libvirt"),
    ]


def test_a_name_that_was_asked_for_and_is_taken_is_not_skipped(services: Services, recorder: Recorder) -> None:
    with pytest.raises(errors.NameTaken):
        clone(services, name="mail")
    with pytest.raises(errors.NameTaken):
        clone_volume(services, name="mail.qcow2")
    assert recorder.told == []


# --- The queue -------------------------------------------------------------------------------------------------------


def test_what_waits_and_what_runs_is_known_by_lane(services: Services) -> None:
    assert services.executor.load() == IDLE
    tasks = [clone(services), clone(services)]
    clone(services, "db", method="linked")
    assert services.executor.load() == {"quick": Load(1, 0), "long": Load(2, 0)}
    seen: list[Mapping[str, Load]] = []
    services.executor.cancel(tasks[1])
    with filling(lambda _: seen.append(services.executor.load())):
        services.executor.start()
        wait_until(lambda: services.executor.load() == IDLE, 20, "all has ended")
    assert seen[0]["long"] == Load(0, 1)


def test_what_cannot_be_undone_yet_is_counted(services: Services) -> None:
    def fail(_: Copy) -> None:
        raise errors.StepFailed(cause="the disk is bad")

    clone(services)
    busy = errors.Busy(what="the pool")
    with filling(fail), mock.patch.object(services.host, "delete_volume", side_effect=busy):
        services.executor.start()
        wait_until(lambda: services.executor.to_undo() == 1, 20, "it has to wait")
    wait_until(lambda: services.executor.to_undo() == 0, 20, "it is undone")


@pytest.mark.parametrize(("method", "word"), [("auto", "libvirt"), ("linked", "linked")])
def test_the_method_is_that_of_all_disks(services: Services, recorder: Recorder, method: str, word: str) -> None:
    clone(services, "db", method=method)
    assert recorder.told == [("started", "domain", word)]
