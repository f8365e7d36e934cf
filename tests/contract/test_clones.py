"""From the click to the guest, and away again, over REST."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.answers import cloned, refusal
from support.running import wait_until
from support.server import Server

VOLUMES = "storagepools/{}/storagevolumes"
GIB = 1 << 30

INVENTORY = """
<node>
  <pool type="dir"><name>full</name><target><path>/full</path></target>{volume}</pool>
  <pool type="dir"><name>default</name><target><path>/default</path></target></pool>
  <pool type="dir"><name>spare</name><target><path>/spare</path></target></pool>
  {guests}
</node>
"""
VOLUME = """
<volume type="file">
  <name>{name}</name><key>{path}</key><capacity unit="GiB">{size}</capacity><allocation unit="GiB">{size}</allocation>
  <target><path>{path}</path><format type="raw"/></target>
</volume>
"""
GUEST = """
<domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
  <name>{name}</name><memory>1024</memory><os><type>hvm</type></os>
  <devices><disk type="{type}"><source {source}/><target dev="vda"/></disk></devices>
  <test:runstate>{state}</test:runstate>
</domain>
"""
SHUT_OFF, PAUSED = 5, 3


def volumes(server: Server, pool: str = "default") -> set[str]:
    return {volume["name"] for volume in server.request("GET", VOLUMES.format(pool)).json}


def guests(server: Server) -> set[str]:
    return {guest["name"] for guest in server.request("GET", "vms").json}


def targets(task: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """(pool, volume) of each disk that was cloned."""
    return {
        disk["disk"]: (disk["target"]["pool"], disk["target"]["name"])
        for disk in task["disks"]
        if disk["action"] == "clone"
    }


# --- Guests ----------------------------------------------------------------------------------------------------------


def test_a_clone_is_accepted_made_and_there(server: Server) -> None:
    accepted = server.request("POST", "vms/web/clone")
    assert accepted.status == 202
    assert accepted.headers["Location"] == f"/plugins/kimchi/tasks/{accepted.json['id']}"
    task = server.wait_task(accepted.json["id"])
    assert (task["status"], task["message"]) == ("finished", "OK")
    clone, source = server.request("GET", f"vms/{task['name']}").json, server.request("GET", "vms/web").json
    own = {"name": task["name"], "uuid": task["uuid"], "title": ""}
    assert clone["uuid"] != source["uuid"]
    assert clone["disks"][0]["place"] != source["disks"][0]["place"]
    assert clone == source | own | {"state": "shutoff", "disks": clone["disks"]}


def test_a_clones_disk_is_named_after_it_and_used_by_it_alone(server: Server) -> None:
    task = cloned(server, "vms/web")
    disk = f"{task['name']}-vda.qcow2"
    assert targets(task) == {"vda": ("default", disk)}
    copy = server.request("GET", f"storagepools/default/storagevolumes/{disk}").json
    source = server.request("GET", "storagepools/default/storagevolumes/web.qcow2").json
    assert copy["used_by"] == [task["name"]]
    assert source["used_by"] == ["web"]
    assert (copy["format"], copy["capacity"]) == (source["format"], source["capacity"])


def test_read_only_media_are_shared_and_the_task_says_so(server: Server) -> None:
    task = cloned(server, "vms/web")
    (shared,) = [disk for disk in task["disks"] if disk["action"] != "clone"]
    assert (shared["disk"], shared["action"], shared["reason"]) == ("sda", "share", "read-only")
    iso = server.request("GET", "storagepools/default/storagevolumes/debian-12.iso").json
    assert {"web", task["name"]} <= set(iso["used_by"])


def test_a_guest_with_two_disks_has_each_copied_where_it_lies(server: Server) -> None:
    task = cloned(server, "vms/db")
    name = task["name"]
    assert targets(task) == {"vda": ("default", f"{name}-vda.qcow2"), "vdb": ("data", f"{name}-vdb.raw")}
    assert f"{name}-vda.qcow2" in volumes(server)
    assert f"{name}-vdb.raw" in volumes(server, "data")


def test_a_guest_with_uefi_is_cloned(server: Server) -> None:
    task = cloned(server, "vms/win-uefi")
    assert targets(task) == {"sda": ("default", f"{task['name']}-sda.qcow2")}
    assert server.request("GET", f"vms/{task['name']}").json["uuid"] == task["uuid"]


def test_a_pool_that_is_named_takes_every_disk(server: Server) -> None:
    task = cloned(server, "vms/db", pool="data", name="db-in-data")
    assert targets(task) == {"vda": ("data", "db-in-data-vda.qcow2"), "vdb": ("data", "db-in-data-vdb.raw")}
    assert {"db-in-data-vda.qcow2", "db-in-data-vdb.raw"} <= volumes(server, "data")
    assert not {"db-in-data-vda.qcow2", "db-in-data-vdb.raw"} & volumes(server)


def test_a_clone_can_be_cloned_and_outlives_its_source(server: Server) -> None:
    first = cloned(server, "vms/db")
    second = cloned(server, f"vms/{first['name']}")
    assert second["name"].startswith(f"{first['name']}-clone-")
    assert len({first["uuid"], second["uuid"], server.request("GET", "vms/db").json["uuid"]}) == 3
    assert server.request("DELETE", f"vms/{first['name']}").status == 204
    assert server.request("GET", f"vms/{second['name']}").status == 200
    for pool, volume in targets(second).values():
        assert volume in volumes(server, pool)


def test_every_clone_has_macs_of_its_own_with_the_vendor_of_its_sources(server: Server) -> None:
    tasks = [cloned(server, "vms/web") for _ in range(3)]
    with closing(sqlite3.connect(f"file:{server.state_dir}/journal.sqlite?mode=ro", uri=True)) as journal:
        rows = journal.execute("SELECT domain, name FROM reservations WHERE kind = 'mac'").fetchall()
    macs = {domain: mac for domain, mac in rows if domain in {task["uuid"] for task in tasks}}
    assert len(macs) == len(set(macs.values())) == 3
    assert all(mac.startswith("52:54:00:") for mac in macs.values())
    assert "52:54:00:aa:00:01" not in macs.values()


@pytest.mark.parametrize("body", [None, {}, {"name": "x"}, {"pool": "data"}])
def test_a_running_guest_is_refused(server: Server, body: object) -> None:
    before = server.request("GET", "tasks").json
    assert refusal(server.request("POST", "vms/mail/clone", body)) == (400, "KCHVM0033E")
    assert server.request("GET", "tasks").json == before


@pytest.mark.parametrize("source", ["vms/web", "vms/db", "storagepools/default/storagevolumes/web.qcow2"])
def test_an_unknown_pool_is_404(server: Server, source: str) -> None:
    answer = server.request("POST", f"{source}/clone", {"pool": "nope"})
    assert refusal(answer) == (404, "KCHPOOL0002E")
    assert "nope" in answer.json["reason"]


# --- Volumes ---------------------------------------------------------------------------------------------------------


def test_a_volume_is_cloned_beside_its_source(server: Server) -> None:
    task = cloned(server, "storagepools/data/storagevolumes/db-data.raw")
    assert task["target_uri"] == f"/plugins/kimchi/storagepools/data/storagevolumes/{task['name']}/clone"
    copy = server.request("GET", f"storagepools/data/storagevolumes/{task['name']}").json
    assert (copy["format"], copy["capacity"], copy["used_by"]) == ("raw", 60 * GIB, [])


def test_a_volume_is_cloned_to_the_name_and_the_pool_that_were_asked_for(server: Server) -> None:
    """Kimchi documents both, and ignores both."""
    task = cloned(server, "storagepools/default/storagevolumes/web.qcow2", name="elsewhere.qcow2", pool="data")
    assert task["target_uri"] == "/plugins/kimchi/storagepools/data/storagevolumes/elsewhere.qcow2/clone"
    assert "elsewhere.qcow2" in volumes(server, "data")
    assert "elsewhere.qcow2" not in volumes(server)


def test_the_clone_of_a_volume_can_be_cloned(server: Server) -> None:
    first = cloned(server, "storagepools/default/storagevolumes/web.qcow2")
    second = cloned(server, f"storagepools/default/storagevolumes/{first['name']}")
    base = first["name"].removesuffix(".qcow2")
    assert second["name"].startswith(f"{base}-clone-")
    assert second["name"].endswith(".qcow2")


# --- What the host does not allow ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A host of which the pool `full` has less room than its one volume takes, as has the pool `default`."""
    folder = tmp_path_factory.mktemp("crowded")
    big = VOLUME.format(name="big.raw", path="/full/big.raw", size=70)
    made = "".join(
        GUEST.format(name=name, type=kind, source=source, state=state)
        for name, kind, source, state in [
            ("big", "file", 'file="/full/big.raw"', SHUT_OFF),
            ("paused", "file", 'file="/full/paused.raw"', PAUSED),
            ("outside", "file", 'file="/nowhere/x.raw"', SHUT_OFF),
            ("network", "network", 'protocol="nbd" name="x"', SHUT_OFF),
        ]
    )
    inventory = folder / "inventory.xml"
    text = INVENTORY.format(volume=big, guests=made)
    other = VOLUME.format(name="other.raw", path="/default/other.raw", size=90)
    inventory.write_text(text.replace("<path>/default</path></target>", f"<path>/default</path></target>{other}"))
    with Server(f"test://{inventory}", folder / "state") as server:
        yield server


