"""What is in use is neither cloned, nor started or deleted: by whatever path, and by whom, libvirt knows or not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import libvirt
import pytest

from cloner import errors
from cloner.callers import ANYBODY
from cloner.model import holding
from cloner.model.accepting import Request
from cloner.model.holding import held
from cloner.model.storagevolumes import StorageVolumesModel
from cloner.model.vms import VMsModel
from cloner.plugin import build
from cloner.settings import Settings
from support.answers import cloned, refusal
from support.guests import OVMF_VARS, Disk, inventory, stop_guest
from support.libvirtd import PrivateLibvirtd
from support.running import run, wait_until
from support.server import SYNC_TIMEOUT, Server
from support.services import server_parts
from support.storage import (
    GiB,
    MiB,
    allocated,
    away,
    listing,
    make_pool,
    make_qcow2,
    make_raw,
    open_in_qemu,
    pool_path,
    some_data,
)

Guest = Callable[..., libvirt.virDomain]


@pytest.fixture
def disk(pool: libvirt.virStoragePool) -> Path:
    return Path(make_raw(pool, "web.img", 16 * MiB, {0: some_data(MiB)}).path())


def overlay(path: Path, backing: Path) -> None:
    """An image that no pool knows, on a backing file; libvirtd may write to it."""
    form = "qcow2" if backing.suffix == ".qcow2" else "raw"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", backing, path)
    owner = path.parent.stat()
    shutil.chown(path, owner.st_uid, owner.st_gid)


def hears_of(server: Server, name: str) -> None:
    """Waits until libvirt's event about a guest has come."""
    wait_until(lambda: name in {vm["name"] for vm in server.request("GET", "vms").json}, 30, f"{name} is in the list")


def refused_throughout(server: Server, pool: libvirt.virStoragePool) -> None:
    """Neither the guest nor its volume is cloned."""
    assert refusal(server.request("POST", "vms/web/clone")) == (400, "CLNVM0002E")
    volume = f"storagepools/{pool.name()}/storagevolumes/web.img/clone"
    assert refusal(server.request("POST", volume)) == (400, "CLNVOL0003E")


