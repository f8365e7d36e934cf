"""Whether a server lives is known at once, and never wrong, however it started and ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cloner.engine.lease import Lease

NOBODY = 65534
SERVER = """
import sys
from pathlib import Path
from cloner.engine.lease import Lease
lease = Lease(Path(sys.argv[1]))
print(lease.id, flush=True)
sys.stdin.read()
lease.release()
"""


FORKS = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from cloner.engine.lease import Lease

def console(told):
    told.send(os.getpid())
    time.sleep(600)

lease = Lease(Path(sys.argv[1]))
forking = multiprocessing.get_context("fork")
hears, told = forking.Pipe()
forking.Process(target=console, args=(told,)).start()
print(lease.id, hears.recv(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


class Server:
    """A process that lives until it is killed, or told to end in order."""

    def __init__(self, folder: Path) -> None:
        argv = [sys.executable, "-c", SERVER, str(folder)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.id = self._process.stdout.readline().strip()

    def kill(self) -> None:
        """Kills it as -9 does."""
        self._process.kill()
        self._process.communicate()

    def end(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the leases, which nobody has made yet."""
    return tmp_path / "state" / "servers"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], Server]]:
    with ExitStack() as running:

        def start() -> Server:
            server = Server(folder)
            running.callback(server.kill)
            return server

        yield start


@pytest.fixture
def lease(folder: Path) -> Iterator[Lease]:
    """Our own."""
    lease = Lease(folder)
    yield lease
    lease.release()


def test_a_server_that_runs_is_alive(lease: Lease, start: Callable[[], Server]) -> None:
    server = start()
    lease.forget_the_dead()
    assert lease.is_alive(server.id)


def test_a_server_whose_state_directory_takes_nothing_any_more_ends_all_the_same(folder: Path) -> None:
    lease = Lease(folder)
    shutil.rmtree(folder)
    folder.touch()
    lease.release()


