"""What becomes of a clone that is interrupted at a moment of its own, and of what somebody else did meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest

from support.guests import OVMF_VARS, inventory
from support.libvirtd import PrivateLibvirtd, as_unprivileged
from support.mortal import MortalServer, journal_is_clean
from support.running import run, wait_until
from support.server import Server
from support.storage import MiB, make_qcow2, make_raw, pool_path, qemu_img_compare, sha256, some_data

Guest = Callable[..., libvirt.virDomain]


@pytest.fixture
def nvram(libvirtd: PrivateLibvirtd, folder: Path) -> Path:
    """A guest's UEFI variables, in a folder where libvirt may make more."""
    path = folder / "nvram" / "web_VARS.fd"
    path.parent.mkdir()
    shutil.copy(OVMF_VARS, path)
    for each in (path.parent, path):
        shutil.chown(each, libvirtd.uid, libvirtd.gid)
    return path


def inherited(
    libvirtd: PrivateLibvirtd,
    state_dir: Path,
    point: str,
    body: dict[str, Any],
    path: str = "vms/web",
    *,
    meanwhile: Callable[[], None] = lambda: None,
    ahead_s: int = 0,
) -> dict[str, Any]:
    """A clone whose server dies at a point, such as `after define`, as the next server ends it.

    Its clock is `ahead_s` ahead of that of the files.
    """
    with MortalServer(libvirtd.uri, state_dir.with_name("trial") / "state", 0) as trial:
        deadly = trial.points_of(path, body | ({"name": "trial"} if "name" in body else {})).index(point) + 1
    with MortalServer(libvirtd.uri, state_dir, deadly, ahead_s=ahead_s) as mortal:
        mortal.clone_and_die(path, body)
    meanwhile()
    with Server(libvirtd.uri, state_dir) as heir:
        (task,) = heir.request("GET", "tasks").json
        ended: dict[str, Any] = heir.wait_task(task["id"])
    assert journal_is_clean(state_dir)
    return ended


@pytest.mark.parametrize(("method", "point"), [("copy", "before create"), ("libvirt", "before create_from")])
@pytest.mark.parametrize("is_used", [True, False])
def test_a_volume_of_which_it_is_unclear_whose_it_is_stays_and_is_named(  # noqa: PLR0917 - pytest's fixtures
    libvirtd: PrivateLibvirtd,
    pool: libvirt.virStoragePool,
    guest: Guest,
    tmp_path: Path,
    method: str,
    point: str,
    is_used: bool,
) -> None:
    """The server dies when it is about to make a volume, and somebody else makes one of that name before it is back."""
    guest("web", [make_raw(pool, "web.img", 16 * MiB, {0: some_data(MiB)})])
    theirs = pool_path(pool) / "copy-vda.img"
    before = []

    def make_theirs() -> None:
        volume = make_raw(pool, theirs.name, 16 * MiB, {} if is_used else {0: some_data(2 * MiB, 7)})
        if is_used:
            guest("mine", [volume]).create()
        before.append(theirs.stat().st_ino)

    task = inherited(libvirtd, tmp_path / "state", point, {"method": method, "name": "copy"}, meanwhile=make_theirs)
    assert task["status"] == "failed"
    assert task["message"].startswith("CLNTASK0002E")
    assert "The server stopped" in task["message"]
    assert "Everything" not in task["message"]
    assert "copy-vda.img (" in task["message"]
    assert [theirs.stat().st_ino] == before


def test_uefi_variables_that_somebody_made_meanwhile_stay_and_are_named(
    libvirtd: PrivateLibvirtd, guest: Guest, nvram: Path, tmp_path: Path
) -> None:
    guest("web", nvram=nvram)
    theirs = nvram.with_name("copy_VARS.fd")
    meanwhile = lambda: guest("copy", nvram=theirs).create()  # noqa: E731 - in a word
    task = inherited(libvirtd, tmp_path / "state", "before copy_small", {"name": "copy"}, meanwhile=meanwhile)
    assert task["message"].startswith("CLNTASK0002E")
    assert "copy_VARS.fd (" in task["message"]
    assert theirs.exists()


@pytest.mark.parametrize(("method", "point"), [("libvirt", "after create_from"), ("copy", "after copy_small")])
def test_what_was_made_goes_though_the_clock_of_its_files_is_behind(  # noqa: PLR0917 - pytest's fixtures
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Guest,
    nvram: Path,
    tmp_path: Path,
    method: str,
    point: str,
) -> None:
    """As that of another host, or of a file server, may be; or the server's was set back since."""
    guest("web", [make_raw(pool, "web.img", 16 * MiB, {0: some_data(MiB)})], nvram=nvram)
    before = inventory(conn, nvram.parent)
    ended = inherited(libvirtd, tmp_path / "state", point, {"method": method}, ahead_s=3600)
    assert ended["message"].startswith("CLNTASK0004E")
    assert not [entry for entry in inventory(conn, nvram.parent) - before if ended["name"] in entry]


