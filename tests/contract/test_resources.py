"""What the resources look like: Kimchi's field names, and the filters of lists."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from support.answers import JSON, cloned, refusal
from support.server import Server

VM = {
    "name", "title", "description", "uuid", "state", "persistent", "memory", "cpu_info", "graphics", "users", "groups",
    "access", "bootorder", "bootmenu", "autostart", "icon", "screenshot", "stats",
}  # fmt: skip
POOL = {
    "name", "state", "type", "capacity", "allocated", "available", "path", "source", "nr_volumes", "autostart",
    "persistent", "in_use",
}  # fmt: skip
VOLUME = {"name", "type", "capacity", "allocation", "path", "used_by", "format", "isvalid", "has_permission"}
GIB = 1 << 30


def get(server: Server, path: str) -> Any:
    answer = server.request("GET", path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, JSON), answer.text
    return answer.json


# --- Guests ----------------------------------------------------------------------------------------------------------


def test_a_guest_has_the_fields_that_kimchi_gave_it_and_its_disks(server: Server) -> None:
    web = get(server, "vms/web")
    assert web.keys() == VM | {"disks"}
    assert web["memory"].keys() == {"current", "maxmemory"}
    assert web["cpu_info"].keys() == {"vcpus", "maxvcpus", "topology"}
    assert web["graphics"].keys() == {"type", "listen", "port", "passwd", "passwdValidTo"}


def test_a_guest_is_described_as_it_is_defined(server: Server) -> None:
    web = get(server, "vms/web")
    assert (web["name"], web["title"], web["description"]) == ("web", "Web front end", "Debian 12 with nginx")
    assert (web["uuid"], web["persistent"]) == ("11f5c8a2-7c1e-4a34-9c3d-5c3c5a1c0001", True)
    assert web["memory"] == {"current": 2048, "maxmemory": 2048}  # MiB
    assert (web["cpu_info"]["vcpus"], web["cpu_info"]["maxvcpus"]) == (2, 2)
    assert (web["graphics"]["type"], web["graphics"]["listen"]) == ("vnc", "127.0.0.1")
    assert (web["bootorder"], web["bootmenu"], web["autostart"]) == (["hd"], False, False)


def test_a_guest_says_what_disks_and_drives_it_has(server: Server) -> None:
    images = "/var/lib/libvirt/images"
    assert get(server, "vms/web")["disks"] == [
        {"disk": "vda", "device": "disk", "place": f"{images}/web.qcow2"},
        {"disk": "sda", "device": "cdrom", "place": f"{images}/debian-12.iso"},
    ]


def test_states_are_in_kimchis_words(server: Server) -> None:
    demo = {"web": "shutoff", "db": "shutoff", "win-uefi": "shutoff", "mail": "running"}
    assert {name: get(server, f"vms/{name}")["state"] for name in demo} == demo


def test_nothing_is_invented_that_nobody_measures(server: Server) -> None:
    web = get(server, "vms/web")
    assert set(web["stats"].values()) == {0}
    assert web["icon"] is web["screenshot"] is web["graphics"]["port"] is web["graphics"]["passwd"] is None


def test_the_list_of_guests_has_each_as_it_is_alone(server: Server) -> None:
    listed = {guest["name"]: guest for guest in get(server, "vms")}
    assert listed.keys() >= {"web", "db", "win-uefi", "mail"}
    assert listed["db"] == get(server, "vms/db")


# --- Pools and volumes -----------------------------------------------------------------------------------------------


def test_a_pool_has_the_fields_that_kimchi_gave_it(server: Server) -> None:
    pool = get(server, "storagepools/data")
    assert pool.keys() == POOL
    assert (pool["name"], pool["state"], pool["type"]) == ("data", "active", "dir")
    assert (pool["path"], pool["capacity"], pool["persistent"]) == ("/srv/data", 100 * GIB, True)


def test_the_list_of_pools_has_each_as_it_is_alone(server: Server) -> None:
    listed = {pool["name"]: pool for pool in get(server, "storagepools")}
    assert listed.keys() == {"data", "default"}
    assert listed["data"] == get(server, "storagepools/data")


def test_a_volume_has_the_fields_that_kimchi_gave_it(server: Server) -> None:
    volume = get(server, "storagepools/data/storagevolumes/db-data.raw")
    assert volume.keys() == VOLUME
    assert (volume["name"], volume["type"], volume["format"]) == ("db-data.raw", "file", "raw")
    assert (volume["capacity"], volume["allocation"]) == (60 * GIB, 12 * GIB)
    assert (volume["path"], volume["used_by"]) == ("/srv/data/db-data.raw", ["db"])


def test_the_list_of_volumes_has_each_as_it_is_alone(server: Server) -> None:
    listed = {volume["name"]: volume for volume in get(server, "storagepools/data/storagevolumes")}
    assert listed["db-data.raw"] == get(server, "storagepools/data/storagevolumes/db-data.raw")


# --- Tasks and config ------------------------------------------------------------------------------------------------


def test_a_task_begins_with_woks_four_fields_in_woks_order(server: Server) -> None:
    accepted = server.request("POST", "vms/web/clone").json
    ended = server.wait_task(accepted["id"])
    for task in (accepted, ended):
        assert list(task)[:4] == ["id", "status", "message", "target_uri"]
        assert isinstance(task["id"], str)
    assert accepted["status"] == "running"
    assert (ended["status"], ended["message"]) == ("finished", "OK")


def test_the_list_of_tasks_has_each_as_it_is_alone(server: Server) -> None:
    task = cloned(server, "vms/web")
    assert get(server, f"tasks/{task['id']}") == task
    assert task in get(server, "tasks")


def test_config_tells_the_version_and_what_we_add(server: Server) -> None:
    config = get(server, "config")
    assert config.keys() == {"version", "extensions"}
    assert {"clone-name", "clone-pool"} <= set(config["extensions"])


# --- What is not there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "vms/nope", "KCHVM0002E"),
        ("DELETE", "vms/nope", "KCHVM0002E"),
        ("POST", "vms/nope/clone", "KCHVM0002E"),
        ("GET", "storagepools/nope", "KCHPOOL0002E"),
        ("GET", "storagepools/nope/storagevolumes", "KCHPOOL0002E"),
        ("GET", "storagepools/nope/storagevolumes/web.qcow2", "KCHPOOL0002E"),
        ("POST", "storagepools/nope/storagevolumes/web.qcow2/clone", "KCHPOOL0002E"),
        ("GET", "storagepools/default/storagevolumes/nope", "KCHVOL0002E"),
        ("POST", "storagepools/default/storagevolumes/nope/clone", "KCHVOL0002E"),
        ("GET", "tasks/999999", "WOKASYNC0001E"),
        ("DELETE", "tasks/999999", "WOKASYNC0001E"),
    ],
)
def test_what_does_not_exist_is_404_with_kimchis_code(server: Server, method: str, path: str, code: str) -> None:
    assert refusal(server.request(method, path)) == (404, code)


@pytest.mark.parametrize("task", ["-1", "0", "1e3", "0x1", "1.0", "99999999999999999999999", "%C2%B2", "%20", "abc"])
def test_what_is_no_task_number_is_a_task_that_does_not_exist(server: Server, task: str) -> None:
    assert refusal(server.request("GET", f"tasks/{task}")) == (404, "WOKASYNC0001E")


# --- Filters ---------------------------------------------------------------------------------------------------------


def names(server: Server, query: str, path: str = "vms") -> list[str]:
    """Names of the demo's own things that pass a filter; the clones of other tests are left out."""
    found = {item["name"] for item in get(server, f"{path}?{query}")}
    return sorted(found & {"db", "mail", "web", "win-uefi", "data", "default", "debian-12.iso", "web.qcow2"})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("name=web", ["web"]),
        ("name=we", ["web"]),
        ("name=eb", []),  # from the start of the field
        ("name=.*eb", ["web"]),
        ("name=^web$", ["web"]),
        ("name=web|db", ["db", "web"]),
        ("name=WEB", []),
        ("name=(?i)WEB", ["web"]),
        ("name=%5Ew.*", ["web", "win-uefi"]),
        ("state=running", ["mail"]),
        ("state=shutoff&name=w", ["web", "win-uefi"]),  # all must hold
        ("state=running&name=web", []),
        ("persistent=true&name=web", ["web"]),
        ("persistent=false", []),
        ("icon=null&name=web", ["web"]),
        ("uuid=11f5c8a2-7c1e-4a34-9c3d-5c3c5a1c0004", ["mail"]),
        ("nope=1", []),
        ("nope=", []),
        ("self=1", []),
        ("__class__=1&name=web", ["web"]),
        ("_=1595&name=web", ["web"]),  # jQuery's against caches
        ("_nope=(&_other=x&name=web", ["web"]),
    ],
)
def test_a_list_holds_what_passes_every_filter(server: Server, query: str, expected: list[str]) -> None:
    assert names(server, query) == expected


