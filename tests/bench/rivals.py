"""What else there is to clone with: the bare calls in a loop, virt-clone, qemu-img, cp, and the call Kimchi makes."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

import libvirt

from support.running import CommandError, run
from support.storage import format_of

from .sites import GUEST, Site

FICLONE = 0x40049409  # linux/fs.h
TOOL_TIMEOUT = 600.0  # seconds
_UNCHECKED = ("--check", "disk_size=off")  # it refuses sparse disks that are larger than the pool


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def bare_loop(site: Site, count: int, guest: str = GUEST) -> None:
    """FICLONE and defineXML, `count` times: what nothing can do without."""
    _loop(site, count, guest, reflink)


def loop_with_volumes(site: Site, count: int, guest: str = GUEST) -> None:
    """The same, with a volume that libvirt makes: so it is known to its pool, and belongs to whom it should."""

    def create_and_reflink(source: Path, target: Path) -> None:
        capacity = site.pool.storageVolLookupByName(source.name).info()[1]
        site.pool.createXML(volume_xml(target.name, capacity, format_of(source), "<allocation>0</allocation>"))
        reflink(source, target)

    _loop(site, count, guest, create_and_reflink)


def loop_with_overlays(site: Site, count: int, guest: str = GUEST) -> None:
    """An overlay by qemu-img and defineXML, `count` times."""
    _loop(site, count, guest, overlay)


def copy_and_define(site: Site, guest: str, copy: Callable[[Path, Path], object]) -> None:
    """Some way to copy each disk, and defineXML."""
    _loop(site, 1, guest, copy)


def _loop(site: Site, count: int, guest: str, copy: Callable[[Path, Path], object]) -> None:
    xml_of = _template(site, guest)
    for number in range(count):
        targets = {disk: disk.with_name(f"copy-{number}-{disk.name}") for disk in site.disks[guest]}
        for disk, target in targets.items():
            copy(disk, target)
        site.conn.defineXML(xml_of(f"copy-{number}", targets))


def reflink(source: Path, target: Path) -> None:
    with source.open("rb") as original, target.open("wb") as copy:
        fcntl.ioctl(copy, FICLONE, original.fileno())


def volume_xml(name: str, capacity: int, form: str, allocation: str = "") -> str:
    return (
        f"<volume><name>{name}</name><capacity unit='bytes'>{capacity}</capacity>{allocation}"
        f"<target><format type='{form}'/></target></volume>"
    )


def create_from(site: Site, name: str = "copy.img", conn: libvirt.virConnect | None = None) -> None:
    """createXMLFrom as Kimchi calls it: with name, capacity and format, and no word of the allocation."""
    pool = conn.storagePoolLookupByName("default") if conn else site.pool
    source = pool.storageVolLookupByName(site.disk.name)
    pool.createXMLFrom(volume_xml(name, source.info()[1], "raw"), source)


def virt_clone(site: Site, *options: str, guest: str = GUEST) -> None:
    """Raises CommandError, with what it says, when it cannot."""
    name = "by-virt-clone"
    file = site.folder / f"{name}{site.disks[guest][0].suffix}"
    argv = ["virt-clone", "--connect", site.daemon.uri, "--original", guest, "--name", name, "--file", str(file)]
    with tempfile.TemporaryDirectory() as home:  # it keeps a log and a cache there
        run("env", f"HOME={home}", f"XDG_CACHE_HOME={home}", *argv, *_UNCHECKED, *options, timeout=TOOL_TIMEOUT)


def refusal(site: Site, *options: str) -> str:
    """Why virt-clone refuses these options, in its own last words; '' if it does not."""
    try:
        virt_clone(site, *options)
    except CommandError as error:
        return str(error).rpartition("ERROR")[2].split("\n")[0].strip()
    finally:
        site.clear()
    return ""


def vol_clone(site: Site, guest: str, *options: str) -> None:
    """virsh vol-clone, and virsh define of a guest with that volume."""

    def clone(source: Path, target: Path) -> None:
        _virsh(site, "vol-clone", "--pool", "default", source.name, target.name, *options)

    targets = {disk: disk.with_name(f"copy-{disk.name}") for disk in site.disks[guest]}
    for disk, target in targets.items():
        clone(disk, target)
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
        file.write(_template(site, guest)("by-virsh", targets))
        file.flush()
        _virsh(site, "define", file.name)


def _virsh(site: Site, *argv: str) -> None:
    run("virsh", "--quiet", "--connect", site.daemon.uri, *argv, timeout=TOOL_TIMEOUT)


def qemu_img(source: Path, target: Path) -> None:
    run("qemu-img", "convert", "-W", "-m", "16", "-f", "raw", "-O", "raw", source, target, timeout=TOOL_TIMEOUT)


def cp(source: Path, target: Path) -> None:
    run("cp", "--sparse=always", source, target, timeout=TOOL_TIMEOUT)


def cp_reflink(source: Path, target: Path) -> None:
    run("cp", "--reflink=always", source, target, timeout=TOOL_TIMEOUT)


def overlay(source: Path, target: Path) -> None:
    form = format_of(source)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", source, target, timeout=TOOL_TIMEOUT)


def put_on_disk(path: Path) -> None:
    """Returns when all of a file has been written."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _template(site: Site, guest: str) -> Callable[[str, Mapping[Path, Path]], str]:
    """Makes the XML of a copy of a guest, by its name and where its disks went."""
    uuid = site.conn.lookupByName(guest).UUIDString()
    xml = site.guest_xml(guest)

    def xml_of(name: str, targets: Mapping[Path, Path]) -> str:
        renamed = xml.replace(f"<name>{guest}<", f"<name>{name}<").replace(uuid, str(uuid4()))
        for disk, target in targets.items():
            renamed = renamed.replace(f"'{disk}'", f"'{target}'")
        return renamed

    return xml_of
