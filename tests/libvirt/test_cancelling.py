"""A copy that is cancelled is gone, whenever that is."""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import libvirt
import pytest

from support.guests import inventory
from support.libvirtd import PrivateLibvirtd
from support.running import wait_until
from support.server import SYNC_TIMEOUT, Server
from support.storage import GiB, MiB, make_qcow2, make_raw, qemu_img_compare, some_data
from support.trials import journalled

log = logging.getLogger(__name__)

SEED = 3
TIMES = 50
PIECE = 64 * MiB


def disk_without_holes(pool: libvirt.virStoragePool, size: int) -> Path:
    """A raw disk full of data, which has reached the platter, lest the first copies wait for that."""
    pieces = dict.fromkeys(range(0, size, PIECE), some_data(PIECE))
    path = Path(make_raw(pool, "web.img", size, pieces).path())
    with path.open("rb") as file:
        os.fsync(file)
    return path


def ask(server: Server) -> str:
    """Asks for a clone; its task."""
    answer = server.request("POST", "vms/web/clone", {"method": "copy"})
    assert answer.status == 202, answer.text
    return answer.json["id"]


def cancel(server: Server, number: str, moment: float) -> dict[str, Any]:
    """Cancels a task some seconds after it began; the task as it ended."""
    time.sleep(moment)
    task = server.request("GET", f"tasks/{number}").json
    if server.request("DELETE", f"tasks/{number}").status == 202:  # else it had ended, and has left the list
        return server.wait_task(number)
    return task | {"status": "finished"}


def remove_whole(server: Server, source: Path, name: str) -> None:
    """Deletes a clone, which must be whole."""
    assert qemu_img_compare(source, source.with_name(f"{name}-vda.img"), strict=True)
    assert server.request("DELETE", f"vms/{name}").status == 204


def seconds_of_a_whole_copy(server: Server, source: Path) -> float:
    start = time.monotonic()
    task = server.wait_task(ask(server), SYNC_TIMEOUT)
    seconds = time.monotonic() - start
    assert server.request("DELETE", f"tasks/{task['id']}").status == 204
    remove_whole(server, source, task["name"])
    return seconds


@pytest.mark.first
def test_a_copy_of_4_gib_that_is_cancelled_at_a_random_moment_is_gone(
    server: Server,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Callable[..., libvirt.virDomain],
    record_property: Callable[[str, object], None],
) -> None:
    source = disk_without_holes(pool, 4 * GiB)
    guest("web", [source])
    before = inventory(conn)
    whole = seconds_of_a_whole_copy(server, source)
    chance = random.Random(SEED)  # noqa: S311 - no secret
    gone_after = []
    for _ in range(TIMES):
        moment = whole * chance.random() ** 4  # over all of a copy's time, the early ones more often: less is written
        number, start = ask(server), time.monotonic()
        task = cancel(server, number, moment)
        if task["status"] == "killed":
            assert inventory(conn) == before
            gone_after.append(time.monotonic() - start - moment)
        else:
            assert task["status"] == "finished", task
            remove_whole(server, source, task["name"])
            whole = moment  # they have become quicker
        server.request("DELETE", f"tasks/{number}")
        assert (inventory(conn), journalled(server.state_dir)) == (before, [])
    measured = {
        "cancelled": len(gone_after),
        "seconds of a whole copy": round(whole, 2),
        "seconds until everything is gone, in the middle": round(median(gone_after), 3),
        "seconds until everything is gone, at most": round(max(gone_after), 3),
    }
    for name, value in measured.items():
        log.info("%s: %s", name, value)
        record_property(name, value)


def children(server: Server) -> list[str]:
    """The processes that a server has started, and that run."""
    return [child for task in Path(f"/proc/{server.pid}/task").glob("*/children") for child in task.read_text().split()]


def command(process: str) -> str:
    """What a process runs; '' of one that has ended, whether anybody has asked how or not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        name, state = re.fullmatch(r"\d+ \((.*)\) (\w) .*", Path(f"/proc/{process}/stat").read_text().strip()).groups()  # type: ignore[union-attr]
        return "" if state in "XZ" else name
    return ""


@pytest.mark.parametrize("is_killed", [False, True], ids=["cancelled", "killed"])
def test_a_copy_by_qemu_img_that_is_cancelled_or_whose_server_is_killed_is_gone_and_its_process_too(
    server: Server,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Callable[..., libvirt.virDomain],
    *,
    is_killed: bool,
) -> None:
    base = disk_without_holes(pool, 128 * MiB)
    guest("web", [Path(make_qcow2(pool, "web.qcow2", 128 * MiB, backing=base).path())])
    before = inventory(conn)
    asked_for = {"method": "copy", "flatten": True, "bandwidth": 1}  # for two minutes
    number = server.request("POST", "vms/web/clone", asked_for).json["id"]
    wait_until(lambda: server.request("GET", f"tasks/{number}").json["progress"] > 0, 20, "it is being copied")
    (process,) = children(server)
    assert command(process) == "qemu-img"
    if is_killed:
        server.kill()
        server.start()
    else:
        server.request("DELETE", f"tasks/{number}")
    assert server.wait_task(number)["status"] == ("failed" if is_killed else "killed")
    assert command(process) == ""
    server.request("DELETE", f"tasks/{number}")
    assert (inventory(conn), journalled(server.state_dir)) == (before, [])


def test_a_task_that_waits_is_cancelled_by_another_server(
    libvirtd: PrivateLibvirtd,
    pool: libvirt.virStoragePool,
    guest: Callable[..., libvirt.virDomain],
    tmp_path: Path,
) -> None:
    guest("web", [disk_without_holes(pool, 256 * MiB)])
    conf = tmp_path / "cloner.conf"
    conf.write_text("[cloner]\ncopies = 1\n", "utf-8")
    with (
        Server(libvirtd.uri, tmp_path / "state", args=["--config", str(conf)]) as one,
        Server(libvirtd.uri, tmp_path / "state") as other,
    ):
        first, second = (
            one.request("POST", "vms/web/clone", {"method": "copy", "bandwidth": 5}).json["id"] for _ in range(2)
        )
        assert other.request("DELETE", f"tasks/{second}").status == 202
        assert other.wait_task(second)["status"] == "killed"
        assert one.request("GET", f"tasks/{first}").json["status"] == "running"
        one.request("DELETE", f"tasks/{first}")
        assert one.wait_task(first)["status"] == "killed"


def test_what_a_cancelled_copy_had_done_is_not_less_when_it_has_ended(
    server: Server, pool: libvirt.virStoragePool, guest: Callable[..., libvirt.virDomain]
) -> None:
    guest("web", [disk_without_holes(pool, 256 * MiB)])
    number = server.request("POST", "vms/web/clone", {"method": "copy", "bandwidth": 100}).json["id"]
    seen = []
    while (task := server.request("GET", f"tasks/{number}").json)["status"] == "running":
        seen.append(task["bytes_done"])
        if task["bytes_done"] > 20 * MiB:
            server.request("DELETE", f"tasks/{number}", {"cancel": True})  # one that has ended stays in the list
    seen.append(task["bytes_done"])
    assert task["status"] == "killed"
    assert seen == sorted(seen)