def test_a_disk_that_was_attached_to_another_guest_while_that_runs(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, disk: Path
) -> None:
    guest("web", [disk])
    other = guest("other", [make_raw(pool, "other.img", MiB)])
    other.create()
    other.attachDeviceFlags(Disk(disk).xml("vdb"), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    refused_throughout(server, pool)
    assert server.request("DELETE", "vms/web", {"storage": True}).status == 204
    assert disk.exists()
    guest("web", [disk])
    other.detachDeviceFlags(Disk(disk).xml("vdb"), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    stop_guest(other)
    cloned(server, "vms/web")


def test_a_running_guests_attached_disk_is_seen_in_the_inventory(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, disk: Path
) -> None:
    """The list of volumes is answered from it."""
    other = guest("other", [make_raw(pool, "other.img", MiB)])
    other.create()
    volume = f"storagepools/{pool.name()}/storagevolumes/web.img"
    assert server.request("GET", volume).json["used_by"] == []
    other.attachDeviceFlags(Disk(disk).xml("vdb"), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    wait_until(lambda: server.request("GET", volume).json["used_by"] == ["other"], 30, "it is heard of")
    other.detachDeviceFlags(Disk(disk).xml("vdb"), libvirt.VIR_DOMAIN_AFFECT_LIVE)


@pytest.mark.parametrize("way", ["hard link", "linked folder"])
def test_a_disk_that_a_running_guest_has_by_another_path(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, disk: Path, folder: Path, way: str
) -> None:
    other_path = folder / "elsewhere" / disk.name
    if way == "hard link":
        other_path.parent.mkdir(mode=0o755)
        other_path.hardlink_to(disk)
    else:
        other_path.parent.symlink_to(disk.parent)
    guest("web", [disk])
    other = guest("other", [other_path])
    other.create()
    refused_throughout(server, pool)
    assert server.request("DELETE", "vms/web", {"storage": True}).status == 204
    assert disk.exists()


def test_a_disk_that_a_qemu_unknown_to_libvirt_writes_to(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, disk: Path
) -> None:
    guest("web", [disk])
    with open_in_qemu(disk):
        refused_throughout(server, pool)
        assert refusal(server.request("DELETE", "vms/web", {"storage": True})) == (409, "CLNVM0007E")
    cloned(server, "vms/web")


def test_a_qemu_that_opens_the_source_meanwhile_ends_the_clone(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    piece = some_data(MiB)
    big = Path(make_raw(pool, "web.img", 2 * GiB, {place * MiB: piece for place in range(1024)}).path())
    guest("web", [big])
    before = inventory(conn)
    task = server.request("POST", "vms/web/clone", {"method": "libvirt"}).json
    copy = pool_path(pool) / f"{task['name']}-vda.img"
    wait_until(lambda: copy.exists() and allocated(copy) > MiB, 30, "the copy is under way", lambda: server.log)
    with open_in_qemu(big):
        ended = server.wait_task(task["id"], SYNC_TIMEOUT)
    assert (ended["status"], ended["message"][:12]) == ("failed", "CLNTASK0006E")
    assert inventory(conn) == before


def test_the_disk_of_a_guest_in_a_linked_folder_stays_when_another_guest_goes(
    server: Server, guest: Guest, disk: Path, folder: Path
) -> None:
    link = folder / "elsewhere"
    link.symlink_to(disk.parent)
    guest("web", [disk])
    guest("other", [link / disk.name])
    assert server.request("DELETE", "vms/web", {"storage": True}).status == 204
    assert disk.exists()


def test_a_guest_whose_disk_lies_behind_a_linked_folder_is_cloned_within_its_pool(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, disk: Path, folder: Path
) -> None:
    link = folder / "elsewhere"
    link.symlink_to(disk.parent)
    guest("web", [link / disk.name])
    (cloned_disk,) = cloned(server, "vms/web")["disks"]
    assert cloned_disk["target"]["pool"] == pool.name()


def test_a_clone_of_a_volume_that_a_guest_was_given_without_an_event_stays(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, disk: Path
) -> None:
    """libvirt tells nobody of a device that is added to a definition alone."""
    other = guest("other", [make_raw(pool, "other.img", MiB)])
    volume = f"storagepools/{pool.name()}/storagevolumes/{disk.name}/clone"
    answer = server.request("POST", volume, {"count": 1}).json
    task = server.wait_task(answer["tasks"][0]["id"])
    path = pool_path(pool) / task["name"]
    other.attachDeviceFlags(Disk(path).xml("vdb"), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    server.request("DELETE", f"batches/{answer['batch']}", {"undo": True})
    wait_until(lambda: server.request("GET", f"tasks/{task['id']}").json["warning"], 30, "it is said why")
    assert path.exists()


def test_a_clone_that_is_still_being_made_is_not_cloned(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, conn: libvirt.virConnect
) -> None:
    """It is defined at the end, but its volumes are there before; another guest may have been put upon one."""
    piece = some_data(MiB)
    big = Path(make_raw(pool, "web.img", 2 * GiB, {place * MiB: piece for place in range(1024)}).path())
    guest("web", [big])
    task = server.request("POST", "vms/web/clone", {"method": "copy", "bandwidth": 100, "name": "first"}).json
    copy = pool_path(pool) / "first-vda.img"
    wait_until(lambda: copy.exists() and allocated(copy) > MiB, 30, "the copy is under way", lambda: server.log)
    guest("early", [copy])
    assert refusal(server.request("POST", "vms/early/clone")) == (409, "CLNVM0007E")
    guest("first", [])
    assert refusal(server.request("POST", "vms/first/clone")) == (409, "CLNVM0007E")
    server.request("DELETE", f"tasks/{task['id']}")
    assert server.wait_task(task["id"])["status"] == "killed"


def test_a_clone_that_is_being_made_is_known_by_every_pool_that_leads_to_its_folder(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, guest: Guest, folder: Path, tmp_path: Path
) -> None:
    """Half of it would be cloned; and of two that are made by one name at once, libvirt lets both have one file."""
    make_raw(pool, "web.img", 16 * MiB, {0: some_data(16 * MiB)})
    (folder / "link").symlink_to(pool_path(pool))
    alias = make_pool(pool.connect(), f"alias-{pool.name()}", folder / "link")
    config = tmp_path / "cloner.conf"
    config.write_text("[cloner]\ncopies = 1\n", "utf-8")
    slow = {"method": "copy", "bandwidth": 1}
    with Server(libvirtd.uri, tmp_path / "state", args=["--config", str(config)]) as server:
        source = f"storagepools/{pool.name()}/storagevolumes/web.img/clone"
        made, waiting = (server.request("POST", source, {**slow, "name": name}).json for name in ("a.img", "b.img"))
        copy = pool_path(pool) / "a.img"
        wait_until(lambda: copy.exists() and allocated(copy), 30, "the first one is under way", lambda: server.log)
        alias.refresh()
        half = f"storagepools/{alias.name()}/storagevolumes/a.img/clone"
        assert refusal(server.request("POST", half)) == (400, "CLNVOL0001E")
        guest("early", [folder / "link/a.img"])
        assert refusal(server.request("POST", "vms/early/clone")) == (409, "CLNVM0007E")
        assert refusal(server.request("POST", "vms/early/start")) == (409, "CLNVM0007E")
        assert refusal(server.request("DELETE", "vms/early", {"storage": True})) == (409, "CLNVM0007E")
        taken = {"name": "b.img", "pool": alias.name()}
        assert refusal(server.request("POST", source, taken)) == (409, "CLNNAME0002E")
        for task in (waiting, made):
            server.request("DELETE", f"tasks/{task['id']}")
            assert server.wait_task(task["id"])["status"] == "killed"


@pytest.fixture
def alias(pool: libvirt.virStoragePool, disk: Path, folder: Path) -> libvirt.virStoragePool:
    """Another pool that leads to the folder of the disk."""
    (folder / "link").symlink_to(disk.parent)
    return make_pool(pool.connect(), f"alias-{pool.name()}", folder / "link")


def test_what_is_held_is_not_cloned_by_another_path(
    libvirtd: PrivateLibvirtd, disk: Path, alias: libvirt.virStoragePool, tmp_path: Path
) -> None:
    """A linked clone would stand on what is being started, or is gone in the next moment."""
    linked = Request({"method": "linked"}, "/p", ANYBODY)
    with server_parts(libvirtd.uri, tmp_path / "state") as services:
        volumes = StorageVolumesModel(services)
        with held(services, "web", [str(disk)], "started", ANYBODY), pytest.raises(errors.SourceInUse):
            volumes.clone(alias.name(), disk.name, linked)
        forget_gone = holding._forget_gone

        def meanwhile(*args: Any) -> None:
            forget_gone(*args)
            volumes.clone(alias.name(), disk.name, linked)

        late = mock.patch.object(holding, "_forget_gone", meanwhile)
        with late, pytest.raises(errors.SourceInUse), held(services, "web", [str(disk)], "deleted", ANYBODY):
            pass


def test_what_is_held_on_a_file_server_that_is_away_keeps_no_other_clone_waiting(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, disk: Path, folder: Path, tmp_path: Path
) -> None:
    """Who looked at it waited for ever, and kept the journal locked: so did all who write to that."""
    held_one = folder / "away" / "web.img"
    held_one.parent.mkdir()
    held_one.touch()
    with (
        server_parts(libvirtd.uri, tmp_path / "state") as services,
        held(services, "web", [str(held_one)], "started", ANYBODY),
        ThreadPoolExecutor() as others,
        away(held_one.parent),
    ):
        clone = StorageVolumesModel(services).clone
        accepted = others.submit(clone, pool.name(), disk.name, Request({}, "/p", ANYBODY))
        assert accepted.result(20).tasks


def test_a_name_whose_socket_would_be_another_guests_is_refused(
    server: Server, conn: libvirt.virConnect, guest: Guest, folder: Path
) -> None:
    console = "<serial type='unix'><source mode='bind' path='{}'/></serial>"
    guest("web", devices=console.format(folder / "web.sock"))
    guest("other", devices=console.format(folder / "copy.sock"))
    hears_of(server, "other")
    before = inventory(conn)
    answer = server.request("POST", "vms/web/clone", {"name": "copy"})
    assert refusal(answer) == (400, "CLNNAME0001E")
    assert str(folder / "copy.sock") in answer.json["reason"]
    assert inventory(conn) == before
    cloned(server, "vms/web", name="copied")


@pytest.mark.parametrize(
    "console",
    [
        "<serial type='file'><source path='{0}/web.txt'/></serial>",
        "<serial type='pty'><log file='{0}/web.txt'/></serial>",
        "<serial type='unix'><source mode='bind' path='{0}/web.txt'/></serial>",
        "<graphics type='vnc' socket='{0}/web.txt'/>",
    ],
    ids=["file", "log", "socket", "display"],
)
def test_a_name_whose_start_would_overwrite_a_file_is_refused(
    server: Server, conn: libvirt.virConnect, guest: Guest, folder: Path, console: str
) -> None:
    """QEMU cuts a log off, and removes what lies where it is going to listen."""
    guest("web", devices=console.format(folder))
    (folder / "notes.txt").write_text("precious", "utf-8")
    before = inventory(conn)
    answer = server.request("POST", "vms/web/clone", {"name": "notes", "start": True})
    assert refusal(answer) == (400, "CLNNAME0001E")
    assert str(folder / "notes.txt") in answer.json["reason"]
    assert inventory(conn) == before
    assert (folder / "notes.txt").read_text("utf-8") == "precious"
    cloned(server, "vms/web")


def test_a_socket_that_a_clone_is_going_to_connect_to_may_be_there_before(
    server: Server, guest: Guest, folder: Path
) -> None:
    """Who listens there was started for the clone."""
    guest("web", devices=f"<serial type='unix'><source mode='connect' path='{folder}/web.sock'/></serial>")
    (folder / "copy.sock").touch()
    cloned(server, "vms/web", name="copy")


def test_two_clones_on_their_way_never_have_one_socket(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, folder: Path
) -> None:
    """Neither is defined yet, so that only the journal knows of the first."""
    console = "<serial type='unix'><source mode='bind' path='{}'/></serial>"
    piece = some_data(MiB)
    big = make_raw(pool, "a.img", 256 * MiB, {place * MiB: piece for place in range(64)})
    guest("a", [big], devices=console.format(folder / "a-b.sock"))
    guest("s", devices=console.format(folder / "s.sock"))
    task = server.request("POST", "vms/a/clone", {"method": "copy", "bandwidth": 1, "name": "x"}).json
    answer = server.request("POST", "vms/s/clone", {"name": "x-b"})
    assert refusal(answer) == (400, "CLNNAME0001E")
    assert str(folder / "x-b.sock") in answer.json["reason"]
    server.request("DELETE", f"tasks/{task['id']}")
    assert server.wait_task(task["id"])["status"] == "killed"
    cloned(server, "vms/s", name="x-b")


def test_a_name_whose_files_another_guest_names_is_taken_though_they_are_not_there(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, disk: Path, folder: Path
) -> None:
    guest("web", [disk], nvram=folder / "web_VARS.fd")
    guest("one", nvram=folder / "first_VARS.fd")
    guest("two", [pool_path(pool) / "second-vda.img"])
    hears_of(server, "two")
    for name, named in (("first", f"{folder}/first_VARS.fd"), ("second", f"second-vda.img in pool {pool.name()}")):
        answer = server.request("POST", "vms/web/clone", {"name": name})
        assert refusal(answer) == (409, "CLNNAME0002E")
        assert named in answer.json["reason"]
    cloned(server, "vms/web", name="third")


def test_implied_uefi_variables_are_seen_as_a_guests_own(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, guest: Guest, tmp_path: Path, folder: Path
) -> None:
    """Where libvirt chooses the firmware, the XML of libvirt 9.0 does not say where its variables lie."""
    conf = tmp_path / "cloner.conf"
    nvram = os.path.join(libvirtd.folder, "c/libvirt/qemu/nvram")
    conf.write_text(f"[cloner]\nnvram_dir = {nvram}\n", "utf-8")
    conn.defineXML(
        "<domain type='qemu'><name>chosen</name><memory unit='MiB'>32</memory><os firmware='efi'>"
        "<type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features></domain>"
    )
    guest("other", nvram=Path(nvram, "chosen_VARS.fd"))
    argv = [sys.executable, "-m", "cloner", "audit", "--json", "--connect", libvirtd.uri, "--config", str(conf)]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    assert json.loads(said)[f"NVRAM {nvram}/chosen_VARS.fd"] == ["chosen", "other"]


def test_the_audit_knows_a_disk_and_variables_by_all_their_names(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Guest,
    tmp_path: Path,
    folder: Path,
) -> None:
    (folder / "link").symlink_to(pool_path(pool))
    disk, nvram = pool_path(pool) / "a.img", pool_path(pool) / "a_VARS.fd"
    make_raw(pool, disk.name, MiB)
    guest("one", [disk], nvram=nvram)
    guest("two", [Disk((pool.name(), disk.name))])
    guest("three", [folder / "link" / disk.name], nvram=folder / "link" / nvram.name)
    guest("four", [pool_path(pool) / "another.img", Disk((pool.name(), "missing.img")), Disk(("missing", "a.img"))])
    argv = [sys.executable, "-m", "cloner", "audit", "--json", "--connect", libvirtd.uri]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
    first = min(f"{folder}/link", str(pool_path(pool)))
    assert json.loads(done.stdout) == {
        f"NVRAM {first}/a_VARS.fd": ["one", "three"],
        f"writable disk {first}/a.img": ["one", "three", "two"],
    }
    assert done.returncode == 1


def test_a_guest_that_is_started_while_it_is_deleted_keeps_its_disk(
    libvirtd: PrivateLibvirtd, guest: Guest, disk: Path, tmp_path: Path
) -> None:
    """libvirt undefines what runs; QEMU has no lock on the disk yet when that is looked for."""
    web = guest("web", [disk])
    services = build(Settings(connect=libvirtd.uri, state_dir=str(tmp_path)))
    undefine = services.host.undefine

    def start_and_undefine(uuid: str, **how: bool) -> None:
        web.create()
        undefine(uuid, **how)

    services.connections.start(10)
    try:
        with mock.patch.object(services.host, "undefine", start_and_undefine), pytest.raises(errors.SourceInUse):
            VMsModel(services).delete("web", ANYBODY, storage=True)
    finally:
        services.connections.stop()
        services.journal.close()
        services.lease.release()
    assert disk.exists()
    assert (web.isActive(), web.isPersistent()) == (1, 1)


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("place", ["pool", "elsewhere"])
def test_a_clones_disk_that_another_guests_image_stands_on_stays(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, folder: Path, place: str, runs: bool
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", 16 * MiB, {0: some_data(MiB)})])
    name = cloned(server, "vms/web")["name"]
    disk = pool_path(pool) / f"{name}-vda.qcow2"
    if place == "pool":
        middle = Path(make_qcow2(pool, "middle.qcow2", 16 * MiB, backing=disk).path())
        top = Path(make_qcow2(pool, "top.qcow2", 16 * MiB, backing=middle).path())
    else:
        middle, top = folder / "middle.qcow2", folder / "top.qcow2"
        overlay(middle, disk)
        overlay(top, middle)
    other = guest("other", [top])
    if runs:
        other.create()
    assert server.request("DELETE", f"vms/{name}").status == 204
    assert disk.exists()
    if runs:
        stop_guest(other)
    other.create()


def test_a_clones_disk_that_a_volume_stands_on_stays_though_no_guest_has_that(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, disk: Path
) -> None:
    """It was made with virsh vol-create-as, for a guest that is going to be defined."""
    guest("web", [disk])
    (one, other) = (cloned(server, "vms/web")["name"] for _ in range(2))
    below = pool_path(pool) / f"{one}-vda.img"
    make_qcow2(pool, "new.qcow2", 16 * MiB, backing=below)
    for name in (one, other):
        assert server.request("DELETE", f"vms/{name}").status == 204
    assert listing(below.parent) == ["new.qcow2", below.name, disk.name]


def test_a_disk_that_a_qemu_reads_as_a_backing_file_is_not_deleted(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, disk: Path, folder: Path
) -> None:
    """Of such a file it has no writer's lock."""
    guest("web", [disk])
    top = folder / "top.qcow2"
    overlay(top, disk)
    with open_in_qemu(top, form="qcow2"):
        assert refusal(server.request("DELETE", "vms/web", {"storage": True})) == (409, "CLNVM0007E")
    assert server.request("DELETE", "vms/web", {"storage": True}).status == 204
    assert not disk.exists()


def test_uefi_variables_that_another_guest_has_by_another_path_stay(
    libvirtd: PrivateLibvirtd, server: Server, guest: Guest, folder: Path
) -> None:
    nvram = folder / "nvram" / "web_VARS.fd"
    nvram.parent.mkdir()
    shutil.copy(OVMF_VARS, nvram)
    for path in (nvram.parent, nvram):
        shutil.chown(path, libvirtd.uid, libvirtd.gid)
    (folder / "elsewhere").symlink_to(nvram.parent)
    guest("web", nvram=nvram)
    other = guest("other", nvram=folder / "elsewhere" / nvram.name)
    other.create()
    assert server.request("DELETE", "vms/web", {"storage": True}).status == 204
    assert nvram.exists()


def test_what_a_linked_clone_stands_on_is_not_started_by_a_hard_link(
    server: Server, guest: Guest, disk: Path, folder: Path
) -> None:
    guest("web", [disk])
    link = folder / "hard.img"
    link.hardlink_to(disk)
    guest("other", [link])
    clone = cloned(server, "vms/web", method="linked")["name"]
    assert refusal(server.request("POST", "vms/other/start")) == (409, "CLNVM0007E")
    assert server.request("DELETE", f"vms/{clone}").status == 204
    assert server.request("POST", "vms/other/start").status == 200


def test_what_a_linked_clone_stands_on_is_not_started_though_that_was_moved(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, disk: Path, folder: Path
) -> None:
    guest("web", [disk])
    clone = conn.lookupByName(cloned(server, "vms/web", method="linked")["name"])
    child = pool_path(pool) / f"{clone.name()}-vda.qcow2"
    moved = child.rename(folder / "moved.qcow2")
    pool.refresh()
    conn.defineXML(clone.XMLDesc().replace(str(child), str(moved)))
    answer = server.request("POST", "vms/web/start")
    assert refusal(answer) == (409, "CLNVM0007E")
    assert clone.name() in answer.json["reason"]
    clone.undefine()
    moved.rename(child.with_name("renamed.qcow2"))
    answer = server.request("DELETE", "vms/web", {"storage": True})
    assert refusal(answer) == (409, "CLNVM0007E")
    assert f"{pool.name()}/renamed.qcow2" in answer.json["reason"]
    child.with_name("renamed.qcow2").unlink()
    assert server.request("POST", "vms/web/start").status == 200
