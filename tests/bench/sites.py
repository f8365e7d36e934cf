"""Places to clone in: a libvirt of its own with one guest, and for ours a server. Sizes are bytes.

Ours and theirs have a libvirt each, on one file system and one file: so the server, which follows its libvirt's events,
is not kept busy by what the others do.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import libvirt

from support.guests import define_guest
from support.libvirtd import PrivateLibvirtd, unprivileged_ids
from support.running import run, wait_until
from support.server import Server
from support.storage import GiB, KiB, MiB, make_pool, mounted

from .client import Client
from .processes import cpu_seconds
from .rounds import say

GUEST = "web"
MAC = "52:54:00:12:34:56"
SETTLE_TIMEOUT = 60.0  # seconds
_PIECE = 16 * MiB
_ROOM = GiB


@dataclass(frozen=True)
class Site:
    """A libvirt with a pool, `default`, in a folder, and in that the disk of a guest that is shut off."""

    daemon: PrivateLibvirtd
    conn: libvirt.virConnect
    pool: libvirt.virStoragePool
    folder: Path
    disk: Path

    @property
    def guest_xml(self) -> str:
        xml: str = self.conn.lookupByName(GUEST).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        return xml

    def count(self) -> int:
        """How many guests are defined."""
        return int(self.conn.numOfDefinedDomains())

    def cpu_seconds(self) -> float:
        """Seconds of processors that libvirt has used so far."""
        return sum(map(cpu_seconds, self.daemon.processes()))

    def clear(self) -> None:
        """Removes all but the guest and its disk."""
        for domain in self.conn.listAllDomains():
            if domain.name() != GUEST:
                domain.undefine()
        for volume in self.pool.listAllVolumes():
            if volume.path() != str(self.disk):
                volume.delete(0)
        for path in self.folder.iterdir():
            if path != self.disk:
                path.unlink()


@dataclass(frozen=True)
class Sites:
    """Ours, with the server that clones there, and theirs."""

    ours: Site
    theirs: Site
    server: Server
    client: Client

    def copies(self) -> list[Path]:
        """The files that either has beside the guest's disk."""
        files = ((path, site) for site in (self.ours, self.theirs) for path in site.folder.iterdir())
        return [path for path, site in files if path != site.disk]

    def clear(self) -> None:
        """Removes every clone, and waits until the server has heard of it."""
        self.ours.clear()
        self.theirs.clear()
        wait_until(
            self._is_settled,
            SETTLE_TIMEOUT,
            "the server knows that all clones are gone",
            lambda: self.server.log[-2000:],
        )

    def _is_settled(self) -> bool:
        return len(self.client.get("vms")) == 1


@contextmanager
def sites(file_system: str, image: str, size: int, data: int) -> Iterator[Sites]:
    """Two sites on a new file system, with the same guest.

    Args:
        file_system: xfs, btrfs or ext4.
        image: raw or qcow2.
        size: of the guest's disk.
        data: how much of it is written, evenly spread.
    """
    room = size + 2 * data + _ROOM  # the image is sparse, so room that is not needed costs nothing
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        mount_point = stack.enter_context(mounted(file_system, room))
        say(f"makes a {image} disk with {data / GiB:.2g} GiB of data on {file_system}")
        disk = _make_disk(mount_point, image, size, data)
        ours, theirs = (stack.enter_context(_site(mount_point / side, disk)) for side in ("ours", "theirs"))
        server = stack.enter_context(Server(ours.daemon.uri, state))
        yield Sites(ours, theirs, server, stack.enter_context(Client(server)))


@contextmanager
def _site(folder: Path, disk: Path) -> Iterator[Site]:
    folder.mkdir()
    own = folder / disk.name
    os.link(disk, own)
    with PrivateLibvirtd() as daemon:
        conn = daemon.open()
        pool = make_pool(conn, "default", folder)
        define_guest(conn, GUEST, [own], macs=[MAC])
        yield Site(daemon, conn, pool, folder, own)
        conn.close()


def _make_disk(folder: Path, image: str, size: int, data: int) -> Path:
    raw = folder / f"{GUEST}.img"
    write_pieces(raw, size, data)
    if image == "raw":
        return raw
    disk = folder / f"{GUEST}.{image}"
    run("qemu-img", "convert", "-f", "raw", "-O", image, raw, disk, timeout=600)
    os.chown(disk, *unprivileged_ids())
    raw.unlink()
    return disk


def write_pieces(path: Path, size: int, data: int) -> None:
    """A sparse file of a size, of which pieces are written that are spread evenly, and no block is empty."""
    pieces = max(1, data // _PIECE)
    stride = size // pieces // (64 * KiB) * (64 * KiB)
    content = os.urandom(min(data, _PIECE))
    with path.open("wb") as file:
        file.truncate(size)
        for number in range(pieces):
            file.seek(number * stride)
            file.write(content)
        os.fsync(file.fileno())
    os.chown(path, *unprivileged_ids())
