"""Clones on real libvirt: whole, of their own, and nothing left over when one fails."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from support.guests import Disk, inventory, stop_guest
from support.libvirtd import PrivateLibvirtd
from support.running import wait_until
from support.server import Response, Server
from support.storage import (
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
def web(pool: libvirt.virStoragePool, guest: Guest) -> libvirt.virDomain:
    """A guest with a qcow2 and a sparse raw disk, and data on both."""
    system = make_qcow2(pool, "web.qcow2", 64 * MiB, {0: some_data(MiB), 32 * MiB: some_data(2 * MiB, 1)})
    data = make_raw(pool, "web-data.img", 256 * MiB, {100 * MiB: some_data(MiB, 2)})
    return guest("web", [system, data], macs=["52:54:00:12:34:56"])


def clone(server: Server, path: str = "vms/web/clone", **body: str) -> dict[str, Any]:
    """Asks for a clone, waits, and returns its task, which must have finished."""
    answer = server.request("POST", path, body=body)
    assert answer.status == 202, answer.text
    task: dict[str, Any] = server.wait_task(answer.json["id"])
    assert (task["status"], task["message"]) == ("finished", "OK")
    return task


def domain_xml(conn: libvirt.virConnect, name: str) -> etree._Element:
    return etree.fromstring(conn.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def disk_paths(conn: libvirt.virConnect, name: str) -> list[Path]:
    sources = domain_xml(conn, name).iterfind("devices/disk/source")
    return [Path(source.get("file", "")) for source in sources]


def reservations(server: Server) -> list[tuple[Any, ...]]:
    """What the journal holds for tasks: names, bytes and steps."""
    with closing(sqlite3.connect(server.state_dir / "journal.sqlite")) as journal:
        rows = journal.execute("SELECT kind, name FROM reservations WHERE task IS NOT NULL").fetchall()
        rows += journal.execute("SELECT pool, bytes FROM promises").fetchall()
        return rows + journal.execute("SELECT kind, state FROM steps").fetchall()


def test_a_clone_has_the_same_bytes_and_the_source_is_not_touched(
    server: Server, conn: libvirt.virConnect, web: libvirt.virDomain
) -> None:
    sources = disk_paths(conn, "web")
    before = [sha256(path) for path in sources]
    definition = web.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)

    task = clone(server)

    copies = disk_paths(conn, task["name"])
    assert [path.name for path in copies] == [f"{task['name']}-vda.qcow2", f"{task['name']}-vdb.img"]
    assert all(qemu_img_compare(source, copy, strict=True) for source, copy in zip(sources, copies, strict=True))
    assert all(allocated(copy) <= allocated(source) for source, copy in zip(sources, copies, strict=True))
    assert image_info(copies[0])["format-specific"]["data"]["compat"] == "1.1"
    assert [sha256(path) for path in sources] == before
    assert web.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == definition
    assert reservations(server) == []


def test_source_and_clone_run_side_by_side(server: Server, conn: libvirt.virConnect, web: libvirt.virDomain) -> None:
    copy = conn.lookupByName(clone(server)["name"])
    web.create()
    copy.create()
    assert web.isActive()
    assert copy.isActive()


def test_a_clone_has_an_identity_of_its_own(server: Server, conn: libvirt.virConnect, guest: Guest) -> None:
    uuid = "0f0e0d0c-0b0a-4908-8706-050403020100"
    access = '<kimchi:metadata xmlns:kimchi="https://github.com/kimchi-project/kimchi"><access><user>ann</user></access></kimchi:metadata>'
    sysinfo = f"<sysinfo type='smbios'><system><entry name='uuid'>{uuid}</entry></system></sysinfo>"
    extra = "<genid>11111111-2222-4333-8444-555555555555</genid>" + sysinfo
    texts = {"title": "The source", "description": "Serves <pages> & more", "metadata": access}
    guest("web", uuid=uuid, macs=["52:54:00:aa:bb:01", "00:16:3e:aa:bb:02"], extra=extra, **texts)

    clones = [domain_xml(conn, clone(server)["name"]) for _ in range(2)]

    for xml in clones:
        assert xml.findtext("uuid") == xml.findtext("sysinfo/system/entry")
        assert xml.find("title") is None
        assert xml.findtext("description") == texts["description"]
        macs = [node.get("address", "") for node in xml.iterfind("devices/interface/mac")]
        assert [mac[:8] for mac in macs] == ["52:54:00", "00:16:3e"]
    everything = [domain_xml(conn, "web"), *clones]
    for path in ("uuid", "genid"):
        assert len({xml.findtext(path) for xml in everything}) == 3
    macs = [node.get("address", "") for xml in everything for node in xml.iterfind("devices/interface/mac")]
    assert len(set(macs)) == 6
    name = clones[0].findtext("name")
    assert server.request("GET", f"vms/{name}").json["users"] == ["ann"]


def test_a_uefi_clone_has_variables_of_its_own(
    server: Server, conn: libvirt.virConnect, guest: Guest, folder: Path
) -> None:
    variables = folder / "web_VARS.fd"
    source = guest("web", nvram=variables)
    source.create()  # libvirt makes the file at the first start
    stop_guest(source)
    before = sha256(variables)

    task = clone(server)

    path = Path(domain_xml(conn, task["name"]).findtext("os/nvram") or "")
    assert path == folder / f"{task['name']}_VARS.fd"
    assert sha256(path) == before
    conn.lookupByName(task["name"]).create()
    stop_guest(conn.lookupByName(task["name"]))
    assert sha256(variables) == before
    assert server.request("DELETE", f"vms/{task['name']}").status == 204
    assert not path.exists()
    assert variables.exists()


def test_disks_of_type_volume_and_shared_media(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    system = make_qcow2(pool, "web.qcow2", 16 * MiB, {0: some_data(MiB)})
    shared = make_raw(pool, "shared.img", 8 * MiB)
    media = make_raw(pool, "install.iso", 8 * MiB, {0: some_data(MiB, 3)})
    devices = (
        f"<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>"
        f"<source pool='{pool.name()}' volume='{system.name()}'/><target dev='vda' bus='virtio'/></disk>"
        f"<disk type='file' device='disk'><source file='{shared.path()}'/><target dev='vdb' bus='virtio'/>"
        f"<shareable/></disk>"
        f"<disk type='file' device='cdrom'><source file='{media.path()}'/><target dev='hda' bus='ide'/></disk>"
        f"<disk type='file' device='cdrom'><target dev='hdb' bus='ide'/></disk>"
    )
    guest("web", devices=devices)

    task = clone(server)

    disks = domain_xml(conn, task["name"]).findall("devices/disk")
    targets = [str(disk.xpath("string(target/@dev)")) for disk in disks]
    found = [
        {str(key): str(value) for key, value in (disk.xpath("source") or [disk])[0].attrib.items()} for disk in disks
    ]
    sources = dict(zip(targets, found, strict=True))
    assert sources["vda"] == {"pool": pool.name(), "volume": f"{task['name']}-vda.qcow2"}
    assert sources["vdb"] == {"file": shared.path()}
    assert sources["hda"] == {"file": media.path()}
    assert "file" not in sources["hdb"]
    assert {item["disk"]: item["action"] for item in task["disks"]} == {
        "vda": "clone", "vdb": "share", "hda": "share", "hdb": "empty"
    }  # fmt: skip


def test_what_cannot_be_cloned_yet_is_refused_and_named(
    server: Server, conn: libvirt.virConnect, guest: Guest, folder: Path
) -> None:
    stray = folder / "stray.img"
    stray.write_bytes(b"\0" * MiB)
    network = (
        "<disk type='network' device='disk'><source protocol='nbd' name='x'><host name='127.0.0.1'/></source>"
        "<target dev='vdq' bus='virtio'/></disk>"
    )
    guest("no-pool", [stray])
    guest("remote", devices=network)
    before = inventory(conn)
    for name, target in (("no-pool", "vda"), ("remote", "vdq")):
        answer = server.request("POST", f"vms/{name}/clone", body={})
        assert answer.status == 400
        assert answer.json["reason"].startswith("CLNVM0002E")
        assert target in answer.json["reason"]
    assert inventory(conn) == before


def test_a_raw_disk_in_which_the_guest_wrote_an_image_header_is_not_followed(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, folder: Path
) -> None:
    """The guest owns its disk's bytes: a qcow2 header there, with a file of the host as backing file, is its doing."""
    secret = folder / "secret"
    secret.write_bytes(some_data(MiB, 9))
    trap = make_qcow2(pool, "trap.img", 16 * MiB, backing=secret)
    guest("web", [Disk(Path(trap.path()), format="raw")])
    answer = server.request("POST", "vms/web/clone", body={})
    assert (answer.status, answer.json["reason"][:10]) == (400, "CLNVM0002E")


