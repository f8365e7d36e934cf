"""Waiting for tasks: by events, without them, and when what was waited for is gone."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from cloner.client import waiting
from cloner.client.access import read_access
from cloner.client.events import LONGEST_LINE, Event, parse
from cloner.client.failures import NoAnswer, Refused
from cloner.client.http import Server
from cloner.client.waiting import GONE, follow
from support.scripted import Reply, Scripted, answer, refusal

Task = dict[str, Any]


def task(number: int, status: str = "running", **more: object) -> Task:
    return {"id": str(number), "status": status, "batch": "7", "name": f"clone-{number}"} | more


RUN, END = task(1), task(1, "finished")
TWO = [task(1), task(2)]
FULL = refusal(503, "CLNAPI0011E: too many streams", Retry_After="5")


def events(*lines: str) -> bytes:
    """An answer that is a stream, which ends after these lines."""
    return ("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + "\n".join((*lines, ""))).encode()


def told(*tasks: Task) -> bytes:
    return events(*(f"event: task\ndata: {json.dumps(each)}\n" for each in tasks))


def followed(tasks: Sequence[Task], *replies: Reply, batch: str | None = "7") -> tuple[list[str], list[Task], Scripted]:
    """How the tasks ended, what was shown meanwhile, and what was asked."""
    shown: list[Task] = []
    with (
        Scripted(*replies) as scripted,
        closing(Server(read_access({"CLONER_URL": scripted.url}, timeout=1.0))) as server,
    ):
        ended = follow(server, tasks, batch, shown.append)
    return [each["status"] for each in ended], shown, scripted


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_SHORTEST_PAUSE_S", 0.0)


# --- By events -------------------------------------------------------------------------------------------------------


def test_events_tell_how_a_batch_goes_on() -> None:
    status, shown, scripted = followed(TWO, told(task(2, "failed"), END), answer(200, TWO))
    assert status == ["finished", "failed"]
    assert shown == [task(2, "failed"), END]
    paths = scripted.seen(lambda request: request.path.rpartition("/")[2])
    assert paths == ["events", "tasks?batch=%5E7%24"]  # in this order, so that nothing falls between the two


def test_events_of_others_are_none_of_ours() -> None:
    others = told(task(3, "failed"), task(2, "failed", batch="8"), task(2, progress=40), END, task(2, "finished"))
    status, shown, _ = followed(TWO, others, answer(200, TWO))
    assert status == ["finished", "finished"]
    assert shown == [task(2, progress=40), END, task(2, "finished")]


def test_what_ended_stays_ended() -> None:
    """An event may tell what was true before the list was asked for."""
    status, shown, _ = followed(TWO, told(RUN, task(2, "finished")), answer(200, [END, task(2)]))
    assert status == ["finished", "finished"]
    assert shown == [END, task(2, "finished")]


@pytest.mark.parametrize(
    "lost",
    [
        events(": heartbeat"),
        events("event: task\ndata: {no json\n"),
        events("event: task\ndata: []\n"),
        events("event: task\ndata: {}\n"),
        answer(200, []),
        refusal(404, "CLNAPI0001E: there is nothing"),
        FULL,
        None,
    ],
)
def test_without_events_the_list_tells(lost: Reply) -> None:
    status, shown, _ = followed([RUN], lost, answer(200, [RUN]), lost, answer(200, [END]))
    assert status == ["finished"]
    assert shown == [END]


@pytest.mark.parametrize("stream", [FULL, events('event: removed\ndata: {"id": "2"}\n')])
def test_a_task_that_somebody_removed_is_not_waited_for(stream: bytes) -> None:
    status, _, _ = followed(TWO, stream, answer(200, [END]))
    assert status == ["finished", GONE]


def test_a_batch_that_has_ended_already_is_not_asked_for() -> None:
    assert followed([END], answer(200, []))[2].requests == []


def test_a_server_that_stays_away_is_said() -> None:
    with pytest.raises(NoAnswer):
        followed([RUN], FULL, None)


# --- One task --------------------------------------------------------------------------------------------------------


def test_a_single_task_is_waited_for_by_long_polls() -> None:
    status, shown, scripted = followed([RUN], answer(200, RUN | {"progress": 5}), answer(200, END), batch=None)
    assert (status, shown) == (["finished"], [RUN | {"progress": 5}, END])
    assert scripted.seen(lambda request: request.path) == ["/plugins/kimchi/tasks/1?wait=2"] * 2


def test_a_single_task_that_somebody_removed_is_not_waited_for() -> None:
    assert followed([RUN], refusal(404, "WOKASYNC0001E: no task"), batch=None)[0] == [GONE]


def test_who_may_not_look_any_more_is_told() -> None:
    with pytest.raises(Refused, match="WOKAUTH0002E"):
        followed([RUN], refusal(401, "WOKAUTH0002E: You are not logged in"), batch=None)


# --- The stream ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        (b"data: a\n\n", [Event("message", "a", "")]),
        (b"event: task\r\nid: 5\r\ndata: a\r\n\r\n", [Event("task", "a", "5")]),
        (b"data: a\ndata:b\ndata\n\n", [Event("message", "a\nb\n", "")]),
        (b": heartbeat\n\ndata: a\n\n", [Event("message", "a", "")]),
        (b"id: 5\ndata: a\n\ndata: b\n\n", [Event("message", "a", "5"), Event("message", "b", "5")]),
        (b"event: task\n\ndata: a\n\n", [Event("message", "a", "")]),
        (b"retry: 5\nwhat: ever\ndata:  a: b\n\n", [Event("message", " a: b", "")]),
        (b"data: a\n\ndata: cut", [Event("message", "a", "")]),
        (b"data: a\n\ndata: without an end\n", [Event("message", "a", "")]),
        (b"", []),
    ],
)
def test_a_stream_is_read_as_the_standard_says(stream: bytes, found: list[Event]) -> None:
    assert list(parse(io.BytesIO(stream).readline)) == found


def test_a_line_without_an_end_is_not_read_forever() -> None:
    with pytest.raises(ValueError, match="no end"):
        list(parse(lambda limit: b"x" * min(limit, LONGEST_LINE)))