def test_uefi_variables_of_which_it_is_unclear_whose_they_are_are_named(
    libvirtd: PrivateLibvirtd, guest: Guest, nvram: Path, tmp_path: Path
) -> None:
    """They are the clone's, and the clock says that they are older."""
    guest("web", nvram=nvram)
    ended = inherited(libvirtd, tmp_path / "state", "after copy_small", {"name": "copy"}, ahead_s=3600)
    assert ended["message"].startswith("CLNTASK0002E")
    assert "copy_VARS.fd (" in ended["message"]
    assert nvram.with_name("copy_VARS.fd").exists()


@pytest.mark.parametrize("has_variables", [True, False])
def test_what_a_guest_has_that_took_the_clones_name_meanwhile_stays(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    guest: Guest,
    nvram: Path,
    tmp_path: Path,
    has_variables: bool,
) -> None:
    """The server dies when the clone is there; somebody undefines that, and makes a guest in its place."""
    if not has_variables:
        nvram.unlink()  # so that those of a clone would be libvirt's, made when it starts
    log = "<serial type='file'><source path='{}'/></serial>"
    guest("web", nvram=nvram, devices=log.format(nvram.with_name("web.log")))
    theirs = [nvram.with_name(name) for name in ("copy_VARS.fd", "copy.log")]

    def make_theirs() -> None:
        conn.lookupByName("copy").undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        guest("copy", nvram=theirs[0], devices=log.format(theirs[1])).create()

    inherited(libvirtd, tmp_path / "state", "after define", {"name": "copy"}, meanwhile=make_theirs)
    assert [path.exists() for path in theirs] == [True, True]


@pytest.mark.parametrize(
    ("body", "point", "clusters", "capacity"),
    [
        *(
            (body, point, "4k", "1T")
            for body in ({}, {"name": "copy"})
            for point in ("after create", "after copy_small")
        ),
        ({"name": "copy"}, "after create", "2M", "64M"),
    ],
)
def test_what_was_made_when_the_server_died_goes_whatever_it_is_called(  # noqa: PLR0917 - pytest's fixtures
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Guest,
    nvram: Path,
    tmp_path: Path,
    body: dict[str, Any],
    point: str,
    clusters: str,
    capacity: str,
) -> None:
    """Also an image that takes megabytes before there is anything in it: for its tables, or for its first clusters."""
    path = pool_path(pool) / "web.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={clusters}", path, capacity)
    shutil.chown(path, libvirtd.uid, libvirtd.gid)
    pool.refresh()
    guest("web", [path], nvram=nvram)
    trial = {"domain trial", f"volume {pool.name()}/trial-vda.qcow2", f"file {pool_path(pool)}/trial-vda.qcow2"}
    before = inventory(conn, nvram.parent)
    ended = inherited(libvirtd, tmp_path / "state", point, {"method": "copy", **body})
    assert ended["message"].startswith("CLNTASK0004E")
    pool.refresh()
    left = {entry for entry in inventory(conn, nvram.parent) - before if ended["name"] in entry}
    assert left == set() or trial >= left


