"""What is not the clone's or the guest's stays, whatever it is called."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest

from support.answers import refusal
from support.running import run, wait_until
from support.server import Server
from support.storage import MiB, make_pool, make_qcow2, make_raw, pool_path, some_data

Guest = Callable[..., libvirt.virDomain]


@pytest.mark.parametrize("protocol", ["nbd", "http"])
def test_an_image_on_the_network_is_no_file_of_that_name(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, protocol: str
) -> None:
    victim = Path(make_raw(pool, "victim.img", MiB, {0: some_data(MiB)}).path())
    source = f"<source protocol='{protocol}' name='{victim}'><host name='h' port='1'/></source>"
    driver = "<driver name='qemu' type='raw'/>"
    guest("net", devices=f"<disk type='network'>{driver}{source}<target dev='vda' bus='virtio'/></disk>")
    assert server.request("DELETE", "vms/net", {"storage": True}).status == 204
    assert victim.exists()


def test_a_disk_is_anothers_too_when_its_path_is_written_otherwise(
    server: Server, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    path = Path(make_raw(pool, "web.img", MiB).path())
    guest("a", [path])
    odd = f"{path.parent}//./{path.name}"
    driver = "<driver name='qemu' type='raw'/>"
    devices = f"<disk type='file'>{driver}<source file='{odd}'/><target dev='vda' bus='virtio'/></disk>"
    other = guest("b", devices=devices)
    other.create()
    volume = f"storagepools/{pool.name()}/storagevolumes/web.img/clone"
    assert refusal(server.request("POST", volume)) == (400, "CLNVOL0003E")
    assert refusal(server.request("POST", "vms/a/clone")) == (400, "CLNVM0002E")
    assert server.request("DELETE", "vms/a", {"storage": True}).status == 204
    assert path.exists()


def test_a_volume_that_took_a_clones_name_is_not_removed_with_its_batch(
    server: Server, pool: libvirt.virStoragePool
) -> None:
    make_raw(pool, "web.img", MiB)
    answer = server.request("POST", f"storagepools/{pool.name()}/storagevolumes/web.img/clone", {"count": 1})
    task = server.wait_task(answer.json["tasks"][0]["id"])
    pool.storageVolLookupByName(task["name"]).delete()
    time.sleep(0.3)  # longer than a file system's clock may lag
    another = Path(make_raw(pool, task["name"], 2 * MiB, {0: some_data(MiB)}).path())
    server.request("DELETE", f"batches/{answer.json['batch']}", {"undo": True})
    wait_until(lambda: server.request("GET", f"tasks/{task['id']}").json["warning"], 30, "it is said")
    assert another.read_bytes()[:MiB] == some_data(MiB)


def test_a_name_with_a_nul_in_an_image_is_refused(server: Server, pool: libvirt.virStoragePool, guest: Guest) -> None:
    base = Path(make_raw(pool, "base.img", MiB).path())
    overlay = Path(make_qcow2(pool, "web.qcow2", MiB, backing=base).path())
    overlay.write_bytes(overlay.read_bytes().replace(b"base.img", b"base\0img"))
    guest("web", [overlay])
    for wishes in ({}, {"flatten": True}, {"method": "linked"}):
        assert server.request("POST", "vms/web/clone", wishes).status == 400


def test_a_link_in_the_middle_of_a_chain_is_not_read_as_its_end(
    server: Server, conn: libvirt.virConnect, file_system: Callable[..., Path], guest: Guest, folder: Path
) -> None:
    pool = make_pool(conn, "linked", file_system("xfs") / "pool")
    base = Path(make_raw(pool, "base.img", MiB, {0: some_data(MiB)}).path())
    outside = folder / "mid.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, outside)
    (pool_path(pool) / "mid.qcow2").symlink_to(outside)
    top = pool_path(pool) / "web.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", pool_path(pool) / "mid.qcow2", top)
    top.chmod(0o666)
    pool.refresh()
    guest("web", [top])
    assert server.request("POST", "vms/web/clone", {"flatten": True}).status == 400
