"""All or nothing, also when the server or libvirtd is killed at any moment of a clone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest

from support.guests import define_guest, inventory, remove_guest, stop_guest
from support.libvirtd import PrivateLibvirtd
from support.mortal import MortalServer, journal_is_clean
from support.running import wait_until
from support.server import Server
from support.storage import (
    MiB,
    make_pool,
    make_qcow2,
    make_raw,
    mounted,
    qemu_img_compare,
    remove_pool,
    sha256,
    some_data,
)

POINTS = 36
"""The moments at which the clone below can be interrupted."""


TPM = "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"


def tpm_dir(libvirtd_uri: str) -> Path:
    """Where the libvirtd behind a socket keeps the states of TPMs."""
    return Path(libvirtd_uri.partition("socket=")[2]).parents[2] / "c/libvirt/qemu/swtpm"


def told_places(uri: str, state_dir: Path) -> list[str]:
    """Arguments by which a server knows that."""
    conf = state_dir.parent / "cloner.conf"
    conf.write_text(f"[cloner]\ntpm_dir = {tpm_dir(uri)}\n", "utf-8")
    return ["--config", str(conf)]


@dataclass(frozen=True)
class Source:
    """A UEFI guest with a TPM and two disks on a file system that can reflink, and all that was there before.

    `own` are the folders of UEFI variables and of TPM states.
    """

    files: tuple[Path, ...]
    sums: tuple[str, ...]
    before: set[str]
    folder: Path
    own: tuple[Path, Path]


@pytest.fixture(scope="module")
def web(libvirtd: PrivateLibvirtd) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """The guest and its file system, for all tests of this file: where it is mounted, and the guest's files."""
    with mounted("xfs") as mount_point, closing(libvirtd.open()) as conn:
        pool = make_pool(conn, "crash", mount_point / "pool")
        system = make_qcow2(pool, "web.qcow2", 64 * MiB, {0: some_data(MiB)})
        data = make_raw(pool, "data.img", 64 * MiB, {MiB: some_data(MiB, 2)})
        nvram = mount_point / "nvram" / "web_VARS.fd"
        nvram.parent.mkdir()
        shutil.chown(nvram.parent, libvirtd.uid, libvirtd.gid)
        domain = define_guest(conn, "web", [system, data], nvram=nvram, macs=["52:54:00:12:34:56"], devices=TPM)
        domain.create()
        stop_guest(domain)
        yield mount_point, (Path(system.path()), Path(data.path()), nvram)
        with closing(libvirtd.open()) as cleaner:  # libvirtd was killed since
            remove_guest(cleaner.lookupByName("web"))
            remove_pool(cleaner.storagePoolLookupByName("crash"))


@pytest.fixture
def source(libvirtd: PrivateLibvirtd, web: tuple[Path, tuple[Path, ...]], conn: libvirt.virConnect) -> Source:
    folder, files = web
    own = (folder / "nvram", tpm_dir(libvirtd.uri))
    return Source(files, tuple(map(sha256, files)), inventory(conn, *own), folder, own)


def assert_whole_or_nothing(
    conn: libvirt.virConnect, source: Source, task: dict[str, Any], state_dir: Path, codes: tuple[str, ...]
) -> None:
    """Either the task has finished and everything of its clone is there, or nothing more than before is."""
    conn.storagePoolLookupByName("crash").refresh()
    now = inventory(conn, *source.own)
    assert source.before <= now
    assert tuple(map(sha256, source.files)) == source.sums
    assert journal_is_clean(state_dir)
    if task["status"] == "finished":
        name = task["name"]
        disks = [f"{name}-vda.qcow2", f"{name}-vdb.img"]
        made = {f"volume crash/{disk}" for disk in disks} | {f"file {source.folder}/pool/{disk}" for disk in disks}
        made |= {f"file {source.own[0]}/{name}_VARS.fd", f"file {source.own[1]}/{task['uuid']}"}
        assert now - source.before == made | {f"domain {name}"}
        for original, disk in zip(source.files, disks, strict=False):
            assert qemu_img_compare(original, source.folder / "pool" / disk, strict=True)
    else:
        assert task["message"].startswith(codes), task
        assert now == source.before


def crash_and_recover(libvirtd: PrivateLibvirtd, state_dir: Path, deadly: int) -> dict[str, Any]:
    """Clones with a server that dies on the way, starts another, and returns the task as it ended."""
    with MortalServer(libvirtd.uri, state_dir, deadly, args=told_places(libvirtd.uri, state_dir)) as mortal:
        mortal.clone_and_die("vms/web", {})
    with Server(libvirtd.uri, state_dir, args=told_places(libvirtd.uri, state_dir)) as heir:
        (task,) = heir.request("GET", "tasks").json
        ended: dict[str, Any] = heir.wait_task(task["id"], 60)
    return ended


def test_there_are_enough_points(libvirtd: PrivateLibvirtd, source: Source, tmp_path: Path) -> None:
    args = told_places(libvirtd.uri, tmp_path / "state")
    with MortalServer(libvirtd.uri, tmp_path / "state", 0, args=args) as server:
        assert len(server.points_of("vms/web", {})) == POINTS


@pytest.mark.parametrize("deadly", range(1, POINTS + 1))
def test_a_server_killed_at_any_point_leaves_all_or_nothing(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, source: Source, tmp_path: Path, deadly: int
) -> None:
    task = crash_and_recover(libvirtd, tmp_path / "state", deadly)
    assert_whole_or_nothing(conn, source, task, tmp_path / "state", ("CLNTASK0004E",))


@pytest.mark.parametrize("point", range(1, POINTS + 1))
def test_a_libvirtd_killed_at_any_point_leaves_all_or_nothing(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, source: Source, tmp_path: Path, point: int
) -> None:
    """The server waits at the point while libvirtd is killed and started again, and goes on."""
    args = told_places(libvirtd.uri, tmp_path / "state")
    with MortalServer(libvirtd.uri, tmp_path / "state", point, args=args, pauses=True) as server:
        task = server.request("POST", "vms/web/clone").json
        wait_until(server.pause.exists, 30, f"it comes to point {point}", lambda: server.log)
        libvirtd.kill()
        libvirtd.start()
        server.pause.unlink()
        ended = server.wait_task(task["id"], 60)
    with closing(libvirtd.open()) as again:
        assert_whole_or_nothing(again, source, ended, tmp_path / "state", ("CLNTASK0001E",))