def test_pools_and_volumes_are_filtered_like_guests(server: Server) -> None:
    assert names(server, "name=dat", "storagepools") == ["data"]
    assert names(server, "format=iso", "storagepools/default/storagevolumes") == ["debian-12.iso"]
    assert names(server, "nope=1", "storagepools/default/storagevolumes") == []


@pytest.mark.parametrize("expression", ["(", "[", "*", "a{2,1}", "(?P<x", "\\", "(?<=a)b", "(a)\\1", "x" * 1001])
def test_a_filter_that_is_no_usable_expression_is_400_and_named(server: Server, expression: str) -> None:
    answer = server.request("GET", f"vms?name={quote(expression)}")
    assert refusal(answer) == (400, "CLNAPI0006E")
    assert "filter on name" in answer.json["reason"]
    assert "b'" not in answer.json["reason"]  # words, not Python


def test_a_filter_that_is_given_twice_is_400(server: Server) -> None:
    assert refusal(server.request("GET", "vms?name=web&name=db")) == (400, "CLNAPI0006E")


def test_a_filter_that_is_no_utf_8_is_400(server: Server) -> None:
    assert server.request("GET", "vms?name=%ff").status == 400


@pytest.mark.parametrize(
    "expression",
    ["^((/|[a-z-])+)+X$", "(a*)*b", "(a|aa)+$", "([a-zA-Z0-9./-]+)*!", "(.*)*(.*)*(.*)*!", "((a{0,30}){0,30})!"],
)
def test_an_expression_that_hung_kimchi_is_answered(server: Server, expression: str) -> None:
    task = cloned(server, "vms/web", name="web-" + "a" * 150)
    try:
        answer = server.request("GET", f"tasks?target_uri={quote(expression)}", timeout=10)
        assert answer.status in (200, 400)
    finally:
        server.request("DELETE", f"vms/{task['name']}")


def test_the_exact_filters_of_kimchis_page(server: Server) -> None:
    guest = cloned(server, "vms/web")
    volume = cloned(server, "storagepools/default/storagevolumes/web.qcow2")
    of_guests = quote("^/plugins/kimchi/vms/.+/clone", safe="")
    of_volumes = quote("^/plugins/kimchi/storagepools/.+/storagevolumes/.+/clone", safe="")

    def ids(status: str, target: str) -> set[str]:
        return {task["id"] for task in get(server, f"tasks?status={status}&target_uri={target}")}

    assert guest["id"] in ids("finished", of_guests) - ids("finished", of_volumes)
    assert volume["id"] in ids("finished", of_volumes) - ids("finished", of_guests)
    for target in (of_guests, of_volumes):
        assert not {guest["id"], volume["id"]} & (ids("running", target) | ids("failed", target))
    assert guest["target_uri"].split("/")[4] == guest["name"]  # where the page reads the new name
    assert volume["target_uri"].split("/")[6] == volume["name"]
