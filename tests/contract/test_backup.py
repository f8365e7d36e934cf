"""`cloner backup`: a copy of the journal that a server can start on, made at any moment, that never does harm."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloner import errors
from cloner.engine import journal as journal_module
from cloner.engine.backup import back_up
from cloner.engine.journal import Journal
from cloner.engine.migrations import MIGRATIONS
from cloner.engine.records import BEGUN, DONE, FAILED, FINISHED, VOLUME, Mark
from cloner.model.services import Services
from cloner.plugin import build
from cloner.settings import Settings, demo_uri
from support import nursery
from support.answers import at_once, cloned
from support.server import Server


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return nursery.run([sys.executable, "-m", "cloner", "backup", *map(str, args)])


def journal_url(folder: Path) -> str:
    return f"sqlite:///{folder}/journal.sqlite"


@contextmanager
def opened(folder: Path) -> Iterator[Journal]:
    journal = Journal(journal_url(folder))
    yield journal
    journal.close()


def accept(journal: Journal, name: str) -> int:
    """Has a clone accepted, with a name and a promise of its own; its id."""
    with journal.transaction() as transaction:
        number = transaction.new_task_id()
        transaction.reserve("domain", "", name, task=number)
        transaction.promise(number, "default", name, 1)
        transaction.add_task(number, "domain", f"/vms/{name}/clone", "a server", {"name": name})
    return number


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state directory with a journal in it."""
    made = tmp_path / "state"
    made.mkdir()
    with opened(made) as journal:
        accept(journal, "a")
    return made


# --- Putting it back -------------------------------------------------------------------------------------------------


def test_a_backup_can_be_put_back(start: Callable[..., Server], tmp_path: Path) -> None:
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "backup"
    server = start(folder=old)
    tasks = [cloned(server, "vms/web") for _ in range(3)]
    done = run(file, "--demo", "--state-dir", old)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{file.stat().st_size} bytes" in done.stdout
    server.kill()

    new.mkdir()
    shutil.copy(file, new / "journal.sqlite")
    restored = start(folder=new)
    assert restored.request("GET", "tasks").json == tasks
    later = cloned(restored, "vms/web")
    assert later["name"] > max(task["name"] for task in tasks)
    assert int(later["id"]) > max(int(task["id"]) for task in tasks)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Callable[[str], Services]]:
    """The parts of servers, by the names of their state directories."""
    with ExitStack() as ends:

        def begin(name: str) -> Services:
            found = build(Settings(connect=demo_uri(), state_dir=str(tmp_path / name)))
            found.connections.start()
            ends.callback(found.connections.stop)
            ends.callback(found.journal.close)
            ends.callback(found.lease.release)
            return found

        yield begin


def make_half_a_clone(services: Services, volume: str) -> int:
    """What the journal of a server has that is making a clone, one whose volume is there."""
    journal = services.journal
    with journal.transaction() as transaction:
        number = transaction.new_task_id()
        transaction.add_task(number, "domain", "/vms/new/clone", "a server that was killed", {"name": "new"})
    args = {"pool": "default", "name": volume, "parents": []}
    step = journal.begin(number, 1, VOLUME, args, "Making it")
    made = {"path": f"/var/lib/libvirt/images/{volume}", "type": "file", "file": {}}
    journal.mark(number, [Mark(step.number, DONE, made)])
    journal.begin(number, 2, "fill", {"pool": "default", "name": volume}, "Copying it")
    assert [step.state for step in journal.steps(number)] == [DONE, BEGUN]
    return number


@pytest.mark.parametrize("is_backup", [False, True], ids=["plain-copy", "backup"])
def test_a_clone_that_was_under_way_is_not_undone_when_it_is_put_back(
    services: Callable[[str], Services], tmp_path: Path, is_backup: bool
) -> None:
    """By then it may be complete, and in use; a plain copy of the journal's file would have its disks deleted."""
    old = services("old")
    number = make_half_a_clone(old, "web.qcow2")
    old.journal.removals.begin_deletion("a guest", {})
    old.journal.removals.begin_withdrawal(1, "a server that was killed")
    (tmp_path / "new").mkdir()
    back_up(old.journal._engine.url, tmp_path / "backup")
    old.journal.close()
    source = tmp_path / "backup" if is_backup else tmp_path / "old" / "journal.sqlite"
    shutil.copy(source, tmp_path / "new" / "journal.sqlite")

    new = services("new")
    new.ledger.recover()
    assert new.host.has_volume(new.host.pool("default"), "web.qcow2") is is_backup
    task = new.journal.task(number)
    assert task is not None
    assert task.status == FAILED
    assert task.message.startswith("CLNTASK0011E: " if is_backup else "CLNTASK0004E: ")
    assert new.journal.reserved() == []
    assert (new.journal.removals.deletions() == {}) is is_backup
    assert (new.journal.removals.withdrawals() == {}) is is_backup