def test_a_named_pool_and_a_name_are_honoured(
    server: Server, conn: libvirt.virConnect, web: libvirt.virDomain, folder: Path
) -> None:
    other = make_pool(conn, f"other-{folder.name}", folder / "other")
    task = clone(server, name="Bob's <copy> & more", pool=other.name())
    assert sorted(other.listVolumes()) == ["Bob's <copy> & more-vda.qcow2", "Bob's <copy> & more-vdb.img"]
    assert disk_paths(conn, task["name"])[0].parent == pool_path(other)
    again = server.request("POST", "vms/web/clone", body={"name": "Bob's <copy> & more"})
    assert again.status == 409


def test_a_source_whose_pool_is_full_goes_to_default(
    server: Server, conn: libvirt.virConnect, small_pool: libvirt.virStoragePool, guest: Guest, folder: Path
) -> None:
    disk = make_raw(small_pool, "big.img", 18 * MiB, {0: some_data(18 * MiB)})
    guest("web", [disk])
    refused = server.request("POST", "vms/web/clone", body={})
    assert (refused.status, refused.json["reason"][:10]) == (507, "KCHVM0034E")
    make_pool(conn, "default", folder / "default")
    task = clone(server)
    assert disk_paths(conn, task["name"])[0].parent == folder / "default"


