"""Kimchi's own clone button on our engine: over HTTP, as its page asks."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest

from cloner.settings import DEMO_INVENTORY, demo_uri
from support import people
from support.answers import at_once, refusal
from support.running import wait_until
from support.server import Response, Server
from support.wok import KIMCHI, USER, Wok

VMS = f"{KIMCHI}/vms"
VOLUMES = f"{KIMCHI}/storagepools/default/storagevolumes"
TASKS = f"{KIMCHI}/tasks"
OF_GUESTS = quote(f"^{KIMCHI}/vms/.+/clone", safe="/^")
OF_VOLUMES = quote(f"^{KIMCHI}/storagepools/.+/storagevolumes/.+/clone", safe="/^")
OWN = ["vm_clone", "storagevolume_clone", "tasks_get_list", "task_lookup"]
"""Kimchi's functions, by the names that its model has for them."""


@pytest.fixture(scope="module")
def bridged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wok]:
    """A Wok with both plugins and the bridge, which the tests of this module share."""
    folder = tmp_path_factory.mktemp("bridged")
    with Wok(folder, plugins=("kimchi", "cloner"), connect=demo_uri(), kimchi_bridge=True) as running:
        yield running


@contextmanager
def held(wok: Wok) -> Iterator[None]:
    """While the block runs no clone is made."""
    wok.request("POST", "/hold/yes")
    try:
        yield
    finally:
        wok.request("POST", "/hold/no")


def asked(wok: Wok, path: str, session: str | None = None) -> Response:
    """A click on Kimchi's button: an empty body."""
    return wok.request("POST", f"{path}/clone", headers={"Content-Length": "0", **cookie(session)})


def cookie(session: str | None) -> dict[str, str]:
    return {"Cookie": session} if session else {}


def polled(wok: Wok, status: str, target: str = OF_GUESTS, session: str | None = None) -> list[dict[str, Any]]:
    """What its page asks every two seconds."""
    answer = wok.request("GET", f"{TASKS}?status={status}&target_uri={target}", headers=cookie(session))
    assert answer.status == 200, answer.text
    return list(answer.json)


def ended(wok: Wok, task_id: str) -> dict[str, Any]:
    """A task as its page sees it when it does not run any more."""
    task: dict[str, Any] = {}

    def has_ended() -> bool:
        task.update(wok.request("GET", f"{TASKS}/{task_id}").json)
        return bool(task["status"] != "running")

    wait_until(has_ended, 60, f"task {task_id} ends", lambda: wok.log)
    return task


def process(wok: Wok) -> dict[str, Any]:
    return dict(wok.request("GET", "/process").json)


def queued(wok: Wok, task_id: str) -> dict[str, Any]:
    return next(entry for entry in process(wok)["queue"] if entry["id"] == task_id)


def switch(wok: Wok, **settings: object) -> None:
    """Change cloner.conf by hand, as an editor does: by a new file in the place of the old one."""
    text = wok.conf.read_text("utf-8")
    for name, value in settings.items():
        text = re.sub(rf"(?m)^(# )?{name} = .*$", f"{name} = {value}", text, count=1)
    new = wok.conf.with_suffix(".new")
    new.write_text(text, "utf-8")
    os.replace(new, wok.conf)


# --- The button ------------------------------------------------------------------------------------------------------


def test_a_guest_is_cloned_by_kimchis_button(bridged: Wok) -> None:
    answer = asked(bridged, f"{VMS}/web")
    assert answer.status == 202, answer.text
    task = answer.json
    assert list(task) == ["id", "status", "message", "target_uri"]
    assert re.fullmatch(rf"{VMS}/web-clone-\d{{16}}/clone", task["target_uri"])
    assert ended(bridged, task["id"]) | {"message": "OK"} == {**task, "status": "finished", "message": "OK"}
    name = task["target_uri"].split("/")[4]
    guests = bridged.request("GET", VMS).json
    assert name in [guest["name"] for guest in guests]


def test_a_guest_that_is_not_called_in_ascii_has_another_name_in_libvirt(bridged: Wok) -> None:
    """Kimchi's model/utils.py, get_ascii_nonascii_name."""
    in_libvirt = "TcO8bGxlcg"  # Müller
    bridged.wait_task(bridged.request("POST", "vms/web/clone", {"name": in_libvirt}).json["id"])
    task = asked(bridged, f"{VMS}/{quote('Müller')}").json
    assert task["target_uri"].startswith(f"{VMS}/{in_libvirt}-clone-")
    assert ended(bridged, task["id"])["status"] == "finished"


