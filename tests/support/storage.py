"""Pools, volumes and file systems for the tests, all of them real; sizes and offsets are bytes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import libvirt
from lxml import etree

from support.libvirtd import unprivileged_ids
from support.running import COMMAND_TIMEOUT, CommandError, run, run_as_root, wait_until

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
UNMOUNT_TIMEOUT = 10.0  # seconds
SMALLEST = {"xfs": 300 * MiB, "btrfs": 128 * MiB, "ext4": 8 * MiB}  # mkfs.xfs refuses less, and so does btrfs
MKFS = {
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0"),  # -m 0: no blocks that only root can use
}
QCOW2_MAGIC = b"QFI\xfb"
FS_IOC_FIEMAP = 0xC020660B  # this and the next four: linux/fiemap.h
FIEMAP_FLAG_SYNC = 1
FIEMAP_EXTENT_SHARED = 0x2000
MAX_LENGTH = (1 << 64) - 1
MOST_EXTENTS = 256


@contextmanager
def mounted(fs: str, size: int | None = None) -> Iterator[Path]:
    """Mount a new file system, for a `with`; the private libvirtd may write to it.

    `fs` is xfs (with reflink), btrfs or ext4; `size` its smallest useful one when None. Unmounted, and its loop
    device freed, at the end, whatever happens. Needs root or `sudo -n`.
    """
    folder = Path(tempfile.mkdtemp(prefix="fs-"))
    folder.chmod(0o755)
    image, mount_point = folder / "image", folder / "mount"
    mount_point.mkdir()
    try:
        with image.open("wb") as file:
            file.truncate(size or SMALLEST[fs])
        run_as_root(*MKFS[fs], image)
        run_as_root("mount", "-t", fs, "-o", "loop", image, mount_point)  # such a loop device frees itself
        run_as_root("chown", "{}:{}".format(*unprivileged_ids()), mount_point)
        yield mount_point
    finally:
        try:
            if mount_point.is_mount():
                _unmount(mount_point)
        finally:
            shutil.rmtree(folder)


@contextmanager
def ramfs() -> Iterator[Path]:
    """Mount one, for a `with`: it keeps holes and says that all is data, and not how much room it has."""
    folder = Path(tempfile.mkdtemp(prefix="fs-"))
    try:
        run_as_root("mount", "-t", "ramfs", "-o", "mode=777", "none", folder)
        try:
            yield folder
        finally:
            _unmount(folder)
    finally:
        folder.rmdir()


@contextmanager
def loop_device(image: Path, size: int) -> Iterator[Path]:
    """A new block device of a size, in bytes, for a `with`. Needs root or `sudo -n`."""
    image.write_bytes(bytes(size))
    device = run_as_root("losetup", "--find", "--show", image).strip()
    try:
        yield Path(device)
    finally:
        run_as_root("losetup", "--detach", device)


def _unmount(mount_point: Path) -> None:
    """Unmount, waiting for processes with open files there; in the end without them, and with an error."""
    problem = ""

    def tried() -> bool:
        nonlocal problem
        try:
            run_as_root("umount", mount_point)
        except CommandError as error:
            problem = str(error)
            return False
        return True

    try:
        wait_until(tried, UNMOUNT_TIMEOUT, f"{mount_point} is unmounted", lambda: problem)
    except TimeoutError:
        run_as_root("umount", "--lazy", mount_point)
        raise


def make_pool(conn: libvirt.virConnect, name: str, folder: Path) -> libvirt.virStoragePool:
    """Define and start a dir pool at `folder`, made when it is missing, and owned as libvirtd needs it."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid != unprivileged_ids()[0]:
        os.chown(folder, *unprivileged_ids())
    target = f"<target><path>{escape(str(folder))}</path></target>"
    pool = conn.storagePoolDefineXML(f"<pool type='dir'><name>{escape(name)}</name>{target}</pool>")
    pool.create()
    return pool


def remove_pool(pool: libvirt.virStoragePool) -> None:
    """Stop and undefine a pool, active or not; its files stay."""
    if pool.isActive():
        pool.destroy()
    pool.undefine()


def pool_path(pool: libvirt.virStoragePool) -> Path:
    """The folder of a dir pool."""
    return Path(etree.fromstring(pool.XMLDesc()).findtext("target/path") or "")


def make_raw(
    pool: libvirt.virStoragePool, name: str, capacity: int, pieces: Mapping[int, bytes] | None = None
) -> libvirt.virStorageVol:
    """A sparse raw volume that holds `pieces` ({offset: data}) and nothing else."""
    volume = pool.createXML(_volume_xml(name, capacity, "raw"))
    with Path(volume.path()).open("r+b") as file:
        for offset, data in (pieces or {}).items():
            file.seek(offset)
            file.write(data)
    return volume


