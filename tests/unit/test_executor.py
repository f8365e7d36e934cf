"""What ends a clone while it is made, and what is told of it; on libvirt's test driver and a real journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cloner import errors
from cloner.callers import ANYBODY
from cloner.engine.copying import ThroughLibvirt
from cloner.engine.job import Job
from cloner.engine.ledger import FILL, VOLUME, Ending
from cloner.engine.plan import Copy, VolumePlan
from cloner.engine.records import DONE, FAILED, RUNNING, Mark, Task
from cloner.model.accepting import Request
from cloner.model.services import Services
from cloner.model.storagevolumes import StorageVolumesModel
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


# --- How it ends -----------------------------------------------------------------------------------------------------


def test_a_volume_whose_source_was_changed_is_not_finished_by_the_next_server(services: Services) -> None:
    """The server dies when it has written down how the steps went, and before it has undone the first of them."""
    with mock.patch.object(services.executor, "submit"):
        task = clone_volume(services)
    for number, kind in enumerate((VOLUME, FILL), 1):
        args = {"pool": "default", "name": "new.img", "parents": [], "stamped": True}
        services.journal.begin(task, number, kind, args, "")
    marks = (Mark(1, DONE, {"path": "/new.img", "file": {}}), Mark(2, DONE, {}, "new.img"))
    ending = Ending(task, FAILED, errors.SourceChanged(name="web.qcow2"), marks=marks)
    died = errors.Busy(what="a test")
    with mock.patch.object(services.ledger, "_undo", side_effect=died), pytest.raises(errors.Busy):
        services.ledger.fail(ending)
    assert services.journal.adopt(task, services.lease.id, "a dead server")
    services.ledger.recover()
    assert ended(services, task).status == FAILED