def test_it_is_a_task_of_ours(bridged: Wok) -> None:
    task = asked(bridged, f"{VMS}/web").json
    ours = bridged.wait_task(task["id"])
    assert (ours["status"], ours["owner"], ours["target_uri"]) == ("finished", USER, task["target_uri"])
    assert ours["disks"][0]["action"] == "clone"


def test_a_volume_is_cloned_by_kimchis_button(bridged: Wok) -> None:
    with held(bridged):
        answer = bridged.request("POST", f"{VOLUMES}/web.qcow2/clone", {})
        assert answer.status == 202, answer.text
        assert answer.json["id"] in [task["id"] for task in polled(bridged, "running", OF_VOLUMES)]
    found = re.fullmatch(rf"{VOLUMES}/(web-clone-\d{{16}}\.qcow2)/clone", answer.json["target_uri"])
    assert found
    assert ended(bridged, answer.json["id"])["status"] == "finished"
    assert bridged.request("GET", f"{VOLUMES}/{found[1]}").status == 200
    assert answer.json["target_uri"].split("/")[6] == found[1]  # where the page looks for the name


def test_the_queue_has_what_wok_reads(bridged: Wok) -> None:
    task = asked(bridged, f"{VMS}/web").json
    entry = queued(bridged, task["id"])
    assert entry["target_uri"] == task["target_uri"]
    assert entry["log_id"]
    assert isinstance(entry["timestamp"], float)
    ended(bridged, task["id"])


def test_a_clone_by_our_own_url_is_seen_by_kimchi_too(bridged: Wok) -> None:
    with held(bridged):
        ours = bridged.request("POST", "vms/web/clone").json
        uri = ours["target_uri"].replace("/plugins/cloner/", f"{KIMCHI}/")
        assert uri in [task["target_uri"] for task in polled(bridged, "running")]
    assert ended(bridged, ours["id"])["status"] == "finished"


def test_woks_own_list_has_them_too(bridged: Wok) -> None:
    task = asked(bridged, f"{VMS}/web").json
    assert task["id"] in [found["id"] for found in bridged.request("GET", "/tasks").json]


def poll(wok: Wok, stop: threading.Event) -> int:
    """The most that its page has seen at a time, polling without a pause."""
    most = 0
    while not stop.is_set():
        most = max(most, len(polled(wok, "running")))
    return most


def test_a_hundred_clicks_at_once_by_both_ways(bridged: Wok) -> None:
    """Their names are distinct, they are seen while they run, and all are there in the end."""
    paths = [f"{VMS}/web", "vms/web"] * 50
    stop = threading.Event()
    with ThreadPoolExecutor(1) as page:
        polling = page.submit(poll, bridged, stop)
        try:
            with held(bridged):
                answers = at_once(100, lambda number: asked(bridged, paths[number]))
                assert [answer.status for answer in answers] == [202] * 100
                running = {task["target_uri"].split("/")[4] for task in polled(bridged, "running")}
            tasks = [ended(bridged, answer.json["id"]) for answer in answers]
        finally:
            stop.set()
        assert polling.result() > 0
    names = {task["target_uri"].split("/")[4] for task in tasks}
    assert len(names) == 100
    assert names <= running
    assert {task["status"] for task in tasks} == {"finished"}
    assert {answer.json["id"] for answer in answers} <= {task["id"] for task in polled(bridged, "finished")}
    assert names <= {guest["name"] for guest in bridged.request("GET", VMS).json}


# --- What goes wrong -------------------------------------------------------------------------------------------------


def test_a_guest_that_runs_is_refused_in_kimchis_words(bridged: Wok) -> None:
    answer = asked(bridged, f"{VMS}/mail")
    assert (answer.status, answer.json["code"]) == (400, "400 Bad Request")
    assert answer.json["reason"].startswith("KCHVM0033E: Virtual machine mail is running.")


def test_no_page_of_another_site_clicks_kimchis_button(bridged: Wok) -> None:
    answer = bridged.request("POST", f"{VMS}/web/clone", headers={"Sec-Fetch-Site": "cross-site"})
    assert refusal(answer) == (403, "CLNAUTH0001E")


