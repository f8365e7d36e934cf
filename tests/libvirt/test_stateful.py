"""The REST API against a model of it: whatever is asked for, and in whatever order, the host is as the model says.

hypothesis makes up the requests, the same ones each time, and restarts the server in between, in order and by kill -9.
The host is real, with disks of a few KiB; a clone that has to be caught while it runs is held back by `bandwidth`.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import libvirt
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from support.answers import refusal
from support.guests import define_guest
from support.libvirtd import PrivateLibvirtd
from support.model import (
    FAILED,
    FINISHED,
    IN_USE,
    KILLED,
    MISSING_BATCH,
    MISSING_GUEST,
    MISSING_TASK,
    NAME_TAKEN,
    RUNNING,
    Model,
)
from support.running import wait_until
from support.server import MOUNT_POINT, Response, Server
from support.storage import (
    GiB,
    KiB,
    MiB,
    listing,
    make_pool,
    make_qcow2,
    make_raw,
    mounted,
    pool_path,
    remove_pool,
    some_data,
)

POOL = "stateful"
VOLUMES = f"storagepools/{POOL}/storagevolumes"
SLOW_DATA = 64 * MiB
SLOW = {"method": "copy", "bandwidth": 1}
"""With `SLOW_DATA`, a clone that takes longer than a whole run of the machine."""

STEPS = 20
RUNS = 20
WAYS_TO_END = ["kill -9", "SIGTERM"]

Body = dict[str, Any]

MUST_HAPPEN = {
    *("POST vms: 202", "POST vms: 200", f"POST vms: {NAME_TAKEN[1]}", "POST storagepools: 202"),
    *("DELETE vms: 204", f"DELETE vms: {IN_USE[1]}", "DELETE tasks: 202", "DELETE batches: 202"),
    *WAYS_TO_END,
}
"""Or the run has shown little."""

places = st.integers(0, 8)
"""Which of those that there are; the last is one that there is not."""

names = [{}, {"name": "one"}, {"count": 3}, {"name": "one.qcow2"}, {"count": 2}, {"name": "one-vda.qcow2"}]
called = st.sampled_from([*names, {"name": "one", "count": 1}])
methods = st.sampled_from([{}, {"method": "linked"}, {"method": "reflink"}, {"method": "libvirt"}])
keys = st.sampled_from([None, "k1", "k2"])


class Host:
    """One server on one pool of its own, which each run of the machine finds as new."""

    def __init__(self, server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool) -> None:
        self.server, self.conn, self.pool = server, conn, pool
        self.runs = 0
        self.outcomes: Counter[str] = Counter()

    def furnish(self) -> Model:
        """Two guests, one of which takes long to clone, and a volume of no guest's."""
        self.runs += 1
        model = Model()
        for name in ("web", "spare"):
            make_qcow2(self.pool, f"{name}.qcow2", MiB, {0: some_data(4 * KiB)})
            model.volumes[f"{name}.qcow2"] = frozenset()
        make_raw(self.pool, "slow.img", SLOW_DATA, {0: b"\1" * SLOW_DATA})
        model.volumes["slow.img"] = frozenset()
        uuids = set()
        for name, volume in (("web", "web.qcow2"), ("slow", "slow.img")):
            disk = self.pool.storageVolLookupByName(volume)
            uuids.add(define_guest(self.conn, name, [disk], macs=["52:54:00:12:34:56"]).UUIDString())
            model.guests[name] = volume
        wait_until(lambda: self.all("vms", "uuid") == uuids, 30, "the server knows of these, and of no others")
        return model

    def clear(self) -> None:
        """Guests and volumes by libvirt itself, so that the server has to notice."""
        for task in self.server.request("GET", "tasks").json:
            self.server.request("DELETE", f"tasks/{task['id']}", {"cancel": True})
            self.server.wait_task(task["id"])
            self.server.request("DELETE", f"tasks/{task['id']}")
        for domain in self.conn.listAllDomains():
            domain.undefine()
        for volume in self.pool.listAllVolumes():
            volume.delete()

    def all(self, path: str, key: str) -> set[str]:
        return {each[key] for each in self.server.request("GET", path).json}


