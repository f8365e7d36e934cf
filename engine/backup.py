"""A copy of the journal, made while servers work on it, that does no harm when it is put back.

Whoever starts on a journal undoes the clones that it has as being made, step by step. In a copy those steps are of the
past: by now such a clone may be complete and in use, and would lose its disks. So in the copy it has ended, and nothing
is undone; at worst something half made is left over.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import mkstemp
from urllib.parse import quote

import sqlalchemy as sa

from .. import errors
from .journal import Journal
from .records import FAILED, RUNNING

_WAIT_S = 30.0


def back_up(url: str | sa.URL, target: Path) -> int:
    """Copies the journal to a file that must not be there yet; returns how many clones it ended in the copy.

    The copy is for its owner alone, whole, and on the disk, or it is not there. Raises BackupFailed and JournalTooNew.
    """
    source = _file_of(url, target)
    if os.path.lexists(target):
        raise errors.BackupFailed(file=target, cause="something of that name is there already")
    with _explained(target):
        descriptor, name = mkstemp(prefix=f".{target.name}-", dir=target.parent)
        os.close(descriptor)
        copy = Path(name)
        try:
            _copy(source, copy)
            ended = _end_what_runs(copy)
            _check(copy)
            _put(copy, target)
        finally:
            for ending in ("", "-wal", "-shm"):
                Path(f"{copy}{ending}").unlink(missing_ok=True)
    return ended


def _file_of(url: str | sa.URL, target: Path) -> str:
    """The journal's file."""
    found = sa.make_url(url)
    if found.get_backend_name() != "sqlite" or not found.database:
        cause = f"the journal is no SQLite file but {found.get_backend_name()}'s, which has means of its own"
        raise errors.BackupFailed(file=target, cause=cause)
    if not os.path.isfile(found.database):
        raise errors.BackupFailed(file=target, cause=f"there is no journal at {found.database}")
    return found.database


def _copy(source: str, copy: Path) -> None:
    """As of one moment; who writes meanwhile does not wait (https://www.sqlite.org/lang_vacuum.html)."""
    with closing(sqlite3.connect(f"file:{quote(source)}?mode=rw", uri=True, timeout=_WAIT_S)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))


def _end_what_runs(copy: Path) -> int:
    journal = Journal(sa.URL.create("sqlite", database=str(copy)))
    try:
        running = journal.tasks(RUNNING)
        for task in running:
            reason = errors.UnderWayInBackup(name=task.plan.get("name", task.target_uri)).reason
            journal.end(task.id, FAILED, reason)
        for uuid in journal.removals.deletions():  # its disks may be another guest's by then
            journal.removals.end_deletion(uuid)
        for batch in journal.removals.withdrawals():  # as may its clones
            journal.removals.end_withdrawal(batch)
    finally:
        journal.close()
    return len(running)


def _check(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # all of it in one file, until a server opens it
        (found,) = connection.execute("PRAGMA integrity_check").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(f"the copy is damaged: {found}")


def _put(copy: Path, target: Path) -> None:
    """Gives the copy its name once it is on the disk; what came to be there meanwhile is not overwritten."""
    _sync(copy)
    os.link(copy, target)
    _sync(target.parent)


def _sync(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except errors.JournalUnavailable as error:
        raise errors.BackupFailed(file=target, cause=error.data["cause"]) from error
    except (OSError, sqlite3.Error) as error:
        raise errors.BackupFailed(file=target, cause=error) from error
