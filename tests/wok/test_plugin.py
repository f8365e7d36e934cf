"""The plugin inside Wok: how it is loaded, who may come in, that it clones there as it does alone, and how it ends."""

from __future__ import annotations

import ast
import base64
import configparser
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cherrypy.lib.reprconf import Parser
from lxml import etree

from cloner import plugin
from cloner.bridge import activity
from cloner.control import sub_nodes, tab_nodes
from cloner.control.events import SURE_S
from cloner.engine.journal import Journal
from support import people
from support.answers import at_once, cloned, refusal
from support.running import wait_until
from support.server import Response
from support.wok import MOUNT_POINT, PASSWORD, ROOT, USER, Wok

NOT_LOGGED_IN = (401, "WOKAUTH0002E")
NOTHING_THERE = (404, "CLNAPI0001E")
LOADING_FAILED = "Failed to import plugin"
SETTINGS_WAIT = "settings that changed take effect when Wok starts anew"
JSON_IN = {"Content-Type": "application/json"}
FORM_IN = {"Content-Type": "application/x-www-form-urlencoded"}
EXAMPLES = {"{name}": "mail", "{pool}": "default", "{id}": "999999"}  # mail runs: whoever comes in changes nothing
EXAMPLES |= {"{page}": "clones.html", "{folder}": "config", "{file}": "i18n.json"}

FILES = [*ROOT.glob("*.py"), *(file for first in ROOT.glob("*/__init__.py") for file in first.parent.rglob("*.py"))]
OWN_NAMES = {"cloner", "wok"} | {file.relative_to(ROOT).parts[0].removesuffix(".py") for file in FILES} - {"__main__"}


# --- Loading ---------------------------------------------------------------------------------------------------------


def absolute_imports(source: str) -> list[str]:
    """The imports of the package's own modules that do not begin with a dot."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append(str(node.module))
    return [name for name in found if name.split(".")[0] in OWN_NAMES]


@pytest.mark.parametrize("file", [pytest.param(file, id=str(file.relative_to(ROOT))) for file in FILES])
def test_the_package_imports_itself_by_relative_names_only(file: Path) -> None:
    assert absolute_imports(file.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import cloner", ["cloner"]),
        ("import os, cloner.utils as u", ["cloner.utils"]),
        ("from cloner.engine import plan", ["cloner.engine"]),
        ("from wok.config import paths", ["wok.config"]),
        ("def f():\n    from engine.plan import plan", ["engine.plan"]),
        ("from . import utils", []),
        ("from ..engine import plan", []),
        ("import os", []),
    ],
)
def test_absolute_imports_are_found(source: str, found: list[str]) -> None:
    assert absolute_imports(source) == found


def test_it_is_loaded_under_woks_name_and_no_other(wok: Wok) -> None:
    cloned(wok, "vms/web")
    process = wok.request("GET", "/process").json
    assert process["refused"] == []  # a `cloner` was not even asked for
    assert {"wok.plugins.cloner.plugin", "wok.plugins.cloner.engine.executor"} <= set(process["loaded"])
    assert OWN_NAMES & set(process["loaded"]) == {"wok"}


@pytest.mark.parametrize(("parser", "yes"), [(configparser.ConfigParser, "True"), (Parser, True)])
def test_woks_parsers_read_the_configuration_as_it_is_shipped(
    parser: type[configparser.ConfigParser], yes: object
) -> None:
    """Python's takes `%` for something else, and CherryPy's, which Wok had before, takes every value for Python."""
    found = parser()
    found.read(str(ROOT / "cloner.conf"))
    sections = found.as_dict() if isinstance(found, Parser) else {name: dict(found[name]) for name in found.sections()}
    assert sections == {"wok": {"enable": yes}, "cloner": {}, "server": {}}


def test_a_wok_to_which_values_are_python_reads_texts_in_quotes(
    start: Callable[..., Wok], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WOK_PARSER", "CherryPy")
    wok = start(keep_tasks_hours=1.5)
    cloned(wok, "vms/web")
    assert (wok.state_dir / "journal.sqlite").exists()


def test_the_settings_are_those_of_the_file_in_woks_folder(wok: Wok) -> None:
    assert (wok.state_dir / "journal.sqlite").exists()
    assert "web" in [guest["name"] for guest in wok.request("GET", "vms").json]  # of the inventory that connect names


def test_a_wrong_setting_is_named_in_the_log_and_wok_goes_on(start: Callable[..., Wok]) -> None:
    wok = start(workers=0)
    assert wok.request("GET", "/wok-ui.html").status == 200
    assert wok.request("GET", "vms").status == 404
    assert "CLNCONF0001E: Configuration: workers must be at least 1" in wok.log


def test_enabled_while_wok_runs_it_works_at_once(start: Callable[..., Wok]) -> None:
    wok = start()
    assert wok.request("POST", "/enable/cloner").status == 200
    cloned(wok, "vms/web")


def test_loaded_anew_it_leaves_nothing_of_before_behind(start: Callable[..., Wok]) -> None:
    """Wok's page loads what is enabled there also where it was loaded before, and makes no end of that."""
    wok = start()
    wok.request("POST", "/hold/yes")
    task = wok.request("POST", "vms/web/clone").json
    for _ in range(3):
        assert wok.request("POST", "/disable/cloner").status == 200
        assert wok.request("POST", "/enable/cloner").status == 200
    assert len(list((wok.state_dir / "servers").iterdir())) == 1  # whoever works has a lease there
    assert wok.request("GET", f"tasks/{task['id']}").json["status"] == "running"
    wok.request("POST", "/hold/no")
    assert wok.wait_task(task["id"])["status"] == "finished"
    cloned(wok, "vms/web")
    assert SETTINGS_WAIT not in wok.log
    assert LOADING_FAILED not in wok.log
    assert wok.terminate() == 0
    assert "Traceback" not in wok.log