@pytest.mark.parametrize(
    ("source", "body"),
    [
        ("vms/big", {}),
        ("vms/big", {"pool": "full"}),
        ("vms/big", {"pool": "default"}),
        ("storagepools/full/storagevolumes/big.raw", {}),
        ("storagepools/full/storagevolumes/big.raw", {"pool": "default"}),
    ],
)
def test_no_room_is_507_before_anything_is_written(crowded: Server, source: str, body: dict[str, str]) -> None:
    before = crowded.request("GET", "tasks").json, volumes(crowded, "full"), volumes(crowded)
    answer = crowded.request("POST", f"{source}/clone", body)
    assert refusal(answer) == (507, "KCHVM0034E")
    assert body.get("pool", "full") in answer.json["reason"]
    assert str(70 * GIB) in answer.json["reason"]
    assert (crowded.request("GET", "tasks").json, volumes(crowded, "full"), volumes(crowded)) == before


@pytest.mark.parametrize("source", ["vms/big", "storagepools/full/storagevolumes/big.raw"])
def test_another_pool_that_has_room_is_the_way_out(crowded: Server, source: str) -> None:
    task = cloned(crowded, source, pool="spare")
    ((pool, volume),) = targets(task).values()
    assert pool == "spare"
    assert volume in volumes(crowded, "spare")


