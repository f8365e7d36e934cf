"""Places to clone in: a libvirt of its own with some guests, and for ours a server. Sizes are bytes.

Ours and theirs have a libvirt each, on one file system and one file: so the server, which follows its libvirt's events,
is not kept busy by what the others do.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
MAC = "52:54:00:12:34:"
SETTLE_TIMEOUT = 60.0  # seconds
_PIECE = 16 * MiB
_ROOM = GiB
_OTHER = "other-"


@dataclass(frozen=True)
class Guest:
    """What a guest that is cloned has: disks of a size, of which `data` is written in pieces, evenly spread."""

    size: int
    data: int
    name: str = GUEST
    image: str = "raw"
    disks: int = 1
    piece: int = _PIECE


@dataclass(frozen=True)
class Site:
    """A libvirt with a pool, `default`, in a folder, and in that the disks of guests that are shut off."""

    daemon: PrivateLibvirtd
    conn: libvirt.virConnect
    pool: libvirt.virStoragePool
    folder: Path
    disks: dict[str, list[Path]] = field(default_factory=dict)
    """Of each guest."""

    @property
    def disk(self) -> Path:
        """The first disk of the first guest."""
        return next(iter(self.disks.values()))[0]

    def guest_xml(self, guest: str) -> str:
        xml: str = self.conn.lookupByName(guest).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        return xml

    def count(self) -> int:
        """How many guests are defined."""
        return int(self.conn.numOfDefinedDomains())

    def cpu_seconds(self) -> float:
        """Seconds of processors that libvirt has used so far."""
        return sum(map(cpu_seconds, self.daemon.processes()))

    def clear(self) -> None:
        """Removes all but the guests and their disks."""
        for domain in self.conn.listAllDomains():
            if domain.name() not in self.disks and not domain.name().startswith(_OTHER):
                domain.undefine()
        copies = self.copies()
        for volume in self.pool.listAllVolumes():
            if Path(volume.path()) in copies:
                volume.delete(0)
        for path in self.copies():
            path.unlink()

    def copies(self) -> set[Path]:
        """The files that are there beside the guests' disks."""
        return set(self.folder.iterdir()) - {disk for disks in self.disks.values() for disk in disks}


@dataclass(frozen=True)
class Sites:
    """Ours, with the server that clones there, and theirs."""

    ours: Site
    theirs: Site
    server: Server
    client: Client
    guests: int
    """How many guests ours has that are no clones."""

    def copies(self) -> set[Path]:
        """The files that either has beside the guests' disks."""
        return self.ours.copies() | self.theirs.copies()

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
        return len(self.client.get("vms")) == self.guests


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
    with sites_of(file_system, [Guest(size, data, image=image)], room) as found:
        yield found


@contextmanager
def sites_of(file_system: str, guests: Sequence[Guest], room: int, others: int = 0) -> Iterator[Sites]:
    """Two sites on a new file system with `room` in it, with the same guests; ours has `others` without disks, too."""
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        mount_point = stack.enter_context(mounted(file_system, room))
        disks = {guest.name: _make_disks(mount_point, guest, file_system) for guest in guests}
        ours, theirs = (stack.enter_context(_site(mount_point / side, disks)) for side in ("ours", "theirs"))
        if others:
            say(f"defines {others:,} other guests")
        for number in range(others):
            define_guest(ours.conn, f"{_OTHER}{number}")
        server = stack.enter_context(Server(ours.daemon.uri, state))
        yield Sites(ours, theirs, server, stack.enter_context(Client(server)), len(guests) + others)


@contextmanager
def _site(folder: Path, disks: dict[str, list[Path]]) -> Iterator[Site]:
    folder.mkdir()
    own = {guest: [folder / path.name for path in paths] for guest, paths in disks.items()}
    for guest, paths in disks.items():
        for path, link in zip(paths, own[guest], strict=True):
            os.link(path, link)
    with PrivateLibvirtd() as daemon:
        conn = daemon.open()
        pool = make_pool(conn, "default", folder)
        for number, (guest, paths) in enumerate(own.items()):
            define_guest(conn, guest, paths, macs=[f"{MAC}{number:02x}"])
        yield Site(daemon, conn, pool, folder, own)
        conn.close()


def _make_disks(folder: Path, guest: Guest, file_system: str) -> list[Path]:
    content = f"{guest.size / GiB:,.4g} GiB with {guest.data / GiB:.2g} GiB of data"
    say(f"makes {guest.disks} {guest.image} × {content} on {file_system}")
    names = [guest.name, *(f"{guest.name}-{number}" for number in range(1, guest.disks))]
    return [_make_disk(folder / name, guest) for name in names]


def _make_disk(path: Path, guest: Guest) -> Path:
    raw = path.with_suffix(".img")
    write_pieces(raw, guest.size, guest.data, guest.piece)
    if guest.image == "raw":
        return raw
    disk = path.with_suffix(f".{guest.image}")
    run("qemu-img", "convert", "-f", "raw", "-O", guest.image, raw, disk, timeout=600)
    os.chown(disk, *unprivileged_ids())
    raw.unlink()
    return disk


def write_pieces(path: Path, size: int, data: int, piece: int = _PIECE) -> None:
    """A sparse file of a size, of which pieces are written that are spread evenly, and no block is empty."""
    pieces = max(1, data // piece)
    stride = size // pieces // (64 * KiB) * (64 * KiB)
    content = os.urandom(min(data, piece))
    with path.open("wb") as file:
        file.truncate(size)
        for number in range(pieces):
            file.seek(number * stride)
            file.write(content)
        os.fsync(file.fileno())
    os.chown(path, *unprivileged_ids())


def extents(path: Path) -> int:
    """How many extents a file has, which is what the time of a FICLONE follows."""
    lines = (line.split(":")[0].strip() for line in run("filefrag", "-v", path).splitlines())
    return sum(number.isdigit() for number in lines)
