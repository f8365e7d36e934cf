"""What is undone is what was made, and it is undone whatever became of pools, disks and definitions meanwhile."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from itertools import chain, product, repeat
from pathlib import Path
from typing import Any
from unittest import mock

import libvirt
import pytest

from cloner import errors
from cloner.callers import ANYBODY
from cloner.engine import locks
from cloner.hypervisor.host import Host
from cloner.model.accepting import Request
from cloner.model.deletions import Deletions
from cloner.model.storagevolumes import StorageVolumesModel
from cloner.model.vms import VMsModel
from cloner.server import commands
from cloner.settings import Settings
from support.answers import cloned, refusal
from support.guests import Disk
from support.libvirtd import PrivateLibvirtd
from support.mortal import MortalServer
from support.running import wait_until
from support.server import Server
from support.services import server_parts
from support.storage import (
    MiB,
    allocated,
    listing,
    make_pool,
    make_qcow2,
    make_raw,
    open_in_qemu,
    pool_path,
    remove_pool,
    some_data,
)

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


@pytest.mark.parametrize("change", list(product(["removed", "replaced"], ["disk", "UEFI variables"])), ids=" ".join)
def test_a_clone_of_which_somebody_has_removed_or_replaced_a_part_is_not_finished(
    libvirtd: PrivateLibvirtd,
    pool: libvirt.virStoragePool,
    guest: Guest,
    folder: Path,
    tmp_path: Path,
    change: tuple[str, str],
) -> None:
    """Another disk may take hours after that one."""
    what, part = change
    nvram = folder / "web_VARS.fd"
    nvram.write_bytes(some_data(MiB // 8))
    guest("web", [make_raw(pool, "web.img", MiB), make_raw(pool, "data.img", MiB)], nvram=nvram)
    with MortalServer(libvirtd.uri, tmp_path / "trial" / "state", 0) as trial:
        at = trial.points_of("vms/web", {"name": "trial"}).index("before define")  # it is written down by then
        assert trial.request("DELETE", "vms/trial").status == 204
    with MortalServer(libvirtd.uri, tmp_path / "state", at, pauses=True) as server:
        task = server.request("POST", "vms/web/clone", {"name": "copy"}).json
        wait_until(server.pause.exists, 30, "it waits", lambda: server.log)
        made = {"disk": pool_path(pool) / "copy-vda.img", "UEFI variables": folder / "copy_VARS.fd"}
        made[part].unlink()
        if what == "replaced":
            made[part].write_bytes(b"precious")
        server.pause.unlink()
        ended = server.wait_task(task["id"])
    assert ended["status"] == "failed"
    assert f"{made[part].name} is there failed: somebody has {what} it" in ended["message"]
    left = {path.name for path in (*made.values(), pool_path(pool) / "copy-vdb.img") if path.exists()}
    assert left == ({made[part].name} if what == "replaced" else set())
    assert what == "removed" or made[part].read_bytes() == b"precious"


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


@pytest.mark.parametrize("user", ["nobody", "who looks", "a guest", "a volume"])
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
    interrupted_deletion(libvirtd, tmp_path)
    if user == "a guest":
        guest("mine", [disk])
    elif user == "a volume":
        make_qcow2(pool, "top.qcow2", MiB, backing=disk)
    looks = mock.patch.object(locks, "is_open", side_effect=chain([user == "who looks"], repeat(False)))
    with looks, server_parts(libvirtd.uri, tmp_path) as heir:
        Deletions(heir).sweep()
        assert heir.journal.removals.deletions() == {}
    assert (disk.exists(), nvram.exists()) == (user in ("a guest", "a volume"), False)


@pytest.mark.parametrize("moment", ["undefine", "delete_volume"])
def test_a_guest_goes_with_its_storage_though_libvirt_dies_while_it_is_deleted(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, guest: Guest, tmp_path: Path, moment: str
) -> None:
    """Who asks again is told that there is no such guest. It goes on as soon as libvirt is back."""
    disk = Path(make_raw(pool, "web.img", MiB).path())
    guest("web", [disk])
    undefine = Host.undefine

    def die(host: Host, *args: Any, **keywords: Any) -> None:
        if moment == "undefine":
            undefine(host, *args, **keywords)
        raise errors.LibvirtUnavailable(uri="", cause="a test")

    with server_parts(libvirtd.uri, tmp_path) as parts:
        with mock.patch.object(Host, moment, die), pytest.raises(errors.LibvirtUnavailable):
            VMsModel(parts).delete("web", ANYBODY, storage=True)
        assert not parts.host.has_domain("web")
        assert disk.exists()
        Deletions(parts).sweep()
        assert parts.journal.removals.deletions() == {}
    assert not disk.exists()


def test_a_guest_that_a_libvirt_undefines_after_all_that_was_given_up_goes_with_its_storage(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Guest,
    tmp_path: Path,
) -> None:
    """It hung for longer than its server waits for a sign of it, and the guest was there as it could be asked again."""
    disk = Path(make_raw(pool, "web.img", MiB).path())
    guest("web", [disk])
    lost = errors.LibvirtUnavailable(uri="", cause="a test")
    with server_parts(libvirtd.uri, tmp_path) as parts:
        with mock.patch.object(parts.host, "undefine", side_effect=lost), pytest.raises(errors.LibvirtUnavailable):
            VMsModel(parts).delete("web", ANYBODY, storage=True)
        deletions = Deletions(parts)
        deletions.sweep()
        conn.lookupByName("web").undefine()
        deletions.sweep()
        assert parts.journal.removals.deletions() == {}
    assert not disk.exists()


def test_a_guest_whose_deletion_did_not_begin_keeps_its_storage_whoever_undefines_it_later(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Guest,
    tmp_path: Path,
) -> None:
    disk = Path(make_raw(pool, "web.img", MiB).path())
    guest("web", [disk])
    refused = errors.LibvirtFailed(act="undefine the domain", cause="a test")
    with server_parts(libvirtd.uri, tmp_path) as parts:
        with mock.patch.object(parts.host, "undefine", side_effect=refused), pytest.raises(errors.LibvirtFailed):
            VMsModel(parts).delete("web", ANYBODY, storage=True)
        conn.lookupByName("web").undefine()
        Deletions(parts).sweep()
    assert disk.exists()


@pytest.mark.parametrize("is_changed", [False, True])
def test_a_guest_of_a_host_whose_files_only_libvirt_sees_leaves_no_storage_that_is_as_it_was(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, guest: Guest, tmp_path: Path, is_changed: bool
) -> None:
    disk = Path(make_raw(pool, "web.img", MiB).path())
    guest("web", [disk])
    interrupted_deletion(libvirtd, tmp_path, is_local=False)
    if is_changed:  # somebody has made another one in its place
        disk.write_bytes(b"theirs")
    with server_parts(libvirtd.uri, tmp_path, is_local=False) as heir:
        Deletions(heir).sweep()
        assert heir.journal.removals.deletions() == {}
    assert disk.exists() is is_changed


def interrupted_deletion(libvirtd: PrivateLibvirtd, state_dir: Path, *, is_local: bool = True) -> None:
    """Its server dies when it has undefined the guest. Until then nobody else goes on with it."""
    with (
        server_parts(libvirtd.uri, state_dir, is_local=is_local) as mortal,
        server_parts(libvirtd.uri, state_dir) as other,
    ):

        def die(*_: str) -> None:
            for parts in (mortal, other):
                assert Deletions(parts).left() == {}
            assert len(other.journal.removals.deletions()) == 1
            raise KeyboardInterrupt

        with mock.patch.object(mortal.host, "delete_volume", die), pytest.raises(KeyboardInterrupt):
            VMsModel(mortal).delete("web", ANYBODY, storage=True)


@pytest.mark.parametrize("kind", ["file", "linked folder", "volume"])
@pytest.mark.parametrize("body", [{}, {"storage": True}])
def test_a_guest_whose_storage_cannot_go_since_its_pool_is_stopped_stays(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, folder: Path, kind: str, body: dict[str, Any]
) -> None:
    """It was deleted, and its disks were nobody's."""
    link = folder / "link"
    link.symlink_to(pool_path(pool))
    make_raw(pool, "web.img", MiB)
    disks = {"file": pool_path(pool) / "web.img", "linked folder": link / "web.img"}
    guest("web", [Disk((pool.name(), "web.img")) if kind == "volume" else disks[kind]])
    task = server.wait_task(server.request("POST", "vms/web/clone").json["id"])
    name = "web" if body else task["name"]
    pool.destroy()
    assert refusal(server.request("DELETE", f"vms/{name}", body)) == (400, "CLNPOOL0001E")
    assert server.request("GET", f"vms/{name}").status == 200
    pool.create()
    assert server.request("DELETE", f"vms/{name}", body).status == 204
    assert len(listing(pool_path(pool))) == 1


