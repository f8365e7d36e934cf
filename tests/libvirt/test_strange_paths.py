"""Names and paths that are more than letters, on real libvirt: they go into XML and commands as what they are.

An apostrophe in a path left an orphan of Kimchi's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import libvirt
import pytest

from support.answers import cloned, refusal
from support.guests import inventory
from support.libvirtd import PrivateLibvirtd
from support.server import Server
from support.storage import KiB, MiB, make_pool, make_qcow2, qemu_img_compare, some_data

STRANGE = ["it's", 'a "b"', "a&b<c>", "-rf", "a;b|c`d`$(e)", "a,b:c=d", "nbd:x", "json:{}", "%s {0} \\", "名前 é"]


@pytest.fixture
def server(libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, tmp_path: Path) -> Iterator[Server]:
    with Server(libvirtd.uri, tmp_path / "state") as running:
        yield running


@pytest.mark.parametrize("method", ["reflink", "copy", "linked", "libvirt"])
def test_a_guest_of_a_strange_name_in_a_strange_folder_is_cloned_whole(
    server: Server,
    conn: libvirt.virConnect,
    file_system: Callable[..., Path],
    guest: Callable[..., libvirt.virDomain],
    method: str,
) -> None:
    root = file_system("xfs")
    for number, name in enumerate(STRANGE):
        pool = make_pool(conn, f"pool {name}", root / f"{name} {number}")
        disk = Path(make_qcow2(pool, f"{name}.qcow2", MiB, {0: some_data(64 * KiB, number)}).path())
        guest(name, [disk], nvram=root / f"{name} {number} own_VARS.fd")
        task = cloned(server, f"vms/{quote(name, safe='')}", name=f"{name} 2", method=method)
        assert task["name"] == f"{name} 2"
        copy = Path(pool.storageVolLookupByName(task["disks"][0]["target"]["name"]).path())
        assert qemu_img_compare(disk, copy)
        before = inventory(conn)
        assert refusal(server.request("POST", f"vms/{quote(name, safe='')}/clone", {"name": f"{name} 2"}))[0] == 409
        assert inventory(conn) == before
        assert server.request("DELETE", f"vms/{quote(task['name'], safe='')}").status == 204
        assert [Path(volume.path()) for volume in pool.listAllVolumes()] == [disk]
