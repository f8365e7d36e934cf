"""Many clones at once, as one: accepted as a whole, followed as a whole, withdrawn as a whole."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from support.answers import at_once, cloned, refusal
from support.running import wait_until
from support.server import Response, Server

SOURCES = ["vms/web", "storagepools/default/storagevolumes/web.qcow2"]


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """A demo of its own: its lists are looked at as a whole."""
    with Server(None, tmp_path / "state") as running:
        yield running


def batch_of(server: Server, source: str, count: int, **body: object) -> dict[str, Any]:
    answer = server.request("POST", f"{source}/clone", {"count": count, **body})
    assert answer.status == 202, answer.text
    batch: dict[str, Any] = answer.json
    assert answer.headers["Location"] == f"/plugins/kimchi/batches/{batch['batch']}"
    assert len(batch["tasks"]) == count
    return batch


def ended(server: Server, batch: str) -> dict[str, Any]:
    wait_until(lambda: server.request("GET", f"batches/{batch}").json["ended"], 60, "it ends", lambda: server.log)
    found: dict[str, Any] = server.request("GET", f"batches/{batch}").json
    return found


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("count", [1, 25])
def test_a_batch_is_that_many_clones_each_with_its_name(server: Server, source: str, count: int) -> None:
    batch = batch_of(server, source, count)
    names = [task["name"] for task in batch["tasks"]]
    assert len(set(names)) == count
    assert {task["batch"] for task in batch["tasks"]} == {batch["batch"]}

    whole = ended(server, batch["batch"])

    assert (whole["count"], whole["finished"], whole["progress"]) == (count, count, 100)
    listed = server.request("GET", f"tasks?batch={batch['batch']}").json
    assert [task["id"] for task in listed] == whole["tasks"] == [task["id"] for task in batch["tasks"]]
    place = source.rpartition("/")[0]
    assert set(names) <= {each["name"] for each in server.request("GET", place).json}


INVENTORY = """<node>
<pool type="dir"><name>default</name><target><path>/images</path></target>
  <volume type="file"><name>tiny.img</name><key>/images/tiny.img</key><capacity>4096</capacity>
    <allocation>4096</allocation><target><path>/images/tiny.img</path><format type="raw"/></target></volume></pool>
<domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
  <name>tiny</name><memory>1024</memory><os><type>hvm</type></os>
  <devices><disk type="file"><source file="/images/tiny.img"/><target dev="vda"/></disk></devices>
  <test:runstate>5</test:runstate></domain></node>"""


def test_a_thousand_are_made_and_one_more_is_refused(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.xml"
    inventory.write_text(INVENTORY)
    with Server(f"test://{inventory}", tmp_path / "thousand") as server:
        batch = batch_of(server, "vms/tiny", 1000)
        names = {task["name"] for task in batch["tasks"]}
        assert len(names) == 1000
        assert ended(server, batch["batch"])["finished"] == 1000
        assert {guest["name"] for guest in server.request("GET", "vms").json} == names | {"tiny"}


@pytest.mark.parametrize("count", [0, 1001, -1, 1.5, "7", None])
def test_what_is_no_number_of_clones_is_refused(shared: Server, count: object) -> None:
    assert refusal(shared.request("POST", "vms/web/clone", {"count": count})) == (400, "CLNAPI0004E")


def test_one_name_does_not_serve_for_several(shared: Server) -> None:
    before = shared.request("GET", "tasks").json
    answer = shared.request("POST", "vms/web/clone", {"count": 2, "name": "copy"})
    assert refusal(answer) == (400, "CLNAPI0004E")
    assert shared.request("GET", "tasks").json == before


def test_what_is_refused_is_refused_as_a_whole(server: Server) -> None:
    """The test driver's pool has 70 GiB left for it; the first clones alone would fit."""
    before = server.request("GET", "vms").json
    size = server.request("POST", "vms/web/clone", {"dry_run": True}).json["pools"]["default"]
    count = size["available"] // size["needed"] + 1
    assert 1 < count <= 1000
    answer = server.request("POST", "vms/web/clone", {"count": count, "pool": "default"})
    assert refusal(answer) == (507, "KCHVM0034E")
    assert server.request("GET", "tasks").json == []
    assert server.request("GET", "vms").json == before
    cloned(server, "vms/web")  # the room and the names are free


def test_batches_at_once_share_nothing(server: Server) -> None:
    batches = at_once(8, lambda _: batch_of(server, "vms/web", 10))
    names = [task["name"] for batch in batches for task in batch["tasks"]]
    assert len(set(names)) == 80
    assert len({batch["batch"] for batch in batches}) == 8
    assert all(ended(server, batch["batch"])["finished"] == 10 for batch in batches)


