"""The journal: names that are distinct for every server, and a record that is whole whatever happens."""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
import sqlalchemy as sa

from cloner import errors
from cloner.engine import database
from cloner.engine import journal as journal_module
from cloner.engine.journal import Journal
from cloner.engine.migrations import MIGRATIONS
from cloner.engine.records import (
    BEGUN,
    DONE,
    FAILED,
    FINISHED,
    KILLED,
    RUNNING,
    SOURCE,
    UNDONE,
    Clone,
    Hold,
    Link,
    Mark,
    Step,
    Task,
)
from cloner.engine.transaction import Transaction

T = TypeVar("T")

NOON = 1_795_429_330_539_756  # µs since 1970
HOUR = 3_600_000_000
PATIENCE = 240  # seconds for what takes a moment, until a process is taken to hang
CLIENT = Path(__file__).with_name("journal_client.py")


class SetClock:
    """A clock that shows what it was set to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a journal that nobody has opened yet."""
    return f"sqlite:///{tmp_path}/journal.sqlite"


@pytest.fixture
def open_journal(url: str, clock: SetClock) -> Iterator[Callable[[], Journal]]:
    """Opens the journal once more, as another server does."""
    with ExitStack() as journals:

        def open_it() -> Journal:
            journal = Journal(url, clock=clock)
            journals.callback(journal.close)
            return journal

        yield open_it


@pytest.fixture
def journal(open_journal: Callable[[], Journal]) -> Journal:
    return open_journal()


@pytest.fixture
def four_servers(open_journal: Callable[[], Journal]) -> list[Journal]:
    return [open_journal() for _ in range(4)]


def accepted(journal: Journal, name: str = "web-clone-1", server: str = "here") -> Task:
    """A task with a name, a MAC and bytes that were promised to it."""
    with journal.transaction() as transaction:
        task = transaction.new_task_id()
        assert transaction.reserve("domain", "", name, task=task)
        assert transaction.reserve("mac", "", f"mac of {name}", task=task, domain=f"uuid of {name}"[:36])
        transaction.promise(task, "default", "vda", 1000)
        return transaction.add_task(task, "domain", f"/vms/{name}/clone", server, {"name": name})


def is_reserved(journal: Journal, kind: str, name: str) -> bool:
    with journal.transaction() as transaction:
        return transaction.is_reserved(kind, "", name)


def promised(journal: Journal, pool: str = "default") -> int:
    with journal.transaction() as transaction:
        return transaction.promised(pool)


def begun(journal: Journal, task: Task, number: int = 1) -> Step:
    return journal.begin(task.id, number, "volume", {"pool": "default", "name": "x"}, f"step {number}")


def clone_of(name: str = "web-clone-1") -> Clone:
    return Clone(f"uuid of {name}", name, NOON, [{"pool": "default", "volume": f"{name}-vda.qcow2"}])


def at_once(threads: int, work: Callable[[int], T]) -> list[T]:
    """What each of some threads returns that start as one."""
    barrier = threading.Barrier(threads)

    def run(number: int) -> T:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


# --- Stamps and names ------------------------------------------------------------------------------------------------


def stamp(journal: Journal) -> int:
    with journal.transaction() as transaction:
        return transaction.stamp()


def test_a_stamp_is_the_time_in_microseconds(journal: Journal, clock: SetClock) -> None:
    assert stamp(journal) == NOON
    clock.now += HOUR
    assert stamp(journal) == NOON + HOUR


def test_stamps_go_on_when_the_clock_stands_still_or_is_set_back(journal: Journal, clock: SetClock) -> None:
    stamps = [stamp(journal), stamp(journal)]
    clock.now -= HOUR
    assert [*stamps, stamp(journal), stamp(journal)] == [NOON, NOON + 1, NOON + 2, NOON + 3]


def test_stamps_within_a_transaction_are_distinct(journal: Journal) -> None:
    with journal.transaction() as transaction:
        assert [transaction.stamp() for _ in range(3)] == [NOON, NOON + 1, NOON + 2]


def test_a_restart_repeats_no_stamp(open_journal: Callable[[], Journal], clock: SetClock) -> None:
    first = open_journal()
    assert stamp(first) == NOON
    first.close()
    clock.now -= HOUR
    assert stamp(open_journal()) == NOON + 1