def test_a_volume_clone_keeps_format_and_sparseness(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, folder: Path
) -> None:
    sparse = make_raw(pool, "sparse.img", 512 * MiB, {200 * MiB: some_data(MiB)})
    old = make_qcow2(pool, "old.qcow2", 16 * MiB, {0: some_data(MiB)}, compat="0.10")
    path = f"storagepools/{pool.name()}/storagevolumes"
    for source in (sparse, old):
        task = clone(server, f"{path}/{source.name()}/clone")
        base, extension = source.name().split(".")
        assert task["name"].startswith(f"{base}-clone-")
        assert task["name"].endswith(f".{extension}")
        copy = Path(pool.storageVolLookupByName(task["name"]).path())
        assert qemu_img_compare(Path(source.path()), copy, strict=True)
        assert allocated(copy) <= allocated(Path(source.path()))
        if source is old:
            assert image_info(copy)["format-specific"]["data"]["compat"] == "0.10"
    other = make_pool(conn, f"other-{folder.name}", folder / "other")
    clone(server, f"{path}/old.qcow2/clone", name="new.qcow2", pool=other.name())
    assert other.listVolumes() == ["new.qcow2"]


def ask_at_once(servers: list[Server], path: str, count: int) -> list[Response]:
    """`count` POSTs with an empty body, sent by as many threads that wait for one another."""
    barrier = threading.Barrier(count)

    def ask(number: int) -> Response:
        barrier.wait()
        return servers[number % len(servers)].request("POST", path)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(ask, range(count)))


def set_stamp(server: Server, stamp: int) -> None:
    """Moves the journal's last stamp, which must be in the future, so that the next ones are known beforehand."""
    with closing(sqlite3.connect(server.state_dir / "journal.sqlite", timeout=30)) as journal, journal:
        journal.execute("UPDATE counters SET last = ? WHERE name = 'stamp'", (stamp,))