@pytest.mark.parametrize(
    "path", [f"{VMS}/nope", f"{VOLUMES}/nope.qcow2", f"{KIMCHI}/storagepools/nope/storagevolumes/a"]
)
def test_what_is_not_there_is_404(bridged: Wok, path: str) -> None:
    assert refusal(asked(bridged, path))[0] == 404


MARKUP = "<img src=x>"


@pytest.fixture(scope="module")
def with_markup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wok]:
    """A Wok with the bridge on a host where a guest and its volume have names that would be markup."""
    folder = tmp_path_factory.mktemp("markup")
    inventory = folder / "inventory.xml"
    text = DEMO_INVENTORY.read_text("utf-8").replace("<name>web</name>", f"<name>{escape(MARKUP)}</name>")
    inventory.write_text(text.replace("web.qcow2", f"{escape(MARKUP)}.qcow2"), "utf-8")
    with Wok(folder, plugins=("kimchi", "cloner"), connect=f"test://{inventory}", kimchi_bridge=True) as running:
        yield running


@pytest.mark.parametrize("source", [f"vms/{MARKUP}", f"storagepools/default/storagevolumes/{MARKUP}.qcow2"])
def test_what_has_a_name_already_is_cloned_under_one_like_it(with_markup: Wok, source: str) -> None:
    """Though nobody may choose such a name for a clone: the source has it on that page already."""
    for path in (f"{KIMCHI}/{quote(source)}", quote(source)):
        task = asked(with_markup, path).json
        assert f"/{MARKUP}-clone-" in task["target_uri"]
        assert ended(with_markup, task["id"])["status"] == "finished"
    chosen = with_markup.request("POST", f"{quote(source)}/clone", {"name": f"{MARKUP}-2"})
    assert refusal(chosen) == (400, "CLNNAME0001E")


def test_a_failure_has_a_reason_in_plain_text(with_markup: Wok) -> None:
    """The source is gone by the time that its turn comes, and its name would be markup."""
    wok = with_markup
    source = ended(wok, asked(wok, f"{VMS}/{quote(MARKUP)}").json["id"])["target_uri"].split("/")[4]
    with held(wok):
        task = asked(wok, f"{VMS}/{quote(source)}").json
        volume = wok.request("GET", f"tasks/{task['id']}").json["disks"][0]["source"]["name"]
        wok.request("POST", f"/lose/default/{quote(volume)}")
    failed = ended(wok, task["id"])
    assert failed["status"] == "failed"
    assert re.match(r"CLN[A-Z]+\d{4}E: ", failed["message"])
    assert "‹img src=x›-clone-" in failed["message"]
    assert not set("<>") & set(failed["message"])
    assert task["id"] in [found["id"] for found in polled(wok, "failed")]


# --- Cancelling ------------------------------------------------------------------------------------------------------


def test_delete_of_kimchis_task_cancels_ours(bridged: Wok) -> None:
    with held(bridged):
        task = asked(bridged, f"{VMS}/web").json
        assert bridged.request("DELETE", f"{TASKS}/{task['id']}").status == 204
        assert bridged.request("DELETE", f"{TASKS}/{task['id']}").status == 204  # and again
    assert ended(bridged, task["id"])["status"] == "killed"
    assert task["id"] not in [found["id"] for found in polled(bridged, "running")]
    assert task["target_uri"].split("/")[4] not in [guest["name"] for guest in bridged.request("GET", VMS).json]


def test_nobody_cancels_without_a_login(bridged: Wok) -> None:
    """Kimchi asks for none on its tasks."""
    with held(bridged):
        task = asked(bridged, f"{VMS}/web").json
        answer = bridged.request("DELETE", f"{TASKS}/{task['id']}", anonymous=True)
        assert answer.status in (401, 404)
    assert ended(bridged, task["id"])["status"] == "finished"


def test_a_task_that_has_ended_stays_as_it_is(bridged: Wok) -> None:
    task = ended(bridged, asked(bridged, f"{VMS}/web").json["id"])
    assert bridged.request("DELETE", f"{TASKS}/{task['id']}").status == 204
    assert bridged.request("GET", f"{TASKS}/{task['id']}").json == task


