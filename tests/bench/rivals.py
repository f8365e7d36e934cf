"""What else there is to clone with: the bare calls in a loop, virt-clone, qemu-img, cp, and the call Kimchi makes."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from support.running import CommandError, run
from support.storage import format_of

from .sites import GUEST, Site

FICLONE = 0x40049409  # linux/fs.h
TOOL_TIMEOUT = 600.0  # seconds


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def bare_loop(site: Site, count: int) -> None:
    """FICLONE and defineXML, `count` times: what nothing can do without."""
    xml_of = _template(site)
    for number in range(count):
        target = _target(site, number)
        reflink(site.disk, target)
        site.conn.defineXML(xml_of(number, target))


def loop_with_volumes(site: Site, count: int) -> None:
    """The same, with a volume that libvirt makes: so it is known to its pool, and belongs to whom it should."""
    xml_of = _template(site)
    source = site.pool.storageVolLookupByName(site.disk.name)
    for number in range(count):
        target = _target(site, number)
        form = format_of(site.disk)
        site.pool.createXML(volume_xml(target.name, source.info()[1], form, "<allocation>0</allocation>"))
        reflink(site.disk, target)
        site.conn.defineXML(xml_of(number, target))


def reflink(source: Path, target: Path) -> None:
    with source.open("rb") as original, target.open("wb") as copy:
        fcntl.ioctl(copy, FICLONE, original.fileno())


def volume_xml(name: str, capacity: int, form: str, allocation: str = "") -> str:
    return (
        f"<volume><name>{name}</name><capacity unit='bytes'>{capacity}</capacity>{allocation}"
        f"<target><format type='{form}'/></target></volume>"
    )


def create_from(site: Site) -> None:
    """createXMLFrom as Kimchi calls it: with name, capacity and format, and no word of the allocation."""
    source = site.pool.storageVolLookupByName(site.disk.name)
    site.pool.createXMLFrom(volume_xml("copy.img", source.info()[1], "raw"), source)


def virt_clone(site: Site, *options: str) -> None:
    """Raises CommandError, with what it says, when it cannot."""
    name = "by-virt-clone"
    file = site.folder / f"{name}{site.disk.suffix}"
    argv = ["virt-clone", "--connect", site.daemon.uri, "--original", GUEST, "--name", name, "--file", str(file)]
    with tempfile.TemporaryDirectory() as home:  # it keeps a log and a cache there
        run("env", f"HOME={home}", f"XDG_CACHE_HOME={home}", *argv, *options, timeout=TOOL_TIMEOUT)


def refusal(site: Site, *options: str) -> str:
    """Why virt-clone refuses these options, in its own last words; '' if it does not."""
    try:
        virt_clone(site, *options)
    except CommandError as error:
        return str(error).rpartition("ERROR")[2].split("\n")[0].strip()
    finally:
        site.clear()
    return ""


def qemu_img(source: Path, target: Path) -> None:
    run("qemu-img", "convert", "-W", "-m", "16", "-f", "raw", "-O", "raw", source, target, timeout=TOOL_TIMEOUT)


def cp(source: Path, target: Path) -> None:
    run("cp", "--sparse=always", source, target, timeout=TOOL_TIMEOUT)


def put_on_disk(path: Path) -> None:
    """Returns when all of a file has been written."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _target(site: Site, number: int) -> Path:
    return site.folder / f"copy-{number}{site.disk.suffix}"


def _template(site: Site) -> Callable[[int, Path], str]:
    """Makes the XML of the guest's n-th copy, whose disk is given."""
    uuid = site.conn.lookupByName(GUEST).UUIDString()
    xml = site.guest_xml

    def xml_of(number: int, target: Path) -> str:
        renamed = xml.replace(f"<name>{GUEST}<", f"<name>copy-{number}<").replace(uuid, str(uuid4()))
        return renamed.replace(str(site.disk), str(target))

    return xml_of
