"""Overlays: flattened or left on what they stand on, and what others stand on is neither started nor deleted."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import libvirt
import pytest

from support.answers import at_once, cloned, refusal
from support.guests import Disk, inventory, stop_guest
from support.libvirtd import PrivateLibvirtd
from support.running import run
from support.server import SYNC_TIMEOUT, Response, Server
from support.storage import (
    KiB,
    MiB,
    allocated,
    image_info,
    make_pool,
    make_qcow2,
    make_raw,
    pool_path,
    qemu_img_compare,
    sha256,
    some_data,
)

Guest = Callable[..., libvirt.virDomain]


@pytest.fixture
def server(libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, tmp_path: Path) -> Iterator[Server]:
    conf = tmp_path / "cloner.conf"
    conf.write_text("[cloner]\nmax_chain = 3\n", "utf-8")
    with Server(libvirtd.uri, tmp_path / "state", args=["--config", str(conf)]) as running:
        yield running


@pytest.fixture
def overlay(pool: libvirt.virStoragePool) -> Path:
    """A qcow2 with a snapshot, on a qcow2 on a raw image, with data in each."""
    base = make_raw(pool, "base.img", 16 * MiB, {0: some_data(MiB), 2 * MiB: some_data(MiB, 1)})
    middle = make_qcow2(pool, "middle, it's.qcow2", 16 * MiB, {MiB: some_data(MiB, 2)}, backing=Path(base.path()))
    top = Path(make_qcow2(pool, "web.qcow2", 16 * MiB, {0: some_data(64 * KiB, 3)}, backing=Path(middle.path())).path())
    run("qemu-img", "snapshot", "-c", "before update", top)
    return top


def disk_of(conn: libvirt.virConnect, task: dict[str, Any]) -> Path:
    target = task["disks"][0]["target"]
    return Path(conn.storagePoolLookupByName(target["pool"]).storageVolLookupByName(target["name"]).path())


def test_a_flat_clone_has_the_content_and_stands_on_nothing(
    server: Server, conn: libvirt.virConnect, overlay: Path, guest: Guest
) -> None:
    guest("web", [overlay])
    before = sha256(overlay)
    task = cloned(server, "vms/web", flatten=True)
    (disk,) = task["disks"]
    copy = disk_of(conn, task)
    assert disk["method"] == "copy"
    assert "before update" in disk["note"]
    assert "backing-filename" not in image_info(copy)
    assert image_info(copy)["format-specific"]["data"]["compat"] == "1.1"
    assert qemu_img_compare(overlay, copy)
    assert allocated(copy) <= disk["bytes"]
    assert sha256(overlay) == before
    conn.lookupByName(task["name"]).create()


def test_a_volume_is_flattened_in_the_same_way(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, overlay: Path
) -> None:
    copy = disk_of(conn, cloned(server, f"storagepools/{pool.name()}/storagevolumes/web.qcow2", flatten=True))
    assert "backing-filename" not in image_info(copy)
    assert qemu_img_compare(overlay, copy)


def test_a_relative_name_is_taken_from_where_a_linked_folder_leads(
    server: Server, conn: libvirt.virConnect, libvirtd: PrivateLibvirtd, folder: Path
) -> None:
    """Two images are called so: beside the link, and beside the folder to which it leads."""
    real, link = folder / "deep" / "pool", folder / "link"
    real.mkdir(parents=True)
    link.symlink_to(real)
    pools = [make_pool(conn, f"{path.name}-{folder.name}", path) for path in (folder, folder / "deep", link)]
    for pool, seed in zip(pools, (1, 2), strict=False):
        make_raw(pool, "base.img", MiB, {0: some_data(MiB, seed)})
    overlay = link / "web.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "../base.img", overlay)
    shutil.chown(overlay, libvirtd.uid, libvirtd.gid)
    pools[2].refresh()
    task = cloned(server, f"storagepools/{pools[2].name()}/storagevolumes/web.qcow2", flatten=True)
    assert qemu_img_compare(overlay, disk_of(conn, task))


def test_compressed_data_is_counted_as_what_it_becomes(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    base = Path(make_qcow2(pool, "plain.qcow2", 16 * MiB, {0: b"\x07" * (8 * MiB)}).path())
    small = pool_path(pool) / "small.qcow2"
    run("qemu-img", "convert", "-c", "-f", "qcow2", "-O", "qcow2", base, small)
    small.chmod(0o666)
    pool.refresh()
    overlay = Path(make_qcow2(pool, "web.qcow2", 16 * MiB, backing=small).path())
    assert allocated(small) < MiB
    guest("web", [overlay])
    task = cloned(server, "vms/web", flatten=True)
    assert 8 * MiB <= allocated(disk_of(conn, task)) <= task["disks"][0]["bytes"]


def test_a_guest_boots_from_what_its_overlay_stands_on_and_flatten_needs_to_know_the_format(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    """An overlay that does not say what its backing file is, as old tools made them."""
    base = Path(make_raw(pool, "base.img", MiB, {0: some_data(64 * KiB)}).path())
    overlay = Path(make_qcow2(pool, "web.qcow2", MiB, backing=base).path())
    _forget_backing_format(overlay)
    guest("web", [overlay])
    before = inventory(conn)
    answer = server.request("POST", "vms/web/clone", {"flatten": True, "method": "copy"})
    assert refusal(answer) == (400, "CLNVM0006E")
    assert "nothing says what format" in answer.json["reason"]
    assert inventory(conn) == before


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("<backingStore/>", "leaves out the backing file {base}"),
        (
            "<backingStore type='file'><format type='raw'/><source file='{other}'/><backingStore/></backingStore>",
            "names {other} as a backing file, and the image stands on {base}",
        ),
    ],
)
@pytest.mark.parametrize("method", ["copy", "linked", "libvirt"])
def test_a_guest_that_reads_its_image_on_another_backing_file_is_not_cloned_on_the_images(  # noqa: PLR0917 - pytest's fixtures
    server: Server,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Guest,
    told: str,
    says: str,
    method: str,
) -> None:
    base, other = (Path(make_raw(pool, name, MiB, {0: some_data(KiB)}).path()) for name in ("base.img", "other.img"))
    overlay = Path(make_qcow2(pool, "web.qcow2", MiB, backing=base).path())
    web = guest("web", [Disk(overlay, extra=told.format(other=other))])
    web.create()  # it is a guest that works
    stop_guest(web)
    before = inventory(conn)
    answer = server.request("POST", "vms/web/clone", {"method": method})
    assert refusal(answer) == (400, "CLNVM0002E")
    assert says.format(base=base, other=other) in answer.json["reason"]
    assert inventory(conn) == before


def test_a_guest_that_says_what_its_image_says_is_cloned(
    server: Server, conn: libvirt.virConnect, folder: Path, overlay: Path, guest: Guest
) -> None:
    """By another path, too, as libvirt writes it down after a snapshot."""
    (folder / "link").symlink_to(overlay.parent)
    last = f"<backingStore type='file'><format type='raw'/><source file='{overlay.parent}/base.img'/></backingStore>"
    middle = quoteattr(str(folder / "link" / "middle, it's.qcow2"))
    told = f"<backingStore type='file'><format type='qcow2'/><source file={middle}/>{last}</backingStore>"
    guest("web", [Disk(overlay, extra=told)])
    task = cloned(server, "vms/web", method="copy")
    assert qemu_img_compare(overlay, disk_of(conn, task), strict=True)
    conn.lookupByName(task["name"]).create()


def _forget_backing_format(path: Path) -> None:
    """Turns the header extension with the format (0xE2792ACA, qcow2's specification) into one that nobody knows."""
    content = path.read_bytes()
    assert content.count(bytes.fromhex("e2792aca")) == 1
    path.write_bytes(content.replace(bytes.fromhex("e2792aca"), bytes.fromhex("00c0ffee")))


@pytest.mark.parametrize("wishes", [{"flatten": True}, {"method": "libvirt"}, {"method": "linked"}])
def test_an_image_that_leads_out_of_the_pools_is_not_followed(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, folder: Path, wishes: dict[str, Any]
) -> None:
    secret = folder / "secret"
    secret.write_bytes(b"not for anybody " * 4096)
    path = pool_path(pool) / "evil.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, path)
    path.chmod(0o666)
    pool.refresh()
    before = inventory(conn)
    answer = server.request("POST", f"storagepools/{pool.name()}/storagevolumes/evil.qcow2/clone", wishes)
    assert refusal(answer) == (400, "CLNVOL0001E")
    assert "no volume of an active storage pool" in answer.json["reason"]
    assert inventory(conn) == before


def test_what_an_image_says_counts_and_not_what_libvirt_once_saw(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    """The pool's view is as old as its last refresh: the overlay has another backing file since."""
    old = Path(make_raw(pool, "old.img", MiB, {0: some_data(64 * KiB)}).path())
    new = Path(make_raw(pool, "new.img", MiB, {0: some_data(64 * KiB, 1)}).path())
    overlay = Path(make_qcow2(pool, "web.qcow2", MiB, backing=old).path())
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", new, overlay)
    guest("web", [overlay])
    copy = disk_of(conn, cloned(server, "vms/web", flatten=True))
    assert qemu_img_compare(copy, new)
    assert not qemu_img_compare(copy, old)


def test_a_chain_of_linked_clones_ends_at_max_chain(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", MiB, {0: some_data(64 * KiB)})])
    name = "web"
    for _ in range(3):
        name = cloned(server, f"vms/{name}", method="linked")["name"]
    answer = server.request("POST", f"vms/{name}/clone", {"method": "linked"})
    assert refusal(answer) == (400, "CLNVM0006E")
    assert "max_chain allows 3" in answer.json["reason"]
    flat = cloned(server, f"vms/{name}", flatten=True)["name"]
    assert cloned(server, f"vms/{flat}", method="linked")["status"] == "finished"


# --- What others stand on --------------------------------------------------------------------------------------------


def test_the_source_of_a_linked_clone_is_not_started_before_that_is_gone(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    web = guest("web", [make_qcow2(pool, "web.qcow2", MiB, {0: some_data(64 * KiB)})])
    child = cloned(server, "vms/web", method="linked")["name"]
    answer = server.request("POST", "vms/web/start")
    assert refusal(answer) == (409, "CLNVM0007E")
    assert f"{child}-vda.qcow2" in answer.json["reason"]
    assert not web.isActive()

    started = server.request("POST", f"vms/{child}/start")
    assert (started.status, started.json["state"]) == (200, "running")
    assert refusal(server.request("POST", f"vms/{child}/start")) == (400, "CLNVM0008E")
    stop_guest(conn.lookupByName(child))

    assert server.request("DELETE", f"vms/{child}").status == 204
    assert server.request("POST", "vms/web/start").json["state"] == "running"


def test_a_guest_that_cannot_start_says_why(server: Server, folder: Path, guest: Guest) -> None:
    guest("web", [folder / "gone.img"])
    answer = server.request("POST", "vms/web/start")
    assert refusal(answer) == (502, "CLNVIRT0002E")
    assert "gone.img" in answer.json["reason"]


def test_a_source_is_deleted_or_linked_to_and_never_both(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    """However the two meet, a linked clone that is accepted has what it stands on."""
    outcomes = set()
    for number in range(25):
        name = f"web{number}"
        guest(name, [make_qcow2(pool, f"{name}.qcow2", MiB, {0: some_data(64 * KiB)})])

        def act(which: int, name: str = name) -> Response:
            if which:
                return server.request("DELETE", f"vms/{name}", {"storage": True})
            return server.request("POST", f"vms/{name}/clone", {"method": "linked"})

        linked, deleted = at_once(2, act)
        assert deleted.status in (204, 409)
        if linked.status == 202:
            task = server.wait_task(linked.json["id"])
            assert task["status"] == "finished", (task, deleted.text)
            assert deleted.status == 409
            assert run("qemu-img", "check", "-q", "-f", "qcow2", disk_of(conn, task)) == ""
        outcomes.add((linked.status, deleted.status))
    assert outcomes <= {(202, 409), (404, 204), (409, 204), (400, 204), (409, 409)}, outcomes


def test_a_hold_of_a_server_that_died_does_not_last(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    import sqlite3  # noqa: PLC0415 - for this test alone
    from contextlib import closing  # noqa: PLC0415

    disk = make_qcow2(pool, "web.qcow2", MiB)
    guest("web", [disk])
    with closing(sqlite3.connect(server.state_dir / "journal.sqlite")) as journal, journal:
        journal.execute("INSERT INTO holds VALUES (?, 'of-the-dead', 'deleted')", (disk.path(),))
    assert cloned(server, "vms/web")["status"] == "finished"


# --- What a guest writes to ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs", ["xfs", "ext4"])
def test_a_volume_that_a_running_guest_writes_to_is_not_cloned(
    server: Server, conn: libvirt.virConnect, file_system: Callable[..., Path], guest: Guest, fs: str
) -> None:
    pool = make_pool(conn, "images", file_system(fs) / "pool")
    web = guest("web", [make_qcow2(pool, "web.qcow2", MiB)])
    other = guest("twin", [make_qcow2(pool, "twin.qcow2", MiB), Path(pool_path(pool)) / "web.qcow2"])
    web.create()
    before = inventory(conn)
    answer = server.request("POST", "storagepools/images/storagevolumes/web.qcow2/clone")
    assert refusal(answer) == (400, "CLNVOL0003E")
    assert "disk of web" in answer.json["reason"]
    answer = server.request("POST", "vms/twin/clone")
    assert refusal(answer) == (400, "CLNVM0002E")
    assert "web, which runs" in answer.json["reason"]
    assert inventory(conn) == before
    stop_guest(web)
    assert not other.isActive()
    cloned(server, "storagepools/images/storagevolumes/web.qcow2")


def test_a_volume_whose_guest_is_started_meanwhile_is_not_kept(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    path = Path(make_raw(pool, "web.img", 1024 * MiB).path())
    with path.open("r+b") as file:
        for _ in range(700):
            file.write(some_data(MiB))
    source = guest("web", [path])
    before = inventory(conn)
    begun = threading.Event()
    task = server.request("POST", f"storagepools/{pool.name()}/storagevolumes/web.img/clone", {"method": "libvirt"})
    copy = pool_path(pool) / task.json["name"]
    while not begun.is_set():
        if copy.exists() and allocated(copy) > MiB:
            begun.set()
    source.create()
    ended = server.wait_task(task.json["id"], SYNC_TIMEOUT)
    stop_guest(source)
    assert (ended["status"], ended["message"][:12]) == ("failed", "CLNTASK0006E")
    assert inventory(conn) == before