def test_loaded_anew_with_other_settings_it_has_those_when_wok_starts_anew(
    start: Callable[..., Wok], tmp_path: Path
) -> None:
    """Until then what is at work goes on, and no second of it is beside it."""
    wok, another = start(), tmp_path / "another"
    before = cloned(wok, "vms/web")
    wok.conf.write_text(wok.conf.read_text("utf-8").replace(str(wok.state_dir), str(another)), "utf-8")
    wok.request("POST", "/enable/cloner")
    assert [task["id"] for task in wok.request("GET", "tasks").json] == [before["id"]]
    cloned(wok, "vms/web")
    assert not another.exists()
    assert SETTINGS_WAIT in wok.log
    assert LOADING_FAILED not in wok.log
    assert wok.terminate() == 0
    assert "Traceback" not in wok.log
    wok.start()
    assert wok.request("GET", "tasks").json == []
    assert another.exists()


def test_switched_off_in_the_file_it_stays_out(start: Callable[..., Wok]) -> None:
    """To Wok `enable = False` is a text, and therefore true."""
    wok = start(enable=False)
    assert wok.request("GET", "vms").status == 404
    assert re.search(r"CLNCONF0001E: Configuration: enable is False in \S+cloner\.conf, so it stays out", wok.log)
    assert not (wok.state_dir / "journal.sqlite").exists()
    assert wok.request("POST", "/enable/cloner").status == 200
    cloned(wok, "vms/web")


def test_switched_off_on_woks_page_it_is_empty_at_once_and_what_runs_goes_on(start: Callable[..., Wok]) -> None:
    """Wok itself would leave it as it is until the next start."""
    wok = start(plugins=("kimchi", "cloner"))
    wok.request("POST", "/hold/yes")
    task = wok.request("POST", "vms/web/clone").json
    assert wok.request("POST", "/disable/cloner").status == 200
    assert refusal(wok.request("GET", "vms")) == NOTHING_THERE
    assert refusal(wok.request("POST", "vms/web/clone")) == NOTHING_THERE
    assert refusal(wok.request("GET", "vms", anonymous=True)) == NOT_LOGGED_IN
    wok.request("POST", "/hold/no")
    name = task["target_uri"].split("/")[4]
    made = f"/plugins/kimchi/vms/{name}"
    wait_until(lambda: wok.request("GET", made).status == 200, 30, "the clone is there", lambda: wok.log)


def test_what_wok_sets_for_every_plugin_stays(wok: Wok) -> None:
    assert "no-store" in wok.request("GET", "vms").headers["Cache-Control"]


def test_woks_own_pages_ask_what_the_plugin_adds_to_them(wok: Wok) -> None:
    answer = wok.request("GET", "/wok-ui.html")
    assert (answer.status, answer.json) == (200, [])


