"""Reflink, copy, linked and libvirt: each makes the same guest, and says how and why."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from support.answers import cloned, refusal
from support.guests import Disk, inventory, stop_guest
from support.libvirtd import PrivateLibvirtd, as_unprivileged, unprivileged_ids
from support.running import run, wait_until
from support.server import SYNC_TIMEOUT, Server
from support.storage import (
    GiB,
    KiB,
    MiB,
    allocated,
    format_of,
    image_info,
    make_pool,
    make_qcow2,
    make_raw,
    open_in_qemu,
    pool_path,
    qemu_img_compare,
    remove_pool,
    sha256,
    some_data,
)

Guest = Callable[..., libvirt.virDomain]


def clone(server: Server, name: str = "web", **body: object) -> dict[str, Any]:
    answer = server.request("POST", f"vms/{name}/clone", body=body)
    assert answer.status == 202, answer.text
    task: dict[str, Any] = server.wait_task(answer.json["id"])
    assert (task["status"], task["message"], task["progress"]) == ("finished", "OK", 100)
    return task


def files_of(conn: libvirt.virConnect, name: str) -> list[Path]:
    xml = etree.fromstring(conn.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    return [Path(source.get("file", "")) for source in xml.iterfind("devices/disk/source")]


def image_with_everything(pool: libvirt.virStoragePool, name: str) -> Path:
    """A qcow2 with an internal snapshot, a bitmap, and clusters of another size than the usual."""
    path = pool_path(pool) / name
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=131072,lazy_refcounts=on", path, "64M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 3M", path)
    run("qemu-img", "snapshot", "-c", "before", path)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 1M 1M", path)
    run("qemu-img", "bitmap", "--add", "-f", "qcow2", path, "backup")
    path.chmod(0o600)
    owner = pool_path(pool).stat()
    os.chown(path, owner.st_uid, owner.st_gid)
    pool.refresh()
    return path


@pytest.mark.parametrize(("fs", "method"), [("xfs", "reflink"), ("btrfs", "reflink"), ("ext4", "copy")])
def test_auto_takes_the_best_method_and_everything_in_the_image_travels(  # noqa: PLR0917 - pytest's fixtures
    server: Server,
    conn: libvirt.virConnect,
    libvirtd: PrivateLibvirtd,
    file_system: Callable[..., Path],
    guest: Guest,
    fs: str,
    method: str,
) -> None:
    pool = make_pool(conn, "best", file_system(fs, 512 * MiB) / "pool")
    image = image_with_everything(pool, "web.qcow2")
    data = Path(make_raw(pool, "data.img", 128 * MiB, {MiB: some_data(MiB), 100 * MiB: some_data(MiB, 1)}).path())
    guest("web", [image, data])
    before = [sha256(path) for path in (image, data)]

    task = clone(server)

    assert [disk["method"] for disk in task["disks"]] == [method] * 2
    assert all(disk["reason"] for disk in task["disks"])
    copies = files_of(conn, task["name"])
    assert [sha256(path) for path in copies] == before, "the files are the same, byte for byte"
    assert [sha256(path) for path in (image, data)] == before
    assert all(allocated(copy) <= allocated(source) for source, copy in zip((image, data), copies, strict=True))
    info = image_info(copies[0])
    assert [snapshot["name"] for snapshot in info["snapshots"]] == ["before"]
    assert [bitmap["name"] for bitmap in info["format-specific"]["data"]["bitmaps"]] == ["backup"]
    assert info["cluster-size"] == 131072
    assert all((path.stat().st_uid, path.stat().st_mode & 0o777) == (libvirtd.uid, 0o600) for path in copies)
    volume = etree.fromstring(conn.storageVolLookupByPath(str(copies[0])).XMLDesc())
    assert volume.xpath("string(target/format/@type)") == "qcow2", "known to its pool as what it is"


def test_a_method_that_cannot_serve_is_refused_with_the_reason(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", MiB)])
    before = inventory(conn)
    answer = server.request("POST", "vms/web/clone", body={"method": "reflink"})
    assert (answer.status, answer.json["reason"][:10]) == (400, "CLNVM0006E")
    assert "share blocks" in answer.json["reason"]
    assert server.request("POST", "vms/web/clone", body={"method": "magic"}).status == 400
    assert inventory(conn) == before


@pytest.mark.parametrize("wishes", [{"method": "copy"}, {"method": "libvirt"}, {"method": "linked"}, {"flatten": True}])
@pytest.mark.parametrize("size", [512, 1000, MiB + 1536])
def test_a_clone_is_as_large_as_its_source_to_the_sector(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, size: int, wishes: dict[str, object]
) -> None:
    """What lies at a disk's end, as a partition table's copy does, is to be found there; libvirt counts in KiB."""
    make_raw(pool, "data.img", 0)
    data, overlay = (pool_path(pool) / name for name in ("data.img", "web.qcow2"))
    data.write_bytes(some_data(size))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", data, overlay)
    shutil.chown(overlay, *unprivileged_ids())
    pool.refresh()
    for source in (data, overlay):
        target = cloned(server, f"storagepools/{pool.name()}/storagevolumes/{source.name}", **wishes)["name"]
        copy = Path(pool.storageVolLookupByName(target).path())
        assert image_info(copy)["virtual-size"] == image_info(source)["virtual-size"]
        assert qemu_img_compare(source, copy)


@pytest.mark.parametrize("method", ["copy", "linked"])
def test_an_iso_is_the_one_file_that_it_is(server: Server, pool: libvirt.virStoragePool, method: str) -> None:
    disc = Path(make_raw(pool, "disc.iso", MiB, {32 * KiB: b"\1CD001\1"}).path())
    pool.refresh()
    assert "<format type='iso'/>" in pool.storageVolLookupByName(disc.name).XMLDesc()
    path = f"storagepools/{pool.name()}/storagevolumes/{disc.name}/clone"
    task = server.wait_task(server.request("POST", path, {"method": method}).json["id"])
    assert task["status"] == "finished"
    assert qemu_img_compare(disc, disc.with_name(task["name"]), strict=method == "copy")


@pytest.mark.parametrize("method", ["copy", "libvirt", "linked"])
def test_every_method_makes_the_same_content(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, method: str
) -> None:
    disks = [
        make_qcow2(pool, "web.qcow2", 16 * MiB, {0: some_data(MiB)}),
        make_raw(pool, "data.img", 8 * MiB, {MiB: some_data(MiB)}),
    ]
    guest("web", disks)
    task = clone(server, method=method)
    assert [disk["method"] for disk in task["disks"]] == [method] * 2
    copies = files_of(conn, task["name"])
    for source, copy in zip((Path(disk.path()) for disk in disks), copies, strict=True):
        assert qemu_img_compare(source, copy, strict=format_of(source) == format_of(copy))
    if method == "linked":
        assert [image_info(copy)["full-backing-filename"] for copy in copies] == [disk.path() for disk in disks]
    conn.lookupByName(task["name"]).create()


@pytest.mark.parametrize("clusters", ["512", "2M"])
@pytest.mark.parametrize("method", ["copy", "libvirt", "linked"])
def test_a_clone_occupies_no_more_than_was_planned_whatever_its_clusters_are(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, method: str, clusters: str
) -> None:
    path = pool_path(pool) / "web.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={clusters}", path, "32M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 32M", path)
    owner = pool_path(pool).stat()
    os.chown(path, owner.st_uid, owner.st_gid)
    pool.refresh()
    guest("web", [path])
    task = clone(server, method=method)
    (copy,) = files_of(conn, task["name"])
    assert allocated(copy) <= task["disks"][0]["bytes"]
    assert qemu_img_compare(path, copy, strict=method != "linked")


@pytest.mark.parametrize("source", ["ext4", "btrfs"])
def test_an_image_that_is_mostly_holes_stays_so_on_xfs(
    server: Server, conn: libvirt.virConnect, file_system: Callable[..., Path], guest: Guest, source: str
) -> None:
    """QEMU has XFS allot it a MiB at a time, and a guest that discards leaves many a piece that is small."""
    pools = [make_pool(conn, fs, file_system(fs) / "pool") for fs in (source, "xfs")]
    path = pool_path(pools[0]) / "web.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "192M")
    writes = [("-c", f"write -P 7 {place}M 4k") for place in range(0, 192, 4)]
    run("qemu-io", "-f", "qcow2", *(part for write in writes for part in write), path)
    shutil.chown(path, *unprivileged_ids())
    pools[0].refresh()
    guest("web", [path])
    task = clone(server, method="copy", pool="xfs")
    (copy,) = files_of(conn, task["name"])
    os.sync()
    assert allocated(copy) <= task["disks"][0]["bytes"]
    assert sha256(copy) == sha256(path)


@pytest.mark.parametrize("kind", ["compressed", "scattered", "compressed below"])
@pytest.mark.parametrize("is_root", [True, False])
def test_what_libvirt_unpacks_is_planned_as_what_it_becomes(
    request: pytest.FixtureRequest,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Guest,
    kind: str,
    is_root: bool,
) -> None:
    """Compressed data, and pieces of which each takes a cluster of the clone."""
    server = request.getfixturevalue("server" if is_root else "users_server")
    pieces = dict.fromkeys(range(0, 32 * MiB, 64 * KiB), b"x" * 4 * KiB)
    plain = Path(make_raw(pool, "plain.img", 32 * MiB, pieces).path())
    packed = pool_path(pool) / "packed.qcow2"
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", plain, packed)
    owner = pool_path(pool).stat()
    os.chown(packed, owner.st_uid, owner.st_gid)
    pool.refresh()
    below = {"scattered": plain, "compressed below": packed}
    disk = make_qcow2(pool, "web.qcow2", 32 * MiB, backing=below[kind]) if kind in below else packed
    guest("web", [disk])
    task = clone(server, method="libvirt" if is_root else "auto")
    (copy,) = files_of(conn, task["name"])
    assert 32 * MiB < allocated(copy) <= task["disks"][0]["bytes"] < 35 * MiB


def test_a_guest_reads_an_overlay_as_one_though_it_did_not_say_what_its_volume_is(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    """libvirt leaves a volume's format out where QEMU is to read it as raw."""
    make_raw(pool, "web.img", MiB, {0: some_data(64 * KiB)})
    untold = f"<disk type='volume'><source pool='{pool.name()}' volume='web.img'/><target dev='vda'/></disk>"
    assert "<driver name='qemu'/>" in guest("web", devices=untold).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    made = conn.lookupByName(clone(server, method="linked")["name"])
    made.create()
    assert etree.fromstring(made.XMLDesc()).find("devices/disk/driver[@type='qcow2']") is not None