def test_a_guest_whose_pool_is_full_goes_to_the_pool_default_while_that_has_room(tmp_path: Path) -> None:
    """As Kimchi promises and never did. Room that was promised to others is no room."""
    inventory = tmp_path / "inventory.xml"
    big = VOLUME.format(name="big.raw", path="/full/big.raw", size=70)
    guest = GUEST.format(name="big", type="file", source='file="/full/big.raw"', state=SHUT_OFF)
    inventory.write_text(INVENTORY.format(volume=big, guests=guest))
    with Server(f"test://{inventory}", tmp_path / "state") as server:
        task = cloned(server, "vms/big")
        assert targets(task) == {"vda": ("default", f"{task['name']}-vda.raw")}
        assert volumes(server, "full") == {"big.raw"}
        with closing(sqlite3.connect(tmp_path / "state" / "journal.sqlite")) as journal, journal:
            journal.execute(
                "INSERT INTO promises (task, pool, item, bytes) VALUES (99, 'default', 'x', ?)", (50 * GIB,)
            )
        assert refusal(server.request("POST", "vms/big/clone")) == (507, "KCHVM0034E")


def test_a_paused_guest_is_refused_and_its_state_is_said(crowded: Server) -> None:
    answer = crowded.request("POST", "vms/paused/clone")
    assert refusal(answer) == (400, "KCHVM0033E")
    assert "is paused" in answer.json["reason"]


@pytest.mark.parametrize("guest", ["outside", "network"])
def test_a_disk_that_cannot_be_cloned_is_refused_by_its_name(crowded: Server, guest: str) -> None:
    answer = crowded.request("POST", f"vms/{guest}/clone")
    assert refusal(answer) == (400, "CLNVM0002E")
    assert "Disk vda" in answer.json["reason"]


# --- Deleting --------------------------------------------------------------------------------------------------------