def test_how_many_are_under_way_is_said(folder: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "backup", "--state-dir", folder)
    assert "1 clones are under way" in done.stdout
    with opened(folder) as journal:
        assert [task.status for task in journal.tasks()] == ["running"]  # in the journal itself it goes on


# --- Making it -------------------------------------------------------------------------------------------------------


def test_it_is_of_one_moment_though_others_write(folder: Path, tmp_path: Path) -> None:
    enough = threading.Event()

    def write(number: int) -> None:
        with opened(folder) as journal:
            count = 0
            while not enough.is_set():
                task = accept(journal, f"{number}-{count}")
                if count % 50:
                    journal.end(task, FINISHED, "OK")
                count += 1

    def back_up_and_write(number: int) -> None:
        if number:
            return write(number)
        try:
            for place in range(10):
                back_up(journal_url(folder), tmp_path / f"backup-{place}")
        finally:
            enough.set()

    at_once(4, back_up_and_write)
    for place in range(10):
        with closing(sqlite3.connect(tmp_path / f"backup-{place}")) as copy:
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (last,) = copy.execute("SELECT last FROM counters WHERE name = 'task'").fetchone()
            assert copy.execute("SELECT count(*), max(id) FROM tasks").fetchone() == (last, last)
            assert copy.execute("SELECT count(*) FROM promises").fetchone() == (0,)


def test_it_does_not_wait_for_whoever_keeps_the_journal(folder: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(folder / "journal.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert back_up(journal_url(folder), tmp_path / "backup") == 1


def test_it_is_one_file_for_its_owner_alone(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    back_up(journal_url(folder), place / "backup")
    assert [path.name for path in place.iterdir()] == ["backup"]
    assert stat.S_IMODE((place / "backup").stat().st_mode) == 0o600


def everything(folder: Path) -> dict[str, Any]:
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def test_what_is_there_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "folder").mkdir(parents=True)
    (place / "file").write_text("precious")
    os.symlink("nowhere", place / "link")
    before = everything(place)
    for name in ("file", "folder", "link"):
        done = run(place / name, "--state-dir", folder)
        assert done.returncode == 2
        assert "CLNJRN0003E" in done.stderr
        assert "Traceback" not in done.stderr
    assert everything(place) == before


def test_what_comes_to_be_there_meanwhile_is_not_overwritten(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr("cloner.engine.backup._check", lambda _: (place / "backup").write_text("precious"))
    with pytest.raises(errors.BackupFailed):
        back_up(journal_url(folder), place / "backup")
    assert everything(place) == {"backup": b"precious"}


def test_a_copy_that_is_damaged_is_none(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr("cloner.engine.backup._end_what_runs", lambda copy: copy.write_bytes(b"no database" * 1000))
    with pytest.raises(errors.BackupFailed, match="not a database"):
        back_up(journal_url(folder), place / "backup")
    assert everything(place) == {}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:secret@h/d", "postgresql"),
        ("sqlite:////no/such/journal", "there is no journal at /no/such/journal"),
        ("sqlite://", "no SQLite file"),
    ],
)
def test_what_cannot_be_backed_up_is_refused_with_the_reason(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(errors.BackupFailed, match=words) as caught:
        back_up(url, tmp_path / "backup")
    assert "secret" not in caught.value.reason
    assert list(tmp_path.iterdir()) == []


def test_where_it_cannot_be_put_is_refused(folder: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "no" / "backup", "--state-dir", folder)
    assert done.returncode == 2
    assert str(tmp_path / "no") in done.stderr


def test_a_newer_programs_journal_is_left_to_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(journal_module, "MIGRATIONS", MIGRATIONS[:-1])
    with pytest.raises(errors.JournalTooNew):
        back_up(journal_url(folder), place / "backup")
    assert everything(place) == {}


def test_an_older_programs_journal_is_not_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is brought up to date; the journal itself is when a server starts on it."""
    monkeypatch.setattr(journal_module, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE novelty (id BIGINT)",)))
    back_up(journal_url(folder), tmp_path / "backup")
    versions = []
    for file in (folder / "journal.sqlite", tmp_path / "backup"):
        with closing(sqlite3.connect(file)) as journal:
            versions += journal.execute("SELECT max(version) FROM migrations").fetchone()
    assert versions == [len(MIGRATIONS), len(MIGRATIONS) + 1]


def test_the_journal_is_the_configured_one_though_libvirt_is_away(folder: Path, tmp_path: Path) -> None:
    conf = tmp_path / "cloner.conf"
    conf.write_text(f"[cloner]\njournal = {journal_url(folder)}\nconnect = qemu:///nowhere\n")
    assert run(tmp_path / "backup", "--config", conf).returncode == 0
    assert (tmp_path / "backup").exists()
