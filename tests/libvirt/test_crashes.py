"""All or nothing, also when the server or libvirtd is killed at any moment of a clone."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import libvirt
import pytest

from support.guests import define_guest, inventory, remove_guest, stop_guest
from support.libvirtd import PrivateLibvirtd
from support.running import wait_until
from support.server import Server
from support.storage import (
    MiB,
    make_pool,
    make_qcow2,
    make_raw,
    mounted,
    pool_path,
    qemu_img_compare,
    remove_pool,
    sha256,
    some_data,
)

TESTS = Path(__file__).resolve().parents[1]
POINTS = 42
"""The moments at which the clone below can be interrupted."""


TPM = "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"


def tpm_dir(libvirtd_uri: str) -> Path:
    """Where the libvirtd behind a socket keeps the states of TPMs."""
    return Path(libvirtd_uri.partition("socket=")[2]).parents[2] / "c/libvirt/qemu/swtpm"


def told_places(uri: str, state_dir: Path) -> list[str]:
    """Arguments by which a server knows that."""
    conf = state_dir.parent / "cloner.conf"
    conf.write_text(f"[cloner]\ntpm_dir = {tpm_dir(uri)}\n", "utf-8")
    return ["--config", str(conf)]


class MortalServer(Server):
    """A server that dies at one of the points of support/crashing.py; 0 for none."""

    def __init__(self, uri: str, state_dir: Path, deadly: int, *, pauses: bool = False) -> None:
        self.points = state_dir.parent / f"points-{deadly}"
        self.pause = state_dir.parent / "pause"
        env = {"PYTHONPATH": str(TESTS), "CLONER_POINTS": str(self.points)}
        env |= {"CLONER_PAUSE": str(self.pause)} if pauses else {}
        super().__init__(uri, state_dir, args=told_places(uri, state_dir), env=env)
        place = self._argv.index("cloner")
        self._argv[place : place + 1] = ["support.crashing", str(deadly)]

    def died(self) -> bool:
        return not self.running


@dataclass(frozen=True)
class Source:
    """A UEFI guest with a TPM and two disks on a file system that can reflink, and all that was there before.

    `own` are the folders of UEFI variables and of TPM states.
    """

    files: tuple[Path, ...]
    sums: tuple[str, ...]
    before: set[str]
    folder: Path
    own: tuple[Path, Path]


@pytest.fixture(scope="module")
def web(libvirtd: PrivateLibvirtd) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """The guest and its file system, for all tests of this file: where it is mounted, and the guest's files."""
    with mounted("xfs") as mount_point, closing(libvirtd.open()) as conn:
        pool = make_pool(conn, "crash", mount_point / "pool")
        system = make_qcow2(pool, "web.qcow2", 64 * MiB, {0: some_data(MiB)})
        data = make_raw(pool, "data.img", 64 * MiB, {MiB: some_data(MiB, 2)})
        nvram = mount_point / "nvram" / "web_VARS.fd"
        nvram.parent.mkdir()
        shutil.chown(nvram.parent, libvirtd.uid, libvirtd.gid)
        domain = define_guest(conn, "web", [system, data], nvram=nvram, macs=["52:54:00:12:34:56"], devices=TPM)
        domain.create()
        stop_guest(domain)
        yield mount_point, (Path(system.path()), Path(data.path()), nvram)
        with closing(libvirtd.open()) as cleaner:  # libvirtd was killed since
            remove_guest(cleaner.lookupByName("web"))
            remove_pool(cleaner.storagePoolLookupByName("crash"))


@pytest.fixture
def source(libvirtd: PrivateLibvirtd, web: tuple[Path, tuple[Path, ...]], conn: libvirt.virConnect) -> Source:
    folder, files = web
    own = (folder / "nvram", tpm_dir(libvirtd.uri))
    return Source(files, tuple(map(sha256, files)), inventory(conn, *own), folder, own)


