"""What the journal has in it, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

RUNNING, FINISHED, FAILED, KILLED = "running", "finished", "failed", "killed"
"""The words that Kimchi's page knows for a task's status, and `killed` for one that was cancelled."""

SOURCE = "source"
"""Kind of the reservations by which a task holds the images that it reads; `scope` is the image's path."""

BEGUN, DONE, UNDONE = "begun", "done", "undone"

VOLUME, FILL, NVRAM, TPM, DOMAIN, START = "volume", "fill", "nvram", "tpm", "domain", "start"
"""Kinds of steps."""


@dataclass(frozen=True)
class Task:
    """A clone that was accepted, as the journal has it. Times in microseconds since 1970."""

    id: int
    kind: str
    status: str
    message: str
    target_uri: str
    server: str
    cancelled: bool
    created: int
    ended: int | None
    plan: Mapping[str, Any]
    done: Mapping[str, int]
    """Bytes done, by item, as last reported."""

    owner: str = ""
    """Who asked for it; '' where that is not known."""

    batch: int | None = None
    """What it was accepted with others as."""

    warning: str | None = None
    """What a finished one has to say beside."""

    keyed: bool = False
    """Whether it is the answer to an idempotency key, and therefore kept as long as that."""

    changed: int = 0
    """The change of the journal at which it was last written."""

    request: str = ""
    """The id of the request that it came of; '' where that is not known."""


@dataclass(frozen=True)
class Step:
    """One thing that a task was going to do (`begun`), has done (`done`) or has taken back (`undone`)."""

    task: int
    number: int
    kind: str
    state: str
    begun: int
    args: Mapping[str, Any]
    result: Mapping[str, Any] | None


@dataclass(frozen=True)
class Mark:
    """How a step went. `kept` names the item of a promise that is kept now: its bytes are written."""

    number: int
    state: str
    result: Mapping[str, Any] | None = None
    kept: str | None = None


@dataclass(frozen=True)
class Clone:
    """A domain that we made, and the storage that we made for it: (pool, volume) pairs and file paths."""

    uuid: str
    name: str
    created: int
    storage: Sequence[Mapping[str, str]]
    owner: str = ""
    """Who asked for it, as the journal has it; its task's owner when it is remembered."""

    server: str = field(default="", compare=False)
    """Which made it, likewise; '' where that is not known."""


@dataclass(frozen=True)
class Link:
    """A volume that is an overlay on the image at a path, and lost without it."""

    parent: str
    pool: str
    name: str
    server: str = field(default="", compare=False)
    """Which made it, as the journal has it; '' where that is not known."""

    path: str = ""
    """Where it was made, wherever its pool leads by now; '' where that is not known."""

    task: int = field(default=0, compare=False)
    """Which made it, likewise; 0 where that is not known."""


@dataclass(frozen=True)
class Hold:
    """An image that a server does something to: `act` says what, as in "is being deleted"."""

    path: str
    server: str
    act: str


@dataclass(frozen=True)
class RequestKey:
    """An idempotency key: a hash of the request that it came with, and the tasks that it was answered with.

    `tasks` is None while the request is being accepted, by `server`.
    """

    request: str
    server: str
    tasks: Sequence[int] | None
    batch: int | None


@dataclass(frozen=True)
class Forgotten:
    """A task that has left the list, at a change of the journal."""

    task: int
    owner: str
    changed: int


def task_of(row: Mapping[str, Any]) -> Task:
    """A row of `tasks`."""
    flags = {name: bool(row[name]) for name in ("cancelled", "keyed")}
    return Task(**{**row, **flags, "plan": json.loads(row["plan"]), "done": json.loads(row["done"])})


def step_of(row: Mapping[str, Any]) -> Step:
    """A row of `steps`."""
    result = json.loads(row["result"]) if row["result"] else None
    return Step(**{**row, "args": json.loads(row["args"]), "result": result})
