"""Fixtures on real parts: one private libvirtd a session, and nothing of a test left after it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import libvirt
import pytest

from support.guests import define_guest, remove_guest
from support.libvirtd import PrivateLibvirtd
from support.server import Server
from support.storage import MiB, make_pool, mounted, remove_pool


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[PrivateLibvirtd]:
    """The private libvirtd of the session's tests. A test may stop or kill it: `conn` starts it again."""
    with PrivateLibvirtd() as daemon:
        yield daemon


@pytest.fixture
def conn(libvirtd: PrivateLibvirtd, folder: Path, file_system: object) -> Iterator[libvirt.virConnect]:
    """A connection. The domains and pools that appeared during the test, by anyone's hand, go after it."""
    # Asked for only to end after us: a guest that runs keeps its files open.
    del folder, file_system
    connection = _connect(libvirtd)
    before = _uuids(connection)
    yield connection
    connection.close()
    cleaner = _connect(libvirtd)  # the test's own may be dead
    _remove_all_but(before, cleaner)
    cleaner.close()


def _connect(libvirtd: PrivateLibvirtd) -> libvirt.virConnect:
    if not libvirtd.running:
        libvirtd.start()
    return libvirtd.open()


def _uuids(conn: libvirt.virConnect) -> set[str]:
    """The domains and pools that are there; a name could be taken over."""
    domains = {domain.UUIDString() for domain in conn.listAllDomains()}
    return domains | {pool.UUIDString() for pool in conn.listAllStoragePools()}


def _remove_all_but(before: set[str], conn: libvirt.virConnect) -> None:
    for domain in conn.listAllDomains():
        if domain.UUIDString() not in before:
            remove_guest(domain)
    for pool in conn.listAllStoragePools():
        if pool.UUIDString() not in before:
            remove_pool(pool)


@pytest.fixture
def server(libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, tmp_path: Path) -> Iterator[Server]:
    """One server on the private libvirtd."""
    with Server(libvirtd.uri, tmp_path / "state") as running:
        yield running


@pytest.fixture
def folder(libvirtd: PrivateLibvirtd) -> Iterator[Path]:
    """A new folder that libvirtd and its guests may reach (pytest's own tmp_path is closed to them)."""
    path = Path(tempfile.mkdtemp(prefix="t-", dir=libvirtd.folder))
    shutil.chown(path, libvirtd.uid, libvirtd.gid)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def pool(conn: libvirt.virConnect, folder: Path) -> libvirt.virStoragePool:
    """A new dir pool, empty and active."""
    return make_pool(conn, f"pool-{folder.name}", folder / "pool")


@pytest.fixture
def guest(conn: libvirt.virConnect) -> Callable[..., libvirt.virDomain]:
    """Define guests: `guest("web", [disk, …], macs=[…])`, as support.guests.define_guest does."""
    return partial(define_guest, conn)


@pytest.fixture
def file_system() -> Iterator[Callable[..., Path]]:
    """Mount file systems: `file_system("xfs")`, `file_system("ext4", 32 * MiB)`; unmounted after the test."""
    with ExitStack() as mounts:
        yield lambda *args: mounts.enter_context(mounted(*args))


@pytest.fixture
def small_pool(conn: libvirt.virConnect, file_system: Callable[..., Path]) -> libvirt.virStoragePool:
    """A dir pool on an ext4 of its own of 32 MiB, so that space runs out."""
    mount_point = file_system("ext4", 32 * MiB)
    return make_pool(conn, f"small-{mount_point.parent.name}", mount_point / "pool")
