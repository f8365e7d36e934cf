"""All or nothing, also when the server or libvirtd is killed at random moments of clones of every method.

The moments are those that nobody thought of; test_crashes.py has those that somebody did. The server that recovers
from one crash is the one that is killed next.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from support.answers import refusal
from support.libvirtd import PrivateLibvirtd
from support.running import wait_until
from support.server import Response, Server
from support.storage import MiB, mounted, sha256
from support.trials import Case, journalled, uefi_guest

log = logging.getLogger(__name__)

ROUNDS = 25
"""In each of four tests: a hundred crashes."""

OF_THE_SERVER = 0.7
"""How many of the crashes are the server's; the others are libvirtd's."""

AFTERWARDS = 1.1
"""The last moment of a crash, with the time that a clone takes as 1: some come after its end."""

CODES = {"server": "CLNTASK0004E", "libvirtd": "CLNTASK0001E"}


@pytest.fixture(scope="module")
def cases(libvirtd: PrivateLibvirtd) -> Iterator[list[Case]]:
    """By reflink on XFS each second time, and in each other way on ext4."""
    with (
        mounted("xfs") as fast,
        mounted("ext4", 512 * MiB) as plain,
        uefi_guest(libvirtd, "fast", fast, MiB, 64 * MiB) as on_xfs,
        uefi_guest(libvirtd, "plain", plain, 24 * MiB, 64 * MiB) as on_ext4,
    ):
        yield [case for method in ("copy", "linked", "libvirt") for case in (on_xfs["reflink"], on_ext4[method])]


class Crashes:
    """Clones that are interrupted, one after the other, with one server and its heirs."""

    def __init__(self, libvirtd: PrivateLibvirtd, server: Server, chance: random.Random) -> None:
        self._libvirtd, self._server, self._chance = libvirtd, server, chance
        self.outcomes: Counter[str] = Counter()

    def ask(self, case: Case) -> Response | None:
        """Asks for a clone; None if the server dies before it has answered."""
        try:
            return self._server.request("POST", f"{case.path}/clone", {"method": case.method})
        except (OSError, HTTPException):
            return None

    def life(self, case: Case) -> float:
        """How long a clone of the case takes, in seconds, which is deleted again."""
        start = time.monotonic()
        answer = self.ask(case)
        assert answer is not None
        task = answer.json
        while task["status"] == "running":
            task = self._server.request("GET", f"tasks/{task['id']}").json
        seconds = time.monotonic() - start
        self._delete(task)
        return seconds

    def crash(self, case: Case, life: float) -> None:
        """Clones, kills at a random moment, brings up again what was killed, and looks at everything."""
        before = self._state(case)
        victim = "server" if self._chance.random() < OF_THE_SERVER else "libvirtd"
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(self.ask, case)
            time.sleep(self._chance.uniform(0, AFTERWARDS * life))
            (self._server if victim == "server" else self._libvirtd).kill()
            answer = asked.result()
        (self._server if victim == "server" else self._libvirtd).start()
        wait_until(lambda: self._reaches(case), 30, "the server reaches libvirtd", lambda: self._server.log)
        outcome = self._outcome(case, answer, victim, before)
        log.info("%s killed in a clone by %s: %s", victim, case.method, outcome)
        self.outcomes[f"{victim}: {outcome}"] += 1
        assert self._state(case) == before

    def _reaches(self, case: Case) -> bool:
        return self._server.request("GET", case.path).status == 200  # a list may come from the inventory

    def _outcome(self, case: Case, answer: Response | None, victim: str, before: tuple[Any, ...]) -> str:
        """Waits for the end of the task, if there is one, and deletes the clone, if there is one."""
        tasks = self._server.request("GET", "tasks").json
        if not tasks:
            assert answer is None or refusal(answer)[0] in (502, 503)
            return "never accepted"
        task = self._server.wait_task(tasks[0]["id"])
        added = self._state(case)[0] - before[0]
        if task["status"] == "finished":
            assert added == set(case.made(task["name"]))
            assert case.is_same(task["name"])
        else:
            assert task["message"].startswith(CODES[victim]), task
            assert added == set()
        self._delete(task)
        return task["status"]

    def _delete(self, task: dict[str, Any]) -> None:
        if task["status"] == "finished":
            assert self._server.request("DELETE", f"vms/{task['name']}").status == 204
        assert self._server.request("DELETE", f"tasks/{task['id']}").status == 204

    def _state(self, case: Case) -> tuple[set[str], list[Any], list[str]]:
        """All that there is, as libvirt knows it and as it lies there, what the journal holds, and the source."""
        with closing(self._libvirtd.open()) as conn:
            conn.storagePoolLookupByName(case.pool).refresh()
            there = case.inventory(conn)
        return there, journalled(self._server.state_dir), [sha256(source) for source, _ in case.disks]


@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_crashes_leave_all_or_nothing(
    libvirtd: PrivateLibvirtd,
    cases: list[Case],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    seed: int,
) -> None:
    with Server(libvirtd.uri, tmp_path / "state") as server:
        crashes = Crashes(libvirtd, server, random.Random(seed))  # noqa: S311 - no secret
        lives = {case.method: crashes.life(case) for case in cases}
        for number in range(ROUNDS):
            case = cases[(number + seed) % len(cases)]
            crashes.crash(case, lives[case.method])
    for outcome, count in sorted(crashes.outcomes.items()):
        log.info("%s: %d", outcome, count)
        record_property(outcome, count)