def journal_is_clean(state_dir: Path) -> bool:
    with closing(sqlite3.connect(state_dir / "journal.sqlite")) as journal:
        held = "SELECT count(*) FROM reservations WHERE task IS NOT NULL"
        tables = [held, "SELECT count(*) FROM promises", "SELECT count(*) FROM steps"]
        return all(journal.execute(table).fetchone()[0] == 0 for table in tables)


def assert_whole_or_nothing(
    conn: libvirt.virConnect, source: Source, task: dict[str, Any], state_dir: Path, codes: tuple[str, ...]
) -> None:
    """Either the task has finished and everything of its clone is there, or nothing more than before is."""
    conn.storagePoolLookupByName("crash").refresh()
    now = inventory(conn, *source.own)
    assert source.before <= now
    assert tuple(map(sha256, source.files)) == source.sums
    assert journal_is_clean(state_dir)
    if task["status"] == "finished":
        name = task["name"]
        disks = [f"{name}-vda.qcow2", f"{name}-vdb.img"]
        made = {f"volume crash/{disk}" for disk in disks} | {f"file {source.folder}/pool/{disk}" for disk in disks}
        made |= {f"file {source.own[0]}/{name}_VARS.fd", f"file {source.own[1]}/{task['uuid']}"}
        assert now - source.before == made | {f"domain {name}"}
        for original, disk in zip(source.files, disks, strict=False):
            assert qemu_img_compare(original, source.folder / "pool" / disk, strict=True)
    else:
        assert task["message"].startswith(codes), task
        assert now == source.before


def crash_and_recover(libvirtd: PrivateLibvirtd, state_dir: Path, deadly: int) -> dict[str, Any]:
    """Clones with a server that dies on the way, starts another, and returns the task as it ended."""
    with MortalServer(libvirtd.uri, state_dir, deadly) as mortal:
        with suppress(OSError, HTTPException):  # it may be dead before it has answered
            mortal.request("POST", "vms/web/clone")
        wait_until(mortal.died, 30, f"it dies at point {deadly}", lambda: mortal.log)
    with Server(libvirtd.uri, state_dir, args=told_places(libvirtd.uri, state_dir)) as heir:
        (task,) = heir.request("GET", "tasks").json
        ended: dict[str, Any] = heir.wait_task(task["id"], 60)
    return ended


def test_there_are_enough_points(libvirtd: PrivateLibvirtd, source: Source, tmp_path: Path) -> None:
    with MortalServer(libvirtd.uri, tmp_path / "state", 0) as server:
        task = server.wait_task(server.request("POST", "vms/web/clone").json["id"])
        assert task["status"] == "finished"
        assert len(server.points.read_text("utf-8").splitlines()) == POINTS


@pytest.mark.parametrize("deadly", range(1, POINTS + 1))
def test_a_server_killed_at_any_point_leaves_all_or_nothing(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, source: Source, tmp_path: Path, deadly: int
) -> None:
    task = crash_and_recover(libvirtd, tmp_path / "state", deadly)
    assert_whole_or_nothing(conn, source, task, tmp_path / "state", ("CLNTASK0004E",))


@pytest.mark.parametrize("point", range(1, POINTS + 1))
def test_a_libvirtd_killed_at_any_point_leaves_all_or_nothing(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, source: Source, tmp_path: Path, point: int
) -> None:
    """The server waits at the point while libvirtd is killed and started again, and goes on."""
    with MortalServer(libvirtd.uri, tmp_path / "state", point, pauses=True) as server:
        task = server.request("POST", "vms/web/clone").json
        wait_until(server.pause.exists, 30, f"it comes to point {point}", lambda: server.log)
        libvirtd.kill()
        libvirtd.start()
        server.pause.unlink()
        ended = server.wait_task(task["id"], 60)
    with closing(libvirtd.open()) as again:
        assert_whole_or_nothing(again, source, ended, tmp_path / "state", ("CLNTASK0001E",))


