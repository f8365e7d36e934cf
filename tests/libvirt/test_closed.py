"""A server to which libvirt's files are closed, or half so, since it runs as somebody else: libvirt's word counts."""

from __future__ import annotations

import pwd
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from support.answers import cloned, refusal
from support.guests import OVMF_VARS, inventory
from support.libvirtd import PrivateLibvirtd
from support.mortal import MortalServer
from support.server import Server
from support.storage import MiB, listing, make_qcow2, pool_path

Guest = Callable[..., libvirt.virDomain]

SOMEBODY = pwd.getpwnam("daemon")  # neither root, nor who libvirtd runs as
AS_SOMEBODY = ["setpriv", f"--reuid={SOMEBODY.pw_uid}", f"--regid={SOMEBODY.pw_gid}", "--clear-groups"]


@pytest.fixture
def state(libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, folder: Path) -> Iterator[Path]:
    """The state directory of somebody's server, who may talk to libvirtd."""
    del conn  # it goes after us
    state = folder / "servers" / "state"
    state.mkdir(parents=True)
    for path in (state, state.parent):
        shutil.chown(path, SOMEBODY.pw_uid, SOMEBODY.pw_gid)
    way = [libvirtd.folder, folder, *libvirtd.socket.parents[:2], libvirtd.socket]
    before = {path: path.stat().st_mode & 0o7777 for path in way}
    for path in way:
        path.chmod(0o777)
    yield state
    for path in way:
        path.chmod(before[path])


@pytest.fixture
def server(libvirtd: PrivateLibvirtd, state: Path) -> Iterator[Server]:
    with Server(libvirtd.uri, state, prefix=AS_SOMEBODY) as running:
        yield running


def close(folder: Path, mode: int = 0o700) -> None:
    """As libvirt has it: its images are its own alone."""
    for path in folder.iterdir():
        path.chmod(0o600)
    folder.chmod(mode)


@pytest.mark.parametrize("mode", [0o711, 0o755])
def test_what_a_volume_stands_on_that_the_server_cannot_read_stays(
    server: Server, pool: libvirt.virStoragePool, guest: Guest, mode: int
) -> None:
    """Its file is seen, and cannot be read; of the folder's names not even that."""
    base = Path(make_qcow2(pool, "base.qcow2", MiB).path())
    make_qcow2(pool, "top.qcow2", MiB, backing=base)
    guest("web", [base])
    close(base.parent, mode)
    assert server.request("DELETE", "vms/web", {"storage": True}).status == 204
    assert listing(base.parent) == ["base.qcow2", "top.qcow2"]


def test_a_source_is_free_once_its_linked_clones_are_deleted(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    """By whomever."""
    guest("web", [make_qcow2(pool, "web.qcow2", MiB)])
    close(pool_path(pool))
    before = inventory(conn)
    name, other = (cloned(server, "vms/web", method="linked")["name"] for _ in range(2))
    conn.lookupByName(other).undefine()
    pool.storageVolLookupByName(f"{other}-vda.qcow2").delete()
    for answer in (server.request("POST", "vms/web/start"), server.request("DELETE", "vms/web", {"storage": True})):
        assert refusal(answer) == (409, "CLNVM0007E")
    assert server.request("DELETE", f"vms/{name}").status == 204
    assert inventory(conn) == before
    assert server.request("DELETE", "vms/web", {"storage": True}).status == 204
    assert listing(pool_path(pool)) == []


def test_a_clone_whose_disk_somebody_has_deleted_leaves_nothing_that_is_named(
    server: Server, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    guest("web", [make_qcow2(pool, "web.qcow2", MiB)])
    close(pool_path(pool))
    name = cloned(server, "vms/web")["name"]
    pool.storageVolLookupByName(f"{name}-vda.qcow2").delete()
    assert server.request("DELETE", f"vms/{name}").status == 204


def test_uefi_variables_that_the_server_cannot_see_are_a_refusal(
    server: Server,
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Guest,
    folder: Path,
) -> None:
    """As with qemu:///system for a server that is not root: it may not even enter their folder."""
    variables = folder / "nvram" / "web_VARS.fd"
    variables.parent.mkdir()
    shutil.copy(OVMF_VARS, variables)
    for path in (variables, variables.parent):
        shutil.chown(path, libvirtd.uid, libvirtd.gid)
    guest("web", [make_qcow2(pool, "web.qcow2", MiB)], nvram=variables)
    close(variables.parent)
    before = inventory(conn, variables.parent)
    for body in ({"dry_run": True}, {}):
        answer = server.request("POST", "vms/web/clone", body)
        assert refusal(answer) == (400, "CLNVM0003E")
        assert str(variables) in answer.json["reason"]
    assert inventory(conn, variables.parent) == before


def test_what_was_made_in_folders_that_are_closed_is_undone(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Guest,
    folder: Path,
    state: Path,
) -> None:
    """Of what libvirt does not know, or has not made yet, nobody can tell the server; it waited for that for good."""
    log = folder / "logs" / "web.log"
    log.parent.mkdir(0o700)
    guest("web", [make_qcow2(pool, "web.qcow2", MiB)], devices=f"<serial type='file'><source path='{log}'/></serial>")
    close(pool_path(pool))
    before = inventory(conn)
    with MortalServer(libvirtd.uri, state, 0, prefix=AS_SOMEBODY) as server:
        points = server.points_of("vms/web", {})
        for vm in server.request("GET", "vms?name=web-clone-.*").json:
            assert server.request("DELETE", f"vms/{vm['name']}").status == 204
    for call in ("create_from", "define"):
        with MortalServer(libvirtd.uri, state, points.index(f"before {call}") + 1, prefix=AS_SOMEBODY) as server:
            server.clone_and_die("vms/web", {})
    with Server(libvirtd.uri, state, prefix=AS_SOMEBODY) as successor:
        tasks = successor.request("GET", "tasks?status=running|failed").json
        assert len(tasks) == 2
        assert {successor.wait_task(task["id"])["message"][:12] for task in tasks} == {"CLNTASK0004E"}
    assert inventory(conn) == before
