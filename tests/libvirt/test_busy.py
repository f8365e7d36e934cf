"""A libvirtd that takes its time: it does what it was asked for later, also for a server that is gone."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from unittest import mock

import libvirt
import pytest

from cloner import errors
from cloner.callers import ANYBODY
from cloner.model.deletions import Deletions
from cloner.model.services import Services
from cloner.model.vms import VMsModel
from support.guests import inventory
from support.libvirtd import PrivateLibvirtd, as_unprivileged
from support.mortal import MortalServer, journal_is_clean
from support.running import run, wait_until
from support.server import Response, Server
from support.services import server_parts
from support.storage import MiB, make_qcow2, make_raw

PATIENCE = 30  # seconds
SETTLES_S = 1.0
"""In which libvirtd, once it knows what QEMU can do, has defined what nobody waits for any more."""

QEMU_IMG, QEMU = "qemu-img", "qemu-system-x86_64"
WAITING = """#!/bin/sh
while [ -e '{folder}/wait' ]; do
    echo '{name}' > '{folder}/tmp/waits'
    sleep 0.05
done
exec '{program}' "$@"
"""


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[PrivateLibvirtd]:
    """One with a single worker beside those for mere questions, and programs that wait while a test wants them to."""
    daemon = PrivateLibvirtd()
    with (daemon.folder / "libvirtd.conf").open("a") as configuration:
        configuration.write("max_workers = 1\nmin_workers = 1\n")
    programs = daemon.folder / "bin"
    programs.mkdir()
    for name in (QEMU_IMG, QEMU):
        program = programs / name
        program.write_text(WAITING.format(folder=daemon.folder, name=name, program=shutil.which(name)))
        program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(programs), prepend=":")
        daemon.start()
    yield daemon
    daemon.close()


@contextmanager
def held_up(libvirtd: PrivateLibvirtd, program: str, begin: Callable[[], object]) -> Iterator[None]:
    """What has begun by then is kept waiting by a program until the end of the block."""
    waits, flag = libvirtd.folder / "tmp/waits", libvirtd.folder / "wait"
    waits.unlink(missing_ok=True)
    flag.touch()
    try:
        begin()
        wait_until(lambda: waits.exists() and waits.read_text() == f"{program}\n", PATIENCE, f"{program} waits")
        yield
    finally:
        flag.unlink()


def make_another(libvirtd: PrivateLibvirtd, pool: str) -> None:
    with closing(libvirtd.open()) as conn:
        make_qcow2(conn.storagePoolLookupByName(pool), "another.qcow2", MiB)


def administer(libvirtd: PrivateLibvirtd, command: str, *options: str) -> str:
    socket = libvirtd.folder / "r/libvirt/libvirt-admin-sock"
    uri = f"libvirtd+unix:///session?socket={socket}"
    return run(*as_unprivileged("virt-admin", "-c", uri, command, "libvirtd", *options))


def queued(libvirtd: PrivateLibvirtd) -> int:
    """How many calls wait for libvirtd's worker."""
    found = re.search(r"jobQueueDepth\s*: (\d+)", administer(libvirtd, "srv-threadpool-info"))
    assert found is not None
    return int(found[1])


@contextmanager
def workers(libvirtd: PrivateLibvirtd, count: int) -> Iterator[None]:
    """It has so many, until the end of the block."""
    administer(libvirtd, "srv-threadpool-set", "--max-workers", str(count))
    yield
    administer(libvirtd, "srv-threadpool-set", "--max-workers", "1")


def start(domain: libvirt.virDomain) -> None:
    with suppress(libvirt.libvirtError):  # somebody stops it before it is there
        domain.create()


def recovery(heir: Services, recover: Callable[[], None]) -> Thread:
    """A server's recovery of what others left, once it waits for libvirtd, or has ended without that."""
    waits, catch_up = Event(), heir.host.catch_up

    def catch_up_and_tell() -> None:
        waits.set()
        catch_up()

    heir.host.catch_up = catch_up_and_tell  # type: ignore[method-assign]  # to see it, and no more
    thread = Thread(target=recover)
    thread.start()
    wait_until(lambda: waits.is_set() or not thread.is_alive(), PATIENCE, "it waits, or does not")
    return thread