def test_a_pool_that_is_stopped_as_a_volume_of_it_is_looked_up_is_told_as_stopped(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, tmp_path: Path
) -> None:
    """What is undone in that moment is tried again; another error would have it left for good."""
    make_raw(pool, "web.img", MiB)
    pool.destroy()
    with (
        server_parts(libvirtd.uri, tmp_path) as parts,
        mock.patch.object(libvirt.virStoragePool, "isActive", return_value=1),
    ):
        for look in (parts.host.volume, parts.host.delete_volume):
            with pytest.raises(errors.PoolInactive):
                look(pool.name(), "web.img")


@pytest.mark.parametrize("kind", ["file", "volume"])
def test_what_a_deleted_clone_leaves_since_its_pool_is_there_no_more_is_named(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, kind: str
) -> None:
    path = Path(make_raw(pool, "web.img", MiB).path())
    guest("web", [Disk((pool.name(), "web.img")) if kind == "volume" else path])
    name = server.wait_task(server.request("POST", "vms/web/clone").json["id"])["name"]
    remove_pool(pool)
    answer = server.request("DELETE", f"vms/{name}")
    assert refusal(answer) == (502, "CLNVM0005E")
    assert f"/{name}-vda.img: it is no volume of pool {pool.name()} any more" in answer.json["reason"]
    assert server.request("GET", f"vms/{name}").status == 404
    assert (path.parent / f"{name}-vda.img").exists()


