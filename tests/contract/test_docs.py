"""What docs/API.md says of the answers is what a server answers: every key, and what is always the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.answers import cloned
from support.server import Server

API = (Path(__file__).parents[2] / "docs" / "API.md").read_text("utf-8")
CLONE_OF = {"domain": "vms/web", "volume": "storagepools/default/storagevolumes/web.qcow2"}
ONLY_OF = {"domain": "uuid", "volume": "pool"}  # a key that a task of one kind has


def documented(heading: str) -> dict[str, str]:
    """The keys in the table below a heading of API.md, as `key` or `key.inner`, with what is said of them."""
    section = re.search(rf"^##+ {heading}\n(.*?)(?=^#|\Z)", API, re.MULTILINE | re.DOTALL)
    assert section, heading
    rows = re.findall(r"^\| (`.+?) \| (.+) \|$", section[1], re.MULTILINE)
    keys = {key: meaning for cell, meaning in rows for key in re.findall("`(.+?)`", cell)}
    assert keys
    return keys


def flat(answer: Mapping[str, Any], documented: Mapping[str, str]) -> dict[str, Any]:
    """An answer with `key.inner` for each key of an object that the table takes apart."""
    apart = {key.partition(".")[0] for key in documented if "." in key}
    found = {key: value for key, value in answer.items() if key not in apart}
    return found | {f"{key}.{inner}": value for key in apart & answer.keys() for inner, value in answer[key].items()}


def optional(keys: Mapping[str, str]) -> set[str]:
    return {key for key, meaning in keys.items() if meaning.startswith("only ")}


def check(heading: str, answers: list[Mapping[str, Any]]) -> None:
    """Every answer has the keys of the table, those that begin with `only` in some, and the values that are fixed."""
    keys = documented(heading)
    found = [flat(answer, keys) for answer in answers]
    for answer in found:
        assert keys.keys() - optional(keys) <= answer.keys() <= keys.keys()
        for key, meaning in keys.items():
            if fixed := re.match("always `(.+?)`", meaning):
                assert (key, answer[key]) == (key, json.loads(fixed[1]))
    assert set().union(*found) == keys.keys()


def get(server: Server, path: str) -> Any:
    return server.request("GET", path).json


def test_a_guest(server: Server) -> None:
    check("A guest", get(server, "vms"))
    check("A guest", [get(server, "vms/web")])


def test_a_pool(server: Server) -> None:
    check("A pool", get(server, "storagepools"))
    check("A pool", [get(server, "storagepools/default")])


def test_a_volume(server: Server) -> None:
    volumes = "storagepools/default/storagevolumes"
    flat_one = f"{volumes}/{cloned(server, CLONE_OF['volume'])['name']}"
    linked = f"{volumes}/{cloned(server, flat_one, method='linked')['name']}"
    check("A volume", get(server, volumes))
    check("A volume", [get(server, flat_one), get(server, linked)])
    assert get(server, linked)["base"] == {"path": get(server, flat_one)["path"]}


def test_the_configuration(server: Server) -> None:
    check("Configuration", [get(server, "config")])


def test_health(server: Server) -> None:
    answers = [server.request("GET", path, anonymous=True).json for path in ("/livez", "/readyz")]
    check("Health", [answers[0] | answers[1]])


def test_the_log_ins_answer(server: Server) -> None:
    answer = server.request("POST", "/login", {"username": "admin", "password": server.token}, anonymous=True)
    check("The log-in's answer", [answer.json])


@pytest.mark.parametrize("kind", CLONE_OF)
def test_a_task_whether_it_runs_or_has_finished(server: Server, kind: str) -> None:
    keys = documented("Tasks")
    assert optional(keys) == set(ONLY_OF.values())
    accepted = server.request("POST", f"{CLONE_OF[kind]}/clone")
    assert accepted.headers["Location"] == f"/plugins/kimchi/tasks/{accepted.json['id']}"
    finished = server.wait_task(accepted.json["id"])
    assert (accepted.json["status"], finished["status"], finished["kind"]) == ("running", "finished", kind)
    for task in (accepted.json, finished):
        assert task.keys() == keys.keys() - optional(keys) | {ONLY_OF[kind]}


def test_its_disks(server: Server) -> None:
    keys = documented("Its disks")
    assert optional(keys) == {"note"}
    tasks = [cloned(server, source) for source in CLONE_OF.values()]
    disks = [disk for task in tasks for disk in task["disks"]]
    assert {disk["action"] for disk in disks} == {"clone", "share"}
    for disk in disks:
        expected = set(keys) - optional(keys) if disk["action"] == "clone" else {"disk", "action", "reason"}
        assert flat(disk, keys).keys() - {"note"} == expected
