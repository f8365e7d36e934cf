"""Limits per user: decided where the clone is accepted, so that no two requests pass together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cloner import errors
from cloner.callers import ADMIN, ANYBODY, CLONE, USER, Caller
from cloner.engine.records import FAILED, Mark, Task
from cloner.model.accepting import Request
from cloner.model.services import Services
from cloner.model.vms import VMsModel
from cloner.plugin import build
from cloner.settings import Settings
from support import people
from support.answers import at_once

NOBODY = Caller(people.USER, frozenset({people.GROUP}), USER, CLONE)
ANN = Caller(people.STRANGER, frozenset(), USER, CLONE)
PROGRAM = Caller("token:ci", role=ADMIN, scope=CLONE)

Start = Callable[..., Services]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Servers on one journal: `start(max_running_per_user=2)`. No worker runs, so what is accepted is not done."""
    uri = people.inventory(tmp_path)
    with ExitStack() as closing:

        def begin(**limits: Any) -> Services:
            services = build(Settings(connect=uri, state_dir=str(tmp_path / "state"), **limits))
            services.connections.start()
            closing.callback(services.connections.stop)
            closing.callback(services.journal.close)
            closing.callback(services.lease.release)
            return services

        yield begin


def clone(services: Services, caller: Caller, guest: str = "web") -> Task:
    return VMsModel(services).clone(guest, Request({}, "/p", caller)).tasks[0]


def bytes_of(task: Task) -> int:
    return sum(disk.get("bytes", 0) for disk in task.plan["disks"])


def test_without_limits_there_is_none(start: Start) -> None:
    services = start()
    assert len({clone(services, NOBODY).id for _ in range(20)}) == 20


def test_a_user_may_have_so_many_clones_in_the_making(start: Start) -> None:
    services = start(max_running_per_user=3)
    tasks = [clone(services, NOBODY) for _ in range(3)]
    with pytest.raises(errors.TooManyRunning, match=r"CLNLIMIT0001E: 3 clones of yours .* 3 may be") as refused:
        clone(services, NOBODY)
    assert (refused.value.status, refused.value.retry_after) == (429, 5)
    services.journal.end(tasks[0].id, FAILED, "it failed")
    clone(services, NOBODY)


def test_each_user_is_counted_apart_and_admins_are_not(start: Start) -> None:
    services = start(max_running_per_user=1, max_bytes_per_user=1)
    for admin in (ANYBODY, PROGRAM):
        for _ in range(3):
            clone(services, admin)
    more = start(max_running_per_user=1)
    for user, guest in ((NOBODY, "web"), (ANN, "win-uefi")):
        clone(more, user, guest)
        with pytest.raises(errors.TooManyRunning):
            clone(more, user, guest)


def test_of_many_at_once_on_two_servers_no_more_pass_than_may(start: Start) -> None:
    servers = [start(max_running_per_user=3) for _ in range(2)]

    def passes(number: int) -> bool:
        try:
            clone(servers[number % 2], NOBODY)
        except errors.TooManyRunning:
            return False
        return True

    assert sum(at_once(16, passes)) == 3
    assert servers[0].journal.tasks(owner=NOBODY.name) == servers[1].journal.tasks(owner=NOBODY.name)
    assert len(servers[0].journal.tasks()) == 3


def test_a_user_may_have_so_many_bytes_in_the_making(start: Start) -> None:
    size = bytes_of(clone(start(), ANN, "win-uefi"))
    services = start(max_bytes_per_user=3 * size)  # of which one is taken
    for _ in range(2):
        clone(services, ANN, "win-uefi")
    with pytest.raises(errors.TooManyBytes, match=f"CLNLIMIT0002E: This clone takes {size} bytes") as refused:
        clone(services, ANN, "win-uefi")
    assert (refused.value.status, refused.value.retry_after) == (507, 10)
    assert f"still writing {3 * size} of the {3 * size}" in refused.value.reason
    services.journal.end(services.journal.tasks()[0].id, FAILED, "it failed")
    clone(services, ANN, "win-uefi")


def test_bytes_that_are_written_do_not_count_any_more(start: Start) -> None:
    first = clone(start(), ANN, "win-uefi")
    services = start(max_bytes_per_user=bytes_of(first))
    with pytest.raises(errors.TooManyBytes):
        clone(services, ANN, "win-uefi")
    target = first.plan["disks"][0]["target"]
    step = services.journal.begin(first.id, 1, "fill", {}, "Copying")
    services.journal.mark(first.id, [Mark(step.number, "done", kept=target["name"])])
    clone(services, ANN, "win-uefi")


def test_one_that_is_too_large_by_itself_need_not_come_back(start: Start) -> None:
    services = start(max_bytes_per_user=1000)
    with pytest.raises(errors.TooManyBytes) as refused:
        clone(services, NOBODY)
    assert refused.value.retry_after is None


def test_what_is_refused_leaves_nothing(start: Start) -> None:
    services = start(max_running_per_user=1)
    clone(services, NOBODY)
    before = services.journal.reserved()
    with pytest.raises(errors.TooManyRunning):
        clone(services, NOBODY)
    assert services.journal.reserved() == before
    with services.journal.transaction() as transaction:
        assert transaction.usage(NOBODY.name)[0] == 1