def test_a_clone_is_deleted_with_its_disks_and_nothing_else(server: Server) -> None:
    before = guests(server), volumes(server), volumes(server, "data")
    task = cloned(server, "vms/db")
    answer = server.request("DELETE", f"vms/{task['name']}")
    assert (answer.status, answer.body) == (204, b"")
    assert (guests(server), volumes(server), volumes(server, "data")) == before


def test_what_a_clone_shares_is_left_when_it_is_deleted(server: Server) -> None:
    task = cloned(server, "vms/web")
    assert server.request("DELETE", f"vms/{task['name']}", {"storage": True}).status == 204
    assert {"debian-12.iso", "web.qcow2"} <= volumes(server)


def test_a_guest_that_is_no_clone_is_deleted_without_its_disks(start: Callable[..., Server]) -> None:
    server = start()
    assert server.request("DELETE", "vms/db").status == 204
    assert "db" not in guests(server)
    assert "db-system.qcow2" in volumes(server)
    assert "db-data.raw" in volumes(server, "data")


def test_a_guest_that_is_no_clone_is_deleted_with_its_disks_when_that_is_asked_for(
    start: Callable[..., Server],
) -> None:
    server = start()
    for guest in ("db", "web"):
        assert server.request("DELETE", f"vms/{guest}", {"storage": True}).status == 204
    assert volumes(server) == {"mail.qcow2", "win-uefi.qcow2", "debian-12.iso"}  # read-only media are nobody's own
    assert volumes(server, "data") == set()


@pytest.mark.parametrize("body", [None, {"storage": True}])
def test_a_running_guest_is_not_deleted(server: Server, body: object) -> None:
    assert refusal(server.request("DELETE", "vms/mail", body)) == (400, "CLNVM0004E")
    assert server.request("GET", "vms/mail").json["state"] == "running"
    assert "mail.qcow2" in volumes(server)


def test_a_guest_is_deleted_once(server: Server) -> None:
    task = cloned(server, "vms/web")
    answers = [server.request("DELETE", f"vms/{task['name']}") for _ in range(2)]
    assert answers[0].status == 204
    assert refusal(answers[1]) == (404, "KCHVM0002E")


def test_the_name_of_a_deleted_clone_is_free_again(server: Server) -> None:
    for _ in range(2):
        cloned(server, "vms/web", name="again")
        assert server.request("DELETE", "vms/again").status == 204


# --- Tasks -----------------------------------------------------------------------------------------------------------


def test_an_ended_task_is_deleted_and_gone(server: Server) -> None:
    task = cloned(server, "vms/web")
    answer = server.request("DELETE", f"tasks/{task['id']}")
    assert (answer.status, answer.body) == (204, b"")
    assert refusal(server.request("GET", f"tasks/{task['id']}")) == (404, "WOKASYNC0001E")
    assert task["id"] not in {other["id"] for other in server.request("GET", "tasks").json}
    assert refusal(server.request("DELETE", f"tasks/{task['id']}")) == (404, "WOKASYNC0001E")
    assert server.request("GET", f"vms/{task['name']}").status == 200  # the guest is not the task


def test_tasks_outlive_the_server(start: Callable[..., Server]) -> None:
    server = start()
    tasks = [cloned(server, "vms/web"), cloned(server, "storagepools/default/storagevolumes/web.qcow2")]
    assert server.terminate() == 0
    server.start()
    assert server.request("GET", "tasks").json == tasks
    assert server.request("GET", f"tasks/{tasks[0]['id']}").json == tasks[0]


def test_names_and_task_numbers_go_on_after_a_restart(start: Callable[..., Server]) -> None:
    server = start()
    before = cloned(server, "vms/web")
    assert server.request("DELETE", f"tasks/{before['id']}").status == 204
    server.kill()
    server.start()
    after = cloned(server, "vms/web")
    assert after["name"] > before["name"]
    assert int(after["id"]) > int(before["id"])


def running_tasks(server: Server) -> list[str]:
    """By the journal itself, since the server may be dead."""
    with closing(sqlite3.connect(f"file:{server.state_dir}/journal.sqlite?mode=ro", uri=True)) as journal:
        return [str(task) for (task,) in journal.execute("SELECT id FROM tasks WHERE status = 'running'")]


