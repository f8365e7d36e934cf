"""Following what becomes of tasks: waiting for one, a stream of events for all, lists by the page."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import pytest

from cloner.callers import ANYBODY
from cloner.control.events import SURE_S
from cloner.engine.journal import Journal
from cloner.engine.tokens import Tokens
from cloner.server.auth import anybody
from cloner.server.sessions import Sessions
from support import people
from support.answers import at_once, cloned, refusal
from support.running import wait_until
from support.server import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(None, tmp_path / "state") as running:
        yield running


class Stream:
    """An open stream of events, read as it comes."""

    def __init__(self, server: Server, last: str = "", log_in: Mapping[str, str] | None = None) -> None:
        self.connection = http.client.HTTPConnection(*server.address, timeout=30)
        headers = dict(log_in or {"Authorization": f"Bearer {server.token}"})
        headers |= {"Last-Event-ID": last} if last else {}
        self.connection.request("GET", f"{urlsplit(server.base).path}/events", headers=headers)
        self.answer = self.connection.getresponse()
        self.last = last

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and data of each event. Comments and the rest are passed over."""
        fields: dict[str, str] = {}
        for line in self.answer:
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(": ")
                fields[name] = value
                continue
            if "data" in fields:
                self.last = fields["id"]
                yield fields["event"], json.loads(fields["data"])
            fields = {}

    def until_ended(self, *tasks: str) -> list[tuple[str, dict[str, Any]]]:
        """The events up to the one by which the last of these tasks has ended."""
        seen, left = [], set(tasks)
        for name, data in self.events():
            seen.append((name, data))
            left -= {data["id"]} if data.get("status") not in (None, "running") else set()
            if not left:
                return seen
        raise AssertionError(f"the stream ended before {left}")


@contextmanager
def stream(server: Server, last: str = "", log_in: Mapping[str, str] | None = None) -> Iterator[Stream]:
    opened = Stream(server, last, log_in)
    with closing(opened.connection):
        yield opened


def test_waiting_ends_with_the_task(server: Server) -> None:
    task = server.request("POST", "vms/web/clone").json["id"]
    answer = server.request("GET", f"tasks/{task}?wait=30")
    assert answer.json["status"] == "finished"
    assert "Retry-After" not in answer.headers


def test_many_wait_and_all_are_answered(server: Server) -> None:
    tasks = [task["id"] for task in server.request("POST", "vms/web/clone", {"count": 50}).json["tasks"]]
    statuses = at_once(50, lambda number: server.request("GET", f"tasks/{tasks[number]}?wait=60").json["status"])
    assert set(statuses) <= {"finished", "running"}  # of those who came when too many waited, at once
    assert statuses.count("finished") >= 30


@pytest.mark.parametrize("seconds", ["x", "-1", "1.5", "99999", ""])
def test_waiting_takes_a_number_of_seconds(shared: Server, seconds: str) -> None:
    task = cloned(shared, "vms/web")["id"]
    assert refusal(shared.request("GET", f"tasks/{task}?wait={seconds}")) == (400, "CLNAPI0004E")


def test_a_task_that_runs_says_when_to_ask_again(server: Server) -> None:
    accepted = server.request("POST", "vms/web/clone", {"count": 200})
    assert accepted.headers["Retry-After"] == "1"
    last = accepted.json["tasks"][-1]["id"]
    answer = server.request("GET", f"tasks/{last}")
    assert (answer.json["status"] == "running") == ("Retry-After" in answer.headers)


# --- Events ----------------------------------------------------------------------------------------------------------


def test_a_stream_tells_of_a_task_from_its_acceptance_to_its_end_and_its_going(server: Server) -> None:
    with stream(server) as events:
        assert events.answer.headers["Content-Type"].startswith("text/event-stream")
        assert events.answer.headers["Cache-Control"] == "no-store"
        task = server.request("POST", "vms/web/clone").json["id"]
        seen = events.until_ended(task)
        assert {name for name, _ in seen} == {"task"}
        assert seen[-1][1] == server.request("GET", f"tasks/{task}").json
        server.request("DELETE", f"tasks/{task}")
        assert next(events.events()) == ("removed", {"id": task})


def test_a_reader_that_was_away_goes_on_where_it_was_also_after_a_restart(server: Server) -> None:
    with stream(server) as events:
        events.until_ended(server.request("POST", "vms/web/clone").json["id"])
        last = events.last
    gone, missed = cloned(server, "vms/web")["id"], cloned(server, "vms/db")["id"]
    server.request("DELETE", f"tasks/{gone}")
    server.kill()
    server.start()
    with stream(server, last) as events:
        found = [(name, data["id"]) for name, data in events.until_ended(missed)]
        assert ("task", missed) in found
        later = next(events.events())
    assert [*found, (later[0], later[1]["id"])].count(("removed", gone)) == 1


def test_a_batch_is_told_of_to_the_last_task(server: Server) -> None:
    with stream(server) as events:
        tasks = [task["id"] for task in server.request("POST", "vms/web/clone", {"count": 300}).json["tasks"]]
        seen = events.until_ended(*tasks)
    assert {data["id"] for _, data in seen} == set(tasks)