# --- The tab ---------------------------------------------------------------------------------------------------------


def test_woks_page_finds_the_tab_and_its_title(wok: Wok) -> None:
    answer = wok.request("GET", "ui/config/tab-ext.xml")
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) in [
        (200, "text/xml"),
        (200, "application/xml"),
    ]
    tabs = etree.fromstring(answer.body)
    titles = wok.request("GET", "i18n.json")
    assert titles.headers["Content-Type"] == "application/json;charset=utf-8"
    assert [titles.json[title.text] for title in tabs.iter("title")] == ["Clones"]
    assert {access.get("role"): access.get("mode") for access in tabs.iter("access")} == {
        "admin": "admin",
        "user": "byInstance",
    }


def test_the_tabs_page_loads_what_it_needs_from_us(wok: Wok) -> None:
    """Wok's page puts it into its own middle, so that its paths are relative to Wok's root."""
    path = str(etree.fromstring(wok.request("GET", "ui/config/tab-ext.xml").body).findtext("tab/path"))
    page = wok.request("GET", f"/{path}", headers={"Accept": "text/html, */*; q=0.01"})
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html;charset=utf-8")
    assert 'lastPage="/#plugins/cloner/tabs/clones"; Path=/' in page.headers.get_all("Set-Cookie", [])
    module = re.search(r'import\(new URL\("(.+?)", document.baseURI\)\)', page.text)
    assert module
    script = wok.request("GET", f"/{module[1]}", headers={"Accept": "*/*"})
    assert (script.status, script.headers["Content-Type"]) == (200, "text/javascript;charset=utf-8")
    names = re.findall(r'(?:sheet\("|from "\./)(.+?)"', script.text)
    assert set(names) == {"colors.css", "page.css", "page.js"}
    for name in names:
        assert wok.request("GET", f"ui/{name}").status == 200


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("ui/index.html", "text/html;charset=utf-8"),
        ("ui/page.css", "text/css;charset=utf-8"),
        ("ui/app.js", "text/javascript;charset=utf-8"),
        ("ui/icon.svg", "image/svg+xml"),
        ("ui/po/de.po", "text/x-gettext-translation;charset=utf-8"),
        ("ui/config/i18n.json", "application/json;charset=utf-8"),
    ],
)
def test_files_of_the_page_have_their_types(wok: Wok, path: str, kind: str) -> None:
    answer = wok.request("GET", path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
    assert answer.body == (ROOT / path).read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "ui/nope",
        "ui/..",
        "ui/../plugin.py",
        "ui/%2e%2e/plugin.py",
        "ui/..%2fplugin.py",
        "tabs/..",
        "tabs/",
        "ui/config",
        f"ui/{'a' * 300}",
        f"tabs/{'a' * 5000}",
    ],
)
def test_no_other_file_is_served(wok: Wok, path: str) -> None:
    assert refusal(wok.request("GET", path)) == NOTHING_THERE


# --- Wok's activity log ----------------------------------------------------------------------------------------------


def test_requests_are_in_woks_activity_log(wok: Wok) -> None:
    def entries() -> list[dict[str, Any]]:
        return [entry for entry in wok.request("GET", "/logs").json if entry["app"] == "cloner"]

    before = len(entries())
    name = cloned(wok, "vms/web")["target_uri"].split("/")[4]
    wok.request("POST", "vms/mail/clone")
    wok.request("DELETE", "vms/" + quote('<b>"%(x)s{y}'))
    wok.request("DELETE", f"vms/{name}")
    wok.request("DELETE", "tasks/999999")
    wok.request("GET", "vms/nope")  # what only looks is not told
    new = entries()[before:]
    assert {(entry["user"], entry["ip"]) for entry in new} == {(USER, "127.0.0.1")}
    assert [(entry["req"], entry["status"]) for entry in new] == [
        *(("POST", 202), ("POST", 400), ("DELETE", 404), ("DELETE", 204), ("DELETE", 404)),
    ]
    said = [entry["message"] for entry in new]
    assert said[0] == "Clone vms/web"
    assert said[1].startswith("Clone vms/mail (KCHVM0033E: Virtual machine mail is running. Shut it down")
    assert said[2] == "Delete vms/‹b›”%(x)s{y} (KCHVM0002E: Virtual machine ‹b›”%(x)s{y} does not exist)"
    assert said[3] == f"Delete vms/{name}"
    assert said[4] == "Cancel or clear tasks/999999 (WOKASYNC0001E: Task 999999 does not exist)"