@pytest.mark.parametrize("hostile", [False, True], ids=["alone", "hostile-client"])
def test_200_clones_at_once_through_two_servers(
    server: Server,
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Guest,
    hostile: bool,
) -> None:
    disk = make_qcow2(pool, "web.qcow2", 16 * MiB, {0: some_data(64 * 1024)})
    guest("web", [disk])
    future = 4_000_000_000_000_000
    set_stamp(server, future)
    taken = [future + step for step in range(1, 300, 3)] if hostile else []
    for stamp in taken:
        guest(f"web-clone-{stamp}")
        make_raw(pool, f"web-clone-{stamp + 1}-vda.qcow2", MiB)
    before = inventory(conn)

    with Server(libvirtd.uri, server.state_dir) as second:
        both = [server, second]
        answers = ask_at_once(both, "vms/web/clone", 200)
        assert [answer.status for answer in answers] == [202] * 200
        tasks = [both[n % 2].wait_task(answer.json["id"], 300) for n, answer in enumerate(answers)]

    assert {(task["status"], task["message"]) for task in tasks} == {("finished", "OK")}
    names = {task["name"] for task in tasks}
    assert len(names) == 200
    made = {f"domain {name}" for name in names}
    made |= {f"volume {pool.name()}/{name}-vda.qcow2" for name in names}
    made |= {f"file {pool_path(pool)}/{name}-vda.qcow2" for name in names}
    assert inventory(conn) == before | made
    assert reservations(server) == []


@pytest.mark.parametrize("hostile", [False, True], ids=["alone", "hostile-client"])
def test_200_clones_of_a_volume_at_once_through_two_servers(
    server: Server,
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    hostile: bool,
) -> None:
    make_qcow2(pool, "disk.qcow2", 16 * MiB, {0: some_data(64 * 1024)})
    future = 4_000_000_000_000_000
    set_stamp(server, future)
    for stamp in range(future + 1, future + 300, 3) if hostile else ():
        make_raw(pool, f"disk-clone-{stamp}.qcow2", MiB)
        (pool_path(pool) / f"disk-clone-{stamp + 1}.qcow2").touch()  # libvirt does not know of it
    before = inventory(conn)
    path = f"storagepools/{pool.name()}/storagevolumes/disk.qcow2/clone"
    with Server(libvirtd.uri, server.state_dir) as second:
        both = [server, second]
        answers = ask_at_once(both, path, 200)
        assert [answer.status for answer in answers] == [202] * 200
        tasks = [both[n % 2].wait_task(answer.json["id"], 300) for n, answer in enumerate(answers)]
    assert {(task["status"], task["message"]) for task in tasks} == {("finished", "OK")}
    names = {task["name"] for task in tasks}
    assert len(names) == 200
    made = {f"volume {pool.name()}/{name}" for name in names} | {f"file {pool_path(pool)}/{name}" for name in names}
    assert inventory(conn) == before | made
    assert reservations(server) == []


def test_a_disk_that_runs_out_of_space_leaves_nothing(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    small_pool: libvirt.virStoragePool,
    guest: Guest,
    tmp_path: Path,
) -> None:
    """The clone is accepted while there is room, and waits; the room is gone when its second disk is copied."""
    slow = make_raw(pool, "slow.img", 1024 * MiB, {0: some_data(MiB) * 768})
    first = make_qcow2(pool, "first.qcow2", 16 * MiB, {0: some_data(MiB)})
    second = make_raw(small_pool, "second.img", 10 * MiB, {0: some_data(10 * MiB)})
    guest("slow", [slow])
    guest("web", [first, second])
    before = inventory(conn)
    config = tmp_path / "one.conf"
    config.write_text("[cloner]\ncopies = 1\n", encoding="utf-8")
    with Server(libvirtd.uri, tmp_path / "state", args=["--config", str(config)]) as server:
        blocker = server.request("POST", "vms/slow/clone", body={}).json["id"]
        answer = server.request("POST", "vms/web/clone", body={})
        assert answer.status == 202, answer.text
        filler = pool_path(small_pool) / "filler"
        filler.write_bytes(b"x" * 12 * MiB)
        assert server.request("GET", f"tasks/{blocker}").json["status"] == "running"

        task = server.wait_task(answer.json["id"])

        assert task["status"] == "failed"
        assert "No space left on device" in task["message"]
        other = server.wait_task(blocker)
        assert other["status"] == "finished"
        added = {entry for entry in inventory(conn) - before if other["name"] not in entry}
        assert added == {f"file {filler}"}
        assert reservations(server) == []


