"""What is undone is what was made, and it is undone whatever became of pools, disks and definitions meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import libvirt
import pytest

from cloner.callers import ANYBODY
from cloner.model.deletions import Deletions
from cloner.model.services import Services
from cloner.model.vms import VMsModel
from cloner.plugin import build
from cloner.settings import Settings
from support.libvirtd import PrivateLibvirtd
from support.mortal import MortalServer
from support.running import wait_until
from support.server import Server
from support.storage import MiB, allocated, listing, make_pool, make_qcow2, make_raw, pool_path, remove_pool, some_data

Guest = Callable[..., libvirt.virDomain]


def test_a_pool_that_leads_elsewhere_by_now_loses_nothing_of_what_is_there(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, tmp_path: Path
) -> None:
    """It was undefined and defined with another folder, in which somebody has a file of that name."""
    guest("web", [make_raw(pool, "web.img", 16 * MiB, {0: some_data(MiB)})])
    body = {"method": "copy", "name": "copy"}
    with MortalServer(libvirtd.uri, tmp_path / "trial" / "state", 0) as trial:
        at = trial.points_of("vms/web", body | {"name": "trial"}).index("after create") + 2  # it is known by then
    with MortalServer(libvirtd.uri, tmp_path / "state", at, pauses=True) as server:
        task = server.request("POST", "vms/web/clone", body).json
        wait_until(server.pause.exists, 30, "it waits", lambda: server.log)
        ours, elsewhere = pool_path(pool) / "copy-vda.img", pool_path(pool).with_name("elsewhere")
        assert ours.exists()
        elsewhere.mkdir()
        theirs = elsewhere / ours.name
        theirs.write_bytes(b"precious")
        for path in (elsewhere, theirs):
            shutil.chown(path, libvirtd.uid, libvirtd.gid)
        name = pool.name()
        remove_pool(pool)
        make_pool(conn, name, elsewhere)
        server.request("DELETE", f"tasks/{task['id']}")
        server.pause.unlink()
        assert server.wait_task(task["id"])["status"] == "killed"
    assert theirs.read_bytes() == b"precious"
    assert ours.name not in listing(ours.parent)


def test_a_volume_that_is_made_and_filled_in_one_step_goes_though_its_pool_is_gone(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    file_system: Callable[..., Path],
    guest: Guest,
    tmp_path: Path,
) -> None:
    pool = make_pool(conn, f"pool-{tmp_path.name}", file_system("xfs") / "pool")
    folder = pool_path(pool)
    guest("web", [make_raw(pool, "web.img", 16 * MiB, {0: some_data(MiB)})])
    with MortalServer(libvirtd.uri, tmp_path / "trial" / "state", 0) as trial:
        at = trial.points_of("vms/web", {}).index("after create") + 1
    before = set(listing(folder))
    with MortalServer(libvirtd.uri, tmp_path / "state", at, pauses=True) as server:
        task = server.request("POST", "vms/web/clone").json
        wait_until(server.pause.exists, 30, "it waits", lambda: server.log)
        assert set(listing(folder)) != before
        remove_pool(pool)
        server.request("DELETE", f"tasks/{task['id']}")
        server.pause.unlink()
        assert server.wait_task(task["id"])["status"] == "killed"
    assert set(listing(folder)) == before


def test_the_disk_of_a_clone_that_somebody_gave_to_another_guest_stays(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, tmp_path: Path
) -> None:
    """The server died when the clone was there for everybody, and before that was written down."""
    guest("web", [make_raw(pool, f"{name}.img", MiB) for name in ("a", "b")])
    with MortalServer(libvirtd.uri, tmp_path / "trial" / "state", 0) as trial:
        at = trial.points_of("vms/web", {"name": "trial"}).index("after define") + 1
    with MortalServer(libvirtd.uri, tmp_path / "state", at) as mortal:
        mortal.clone_and_die("vms/web", {"name": "copy"})
    conn.lookupByName("copy").undefine()
    guest("mine", [pool_path(pool) / "copy-vdb.img"])
    with Server(libvirtd.uri, tmp_path / "state") as heir:
        (task,) = heir.request("GET", "tasks").json
        message = heir.wait_task(task["id"])["message"]
    assert "copy-vdb.img is another guest's by now" in message
    left = [name for name in listing(pool_path(pool)) if name.startswith("copy")]
    assert left == ["copy-vdb.img"]


def test_a_disk_that_is_full_of_a_clone_and_has_the_journal_too_is_freed(
    libvirtd: PrivateLibvirtd, small_pool: libvirt.virStoragePool, guest: Guest
) -> None:
    """The journal cannot be written before what the clone took is gone."""
    guest("web", [make_raw(small_pool, "web.img", 12 * MiB, {0: some_data(8 * MiB)})])
    folder = pool_path(small_pool)
    with Server(libvirtd.uri, folder.with_name("state")) as server:
        body = {"method": "copy", "bandwidth": 1, "name": "copy"}
        task = server.request("POST", "vms/web/clone", body).json
        copy, filler = folder / "copy-vda.img", folder / "filler"
        wait_until(lambda: copy.exists() and allocated(copy) > MiB, 30, "the copy is under way", lambda: server.log)
        fill(filler)
        ended = server.wait_task(task["id"])
    assert ended["status"] == "failed"
    assert listing(folder) == ["filler", "web.img"]


@pytest.mark.parametrize("user", ["nobody", "a guest", "a volume"])
def test_a_guest_whose_deletion_a_crash_interrupts_leaves_nothing_that_nobody_needs(
    libvirtd: PrivateLibvirtd,
    pool: libvirt.virStoragePool,
    guest: Guest,
    folder: Path,
    tmp_path: Path,
    user: str,
) -> None:
    """The server dies when it has undefined the guest."""
    disk, nvram = Path(make_raw(pool, "web.img", MiB).path()), folder / "web_VARS.fd"
    nvram.write_bytes(b"x")
    guest("web", [disk], nvram=nvram)
    with server_parts(libvirtd, tmp_path) as mortal:
        died = mock.patch.object(mortal.host, "delete_volume", side_effect=KeyboardInterrupt)
        with died, pytest.raises(KeyboardInterrupt):
            VMsModel(mortal).delete("web", ANYBODY, storage=True)
        assert disk.exists()
        Deletions(mortal).sweep()
        assert disk.exists(), "its server lives"
    if user == "a guest":
        guest("mine", [disk])
    elif user == "a volume":
        make_qcow2(pool, "top.qcow2", MiB, backing=disk)
    with server_parts(libvirtd, tmp_path) as heir:
        Deletions(heir).sweep()
        assert heir.journal.deletions() == {}
    assert (disk.exists(), nvram.exists()) == (user != "nobody", False)


@contextmanager
def server_parts(libvirtd: PrivateLibvirtd, state_dir: Path) -> Iterator[Services]:
    """A server's parts in this process; what it has begun is a dead server's at the end."""
    services = build(Settings(connect=libvirtd.uri, state_dir=str(state_dir)))
    services.connections.start(10)
    try:
        yield services
    finally:
        services.connections.stop()
        services.journal.close()
        services.lease.release()


def fill(path: Path) -> None:
    """Takes all that a file system has left."""
    with path.open("wb", buffering=0) as file:
        for size in (MiB, 4096, 512):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
