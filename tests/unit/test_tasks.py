"""Tasks as a client sees them."""

from __future__ import annotations

from cloner.clock import wall_clock
from cloner.engine.records import RUNNING, Task
from cloner.model.tasks import resource

HOUR_US = 3600 * 1_000_000


def test_nothing_is_ready_before_now_though_the_clock_was_set_back() -> None:
    """The task is said to have begun in an hour; half of it is done."""
    plan = {"disks": [{"disk": "vda", "total": 100}]}
    task = Task(1, "domain", RUNNING, "", "vms/web", "", False, wall_clock() + HOUR_US, None, plan, {"vda": 50})
    shown = resource(task)
    assert (shown["progress"], shown["eta_seconds"]) == (50, 0.0)