def test_so_many_may_follow_and_no_more_and_a_place_that_is_left_is_free(tmp_path: Path) -> None:
    conf = tmp_path / "cloner.conf"
    conf.write_text("[server]\nmax_streams = 2\n")
    with Server(None, tmp_path / "few", args=["--config", str(conf)]) as server:
        with stream(server) as one, stream(server) as two:
            assert (one.answer.status, two.answer.status) == (200, 200)
            answer = server.request("GET", "events")
            assert refusal(answer) == (503, "CLNAPI0011E")
            assert answer.headers["Retry-After"] == "10"
            assert server.request("HEAD", "events").status == 200
            assert server.request("GET", "vms").status == 200

        def is_free() -> bool:
            cloned(server, "vms/web")  # a stream is known to be left when something is to be told
            with stream(server) as third:
                return third.answer.status == 200

        wait_until(is_free, 30, "a place is free again")


def test_nothing_is_told_to_who_may_not_ask_any_more(server: Server) -> None:
    """A token that was revoked, and a session that was logged out."""
    bearer = {"Authorization": f"Bearer {people.token(server.state_dir, 'gone')}"}
    body = {"username": "admin", "password": server.token}
    answer = server.request("POST", "/login", body, anonymous=True)
    session = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
    with stream(server, log_in=bearer) as by_token, stream(server, log_in=session) as by_session:
        task = server.request("POST", "vms/web/clone").json["id"]
        for opened in (by_token, by_session):
            assert opened.until_ended(task)
        with closing(Journal(f"sqlite:///{server.state_dir}/journal.sqlite")) as journal:
            Tokens(journal).revoke("gone")
        assert server.request("POST", "/logout", headers=session, anonymous=True).status == 200
        time.sleep(SURE_S)  # for that long it may be told yet
        assert server.request("POST", "vms/web/clone").status == 202
        assert [list(opened.events()) for opened in (by_token, by_session)] == [[], []]


def test_a_stream_does_not_prolong_a_session() -> None:
    with mock.patch("time.monotonic", return_value=1000.0) as clock:
        sessions = Sessions(lifetime_s=60)
        secret = sessions.open(anybody)
        for _ in range(3):
            assert sessions.holder(secret) == ANYBODY
            clock.return_value += 20
        assert sessions.holder(secret) is sessions.caller(secret) is None


def test_streams_end_when_the_server_does(server: Server) -> None:
    with stream(server) as events:
        assert events.answer.status == 200
        begun = time.monotonic()
        assert server.terminate() == 0
        assert list(events.events()) == []
        assert time.monotonic() - begun < 30


@pytest.mark.parametrize("last", ["x", "1", "1-", "-1-1", "1-" + "9" * 30])
def test_what_no_server_gave_out_is_no_place_to_go_on(shared: Server, last: str) -> None:
    answer = shared.request("GET", "events", headers={"Last-Event-ID": last})
    assert refusal(answer) == (400, "CLNAPI0007E")


def test_nor_are_digits_that_it_does_not_write(shared: Server) -> None:
    assert refusal(shared.request("GET", "events?_after=%D9%A1-%D9%A1")) == (400, "CLNAPI0007E")


# --- Pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["vms", "tasks", "storagepools", "storagepools/default/storagevolumes"])
def test_pages_together_are_the_list(server: Server, path: str) -> None:
    server.request("POST", "vms/web/clone", {"count": 12})
    wait_until(lambda: not server.request("GET", "tasks?status=running").json, 30, "they end")
    whole = server.request("GET", path)
    assert "Link" not in whole.headers
    pages, following = [], f"{path}?_limit=2"
    while following:
        answer = server.request("GET", following)
        assert 1 <= len(answer.json) <= 2
        pages += answer.json
        link = answer.headers.get("Link", "")
        assert link == "" or link.endswith('; rel="next"')
        following = link.partition(";")[0].strip("<>")
    assert pages == whole.json


def test_a_number_is_that_batch_or_task_and_none_that_begins_with_it(server: Server) -> None:
    batches = [server.request("POST", "vms/web/clone", {"count": 1}).json for _ in range(10)]
    first, tenth = batches[0], batches[9]
    assert tenth["batch"].startswith(first["batch"])
    assert tenth["tasks"][0]["id"].startswith(first["tasks"][0]["id"])
    for query in (f"batch={first['batch']}", f"id={first['tasks'][0]['id']}", f"batch={first['batch']}&_limit=1"):
        answer = server.request("GET", f"tasks?{query}")
        assert [task["id"] for task in answer.json] == [first["tasks"][0]["id"]]
        assert "Link" not in answer.headers
    assert len(server.request("GET", f"tasks?batch={first['batch']}.*").json) == 2  # an expression is one


def test_pages_go_with_filters(server: Server) -> None:
    batch = server.request("POST", "vms/web/clone", {"count": 5}).json["batch"]
    cloned(server, "vms/web")
    answer = server.request("GET", f"tasks?batch={batch}&_limit=3")
    assert len(answer.json) == 3
    rest = server.request("GET", answer.headers["Link"].partition(";")[0].strip("<>"))
    assert len(rest.json) == 2
    assert {task["batch"] for task in answer.json + rest.json} == {batch}


@pytest.mark.parametrize(
    "query",
    ["_limit=0", "_limit=1001", "_limit=x", "_limit=", "_limit=1&_limit=2", "_after=x"]
    + [f"_after={text}" for text in ("-1", "1_0", "%201", "%D9%A1", "9" * 5000, "1&_after=2")],
)
def test_a_page_that_cannot_be_is_refused(shared: Server, query: str) -> None:
    assert refusal(shared.request("GET", f"tasks?{query}")) == (400, "CLNAPI0004E")