def test_every_text_of_ours_can_be_filled_in_as_wok_does() -> None:
    for code, text in activity.messages(plugin._texts()).items():
        names = re.findall(r"%\((\w+)\)s", text)
        assert "%(" not in text % dict.fromkeys(names, "x"), code
        assert not re.search(r"\{\w+\}", text), code


# --- Who may come in -------------------------------------------------------------------------------------------------


def routes() -> Iterator[tuple[str, str]]:
    """Every method and path that the plugin serves."""
    for resource, controller in {**sub_nodes, **tab_nodes}.items():
        for route in controller.routes:
            parts = [EXAMPLES[part] if part.startswith("{") else part for part in route.parts]
            yield route.method, "/".join([resource, *parts])


every_route = pytest.mark.parametrize(("method", "path"), list(routes()))
every_path = pytest.mark.parametrize(
    "path", ["", "nope", "__class__", "services", *sorted({path for _, path in routes()})]
)


@every_route
def test_nobody_comes_in_without_a_login(wok: Wok, method: str, path: str) -> None:
    answer = wok.request(method, path, anonymous=True)
    assert refusal(answer) == NOT_LOGGED_IN
    assert answer.headers["WWW-Authenticate"] == "Basic realm=wok"


@every_path
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_not_even_to_learn_what_is_there(wok: Wok, method: str, path: str) -> None:
    assert refusal(wok.request(method, path, anonymous=True)) == NOT_LOGGED_IN


@every_route
def test_a_session_of_woks_opens(wok: Wok, method: str, path: str) -> None:
    assert wok.request(method, path).status in (200, 400, 404)


def test_a_password_opens_too(wok: Wok) -> None:
    def answer(password: str) -> Response:
        credentials = base64.b64encode(f"{USER}:{password}".encode()).decode()
        return wok.request("GET", "vms", headers={"Authorization": f"Basic {credentials}"}, anonymous=True)

    assert answer(PASSWORD).status == 200
    assert refusal(answer("wrong"))[0] == 401


def test_a_session_that_logged_out_does_not_open(wok: Wok) -> None:
    session = {"Cookie": wok.log_in()}
    assert wok.request("GET", "vms", headers=session, anonymous=True).status == 200
    assert wok.request("POST", "/logout", headers=session, anonymous=True).status == 200
    assert refusal(wok.request("GET", "vms", headers=session, anonymous=True)) == NOT_LOGGED_IN


def test_a_pages_script_is_refused_without_the_browsers_own_window(wok: Wok) -> None:
    answer = wok.request("GET", "vms", headers={"X-Requested-With": "XMLHttpRequest"}, anonymous=True)
    assert refusal(answer) == NOT_LOGGED_IN
    assert answer.headers["WWW-Authenticate"] is None


def test_a_browser_is_sent_to_woks_own_page_to_log_in(wok: Wok) -> None:
    answer = wok.request("GET", "vms", headers={"Accept": "text/html"}, anonymous=True)
    assert answer.status == 303
    assert answer.headers["Location"] == wok.url("/login.html")


@pytest.mark.parametrize(
    "path",
    [
        "vms/",
        "vms?anything",
        "%76ms",
        "VMS",
        "./vms",
        "/vms",
        "vms;x",
        "vms%2Fweb",
        "css/../vms",
        "css",
        "js/../vms/web",
        "images/..%2fvms",
        "ui/config/tab-ext.xml",
        "ui/config/nope.xml",
        "ui/../vms",
        "tabs",
        "js/app.js",
        "images/icon.svg",
    ],
)
def test_no_spelling_gets_around_the_login(wok: Wok, path: str) -> None:
    answer = wok.request("GET", f"{MOUNT_POINT}/{path}", anonymous=True)
    assert refusal(answer) == NOT_LOGGED_IN


# --- Who sees what ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peoples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wok]:
    """A Wok whose guests are somebody's."""
    folder = tmp_path_factory.mktemp("people")
    with Wok(folder, connect=people.inventory(folder)) as running:
        yield running


def ask_as(wok: Wok, user: str, method: str, path: str, body: object = None) -> Response:
    return wok.request(method, path, body, {"Cookie": wok.log_in(user)}, anonymous=True)