def test_a_clone_that_was_to_be_started_when_its_server_died_says_so(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, guest: Guest, tmp_path: Path
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", MiB)])
    task = inherited(libvirtd, tmp_path / "state", "after define", {"start": True})
    assert task["status"] == "finished"
    assert task["warning"].startswith("CLNTASK0008E")


def test_the_clone_of_a_volume_that_lacks_its_last_mark_alone_is_finished(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, tmp_path: Path
) -> None:
    make_raw(pool, "data.img", MiB, {0: some_data(MiB)})
    volume = f"storagepools/{pool.name()}/storagevolumes/data.img"
    with MortalServer(libvirtd.uri, tmp_path / "trial" / "state", 0) as server:
        points = server.points_of(volume, {})
    last = len(points) - points[::-1].index("before a write")  # with which the task ends
    with MortalServer(libvirtd.uri, tmp_path / "state", last) as mortal:
        mortal.clone_and_die(volume, {})
    with Server(libvirtd.uri, tmp_path / "state") as heir:
        (task,) = heir.request("GET", "tasks").json
        task = heir.wait_task(task["id"])
    assert (task["status"], task["progress"]) == ("finished", 100)
    assert qemu_img_compare(pool_path(pool) / "data.img", pool_path(pool) / task["name"], strict=True)
    assert journal_is_clean(tmp_path / "state")


@pytest.mark.parametrize("is_transient", [False, True])
def test_a_clone_that_somebody_has_started_is_stopped_before_it_is_undone(  # noqa: PLR0917 - pytest's fixtures
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Guest,
    nvram: Path,
    tmp_path: Path,
    is_transient: bool,
) -> None:
    nvram.unlink()  # so that libvirt makes the clone's
    console = f"<serial type='file'><source path='{nvram.parent}/web.log'/></serial>"
    guest("web", [make_raw(pool, "web.img", MiB)], nvram=nvram, devices=console)
    before = inventory(conn, nvram.parent)
    with MortalServer(libvirtd.uri, tmp_path / "trial" / "state", 0) as trial:
        at = trial.points_of("vms/web", {}).index("after define") + 1
        (task,) = trial.request("GET", "tasks").json
        assert trial.request("DELETE", f"vms/{task['name']}").status == 204
    with MortalServer(libvirtd.uri, tmp_path / "state", at, pauses=True) as server:
        task = server.request("POST", "vms/web/clone").json
        wait_until(server.pause.exists, 30, "it waits", lambda: server.log)
        domain = conn.lookupByName(task["name"])
        domain.create()
        if is_transient:  # as it is when a server dies before it has stopped what it has undefined
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
        assert (nvram.parent / f"{task['name']}.log").exists()
        server.request("DELETE", f"tasks/{task['id']}")
        server.pause.unlink()
        assert server.wait_task(task["id"])["status"] == "killed"
    assert inventory(conn, nvram.parent) == before


def test_a_volume_that_cannot_be_seen_for_a_while_goes_when_it_can(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, folder: Path
) -> None:
    """Somebody closes the pool's folder to a server that is not root, and opens it again."""
    guest("web", [make_raw(pool, "web.img", MiB, {0: some_data(MiB)})])
    with MortalServer(libvirtd.uri, folder / "trial/state", 0, prefix=as_unprivileged()) as trial:
        at = trial.points_of("vms/web", {}).index("after create_from") + 2  # it is known by then
    before = inventory(conn)
    with MortalServer(libvirtd.uri, folder / "state", at, prefix=as_unprivileged(), pauses=True) as server:
        task = server.request("POST", "vms/web/clone").json
        wait_until(server.pause.exists, 30, "it waits", lambda: server.log)
        server.request("DELETE", f"tasks/{task['id']}")
        pool_path(pool).chmod(0)
        server.pause.unlink()

        def waits() -> bool:
            return "CLNTASK0012E" in server.request("GET", f"tasks/{task['id']}").text

        wait_until(waits, 30, "the server says that it waits", lambda: server.log)
        pool_path(pool).chmod(0o755)
        assert server.wait_task(task["id"])["status"] == "killed"
    assert inventory(conn) == before


@pytest.mark.parametrize(("is_gone", "cause"), [(False, "is not active"), (True, "pool not found")])
@pytest.mark.parametrize("method", ["copy", "libvirt"])
def test_a_clone_whose_pool_is_stopped_or_gone_before_anything_is_made_says_so(  # noqa: PLR0917 - pytest's fixtures
    libvirtd: PrivateLibvirtd,
    pool: libvirt.virStoragePool,
    guest: Guest,
    folder: Path,
    is_gone: bool,
    cause: str,
    method: str,
) -> None:
    """It spoke of something that is in the way, or of what it had left."""
    guest("web", [make_raw(pool, "web.img", MiB, {0: some_data(MiB)})])
    with MortalServer(libvirtd.uri, folder / "trial/state", 0) as trial:
        making = "before create" if method == "copy" else "before create_from"
        at = trial.points_of("vms/web", {"method": method}).index(making) + 1
    with MortalServer(libvirtd.uri, folder / "state", at, pauses=True) as server:
        task = server.request("POST", "vms/web/clone", {"method": method}).json
        wait_until(server.pause.exists, 30, "it waits", lambda: server.log)
        pool.destroy()
        if is_gone:
            pool.undefine()
        server.pause.unlink()
        message = server.wait_task(task["id"])["message"]
    assert cause in message
    assert message.endswith("Everything made for this clone was removed")
    assert "already" not in message


def test_an_image_that_took_the_place_of_the_clones_is_not_written_to(
    libvirtd: PrivateLibvirtd, pool: libvirt.virStoragePool, guest: Guest, tmp_path: Path
) -> None:
    base = Path(make_qcow2(pool, "base.qcow2", 64 * MiB, {0: some_data(8 * MiB)}).path())
    guest("web", [make_qcow2(pool, "web.qcow2", 64 * MiB, backing=base)])
    victim = Path(make_qcow2(pool, "victim.qcow2", 64 * MiB, {0: some_data(MiB, 9)}).path())
    before = sha256(victim)
    body = {"method": "copy", "flatten": True, "name": "copy"}
    with MortalServer(libvirtd.uri, tmp_path / "trial" / "state", 0) as trial:
        at = trial.points_of("vms/web", body | {"name": "trial"}).index("after create") + 2  # it is known by then
    with MortalServer(libvirtd.uri, tmp_path / "state", at, pauses=True) as server:
        task = server.request("POST", "vms/web/clone", body).json
        wait_until(server.pause.exists, 30, "it waits", lambda: server.log)
        target = pool_path(pool) / "copy-vda.qcow2"
        target.rename(target.with_name("moved"))
        target.symlink_to(victim)
        server.pause.unlink()
        assert server.wait_task(task["id"])["status"] == "failed"
    assert sha256(victim) == before
