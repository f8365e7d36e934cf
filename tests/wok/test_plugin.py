"""The plugin inside Wok: how it is loaded, who may come in, that it clones there as it does alone, and how it ends."""

from __future__ import annotations

import ast
import base64
import configparser
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest
from cherrypy.lib.reprconf import Parser

from cloner.control import sub_nodes
from cloner.engine.journal import Journal
from support import people
from support.answers import at_once, cloned, refusal
from support.server import Response
from support.wok import MOUNT_POINT, PASSWORD, ROOT, USER, Wok

NOT_LOGGED_IN = (401, "WOKAUTH0002E")
NOTHING_THERE = (404, "CLNAPI0001E")
JSON_IN = {"Content-Type": "application/json"}
FORM_IN = {"Content-Type": "application/x-www-form-urlencoded"}
EXAMPLES = {"{name}": "mail", "{pool}": "default", "{id}": "999999"}  # mail runs: whoever comes in changes nothing

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


def test_what_wok_sets_for_every_plugin_stays(wok: Wok) -> None:
    assert "no-store" in wok.request("GET", "vms").headers["Cache-Control"]


def test_woks_own_pages_ask_what_the_plugin_adds_to_them(wok: Wok) -> None:
    answer = wok.request("GET", "/wok-ui.html")
    assert (answer.status, answer.json) == (200, [])


# --- Who may come in -------------------------------------------------------------------------------------------------


def routes() -> Iterator[tuple[str, str]]:
    """Every method and path that the plugin serves."""
    for resource, controller in sub_nodes.items():
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
        "ui/../vms",
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
