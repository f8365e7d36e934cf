"""The durable record of what was promised and what was done, shared by every server on one state directory.

SQLite in WAL mode by default; the statements are SQLAlchemy Core and run on PostgreSQL as well. A transaction that
writes takes the write lock at its start, so whatever it read is still true when it commits. The order in which
transactions commit is the order of their stamps.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import sqlalchemy as sa

from .. import errors
from ..clock import Clock, wall_clock
from . import database
from . import statements as sql
from .clones import Clones
from .database import Writer, open_engine, unavailable
from .migrations import MIGRATIONS
from .records import (
    BEGUN,
    FINISHED,
    KILLED,
    RUNNING,
    SOURCE,
    Clone,
    Forgotten,
    Link,
    Mark,
    Step,
    Task,
    step_of,
    task_of,
)
from .removals import Removals
from .transaction import CHANGED, Transaction, next_change

log = logging.getLogger(__name__)

_WAIT_IN_CHECK_S = 0.8

_IS_NOT_UNDONE = sa.or_(sql.tasks.c.batch.is_(None), sql.tasks.c.batch.not_in(sa.select(sql.withdrawals.c.batch)))
"""Whether a task is of no batch that is being undone."""


class Journal:
    """Opens the journal at an SQLAlchemy URL and brings its schema up to date.

    Raises JournalTooNew when a newer program has changed the schema, JournalUnavailable when it cannot be opened, and
    InvalidConfiguration for a URL that means no database or one whose driver is not installed.
    """

    def __init__(self, url: str | sa.URL, *, clock: Clock = wall_clock) -> None:
        self.clock = clock
        self._engine = open_engine(url)
        self.clones = Clones(self.connection)
        self.removals = Removals(self.connection)
        self.on_change: Callable[[], None] = lambda: None
        """Is told of each change of the list of tasks that this server has written."""

        self.on_end: Callable[[int], None] = lambda _task: None
        """Is told the id of each task that this server has ended."""

        # Threads of one process queue here rather than in SQLite's busy loop, a lottery with naps of up to 100 ms.
        self._writing = threading.Lock()
        self._writer = Writer(self._engine)
        try:
            with unavailable():
                self._migrate()
        finally:  # CherryPy may turn into a daemon next, and no open database may be carried across a fork
            self._engine.dispose()

    def close(self) -> None:
        with self._writing:
            self._writer.close()
        self._engine.dispose()

    def size(self) -> int | None:
        """Bytes that its files have; None for a journal that is no file of ours."""
        if self._engine.dialect.name != "sqlite":
            return None
        path = str(self._engine.url.database)
        return sum(os.path.getsize(file) for file in (path, f"{path}-wal") if os.path.exists(file))

    def check(self) -> None:
        """Writes something, for that is what a journal must take. Raises JournalUnavailable within a second.

        Only a disk or a database that hangs keeps it for longer.
        """
        with self._turn(_WAIT_IN_CHECK_S) as patience_s, unavailable(), self._engine.connect() as connection:
            connection.execution_options(patience_s=patience_s)
            connection.execute(sql.CHECK)
            connection.commit()

    @contextmanager
    def _turn(self, patience_s: float) -> Iterator[float]:
        """Keeps other threads from writing; gives what is left of the patience. Raises JournalUnavailable at its end.

        Where the database is locked, each of them would else wait for all before it, one after another.
        """
        until = time.monotonic() + patience_s
        if not self._writing.acquire(timeout=patience_s):
            raise errors.JournalUnavailable(cause="other threads of this server keep it locked")
        try:
            yield max(0.0, until - time.monotonic())
        finally:
            self._writing.release()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All of it is written, or, when the block raises, none of it."""
        with self._write() as connection:
            yield Transaction(connection, self.clock)

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with (
            self._turn(database.WAIT_FOR_LOCK_S) as patience_s,
            unavailable(),
            self._writer.transaction(patience_s) as connection,
        ):
            yield connection
            has_changed = connection.info.pop(CHANGED, False)
        if has_changed:
            self.on_change()

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with unavailable(), self._engine.connect().execution_options(reads_only=True) as connection:
            yield connection

    def connection(self, *, writes: bool) -> AbstractContextManager[sa.Connection]:
        """The journal's database, for what has tables of its own in it (tokens.py). Raises JournalUnavailable."""
        return self._write() if writes else self._read()

    def _migrate(self) -> None:
        with self._writing, self._engine.begin() as connection:
            connection.execute(
                sa.text("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied BIGINT)")
            )
            found = connection.execute(sa.text("SELECT coalesce(max(version), 0) FROM migrations")).scalar_one()
            if found > len(MIGRATIONS):
                raise errors.JournalTooNew(found=found, known=len(MIGRATIONS))
            for version, statements in enumerate(MIGRATIONS[found:], found + 1):
                log.info("journal: migration %d", version)
                for statement in statements:
                    connection.execute(sa.text(statement))
                applied = {"version": version, "applied": self.clock()}
                connection.execute(sa.text("INSERT INTO migrations VALUES (:version, :applied)"), applied)

    # --- Tasks -------------------------------------------------------------------------------------------------------

    def task(self, task_id: int) -> Task | None:
        with self._read() as connection:
            rows = sql.TASK.mappings(connection, of_task=task_id)
        return task_of(rows[0]) if rows else None

    def tasks(self, status: str | None = None, owner: str | None = None) -> list[Task]:
        """Every task, or those of one status or owner, in the order of their acceptance."""
        query = sa.select(sql.tasks).order_by(sql.tasks.c.id)
        if owner is not None:
            query = query.where(sql.tasks.c.owner == owner)
        if status is not None:
            query = query.where(sql.tasks.c.status == status)
        with self._read() as connection:
            return [task_of(dict(row)) for row in connection.execute(query).mappings()]

    def home(self, wanted: str) -> str:
        """Where the servers of this journal show that they are alive: `wanted`, if nobody was here before."""
        with self._write() as connection:
            query = sa.select(sql.facts.c.value).where(sql.facts.c.name == "home")
            found = connection.execute(query).scalar()
            if found is None:
                connection.execute(sa.insert(sql.facts).values(name="home", value=wanted))
            return found or wanted

    def servers_with_tasks(self) -> set[str]:
        """Ids of the servers that have running tasks."""
        query = sa.select(sql.tasks.c.server).where(sql.tasks.c.status == RUNNING).distinct()
        with self._read() as connection:
            return set(connection.execute(query).scalars())

    def cancel(self, task_id: int) -> bool:
        """Asks for a running task's end. False if it does not run."""
        wanted = (
            sa.update(sql.tasks).where(sql.tasks.c.id == task_id, sql.tasks.c.status == RUNNING).values(cancelled=1)
        )
        with self._write() as connection:
            return connection.execute(wanted).rowcount == 1

    def adopt(self, task_id: int, of: str, by: str) -> bool:
        """Makes a running task of one server another's. False if somebody else was faster."""
        here = (sql.tasks.c.id == task_id, sql.tasks.c.status == RUNNING, sql.tasks.c.server == of)
        with self._write() as connection:
            return connection.execute(sa.update(sql.tasks).where(*here).values(server=by)).rowcount == 1

    def report(self, news: Mapping[int, Mapping[str, int]]) -> list[int]:
        """Writes how far tasks are, and returns those of all that run which somebody asked to cancel."""
        if news:
            with self._write() as connection:
                change = next_change(connection)
                for task_id, done in news.items():
                    sql.REPORT.run(connection, of_task=task_id, was_done=json.dumps(done), change=change)
        query = sa.select(sql.tasks.c.id).where(sql.tasks.c.status == RUNNING, sql.tasks.c.cancelled == 1)
        with self._read() as connection:
            return list(connection.execute(query).scalars())

    def say(self, task_id: int, message: str) -> bool:
        """Gives a running task a message. False if it has that already, or does not run."""
        here = (sql.tasks.c.id == task_id, sql.tasks.c.status == RUNNING, sql.tasks.c.message != message)
        with self._write() as connection:
            if connection.execute(sa.select(sql.tasks.c.id).where(*here)).first() is None:
                return False
            said = {"message": message, "changed": next_change(connection)}
            connection.execute(sa.update(sql.tasks).where(*here).values(said))
        return True

    def end(  # noqa: PLR0913 - all that an end may bring
        self,
        task_id: int,
        status: str,
        message: str,
        clone: Clone | None = None,
        *,
        done: Mapping[str, int] | None = None,
        links: Collection[Link] = (),
        warning: str | None = None,
    ) -> None:
        """Ends a task: its names and promises are free again; a clone that came of it is remembered with its MACs."""
        with self._write() as connection:
            ended = {"became": status, "says": message, "warns": warning, "at": self.clock()}
            ended |= {"change": next_change(connection), "was_done": None if done is None else json.dumps(done)}
            ended["most_cancelled"] = 0 if status == FINISHED else 1
            if sql.END.run(connection, of_task=task_id, **ended) == 0:
                raise errors.CloneCancelled
            sql.DROP_PROMISES.run(connection, of_task=task_id)
            sql.DROP_STEPS.run(connection, of_task=task_id)
            ((owner, server),) = sql.MAKER.rows(connection, of_task=task_id) if clone or links else (("", ""),)
            if clone is not None:
                sql.KEEP_MACS.run(connection, of_task=task_id)
                row = {"uuid": clone.uuid, "name": clone.name, "created": clone.created}
                sql.ADD_CLONE.run(
                    connection, **row, storage=json.dumps(list(clone.storage)), owner=owner, server=server
                )
            sql.DROP_RESERVATIONS.run(connection, of_task=task_id)
            for link in links:
                sql.ADD_LINK.run(connection, **{**vars(link), "server": server, "task": task_id})
        self.on_end(task_id)

    def withdraw(self, task_id: int, *, warning: str | None = None) -> None:
        """Writes that what a finished task had made was removed again; or why not, as a warning."""
        row: dict[str, Any] = {"warning": warning}
        row |= {} if warning else {"status": KILLED, "message": errors.Withdrawn().reason}
        with self._write() as connection:
            here = (sql.tasks.c.id == task_id, sql.tasks.c.status == FINISHED)
            connection.execute(sa.update(sql.tasks).where(*here).values(row | {"changed": next_change(connection)}))

    def forget(self, task_id: int) -> bool:
        """Takes an ended task out of the list. False for a finished one of a batch that is being undone: it stays."""
        may_go = sa.or_(sql.tasks.c.status != FINISHED, _IS_NOT_UNDONE)
        here = sql.tasks.c.id == task_id
        with self._write() as connection:
            self._forget(connection, sa.and_(here, may_go))
            return connection.execute(sa.select(sql.tasks.c.id).where(here)).first() is None

    def age_out(self, older_than: int, keyed_before: int) -> int:
        """Forgets the tasks that ended before `older_than`; returns how many. Both in µs since 1970.

        Those that answer a key stay if they were accepted after `keyed_before`, and so do those of a batch that is
        being undone: nothing else tells what is to be removed.
        """
        may_go = sa.or_(sql.tasks.c.keyed == 0, sql.tasks.c.created < keyed_before)
        with self._write() as connection:
            connection.execute(sa.delete(sql.forgotten).where(sql.forgotten.c.at < older_than))
            return self._forget(connection, sa.and_(sql.tasks.c.ended < older_than, may_go, _IS_NOT_UNDONE))

    def _forget(self, connection: sa.Connection, which: sa.ColumnElement[bool]) -> int:
        """Takes ended tasks out of the list, and remembers for those who follow it that they were there."""
        which = sa.and_(sql.tasks.c.status != RUNNING, which)
        gone = connection.execute(sa.select(sql.tasks.c.id, sql.tasks.c.owner).where(which)).all()
        if gone:
            now = {"changed": next_change(connection), "at": self.clock()}
            rows = [{"task": task, "owner": owner, **now} for task, owner in gone]
            connection.execute(sa.insert(sql.forgotten), rows)
            connection.execute(sa.delete(sql.tasks).where(which))
        return len(gone)

    # --- Changes -----------------------------------------------------------------------------------------------------

    def last_change(self) -> int:
        """The number of the last change of the list of tasks."""
        with self._read() as connection:
            last = sa.select(sql.counters.c.last).where(sql.counters.c.name == "change")
            return int(connection.execute(last).scalar_one())

    def changes(self, after: tuple[int, int], most: int) -> list[Task | Forgotten]:
        """Tasks that were written, and those that left the list, after a (change, task) in this order; `most` of each.

        A task that has changed twice is there once, as it is now.
        """
        found: list[Task | Forgotten] = []
        with self._read() as connection:
            for table, identity in ((sql.tasks, sql.tasks.c.id), (sql.forgotten, sql.forgotten.c.task)):
                later = sa.or_(table.c.changed > after[0], sa.and_(table.c.changed == after[0], identity > after[1]))
                query = sa.select(table).where(later).order_by(table.c.changed, identity).limit(most)
                for row in connection.execute(query).mappings():
                    gone = None if table is sql.tasks else Forgotten(row["task"], row["owner"], row["changed"])
                    found.append(gone or task_of(dict(row)))
        return sorted(found, key=position)[:most]

    # --- Batches and keys --------------------------------------------------------------------------------------------

    def batch(self, batch: int) -> list[Task]:
        """The tasks that were accepted together, as far as they are in the list."""
        query = sa.select(sql.tasks).where(sql.tasks.c.batch == batch).order_by(sql.tasks.c.id)
        with self._read() as connection:
            return [task_of(dict(row)) for row in connection.execute(query).mappings()]

    def tasks_of(self, ids: Collection[int]) -> list[Task]:
        """The tasks of these ids, as far as they are in the list."""
        query = sa.select(sql.tasks).where(sql.tasks.c.id.in_(ids)).order_by(sql.tasks.c.id)
        with self._read() as connection:
            return [task_of(dict(row)) for row in connection.execute(query).mappings()]

    def release_key(self, owner: str, name: str) -> None:
        """Forgets a key that was not answered."""
        here = (sql.request_keys.c.owner == owner, sql.request_keys.c.name == name, sql.request_keys.c.tasks.is_(None))
        with self._write() as connection:
            connection.execute(sa.delete(sql.request_keys).where(*here))

    # --- Steps -------------------------------------------------------------------------------------------------------

    def begin(
        self,
        task_id: int,
        number: int,
        kind: str,
        args: Mapping[str, Any],
        message: str,
        marks: Collection[Mark] = (),
    ) -> Step:
        """Writes a step down before it is taken, with how others of the task went, and says so in the task's message.

        Raises CloneCancelled, writing nothing, when the task's end was asked for or has come.
        """
        row: dict[str, Any] = {"task": task_id, "number": number, "kind": kind, "state": BEGUN, "begun": self.clock()}
        row |= {"args": json.dumps(args), "result": None}
        with self._write() as connection:
            going_on = {"of_task": task_id, "says": message, "change": next_change(connection)}
            if sql.GO_ON.run(connection, **going_on) == 0:
                raise errors.CloneCancelled
            _write_marks(connection, task_id, marks)
            sql.ADD_STEP.run(connection, **row)
        return Step(task_id, number, kind, BEGUN, row["begun"], args, None)

    def mark(self, task_id: int, marks: Collection[Mark]) -> None:
        """Writes how steps of a task went."""
        if marks:
            with self._write() as connection:
                _write_marks(connection, task_id, marks)

    def steps(self, task_id: int) -> list[Step]:
        with self._read() as connection:
            return [step_of(dict(row)) for row in connection.execute(sql.STEPS, {"of_task": task_id}).mappings()]

    # --- Names -------------------------------------------------------------------------------------------------------

    def image_paths(self) -> set[str]:
        """Paths of the images that tasks read, overlays stand on, or somebody holds."""
        reading = sa.select(sql.reservations.c.scope).where(sql.reservations.c.kind == SOURCE)
        query = sa.union(reading, sa.select(sql.links.c.parent), sa.select(sql.holds.c.path))
        with self._read() as connection:
            return set(connection.execute(query).scalars())

    def reserved(self) -> list[tuple[str, str, str]]:
        """(kind, scope, name) of every reservation that a task holds."""
        held = sa.select(sql.reservations.c.kind, sql.reservations.c.scope, sql.reservations.c.name)
        with self._read() as connection:
            return [tuple(row) for row in connection.execute(held.where(sql.reservations.c.task.is_not(None)))]


def position(item: Task | Forgotten) -> tuple[int, int]:
    """Where something stands in the order of changes."""
    return (item.changed, item.id if isinstance(item, Task) else item.task)


def _write_marks(connection: sa.Connection, task_id: int, marks: Collection[Mark]) -> None:
    for mark in marks:
        values = {"of_task": task_id, "numbered": mark.number, "became": mark.state, "gave": json.dumps(mark.result)}
        sql.MARK.run(connection, **values)
        if mark.kept is not None:
            sql.KEEP_PROMISE.run(connection, of_task=task_id, of_item=mark.kept)
