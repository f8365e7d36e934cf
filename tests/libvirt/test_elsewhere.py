"""A server that has other files at libvirt's paths: in a container, or with a libvirt that it reaches by a tunnel."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from support.answers import cloned, refusal
from support.guests import OVMF_VARS, inventory
from support.libvirtd import PrivateLibvirtd
from support.running import run
from support.server import Server
from support.storage import MiB, make_pool, make_qcow2, make_raw, pool_path

Guest = Callable[..., libvirt.virDomain]

OURS, OTHERS = b"libvirt's" * 100, b"another's" * 100
_IN_PLACE_OF = 'mount --bind "$0" "$1" && shift && exec "$@"'


@pytest.fixture
def hidden(conn: libvirt.virConnect, folder: Path) -> libvirt.virStoragePool:
    """A pool in whose place the server has another folder, `others`."""
    return make_pool(conn, f"hidden-{folder.name}", folder / "hidden")


@pytest.fixture
def others(conn: libvirt.virConnect, folder: Path) -> libvirt.virStoragePool:
    return make_pool(conn, f"others-{folder.name}", folder / "others")


@pytest.fixture
def server(
    libvirtd: PrivateLibvirtd, hidden: libvirt.virStoragePool, others: libvirt.virStoragePool, tmp_path: Path
) -> Iterator[Server]:
    folders = (str(pool_path(others)), str(pool_path(hidden)))
    prefix = ("unshare", "--mount", "sh", "-c", _IN_PLACE_OF, *folders)
    with Server(libvirtd.uri, tmp_path / "state", prefix=prefix) as running:
        yield running


def content(pool: libvirt.virStoragePool, task: dict[str, object]) -> bytes:
    """What the clone's guest reads at the start of its disk."""
    path = pool_path(pool) / f"{task['name']}-vda.qcow2"
    raw = path.with_suffix(".raw")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
    return raw.read_bytes()[: len(OURS)]


def test_a_clone_is_of_libvirts_image_and_not_of_one_of_that_name_here(
    server: Server,
    pool: libvirt.virStoragePool,
    hidden: libvirt.virStoragePool,
    others: libvirt.virStoragePool,
    guest: Guest,
) -> None:
    guest("web", [make_qcow2(hidden, "web.qcow2", MiB, {0: OURS})])
    make_qcow2(others, "web.qcow2", MiB, {0: OTHERS})
    task = cloned(server, "vms/web", pool=pool.name())
    assert (task["disks"][0]["method"], content(pool, task)) == ("libvirt", OURS)
    assert cloned(server, "vms/web")["disks"][0]["method"] == "libvirt"  # into the pool that is hidden
    wanted = {"pool": pool.name(), "method": "copy"}
    assert refusal(server.request("POST", "vms/web/clone", wanted)) == (400, "CLNVM0006E")


def test_a_flat_clone_is_of_libvirts_backing_file(
    server: Server,
    pool: libvirt.virStoragePool,
    hidden: libvirt.virStoragePool,
    others: libvirt.virStoragePool,
    guest: Guest,
) -> None:
    base = Path(make_qcow2(hidden, "base.qcow2", MiB, {0: OURS}).path())
    make_qcow2(others, "base.qcow2", MiB, {0: OTHERS})
    guest("web", [make_qcow2(pool, "web.qcow2", MiB, backing=base)])
    task = cloned(server, "vms/web", flatten=True)
    assert (task["disks"][0]["method"], content(pool, task)) == ("libvirt", OURS)


def test_what_is_deleted_are_libvirts_files(
    server: Server,
    conn: libvirt.virConnect,
    hidden: libvirt.virStoragePool,
    others: libvirt.virStoragePool,
    guest: Guest,
) -> None:
    before = inventory(conn)
    disk = make_raw(hidden, "web.img", MiB)
    variables = pool_path(hidden) / "web_VARS.fd"
    guest("web", [disk], nvram=variables)
    shutil.copy(OVMF_VARS, variables)
    shutil.chown(variables, variables.parent.stat().st_uid)
    make_raw(others, "web.img", MiB)
    (pool_path(others) / variables.name).touch()
    assert server.request("DELETE", "vms/web", {"storage": True}).status == 204
    files = {f"file {pool_path(others) / name}" for name in ("web.img", variables.name)}
    assert inventory(conn) == before | files | {f"volume {others.name()}/web.img"}


@pytest.mark.parametrize(("here", "has_guest"), [("top.qcow2", True), ("top.qcow2", False), ("", False)])
def test_what_libvirts_images_stand_on_is_not_deleted(  # noqa: PLR0917 - a pool each, and two cases
    server: Server,
    pool: libvirt.virStoragePool,
    hidden: libvirt.virStoragePool,
    others: libvirt.virStoragePool,
    guest: Guest,
    here: str,
    has_guest: bool,
) -> None:
    """What the server has in its place, if anything, stands on nothing."""
    base = Path(make_qcow2(pool, "base.qcow2", MiB, {0: OURS}).path())
    guest("base", [base])
    top = make_qcow2(hidden, "top.qcow2", MiB, backing=base)
    if here:
        make_qcow2(others, here, MiB)
    if has_guest:
        guest("top", [top])
    assert server.request("DELETE", "vms/base", {"storage": True}).status == 204
    assert base.exists()


def test_a_subfolder_of_a_pool_that_is_here_as_well_does_not_tell_whose_its_images_are(
    server: Server,
    pool: libvirt.virStoragePool,
    hidden: libvirt.virStoragePool,
    others: libvirt.virStoragePool,
    guest: Guest,
) -> None:
    """Whichever libvirt names first: it has many here."""
    base = Path(make_qcow2(pool, "base.qcow2", MiB).path())
    guest("base", [base])
    make_qcow2(hidden, "top.qcow2", MiB, backing=base)
    make_qcow2(others, "top.qcow2", MiB)
    for number in range(20):
        for folder in map(pool_path, (hidden, others)):
            (folder / f"images-{number}").mkdir()
    hidden.refresh()
    assert server.request("DELETE", "vms/base", {"storage": True}).status == 204
    assert base.exists()


def test_what_a_linked_clone_of_libvirts_stands_on_is_not_started(
    server: Server,
    pool: libvirt.virStoragePool,
    hidden: libvirt.virStoragePool,
    others: libvirt.virStoragePool,
    guest: Guest,
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", MiB)])
    cloned(server, "vms/web", pool=hidden.name(), name="copy", method="linked")
    make_qcow2(others, "copy-vda.qcow2", MiB)
    assert refusal(server.request("POST", "vms/web/start")) == (409, "CLNVM0007E")