def test_a_guest_that_libvirtd_undefines_after_its_server_has_died_leaves_no_storage(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Callable[..., libvirt.virDomain],
    tmp_path: Path,
) -> None:
    """It waits for another client, who starts the guest and gives up, and tells until then that the guest is there."""
    before = inventory(conn)
    web = guest("web", [make_raw(pool, "web.img", MiB)])
    other = Thread(target=start, args=(web,))
    with server_parts(libvirtd.uri, tmp_path) as mortal, server_parts(libvirtd.uri, tmp_path) as heir:
        undefine = Thread(target=mortal.host.undefine, args=(web.UUIDString(),))
        deletions = Deletions(heir)
        with mock.patch.object(mortal.host, "undefine", side_effect=KeyboardInterrupt), suppress(KeyboardInterrupt):
            VMsModel(mortal).delete("web", ANYBODY, storage=True)
        mortal.lease.release()
        with held_up(libvirtd, QEMU, other.start):
            undefine.start()
            sweeping = recovery(heir, deletions.sweep)
            with suppress(libvirt.libvirtError):  # it may be undefined in that instant
                web.destroy()
        for thread in (sweeping, other, undefine):
            thread.join(PATIENCE)
        deletions.sweep()
        assert heir.journal.removals.deletions() == {}
    assert inventory(conn) == before


def test_a_volume_that_libvirtd_makes_after_its_server_has_died_is_removed(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, pool: libvirt.virStoragePool, tmp_path: Path
) -> None:
    """Its worker makes another client's image."""
    make_raw(pool, "web.img", MiB, {})
    before = inventory(conn)
    other = Thread(target=make_another, args=(libvirtd, pool.name()))
    with server_parts(libvirtd.uri, tmp_path / "state") as heir:
        with Server(libvirtd.uri, tmp_path / "state") as server, held_up(libvirtd, QEMU_IMG, other.start):
            server.request("POST", f"storagepools/{pool.name()}/storagevolumes/web.img/clone", {"method": "copy"})
            wait_until(lambda: queued(libvirtd), PATIENCE, "libvirtd is asked for the volume", lambda: server.log)
            server.kill()
            recovering = recovery(heir, heir.ledger.recover)
        recovering.join(PATIENCE)
        assert heir.journal.tasks("running") == []
    other.join(PATIENCE)
    conn.getCapabilities()  # it comes after whatever libvirtd was asked for before
    pool.storageVolLookupByName("another.qcow2").delete()
    assert inventory(conn) == before


@pytest.mark.parametrize("method", ["copy", "libvirt"])
@pytest.mark.parametrize("body", [{}, {"name": "copy.qcow2"}])
def test_a_volume_whose_file_libvirtd_has_not_begun_when_its_server_dies_is_removed(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    tmp_path: Path,
    method: str,
    body: dict[str, str],
) -> None:
    """Its other workers say that there is no such volume, though they know it: the file is to be made by qemu-img."""
    make_qcow2(pool, "web.qcow2", MiB)
    before = inventory(conn)
    path = f"storagepools/{pool.name()}/storagevolumes/web.qcow2/clone"
    answers: list[Response] = []
    with workers(libvirtd, 5), Server(libvirtd.uri, tmp_path / "state") as server:

        def ask() -> None:
            answers.append(server.request("POST", path, {"method": method, **body}))

        def is_undone() -> bool:
            """Or said to be."""
            (task,) = server.request("GET", "tasks").json
            return task["status"] != "running" or task["message"].startswith(errors.UndoneLater.code)

        with held_up(libvirtd, QEMU_IMG, ask):
            server.kill()
            server.start()
            wait_until(is_undone, PATIENCE, "it is undone, or waits", lambda: server.log)
        assert server.wait_task(answers[0].json["id"])["status"] == "failed"
    assert inventory(conn) == before
    assert journal_is_clean(tmp_path / "state")


def test_a_guest_that_libvirtd_defines_after_its_server_has_died_is_removed(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Callable[..., libvirt.virDomain],
    tmp_path: Path,
) -> None:
    """QEMU is another one than before, and what it can do is found out first."""
    guest("web", [make_raw(pool, "web.img", MiB, {})])
    with MortalServer(libvirtd.uri, tmp_path / "trial" / "state", 0) as trial:
        at = trial.points_of("vms/web", {"name": "trial"}).index("before define") + 1
    before = inventory(conn)
    with server_parts(libvirtd.uri, tmp_path / "state") as heir:
        with MortalServer(libvirtd.uri, tmp_path / "state", at, pauses=True) as server:
            server.request("POST", "vms/web/clone", {"name": "copy"})
            wait_until(server.pause.exists, PATIENCE, "it waits", lambda: server.log)
            (libvirtd.folder / "bin" / QEMU).touch()
            with held_up(libvirtd, QEMU, server.pause.unlink):
                server.kill()
                recovering = recovery(heir, heir.ledger.recover)
        recovering.join(PATIENCE)
        assert heir.journal.tasks("running") == []
    conn.getCapabilities()
    time.sleep(SETTLES_S)
    assert inventory(conn) == before
    assert journal_is_clean(tmp_path / "state")