def test_what_leaves_our_list_leaves_kimchis(bridged: Wok) -> None:
    task = ended(bridged, asked(bridged, f"{VMS}/web").json["id"])
    assert bridged.request("DELETE", f"tasks/{task['id']}").status == 204
    gone = f"{TASKS}/{task['id']}"
    wait_until(lambda: bridged.request("GET", gone).status == 404, 10, "the task leaves the queue", lambda: bridged.log)


# --- Who sees what ---------------------------------------------------------------------------------------------------


def test_a_user_clones_and_sees_what_is_theirs(tmp_path: Path) -> None:
    connect = people.inventory(tmp_path)
    settings: dict[str, Any] = {"connect": connect, "kimchi_bridge": True, "max_running_per_user": 1}
    with Wok(tmp_path, plugins=("cloner", "kimchi"), **settings) as wok:
        ann, bob = wok.log_in("ann"), wok.log_in("bob")
        with held(wok):
            task = asked(wok, f"{VMS}/win-uefi", ann).json
            one_more = asked(wok, f"{VMS}/win-uefi", ann)
            assert refusal(one_more) == (400, "CLNLIMIT0001E")  # Wok has no answer in JSON for 429
        assert asked(wok, f"{VMS}/web", ann).status == 403  # by Wok, which knows whose it is
        assert asked(wok, f"{VOLUMES}/web.qcow2", ann).status == 404  # storage is for admins
        ended(wok, task["id"])
        seen = {name: polled(wok, "finished", session=session) for name, session in (("ann", ann), ("bob", bob))}
        assert [found["id"] for found in seen["ann"]] == [task["id"]]
        assert seen["bob"] == []
        one = f"{TASKS}/{task['id']}"
        assert wok.request("GET", one, headers=cookie(bob)).status == 404
        assert refusal(wok.request("DELETE", one, headers=cookie(bob))) == (404, "WOKASYNC0001E")
        assert wok.request("GET", one, anonymous=True).status == 404
        assert wok.request("GET", TASKS, anonymous=True).json == []
        wok.request("POST", "/enable/ginger")
        assert wok.request("GET", "/plugins/ginger/tasks", anonymous=True).json == []
        assert task["id"] in [found["id"] for found in wok.request("GET", "/plugins/ginger/tasks").json]
        said = [entry["message"] for entry in wok.request("GET", "/logs").json if entry["app"] == "kimchi"]
        assert f"Request made on resource (WOKASYNC0001E: Task id '{task['id']}' does not exist)" in said
        assert sum("(CLNLIMIT0001E: 1 clones of yours are being made, and 1 may be." in text for text in said) == 1


def test_who_logs_in_by_ldap_clones_what_kimchi_gives_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kimchi's metadata have users by the kind of log-in that Wok has (src/wok.conf.in, authentication)."""
    monkeypatch.setenv("WOK_METHOD", "ldap")
    connect = people.inventory(tmp_path, "ldap")
    with Wok(tmp_path, plugins=("cloner", "kimchi"), connect=connect, kimchi_bridge=True) as wok:
        ann = wok.log_in("ann")
        task = asked(wok, f"{VMS}/win-uefi", ann)
        assert task.status == 202, task.text
        assert ended(wok, task.json["id"])["status"] == "finished"
        clone = task.json["target_uri"].split("/")[4]
        for path in (f"{VMS}/{clone}", f"vms/{clone}"):
            assert wok.request("GET", path, headers=cookie(ann)).status == 200
        seen = [guest["name"] for guest in wok.request("GET", "vms", headers=cookie(ann)).json]
        assert sorted(seen) == ["mail", "win-uefi", clone]


# --- Icons and the log -----------------------------------------------------------------------------------------------


def test_a_clone_has_its_sources_icon(bridged: Wok) -> None:
    icon = "plugins/kimchi/images/icon-fedora.png"
    source = bridged.request("GET", "vms/web").json["uuid"]
    bridged.request("POST", f"{KIMCHI}/icons/{source}?icon={quote(icon)}")
    task = ended(bridged, asked(bridged, f"{VMS}/web").json["id"])
    clone = bridged.request("GET", f"vms/{task['target_uri'].split('/')[4]}").json["uuid"]
    stored = bridged.request("GET", f"{KIMCHI}/icons/{clone}").text
    assert stored == repr(({"icon": icon}, ["3.0.0"]))
    without = bridged.request("GET", "vms/db").json["uuid"]
    assert bridged.request("GET", f"{KIMCHI}/icons/{without}").text == "({}, [])"
    ended(bridged, asked(bridged, f"{VMS}/db").json["id"])  # a source without one is cloned all the same


