"""What tests over HTTP look at again and again: a clone that was made, a refusal and its shape."""

from __future__ import annotations

import http.client
import io
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from support.server import Response, Server

JSON = "application/json;charset=utf-8"
PROBLEM = "application/problem+json"

T = TypeVar("T")


def cloned(server: Server, source: str, **body: object) -> dict[str, Any]:
    """Clone `source` (vms/<name>, or storagepools/<pool>/storagevolumes/<name>); the task, which has finished."""
    answer = server.request("POST", f"{source}/clone", body)
    assert answer.status == 202, answer.text
    task = server.wait_task(answer.json["id"])
    assert (task["status"], task["message"]) == ("finished", "OK"), task
    return task


def refusal(answer: Response) -> tuple[int, str]:
    """Status and code of an error, of which the whole shape is checked."""
    assert answer.headers["Content-Type"] == JSON
    return answer.status, error_code(answer.status, answer.json)


def error_code(status: int, error: dict[str, Any]) -> str:
    """The stable code in an error's `reason`."""
    assert list(error) == ["code", "reason"]
    assert re.fullmatch(rf"{status} [A-Z][\w -]+", error["code"])
    found = re.match(r"([A-Z]+\d{4}[EW]): \S", error["reason"])
    assert found, error
    assert "Traceback" not in error["reason"]
    assert not set("<>") & set(error["reason"])  # Kimchi's page shows texts as markup
    return found[1]


def parsed(raw: bytes) -> Response:
    """The first answer in what a connection said, for requests that are sent as bytes."""
    stream = io.BytesIO(raw)
    status = int(stream.readline().split()[1])
    headers = http.client.parse_headers(stream)
    return Response(status, headers, stream.read(int(headers["Content-Length"] or 0)))


def at_once(count: int, act: Callable[[int], T]) -> list[T]:
    """Do `act(0)`, `act(1)`, … in a thread each, all let go at the same moment; the results in this order."""
    barrier = threading.Barrier(count)

    def wait_and_act(number: int) -> T:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(wait_and_act, range(count)))