def test_an_overlay_keeps_its_backing_file(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    base = Path(make_qcow2(pool, "base.qcow2", 16 * MiB, {0: some_data(MiB)}).path())
    overlay = Path(make_qcow2(pool, "web.qcow2", 16 * MiB, {MiB: some_data(MiB, 1)}, backing=base).path())
    guest("web", [overlay])
    (copy,) = files_of(conn, clone(server)["name"])
    assert image_info(copy)["full-backing-filename"] == str(base)
    assert qemu_img_compare(overlay, copy, strict=True)
    assert allocated(copy) <= allocated(overlay)


@pytest.mark.parametrize("form", ["qed", "qcow"])
def test_an_old_image_does_not_take_a_relative_name_to_another_folder(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, folder: Path, form: str
) -> None:
    """Where another file may be called so."""
    other = make_pool(conn, f"other-{folder.name}", folder / "other")
    make_raw(pool, "base.img", MiB, {0: some_data(64 * KiB)})
    make_raw(other, "base.img", MiB, {0: some_data(64 * KiB, 1)})
    overlay = pool_path(pool) / f"web.{form}"
    run("qemu-img", "create", "-q", "-f", form, "-F", "raw", "-b", "base.img", overlay)
    shutil.chown(overlay, pool_path(pool).owner())
    pool.refresh()
    guest("web", [Disk(overlay, format=form)])
    task = clone(server, pool=other.name())
    (copy,) = files_of(conn, task["name"])
    run("qemu-img", "compare", "-f", form, "-F", form, overlay, copy)
    assert "the link to its backing file" in task["disks"][0]["note"]


def test_a_disk_in_no_pool_is_cloned_into_the_one_that_is_named(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, folder: Path
) -> None:
    stray = folder / "stray.img"
    stray.write_bytes(some_data(MiB))
    guest("web", [stray])
    task = clone(server, pool=pool.name())
    (copy,) = files_of(conn, task["name"])
    assert copy.parent == pool_path(pool)
    assert sha256(copy) == sha256(stray)


@pytest.mark.parametrize("form", ["qed", "qcow"])
def test_an_old_image_in_no_pool_is_not_cloned_since_nobody_tells_what_it_stands_on(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, folder: Path, form: str
) -> None:
    stray = folder / f"stray.{form}"
    run("qemu-img", "create", "-q", "-f", form, "-F", "raw", "-b", "/etc/hostname", stray, "1M")
    guest("web", [Disk(stray, format=form)])
    answer = server.request("POST", "vms/web/clone", body={"pool": pool.name()})
    assert refusal(answer) == (400, "CLNVM0002E")
    assert "define a pool for its folder" in answer.json["reason"]


def big(pool: libvirt.virStoragePool, name: str = "web.img", data: int = 1024) -> Path:
    """A disk that takes some seconds to copy."""
    piece = some_data(MiB)
    return Path(make_raw(pool, name, 4 * GiB, {place * MiB: piece for place in range(data)}).path())


def test_progress_grows_and_ends_at_100(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    guest("web", [big(pool, data=512)])
    task = server.request("POST", "vms/web/clone", {"bandwidth": 128}).json
    seen = []
    while task["status"] == "running":
        task = server.request("GET", f"tasks/{task['id']}").json
        seen.append((task["progress"], task["bytes_done"]))
    assert task["status"] == "finished", task
    assert seen == sorted(seen)
    assert len({progress for progress, _ in seen}) > 3, "it was seen to grow"
    assert all(progress < 100 for progress, _ in seen[:-1])
    assert seen[-1] == (100, task["bytes_total"])
    assert task["started"] < task["ended"]


def is_started(domain: libvirt.virDomain) -> bool:
    with suppress(libvirt.libvirtError):
        domain.create()
        return True
    return False


def test_a_source_that_is_started_meanwhile_ends_the_clone(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    source = guest("web", [make_qcow2(pool, "small.qcow2", MiB), big(pool)])
    before = inventory(conn)
    task = server.request("POST", "vms/web/clone", body={"method": "libvirt"}).json
    copy = pool_path(pool) / f"{task['name']}-vdb.img"
    wait_until(lambda: copy.exists() and allocated(copy) > MiB, 30, "the copy is under way", lambda: server.log)
    wait_until(lambda: is_started(source), 30, "libvirt is done with the small disk, which it locks")
    stop_guest(source)
    ended = server.wait_task(task["id"], SYNC_TIMEOUT)
    assert (ended["status"], ended["message"][:12]) == ("failed", "CLNTASK0006E")
    assert inventory(conn) == before


def see_it_written_to(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, **body: object
) -> None:
    """A source is written to while a server copies it, which ends the clone."""
    path = big(pool)
    guest("web", [path])
    before = inventory(conn)
    task = server.request("POST", "vms/web/clone", body=body).json
    copy = pool_path(pool) / f"{task['name']}-vda.img"
    wait_until(lambda: copy.exists() and allocated(copy) > MiB, 30, "the copy is under way", lambda: server.log)
    with path.open("r+b") as file:
        file.write(b"changed")
    ended = server.wait_task(task["id"], SYNC_TIMEOUT)
    assert (ended["status"], ended["message"][:12]) == ("failed", "CLNTASK0007E")
    assert inventory(conn) == before


def test_a_source_that_is_written_to_meanwhile_ends_the_clone(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    see_it_written_to(server, conn, pool, guest, bandwidth=200)  # MiB/s: an idle disk is done in less than a second


@pytest.fixture
def users_server(libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, folder: Path) -> Iterator[Server]:
    """One that is not root, and so has libvirt make all volumes."""
    del conn  # it goes after us
    with Server(libvirtd.uri, folder / "state", prefix=as_unprivileged()) as running:
        yield running


def test_a_server_that_is_not_root_knows_what_libvirt_leaves_out(
    users_server: Server, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    guest("web", [image_with_everything(pool, "web.qcow2")])
    (disk,) = clone(users_server)["disks"]
    assert disk["method"] == "libvirt"
    assert disk["note"] == "not in the clone: internal snapshots (before) and bitmaps (backup)"


def test_a_server_that_is_not_root_sees_that_a_source_is_written_to(
    users_server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    see_it_written_to(users_server, conn, pool, guest)


def test_a_server_that_is_not_root_sees_a_qemu_that_writes_to_a_source(
    users_server: Server, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    disk = Path(make_raw(pool, "web.img", MiB, {0: some_data(KiB)}).path())
    guest("web", [disk])
    with open_in_qemu(disk):
        answer = users_server.request("POST", "vms/web/clone")
    assert (answer.status, answer.json["reason"][:10]) == (400, "CLNVM0002E")


def test_a_backing_file_that_is_written_to_while_libvirt_reads_it_ends_the_clone(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    base = big(pool, "base.img")
    guest("web", [make_qcow2(pool, "web.qcow2", 4 * GiB, backing=base)])
    before = inventory(conn)
    task = server.request("POST", "vms/web/clone", body={"method": "libvirt"}).json
    copy = pool_path(pool) / f"{task['name']}-vda.qcow2"
    wait_until(lambda: copy.exists() and allocated(copy) > MiB, 30, "the copy is under way", lambda: server.log)
    with base.open("r+b") as file:
        file.write(b"changed")
    ended = server.wait_task(task["id"], SYNC_TIMEOUT)
    assert (ended["status"], ended["message"][:12]) == ("failed", "CLNTASK0007E")
    assert inventory(conn) == before


def test_a_quick_clone_does_not_wait_behind_long_ones(
    server: Server,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    file_system: Callable[..., Path],
    guest: Guest,
) -> None:
    fast = make_pool(conn, "fast", file_system("xfs") / "pool")
    guest("slow", [big(pool)])
    guest("web", [make_qcow2(fast, "web.qcow2", MiB)])
    slow = [server.request("POST", "vms/slow/clone").json["id"] for _ in range(10)]
    clone(server)
    assert server.request("GET", f"tasks/{slow[-1]}").json["status"] == "running"
    for task in slow:
        server.request("DELETE", f"tasks/{task}")


def test_the_source_of_a_linked_clone_cannot_be_deleted_before_it(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", MiB, {0: some_data(64 * KiB)})])
    before = inventory(conn)
    child = clone(server, method="linked")["name"]
    answer = server.request("DELETE", "vms/web", body={"storage": True})
    assert (answer.status, answer.json["reason"][:10]) == (409, "CLNVM0007E")
    assert f"{child}-vda.qcow2" in answer.json["reason"]
    assert before <= inventory(conn)
    assert server.request("DELETE", f"vms/{child}").status == 204
    assert inventory(conn) == before
    with closing(sqlite3.connect(server.state_dir / "journal.sqlite")) as journal:
        assert journal.execute("SELECT * FROM links").fetchall() == [], "what is gone is looked for no more"
    assert server.request("DELETE", "vms/web", body={"storage": True}).status == 204


def test_a_source_that_is_being_cloned_cannot_be_deleted(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    guest("web", [big(pool)])
    task = server.request("POST", "vms/web/clone").json
    answer = server.request("DELETE", "vms/web", body={"storage": True})
    assert (answer.status, answer.json["reason"][:10]) == (409, "CLNVM0007E")
    assert server.wait_task(task["id"])["status"] == "finished"


def test_a_base_is_kept_while_a_clone_of_its_overlay_needs_it(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    """base ← linked clone ← byte for byte copy of that: the copy needs the base as well."""
    guest("web", [make_qcow2(pool, "web.qcow2", MiB, {0: some_data(64 * KiB)})])
    child = clone(server, method="linked")["name"]
    grandchild = clone(server, child)["name"]
    assert server.request("DELETE", f"vms/{child}").status == 204
    answer = server.request("DELETE", "vms/web", body={"storage": True})
    assert (answer.status, answer.json["reason"][:10]) == (409, "CLNVM0007E")
    assert qemu_img_compare(pool_path(pool) / "web.qcow2", files_of(conn, grandchild)[0], strict=True)
    assert server.request("DELETE", f"vms/{grandchild}").status == 204
    assert server.request("DELETE", "vms/web", body={"storage": True}).status == 204


def test_a_linked_clone_whose_pool_is_gone_for_a_while_still_needs_its_source(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, folder: Path
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", MiB, {0: some_data(64 * KiB)})])
    other = make_pool(conn, f"other-{folder.name}", folder / "other")
    child = clone(server, method="linked", pool=other.name())["name"]
    remove_pool(other)
    answer = server.request("DELETE", "vms/web", body={"storage": True})
    assert (answer.status, answer.json["reason"][:10]) == (409, "CLNVM0007E")
    assert f"{other.name()}/{child}-vda.qcow2" in answer.json["reason"]
    make_pool(conn, other.name(), folder / "other")
    assert qemu_img_compare(pool_path(pool) / "web.qcow2", files_of(conn, child)[0], strict=True)
    assert server.request("DELETE", f"vms/{child}").status == 204
    assert server.request("DELETE", "vms/web", body={"storage": True}).status == 204


@pytest.mark.parametrize("is_active", [False, True])
@pytest.mark.parametrize("path", ["vms/web/start", "vms/web"])
def test_a_linked_clone_whose_disk_is_not_mounted_still_needs_its_source(  # noqa: PLR0917 - pytest's fixtures
    server: Server,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Guest,
    folder: Path,
    path: str,
    is_active: bool,
) -> None:
    """Its pool was stopped before that; or it is that of an empty folder by now, as when a host starts without it."""
    guest("web", [make_qcow2(pool, "web.qcow2", MiB, {0: some_data(64 * KiB)})])
    other = make_pool(conn, f"other-{folder.name}", folder / "other")
    child = clone(server, method="linked", pool=other.name())["name"]
    other.destroy()
    (folder / "other").rename(folder / "away")
    (folder / "other").mkdir()
    if is_active:
        other.create()
    start = path.endswith("start")
    answer = server.request("POST", path) if start else server.request("DELETE", path, {"storage": True})
    assert (answer.status, answer.json["reason"][:10]) == (409, "CLNVM0007E")
    assert f"{other.name()}/{child}-vda.qcow2" in answer.json["reason"]


def test_a_linked_clone_whose_pool_leads_elsewhere_by_now_still_needs_its_source(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, folder: Path
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", MiB, {0: some_data(64 * KiB)})])
    other = make_pool(conn, f"other-{folder.name}", folder / "other")
    path = f"storagepools/{pool.name()}/storagevolumes/web.qcow2/clone"
    answer = server.request("POST", path, {"method": "linked", "pool": other.name()})
    child = server.wait_task(answer.json["id"])["name"]
    remove_pool(other)
    make_pool(conn, other.name(), folder / "elsewhere")
    for answer in (server.request("POST", "vms/web/start"), server.request("DELETE", "vms/web", {"storage": True})):
        assert (answer.status, answer.json["reason"][:10]) == (409, "CLNVM0007E")
        assert f"{other.name()}/{child}" in answer.json["reason"]


def test_a_source_is_free_once_its_linked_clone_is_another_ones_or_stands_on_nothing(
    server: Server, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    images = [make_qcow2(pool, f"{name}.qcow2", MiB, {0: some_data(64 * KiB)}) for name in ("web", "two", "raw")]
    for name, image in zip(("web", "two", "raw"), images, strict=True):
        guest(name, [image])
    for name in ("web", "two"):  # by one name, one after the other
        server.request("DELETE", "vms/copy")
        answer = server.request("POST", f"vms/{name}/clone", {"name": "copy", "method": "linked"})
        assert server.wait_task(answer.json["id"])["status"] == "finished"
    assert server.request("DELETE", "vms/web", {"storage": True}).status == 204
    assert server.request("DELETE", "vms/two", {"storage": True}).status == 409
    run("qemu-img", "rebase", "-f", "qcow2", "-b", "", pool_path(pool) / "copy-vda.qcow2")
    assert server.request("DELETE", "vms/two", {"storage": True}).status == 204
    answer = server.request("POST", "vms/raw/clone", {"name": "disk", "method": "linked"})
    assert server.wait_task(answer.json["id"])["status"] == "finished"
    assert server.request("POST", "vms/raw/start").status == 409
    (pool_path(pool) / "disk-vda.qcow2").write_bytes(bytes(MiB))  # somebody's, who refreshes the pool
    pool.refresh()
    assert server.request("POST", "vms/raw/start").status == 200


def test_a_linked_volume_of_no_guest_still_needs_its_source_while_its_pool_is_stopped_and_away(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, folder: Path
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", MiB, {0: some_data(64 * KiB)})])
    other = make_pool(conn, f"other-{folder.name}", folder / "other")
    path = f"storagepools/{pool.name()}/storagevolumes/web.qcow2/clone"
    answer = server.request("POST", path, {"method": "linked", "pool": other.name()})
    assert server.wait_task(answer.json["id"])["status"] == "finished"
    other.destroy()
    (folder / "other").rename(folder / "away")
    (folder / "other").mkdir()
    answer = server.request("DELETE", "vms/web", {"storage": True})
    assert (answer.status, answer.json["reason"][:10]) == (409, "CLNVM0007E")
    assert f"{other.name()}/web-clone-" in answer.json["reason"]


def test_a_name_of_a_linked_clone_that_is_gone_can_be_used_again(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", MiB)])
    for _ in range(2):
        answer = server.request("POST", "vms/web/clone", body={"name": "copy", "method": "linked"})
        assert server.wait_task(answer.json["id"])["status"] == "finished"
        assert server.request("DELETE", "vms/copy").status == 204
