"""A clone boots from its own disk, and writes to its own log."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import libvirt
import pytest
from lxml import etree

from support.guests import stop_guest
from support.libvirtd import PrivateLibvirtd
from support.running import wait_until
from support.server import Server
from support.storage import MiB, make_pool, make_raw, sha256

SECTOR = 512
_PRINT_TO_COM1 = bytes.fromhex("fa 31c0 8ed8 be167c ac 84c0 7406 baf803 ee ebf5 f4 ebfd")
"""Real-mode code that sends the text behind it to the first serial port, and halts."""


def boot_sector(message: str) -> bytes:
    code = _PRINT_TO_COM1 + message.encode("ascii") + b"\0"
    return code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def place(conn: libvirt.virConnect, name: str, xpath: str) -> Path:
    xml = etree.fromstring(conn.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    return Path(str(xml.xpath(f"string({xpath})")))


def disk_of(conn: libvirt.virConnect, name: str) -> Path:
    return place(conn, name, "devices/disk/source/@file")


def log_of(conn: libvirt.virConnect, name: str) -> Path:
    return place(conn, name, "devices/serial/source/@path")


def has_said(conn: libvirt.virConnect, name: str, text: str) -> bool:
    return text in log_of(conn, name).read_text("ascii", "replace")


WAYS = [("xfs", "reflink"), ("btrfs", "reflink"), ("ext4", "copy"), ("ext4", "libvirt"), ("ext4", "linked")]


@pytest.mark.parametrize(("fs", "method"), WAYS)
def test_it_boots_from_its_own_disk(  # noqa: PLR0917 - pytest's fixtures
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    file_system: Callable[..., Path],
    guest: Callable[..., libvirt.virDomain],
    folder: Path,
    tmp_path: Path,
    fs: str,
    method: str,
) -> None:
    pool = make_pool(conn, "boot", file_system(fs) / "pool")
    disk = Path(make_raw(pool, "web.img", MiB, {0: boot_sector("this is the source")}).path())
    serial = f"<serial type='file'><source path='{folder}/web-serial.log'/><target port='0'/></serial>"
    guest("web", [disk], devices=serial)
    with Server(libvirtd.uri, tmp_path / "state") as server:
        task = server.wait_task(server.request("POST", "vms/web/clone", body={"method": method}).json["id"])
    assert task["status"] == "finished", task
    before = sha256(disk)
    expected = {task["name"]: "this is the source"}
    if method != "linked":  # whose source must not run, and which has no sector to write to by hand
        with disk_of(conn, task["name"]).open("r+b") as file:
            file.write(boot_sector("this is the clone"))
        expected = {"web": "this is the source", task["name"]: "this is the clone"}

    for name in expected:
        conn.lookupByName(name).create()
    for name, text in expected.items():
        wait_until(partial(has_said, conn, name, text), 30, f"{name} has booted")
    for name in expected:
        stop_guest(conn.lookupByName(name))
    assert sha256(disk) == before
    assert log_of(conn, task["name"]) != log_of(conn, "web")