def test_a_file_that_appears_in_the_way_is_left_alone(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, tmp_path: Path
) -> None:
    """It is put there after the clone was accepted and before its disk is made."""
    slow = make_raw(pool, "slow.img", 1024 * MiB, {0: some_data(MiB) * 512})
    guest("slow", [slow])
    guest("web", [make_qcow2(pool, "web.qcow2", 16 * MiB, {0: some_data(MiB)})])
    config = tmp_path / "one.conf"
    config.write_text("[cloner]\ncopies = 1\n", encoding="utf-8")
    with Server(libvirtd.uri, tmp_path / "state", args=["--config", str(config)]) as server:
        blocker = server.request("POST", "vms/slow/clone", body={}).json["id"]
        answer = server.request("POST", "vms/web/clone", body={"name": "copy"})
        stray = pool_path(pool) / "copy-vda.qcow2"
        stray.write_text("somebody else's", encoding="utf-8")
        assert server.request("GET", f"tasks/{blocker}").json["status"] == "running"
        task = server.wait_task(answer.json["id"])
        assert task["status"] == "failed"
        assert "CLNVOL0002E" in task["message"]
        assert stray.read_text(encoding="utf-8") == "somebody else's"
        assert server.wait_task(blocker)["status"] == "finished"


def test_a_server_without_libvirt_says_so_and_recovers(
    server: Server, libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, web: libvirt.virDomain, tmp_path: Path
) -> None:
    assert server.request("GET", "vms").status == 200
    libvirtd.stop()
    wait_until(lambda: server.request("GET", "vms").status == 503, 20, "the server notices", lambda: server.log)
    for method, path in (("GET", "vms/web"), ("POST", "vms/web/clone"), ("GET", "storagepools")):
        answer = server.request(method, path)
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json["reason"].startswith("CLNVIRT0001E")
    assert server.request("GET", "tasks").status == 200
    with Server(libvirtd.uri, tmp_path / "late") as late:
        assert late.request("GET", "vms").status == 503
        libvirtd.start()
        wait_until(lambda: late.request("GET", "vms").status == 200, 20, "the late one is well", lambda: late.log)
    wait_until(lambda: server.request("GET", "vms").status == 200, 20, "it is well again", lambda: server.log)
    clone(server)


