"""What can be written to the journal together: names, bytes, tasks, holds, keys. All of it, or nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ..clock import Clock, StampSource
from . import statements as sql
from .records import RUNNING, SOURCE, Hold, Link, RequestKey, Task, task_of

CHANGED = "cloner-changed"
"""What a connection remembers for as long as the transaction that has written to the list of tasks."""


class Transaction(StampSource):
    """What can be written together. Comes from `Journal.transaction()`, and ends with it."""

    def __init__(self, connection: sa.Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._change = 0
        self.last_stamp = 0
        """The last that it has given out."""

    def stamp(self) -> int:
        """A stamp in µs since 1970, greater than every one that this journal gave out before."""
        self.last_stamp = self._count("stamp", self._clock())
        return self.last_stamp

    def claim_stamps(self, first: int, last: int) -> bool:
        """Gives out stamps that were foreseen. False, and none of them, if one as great was given out before."""
        is_claimed = last >= first and sql.CLAIM.run(self._connection, first=first, upto=last) == 1
        self.last_stamp = last if is_claimed else self.last_stamp
        return is_claimed

    def _count(self, name: str, least: int) -> int:
        return _count(self._connection, name, least)

    def reserve(self, kind: str, scope: str, name: str, *, task: int | None = None, domain: str | None = None) -> bool:
        """Makes the name ours. False if it is already somebody's."""
        return bool(sql.RESERVE.run(self._connection, kind=kind, scope=scope, name=name, task=task, domain=domain))

    def is_reserved(self, kind: str, scope: str, name: str) -> bool:
        """Whether a name is somebody's already."""
        return bool(sql.IS_RESERVED.rows(self._connection, of_kind=kind, in_scope=scope, called=name))

    def promised(self, pool: str, device: int | None = None) -> int:
        """Bytes that accepted clones are still going to write to the pool, or to others on the same file system."""
        return int(sql.PROMISED.value(self._connection, in_pool=pool, on_device=device))

    def promises_under_way(self, pool: str, device: int | None = None) -> list[tuple[str, str, int]]:
        """Those of these promises whose volumes are being written: pool, volume, bytes. As many as workers."""
        return [(*row,) for row in sql.UNDER_WAY.rows(self._connection, in_pool=pool, on_device=device)]

    def promise(self, task: int, pool: str, item: str, size: int, device: int | None = None) -> None:
        """Counts `size` bytes as taken in the pool until the promise is kept or the task ends.

        `device` is the number of the file system that it lies on, where the server sees that.
        """
        sql.PROMISE.run(self._connection, task=task, pool=pool, item=item, bytes=size, device=device)

    def dependents(self, paths: Collection[str]) -> tuple[list[int], list[Link]]:
        """Running tasks that read images at these paths, and volumes that are overlays on them."""
        reading = sa.select(sql.reservations.c.task).where(
            sql.reservations.c.kind == SOURCE, sql.reservations.c.scope.in_(paths), sql.reservations.c.task.is_not(None)
        )
        return sorted(set(self._connection.execute(reading).scalars())), links_on(self._connection, paths)

    def holds(self, paths: Collection[str]) -> list[Hold]:
        """Who does something to images at these paths."""
        return [Hold(*row) for path in paths for row in sql.HELD_AT.rows(self._connection, at=path)]

    def hold(self, paths: Collection[str], server: str, act: str) -> None:
        """Keeps images for a server, until `release`; none of them may be held already."""
        if paths:
            rows = [{"path": path, "server": server, "act": act} for path in paths]
            self._connection.execute(sa.insert(sql.holds), rows)

    def release(self, paths: Collection[str], server: str) -> None:
        """Frees images that a server held."""
        self._connection.execute(sa.delete(sql.holds).where(sql.holds.c.path.in_(paths), sql.holds.c.server == server))

    def holders(self) -> set[str]:
        """Servers that hold any image."""
        return set(self._connection.execute(sa.select(sql.holds.c.server).distinct()).scalars())

    def drop_holds(self, server: str, but: Collection[str] = ()) -> None:
        """Frees what a server held that died, or what nobody holds for it any more: all `but` some paths."""
        left = (sql.holds.c.server == server, sql.holds.c.path.not_in(but))
        self._connection.execute(sa.delete(sql.holds).where(*left))

    def usage(self, owner: str) -> tuple[int, int]:
        """How many tasks of an owner run, and the bytes that they are still going to write."""
        running, promised = (
            int(statement.value(self._connection, of_owner=owner)) for statement in (sql.RUNNING_OF, sql.PROMISED_TO)
        )
        return running, promised

    def new_task_id(self) -> int:
        return self._count("task", 0)

    def new_batch_id(self) -> int:
        return self._count("batch", 0)

    # --- Idempotency keys --------------------------------------------------------------------------------------------

    def key(self, owner: str, name: str, lasts: int) -> RequestKey | None:
        """What is known of a key; nothing of one that is older than `lasts` (µs)."""
        here = (sql.request_keys.c.owner == owner, sql.request_keys.c.name == name)
        self._connection.execute(sa.delete(sql.request_keys).where(sql.request_keys.c.created < self._clock() - lasts))
        row = self._connection.execute(sa.select(sql.request_keys).where(*here)).mappings().first()
        if row is None:
            return None
        tasks = None if row["tasks"] is None else json.loads(row["tasks"])
        return RequestKey(row["request"], row["server"], tasks, row["batch"])

    def claim_key(self, owner: str, name: str, request: str, server: str) -> None:
        """Makes a key that of a request which a server is going to accept."""
        here = (sql.request_keys.c.owner == owner, sql.request_keys.c.name == name)
        self._connection.execute(sa.delete(sql.request_keys).where(*here))
        row = {"owner": owner, "name": name, "request": request, "server": server, "created": self._clock()}
        self._connection.execute(sa.insert(sql.request_keys).values(**row, tasks=None, batch=None))

    def answer_key(self, owner: str, name: str, tasks: Sequence[int], batch: int | None) -> None:
        """Writes what a key is answered with from now on."""
        here = (sql.request_keys.c.owner == owner, sql.request_keys.c.name == name)
        answer = {"tasks": json.dumps(list(tasks)), "batch": batch}
        self._connection.execute(sa.update(sql.request_keys).where(*here).values(answer))

    # --- Tasks -------------------------------------------------------------------------------------------------------

    def add_task(  # noqa: PLR0913 - a task's columns
        self,
        task_id: int,
        kind: str,
        target_uri: str,
        server: str,
        plan: Mapping[str, Any],
        *,
        owner: str = "",
        batch: int | None = None,
        keyed: bool = False,
        request: str = "",
    ) -> Task:
        """Writes down a task that runs from now on."""
        row: dict[str, Any] = {"id": task_id, "kind": kind, "status": RUNNING, "message": "", "target_uri": target_uri}
        row |= {"server": server, "cancelled": 0, "created": self._clock(), "ended": None, "plan": json.dumps(plan)}
        self._change = self._change or next_change(self._connection)
        row |= {"done": "{}", "owner": owner, "batch": batch, "warning": None, "keyed": int(keyed)}
        row |= {"changed": self._change, "request": request}
        sql.ADD_TASK.run(self._connection, **row)
        return task_of(row)


def next_change(connection: sa.Connection) -> int:
    """A number for the change that a transaction makes to tasks: greater than that of every one before."""
    connection.info[CHANGED] = True
    return _count(connection, "change", 0)


def _count(connection: sa.Connection, name: str, least: int) -> int:
    return int(sql.COUNT.value(connection, counter=name, least=least))


def links_on(connection: sa.Connection, paths: Collection[str]) -> list[Link]:
    """Volumes that are overlays on the images at these paths."""
    linked = sa.select(sql.links).where(sql.links.c.parent.in_(paths))
    return [Link(**row) for row in connection.execute(linked).mappings()]