def accept_many(server: Server, count: int = 60) -> set[str]:
    """Have more clones accepted than are made before anybody can ask for something else; their tasks.

    By one request: with its answer the first of them begins, and it takes longer to see that it is as documented.
    """
    server.is_documented = False
    answer = server.request("POST", "vms/web/clone", {"count": count})
    assert answer.status == 202
    return {task["id"] for task in answer.json["tasks"]}


def how_they_ended(server: Server, tasks: set[str]) -> dict[str, dict[str, Any]]:
    """Each task by its id, once none of them runs."""
    running = "tasks?status=running"
    wait_until(lambda: not server.request("GET", running).json, 60, "no task runs any more", lambda: server.log)
    return {task["id"]: task for task in server.request("GET", "tasks").json if task["id"] in tasks}


def test_what_a_killed_server_left_running_is_ended_by_the_next(start: Callable[..., Server]) -> None:
    server = start()
    accepted = accept_many(server, 200)
    server.kill()
    left = running_tasks(server)
    assert left
    server.start()
    ended = how_they_ended(server, accepted)
    for task in left:
        assert ended[task]["status"] == "finished" or ended[task]["message"].startswith("CLNTASK0004E: ")
    assert {ended[task]["status"] for task in accepted - set(left)} <= {"finished"}
    assert cloned(server, "vms/web")["id"] not in accepted


def test_a_server_that_is_told_to_stop_ends_every_task_first(start: Callable[..., Server]) -> None:
    server = start()
    accepted = accept_many(server)
    assert server.terminate() == 0
    assert running_tasks(server) == []
    server.start()
    for task in accepted:
        ended = server.request("GET", f"tasks/{task}").json
        assert ended["status"] == "finished" or ended["message"].startswith("CLNTASK0004E: ")


def test_two_servers_on_one_state_directory_share_tasks_and_names(start: Callable[..., Server]) -> None:
    """Two test drivers are two hosts; the journal is one."""
    one, other = start(), start()
    tasks = [cloned(server, "vms/web") for server in (one, other, one, other)]
    assert [int(task["id"]) for task in tasks] == [1, 2, 3, 4]
    assert [task["name"] for task in tasks] == sorted({task["name"] for task in tasks})
    assert one.request("GET", "tasks").json == other.request("GET", "tasks").json == tasks
    one.kill()
    assert other.request("GET", "tasks").json == tasks
    assert cloned(other, "vms/web")["id"] == "5"


def test_a_server_leaves_the_tasks_of_another_alone_while_that_lives(start: Callable[..., Server]) -> None:
    one, other = start(), start()
    accepted = accept_many(one)
    assert {other.wait_task(task)["status"] for task in accepted} == {"finished"}


def test_what_a_killed_server_left_running_is_ended_by_another_that_lives(start: Callable[..., Server]) -> None:
    one, other = start(), start()
    accepted = accept_many(one, 200)
    one.kill()
    assert running_tasks(one)
    ended = how_they_ended(other, accepted).values()
    assert [task for task in ended if task["message"].startswith("CLNTASK0004E: ")]
    assert {task["status"] for task in ended} <= {"finished", "failed"}


# --- Cancelling too late ---------------------------------------------------------------------------------------------


def test_a_task_that_has_ended_is_not_cancelled_and_that_is_explained(server: Server) -> None:
    task = cloned(server, "vms/web")
    answer = server.request("DELETE", f"tasks/{task['id']}", {"cancel": True})
    assert answer.status == 200
    assert answer.json["explanation"].startswith("It was finished before it could be cancelled.")
    assert server.request("GET", f"tasks/{task['id']}").json == task, "it stays in the list"
    assert server.request("DELETE", f"tasks/{task['id']}").status == 204
    assert server.request("GET", f"tasks/{task['id']}").status == 404


def test_a_guest_is_started(server: Server) -> None:
    name = cloned(server, "vms/web")["name"]
    answer = server.request("POST", f"vms/{name}/start")
    assert (answer.status, answer.json["name"], answer.json["state"]) == (200, name, "running")
    assert refusal(server.request("POST", f"vms/{name}/start")) == (400, "CLNVM0008E")
    assert refusal(server.request("POST", "vms/nope/start")) == (404, "KCHVM0002E")
