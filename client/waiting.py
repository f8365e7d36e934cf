"""Following tasks as they change: by the server's events, by long polls, or by asking again and again."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from typing import Any

from .events import parse
from .failures import NoAnswer, Refused
from .http import Call, ReadLine, Server, path_of

Task = dict[str, Any]
"""A task as the server tells it."""

RUNNING, FINISHED, FAILED, KILLED = "running", "finished", "failed", "killed"
GONE = "gone"
"""Our own word for a task that left the server's list before its end was seen."""

Change = tuple[str, Task | None]
"""A task's id, and the task as it is now, or None if it has left the list."""

_LONG_POLL_S = 2
_SHORTEST_PAUSE_S = 1.0
_PAUSE_PER_COST = 5
"""A list that takes a second to get is asked for every six seconds."""


def task_of(row: Task) -> Task:
    """What a server calls a task. Raises NoAnswer if it can be none."""
    if not isinstance(row.get("id"), str) or not isinstance(row.get("status"), str):
        raise NoAnswer("the server tells of a task that is none")
    return row


def tasks_of(rows: Sequence[Task]) -> list[Task]:
    """The same of several."""
    return [task_of(row) for row in rows]


def tasks_call(batch: str | None = None, status: str | None = None) -> Call:
    """The request for tasks. A filter of the server's matches from the start: of batch 1 alone it must have the end."""
    filters = {"batch": f"^{re.escape(batch)}$"} if batch is not None else {}
    return Call("GET", "tasks", query=filters | ({"status": status} if status is not None else {}))


def follow(server: Server, tasks: Sequence[Task], batch: str | None, show: Callable[[Task], None]) -> list[Task]:
    """Waits until all of the tasks have ended, tells `show` of each change, and returns them as they ended.

    `batch` is theirs; without one there is one task. Raises Refused, NoAnswer.
    """
    known = {task["id"]: task for task in tasks}
    running = {number for number, task in known.items() if task["status"] == RUNNING}
    changes = one(server, tasks[0]["id"]) if batch is None else many(server, batch, known)
    with closing(changes):
        while running:
            number, task = next(changes)
            if number not in running or task == known[number]:
                continue
            known[number] = task or known[number] | {"status": GONE, "message": "nobody knows how it ended"}
            if known[number]["status"] != RUNNING:
                running.discard(number)
            show(known[number])
    return list(known.values())


def one(server: Server, number: str) -> Generator[Change]:
    """How a task is, every two seconds and when it has ended. Endless."""
    while True:
        begun = time.monotonic()
        try:
            yield number, task_of(server.ask(Call("GET", path_of("tasks", number), wait=_LONG_POLL_S)).row)
        except Refused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            yield number, None
        if time.monotonic() - begun < _SHORTEST_PAUSE_S:  # of a server that does not hold its answer back
            time.sleep(_SHORTEST_PAUSE_S)


def many(server: Server, batch: str | None = None, expected: Iterable[str] = ()) -> Generator[Change]:
    """First how each task of a batch, or of all, is, then each change of one. Endless.

    Of `expected` ones it is told, too, that they are not there.

    Events are listened to before the list is asked for, so that nothing falls between the two. While the server tells
    no events, as it does to so many at once and no more, the list is asked for again.
    """
    seen = set(expected)
    while True:
        begun = time.monotonic()
        with _events(server) as read_line:
            tasks = {task["id"]: task for task in tasks_of(server.ask(tasks_call(batch)).rows)}
            pause = max(_SHORTEST_PAUSE_S, _PAUSE_PER_COST * (time.monotonic() - begun))
            yield from ((number, None) for number in sorted(seen - tasks.keys()))
            yield from tasks.items()
            seen = set(tasks)
            if read_line:
                yield from _listen(read_line, batch, seen)
        time.sleep(pause)


@contextmanager
def _events(server: Server) -> Iterator[ReadLine | None]:
    """The server's events; None while it tells none."""
    with ExitStack() as stack:
        try:
            read_line = stack.enter_context(server.stream("events"))
        except (Refused, NoAnswer):
            read_line = None
        yield read_line


def _listen(read_line: ReadLine, batch: str | None, seen: set[str]) -> Generator[Change]:
    """Changes, until the stream is lost."""
    try:
        for event in parse(read_line):
            content = json.loads(event.data)
            number = content["id"]
            if event.name == "removed" and number in seen:
                seen.discard(number)
                yield number, None
            elif event.name == "task" and batch in (None, content.get("batch")):
                seen.add(number)
                yield number, task_of(content)
    except (NoAnswer, ValueError, KeyError, TypeError):
        return  # what it should have told, the list tells next
