"""The durable record of what was promised and what was done, shared by every server on one state directory.

SQLite in WAL mode by default; the statements are SQLAlchemy Core and run on PostgreSQL as well. A transaction that
writes takes the write lock at its start, so whatever it read is still true when it commits. The order in which
transactions commit is the order of their stamps.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from .. import errors
from ..clock import Clock, StampSource, wall_clock
from . import statements as sql
from .migrations import MIGRATIONS

log = logging.getLogger(__name__)

RUNNING, FINISHED, FAILED, KILLED = "running", "finished", "failed", "killed"
"""The words that Kimchi's page knows for a task's status, and `killed` for one that was cancelled."""

SOURCE = "source"
"""Kind of the reservations by which a task holds the images that it reads; `scope` is the image's path."""

BEGUN, DONE, UNDONE = "begun", "done", "undone"

_WAIT_FOR_LOCK_S = 30.0
_WAIT_IN_CHECK_S = 0.8
_NAP_S = 0.01
_POSTGRESQL_LOCK = 0x636C6F6E6572  # "cloner"; a number for all who write to one database

_OUR_MISTAKES = (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.NotSupportedError, sa.exc.ProgrammingError)
"""Errors that speak of the statement; the others, such as that of a damaged file, speak of the database."""


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


@dataclass(frozen=True)
class Link:
    """A volume that is an overlay on the image at a path, and lost without it."""

    parent: str
    pool: str
    name: str


@dataclass(frozen=True)
class Hold:
    """An image that a server does something to: `act` says what, as in "is being deleted"."""

    path: str
    server: str
    act: str


