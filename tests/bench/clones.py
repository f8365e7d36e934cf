"""Clones through the server, from the first request until the last guest is defined and its task finished.

When a task ended, the server's own stamp tells, which is of this machine's clock. Until then nobody asks the server for
anything: libvirt is asked how many guests it has, now and then, over a connection of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .client import Client
from .processes import cpu_seconds
from .sites import GUEST, Sites

_NAP_S = 0.02
"""Between two questions of how far the clones are. Ten times as many would take a tenth of a processor from them."""


def one_by_one(sites: Sites, count: int, guest: str = GUEST, **body: object) -> list[float]:
    """Seconds of each of `count` clones, each asked for when the one before is finished."""
    taken = []
    for _ in range(count):
        before, begun = sites.ours.count(), time.time()
        task = str(sites.client.clone(guest, **body)["id"])
        _wait(sites, before + 1)
        taken.append(_ended(sites, [task]) - begun)
    return taken


@dataclass(frozen=True)
class Batch:
    """What a batch of clones took, in seconds: from the first request to the last end, and of processors."""

    seconds: float
    server: float
    libvirtd: float


def batch(sites: Sites, count: int, guest: str = GUEST, **body: object) -> float:
    """Seconds of `count` clones that one request asks for."""
    before, begun = sites.ours.count(), time.time()
    batch_id = sites.client.clone(guest, count=count, **body)["batch"]
    _wait(sites, before + count)
    while sites.client.get(f"tasks?batch={batch_id}&status=running"):
        time.sleep(_NAP_S)
    return max(_end_of(task) for task in sites.client.get(f"tasks?batch={batch_id}")) - begun


def copies(sites: Sites, count: int, guest: str) -> float:
    """Seconds of `count` full copies that one request asks for."""
    return batch(sites, count, guest, method="copy")


def at_once(sites: Sites, clients: int, count: int, guest: str = GUEST) -> Batch:
    """`count` clones that some clients ask for back to back."""
    with ExitStack() as stack:
        connections = [stack.enter_context(Client(sites.server)) for _ in range(clients)]
        threads = stack.enter_context(ThreadPoolExecutor(clients))
        ready = threading.Barrier(clients + 1)
        shares = [len(range(number, count, clients)) for number in range(clients)]
        asking = [
            threads.submit(_ask, client, guest, share, ready) for client, share in zip(connections, shares, strict=True)
        ]
        before, server, daemon = sites.ours.count(), cpu_seconds(sites.server.pid), sites.ours.cpu_seconds()
        ready.wait()
        begun = time.time()
        tasks = [task for future in asking for task in future.result()]
        _wait(sites, before + count)
        used = cpu_seconds(sites.server.pid) - server, sites.ours.cpu_seconds() - daemon
        return Batch(_ended(sites, tasks) - begun, *used)


def _ask(client: Client, guest: str, count: int, ready: threading.Barrier) -> list[str]:
    ready.wait()
    return [str(client.clone(guest)["id"]) for _ in range(count)]


def _wait(sites: Sites, guests: int) -> None:
    """Until so many guests are defined, or a task has failed."""
    while not _are_there(sites, guests) and not sites.client.get("tasks?status=failed"):
        continue


def _ended(sites: Sites, tasks: Sequence[str]) -> float:
    """When the last of the tasks ended, in seconds since 1970. Raises RuntimeError when one did not end well."""
    return max(_end_of(_result(sites.client, task)) for task in tasks)


def _end_of(task: dict[str, Any]) -> float:
    if task["status"] != "finished":
        raise RuntimeError(f"task {task['id']} is {task['status']}: {task['message']}")
    return datetime.fromisoformat(task["ended"]).timestamp()


def _are_there(sites: Sites, guests: int) -> bool:
    """Whether so many guests are defined, within a second."""
    deadline = time.monotonic() + 1
    while sites.ours.count() < guests:
        if time.monotonic() > deadline:
            return False
        time.sleep(_NAP_S)
    return True


def _result(client: Client, task_id: str) -> dict[str, Any]:
    task: dict[str, Any] = client.get(f"tasks/{task_id}")
    while task["status"] == "running":
        time.sleep(_NAP_S)
        task = client.get(f"tasks/{task_id}")
    return task