def test_the_role_of_woks_session_decides(peoples: Wok) -> None:
    seen = {
        user: sorted(guest["name"] for guest in ask_as(peoples, user, "GET", "vms").json)
        for user in ("root", "ann", "bob", "eve")
    }
    assert seen == {"root": ["db", "mail", "web", "win-uefi"], "ann": ["mail", "win-uefi"], "bob": [], "eve": []}


@pytest.mark.parametrize("user", ["ann", "bob", "eve"])
def test_to_a_user_of_woks_what_is_not_theirs_does_not_exist(peoples: Wok, user: str) -> None:
    for method, path in (("GET", "vms/web"), ("POST", "vms/web/clone"), ("DELETE", "vms/web")):
        assert refusal(ask_as(peoples, user, method, path)) == (404, "KCHVM0002E")
    assert refusal(ask_as(peoples, user, "GET", "storagepools/default")) == (404, "KCHPOOL0002E")


def test_a_user_of_woks_clones_what_is_theirs_and_sees_the_task(peoples: Wok) -> None:
    answer = ask_as(peoples, "ann", "POST", "vms/win-uefi/clone")
    assert (answer.status, answer.json["owner"]) == (202, "ann")
    task = f"tasks/{answer.json['id']}"
    statuses = {user: ask_as(peoples, user, "GET", task).status for user in ("root", "ann", "bob", "eve")}
    assert statuses == {"root": 200, "ann": 200, "bob": 404, "eve": 404}


# --- Cloning ---------------------------------------------------------------------------------------------------------


def test_a_guest_is_cloned_as_the_pages_button_asks_for_it(wok: Wok) -> None:
    answer = wok.request("POST", "vms/web/clone")  # an empty body, without a type
    task = answer.json
    assert answer.status == 202
    assert re.fullmatch(rf"{MOUNT_POINT}/vms/web-clone-\d{{16}}/clone", task["target_uri"])
    assert answer.headers["Location"] == f"{MOUNT_POINT}/tasks/{task['id']}"
    assert wok.wait_task(task["id"])["status"] == "finished"
    guest = wok.request("GET", f"vms/{task['target_uri'].split('/')[4]}")
    assert (guest.status, guest.json["state"]) == (200, "shutoff")


def test_a_volume_is_cloned_as_the_page_asks_for_it(wok: Wok) -> None:
    volumes = "storagepools/default/storagevolumes"
    task = cloned(wok, f"{volumes}/web.qcow2")
    found = re.fullmatch(rf"{MOUNT_POINT}/{volumes}/(web-clone-\d{{16}}\.qcow2)/clone", task["target_uri"])
    assert found
    assert wok.request("GET", f"{volumes}/{found[1]}").status == 200


def test_the_pages_poll_finds_the_task(wok: Wok) -> None:
    task = cloned(wok, "vms/web")
    answer = wok.request("GET", f"tasks?status=finished&target_uri=^{MOUNT_POINT}/vms/.%2B/clone")
    assert task["id"] in [found["id"] for found in answer.json]


def test_fifty_at_once_get_fifty_names_and_are_all_there(wok: Wok) -> None:
    answers = at_once(50, lambda _: wok.request("POST", "vms/web/clone"))
    assert [answer.status for answer in answers] == [202] * 50
    tasks = [wok.wait_task(answer.json["id"]) for answer in answers]
    assert {task["status"] for task in tasks} == {"finished"}
    names = {task["target_uri"].split("/")[4] for task in tasks}
    assert len(names) == 50
    assert names <= {guest["name"] for guest in wok.request("GET", "vms").json}


def test_a_clone_is_deleted_by_a_request_with_a_body(wok: Wok) -> None:
    """Wok's CherryPy takes DELETE for a method without one."""
    name = cloned(wok, "vms/web")["target_uri"].split("/")[4]
    assert refusal(wok.request("DELETE", f"vms/{name}", {"storrage": True})) == (400, "CLNAPI0004E")
    assert wok.request("DELETE", f"vms/{name}", {"storage": True}).status == 204
    assert wok.request("GET", f"vms/{name}").status == 404


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_no_page_of_another_site_has_anything_cloned(wok: Wok, site: str) -> None:
    """Wok asks nobody for that, and its cookie is sent along by browsers that do so unless they are told otherwise."""
    page = {"Sec-Fetch-Site": site}
    assert refusal(wok.request("POST", "vms/web/clone", headers=page)) == (403, "CLNAUTH0001E")
    assert wok.request("GET", "vms", headers=page).status == 200
    assert wok.request("POST", "vms/web/clone", headers={"Sec-Fetch-Site": "same-origin"}).status == 202