def make_qcow2(
    pool: libvirt.virStoragePool,
    name: str,
    capacity: int,
    pieces: Mapping[int, bytes] | None = None,
    *,
    compat: str = "1.1",
    backing: Path | None = None,
) -> libvirt.virStorageVol:
    """A qcow2 volume, an overlay when it has a `backing` file, with `pieces` ({offset: data}) in it."""
    extra = f"<compat>{compat}</compat>"
    volume = pool.createXML(_volume_xml(name, capacity, "qcow2", extra, backing))
    write_image(Path(volume.path()), pieces or {})
    return volume


def _volume_xml(name: str, capacity: int, image_format: str, extra: str = "", backing: Path | None = None) -> str:
    store = ""
    if backing:
        store = f"<path>{escape(str(backing))}</path><format type='{format_of(backing)}'/>"
        store = f"<backingStore>{store}</backingStore>"
    return (
        f"<volume><name>{escape(name)}</name><capacity unit='bytes'>{capacity}</capacity>"
        f"<allocation unit='bytes'>0</allocation>"
        f"<target><format type='{image_format}'/>{extra}</target>{store}</volume>"
    )


def write_image(path: Path, pieces: Mapping[int, bytes]) -> None:
    """Write `pieces` ({offset of the guest's disk: data}) into an image of any format, with qemu-io."""
    for offset, data in pieces.items():
        with tempfile.NamedTemporaryFile() as source:
            source.write(data)
            source.flush()
            run("qemu-io", "-f", format_of(path), "-c", f"write -s {source.name} {offset} {len(data)}", path)


def some_data(size: int, seed: int = 0) -> bytes:
    """Bytes without holes or repetition, the same ones for the same seed."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - no secret


def format_of(path: Path) -> str:
    """qcow2 or raw, by the file's first bytes."""
    with path.open("rb") as file:
        return "qcow2" if file.read(4) == QCOW2_MAGIC else "raw"


def image_info(path: Path) -> dict[str, Any]:
    """What `qemu-img info` says of an image, one that is in use too."""
    answer = run("qemu-img", "info", "-U", "-f", format_of(path), "--output=json", path)
    info: dict[str, Any] = json.loads(answer)
    return info


def qemu_img_compare(one: Path, other: Path, *, strict: bool = False) -> bool:
    """Whether two images have the same content; strict: and the same size and allocation.

    Raises CommandError when qemu-img cannot read one of them.
    """
    argv = ["qemu-img", "compare", "-f", format_of(one), "-F", format_of(other), *(["-s"] if strict else [])]
    argv += [str(one), str(other)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    if done.returncode > 1:  # 1 is 'different'; see qemu-img(1)
        raise CommandError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.returncode == 0


def sha256(path: Path) -> str:
    """The file's checksum, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allocated(path: Path) -> int:
    """The bytes that a file takes on its disk; a reflinked copy counts them all again."""
    return path.stat().st_blocks * 512


def owned_bytes(path: Path) -> int:
    """The bytes of a file that no other file shares; what is not mapped yet is written first.

    As the kernel's Documentation/filesystems/fiemap.rst has it.
    """
    head, extent = struct.Struct("=QQIIII"), struct.Struct("=QQQ2QI3I")
    asked = bytearray(
        head.pack(0, MAX_LENGTH, FIEMAP_FLAG_SYNC, 0, MOST_EXTENTS, 0) + bytes(MOST_EXTENTS * extent.size)
    )
    with path.open("rb") as file:
        fcntl.ioctl(file, FS_IOC_FIEMAP, asked)
    mapped = head.unpack_from(asked)[3]
    extents = [extent.unpack_from(asked, head.size + number * extent.size) for number in range(mapped)]
    assert mapped < MOST_EXTENTS
    return sum(fields[2] for fields in extents if not fields[5] & FIEMAP_EXTENT_SHARED)


def listing(folder: Path) -> list[str]:
    """The names of a folder's entries, sorted; a pool's volumes and whatever else lies there."""
    return sorted(os.listdir(folder))


@contextmanager
def open_in_qemu(path: Path, *options: str, form: str = "raw") -> Iterator[None]:
    """A QEMU that nobody has told libvirt of, with an image open to write, or as qemu-io's `options` have it."""
    argv = ["qemu-io", *options, "-f", form, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("length\n")  # it answers when the image is open
        process.stdin.flush()
        process.stdout.readline()
        yield
        process.stdin.close()


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """A folder of a file server that does not answer: who looks at what is in it waits to the end of the block."""
    server = os.open("/dev/fuse", os.O_RDWR)
    prefix = () if os.geteuid() == 0 else ("sudo", "-n")
    options = "fd=0,rootmode=40000,user_id=0,group_id=0,allow_other"
    argv = [*prefix, "mount", "--internal-only", "-t", "fuse", "-o", options, "away", str(folder)]
    try:
        subprocess.run(argv, stdin=server, timeout=COMMAND_TIMEOUT, check=True)
    except BaseException:
        os.close(server)
        raise
    try:
        yield
    finally:
        os.close(server)
        run_as_root("umount", "--lazy", folder)