@pytest.mark.parametrize("source", SOURCES)
def test_a_batch_is_withdrawn_and_nothing_of_it_is_left(server: Server, source: str) -> None:
    place = source.rpartition("/")[0]
    before = server.request("GET", place).json
    batch = batch_of(server, source, 30)["batch"]
    assert server.request("DELETE", f"batches/{batch}", {"undo": True}).status == 202
    assert server.request("DELETE", f"batches/{batch}", {"undo": True}).status == 202, "again is fine"

    def is_gone() -> bool:
        return bool(server.request("GET", f"batches/{batch}").json["killed"] == 30)

    wait_until(is_gone, 60, "all of it is gone", lambda: server.log)
    assert server.request("GET", place).json == before


def test_without_undo_what_was_finished_stays(server: Server) -> None:
    batch = batch_of(server, "vms/web", 5)["batch"]
    ended(server, batch)
    assert server.request("DELETE", f"batches/{batch}").status == 202
    time.sleep(0.3)  # it would have begun by now
    assert server.request("GET", f"batches/{batch}").json["finished"] == 5


def test_what_runs_or_is_needed_is_kept_and_that_is_said(server: Server) -> None:
    first, second = batch_of(server, "vms/web", 2)["tasks"]
    ended(server, first["batch"])
    server.request("POST", f"vms/{first['name']}/start")
    server.request("DELETE", f"batches/{first['batch']}", {"undo": True})

    def is_said() -> bool:
        return bool(server.request("GET", f"tasks/{first['id']}").json["warning"])

    wait_until(is_said, 30, "it is said", lambda: server.log)
    kept, gone = (server.request("GET", f"tasks/{task['id']}").json for task in (first, second))
    assert (kept["status"], kept["warning"][:12]) == ("finished", "CLNTASK0009E")
    assert "running" in kept["warning"]
    wait_until(lambda: server.request("GET", f"vms/{second['name']}").status == 404, 30, "the other is gone")
    assert gone["status"] in ("finished", "killed")
    assert server.request("GET", f"vms/{first['name']}").status == 200


@pytest.mark.parametrize("batch", ["999", "nope", "0", "9" * 30])
def test_a_batch_that_is_not_there(shared: Server, batch: str) -> None:
    for method in ("GET", "DELETE"):
        assert refusal(shared.request(method, f"batches/{batch}")) == (404, "CLNBATCH0001E")


# --- A dry run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_a_dry_run_tells_what_then_happens_and_changes_nothing(server: Server, source: str) -> None:
    before = [server.request("GET", path).json for path in ("vms", "tasks", source.rpartition("/")[0])]
    seen = server.request("POST", f"{source}/clone", {"dry_run": True, "count": 3, "pool": "data"})
    assert seen.status == 200
    assert [server.request("GET", path).json for path in ("vms", "tasks", source.rpartition("/")[0])] == before

    made = batch_of(server, source, 3, pool="data")["tasks"]

    plans = seen.json["plans"]
    assert len(plans) == 3
    for plan, task in zip(plans, made, strict=True):
        renamed = [{**disk, **_target(disk, plan["name"], task["name"])} for disk in plan["disks"]]
        assert renamed == task["disks"]
        assert plan["source"] == task["source"]
    needed = sum(disk["bytes"] for task in made for disk in task["disks"] if disk["action"] == "clone")
    assert seen.json["pools"]["data"]["needed"] == needed
    assert seen.json["pools"]["data"]["available"] >= needed


def _target(disk: dict[str, Any], planned: str, made: str) -> dict[str, Any]:
    if "target" not in disk:
        return {}
    return {"target": {**disk["target"], "name": disk["target"]["name"].replace(planned, made)}}


def test_a_dry_run_says_why_a_method_cannot_serve_and_that_others_can(server: Server) -> None:
    methods = server.request("POST", "vms/db/clone", {"dry_run": True}).json["methods"]
    assert {method for method, why in methods.items() if why is None} == {"libvirt", "linked"}
    for method in ("reflink", "copy"):
        refused = server.request("POST", "vms/db/clone", {"dry_run": True, "method": method})
        disk, _, why = methods[method].partition(": ")
        assert disk == "vda"
        assert why in refused.json["reason"]


def test_a_dry_run_is_refused_as_the_clone_would_be(server: Server) -> None:
    for body in ({"pool": "nope"}, {"name": "web"}, {"method": "reflink"}, {"name": "a/b"}):
        dry = server.request("POST", "vms/web/clone", {**body, "dry_run": True})
        assert (dry.status, dry.json) == (
            (real := server.request("POST", "vms/web/clone", body)).status,
            real.json,
        )
        assert dry.status >= 400


