"""The harness keeps its own promises: what it starts is real, and nothing of it is left afterwards."""

from __future__ import annotations

import errno
import fcntl
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import libvirt
import pytest

from support.guests import Disk, define_guest, inventory, remove_guest, stop_guest
from support.libvirtd import PrivateLibvirtd
from support.running import run, wait_until
from support.server import Server
from support.storage import (
    KiB,
    MiB,
    allocated,
    image_info,
    listing,
    make_pool,
    make_qcow2,
    make_raw,
    mounted,
    owned_bytes,
    pool_path,
    qemu_img_compare,
    sha256,
    some_data,
)

FICLONE = 0x40049409  # linux/fs.h
MAC = "52:54:00:12:34:56"
PIECES = {0: some_data(64 * KiB, seed=1), 5 * MiB: some_data(KiB, seed=2)}


def test_libvirt_is_the_real_module() -> None:
    assert Path(libvirt.__file__ or "").parent != Path(__file__).parent
    assert not (Path(__file__).parent / "__init__.py").exists()
    assert "support" in sys.modules


def test_the_daemon_is_unprivileged_and_has_the_qemu_driver(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect
) -> None:
    assert conn.getType() == "QEMU"
    assert libvirtd.uid != 0
    for pid in libvirtd.processes():
        assert Path(f"/proc/{pid}").stat().st_uid == libvirtd.uid


def test_it_sees_nothing_of_the_host(libvirtd: PrivateLibvirtd, conn: libvirt.virConnect) -> None:
    assert inventory(conn) == set()
    assert str(libvirtd.folder) in conn.getURI()


def test_a_guest_with_two_disks_starts_and_stops(
    pool: libvirt.virStoragePool, guest: Callable[..., libvirt.virDomain]
) -> None:
    disks = [make_raw(pool, "one.img", 8 * MiB, PIECES), make_qcow2(pool, "two.qcow2", 8 * MiB, PIECES)]
    domain = guest("web", disks, macs=[MAC])
    domain.create()
    assert domain.isActive()
    stop_guest(domain)
    assert not domain.isActive()


def test_a_uefi_guest_gets_its_nvram(folder: Path, guest: Callable[..., libvirt.virDomain]) -> None:
    nvram = folder / "uefi_VARS.fd"
    domain = guest("uefi", nvram=nvram)
    domain.create()
    assert nvram.stat().st_size > 0
    remove_guest(domain)
    assert not nvram.exists()


def test_a_disk_may_be_a_pools_volume_or_an_empty_drive(
    pool: libvirt.virStoragePool, guest: Callable[..., libvirt.virDomain]
) -> None:
    make_raw(pool, "data.img", MiB)
    drive = Disk(None, target="hdc", device="cdrom", readonly=True)
    guest("web", [Disk((pool.name(), "data.img")), drive]).create()


def test_guests_survive_the_daemons_death(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, guest: Callable[..., libvirt.virDomain]
) -> None:
    guest("off")
    guest("on").create()
    libvirtd.kill()
    with pytest.raises(libvirt.libvirtError):
        conn.listAllDomains()
    libvirtd.start()
    again = libvirtd.open()
    assert {domain.name(): domain.isActive() for domain in again.listAllDomains()} == {"off": 0, "on": 1}
    again.close()


def test_two_daemons_know_nothing_of_each_other(guest: Callable[..., libvirt.virDomain]) -> None:
    guest("mine")
    with PrivateLibvirtd() as other:
        assert inventory(other.open()) == set()


def test_nothing_of_a_daemon_is_left() -> None:
    with PrivateLibvirtd() as daemon:
        connection = daemon.open()
        pool = make_pool(connection, "default", daemon.folder / "pool")
        disk = make_raw(pool, "disk.img", MiB)
        define_guest(connection, "web", [disk]).create()
        assert _commands(daemon) == {"libvirtd", "qemu-system-x86"}
        daemon.kill()
    assert daemon.processes() == []
    assert not daemon.folder.exists()


def test_a_qemu_img_that_outlives_its_daemon_is_found_and_ended() -> None:
    with PrivateLibvirtd() as daemon, ThreadPoolExecutor() as threads:
        pool = make_pool(daemon.open(), "default", daemon.folder / "pool")
        source = make_raw(pool, "disk.img", 256 * MiB, {0: b"x" * 256 * MiB})
        target = "<target><format type='qcow2'/></target>"
        xml = f"<volume><name>copy</name><capacity>{256 * MiB}</capacity>{target}</volume>"
        copying = threads.submit(pool.createXMLFrom, xml, source)
        wait_until(lambda: "qemu-img" in _commands(daemon), 10, "qemu-img copies")
        daemon.kill()
        assert isinstance(copying.exception(), libvirt.libvirtError)
        assert _commands(daemon) == {"qemu-img"}
    assert daemon.processes() == []