@pytest.mark.parametrize("storage", [False, True])
def test_what_a_deleted_clone_had_before_a_snapshot_is_named(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, *, storage: bool
) -> None:
    """An external one gives the guest another disk, which stands on the one that was made for it."""
    guest("web", [make_qcow2(pool, "web.qcow2", MiB)])
    name = server.wait_task(server.request("POST", "vms/web/clone").json["id"])["name"]
    made = pool_path(pool) / f"{name}-vda.qcow2"
    snapshot = "<domainsnapshot><name>before</name></domainsnapshot>"
    conn.lookupByName(name).snapshotCreateXML(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
    pool.refresh()
    answer = server.request("DELETE", f"vms/{name}", {"storage": storage})
    assert refusal(answer) == (502, "CLNVM0005E")
    assert f"{made}: the guest had something else in its place" in answer.json["reason"]
    left = [made.name, "web.qcow2"] if storage else [f"{name}-vda.before", made.name, "web.qcow2"]
    assert sorted(listing(pool_path(pool))) == sorted(left)
    assert server.request("GET", f"vms/{name}").status == 404


def test_what_a_deleted_clone_gave_to_another_guest_is_not_named(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    guest("web", [make_raw(pool, "web.img", MiB)])
    name = server.wait_task(server.request("POST", "vms/web/clone").json["id"])["name"]
    made = pool_path(pool) / f"{name}-vda.img"
    clone = conn.lookupByName(name)
    clone.detachDeviceFlags(Disk(made).xml("vda"), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    guest("other", [made])
    assert server.request("DELETE", f"vms/{name}").status == 204
    assert made.exists()


def test_a_volume_that_is_being_cloned_is_not_deleted_with_the_guest_that_is_gone(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, guest: Guest, tmp_path: Path
) -> None:
    disk = Path(make_raw(pool, "web.img", MiB, {0: some_data(MiB)}).path())
    guest("web", [disk])
    interrupted_deletion(libvirtd, tmp_path)
    with server_parts(libvirtd.uri, tmp_path) as heir:
        StorageVolumesModel(heir).clone(pool.name(), "web.img", Request({"method": "linked"}, "/p", ANYBODY))
        Deletions(heir).sweep()
        assert heir.journal.removals.deletions() == {}
    assert disk.exists()


def test_recovery_by_hand_tells_of_a_deletion_and_ends_it(
    libvirtd: PrivateLibvirtd,
    pool: libvirt.virStoragePool,
    guest: Guest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = Path(make_raw(pool, "web.img", MiB).path())
    guest("web", [disk])
    interrupted_deletion(libvirtd, tmp_path)
    settings = Settings(connect=libvirtd.uri, state_dir=str(tmp_path))
    said = f"guest web, of which a DELETE was interrupted: remove {disk}\n"
    for is_dry, end in ((True, ""), (False, "1 recovered\n")):
        assert disk.exists()
        commands.recover(settings, dry_run=is_dry)
        assert capsys.readouterr().out == said + end
    assert not disk.exists()
    commands.recover(settings, dry_run=True)
    assert capsys.readouterr().out == "nothing is left to recover\n"


def fill(path: Path) -> None:
    """Takes all that a file system has left."""
    with path.open("wb", buffering=0) as file:
        for size in (MiB, 4096, 512):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


def test_a_guest_whose_storage_no_pool_has_is_deleted_and_that_is_named(
    server: Server, conn: libvirt.virConnect, folder: Path, guest: Callable[..., libvirt.virDomain]
) -> None:
    """It lies in no pool, or the pool that a clone was made in is called otherwise, or leads elsewhere by now."""
    loose = folder / "loose.img"
    loose.write_bytes(some_data(MiB))
    first = make_pool(conn, "first", folder / "first")
    guest("web", [loose])
    clones = [cloned(server, "vms/web", pool="first")["name"] for _ in range(2)]
    remove_pool(first)
    make_pool(conn, "second", folder / "first")
    make_pool(conn, "first", folder / "elsewhere")
    for name, path in (("web", loose), *((name, folder / "first" / f"{name}-vda.img") for name in clones)):
        answer = server.request("DELETE", f"vms/{name}", {"storage": True} if name != clones[0] else None)
        if name == clones[1]:  # a pool has it
            assert (answer.status, path.exists()) == (204, False)
        else:
            assert refusal(answer) == (502, "CLNVM0005E")
            assert str(path) in answer.json["reason"]
            assert path.exists()
        assert server.request("GET", f"vms/{name}").status == 404


@pytest.mark.parametrize("wanted", [{}, {"name": "copy"}])
def test_a_volume_that_libvirt_was_killed_over_and_does_not_see_is_not_passed_over(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, guest: Guest, tmp_path: Path, wanted: dict[str, str]
) -> None:
    """Its qemu-img goes on, and makes the file when the next libvirtd has looked into its pools."""
    guest("web", [make_raw(pool, "web.img", MiB, {0: some_data(MiB)})])
    body, state = {"method": "copy", **wanted}, tmp_path / "state"
    with MortalServer(libvirtd.uri, tmp_path / "trial" / "state", 0) as trial:
        at = trial.points_of("vms/web", body | ({"name": "trial"} if wanted else {})).index("before create") + 1
    with MortalServer(libvirtd.uri, state, at) as server:
        server.clone_and_die("vms/web", body)
    with closing(sqlite3.connect(state / "journal.sqlite")) as journal:
        (args,) = journal.execute("SELECT args FROM steps WHERE kind = 'volume'").fetchone()
    made = pool_path(pool) / json.loads(args)["name"]
    made.touch()
    with Server(libvirtd.uri, state) as server:
        task = server.wait_task(server.request("GET", "tasks").json[-1]["id"])
    assert made.exists() == bool(wanted)  # a name that a person chose may be somebody else's file
    assert (made.name in task["message"]) == bool(wanted)


def test_a_pool_whose_folder_is_away_as_a_clone_is_undone_goes_on(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, guest: Guest, tmp_path: Path
) -> None:
    """Of a pool that it cannot look into libvirt makes a stopped one, for everybody and for good."""
    guest("web", [make_raw(pool, "web.img", MiB)])
    body, state = {"method": "copy", "name": "copy"}, tmp_path / "state"
    with MortalServer(libvirtd.uri, tmp_path / "trial" / "state", 0) as trial:
        at = trial.points_of("vms/web", body | {"name": "trial"}).index("after create") + 1
    with MortalServer(libvirtd.uri, state, at) as server:
        server.clone_and_die("vms/web", body)
    away = pool_path(pool).rename(pool_path(pool).with_name("away"))
    with Server(libvirtd.uri, state) as server:
        task = server.wait_task(server.request("GET", "tasks").json[-1]["id"])
    assert "copy-vda.img" in task["message"]
    assert pool.isActive()
    away.rename(pool_path(pool))


def test_who_looks_at_a_disk_as_its_guest_is_deleted_does_not_have_it_left(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, guest: Guest, tmp_path: Path
) -> None:
    """Such as the `qemu-img` of a clone of it that is being planned. It was left for good, since its guest is gone."""
    disk = Path(make_raw(pool, "web.img", MiB).path())
    guest("web", [disk])
    with ExitStack() as looking, server_parts(libvirtd.uri, tmp_path) as server:
        undefine, is_open = server.host.undefine, locks.is_open

        def undefine_and_look(uuid: str, **options: bool) -> None:
            undefine(uuid, **options)
            looking.enter_context(open_in_qemu(disk, "-r"))

        def is_open_once(path: str) -> bool:
            found = is_open(path)
            looking.close()
            return found

        with (
            mock.patch.object(server.host, "undefine", side_effect=undefine_and_look),
            mock.patch.object(locks, "is_open", side_effect=is_open_once),
        ):
            VMsModel(server).delete("web", ANYBODY, storage=True)
    assert not disk.exists()
