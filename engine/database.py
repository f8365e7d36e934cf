"""The journal's database: SQLite in WAL mode or PostgreSQL, and what both need for writers to come one by one."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa

from .. import errors
from .prepared import Prepared

WAIT_FOR_LOCK_S = 30.0
_NAP_S = 0.01
_PATIENCE = "cloner-patience-ms"
_POSTGRESQL_LOCK = 0x636C6F6E6572  # "cloner"; a number for all who write to one database

_OUR_MISTAKES = (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.NotSupportedError, sa.exc.ProgrammingError)
"""Errors that speak of the statement; the others, such as that of a damaged file, speak of the database."""


def open_engine(url: str | sa.URL) -> sa.Engine:
    """An engine for a URL. Raises InvalidConfiguration for one that means no database, or whose driver is missing."""
    try:
        # Every block ends its transaction by itself, so the pool need not. The connection that wrote last writes next:
        # another one would have to read anew what this one has changed.
        engine = sa.create_engine(url, pool_size=8, max_overflow=-1, pool_reset_on_return=None, pool_use_lifo=True)
    except (sa.exc.ArgumentError, ImportError, TypeError) as error:
        raise errors.InvalidConfiguration(cause=f"journal: {error}") from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        sa.event.listen(engine, "begin", _begin_postgresql)
    return engine


class Writer:
    """The connection that writes: kept open, and used by one thread at a time, which is the caller's to see to.

    From one transaction to the next SQLAlchemy's own way takes several times as long as SQLite takes to commit one.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._kept: sa.Connection | None = None

    def close(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    @contextmanager
    def transaction(self, patience_s: float) -> Iterator[sa.Connection]:
        """All of it is written, or, when the block raises, none of it. Raises the errors that SQLAlchemy raises.

        `patience_s`: how long other processes may keep the database locked.
        """
        if self._engine.dialect.name != "sqlite":
            with self._engine.connect().execution_options(patience_s=patience_s) as connection, connection.begin():
                yield connection
            return
        connection = self._kept = self._kept or self._engine.connect()
        try:
            _be_patient(connection, {"patience_s": patience_s})
            _BEGIN.run(connection)
            yield connection
            self._end(connection, _COMMIT)
        except BaseException:
            with suppress(sa.exc.DBAPIError):
                self._end(connection, _ROLLBACK)
            # What is wrong with it, nobody knows. SQLite ends a transaction itself where a disk fails or is full, and
            # SQLAlchemy then takes no other one on this connection before that is rolled back.
            if _is_open(connection) or connection.get_transaction() is not None:
                connection.invalidate()
                self.close()
            raise

    def _end(self, connection: sa.Connection, how: Prepared) -> None:
        """Ends a transaction, also one that SQLAlchemy has joined because of a statement that is not prepared."""
        if connection.in_transaction():
            (connection.commit if how is _COMMIT else connection.rollback)()
        if _is_open(connection):
            how.run(connection)


_BEGIN, _COMMIT, _ROLLBACK = (Prepared(sa.text(words)) for words in ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"))


def _is_open(connection: sa.Connection) -> bool:
    """Whether SQLite is within a transaction."""
    driver: Any = connection.connection.dbapi_connection
    return bool(driver.in_transaction)


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transactions begin too late, at the first write; SQLAlchemy's manual has this remedy.
    connection.isolation_level = None
    _use_wal(connection)
    # Survives the death of any process at any moment. After a power cut the last commits may be missing, never torn.
    connection.execute("PRAGMA synchronous = NORMAL")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Waits here, since SQLite does not, for another server that starts at the same time on a new file."""
    deadline = time.monotonic() + WAIT_FOR_LOCK_S
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
    if _is_open(connection):  # it joins what the writer has begun
        return
    options = connection.get_execution_options()
    _be_patient(connection, options)
    connection.exec_driver_sql("BEGIN" if options.get("reads_only") else "BEGIN IMMEDIATE")


def _be_patient(connection: sa.Connection, options: Mapping[str, Any]) -> None:
    patience = _patience_ms(options)
    if connection.info.get(_PATIENCE) != patience:
        driver: Any = connection.connection.dbapi_connection
        driver.execute(f"PRAGMA busy_timeout = {patience}")
        connection.info[_PATIENCE] = patience


def _begin_postgresql(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("reads_only"):
        return
    # Readers do not lock there: two clones would each be promised the same last bytes of a pool.
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_patience_ms(options)}")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_POSTGRESQL_LOCK})")


def _patience_ms(options: Mapping[str, Any]) -> int:
    """How long a transaction waits for the lock: at least 1 ms, since 0 is no wait for SQLite, any for PostgreSQL."""
    return max(1, int(options.get("patience_s", WAIT_FOR_LOCK_S) * 1000))


@contextmanager
def unavailable() -> Iterator[None]:
    """Raises JournalUnavailable for what the database has against it; mistakes of ours go on as they are."""
    try:
        yield
    except _OUR_MISTAKES:
        raise
    except sa.exc.DatabaseError as error:
        raise errors.JournalUnavailable(cause=error.orig or error) from error