def test_who_is_long_within_kimchis_object_store_keeps_nobody_from_wok(bridged: Wok) -> None:
    """Such as Kimchi itself, which asks libvirt for all guests there (its model/diskutils.py)."""
    bridged.request("POST", f"{KIMCHI}/busy/yes")
    try:
        task = asked(bridged, f"{VMS}/web").json
        assert bridged.wait_task(task["id"])["status"] == "finished"
        assert bridged.request("GET", f"{TASKS}/{task['id']}").json["status"] == "running"  # the icon is to come
    finally:
        bridged.request("POST", f"{KIMCHI}/busy/no")
    assert ended(bridged, task["id"])["status"] == "finished"


def test_a_click_is_one_entry_of_woks_activity_log(bridged: Wok) -> None:
    def entries() -> list[dict[str, Any]]:
        return [entry for entry in bridged.request("GET", "/logs").json if entry["app"] == "kimchi"]

    before = len(entries())
    asked(bridged, f"{VMS}/web")
    asked(bridged, f"{VMS}/mail")
    new = entries()[before:]
    assert [(entry["req"], entry["status"], entry["user"]) for entry in new] == [
        ("POST", 202, USER),
        ("POST", 400, USER),
    ]


# --- On and off ------------------------------------------------------------------------------------------------------


def test_it_is_off_unless_it_is_switched_on(start: Callable[..., Wok]) -> None:
    wok = start(plugins=("kimchi", "cloner"))
    answer = asked(wok, f"{VMS}/web")
    assert answer.json["target_uri"] == f"{VMS}/web-by-kimchi/clone"
    assert process(wok)["kimchis_own"] == OWN
    assert wok.request("GET", "tasks").json == []
    assert "kimchi_bridge" not in wok.log


@pytest.mark.parametrize("plugins", [("kimchi", "cloner"), ("cloner", "kimchi")])
def test_it_does_not_matter_which_is_loaded_first(start: Callable[..., Wok], plugins: tuple[str, ...]) -> None:
    wok = start(plugins=plugins, kimchi_bridge=True)
    assert "web-clone-" in asked(wok, f"{VMS}/web").json["target_uri"]
    assert "kimchi_bridge is on: Kimchi's clone buttons are answered by cloner" in wok.log
    assert process(wok)["kimchis_own"] == []


def test_kimchi_may_come_later(start: Callable[..., Wok]) -> None:
    wok = start(plugins=("cloner",), kimchi_bridge=True)
    assert "kimchi_bridge is on, but Kimchi is not mounted in this Wok" in wok.log
    assert wok.request("GET", "vms").status == 200
    wok.request("POST", "/enable/kimchi")
    assert "web-clone-" in asked(wok, f"{VMS}/web").json["target_uri"]


def test_kimchi_loaded_anew_is_bridged_anew(start: Callable[..., Wok]) -> None:
    wok = start(plugins=("cloner", "kimchi"), kimchi_bridge=True)
    wok.request("POST", "/enable/kimchi")
    task = asked(wok, f"{VMS}/web").json
    assert "web-clone-" in task["target_uri"]
    assert ended(wok, task["id"])["status"] == "finished"


def test_cloner_loaded_anew_takes_the_bridge_over(start: Callable[..., Wok]) -> None:
    wok = start(plugins=("cloner", "kimchi"), kimchi_bridge=True)
    wok.request("POST", "/enable/cloner")
    task = asked(wok, f"{VMS}/web").json
    assert ended(wok, task["id"])["status"] == "finished"
    switch(wok, kimchi_bridge=False)
    assert asked(wok, f"{VMS}/web").json["target_uri"] == f"{VMS}/web-by-kimchi/clone"
    assert process(wok)["kimchis_own"] == OWN