class Transaction(StampSource):
    """What can be written together. Comes from `Journal.transaction()`, and ends with it."""

    def __init__(self, connection: sa.Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def stamp(self) -> int:
        """A stamp in µs since 1970, greater than every one that this journal gave out before."""
        return self._count("stamp", self._clock())

    def _count(self, name: str, least: int) -> int:
        return int(self._connection.execute(sql.COUNT, {"counter": name, "least": least}).scalar_one())

    def reserve(self, kind: str, scope: str, name: str, *, task: int | None = None, domain: str | None = None) -> bool:
        """Makes the name ours. False if it is already somebody's."""
        row = {"kind": kind, "scope": scope, "name": name, "task": task, "domain": domain}
        return self._connection.execute(sql.RESERVE[self._connection.dialect.name], row).first() is not None

    def is_reserved(self, kind: str, scope: str, name: str) -> bool:
        """Whether a name is somebody's already."""
        key = {"of_kind": kind, "in_scope": scope, "called": name}
        return self._connection.execute(sql.IS_RESERVED, key).first() is not None

    def promised(self, pool: str) -> int:
        """Bytes that accepted clones are still going to write to the pool."""
        return int(self._connection.execute(sql.PROMISED, {"in_pool": pool}).scalar_one())

    def promises_under_way(self, pool: str) -> list[tuple[str, int]]:
        """Volumes of the pool that are being written, with the bytes that each was promised: as many as workers."""
        return [(row.item, row.bytes) for row in self._connection.execute(sql.UNDER_WAY, {"in_pool": pool})]

    def promise(self, task: int, pool: str, item: str, size: int) -> None:
        """Counts `size` bytes as taken in the pool until the promise is kept or the task ends."""
        self._connection.execute(sql.PROMISE, {"task": task, "pool": pool, "item": item, "bytes": size})

    def dependents(self, paths: Collection[str]) -> tuple[list[int], list[Link]]:
        """Running tasks that read images at these paths, and volumes that are overlays on them."""
        reading = sa.select(sql.reservations.c.task).where(
            sql.reservations.c.kind == SOURCE, sql.reservations.c.scope.in_(paths), sql.reservations.c.task.is_not(None)
        )
        return sorted(set(self._connection.execute(reading).scalars())), _links(self._connection, paths)

    def holds(self, paths: Collection[str]) -> list[Hold]:
        """Who does something to images at these paths."""
        found = sa.select(sql.holds).where(sql.holds.c.path.in_(paths))
        return [Hold(**row) for row in self._connection.execute(found).mappings()]

    def hold(self, paths: Collection[str], server: str, act: str) -> None:
        """Keeps images for a server, until `Journal.release`; none of them may be held already."""
        if paths:
            rows = [{"path": path, "server": server, "act": act} for path in paths]
            self._connection.execute(sa.insert(sql.holds), rows)

    def drop_holds(self, server: str) -> None:
        """Frees what a server that died held."""
        self._connection.execute(sa.delete(sql.holds).where(sql.holds.c.server == server))

    def usage(self, owner: str) -> tuple[int, int]:
        """How many tasks of an owner run, and the bytes that they are still going to write."""
        running, promised = (
            int(self._connection.execute(statement, {"of_owner": owner}).scalar_one())
            for statement in (sql.RUNNING_OF, sql.PROMISED_TO)
        )
        return running, promised

    def new_task_id(self) -> int:
        return self._count("task", 0)

    def add_task(
        self, task_id: int, kind: str, target_uri: str, server: str, plan: Mapping[str, Any], *, owner: str = ""
    ) -> Task:
        """Writes down a task that runs from now on."""
        row: dict[str, Any] = {"id": task_id, "kind": kind, "status": RUNNING, "message": "", "target_uri": target_uri}
        row |= {"server": server, "cancelled": 0, "created": self._clock(), "ended": None, "plan": json.dumps(plan)}
        row |= {"done": "{}", "owner": owner}
        self._connection.execute(sql.ADD_TASK, row)
        return _task(row)


class Journal:
    """Opens the journal at an SQLAlchemy URL and brings its schema up to date.

    Raises JournalTooNew when a newer program has changed the schema, JournalUnavailable when it cannot be opened, and
    InvalidConfiguration for a URL that means no database or one whose driver is not installed.
    """

    def __init__(self, url: str | sa.URL, *, clock: Clock = wall_clock) -> None:
        self._clock = clock
        self._engine = _engine(url)
        # Threads of one process queue here rather than in SQLite's busy loop, a lottery with naps of up to 100 ms.
        self._writing = threading.Lock()
        try:
            with _unavailable():
                self._migrate()
        finally:  # CherryPy may turn into a daemon next, and no open database may be carried across a fork
            self._engine.dispose()

    def close(self) -> None:
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
        until = time.monotonic() + _WAIT_IN_CHECK_S
        if not self._writing.acquire(timeout=_WAIT_IN_CHECK_S):
            raise errors.JournalUnavailable(cause="other threads of this server keep it locked")
        try:
            patience = max(0.0, until - time.monotonic())
            with _unavailable(), self._engine.connect() as connection:
                connection.execution_options(patience_s=patience)
                connection.execute(sql.CHECK[connection.dialect.name], {"value": str(self._clock())})
                connection.commit()
        finally:
            self._writing.release()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All of it is written, or, when the block raises, none of it."""
        with self._write() as connection:
            yield Transaction(connection, self._clock)

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._writing, _unavailable(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with _unavailable(), self._engine.connect().execution_options(reads_only=True) as connection:
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
                applied = {"version": version, "applied": self._clock()}
                connection.execute(sa.text("INSERT INTO migrations VALUES (:version, :applied)"), applied)

    # --- Tasks -------------------------------------------------------------------------------------------------------

    def task(self, task_id: int) -> Task | None:
        with self._read() as connection:
            row = connection.execute(sa.select(sql.tasks).where(sql.tasks.c.id == task_id)).mappings().first()
        return _task(dict(row)) if row else None

    def tasks(self, status: str | None = None, owner: str | None = None) -> list[Task]:
        """Every task, or those of one status or owner, in the order of their acceptance."""
        query = sa.select(sql.tasks).order_by(sql.tasks.c.id)
        if owner is not None:
            query = query.where(sql.tasks.c.owner == owner)
        if status is not None:
            query = query.where(sql.tasks.c.status == status)
        with self._read() as connection:
            return [_task(dict(row)) for row in connection.execute(query).mappings()]

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

    def report(self, news: Mapping[int, Mapping[str, int]], running: Collection[int]) -> list[int]:
        """Writes how far tasks are, and returns which of those that run somebody asked to cancel."""
        if news:
            with self._write() as connection:
                for task_id, done in news.items():
                    told = sa.update(sql.tasks).where(sql.tasks.c.id == task_id, sql.tasks.c.status == RUNNING)
                    connection.execute(told.values(done=json.dumps(done)))
        query = sa.select(sql.tasks.c.id).where(sql.tasks.c.id.in_(running), sql.tasks.c.cancelled == 1)
        with self._read() as connection:
            return list(connection.execute(query).scalars())

    def end(
        self,
        task_id: int,
        status: str,
        message: str,
        clone: Clone | None = None,
        done: Mapping[str, int] | None = None,
        links: Collection[Link] = (),
    ) -> None:
        """Ends a task: its names and promises are free again; a clone that came of it is remembered with its MACs."""
        with self._write() as connection:
            ended = {"status": status, "message": message, "ended": self._clock()}
            ended |= {} if done is None else {"done": json.dumps(done)}
            may_end = sa.true() if status != FINISHED else sql.tasks.c.cancelled == 0
            if (
                connection.execute(
                    sa.update(sql.tasks).where(sql.tasks.c.id == task_id, may_end).values(ended)
                ).rowcount
                == 0
            ):
                raise errors.CloneCancelled
            connection.execute(sql.DROP_PROMISES, {"of_task": task_id})
            connection.execute(sql.DROP_STEPS, {"of_task": task_id})
            if clone is not None:
                connection.execute(sql.KEEP_MACS, {"of_task": task_id})
                storage = json.dumps(list(clone.storage))
                row = {"uuid": clone.uuid, "name": clone.name, "created": clone.created, "storage": storage}
                row["owner"] = connection.execute(sql.OWNER, {"of_task": task_id}).scalar_one()
                connection.execute(sql.ADD_CLONE, row)
            connection.execute(sql.DROP_RESERVATIONS, {"of_task": task_id})
            for link in links:
                connection.execute(sql.ADD_LINK[connection.dialect.name], vars(link))

    def forget(self, task_id: int) -> None:
        """Takes an ended task out of the list."""
        with self._write() as connection:
            connection.execute(sa.delete(sql.tasks).where(sql.tasks.c.id == task_id, sql.tasks.c.status != RUNNING))

    def age_out(self, older_than: int) -> int:
        """Forgets the tasks that ended before `older_than` (µs since 1970); returns how many."""
        old = sa.delete(sql.tasks).where(sql.tasks.c.status != RUNNING, sql.tasks.c.ended < older_than)
        with self._write() as connection:
            return connection.execute(old).rowcount

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
        row: dict[str, Any] = {"task": task_id, "number": number, "kind": kind, "state": BEGUN, "begun": self._clock()}
        row |= {"args": json.dumps(args), "result": None}
        with self._write() as connection:
            if connection.execute(sql.GO_ON, {"of_task": task_id, "says": message}).rowcount == 0:
                raise errors.CloneCancelled
            _write_marks(connection, task_id, marks)
            connection.execute(sql.ADD_STEP, row)
        return Step(task_id, number, kind, BEGUN, row["begun"], args, None)

    def mark(self, task_id: int, marks: Collection[Mark]) -> None:
        """Writes how steps of a task went."""
        if marks:
            with self._write() as connection:
                _write_marks(connection, task_id, marks)

    def steps(self, task_id: int) -> list[Step]:
        with self._read() as connection:
            return [_step(dict(row)) for row in connection.execute(sql.STEPS, {"of_task": task_id}).mappings()]

    # --- Clones ------------------------------------------------------------------------------------------------------

    def clone(self, uuid: str) -> Clone | None:
        """What is known of a domain that we made."""
        with self._read() as connection:
            row = connection.execute(sa.select(sql.clones).where(sql.clones.c.uuid == uuid)).mappings().first()
        return Clone(**{**row, "storage": json.loads(row["storage"])}) if row else None

    def links(self, paths: Collection[str]) -> list[Link]:
        """Volumes that are overlays on the images at these paths."""
        with self._read() as connection:
            return _links(connection, paths)

    def release(self, paths: Collection[str], server: str) -> None:
        """Frees images that a server held."""
        with self._write() as connection:
            connection.execute(sa.delete(sql.holds).where(sql.holds.c.path.in_(paths), sql.holds.c.server == server))

    def unlink(self, links: Collection[Link]) -> None:
        """Forgets overlays that are gone."""
        if not links:
            return
        with self._write() as connection:
            for link in links:
                here = (sql.links.c.parent == link.parent, sql.links.c.pool == link.pool, sql.links.c.name == link.name)
                connection.execute(sa.delete(sql.links).where(*here))

    def clone_is_gone(self, uuid: str) -> None:
        """Forgets a clone that was deleted, and frees its MACs."""
        with self._write() as connection:
            connection.execute(sa.delete(sql.clones).where(sql.clones.c.uuid == uuid))
            connection.execute(
                sa.delete(sql.reservations).where(sql.reservations.c.domain == uuid, sql.reservations.c.task.is_(None))
            )

    def reserved(self) -> list[tuple[str, str, str]]:
        """(kind, scope, name) of every reservation that a task holds."""
        held = sa.select(sql.reservations.c.kind, sql.reservations.c.scope, sql.reservations.c.name)
        with self._read() as connection:
            return [tuple(row) for row in connection.execute(held.where(sql.reservations.c.task.is_not(None)))]


def _write_marks(connection: sa.Connection, task_id: int, marks: Collection[Mark]) -> None:
    for mark in marks:
        values = {"of_task": task_id, "numbered": mark.number, "became": mark.state, "gave": json.dumps(mark.result)}
        connection.execute(sql.MARK, values)
        if mark.kept is not None:
            connection.execute(sql.KEEP_PROMISE, {"of_task": task_id, "of_item": mark.kept})


def _links(connection: sa.Connection, paths: Collection[str]) -> list[Link]:
    linked = sa.select(sql.links).where(sql.links.c.parent.in_(paths))
    return [Link(**row) for row in connection.execute(linked).mappings()]


def _engine(url: str | sa.URL) -> sa.Engine:
    try:
        engine = sa.create_engine(
            url, pool_size=8, max_overflow=-1, pool_reset_on_return=None
        )  # each block ends itself
    except (sa.exc.ArgumentError, ImportError, TypeError) as error:
        raise errors.InvalidConfiguration(cause=f"journal: {error}") from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        sa.event.listen(engine, "begin", _begin_postgresql)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transactions begin too late, at the first write; SQLAlchemy's manual has this remedy.
    connection.isolation_level = None
    _use_wal(connection)
    # Survives the death of any process at any moment. After a power cut the last commits may be missing, never torn.
    connection.execute("PRAGMA synchronous = NORMAL")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Waits here, since SQLite does not, for another server that starts at the same time on a new file."""
    deadline = time.monotonic() + _WAIT_FOR_LOCK_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_NAP_S)
        else:
            return


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    driver: Any = connection.connection.dbapi_connection
    driver.execute(f"PRAGMA busy_timeout = {_patience_ms(options)}")
    connection.exec_driver_sql("BEGIN" if options.get("reads_only") else "BEGIN IMMEDIATE")


def _begin_postgresql(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("reads_only"):
        return
    # Readers do not lock there: two clones would each be promised the same last bytes of a pool.
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_patience_ms(options)}")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_POSTGRESQL_LOCK})")


def _patience_ms(options: Mapping[str, Any]) -> int:
    """How long a transaction waits for the lock: at least 1 ms, since 0 is no wait for SQLite, any for PostgreSQL."""
    return max(1, int(options.get("patience_s", _WAIT_FOR_LOCK_S) * 1000))


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except _OUR_MISTAKES:
        raise
    except sa.exc.DatabaseError as error:
        raise errors.JournalUnavailable(cause=error.orig or error) from error


def _task(row: Mapping[str, Any]) -> Task:
    return Task(
        **{**row, "cancelled": bool(row["cancelled"]), "plan": json.loads(row["plan"]), "done": json.loads(row["done"])}
    )


def _step(row: Mapping[str, Any]) -> Step:
    result = json.loads(row["result"]) if row["result"] else None
    return Step(**{**row, "args": json.loads(row["args"]), "result": result})