def test_libvirtd_killed_while_it_copies_leaves_nothing(
    server: Server, libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", 1024 * MiB, {0: some_data(MiB) * 512})])
    folder = pool_path(pool)
    name = pool.name()
    before = inventory(conn)
    task = server.request("POST", "vms/web/clone", body={"method": "libvirt"}).json
    copy = folder / f"{task['name']}-vda.qcow2"
    wait_until(lambda: copy.exists() and allocated(copy) > MiB, 30, "the copy is under way", lambda: server.log)
    libvirtd.kill()
    wait_until(lambda: server.request("GET", "vms").status == 503, 20, "the server notices", lambda: server.log)
    libvirtd.start()
    ended = server.wait_task(task["id"], 60)
    assert ended["status"] == "failed"
    assert not copy.exists()
    with closing(libvirtd.open()) as again:
        again.storagePoolLookupByName(name).refresh()
        assert inventory(again) == before
    assert reservations(server) == []


def test_a_server_killed_while_it_clones_leaves_nothing_after_the_next_start(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    small = make_qcow2(pool, "small.qcow2", 16 * MiB, {0: some_data(MiB)})
    large = make_qcow2(pool, "large.qcow2", 1024 * MiB, {0: some_data(MiB) * 512})
    guest("web", [small, large])
    before = inventory(conn)
    task = server.request("POST", "vms/web/clone", body={}).json
    copy = pool_path(pool) / f"{task['name']}-vdb.qcow2"
    wait_until(lambda: copy.exists() and allocated(copy) > MiB, 30, "the copy is under way", lambda: server.log)
    server.kill()
    server.start()
    ended = server.wait_task(task["id"], 60)
    assert (ended["status"], ended["message"][:12]) == ("failed", "CLNTASK0004E")
    assert inventory(conn) == before
    assert reservations(server) == []


def test_a_cancelled_clone_is_gone(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", 1024 * MiB, {0: some_data(MiB) * 256})])
    before = inventory(conn)
    task = server.request("POST", "vms/web/clone", body={}).json
    assert server.request("DELETE", f"tasks/{task['id']}").status == 202
    again = server.request("DELETE", f"tasks/{task['id']}", body={"cancel": True})
    assert again.status in (200, 202)  # it may have ended by now, which is fine as well
    assert server.wait_task(task["id"])["status"] == "killed"
    assert inventory(conn) == before
    assert reservations(server) == []
    assert server.request("DELETE", f"tasks/{task['id']}").status == 204


def test_deleting_a_clone_takes_its_disks_and_nothing_else(
    server: Server, conn: libvirt.virConnect, web: libvirt.virDomain, guest: Guest
) -> None:
    before = inventory(conn)
    first, second = clone(server)["name"], clone(server)["name"]
    shared = disk_paths(conn, second)[1]
    guest("user", [shared])
    assert server.request("DELETE", f"vms/{first}").status == 204
    assert server.request("DELETE", f"vms/{second}").status == 204
    assert shared.exists(), "another guest uses it"
    added = {entry for entry in inventory(conn) - before if not entry.startswith("volume")}
    assert added == {"domain user", f"file {shared}"}
    assert server.request("DELETE", "vms/web").status == 204
    assert all(
        f"file {path}" in inventory(conn) for path in (shared.parent / "web.qcow2", shared.parent / "web-data.img")
    )


def test_a_server_told_to_stop_while_libvirt_copies_exits_in_order_and_the_next_one_tidies_up(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    """libvirt has no way to cancel a copy, so what it still writes is removed when it is done."""
    guest("web", [make_qcow2(pool, "web.qcow2", 2048 * MiB, {0: some_data(MiB) * 1024})])
    before = inventory(conn)
    running, waiting = (server.request("POST", "vms/web/clone").json for _ in range(2))
    copy = pool_path(pool) / f"{running['name']}-vda.qcow2"
    wait_until(lambda: copy.exists() and allocated(copy) > MiB, 30, "the copy is under way", lambda: server.log)
    assert server.terminate() == 0
    server.start()
    for task in (running, waiting):
        ended = server.wait_task(task["id"], 60)
        assert (ended["status"], ended["message"][:12]) == ("failed", "CLNTASK0004E")
    assert inventory(conn) == before
    assert reservations(server) == []


def test_a_file_whose_name_is_no_utf_8_does_not_spoil_the_list(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool
) -> None:
    make_raw(pool, "fine.img", MiB)
    stray = os.fsencode(pool_path(pool)) + b"/bad-\xff.img"
    with open(stray, "wb") as file:
        file.write(b"\0" * MiB)
    os.chown(stray, *pool_owner(pool))
    pool.refresh()
    assert pool.numOfVolumes() == 2
    answer = server.request("GET", f"storagepools/{pool.name()}/storagevolumes")
    assert (answer.status, [volume["name"] for volume in answer.json]) == (200, ["fine.img"])


def pool_owner(pool: libvirt.virStoragePool) -> tuple[int, int]:
    status = pool_path(pool).stat()
    return status.st_uid, status.st_gid