def test_what_it_forked_does_not_keep_a_dead_server_alive(lease: Lease, folder: Path) -> None:
    """As Kimchi does inside Wok for each serial console, which may stay open for hours (serialconsole.py)."""
    with subprocess.Popen([sys.executable, "-c", FORKS, str(folder)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        ident, child = server.stdout.readline().split()
        try:
            server.wait(30)
            os.kill(int(child), 0)  # it lives
            assert not lease.is_alive(ident)
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_we_are_alive(lease: Lease) -> None:
    lease.forget_the_dead()
    assert lease.is_alive(lease.id)


def test_what_is_no_file_is_no_server(lease: Lease, folder: Path, start: Callable[[], Server]) -> None:
    (folder / "lost+found").mkdir()
    start().kill()
    lease.forget_the_dead()
    assert {path.name for path in folder.iterdir()} == {lease.id, "lost+found"}


def test_others_know_that_we_are_alive(lease: Lease, folder: Path) -> None:
    other = Lease(folder)
    other.forget_the_dead()
    assert other.is_alive(lease.id)
    other.release()


def test_a_server_that_was_killed_is_dead_at_once(lease: Lease, start: Callable[[], Server]) -> None:
    server = start()
    server.kill()
    assert not lease.is_alive(server.id)


def test_a_server_that_ended_in_order_is_dead(lease: Lease, start: Callable[[], Server], folder: Path) -> None:
    server = start()
    server.end()
    assert not lease.is_alive(server.id)
    assert [path.name for path in folder.iterdir()] == [lease.id]


def test_a_server_that_never_was_is_dead(lease: Lease) -> None:
    assert not lease.is_alive("0" * 32)


def test_the_dead_are_forgotten_and_the_living_are_not(lease: Lease, start: Callable[[], Server], folder: Path) -> None:
    living, dead = start(), start()
    dead.kill()
    lease.forget_the_dead()
    assert {path.name for path in folder.iterdir()} == {lease.id, living.id}
    assert lease.is_alive(living.id)
    assert not lease.is_alive(dead.id)


@pytest.mark.parametrize("is_emptied", [False, True])
def test_nobody_is_dead_while_the_folder_is_away(
    lease: Lease, start: Callable[[], Server], folder: Path, tmp_path: Path, *, is_emptied: bool
) -> None:
    """Somebody has moved it, or has removed what is in it; a server whose file is not there may live."""
    living, dead = start(), start()
    dead.kill()
    (folder if is_emptied else folder.parent).rename(tmp_path / "away")
    if is_emptied:
        folder.mkdir()
    lease.forget_the_dead()
    assert lease.is_alive(living.id)
    if is_emptied:
        folder.rmdir()
    (tmp_path / "away").rename(folder if is_emptied else folder.parent)
    assert lease.is_alive(living.id)
    assert not lease.is_alive(dead.id)


def test_nobody_is_dead_where_the_folder_is_a_copy(lease: Lease, folder: Path, tmp_path: Path) -> None:
    """Somebody has restored it, or has moved it to another disk: nobody has locked what lies there."""
    other = Lease(folder)
    folder.rename(tmp_path / "away")
    shutil.copytree(tmp_path / "away", folder)
    assert lease.is_alive(other.id)
    for each in (lease, other):
        each.keep()
        assert lease.is_alive(other.id)
        assert other.is_alive(lease.id)
    other.release()


def test_whose_file_was_removed_makes_it_anew_and_waits_until_others_have(
    lease: Lease, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Lease(folder)
    folder.rename(tmp_path / "away")
    lease.keep()
    folder.mkdir()
    lease.keep()
    assert {path.name for path in folder.iterdir()} == {lease.id}
    starts_now = Lease(folder)
    assert starts_now.is_alive(lease.id)
    assert lease.is_alive(other.id)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    assert not lease.is_alive(other.id)
    other.keep()
    assert lease.is_alive(other.id)
    shutil.rmtree(folder)
    (tmp_path / "away").rename(folder)
    assert starts_now.is_alive(lease.id)
    for each in (other, starts_now):
        each.release()


def test_a_dead_server_is_dead_to_all_who_ask_at_once(lease: Lease, start: Callable[[], Server], folder: Path) -> None:
    """To ask is not to live: an answer must not come from somebody else's question."""
    dead = start()
    dead.kill()
    barrier = threading.Barrier(8)

    def ask(_: int) -> list[bool]:
        barrier.wait()
        return [lease.is_alive(dead.id) for _ in range(500)]

    with ThreadPoolExecutor(8) as pool:
        answers = [answer for answers in pool.map(ask, range(8)) for answer in answers]
    assert answers == [False] * 8 * 500


def test_a_server_that_starts_is_never_taken_for_dead(lease: Lease, folder: Path) -> None:
    """Others tidy up all the time while it makes its lease."""
    started = threading.Event()

    def tidy() -> None:
        other = Lease(folder)
        while not started.is_set():
            other.forget_the_dead()
        other.release()

    with ThreadPoolExecutor(4) as pool:
        tidying = [pool.submit(tidy) for _ in range(4)]
        try:
            leases = [Lease(folder) for _ in range(500)]
        finally:
            started.set()
    assert [future.result() for future in tidying] == [None] * 4
    assert {path.name for path in folder.iterdir()} == {lease.id, *(lease.id for lease in leases)}
    assert all(lease.is_alive(other.id) for other in leases)
    for other in leases:
        other.release()


def test_a_lease_that_cannot_be_made_anew_is_as_soon_as_it_can_be(lease: Lease, folder: Path) -> None:
    """What was tried before keeps nothing open, nor locked: the next attempt would wait for itself."""
    place = folder / lease.id
    place.unlink()
    place.mkdir()
    before = os.listdir("/proc/self/fd")
    lease.keep()
    assert os.listdir("/proc/self/fd") == before
    place.rmdir()
    lease.keep()
    other = Lease(folder)
    assert place.is_file()
    assert other.is_alive(lease.id)
    other.release()


def test_nobody_else_may_look_into_the_folder(lease: Lease, folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A folder of the leases of servers that are not root's."""
    with TemporaryDirectory() as place:
        folder = Path(place) / "state" / "servers"
        folder.mkdir(mode=0o700, parents=True)
        for path in (folder, *folder.parents[:2]):
            os.chown(path, NOBODY, NOBODY)
        yield folder


@contextmanager
def unprivileged() -> Iterator[None]:
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as several users")
def test_a_server_that_is_not_root_knows_whether_one_of_roots_lives(nobodys: Path) -> None:
    """`cloner recover` by root, killed, left a file there: nothing of servers that died was undone any more."""
    roots = Server(nobodys)
    try:
        with unprivileged():
            lease = Lease(nobodys)
            assert lease.is_alive(roots.id)
    finally:
        roots.kill()
    with unprivileged():
        assert not lease.is_alive(roots.id)
        lease.forget_the_dead()
        assert [path.name for path in nobodys.iterdir()] == [lease.id]
    lease.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may give somebody what they may not open")
def test_who_cannot_be_asked_is_not_dead_and_keeps_nobody_from_seeing_to_others(nobodys: Path) -> None:
    closed, dead = nobodys / "closed", nobodys / "dead"
    closed.touch(0o600)
    dead.touch()
    dead.chmod(0o666)
    with unprivileged():
        lease = Lease(nobodys)
        assert lease.is_alive(closed.name)
        lease.forget_the_dead()
        assert {path.name for path in nobodys.iterdir()} == {lease.id, closed.name}
    lease.release()


def test_ids_are_distinct(folder: Path) -> None:
    leases = [Lease(folder) for _ in range(10)]
    assert len({lease.id for lease in leases}) == 10
    for lease in leases:
        lease.release()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "is_of_here"),
    [
        ("qemu:///system", True),
        ("qemu+unix:///system", True),
        ("qemu+ssh://root@localhost/system", True),
        ("qemu:///session", False),
        ("qemu+ssh://elsewhere/system", False),
        ("qemu+unix:///system?socket=/other", False),
        ("test:///default", False),
        ("", True),
    ],
)
def test_a_server_is_known_to_be_on_the_same_libvirt_by_its_id(tmp_path: Path, uri: str, is_of_here: bool) -> None:
    lease, other = Lease(tmp_path, "qemu:///system"), Lease(tmp_path, uri)
    assert lease.is_of_here(other.id) == is_of_here
    for each in (lease, other):
        each.release()