class Client:
    """A process of its own that gives out names; see journal_client.py. It is no relation of the others."""

    def __init__(self, url: str, clock: int, threads: int, names: int) -> None:
        argv = [sys.executable, str(CLIENT), url, *map(str, (clock, threads, names))]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_until_ready(self) -> None:
        assert json.loads(self.read_line()) == ["ready"]

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def read_line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def names(self) -> list[Name]:
        """What it gave out, once it has ended well."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0
        return names_in(output)

    def kill(self) -> str:
        """Kills it as -9 does; returns what it had still said."""
        self.process.kill()
        return self.process.communicate()[0]


class Name(NamedTuple):
    """A name that a client printed: the number of its task, the stamp in it, and the thread that got it."""

    task: int
    stamp: int
    thread: int


def names_in(output: str) -> list[Name]:
    """Of each line that was printed whole. Those of a thread must increase."""
    lines = [json.loads(line) for line in output.splitlines(keepends=True) if line.endswith("\n")]
    names = [Name(task, int(name.removeprefix("web-clone-")), thread) for thread, task, name in lines]
    for thread in {name.thread for name in names}:
        stamps = [name.stamp for name in names if name.thread == thread]
        assert stamps == sorted(stamps)
    return names


@pytest.fixture
def start(url: str) -> Iterator[Callable[[int, int, int, int], list[Client]]]:
    """Starts some clients that go at once; those that still run at the end are killed."""
    with ExitStack() as running:

        def start(count: int, clock: int, threads: int, names: int) -> list[Client]:
            clients = [Client(url, clock, threads, names) for _ in range(count)]
            for client in clients:
                running.callback(client.kill)
                client.wait_until_ready()
            for client in clients:
                client.go()
            return clients

        yield start


def test_10240_names_from_4_processes_of_32_threads_are_distinct_and_in_order(
    start: Callable[[int, int, int, int], list[Client]],
) -> None:
    """The clock stands still, then the servers restart with the clock set back by an hour.

    In the order of the tasks' numbers, which no clock has to do with, the stamps have neither a gap nor a repetition.
    """
    names = [name for client in start(4, NOON, 32, 40) for name in client.names()]
    names += [name for client in start(4, NOON - HOUR, 32, 40) for name in client.names()]
    given = sorted((name.task, name.stamp) for name in names)
    assert given == [(number, NOON + number - 1) for number in range(1, 10_241)]


def test_a_name_that_was_given_out_before_a_kill_is_never_given_again(
    start: Callable[[int, int, int, int], list[Client]], open_journal: Callable[[], Journal]
) -> None:
    (client,) = start(1, NOON, 8, 100_000)
    lines = [client.read_line() for _ in range(100)]
    before = names_in("".join(lines) + client.kill())
    after = [name for client in start(2, NOON - HOUR, 2, 50) for name in client.names()]
    assert len(before) >= 100
    assert min(after) > max(before)
    assert {task.id for task in open_journal().tasks()} >= {name.task for name in before}


# --- Reservations and promises ---------------------------------------------------------------------------------------


def test_a_name_is_won_once_by_16_threads_of_4_servers(four_servers: list[Journal]) -> None:
    def reserve_all(number: int) -> list[str]:
        won = []
        for name in map(str, range(25)):
            with four_servers[number % 4].transaction() as transaction:
                won += [name] * transaction.reserve("volume", "default", name, task=number)
        return won

    won = [name for names in at_once(16, reserve_all) for name in names]
    assert sorted(won, key=int) == [str(name) for name in range(25)]


def test_names_of_one_kind_and_scope_are_apart_from_others(journal: Journal) -> None:
    keys = [("domain", "", "a"), ("volume", "", "a"), ("volume", "default", "a"), ("volume", "default", "b")]
    with journal.transaction() as transaction:
        assert all(transaction.reserve(*key) for key in keys)
        assert all(transaction.is_reserved(*key) for key in keys)
        assert not any(transaction.reserve(*key) for key in keys)
        free = [("domain", "", "b"), ("volume", "", "b"), ("domain", "default", "a"), ("domain", "", "A")]
        assert not any(transaction.is_reserved(*key) for key in free)


@pytest.mark.parametrize("name", ["it's", 'a "b"', "a;--", "ü", "漢字", "\U0001f40e", "%s", ":name", "x" * 247])
def test_any_name_can_be_reserved(journal: Journal, name: str) -> None:
    accepted(journal, name)
    assert is_reserved(journal, "domain", name)
    assert journal.tasks()[0].plan == {"name": name}


def test_the_last_room_of_a_pool_is_promised_once(four_servers: list[Journal]) -> None:
    """What a transaction has read is still true when it is written."""

    def take_some(number: int) -> int:
        with four_servers[number % 4].transaction() as transaction:
            if transaction.promised("default") + 10 > 50:
                return 0
            transaction.promise(number, "default", "vda", 10)
            return 10

    assert sum(at_once(16, take_some)) == promised(four_servers[0]) == 50


def test_promises_add_up_for_each_pool(journal: Journal) -> None:
    assert promised(journal) == 0
    with journal.transaction() as transaction:
        transaction.promise(1, "default", "vda", 1 << 60)
        transaction.promise(1, "default", "vdb", 7)
        transaction.promise(2, "default", "vda", 5)
        transaction.promise(2, "other", "vdb", 3)
        assert transaction.promised("default") == (1 << 60) + 12
    assert promised(journal) == (1 << 60) + 12
    assert promised(journal, "other") == 3


def test_promises_add_up_for_all_pools_on_a_file_system(journal: Journal) -> None:
    """One of a server of an older version, which knows of no file system, counts for its pool alone."""
    with journal.transaction() as transaction:
        transaction.promise(101, "one", "vda", 1, device=7)
        transaction.promise(102, "two", "vda", 2, device=7)
        transaction.promise(103, "one", "vda", 4)
        transaction.promise(104, "far", "vda", 8)
        transaction.promise(105, "three", "vda", 16, device=9)
        assert [transaction.promised("one", 7), transaction.promised("two", 7)] == [7, 3]
        assert [transaction.promised("far"), transaction.promised("three", 9)] == [8, 16]
    task = accepted(journal)
    begun(journal, task)
    with journal.transaction() as transaction:
        transaction.promise(task.id, "two", "vdb", 32, device=7)
        assert transaction.promises_under_way("one", 7) == [("two", "vdb", 32)]


def test_a_promise_goes_when_its_item_is_written(journal: Journal) -> None:
    first, second = accepted(journal, "a"), accepted(journal, "b")
    with journal.transaction() as transaction:
        transaction.promise(first.id, "default", "vdb", 1)
    journal.mark(first.id, [Mark(begun(journal, first).number, DONE, kept="vda")])
    assert promised(journal) == 1001
    journal.mark(second.id, [Mark(begun(journal, second).number, DONE)])
    assert promised(journal) == 1001


@pytest.mark.parametrize("status", [FINISHED, FAILED, KILLED])
def test_what_was_promised_to_a_task_goes_with_its_end(journal: Journal, status: str) -> None:
    first, _second = accepted(journal, "a"), accepted(journal, "b")
    journal.end(first.id, status, "OK")
    assert promised(journal) == 1000


def test_a_transaction_that_fails_leaves_nothing(journal: Journal, open_journal: Callable[[], Journal]) -> None:
    with suppress(ZeroDivisionError), journal.transaction() as transaction:
        assert transaction.stamp() == NOON
        assert transaction.reserve("domain", "", "web", task=1)
        transaction.promise(1, "default", "vda", 1000)
        transaction.add_task(transaction.new_task_id(), "domain", "/", "here", {})
        raise ZeroDivisionError
    for each in (journal, open_journal()):
        assert (each.tasks(), each.reserved(), promised(each)) == ([], [], 0)


def test_a_stamp_of_a_transaction_that_failed_was_given_to_nobody(journal: Journal) -> None:
    """So it may come again; what counts is that it is greater than all that were."""
    assert stamp(journal) == NOON
    with suppress(ZeroDivisionError), journal.transaction() as transaction:
        assert transaction.stamp() == NOON + 1
        raise ZeroDivisionError
    assert stamp(journal) == NOON + 1


def test_what_is_not_committed_nobody_sees_and_nobody_waits_for(open_journal: Callable[[], Journal]) -> None:
    ours, theirs = open_journal(), open_journal()
    first = accepted(ours, "a")
    with ours.transaction() as transaction:
        transaction.add_task(transaction.new_task_id(), "domain", "/", "here", {})
        assert ours.tasks() == theirs.tasks() == [first]


# --- Tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_survive_a_restart(open_journal: Callable[[], Journal], clock: SetClock) -> None:
    first = open_journal()
    running, ended = accepted(first, "a"), accepted(first, "ü'b")
    step = begun(first, running)
    clock.now += HOUR
    first.end(ended.id, FAILED, "no room", done={"vda": 7})
    first.close()
    again = open_journal()
    assert again.task(running.id) == again.tasks(RUNNING)[0]
    assert again.tasks() == [
        replace(running, message="step 1", changed=3),
        replace(ended, status=FAILED, message="no room", ended=NOON + HOUR, done={"vda": 7}, changed=4),
    ]
    assert again.steps(running.id) == [step]
    assert again.reserved() == [("domain", "", "a"), ("mac", "", "mac of a")]


def test_an_accepted_task_is_what_the_journal_has(journal: Journal) -> None:
    task = accepted(journal)
    assert journal.task(task.id) == task
    assert journal.task(task.id + 1) is None


def test_tasks_are_listed_in_the_order_of_their_acceptance(journal: Journal) -> None:
    tasks = [accepted(journal, name) for name in "cab"]
    journal.end(tasks[1].id, FINISHED, "OK")
    assert [task.id for task in journal.tasks()] == [task.id for task in tasks]
    assert [task.id for task in journal.tasks(RUNNING)] == [tasks[0].id, tasks[2].id]
    assert [task.id for task in journal.tasks(FINISHED)] == [tasks[1].id]


def test_numbers_of_tasks_do_not_come_again(journal: Journal) -> None:
    first = accepted(journal, "a")
    journal.end(first.id, FAILED, "")
    journal.forget(first.id)
    assert accepted(journal, "b").id > first.id


def test_a_task_that_runs_can_be_cancelled_again_and_again(journal: Journal) -> None:
    task = accepted(journal)
    assert journal.cancel(task.id)
    assert journal.cancel(task.id)
    assert journal.tasks()[0].cancelled


def test_a_task_that_does_not_run_cannot_be_cancelled(journal: Journal) -> None:
    task = accepted(journal)
    journal.end(task.id, FINISHED, "OK")
    assert not journal.cancel(task.id)
    assert not journal.cancel(task.id + 1)
    assert not journal.tasks()[0].cancelled


def test_progress_is_kept_and_a_wish_to_cancel_is_told(journal: Journal) -> None:
    tasks = [accepted(journal, name) for name in "abc"]
    journal.cancel(tasks[1].id)
    assert journal.report({tasks[0].id: {"vda": 5}}) == [tasks[1].id]
    assert journal.report({tasks[0].id: {"vda": 9, "vdb": 1}}) == [tasks[1].id]
    assert [task.done for task in journal.tasks()] == [{"vda": 9, "vdb": 1}, {}, {}]


def test_progress_of_an_ended_task_comes_too_late(journal: Journal) -> None:
    task = accepted(journal)
    journal.end(task.id, FAILED, "", done={"vda": 7})
    journal.report({task.id: {"vda": 5}})
    assert journal.tasks()[0].done == {"vda": 7}


def test_a_dead_servers_task_is_adopted_once(four_servers: list[Journal]) -> None:
    task = accepted(four_servers[0], server="dead")
    won = at_once(16, lambda number: four_servers[number % 4].adopt(task.id, of="dead", by=f"server {number}"))
    assert won.count(True) == 1
    assert four_servers[0].tasks()[0].server == f"server {won.index(True)}"


def test_only_a_running_task_of_that_server_is_adopted(journal: Journal) -> None:
    theirs, ended = accepted(journal, "a", server="living"), accepted(journal, "b", server="dead")
    journal.end(ended.id, FINISHED, "OK")
    assert not journal.adopt(theirs.id, of="dead", by="here")
    assert not journal.adopt(ended.id, of="dead", by="here")
    assert [task.server for task in journal.tasks()] == ["living", "dead"]


def test_servers_with_tasks_are_those_with_running_ones(journal: Journal) -> None:
    tasks = [accepted(journal, str(number), server) for number, server in enumerate(("a", "b", "b", "c"))]
    journal.end(tasks[-1].id, FINISHED, "OK")
    assert journal.servers_with_tasks() == {"a", "b"}


def test_ended_tasks_age_out(journal: Journal, clock: SetClock) -> None:
    running, old, recent = (accepted(journal, name) for name in "abc")
    journal.end(old.id, FINISHED, "OK")
    clock.now += HOUR
    journal.end(recent.id, FAILED, "no room")
    assert journal.age_out(NOON, NOON) == 0
    assert journal.age_out(NOON + 1, NOON) == 1
    assert [task.id for task in journal.tasks()] == [running.id, recent.id]
    assert journal.age_out(NOON + 2 * HOUR, NOON) == 1
    assert [task.id for task in journal.tasks()] == [running.id]


def test_only_an_ended_task_can_be_forgotten(journal: Journal) -> None:
    running, ended = accepted(journal, "a"), accepted(journal, "b")
    journal.end(ended.id, FINISHED, "OK")
    journal.forget(running.id)
    journal.forget(ended.id)
    journal.forget(ended.id)
    assert [task.id for task in journal.tasks()] == [running.id]


# --- Steps -----------------------------------------------------------------------------------------------------------


def test_a_step_is_written_down_before_it_is_taken(journal: Journal) -> None:
    task = accepted(journal)
    step = begun(journal, task)
    assert step == Step(task.id, 1, "volume", BEGUN, NOON, {"pool": "default", "name": "x"}, None)
    assert journal.steps(task.id) == [step]
    assert journal.tasks()[0].message == "step 1"


def test_steps_are_kept_in_order_with_their_results(journal: Journal) -> None:
    task, other = accepted(journal, "a"), accepted(journal, "b")
    second, first, _third = (begun(journal, task, number) for number in (2, 1, 3))
    begun(journal, other)
    journal.mark(task.id, [Mark(first.number, DONE, {"path": "/a/ü"})])
    journal.begin(task.id, 4, "fill", {}, "step 4", [Mark(second.number, UNDONE)])
    states = [(step.number, step.state, step.result) for step in journal.steps(task.id)]
    assert states == [(1, DONE, {"path": "/a/ü"}), (2, UNDONE, None), (3, BEGUN, None), (4, BEGUN, None)]
    assert [step.state for step in journal.steps(other.id)] == [BEGUN]


def test_the_steps_of_a_task_go_with_its_end(journal: Journal) -> None:
    first, second = accepted(journal, "a"), accepted(journal, "b")
    begun(journal, first)
    begun(journal, second)
    journal.end(first.id, FINISHED, "OK")
    assert [len(journal.steps(task.id)) for task in (first, second)] == [0, 1]


def end(journal: Journal, task: Task) -> None:
    journal.end(task.id, FAILED, "the end")


def cancel(journal: Journal, task: Task) -> None:
    journal.cancel(task.id)


def forget(journal: Journal, task: Task) -> None:
    end(journal, task)
    journal.forget(task.id)


@pytest.mark.parametrize("stop", [cancel, end, forget])
def test_no_step_is_taken_after_the_end_was_asked_for_or_came(
    journal: Journal, stop: Callable[[Journal, Task], None]
) -> None:
    task = accepted(journal)
    stop(journal, task)
    before = journal.tasks()
    with pytest.raises(errors.CloneCancelled):
        begun(journal, task)
    assert journal.tasks() == before
    assert journal.steps(task.id) == []


# --- Clones ----------------------------------------------------------------------------------------------------------


def test_a_clone_is_remembered_with_its_storage(open_journal: Callable[[], Journal]) -> None:
    first = open_journal()
    first.end(accepted(first).id, FINISHED, "OK", clone_of())
    first.close()
    again = open_journal()
    assert again.clones.find("uuid of web-clone-1") == clone_of()
    assert again.clones.find("another") is None


def test_a_clones_macs_are_its_own_until_it_is_gone(journal: Journal) -> None:
    task = accepted(journal)
    journal.end(task.id, FINISHED, "OK", clone_of())
    journal.forget(task.id)
    assert is_reserved(journal, "mac", "mac of web-clone-1")
    journal.clones.forget("uuid of web-clone-1")
    assert not is_reserved(journal, "mac", "mac of web-clone-1")
    assert journal.clones.find("uuid of web-clone-1") is None


def test_a_clone_that_is_gone_takes_no_other_ones_macs_with_it(journal: Journal) -> None:
    for name in "ab":
        journal.end(accepted(journal, name).id, FINISHED, "OK", clone_of(name))
    journal.clones.forget("uuid of a")
    assert is_reserved(journal, "mac", "mac of b")
    assert journal.clones.find("uuid of b") == clone_of("b")


def test_a_running_tasks_macs_stay_though_its_domain_is_gone(journal: Journal) -> None:
    """Somebody may delete the domain before its task has ended, which then frees them."""
    task = accepted(journal)
    journal.clones.forget("uuid of web-clone-1")
    assert is_reserved(journal, "mac", "mac of web-clone-1")
    journal.end(task.id, FAILED, "")
    assert not is_reserved(journal, "mac", "mac of web-clone-1")


@pytest.mark.parametrize("status", [FAILED, KILLED])
def test_names_and_macs_are_free_after_a_failure(journal: Journal, status: str) -> None:
    first, _second = accepted(journal, "a"), accepted(journal, "b")
    journal.end(first.id, status, "no room")
    assert sorted(journal.reserved()) == [("domain", "", "b"), ("mac", "", "mac of b")]
    assert accepted(journal, "a")


def test_an_overlay_by_the_name_of_one_that_is_gone_is_another(journal: Journal) -> None:
    """It may be on another libvirt, or have been made while it was found out that the former is gone."""
    link = Link("/a/base.qcow2", "default", "x.qcow2", path="/b/x.qcow2")
    journal.end(accepted(journal, "a", "one").id, FINISHED, "OK", links=[link])
    gone = journal.clones.links([link.parent])
    journal.end(accepted(journal, "b", "other").id, FINISHED, "OK", links=[link])
    journal.clones.unlink(gone)
    assert [found.server for found in journal.clones.links([link.parent])] == ["other"]


def test_an_image_has_dependents_while_it_is_read_or_linked_to(open_journal: Callable[[], Journal]) -> None:
    journal = open_journal()
    reader, link = accepted(journal), Link("/a/base.qcow2", "default", "x.qcow2", path="/b/x.qcow2")
    with journal.transaction() as transaction:
        transaction.reserve(SOURCE, "/a/other" + "x" * 1000, str(reader.id), task=reader.id)
    journal.end(accepted(journal, "b").id, FINISHED, "OK", clone_of("b"), links=[link])
    again = open_journal()
    with again.transaction() as transaction:
        assert transaction.dependents(["/a/other" + "x" * 1000]) == ([reader.id], [])
        assert transaction.dependents(["/a/base.qcow2", "/a"]) == ([], [link])
    assert again.clones.links(["/a/base.qcow2", "/a"]) == [link]
    again.clones.unlink(again.clones.links(["/a/base.qcow2"]))
    again.end(reader.id, FAILED, "")
    with again.transaction() as transaction:
        assert transaction.dependents(["/a/base.qcow2", "/a/other" + "x" * 1000]) == ([], [])


def test_an_image_is_held_by_one_server_until_that_frees_it_or_dies(open_journal: Callable[[], Journal]) -> None:
    journal, other = open_journal(), open_journal()
    with journal.transaction() as transaction:
        transaction.hold(["/a", "/b"], "one", "deleted")
    with pytest.raises(sa.exc.IntegrityError), other.transaction() as transaction:
        transaction.hold(["/c", "/b"], "two", "started")
    with other.transaction() as transaction:
        assert transaction.holds(["/b", "/c"]) == [Hold("/b", "one", "deleted")]
        transaction.release(["/a", "/b"], "two")
    with journal.transaction() as transaction:
        transaction.release(["/a"], "one")
    with other.transaction() as transaction:
        assert [hold.path for hold in transaction.holds(["/a", "/b"])] == ["/b"]
        transaction.drop_holds("one")
        assert transaction.holds(["/a", "/b"]) == []


def test_the_name_of_a_finished_clone_is_its_domains_own_affair(journal: Journal) -> None:
    journal.end(accepted(journal).id, FINISHED, "OK", clone_of())
    assert not is_reserved(journal, "domain", "web-clone-1")
    assert journal.reserved() == []


# --- The schema ------------------------------------------------------------------------------------------------------

NEXT = ("CREATE TABLE news (x BIGINT)", "INSERT INTO news VALUES (1)")


def test_a_second_opening_changes_nothing(open_journal: Callable[[], Journal]) -> None:
    task = accepted(open_journal())
    assert open_journal().tasks() == [task]


def test_servers_that_start_at_once_on_a_fresh_journal_all_can_use_it(tmp_path: Path) -> None:
    def start(number: int) -> int:
        journal = Journal(f"sqlite:///{tmp_path}/{number // 4}")
        try:
            return accepted(journal, str(number)).id
        finally:
            journal.close()

    assert sorted(at_once(32, start)) == sorted(list(range(1, 5)) * 8)


def test_a_server_waits_for_another_that_writes_into_a_fresh_journal(
    tmp_path: Path, open_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what processes meet when they start at once, the part that SQLite does not wait for by itself."""
    somebody = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    somebody.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(time, "sleep", lambda _: somebody.rollback())
    assert accepted(open_journal())
    somebody.close()


