"""Our tasks in Wok's queue: what stays in it, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cherrypy
import pytest
from cherrypy._cprequest import Request

from cloner import errors
from cloner.bridge import entries, kimchi, wok
from cloner.bridge.bridge import Bridge
from cloner.bridge.entries import Mirror
from cloner.bridge.kimchi import Functions, Patch, undisturbed
from cloner.bridge.switch import Switch
from cloner.callers import Caller
from cloner.engine.records import FINISHED, RUNNING, Task
from cloner.model.services import Services
from cloner.plugin import build
from cloner.settings import Settings, demo_uri

HOUR = 3600 * 1_000_000
"""In microseconds."""


def task(number: int, status: str = RUNNING, ended: int | None = None, **more: Any) -> Task:
    fields: dict[str, Any] = {
        "kind": "domain",
        "message": "",
        "target_uri": f"/plugins/cloner/vms/c{number}/clone",
        "server": "s",
    }
    fields |= {"cancelled": False, "created": 20 * HOUR, "plan": {"name": f"c{number}"}, "done": {}}
    return Task(id=number, status=status, ended=ended, **{**fields, **more})


def ago(hours: float) -> int:
    return int(time.time() * 1_000_000 - hours * HOUR)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Wok's."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(wok, "module", lambda name: {"asynctask": SimpleNamespace(tasks_queue=found)}[name])
    return found


@pytest.fixture
def made() -> list[int]:
    """The clones that were complete, in this order."""
    return []


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    found = build(Settings(connect=demo_uri(), state_dir=str(tmp_path)))
    with closing(found.journal):
        yield found
    found.lease.release()


@pytest.fixture(autouse=True)
def request_of_woks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that the thread answers."""
    request = SimpleNamespace(hooks=Request.hooks.copy())
    monkeypatch.setattr(cherrypy.serving, "request", request, raising=False)


@pytest.fixture
def mirror(services: Services, queue: dict[str, Any], made: list[int]) -> Mirror:
    return Mirror(services, lambda task: made.append(task.id))


def test_kimchis_uri_is_below_kimchis_mount_whoever_accepted_the_clone(mirror: Mirror, queue: dict[str, Any]) -> None:
    uris = {
        1: "/plugins/cloner/vms/web/clone",
        2: "/plugins/kimchi/vms/web/clone",
        3: "/wok/plugins/cloner/vms/vms/clone",
    }
    for number, uri in uris.items():
        mirror._take(task(number, target_uri=uri))
    mirror._take(task(4, kind="volume", target_uri="/plugins/cloner/storagepools/a/storagevolumes/vms/clone"))
    assert [entry.target_uri for entry in queue.values()] == [
        *("/plugins/kimchi/vms/web/clone", "/plugins/kimchi/vms/web/clone", "/plugins/kimchi/vms/vms/clone"),
        "/plugins/kimchi/storagepools/a/storagevolumes/vms/clone",
    ]


def test_an_ended_task_is_gone_before_wok_counts_it_as_old(mirror: Mirror, queue: dict[str, Any]) -> None:
    """Wok removes those of twelve hours while it goes through the queue, and then fails."""
    mirror._take(task(1, created=ago(30)))  # it runs
    mirror._take(task(2, FINISHED, ended=ago(11.6), created=ago(30)))
    mirror._take(task(3, FINISHED, ended=ago(11.4), created=ago(30)))
    assert list(queue) == ["1", "3"]
    assert queue["3"].timestamp > time.time() - entries._LONGEST_S
    mirror._take(task(3, FINISHED, ended=ago(11.6)))
    mirror._sweep()
    assert list(queue) == ["1"]


def test_a_clone_is_told_of_once_when_it_is_complete(mirror: Mirror, queue: dict[str, Any], made: list[int]) -> None:
    mirror._take(task(1))
    assert made == []
    mirror._take(task(1, FINISHED, ended=ago(-0.01)))
    mirror._take(task(1, FINISHED, ended=ago(-0.01)))
    mirror._take(task(2, FINISHED, ended=ago(-0.01)))  # another server's, which was quick
    mirror._take(task(3, FINISHED, ended=ago(1)))  # before we were there
    mirror._take(task(4, "failed", ended=ago(-0.01)))
    assert (made, list(queue)) == ([], ["1", "3", "4"])
    assert queue["1"].status == RUNNING
    mirror._tell_made()
    mirror._take(task(1, FINISHED, ended=ago(-0.01)))
    mirror._tell_made()
    assert made == [1, 2]
    assert {queue["1"].status, queue["2"].status} == {FINISHED}