@pytest.fixture
def host(libvirtd: PrivateLibvirtd, tmp_path: Path) -> Iterator[Host]:
    with mounted("xfs", 4 * GiB) as root, closing(libvirtd.open()) as conn:
        pool = make_pool(conn, POOL, root / "pool")
        try:
            with Server(libvirtd.uri, tmp_path / "state") as server:
                yield Host(server, conn, pool)
        finally:
            remove_pool(pool)


class Requests(RuleBasedStateMachine):
    """One run: requests, restarts, and what must be so after each."""

    host: Host

    def __init__(self) -> None:
        super().__init__()
        self.server, self.model = self.host.server, self.host.furnish()
        self.restarts = 0

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, key: str | None = None) -> Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        answer = self.server.request(method, path, body, headers)
        assert answer.status < 500, answer.text
        code = answer.json["reason"].partition(":")[0] if answer.status >= 400 else answer.status
        if method != "GET":
            self.host.outcomes[f"{method} {path.partition('/')[0]}: {code}"] += 1
        return answer

    # --- Cloning -----------------------------------------------------------------------------------------------------

    @rule(place=places, called=called, method=methods, key=keys)
    def clone_a_guest(self, place: int, called: Body, method: Body, key: str | None) -> None:
        self.clone(f"vms/{self.guest(place)}", called | method, key)

    @rule(place=places, called=called, method=methods, key=keys)
    def clone_a_volume(self, place: int, called: Body, method: Body, key: str | None) -> None:
        self.clone(f"{VOLUMES}/{_one_of(self.model.volumes, place)}", called | method, key)

    @rule(called=called, key=keys)
    def clone_a_guest_slowly(self, called: Body, key: str | None) -> None:
        self.clone("vms/slow", called | SLOW, key)

    @rule(called=called)
    def clone_a_volume_slowly(self, called: Body) -> None:
        self.clone(f"{VOLUMES}/slow.img", called | SLOW, None)

    @rule(place=places, called=called, method=methods)
    def only_see(self, place: int, called: Body, method: Body) -> None:
        path, body = f"vms/{self.guest(place)}", called | method | {"dry_run": True}
        expected = self.model.refuses(path, body, None)
        answer = self.ask("POST", f"{path}/clone", body)
        if expected is not None:
            assert refusal(answer) == expected
        else:
            assert (answer.status, len(answer.json["plans"])) == (200, body.get("count", 1))

    @rule(called=st.sampled_from([{"count": 3}, {}]), how=st.sampled_from(["cancel", *WAYS_TO_END]))
    def disturb_a_clone(self, called: Body, how: str) -> None:
        """Which may have been quicker: either way it is whole, or not there."""
        path = "vms/web"
        if path[4:] not in self.model.guests or (how != "cancel" and self.restarts):
            return
        tasks = _tasks(self.ask("POST", f"{path}/clone", called))
        self.model.accept(path, called, None, tasks)
        if how == "cancel":
            for task in tasks:
                assert self.ask("DELETE", f"tasks/{task['id']}", {"cancel": True}).status in (200, 202)
            self.settle([task["id"] for task in tasks], FINISHED, KILLED)
        else:
            self.restart_the_server(how)

    def clone(self, path: str, body: Body, key: str | None) -> None:
        key = key and f"{key} of run {self.host.runs}"
        same = self.model.repeats(path, body, key)
        expected = self.model.refuses(path, body, key)
        answer = self.ask("POST", f"{path}/clone", body, key)
        if same:
            assert answer.status == 202
            assert [task["id"] for task in _tasks(answer)] == same
        elif expected is not None:
            assert refusal(answer) == expected
        else:
            assert answer.status == 202, answer.text
            tasks = _tasks(answer)
            assert len(tasks) == body.get("count", 1)
            self.model.accept(path, body, key, tasks)
            if SLOW.items() - body.items():
                self.settle([task["id"] for task in tasks], FINISHED)

    # --- Ending and deleting -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.tasks)
    @rule(place=places, body=st.sampled_from([{}, {"cancel": True}]))
    def end_a_task(self, place: int, body: Body) -> None:
        number = _one_of(self.model.tasks, place)
        answer = self.ask("DELETE", f"tasks/{number}", body)
        if number not in self.model.tasks:
            assert refusal(answer) == MISSING_TASK
        elif self.model.tasks[number].status == RUNNING:
            assert answer.status == 202
            self.settle([number], KILLED)
        elif body:
            assert (answer.status, "explanation" in answer.json) == (200, True)
        else:
            assert answer.status == 204
            del self.model.tasks[number]

    @rule(place=places, storage=st.booleans())
    def delete_a_guest(self, place: int, storage: bool) -> None:
        name = self.guest(place)
        answer = self.ask("DELETE", f"vms/{name}", {"storage": storage})
        if name not in self.model.guests:
            assert refusal(answer) == MISSING_GUEST
        elif self.model.is_needed([self.model.guests[name]]):
            assert refusal(answer) == IN_USE
        else:
            assert answer.status == 204
            self.model.delete_guest(name, storage=storage)

    @precondition(lambda self: self.model.batches)
    @rule(place=places, undo=st.sampled_from([True, False]))
    def withdraw_a_batch(self, place: int, undo: bool) -> None:
        batch = _one_of(self.model.batches, place)
        tasks = self.model.of_batch(batch)
        if any(task.has_warning for task in tasks.values()):
            return  # what is asked for again has no end that can be seen
        answer = self.ask("DELETE", f"batches/{batch}", {"undo": undo})
        if not tasks:
            assert refusal(answer) == MISSING_BATCH
            return
        assert answer.status == 202
        self.settle([number for number, task in tasks.items() if task.status == RUNNING], KILLED)
        for number in [number for number, task in tasks.items() if undo and task.status == FINISHED]:
            self.model.withdraw(number)
        wait_until(lambda: self.are_as_told(tasks), 30, "the batch is withdrawn", lambda: self.server.log[-2000:])

    def are_as_told(self, numbers: Mapping[str, Any]) -> bool:
        told = {task["id"]: (task["status"], bool(task["warning"])) for task in self.ask("GET", "tasks").json}
        model = self.model.tasks
        return all(told[number] == (model[number].status, model[number].has_warning) for number in numbers)

    # --- Restarting --------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.restarts)
    @rule(how=st.sampled_from(WAYS_TO_END))
    def restart_the_server(self, how: str) -> None:
        assert "Traceback" not in self.server.log
        if how == "SIGTERM":
            assert self.server.terminate() == 0
        else:
            self.server.kill()
        self.server.start()
        self.restarts += 1
        self.host.outcomes[how] += 1
        for number, task in self.model.running.items():
            self.settle([number], *([FAILED] if task.is_slow else [FAILED, FINISHED]))

    # --- Lists -------------------------------------------------------------------------------------------------------

    @rule(path=st.sampled_from(["vms", "tasks", VOLUMES]), limit=st.integers(1, 4))
    def turn_pages(self, path: str, limit: int) -> None:
        mark = "id" if path == "tasks" else "name"
        whole = [each[mark] for each in self.ask("GET", path).json]
        found, page = [], f"{MOUNT_POINT}/{path}?_limit={limit}"
        while page:
            answer = self.ask("GET", page)
            found += [each[mark] for each in answer.json]
            assert len(answer.json) <= limit
            link = re.fullmatch(r'<([^>]+)>; rel="next"', answer.headers["Link"] or "")
            page = link[1] if link else ""
        assert found == whole

    @rule(status=st.sampled_from([RUNNING, FINISHED, FAILED, KILLED]), kind=st.sampled_from(["domain", "volume"]))
    def filter_tasks(self, status: str, kind: str) -> None:
        found = [task["id"] for task in self.ask("GET", f"tasks?status={status}&kind={kind}").json]
        assert found == [
            number for number, task in self.model.tasks.items() if (task.status, task.kind) == (status, kind)
        ]

    @rule(pattern=st.sampled_from(["web", "one", ".*-clone-[0-9]{16}$", "nope", "^(w|s)"]))
    def filter_guests(self, pattern: str) -> None:
        found = [guest["name"] for guest in self.ask("GET", f"vms?name={pattern}").json]
        assert found == sorted(name for name in self.model.guests if re.match(pattern, name))

    # --- What must be so ---------------------------------------------------------------------------------------------

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        model = self.model
        guests = self.ask("GET", "vms").json
        assert [guest["name"] for guest in guests] == sorted(model.guests)
        assert {guest["name"]: guest["uuid"] for guest in guests if guest["name"] in model.uuids} == model.uuids
        tasks = self.ask("GET", "tasks").json
        assert {task["id"]: task["status"] for task in tasks} == {n: task.status for n, task in model.tasks.items()}
        volumes = self.host.all(VOLUMES, "name")
        assert set(model.volumes) <= volumes <= {*model.volumes, *(task.volume for task in model.running.values())}

    @invariant()
    def no_name_was_given_twice(self) -> None:
        assert len(set(self.model.names)) == len(self.model.names)

    @invariant()
    def nothing_is_held_when_nothing_runs(self) -> None:
        if not self.model.running:
            assert _held(self.server.state_dir) == []

    @invariant()
    def no_stack_is_in_the_log(self) -> None:
        assert "Traceback" not in self.server.log

    def teardown(self) -> None:
        """What runs is cancelled; then what was there and what was finished is there, and nothing else."""
        try:
            for number in list(self.model.running):
                assert self.ask("DELETE", f"tasks/{number}", {"cancel": True}).status == 202
                self.settle([number], KILLED)
            self.it_is_as_the_model_says()
            self.nothing_is_held_when_nothing_runs()
            assert listing(pool_path(self.host.pool)) == sorted(self.model.volumes)
        finally:
            self.host.clear()

    # -----------------------------------------------------------------------------------------------------------------

    def guest(self, place: int) -> str:
        """One that there is, or is being made, or never was."""
        running = [task.name for task in self.model.running.values() if task.kind == "domain"]
        return _one_of([*self.model.guests, *running], place)

    def settle(self, numbers: list[str], *statuses: str) -> None:
        for number in numbers:
            task = self.server.wait_task(number)
            assert task["status"] in statuses, task
            self.model.end(number, task["status"])


def _one_of(there: Any, place: int) -> str:
    known = list(there)
    return known[place % len(known)] if known and place < 8 else "99999999"


def _tasks(answer: Response) -> list[dict[str, Any]]:
    return answer.json.get("tasks", [answer.json])


def _held(state_dir: Path) -> list[Any]:
    """What the journal keeps for somebody."""
    queries = ["SELECT * FROM reservations WHERE task IS NOT NULL", "SELECT * FROM promises", "SELECT * FROM steps"]
    with closing(sqlite3.connect(state_dir / "journal.sqlite")) as journal:
        return [row for query in [*queries, "SELECT * FROM holds"] for row in journal.execute(query)]


def test_it_does_what_the_model_says(host: Host, record_property: Any) -> None:
    class OnThisHost(Requests):
        pass

    OnThisHost.host = host
    run_state_machine_as_test(
        OnThisHost,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            print_blob=True,
            phases=[Phase.generate],  # to find the shortest run takes minutes
        ),
    )
    for outcome, count in sorted(host.outcomes.items()):
        record_property(outcome, count)
    assert set(host.outcomes) >= MUST_HAPPEN
