"""Guests whose start waits for another program, such as the switch that is to connect to a vhost-user socket."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from cloner import errors
from cloner.callers import ANYBODY
from cloner.hypervisor import starting
from cloner.hypervisor.connection import SHORT_CALLS, STARTS
from cloner.model.vms import VMsModel
from support.guests import inventory
from support.libvirtd import PrivateLibvirtd
from support.running import wait_until
from support.server import Server
from support.services import server_parts
from support.storage import MiB, make_qcow2

PATIENCE = 20  # seconds
SHARED_MEMORY = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
WAITING = "<interface type='vhostuser'><source type='unix' path='{}' mode='server'/><model type='virtio'/></interface>"


@pytest.fixture
def waiting(guest: Callable[..., libvirt.virDomain], folder: Path) -> Callable[..., libvirt.virDomain]:
    """Define a guest whose start waits for ever."""
    return lambda name, *disks: guest(name, disks, devices=WAITING.format(folder / f"{name}.sock"), extra=SHARED_MEMORY)


def stop_all(conn: libvirt.virConnect) -> list[libvirt.virDomain]:
    """Pulls the plug of all guests that run, or are being started; those are given."""
    found = conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    for domain in found:
        with suppress(libvirt.libvirtError):  # it has ended by itself
            domain.destroy()
    return found


def active(conn: libvirt.virConnect) -> list[str]:
    return [domain.name() for domain in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)]


def test_those_that_wait_keep_nobody_else_waiting(
    server: Server,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Callable[..., libvirt.virDomain],
    waiting: Callable[..., libvirt.virDomain],
) -> None:
    guest("ok", [make_qcow2(pool, "ok.qcow2", MiB)])
    names = [waiting(f"w{number}").name() for number in range(SHORT_CALLS)]
    with ThreadPoolExecutor(len(names)) as threads:
        starts = [threads.submit(server.request, "POST", f"vms/{name}/start", timeout=60) for name in names]
        wait_until(lambda: len(active(conn)) >= STARTS, PATIENCE, "some are being started")
        asked = server.request("POST", "vms/ok/clone")
        wait_until(lambda: not stop_all(conn) and all(map(Future.done, starts)), PATIENCE, "none is started any more")
        answers = [start.result() for start in starts]
    assert asked.status == 202, asked.text
    assert server.wait_task(asked.json["id"])["status"] == "finished"
    assert {answer.status for answer in answers} == {502}, [answer.text for answer in answers]


def test_a_clone_that_waits_to_be_started_is_cancelled_at_once(
    server: Server,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    waiting: Callable[..., libvirt.virDomain],
) -> None:
    waiting("web", make_qcow2(pool, "web.qcow2", MiB))
    before = inventory(conn)
    task = server.request("POST", "vms/web/clone", {"start": True}).json["id"]
    wait_until(lambda: active(conn), PATIENCE, "the clone is being started")
    assert server.request("DELETE", f"tasks/{task}").status == 202
    assert server.wait_task(task, PATIENCE)["status"] == "killed"
    assert inventory(conn) == before


def test_clones_that_wait_to_be_started_keep_no_other_clone_waiting(
    server: Server,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Callable[..., libvirt.virDomain],
    waiting: Callable[..., libvirt.virDomain],
) -> None:
    """There are as many as may be started at once and one more, which are all that copy files at once and one more."""
    waiting("web", make_qcow2(pool, "web.qcow2", MiB))
    guest("ok", [make_qcow2(pool, "ok.qcow2", MiB)])
    before = inventory(conn)
    batch = server.request("POST", "vms/web/clone", {"start": True, "count": STARTS + 1, "method": "copy"}).json
    wait_until(lambda: len(active(conn)) == STARTS, PATIENCE, "clones are being started")
    asked = server.request("POST", "vms/ok/clone", {"method": "copy"}).json
    assert server.wait_task(asked["id"], PATIENCE)["status"] == "finished"
    assert server.request("DELETE", f"batches/{batch['batch']}").status == 202
    assert {server.wait_task(task["id"], PATIENCE)["status"] for task in batch["tasks"]} == {"killed"}
    assert server.request("DELETE", f"vms/{asked['name']}").status == 204
    assert inventory(conn) == before


def test_a_start_that_takes_too_long_is_broken_off(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    waiting: Callable[..., libvirt.virDomain],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starting, "MOST_S", 1.0)
    waiting("web")
    with server_parts(libvirtd.uri, tmp_path) as parts, pytest.raises(errors.LibvirtFailed, match="vhost-user"):
        VMsModel(parts).start("web", ANYBODY)
    assert active(conn) == []


def test_a_guest_whose_memory_is_restored_may_take_longer(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    guest: Callable[..., libvirt.virDomain],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    web = guest("web", [])
    web.create()
    web.managedSave()
    monkeypatch.setattr(starting, "MOST_S", 0.0)
    with server_parts(libvirtd.uri, tmp_path) as parts:
        VMsModel(parts).start("web", ANYBODY)
    assert (active(conn), web.hasManagedSaveImage()) == (["web"], 0)
    web.destroy()