def test_a_clone_that_is_complete_before_it_is_looked_at_is_told_of_too(
    mirror: Mirror, queue: dict[str, Any], made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = iter([[task(5, FINISHED, ended=ago(-0.01))]])
    monkeypatch.setattr(mirror._journal, "changes", lambda *_args: next(complete, []))
    assert mirror.entry(task(5)).status == RUNNING
    mirror._tell_made()
    assert (made, queue["5"].status) == ([5], FINISHED)


def test_what_leaves_the_list_before_it_is_told_of_does_not_come_back(mirror: Mirror, queue: dict[str, Any]) -> None:
    mirror._take(task(1, FINISHED, ended=ago(-0.01)))
    mirror.drop("1")
    mirror._tell_made()
    assert queue == {}


def test_who_goes_through_the_list_is_not_disturbed(services: Services, mirror: Mirror, queue: dict[str, Any]) -> None:
    """Wok goes through the queue's own keys, and fails when one comes meanwhile."""
    listed = Functions(services, mirror).get_list(queue.keys)
    mirror._take(task(1))
    seen = []
    for number, ident in enumerate(listed(), 2):
        mirror._take(task(number))
        seen.append(ident)
    assert seen == []  # nobody who is logged in asks
    queue["woks"] = object()
    for ident in listed():
        queue["another"] = object()
        seen.append(ident)
    assert seen == ["woks"]


def test_what_wok_still_answers_for_is_nobody_elses_though_it_has_left_the_list(
    mirror: Mirror, queue: dict[str, Any]
) -> None:
    mirror.entry(task(5, owner="ann"))
    mirror.drop("5")
    queue["woks"] = object()
    shown = {name: [ident for ident in queue if not mirror.hides(ident, Caller(name))] for name in ("ann", "bob")}
    assert shown == {"ann": ["5", "woks"], "bob": ["woks"]}


def test_what_leaves_the_queue_while_wok_looks_it_up_is_not_there(
    services: Services, mirror: Mirror, queue: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """src/wok/model/tasks.py: it asks the queue twice, for whether there is such a task and for the task."""

    class WokException(Exception):
        pass

    modules = {"exception": SimpleNamespace(WokException=WokException)}
    monkeypatch.setattr(wok, "module", modules.__getitem__)

    def task_lookup(ident: str) -> Any:
        assert ident in queue
        mirror.drop(ident)
        return queue[ident]

    mirror._take(task(1))
    monkeypatch.setattr(mirror, "hides", lambda *_asked: False)
    with pytest.raises(WokException, match="WOKASYNC0001E: Task 1 does not exist"):
        Functions(services, mirror).lookup(task_lookup)("1")


def test_a_task_of_woks_is_made_whatever_comes_while_its_queue_is_cleaned(
    mirror: Mirror, queue: dict[str, Any]
) -> None:
    """src/wok/asynctask.py: a new task cleans the queue before it is in there itself."""

    class Comes:
        @property
        def timestamp(self) -> float:
            mirror._take(task(7))
            return time.time()

    def clean_old_tasks() -> None:
        assert [entry.timestamp for entry in queue.values()]

    queue["woks"] = Comes()
    with pytest.raises(RuntimeError, match="changed size"):
        clean_old_tasks()
    mirror.drop("7")
    undisturbed(clean_old_tasks)()
    assert "7" in queue


def test_no_two_of_its_threads_have_one_name(services: Services, queue: dict[str, Any]) -> None:
    """Kimchi's object store (src/wok/objectstore.py) keeps SQLite's connections by it, and each is for one thread."""
    names = {Mirror(services, lambda _task: None)._thread.name for _ in range(3)}
    assert len(names) == 3


def test_what_wok_removes_is_gone_and_what_is_not_ours_stays(mirror: Mirror, queue: dict[str, Any]) -> None:
    mirror._take(task(1))
    mirror._take(task(2))
    queue["1"].remove()
    queue["woks"] = object()
    assert list(queue) == ["2", "woks"]
    mirror.stop()
    assert list(queue) == ["woks"]


def test_what_was_accepted_is_there_for_wok_whatever_becomes_of_the_journal(
    mirror: Mirror, queue: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wok writes the number of its log's entry into it, and would answer 500 to a clone that is being made."""

    def fail(*_args: object) -> None:
        raise errors.JournalUnavailable(cause="disk full")

    monkeypatch.setattr(mirror._journal, "changes", fail)
    assert mirror.entry(task(5)) is queue["5"]
    assert queue["5"].status == RUNNING


def test_a_bridge_hides_tasks_before_they_come_until_they_have_gone(
    services: Services, queue: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks while it is put up or taken down has no task of anybody's either."""

    def own() -> list[str]:
        return list(queue)

    def start(mirror: Mirror) -> None:
        mirror._take(task(9))
        seen.append(model.tasks_get_list())

    def undo(patch: Patch) -> None:
        undone(patch)
        seen.append(model.tasks_get_list())

    seen: list[list[str]] = []
    undone = Patch.undo
    (tmp_path / "cloner.conf").write_text("[wok]\nenable = True\n")
    model = SimpleNamespace(tasks_get_list=own, task_lookup=own, vm_clone=own, storagevolume_clone=own)
    monkeypatch.setattr(kimchi, "roots_with_tasks", lambda: [SimpleNamespace(model=model)])
    monkeypatch.setattr(Mirror, "start", start)
    monkeypatch.setattr(Patch, "undo", undo)
    bridge = Bridge(services, Switch(tmp_path / "cloner.conf"), {})
    bridge._put_up(model)
    assert list(queue) == ["9"]
    bridge._take_down()
    assert model.tasks_get_list is own
    assert {tuple(found) for found in seen} == {()}


def test_what_was_accepted_is_there_until_wok_has_answered_also_when_the_bridge_goes_off_meanwhile(
    services: Services, mirror: Mirror, queue: dict[str, Any]
) -> None:
    """At the end of a request Wok writes the number of its log's entry into it, and fails where there is none."""
    another = Mirror(services, lambda _task: None)
    mirror.entry(task(5))
    mirror.stop()
    mirror.entry(task(6))
    assert set(queue) == {"5", "6"}
    another._take(task(6))  # on again, and off
    another.stop()
    assert set(queue) == {"5", "6"}
    another = Mirror(services, lambda _task: None)
    another._take(task(6))
    for hook in cherrypy.serving.request.hooks["on_end_request"]:
        hook()
    assert list(queue) == ["6"]
    another.stop()
    assert queue == {}


def test_without_the_journal_it_says_so_once_and_asks_again_after_a_while(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def fail(*_args: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 100:
            mirror._ends.set()
        raise errors.JournalUnavailable(cause="disk full")

    def wait(_seconds: float) -> bool:
        if calls > 3:
            mirror._ends.set()
        return mirror._ends.is_set()

    monkeypatch.setattr(mirror._journal, "changes", fail)
    monkeypatch.setattr(mirror._ends, "wait", wait)
    mirror._follow()
    assert calls == 4
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_journal_that_does_not_answer_keeps_one_request_of_woks_and_no_other(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, answers = threading.Event(), threading.Event()

    def hang(*_args: object) -> list[Task]:
        reads.set()
        assert answers.wait(60)
        return []

    monkeypatch.setattr(mirror._journal, "changes", hang)
    monkeypatch.setattr(entries, "_PATIENCE_S", 0.01)
    with ThreadPoolExecutor(1) as pool:
        one = pool.submit(mirror.refresh)
        try:
            assert reads.wait(60)
            another = threading.Thread(target=mirror.refresh, daemon=True)
            another.start()
            another.join(30)
            assert not another.is_alive()
            assert not one.done()
        finally:
            answers.set()


def test_without_the_journal_the_queue_is_as_it_was(mirror: Mirror, queue: dict[str, Any], tmp_path: Path) -> None:
    mirror._take(task(1, message="<b>Copying</b>"))
    mirror._journal.close()
    for file in tmp_path.glob("journal.sqlite*"):
        file.unlink()
    (tmp_path / "journal.sqlite").mkdir()
    assert (queue["1"].status, queue["1"].message) == (RUNNING, "‹b›Copying‹/b›")
