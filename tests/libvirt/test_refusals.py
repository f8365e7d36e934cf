"""What a server on real libvirt refuses to clone, with which code, and that nothing is changed by it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import libvirt
import pytest
from lxml import etree

from support.answers import cloned, refusal
from support.guests import inventory
from support.libvirtd import PrivateLibvirtd
from support.running import run_as_root
from support.server import Server
from support.storage import MiB, make_pool, make_qcow2, pool_path

Guest = Callable[..., libvirt.virDomain]

PCI = (
    "<hostdev mode='subsystem' type='pci' managed='yes'>"
    "<source><address domain='0x0000' bus='0x06' slot='0x02' function='0x0'/></source></hostdev>"
)


@pytest.fixture
def disk(pool: libvirt.virStoragePool) -> libvirt.virStorageVol:
    """A small disk."""
    return make_qcow2(pool, "web.qcow2", 16 * MiB)


def refused(server: Server, conn: libvirt.virConnect, path: str, **body: object) -> tuple[int, str, str]:
    """Status, code and reason of a clone that is not accepted, after which everything is as it was."""
    before = inventory(conn)
    answer = server.request("POST", f"{path}/clone", body)
    assert inventory(conn) == before
    assert server.request("GET", "tasks").json == []
    with closing(sqlite3.connect(server.state_dir / "journal.sqlite")) as journal:
        assert journal.execute("SELECT kind, name FROM reservations").fetchall() == []
        assert journal.execute("SELECT pool, bytes FROM promises").fetchall() == []
    return *refusal(answer), answer.json["reason"]


def hostdevs(domain: libvirt.virDomain) -> int:
    xml = etree.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    return len(xml.findall("devices/hostdev"))


def set_stamp(server: Server, stamp: int) -> None:
    """Moves the journal's last stamp, which must be in the future, so that the next ones are known beforehand."""
    with closing(sqlite3.connect(server.state_dir / "journal.sqlite", timeout=30)) as journal, journal:
        journal.execute("UPDATE counters SET last = ? WHERE name = 'stamp'", (stamp,))


def test_a_destination_pool_that_is_not_active_is_refused(
    server: Server,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    disk: libvirt.virStorageVol,
    guest: Guest,
    folder: Path,
) -> None:
    guest("web", [disk])
    other = make_pool(conn, f"other-{folder.name}", folder / "other")
    other.destroy()
    for source in ("vms/web", f"storagepools/{pool.name()}/storagevolumes/{disk.name()}"):
        status, code, reason = refused(server, conn, source, pool=other.name())
        assert (status, code) == (400, "CLNPOOL0001E")
        assert other.name() in reason
    assert not other.isActive()


def test_a_pool_on_what_can_only_be_read_takes_no_clone_and_the_default_pool_does(
    server: Server, conn: libvirt.virConnect, guest: Guest, file_system: Callable[..., Path], folder: Path
) -> None:
    """As one with images that many guests are made from may lie."""
    mount_point = file_system("ext4")
    golden = make_pool(conn, f"golden-{folder.name}", mount_point / "pool")
    guest("web", [make_qcow2(golden, "web.qcow2", MiB)])
    run_as_root("mount", "-o", "remount,ro", mount_point)
    for source in ("vms/web", f"storagepools/{golden.name()}/storagevolumes/web.qcow2"):
        for wishes in ({}, {"method": "linked"}):
            status, code, reason = refused(server, conn, source, pool=golden.name(), **wishes)
            assert (status, code) == (400, "CLNPOOL0002E"), reason
    make_pool(conn, "default", folder / "default")
    assert cloned(server, "vms/web")["disks"][0]["target"]["pool"] == "default"


def test_a_pool_that_the_server_alone_may_only_read_takes_clones(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, guest: Guest, tmp_path: Path
) -> None:
    """As one has it that systemd confines (ProtectSystem); libvirt makes them then."""
    guest("web", [make_qcow2(pool, "web.qcow2", MiB)])
    confine = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", confine, str(pool_path(pool)))
    with Server(libvirtd.uri, tmp_path / "state", prefix=prefix) as server:
        assert cloned(server, "vms/web", pool=pool.name())["disks"][0]["method"] == "libvirt"


def test_a_guest_with_a_saved_memory_image_is_refused_until_that_is_gone(
    server: Server, conn: libvirt.virConnect, disk: libvirt.virStorageVol, guest: Guest
) -> None:
    web = guest("web", [disk])
    web.create()
    web.managedSave()
    assert not web.isActive()
    assert refused(server, conn, "vms/web")[:2] == (400, "CLNVM0001E")
    assert web.hasManagedSaveImage()
    web.managedSaveRemove()
    cloned(server, "vms/web")


def test_a_device_of_the_host_is_refused_and_can_be_left_out(
    server: Server, conn: libvirt.virConnect, disk: libvirt.virStorageVol, guest: Guest
) -> None:
    web = guest("web", [disk], devices=PCI)
    status, code, reason = refused(server, conn, "vms/web")
    assert (status, code) == (400, "CLNVM0003E")
    assert "drop_hostdevs" in reason
    assert refused(server, conn, "vms/web", drop_hostdevs=False)[:2] == (400, "CLNVM0003E")

    task = cloned(server, "vms/web", drop_hostdevs=True)

    assert hostdevs(conn.lookupByName(task["name"])) == 0
    assert hostdevs(web) == 1


def test_a_file_where_the_clones_uefi_variables_would_lie_makes_the_name_taken(
    server: Server, conn: libvirt.virConnect, guest: Guest, folder: Path
) -> None:
    guest("web", nvram=folder / "web_VARS.fd")
    stray = folder / "copy_VARS.fd"
    stray.write_text("somebody else's", encoding="utf-8")
    assert refused(server, conn, "vms/web", name="copy")[:2] == (409, "CLNNAME0002E")
    assert stray.read_text(encoding="utf-8") == "somebody else's"


def test_a_generated_name_passes_over_a_file_where_its_uefi_variables_would_lie(
    server: Server, conn: libvirt.virConnect, guest: Guest, folder: Path
) -> None:
    guest("web", nvram=folder / "web_VARS.fd")
    future = 4_000_000_000_000_000
    set_stamp(server, future)
    stray = folder / f"web-clone-{future + 1}_VARS.fd"
    stray.write_text("somebody else's", encoding="utf-8")
    task = cloned(server, "vms/web")
    assert task["name"] == f"web-clone-{future + 2}"
    nvram = etree.fromstring(conn.lookupByName(task["name"]).XMLDesc()).findtext("os/nvram")
    assert nvram == str(folder / f"{task['name']}_VARS.fd")
    assert stray.read_text(encoding="utf-8") == "somebody else's"
