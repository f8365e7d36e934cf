"""Tasks as a client sees them."""

from __future__ import annotations

import pytest

from cloner.clock import wall_clock
from cloner.engine.records import FAILED, FINISHED, KILLED, RUNNING, Task
from cloner.model.tasks import resource

HOUR_US = 3600 * 1_000_000


def test_nothing_is_ready_before_now_though_the_clock_was_set_back() -> None:
    """The task is said to have begun in an hour; half of it is done."""
    plan = {"disks": [{"disk": "vda", "total": 100}]}
    task = Task(1, "domain", RUNNING, "", "vms/web", "", False, wall_clock() + HOUR_US, None, plan, {"vda": 50})
    shown = resource(task)
    assert (shown["progress"], shown["eta_seconds"]) == (50, 0.0)


@pytest.mark.parametrize(("status", "progress"), [(RUNNING, 99), (FINISHED, 100), (FAILED, 99), (KILLED, 99)])
def test_it_is_all_there_when_the_task_is_finished_and_not_with_the_last_byte(status: str, progress: int) -> None:
    """A guest is defined after that, and may not be."""
    plan = {"disks": [{"disk": "vda", "total": 100}, {"disk": "vdb", "total": 20}, {"disk": "sda", "action": "share"}]}
    ended = None if status == RUNNING else 2
    task = Task(1, "domain", status, "", "vms/web", "", False, 1, ended, plan, {"vda": 100, "vdb": 20})
    shown = resource(task)
    assert (shown["progress"], shown["bytes_done"], shown["bytes_total"]) == (progress, 120, 120)
    assert shown["may_cancel"] == (status == RUNNING)
