"""`/livez` and `/readyz`: anybody learns whether the server lives and can clone, at once, and nothing else."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest import mock

import cherrypy
import pytest

from cloner import errors
from cloner.server import health
from cloner.server.health import NO_ANSWER, NOT_CONNECTED, NOT_WRITABLE, OK, Check, Livez, Readyz
from support.answers import JSON, at_once, error_code
from support.running import wait_until
from support.server import Response, Server

ALL_WELL = {"journal": "ok", "libvirt": "ok"}
NOWHERE = "qemu+unix:///session?socket=/somewhere/secret-sock"


def ask(server: Server, path: str = "/readyz") -> Response:
    """An anonymous question, which must be answered at once whatever is wrong."""
    answer = server.request("GET", path, anonymous=True, timeout=10)
    assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == (JSON, "no-store")
    return answer


def not_ready(answer: Response) -> dict[str, str]:
    """The checks of a server that is not ready, whose answer has the shape of every error as well."""
    said = answer.json
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert list(said) == ["code", "reason", "ready", "checks"]
    assert error_code(503, {key: said[key] for key in ("code", "reason")}) == "CLNSRV0001E"
    assert said["ready"] is False
    checks: dict[str, str] = said["checks"]
    return checks


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While somebody else writes to the journal and does not come to an end."""
    with closing(sqlite3.connect(folder / "journal.sqlite")) as journal:
        journal.execute("BEGIN IMMEDIATE")
        yield


# --- All is well -----------------------------------------------------------------------------------------------------


def test_a_server_that_serves_says_so_to_anybody(server: Server) -> None:
    answer = ask(server, "/livez")
    assert (answer.status, answer.json) == (200, {"alive": True})


def test_a_server_that_can_clone_says_so_to_anybody(server: Server) -> None:
    answer = ask(server)
    assert (answer.status, answer.json) == (200, {"ready": True, "checks": ALL_WELL})


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
@pytest.mark.parametrize("auth", ["token", "none"])
def test_by_whatever_name_the_host_is_asked(start: Callable[..., Server], path: str, auth: str) -> None:
    """A prober goes by an address of its own, which elsewhere would be a sign of DNS rebinding."""
    server = start("--auth", auth)
    assert server.request("GET", path, headers={"Host": "10.1.2.3"}, anonymous=True).status == 200


# --- The journal -----------------------------------------------------------------------------------------------------


def test_a_journal_that_is_held_makes_it_not_ready_until_it_is_let_go(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    server = start()
    with held(tmp_path):
        assert not_ready(ask(server)) == {"journal": NOT_WRITABLE, "libvirt": "ok"}
        assert ask(server, "/livez").status == 200
    wait_until(lambda: ask(server).status == 200, 20, "it is ready again", lambda: server.log)


def test_a_crowd_that_asks_while_the_journal_is_held_is_answered(start: Callable[..., Server], tmp_path: Path) -> None:
    """By one look at the journal for all, so that nobody's questions take the threads or the lock from the others."""
    server = start("--config", str(few_threads(tmp_path)))
    with held(tmp_path):
        answers = at_once(60, lambda _: ask(server))
    assert {not_ready(answer)["journal"] for answer in answers} <= {NOT_WRITABLE, NO_ANSWER}


def few_threads(folder: Path) -> Path:
    path = folder / "cloner.conf"
    path.write_text("[server]\nthreads = 4\n")
    return path


def test_questions_are_answered_by_a_look_that_is_fresh(start: Callable[..., Server], tmp_path: Path) -> None:
    """So that asking, which needs no log-in, does not write to the disk each time."""
    server = start()
    ask(server)
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as journal:
        written = "SELECT value FROM facts WHERE name = 'checked'"
        values = set()
        for _ in range(50):
            ask(server)
            values.add(journal.execute(written).fetchone())
    assert len(values) < 50


# --- libvirt ---------------------------------------------------------------------------------------------------------


def test_without_libvirt_it_lives_and_is_not_ready(tmp_path: Path) -> None:
    with Server(NOWHERE, tmp_path) as server:
        assert not_ready(ask(server)) == {"journal": "ok", "libvirt": NOT_CONNECTED}
        assert ask(server, "/livez").status == 200


def test_nothing_confidential_is_in_an_answer_and_the_cause_is_in_the_log(tmp_path: Path) -> None:
    with Server(NOWHERE, tmp_path) as server, held(tmp_path):
        said = ask(server).text
        assert not_ready(ask(server)) == {"journal": NOT_WRITABLE, "libvirt": NOT_CONNECTED}
        wait_until(lambda: "database is locked" in server.log, 10, "the log has the cause", lambda: server.log)
    for secret in ("/", "qemu", "sqlite", "locked", tmp_path.name):
        assert secret not in said


# --- The end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["STOPPING", "STOPPED", "EXITING"])
def test_a_server_that_stops_is_neither_alive_nor_ready(state: str) -> None:
    request = mock.Mock()
    with mock.patch.object(cherrypy.engine, "state", cherrypy.engine.states.STARTED):
        assert Livez().lookup(request).status == 200
    with mock.patch.object(cherrypy.engine, "state", getattr(cherrypy.engine.states, state)):
        for controller in (Livez(), Readyz(mock.Mock())):
            with pytest.raises(errors.ShuttingDown):
                controller.lookup(request)


# --- A check ---------------------------------------------------------------------------------------------------------


def test_a_look_that_hangs_is_not_waited_for_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PATIENCE_S", 0.05)
    looks, go_on = [], threading.Event()

    def hang() -> None:
        looks.append(1)
        go_on.wait(60)

    check = Check("thing", hang, "broken")
    try:
        assert [check.ask() for _ in range(5)] == [NO_ANSWER] * 5
        assert looks == [1]
    finally:
        go_on.set()
    wait_until(lambda: check.ask() == OK, 10, "it is well when it has gone on")


def test_whatever_a_look_runs_into_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    def stumble() -> None:
        raise RuntimeError("secret")

    assert Check("thing", stumble, "broken").ask() == "broken"
    assert "secret" in caplog.text


def test_the_log_tells_of_a_change_and_not_of_each_look(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "_FRESH_S", -1.0)
    ill = [False, True, True, True, False, False]

    def look() -> None:
        if ill.pop(0):
            raise errors.JournalUnavailable(cause="the disk is full")

    check = Check("journal", look, "broken")
    assert [check.ask() for _ in range(6)] == [OK, "broken", "broken", "broken", OK, OK]
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert "the disk is full" in told[0]
    assert "well again" in told[1]