# --- Threads ---------------------------------------------------------------------------------------------------------


def test_who_follows_events_leaves_threads_to_wok(start: Callable[..., Wok]) -> None:
    """It has ten, and a stream occupies one for as long as it lasts."""
    wok = start()
    with ExitStack() as closing_all:
        answers = []
        for _ in range(4):
            connection = closing_all.enter_context(closing(HTTPConnection(*wok.address, timeout=30)))
            connection.request("GET", f"{MOUNT_POINT}/events", headers={"Cookie": wok.log_in()})
            answers.append(connection.getresponse().status)
        assert answers == [200, 200, 503, 503]
        assert wok.request("GET", "/wok-ui.html").status == 200


def test_a_log_out_ends_what_it_follows(start: Callable[..., Wok]) -> None:
    wok = start()
    session = wok.log_in()
    with closing(HTTPConnection(*wok.address, timeout=60)) as connection:
        connection.request("GET", f"{MOUNT_POINT}/events", headers={"Cookie": session})
        stream = connection.getresponse()
        assert stream.readline().startswith(b"retry:")
        cloned(wok, "vms/web")
        while b"finished" not in stream.readline():
            pass
        wok.request("POST", "/logout", headers={"Cookie": session})
        time.sleep(SURE_S)
        cloned(wok, "vms/web")
        for line in stream:
            assert line != b"event: task\n"


# --- Request ids -----------------------------------------------------------------------------------------------------


def test_a_request_keeps_its_id(wok: Wok) -> None:
    assert wok.request("GET", "vms", headers={"X-Request-Id": "mine"}).headers["X-Request-Id"] == "mine"
    made = {wok.request("GET", "vms/nope").headers["X-Request-Id"] for _ in range(3)}
    assert len(made - {None}) == 3