def test_a_dry_run_uses_no_key_up(server: Server) -> None:
    headers = {"Idempotency-Key": "once"}
    assert server.request("POST", "vms/web/clone", {"dry_run": True}, headers).status == 200
    assert server.request("POST", "vms/web/clone", {}, headers).status == 202


# --- Started, and texts ----------------------------------------------------------------------------------------------


def test_a_clone_is_started_and_called_what_was_asked_for(server: Server) -> None:
    texts = {"title": "Front <end> & co", "description": "first line\nsecond"}
    name = cloned(server, "vms/web", start=True, **texts)["name"]
    guest = server.request("GET", f"vms/{name}").json
    assert guest["state"] == "running"
    assert {key: guest[key] for key in texts} == texts


@pytest.mark.parametrize("title", ["", "two\nlines", "a line\n", "a line\r", "x" * 256])
def test_a_title_is_a_line(shared: Server, title: str) -> None:
    assert refusal(shared.request("POST", "vms/web/clone", {"title": title})) == (400, "CLNAPI0004E")


@pytest.mark.parametrize("field", ["title", "description"])
@pytest.mark.parametrize("character", ["\x01", "\x0b", "\x1b", "\x1f", "\ufffe", "\uffff"])
def test_a_text_is_one_that_xml_can_have(shared: Server, field: str, character: str) -> None:
    """Or the clone would be accepted, and fail when its definition is written."""
    for text in (f"a{character}b", f"{character}\n"):
        answer = shared.request("POST", "vms/web/clone", {field: text, "dry_run": True})
        assert refusal(answer) == (400, "CLNAPI0004E")
        assert field in answer.json["reason"]


def test_every_other_character_is_taken(server: Server) -> None:
    texts = {"title": "\t ~\x7f\x85\u2028\ud7ff\ue000\ufffd\U00010000\U0010ffff", "description": "\t\n\U0001f40f"}
    name = cloned(server, "vms/web", **texts)["name"]
    guest = server.request("GET", f"vms/{name}").json
    assert {key: guest[key] for key in texts} == texts


# --- Sent again ------------------------------------------------------------------------------------------------------


def keyed(server: Server, key: str, body: dict[str, Any] | None = None, source: str = "vms/web") -> Response:
    return server.request("POST", f"{source}/clone", body or {}, {"Idempotency-Key": key})


def test_a_key_is_answered_with_the_same_task_also_after_a_restart(server: Server) -> None:
    first = keyed(server, "k1")
    assert first.status == 202
    server.wait_task(first.json["id"])
    again = keyed(server, '"k1"')
    assert (again.status, again.json["id"], again.json["status"]) == (202, first.json["id"], "finished")
    server.kill()
    server.start()
    assert keyed(server, "k1").json["id"] == first.json["id"]
    assert keyed(server, "k2").json["id"] != first.json["id"]
    assert len(server.request("GET", "tasks").json) == 2


def test_a_batch_is_answered_as_a_whole(server: Server) -> None:
    first = keyed(server, "k", {"count": 7}).json
    again = keyed(server, "k", {"count": 7}).json
    assert again["batch"] == first["batch"]
    assert [task["id"] for task in again["tasks"]] == [task["id"] for task in first["tasks"]]


def test_a_hundred_at_once_make_one_clone(server: Server) -> None:
    def send(_number: int) -> Response:
        answer = keyed(server, "storm")
        while answer.status == 409:
            assert answer.json["reason"][:12] == "CLNAPI0010E:"
            assert answer.headers["Retry-After"] == "1"
            time.sleep(0.05)
            answer = keyed(server, "storm")
        return answer

    answers = at_once(100, send)
    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert len(server.request("GET", "tasks").json) == 1


def test_a_key_with_another_request_is_refused(server: Server) -> None:
    assert keyed(server, "k").status == 202
    assert refusal(keyed(server, "k", {"name": "other"})) == (422, "CLNAPI0009E")
    assert refusal(keyed(server, "k", source="vms/db")) == (422, "CLNAPI0009E")
    assert keyed(server, "k").status == 202


def test_a_request_that_was_refused_leaves_its_key_free(server: Server) -> None:
    assert keyed(server, "k", {"pool": "nope"}).status == 404
    assert keyed(server, "k").status == 202


def test_a_task_that_was_taken_out_of_the_list_is_not_made_again(server: Server) -> None:
    task = keyed(server, "k").json["id"]
    server.wait_task(task)
    server.request("DELETE", f"tasks/{task}")
    assert refusal(keyed(server, "k")) == (404, "WOKASYNC0001E")


@pytest.mark.parametrize("key", ["x" * 256, "a\tb", "é", '""'])
def test_what_is_no_key_is_refused(shared: Server, key: str) -> None:
    assert refusal(keyed(shared, key)) == (400, "CLNAPI0007E")