def _commands(daemon: PrivateLibvirtd) -> set[str]:
    """The names of a daemon's processes, without those that just ended."""
    names = set()
    for pid in daemon.processes():
        with suppress(OSError):
            names.add(Path(f"/proc/{pid}/comm").read_text().strip())
    return names


def test_a_raw_volume_is_sparse_and_holds_what_was_written(pool: libvirt.virStoragePool) -> None:
    path = Path(make_raw(pool, "disk.img", 64 * MiB, PIECES).path())
    content = path.read_bytes()
    assert path.stat().st_size == 64 * MiB
    assert allocated(path) < MiB
    for offset, data in PIECES.items():
        assert content[offset : offset + len(data)] == data


def test_a_qcow2_volume_equals_the_raw_one(pool: libvirt.virStoragePool) -> None:
    raw = Path(make_raw(pool, "disk.img", 8 * MiB, PIECES).path())
    old = Path(make_qcow2(pool, "old.qcow2", 8 * MiB, PIECES, compat="0.10").path())
    overlay = Path(make_qcow2(pool, "overlay.qcow2", 8 * MiB, {MiB: b"x" * 512}, backing=old).path())
    assert qemu_img_compare(raw, old)
    assert not qemu_img_compare(raw, overlay)
    assert image_info(old)["format-specific"]["data"]["compat"] == "0.10"
    assert image_info(overlay)["format-specific"]["data"]["compat"] == "1.1"
    assert image_info(overlay)["full-backing-filename"] == str(old)


@pytest.mark.parametrize("fs", ["xfs", "btrfs"])
def test_reflink_is_real(fs: str, conn: libvirt.virConnect, file_system: Callable[..., Path]) -> None:
    pool = make_pool(conn, fs, file_system(fs) / "pool")
    source = Path(make_raw(pool, "disk.img", 8 * MiB, PIECES).path())
    clone = pool_path(pool) / "clone.img"
    with source.open("rb") as original, clone.open("xb") as copy:
        fcntl.ioctl(copy, FICLONE, original.fileno())
    assert sha256(clone) == sha256(source)
    assert listing(pool_path(pool)) == ["clone.img", "disk.img"]
    assert allocated(clone) > owned_bytes(clone) == 0
    with clone.open("r+b") as copy:
        copy.write(some_data(64 * KiB))
    assert owned_bytes(clone) == 64 * KiB


def test_ext4_has_no_reflink(file_system: Callable[..., Path]) -> None:
    mount_point = file_system("ext4")
    (mount_point / "source").write_bytes(b"data")
    with (
        (mount_point / "source").open("rb") as original,
        (mount_point / "clone").open("xb") as copy,
        pytest.raises(OSError) as caught,
    ):
        fcntl.ioctl(copy, FICLONE, original.fileno())
    assert caught.value.errno == errno.EOPNOTSUPP


def test_space_runs_out_on_the_small_pool(small_pool: libvirt.virStoragePool) -> None:
    with pytest.raises(OSError) as caught:
        make_raw(small_pool, "disk.img", 64 * MiB, {0: some_data(40 * MiB)})
    assert caught.value.errno == errno.ENOSPC


def test_a_file_system_is_unmounted_and_its_loop_device_freed_when_the_test_fails() -> None:
    mount_points = []

    def mount_and_fail() -> None:
        with mounted("ext4") as mount_point:
            assert run("findmnt", "-no", "SOURCE", mount_point).startswith("/dev/loop")
            mount_points.append(mount_point)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mount_and_fail()
    assert not mount_points[0].parent.exists()
    assert str(mount_points[0].parent) not in run("losetup", "--list")


def test_a_server_serves_what_the_daemon_has_and_starts_again(
    libvirtd: PrivateLibvirtd, guest: Callable[..., libvirt.virDomain], tmp_path: Path
) -> None:
    guest("web")
    with Server(libvirtd.uri, tmp_path / "state") as server:
        assert [vm["name"] for vm in server.request("GET", "vms").json] == ["web"]
        assert server.request("GET", "vms", anonymous=True).status == HTTPStatus.UNAUTHORIZED
        assert server.raw(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert server.terminate() == 0
        server.start()
        assert server.kill() == -signal.SIGKILL
        server.start()
        task = server.request("POST", "vms/web/clone").json
        assert server.wait_task(task["id"])["status"] == "finished"
    assert not server.running


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="--nonsense"), Server(None, tmp_path, args=["--nonsense"]):
        pass
