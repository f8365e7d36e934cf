"""Room in a pool is promised: clones that are asked for at once count each other's bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from cloner.hypervisor.host import Host
from cloner.hypervisor.infos import pool_info
from support.answers import at_once, cloned, refusal
from support.guests import inventory
from support.libvirtd import PrivateLibvirtd
from support.running import run, run_as_root
from support.server import Response, Server
from support.storage import SMALLEST, MiB, allocated, make_pool, make_raw, pool_path, ramfs, some_data


def _quarter(pool: libvirt.virStoragePool) -> int:
    room = os.statvfs(pool_path(pool))
    return room.f_bavail * room.f_frsize // 4 // MiB * MiB


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("method", ["copy", "libvirt"])
def test_of_ten_requests_with_room_for_three_exactly_three_are_accepted(  # noqa: PLR0917 - pytest's fixtures
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    file_system: Callable[..., Path],
    guest: Callable[..., libvirt.virDomain],
    tmp_path: Path,
    method: str,
    servers: int,
) -> None:
    pool = make_pool(conn, "tight", file_system("ext4", 128 * MiB) / "pool")
    size = _quarter(pool) - MiB  # the source and three more fit exactly
    guest("web", [make_raw(pool, "web.img", size, {0: some_data(size)})])
    before = inventory(conn)
    barrier = threading.Barrier(10)
    with Server(libvirtd.uri, tmp_path / "state") as first, Server(libvirtd.uri, tmp_path / "state") as second:
        asked = [first, second][:servers]

        def ask(number: int) -> Response:
            barrier.wait()
            return asked[number % servers].request("POST", "vms/web/clone", body={"method": method})

        with ThreadPoolExecutor(10) as threads:
            answers = list(threads.map(ask, range(10)))
        statuses = sorted(answer.status for answer in answers)
        assert statuses == [202] * 3 + [507] * 7
        assert all(answer.json["reason"].startswith("KCHVM0034E") for answer in answers if answer.status == 507)
        tasks = [first.wait_task(answer.json["id"]) for answer in answers if answer.status == 202]
    assert [task["status"] for task in tasks] == ["finished"] * 3
    made = {entry for entry in inventory(conn) - before if any(task["name"] in entry for task in tasks)}
    assert inventory(conn) - before == made
    assert len(made) == 9, "a domain, a volume and a file each"


def test_pools_on_one_file_system_have_one_room(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    file_system: Callable[..., Path],
    guest: Callable[..., libvirt.virDomain],
    tmp_path: Path,
) -> None:
    mount = file_system("ext4", 64 * MiB)
    pools = [make_pool(conn, name, mount / name) for name in ("one", "two")]
    size = _quarter(pools[0]) + MiB  # three fit, in whichever pool
    guest("web", [make_raw(pool, "web.img", size, {0: some_data(size)})])
    with Server(libvirtd.uri, tmp_path / "state") as server:

        def ask(number: int) -> Response:
            return server.request("POST", "vms/web/clone", {"method": "copy", "pool": ("one", "two")[number % 2]})

        answers = at_once(10, ask)
        assert sorted(answer.status for answer in answers) == [202] * 3 + [507] * 7
        tasks = [server.wait_task(answer.json["id"]) for answer in answers if answer.status == 202]
    assert [task["status"] for task in tasks] == ["finished"] * 3


@pytest.mark.parametrize("fs", ["ext4", "btrfs"])
def test_the_disks_of_a_guest_in_pools_on_one_file_system_have_one_room(
    server: Server,
    conn: libvirt.virConnect,
    file_system: Callable[..., Path],
    guest: Callable[..., libvirt.virDomain],
    fs: str,
) -> None:
    """Each subvolume of a btrfs has a device number of its own."""
    mount = file_system(fs, SMALLEST["btrfs"] if fs == "btrfs" else 64 * MiB)
    for name in ("one", "two") if fs == "btrfs" else ():
        run_as_root("btrfs", "subvolume", "create", mount / name)
    pools = [make_pool(conn, name, mount / name) for name in ("one", "two")]
    size = _quarter(pools[0]) + MiB  # two are there; of two more one fits
    piece = some_data(size)
    guest("web", [make_raw(pool, f"{pool.name()}.img", size, {0: piece}) for pool in pools])
    run("sync", "--file-system", mount)  # btrfs counts what is written when it is
    before = inventory(conn)
    answer = server.request("POST", "vms/web/clone", {"method": "copy", "dry_run": True})
    assert refusal(answer) == (507, "KCHVM0034E")
    assert "two" in answer.json["reason"]
    assert inventory(conn) == before


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_what_a_file_system_has_yet_to_put_on_its_disk_is_taken(
    server: Server,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    file_system: Callable[..., Path],
    guest: Callable[..., libvirt.virDomain],
    fs: str,
) -> None:
    """A btrfs takes half a minute to count it, and the next clone failed for want of room that it was promised."""
    tight = make_pool(conn, "tight", file_system(fs) / "pool")
    size = _quarter(tight) + MiB  # three fit
    guest("web", [make_raw(pool, "web.img", size, {0: some_data(size)})])
    statuses = []
    for _ in range(4):
        answer = server.request("POST", "vms/web/clone", {"method": "copy", "pool": "tight"})
        statuses.append(answer.status)
        if answer.status == 202:
            assert server.wait_task(answer.json["id"])["message"] == "OK"
    assert statuses == [202] * 3 + [507]


@pytest.mark.parametrize("method", ["reflink", "copy"])
def test_a_disk_counts_as_what_it_holds_and_not_as_what_its_guest_sees(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    file_system: Callable[..., Path],
    guest: Callable[..., libvirt.virDomain],
    tmp_path: Path,
    method: str,
) -> None:
    """Kimchi refused this one."""
    pool = make_pool(conn, "small", file_system("xfs") / "pool")
    guest("web", [make_raw(pool, "web.img", 4 << 40, {1 << 41: some_data(MiB)})])
    with Server(libvirtd.uri, tmp_path / "state") as server:
        task = cloned(server, "vms/web", method=method)
    copy = Path(pool.storageVolLookupByName(task["disks"][0]["target"]["name"]).path())
    assert (copy.stat().st_size, allocated(copy)) == (4 << 40, MiB)


def test_what_does_not_say_how_much_room_it_has_is_not_full(conn: libvirt.virConnect, folder: Path) -> None:
    """FUSE says nothing to anybody but who has mounted it, root too; libvirt, which may be that, knows."""
    pool = make_pool(conn, f"pool-{folder.name}", folder / "pool")
    there = pool.info()[3]
    connections: Any = SimpleNamespace(is_local=True, short_call=lambda: nullcontext(conn))
    with ramfs() as silent:
        info = replace(pool_info(pool), path=str(silent))
        assert Host(connections).available(info) == there