def test_a_newer_program_brings_the_journal_up_to_date_and_loses_nothing(
    open_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = accepted(open_journal())
    monkeypatch.setattr(journal_module, "MIGRATIONS", (*MIGRATIONS, NEXT))
    assert open_journal().tasks() == open_journal().tasks() == [task]


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_journal_of_every_older_version_is_brought_up_to_date(
    open_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(journal_module, "MIGRATIONS", MIGRATIONS[:version])
    assert stamp(open_journal()) == NOON
    monkeypatch.undo()
    assert stamp(open_journal()) == NOON + 1
    assert accepted(open_journal()).id == 1


def test_overlays_are_known_after_an_update(
    open_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = next(number for number, each in enumerate(MIGRATIONS) if "links_of_tasks" in each[0])
    monkeypatch.setattr(journal_module, "MIGRATIONS", MIGRATIONS[:before])
    with open_journal().connection(writes=True) as connection:
        connection.exec_driver_sql("INSERT INTO links (parent, pool, name, path) VALUES ('/a', 'default', 'x', '/b')")
    monkeypatch.undo()
    assert open_journal().clones.links(["/a"]) == [Link("/a", "default", "x", path="/b")]


def test_an_older_program_leaves_a_newer_journal_alone(
    url: str, open_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MIGRATIONS", (*MIGRATIONS, NEXT))
    task = accepted(open_journal())
    monkeypatch.undo()
    with pytest.raises(errors.JournalTooNew, match=f"version {len(MIGRATIONS) + 1}, .* up to {len(MIGRATIONS)}"):
        Journal(url)
    monkeypatch.setattr(journal_module, "MIGRATIONS", (*MIGRATIONS, NEXT))
    assert open_journal().tasks() == [task]


def test_a_migration_that_fails_leaves_the_journal_as_it_was(
    url: str, open_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = accepted(open_journal())
    monkeypatch.setattr(journal_module, "MIGRATIONS", (*MIGRATIONS, (*NEXT, "NONSENSE")))
    with pytest.raises(Exception, match="NONSENSE"):
        Journal(url)
    monkeypatch.setattr(journal_module, "MIGRATIONS", (*MIGRATIONS, NEXT))
    assert open_journal().tasks() == [task]


# --- When the disk or the file is bad --------------------------------------------------------------------------------


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 8 KiB: what the kernel answers is what SQLite takes for a disk that fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def accept_1000(journal: Journal) -> None:
    for number in range(1000):
        accepted(journal, f"{number:0200}")


def test_a_full_disk_makes_the_journal_unavailable_until_there_is_room(journal: Journal) -> None:
    task = accepted(journal, "a")
    with full_disk(), pytest.raises(errors.JournalUnavailable):
        accept_1000(journal)
    assert task in journal.tasks()
    assert len(journal.reserved()) == 2 * len(journal.tasks())
    assert accepted(journal, "b") in journal.tasks()


def cancel_1000(journal: Journal, task: Task) -> None:
    for _ in range(1000):
        journal.cancel(task.id)


def test_a_transaction_that_a_full_disk_ends_keeps_no_other_from_being_written(journal: Journal) -> None:
    """SQLite had taken it back by itself, and every one after it failed with an error of SQLAlchemy's."""
    task = accepted(journal)
    with full_disk(), pytest.raises(errors.JournalUnavailable):
        cancel_1000(journal, task)
    assert accepted(journal, "b")
    assert journal.cancel(task.id)


@pytest.mark.parametrize("act", [cancel, end, begun, lambda journal, task: journal.task(task.id)])
def test_every_use_of_a_damaged_journal_says_so(
    tmp_path: Path, journal: Journal, act: Callable[[Journal, Task], object]
) -> None:
    task = accepted(journal)
    journal.close()
    (tmp_path / "journal.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(errors.JournalUnavailable, match="not a database"):
        act(journal, task)


@pytest.mark.parametrize("place", ["no/such/folder/journal", ".", "text"])
def test_a_journal_that_cannot_be_opened_says_so(tmp_path: Path, place: str) -> None:
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(errors.JournalUnavailable):
        Journal(f"sqlite:///{tmp_path}/{place}")


def test_a_journal_that_may_not_be_written_says_so(url: str, journal: Journal) -> None:
    read_only = Journal(f"{url.replace('///', '///file:')}?mode=ro&uri=true")
    with pytest.raises(errors.JournalUnavailable, match="readonly"):
        accepted(read_only)
    read_only.close()


def test_a_journal_that_somebody_keeps_locked_is_not_waited_for_for_ever(
    tmp_path: Path, open_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_FOR_LOCK_S", 0.01)
    journal = open_journal()
    somebody = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    somebody.execute("BEGIN IMMEDIATE")
    with pytest.raises(errors.JournalUnavailable, match="locked"):
        accepted(journal)
    somebody.close()
    assert accepted(journal)


def check_1000(journal: Journal) -> None:
    for _ in range(1000):
        journal.check()


def test_a_check_finds_a_full_disk_since_it_writes(journal: Journal) -> None:
    journal.check()
    with full_disk(), pytest.raises(errors.JournalUnavailable):
        check_1000(journal)
    journal.check()


def test_a_check_does_not_wait_long_for_a_lock_and_leaves_others_their_patience(
    tmp_path: Path, journal: Journal
) -> None:
    somebody = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None, check_same_thread=False)
    somebody.execute("BEGIN IMMEDIATE")
    with pytest.raises(errors.JournalUnavailable, match="locked"):
        journal.check()
    later = threading.Timer(1, somebody.rollback)  # seconds: more than a check would wait
    later.start()
    assert accepted(journal)
    later.join()
    somebody.close()
    journal.check()


def test_stamps_that_were_foreseen_are_given_out_unless_somebody_was_faster(journal: Journal) -> None:
    with journal.transaction() as transaction:
        last = transaction.stamp()
    with journal.transaction() as transaction:
        assert not transaction.claim_stamps(last, last + 5)
        assert transaction.last_stamp == 0
        assert not transaction.claim_stamps(last + 2, last + 1)  # none at all
        assert transaction.claim_stamps(last + 1_000_000_000, last + 1_000_000_005)
        assert transaction.last_stamp == last + 1_000_000_005
        assert transaction.stamp() == last + 1_000_000_006


def test_the_connection_that_wrote_last_writes_next(journal: Journal) -> None:
    """So what it has read of the file stays true; another one would read it anew."""
    with ExitStack() as readers:
        for _ in range(4):
            readers.enter_context(journal.connection(writes=False)).execute(sa.select(1))
    writers = set()
    for _ in range(4):
        with journal.connection(writes=True) as connection:
            writers.add(connection.connection.dbapi_connection)
    assert len(writers) == 1


def test_a_check_does_not_wait_long_for_a_thread_that_keeps_the_journal(journal: Journal) -> None:
    with journal.transaction(), pytest.raises(errors.JournalUnavailable, match="locked"):
        journal.check()
    journal.check()


def test_a_thread_that_keeps_the_journal_is_not_waited_for_for_ever(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file is locked, each thread that writes would wait for all before it, half a minute for each."""
    monkeypatch.setattr(database, "WAIT_FOR_LOCK_S", 0.01)
    with journal.transaction(), pytest.raises(errors.JournalUnavailable, match="locked"):
        accepted(journal)
    assert accepted(journal)


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "nosuch://u:secret@h/d", "postgresql+nosuch://u:secret@h/d"])
def test_a_url_that_means_no_journal_is_the_configurations_fault(url: str) -> None:
    with pytest.raises(errors.InvalidConfiguration, match="journal") as caught:
        Journal(url)
    assert "secret" not in caught.value.reason


def test_a_mistake_of_ours_is_not_blamed_on_the_disk(journal: Journal) -> None:
    def promise_twice(transaction: Transaction) -> None:
        for _ in range(2):
            transaction.promise(1, "default", "vda", 1)

    with pytest.raises(Exception, match="UNIQUE") as caught, journal.transaction() as transaction:
        promise_twice(transaction)
    assert not isinstance(caught.value, errors.ClonerError)


def test_no_file_is_open_after_the_opening(tmp_path: Path, journal: Journal) -> None:
    """The process may fork next, to become a daemon, and SQLite's locks do not survive that."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [link for link in links if str(link.readlink()).startswith(str(tmp_path))]
    assert accepted(journal)