def test_a_volume_of_which_it_is_unclear_whose_it_is_stays_and_is_named(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, guest: Callable[..., libvirt.virDomain], tmp_path: Path
) -> None:
    """The server dies when it is about to make a volume, and somebody else makes one of that name before it is back."""
    guest("single", [make_qcow2(pool, "single.qcow2", MiB)])
    with MortalServer(libvirtd.uri, tmp_path / "state", 0) as server:
        server.wait_task(server.request("POST", "vms/single/clone", {"name": "first"}).json["id"])
        deadly = server.points.read_text("utf-8").splitlines().index("before create") + 1
    with MortalServer(libvirtd.uri, tmp_path / "state", deadly) as mortal:
        with suppress(OSError, HTTPException):
            mortal.request("POST", "vms/single/clone", {"name": "second"})
        wait_until(mortal.died, 30, "it dies before it makes the volume", lambda: mortal.log)
    another = Path(make_raw(pool, "second-vda.qcow2", 4 * MiB, {0: some_data(2 * MiB)}).path())
    before = sha256(another)
    with Server(libvirtd.uri, tmp_path / "state") as heir:
        task = heir.wait_task(heir.request("GET", "tasks").json[-1]["id"])
    assert task["status"] == "failed"
    assert task["message"].startswith("CLNTASK0002E")
    assert "second-vda.qcow2 (" in task["message"]
    assert sha256(another) == before
    assert journal_is_clean(tmp_path / "state")


def points_of(server: MortalServer, path: str, body: dict[str, Any]) -> list[str]:
    """The points that a clone comes to."""
    before = len(server.points.read_text("utf-8").splitlines()) if server.points.exists() else 0
    assert server.wait_task(server.request("POST", f"{path}/clone", body).json["id"])["status"] == "finished"
    return server.points.read_text("utf-8").splitlines()[before:]


def inherited(
    libvirtd: PrivateLibvirtd, state_dir: Path, deadly: int, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    """A clone whose server dies at a point, as the next server ends it."""
    with MortalServer(libvirtd.uri, state_dir, deadly) as mortal:
        with suppress(OSError, HTTPException):
            mortal.request("POST", f"{path}/clone", body)
        wait_until(mortal.died, 30, f"it dies at point {deadly}", lambda: mortal.log)
    with Server(libvirtd.uri, state_dir) as heir:
        ended: dict[str, Any] = heir.wait_task(heir.request("GET", "tasks").json[-1]["id"])
    return ended


def test_a_clone_that_was_to_be_started_when_its_server_died_says_so(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, guest: Callable[..., libvirt.virDomain], tmp_path: Path
) -> None:
    guest("single", [make_qcow2(pool, "single.qcow2", MiB)])
    with MortalServer(libvirtd.uri, tmp_path / "state", 0) as server:
        deadly = points_of(server, "vms/single", {"start": True}).index("after define") + 1
    task = inherited(libvirtd, tmp_path / "state", deadly, "vms/single", {"start": True})
    assert task["status"] == "finished"
    assert task["warning"].startswith("CLNTASK0008E")
    assert journal_is_clean(tmp_path / "state")


def test_the_clone_of_a_volume_that_lacks_its_last_mark_alone_is_finished(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, tmp_path: Path
) -> None:
    make_raw(pool, "data.img", MiB, {0: some_data(MiB)})
    volume = f"storagepools/{pool.name()}/storagevolumes/data.img"
    with MortalServer(libvirtd.uri, tmp_path / "state", 0) as server:
        points = points_of(server, volume, {})
    last = len(points) - points[::-1].index("before a write")  # with which the task ends
    task = inherited(libvirtd, tmp_path / "state", last, volume, {})
    assert (task["status"], task["progress"]) == ("finished", 100)
    assert qemu_img_compare(pool_path(pool) / "data.img", pool_path(pool) / task["name"], strict=True)
    assert journal_is_clean(tmp_path / "state")