def test_switched_off_kimchis_own_functions_are_back_and_on_again_ours(start: Callable[..., Wok]) -> None:
    wok = start(plugins=("kimchi", "cloner"), kimchi_bridge=True)
    ended(wok, asked(wok, f"{VMS}/web").json["id"])
    switch(wok, kimchi_bridge=False)
    assert asked(wok, f"{VMS}/web").json["target_uri"] == f"{VMS}/web-by-kimchi/clone"
    found = process(wok)
    assert found["kimchis_own"] == OWN
    assert {entry["type"] for entry in found["queue"]} == {"AsyncTask"}
    assert "kimchi_bridge is off: Kimchi's clone buttons are its own again" in wok.log
    assert len(wok.request("GET", "tasks").json) == 1  # ours stays in our own list
    switch(wok, kimchi_bridge=True)
    assert "web-clone-" in asked(wok, f"{VMS}/web").json["target_uri"]


def test_a_slip_in_the_file_changes_nothing(start: Callable[..., Wok]) -> None:
    wok = start(plugins=("kimchi", "cloner"), kimchi_bridge=True)
    switch(wok, kimchi_bridge="perhaps")
    assert "web-clone-" in asked(wok, f"{VMS}/web").json["target_uri"]
    assert "kimchi_bridge must be True or False, not perhaps" in wok.log


def test_the_plugin_switched_off_takes_the_bridge_with_it(start: Callable[..., Wok]) -> None:
    wok = start(plugins=("kimchi", "cloner"), kimchi_bridge=True)
    wok.request("POST", "/disable/cloner")
    assert asked(wok, f"{VMS}/web").json["target_uri"] == f"{VMS}/web-by-kimchi/clone"
    assert refusal(wok.request("GET", "vms")) == (404, "CLNAPI0001E")


@pytest.mark.parametrize(
    ("version", "said"), [("2.5.0", "this is Kimchi 2.5.0, and only 3.0 is known"), ("3.1.0", "this is Kimchi 3.1.0")]
)
def test_another_kimchi_is_left_alone(start: Callable[..., Wok], version: str, said: str) -> None:
    wok = start(plugins=("kimchi", "cloner"), kimchi_bridge=True, version=version)
    assert asked(wok, f"{VMS}/web").json["target_uri"] == f"{VMS}/web-by-kimchi/clone"
    assert f"kimchi_bridge is on, but {said}" in wok.log
    assert process(wok)["kimchis_own"] == OWN


def test_a_kimchi_whose_functions_are_called_otherwise_is_left_alone(start: Callable[..., Wok]) -> None:
    wok = start(plugins=("kimchi", "cloner"), kimchi_bridge=True, version="3.0.0-otherwise")
    assert "kimchi_bridge is on, but Kimchi's vm_clone is called in another way than that of 3.0" in wok.log


# --- Several servers -------------------------------------------------------------------------------------------------


def has_finished(wok: Wok, uris: set[str]) -> bool:
    return {task["target_uri"] for task in polled(wok, "finished")} == uris


def test_another_wok_and_a_server_of_its_own_share_the_journal(tmp_path: Path) -> None:
    """Each libvirt of the test driver's is another host, so what is looked at is names and tasks."""
    state = tmp_path / "shared"
    first = Wok(tmp_path / "a", plugins=("kimchi", "cloner"), connect=demo_uri(), kimchi_bridge=True, state_dir=state)
    second = Wok(tmp_path / "b", plugins=("cloner", "kimchi"), connect=demo_uri(), kimchi_bridge=True, state_dir=state)
    with first, second, Server(None, state) as alone:
        servers: list[tuple[Server, str]] = [(first, f"{VMS}/web"), (second, f"{VMS}/web"), (alone, "vms/web")] * 10
        answers = at_once(30, lambda number: servers[number][0].request("POST", f"{servers[number][1]}/clone"))
        assert [answer.status for answer in answers] == [202] * 30
        uris = {answer.json["target_uri"] for answer in answers}
        assert len(uris) == 30
        for wok in (first, second):
            wait_until(partial(has_finished, wok, uris), 30, "Kimchi sees the clones of all servers", lambda: alone.log)


def test_after_a_restart_kimchi_still_has_them(start: Callable[..., Wok]) -> None:
    wok = start(plugins=("kimchi", "cloner"), kimchi_bridge=True)
    task = ended(wok, asked(wok, f"{VMS}/web").json["id"])
    assert wok.terminate() == 0
    wok.start()
    assert wok.request("GET", f"{TASKS}/{task['id']}").json == task