# --- Errors and names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "expected"),
    [
        ("GET", "vms/nope", None, {}, (404, "KCHVM0002E")),
        ("POST", "vms/nope/clone", None, {}, (404, "KCHVM0002E")),
        ("GET", "nope", None, {}, NOTHING_THERE),
        ("GET", "", None, {}, NOTHING_THERE),
        ("PUT", "vms/web", "{}", JSON_IN, (405, "CLNAPI0002E")),
        ("GET", "vms/web/clone", None, {}, (405, "CLNAPI0002E")),
        ("TRACE", "vms", None, {}, (405, "CLNAPI0002E")),
        ("POST", "vms/mail/clone", None, {}, (400, "KCHVM0033E")),
        ("POST", "vms/web/clone", "{", JSON_IN, (400, "WOKAPI0006E")),
        ("POST", "vms/web/clone", "[]", JSON_IN, (400, "CLNAPI0003E")),
        ("POST", "vms/web/clone", '{"nmae": "x"}', JSON_IN, (400, "CLNAPI0004E")),
        ("POST", "vms/web/clone", '{"name": 7}', JSON_IN, (400, "CLNAPI0004E")),
        ("POST", "vms/web/clone", '{"name": "a/b"}', JSON_IN, (400, "CLNNAME0001E")),
        ("POST", "vms/web/clone", '{"name": "mail"}', JSON_IN, (409, "CLNNAME0002E")),
        ("POST", "vms/web/clone", "name=x", FORM_IN, (415, "WOKAPI0007E")),
        ("POST", "vms/web/clone", "{}", {}, (415, "WOKAPI0007E")),
        ("POST", "vms/web/clone", " " * 65537, JSON_IN, (413, "CLNAPI0005E")),
        ("GET", "tasks?status=(", None, {}, (400, "CLNAPI0006E")),
    ],
)
def test_errors_have_our_shape(
    wok: Wok, method: str, path: str, body: str | None, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    assert refusal(wok.request(method, path, body, headers)) == expected


def test_a_wrong_method_says_which_are_possible(wok: Wok) -> None:
    assert wok.request("PUT", "vms/web").headers["Allow"] == "DELETE, GET, HEAD"


@pytest.mark.parametrize("name", ["__class__", "__init__", "default", "index", "routes", "clone", "_model"])
def test_the_name_of_a_guest_is_nothing_but_a_name(wok: Wok, name: str) -> None:
    assert refusal(wok.request("GET", f"vms/{name}")) == (404, "KCHVM0002E")
    assert refusal(wok.request("POST", f"vms/{name}/clone")) == (404, "KCHVM0002E")
    assert cloned(wok, "vms/web", name=name)["target_uri"] == f"{MOUNT_POINT}/vms/{name}/clone"
    assert wok.request("GET", f"vms/{name}").json["name"] == name
    assert wok.request("DELETE", f"vms/{name}").status == 204


SOURCES = ["vms/web", "storagepools/default/storagevolumes/web.qcow2"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "name",
    [
        *("<b>", "a<b", "a>b", "R&D", "&lt;b&gt;", 'x" data-content="y', "x'y", "<img src=x onerror=alert(1)>.qcow2"),
        *("x;reboot", "x|reboot", "x`reboot`", "x$(reboot)", "x\\y"),
    ],
)
def test_a_name_that_kimchi_would_act_upon_is_refused(wok: Wok, source: str, name: str) -> None:
    """Its ui/js/src/kimchi.guest_main.js has a guest's name as markup, kimchi.guest_storage_add.main.js a volume's.

    And its model/vms.py, which migrates guests, hands the paths of disks to a shell of root's on the other host.
    """
    answer = wok.request("POST", f"{source}/clone", {"name": name})
    assert refusal(answer) == (400, "CLNNAME0001E")
    assert "Kimchi would act upon" in answer.json["reason"]
    assert not set("<>") & set(answer.json["reason"])


@pytest.mark.parametrize("source", SOURCES)
def test_a_name_with_other_signs_is_not(wok: Wok, source: str) -> None:
    name = f"Ä (2) {source.count('/')} {{x}}, +b! %41 #1 [a]=~*?.qcow2"
    assert cloned(wok, source, name=name)["name"] == name


@pytest.mark.parametrize(
    "path", ["__class__", "__init__/__globals__", "services/journal", "settings", "messages", "stop", "get_custom_conf"]
)
def test_nothing_of_the_plugins_object_is_a_path(wok: Wok, path: str) -> None:
    assert refusal(wok.request("GET", path)) == NOTHING_THERE


# --- The end ---------------------------------------------------------------------------------------------------------


def post_until_nobody_listens(wok: Wok) -> list[Response]:
    """The answers to clone after clone, until a connection is refused or cut off."""
    answers = []
    with suppress(OSError, HTTPException):
        while True:
            answers.append(wok.request("POST", "vms/web/clone"))
    return answers


def test_it_ends_in_order(start: Callable[..., Wok]) -> None:
    """The HTTP server first, then the workers: what was accepted until the last moment has its end in the journal."""
    wok = start(workers=1)
    with ThreadPoolExecutor(4) as crowd:
        posting = [crowd.submit(post_until_nobody_listens, wok) for _ in range(4)]
        time.sleep(0.2)
        began = time.monotonic()
        assert wok.terminate() == 0
        assert time.monotonic() - began < 5
    answers = [answer for posted in posting for answer in posted.result()]
    assert {answer.status for answer in answers} == {202}
    assert "Traceback" not in wok.log
    assert list((wok.state_dir / "servers").iterdir()) == []  # no lease is left to take this server for a dead one
    journal = Journal(f"sqlite:///{wok.state_dir}/journal.sqlite")
    ends = {str(task.id): task.status for task in journal.tasks()}
    journal.close()
    assert {ends[answer.json["id"]] for answer in answers} <= {"finished", "failed"}


def test_it_ends_while_libvirt_goes_on_copying(start: Callable[..., Wok]) -> None:
    """Python waits for some threads at its end, and Wok for as long as they go on."""
    wok = start()
    wok.request("POST", "/hang")
    task = wok.request("POST", "vms/db/clone").json  # of two disks
    making = f"tasks/{task['id']}"
    wait_until(lambda: wok.request("GET", making).json["message"].startswith("Making"), 30, "it copies")
    os.kill(wok.pid, signal.SIGTERM)
    wait_until(lambda: not wok.running, 30, "Wok ends", lambda: wok.log)
