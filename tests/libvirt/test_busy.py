"""A libvirtd all of whose workers are busy: it does what it was asked for later, also for a server that is gone."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from threading import Thread

import libvirt

from support.guests import inventory
from support.libvirtd import PrivateLibvirtd
from support.running import wait_until
from support.server import Server
from support.storage import MiB, make_pool, make_raw

LONG = 6 * 1024 * MiB  # sparse; libvirt reads it for some seconds
PATIENCE = 30  # seconds


def test_a_volume_that_libvirtd_makes_after_its_server_has_died_is_removed(tmp_path: Path) -> None:
    libvirtd = PrivateLibvirtd()
    with (libvirtd.folder / "libvirtd.conf").open("a") as configuration:
        configuration.write("max_workers = 1\nmin_workers = 1\n")
    with libvirtd, closing(libvirtd.open()) as conn:
        pool = make_pool(conn, "images", libvirtd.folder / "images")
        make_raw(pool, "web.img", MiB, {})
        make_raw(pool, "long.img", LONG, {})
        before = inventory(conn)
        with Server(libvirtd.uri, tmp_path / "state") as server:
            copying = Thread(target=copy_long, args=(libvirtd,))
            copying.start()
            wait_until(lambda: "copy.img" in pool.listVolumes(), PATIENCE, "libvirtd is busy")
            task = server.request("POST", "storagepools/images/storagevolumes/web.img/clone", {"method": "copy"}).json
            is_asked = lambda: server.request("GET", f"tasks/{task['id']}").json["message"].startswith("Making")  # noqa: E731 - in a word
            wait_until(is_asked, PATIENCE, "libvirtd is asked for the volume")
            server.kill()
        with Server(libvirtd.uri, tmp_path / "state") as heir:
            assert heir.wait_task(task["id"])["status"] == "failed"
        copying.join()
        conn.getCapabilities()  # it comes after whatever libvirtd was asked for before
        pool.storageVolLookupByName("copy.img").delete()
        assert inventory(conn) == before


def copy_long(libvirtd: PrivateLibvirtd) -> None:
    with closing(libvirtd.open()) as conn:
        pool: libvirt.virStoragePool = conn.storagePoolLookupByName("images")
        xml = f"<volume><name>copy.img</name><capacity>{LONG}</capacity><allocation>0</allocation></volume>"
        pool.createXMLFrom(xml, pool.storageVolLookupByName("long.img"), 0)
