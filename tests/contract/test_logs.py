"""What a server writes to stderr: JSON lines with request id, task and user, an audit line an action, no secret."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from cloner.control import sub_nodes
from support import people
from support.answers import at_once, cloned, parsed
from support.running import wait_until
from support.server import MOUNT_POINT, Response, Server

Line = dict[str, Any]

MADE_ID = "[0-9a-f]{32}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
VOLUME = "storagepools/default/storagevolumes/web.qcow2"


def lines(server: Server) -> list[Line]:
    """The whole log, of which every line must be JSON and have what each line has."""
    found: list[Line] = [json.loads(line) for line in server.log.splitlines()]
    for line in found:
        assert list(line)[:4] == ["time", "level", "logger", "message"]
        assert re.fullmatch(TIME, line["time"])
        assert line["level"] in ("debug", "info", "warning", "error", "critical")
    return found


def wait_for(server: Server, what: Callable[[Line], bool]) -> list[Line]:
    """The lines that are looked for, as soon as there is one; a line of a request is written after its answer."""
    found: list[Line] = []

    def is_there() -> bool:
        found[:] = [line for line in lines(server) if what(line)]
        return bool(found)

    wait_until(is_there, 10, "the line is there", lambda: server.log[-3000:])
    return found


def of_request(server: Server, request_id: str, logger: str) -> Line:
    """The one line of a logger for a request."""
    found = wait_for(server, lambda line: line.get("request_id") == request_id and line["logger"] == logger)
    assert len(found) == 1, found
    return found[0]


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


# --- Request ids -----------------------------------------------------------------------------------------------------

REQUESTS = [
    ("GET", f"{MOUNT_POINT}/vms", 200),
    ("GET", f"{MOUNT_POINT}/vms/nope", 404),
    ("GET", f"{MOUNT_POINT}/nope", 404),
    ("PUT", f"{MOUNT_POINT}/vms", 405),
    ("POST", f"{MOUNT_POINT}/vms/mail/clone", 400),
    ("GET", "/", 200),
    ("GET", "/?once=x", 303),
    ("GET", "/ui/app.js", 200),
    ("GET", "/ui/nope.js", 404),
    ("HEAD", f"{MOUNT_POINT}/tasks", 200),
    ("GET", f"{MOUNT_POINT}/vms?x=%ff", 400),
]


@pytest.mark.parametrize(("method", "path", "status"), REQUESTS)
def test_a_request_keeps_its_id_in_the_answer_and_in_the_log(
    server: Server, method: str, path: str, status: int
) -> None:
    request_id = f"test:{method}{status}.{abs(hash(path))}"
    answer = server.request(method, path, headers={"X-Request-Id": request_id})
    assert (answer.status, answer.headers["X-Request-Id"]) == (status, request_id)
    line = of_request(server, request_id, "cloner.access")
    assert line["message"] == f"{method} {path.partition('?')[0]} {status}"
    assert (line["method"], line["path"], line["status"]) == (method, path.partition("?")[0], status)
    assert line["address"] == "127.0.0.1"
    assert line["duration_ms"] >= 0


def test_a_request_without_an_id_gets_one_of_its_own(server: Server) -> None:
    made = [server.request("GET", "vms").headers["X-Request-Id"] for _ in range(20)]
    assert len(set(made)) == 20
    assert all(re.fullmatch(MADE_ID, one) for one in made)


@pytest.mark.parametrize("given", ["a b", "x" * 129, '"', "{}", "-", "é", "=?utf-8?q?a?="])
def test_an_id_that_could_do_harm_is_replaced(server: Server, given: str) -> None:
    answer = server.request("GET", "vms", headers={"X-Request-Id": given})
    assert re.fullmatch(MADE_ID, answer.headers["X-Request-Id"])


def test_who_is_not_let_in_has_an_id_too(server: Server) -> None:
    answer = server.request("GET", "vms", headers={"X-Request-Id": "not-in"}, anonymous=True)
    assert (answer.status, answer.headers["X-Request-Id"]) == (401, "not-in")
    line = of_request(server, "not-in", "cloner.access")
    assert (line["status"], line["code"]) == (401, "WOKAUTH0002E")
    assert "user" not in line


def test_a_line_says_who_and_which_error(server: Server) -> None:
    server.request("GET", "vms/nope", headers={"X-Request-Id": "who"})
    line = of_request(server, "who", "cloner.access")
    assert (line["user"], line["code"]) == ("admin", "KCHVM0002E")


@pytest.mark.parametrize(
    "raw", [b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nX-Request-Id: raw-1\r\nContent-Length: x\r\n\r\n"]
)
def test_what_cannot_be_read_has_an_id_too(server: Server, raw: bytes) -> None:
    answer = parsed(server.raw(raw))
    assert answer.status == 400
    request_id = answer.headers["X-Request-Id"]
    assert re.fullmatch(f"raw-1|{MADE_ID}", request_id)
    assert of_request(server, request_id, "cloner.access")["status"] == 400


def test_a_machine_that_asks_again_and_again_leaves_no_lines(server: Server) -> None:
    for path in ("/livez", "/readyz"):
        server.request("GET", path, headers={"X-Request-Id": "machine"}, anonymous=True)
    server.request("POST", "/livez", headers={"X-Request-Id": "machine"}, anonymous=True)
    assert of_request(server, "machine", "cloner.access")["status"] == 405


# --- Tasks -----------------------------------------------------------------------------------------------------------


def clone(server: Server, path: str, request_id: str, **body: object) -> Response:
    return server.request("POST", f"{path}/clone", body, {"X-Request-Id": request_id})


@pytest.mark.parametrize("source", ["vms/web", VOLUME])
def test_a_tasks_lines_have_the_id_of_the_request_that_asked_for_it(server: Server, source: str) -> None:
    request_id = f"clone-of-{source}".replace("/", "-")
    task = clone(server, source, request_id).json["id"]
    server.wait_task(task)
    found = wait_for(server, lambda line: line.get("task") == int(task) and "executor" not in line["message"])
    ended = wait_for(server, lambda line: line["message"] == f"task {task} is finished")
    for line in (*found, *ended):
        assert (line["request_id"], line["user"]) == (request_id, "admin")
    assert not {"method", "path", "status"} & ended[0].keys()


def test_hundred_tasks_at_once_each_have_their_own(server: Server) -> None:
    def ask(number: int) -> str:
        task: str = clone(server, "vms/web", f"crowd-{number}").json["id"]
        server.wait_task(task)
        return task

    tasks = at_once(100, ask)
    wanted = {f"task {task} is finished": f"crowd-{number}" for number, task in enumerate(tasks)}
    found: list[tuple[str, str]] = []

    def are_there() -> bool:
        found[:] = [(line["message"], line["request_id"]) for line in lines(server) if line["message"] in wanted]
        return len(found) >= len(wanted)

    wait_until(are_there, 10, "the lines are there", lambda: server.log[-3000:])
    assert sorted(found) == sorted(wanted.items())


@pytest.mark.parametrize("cancelled", [0, 1])
def test_the_end_of_a_dead_servers_task_says_whose_it_was(start: Callable[..., Server], cancelled: int) -> None:
    """And which request it came of."""
    server = start()
    secret = people.token(server.state_dir, "nightly")
    headers = {"Authorization": f"Bearer {secret}", "X-Request-Id": "before-it-died"}
    task = server.request("POST", "vms/web/clone", {}, headers, anonymous=True).json["id"]
    server.wait_task(task)
    (first,) = wait_for(server, lambda line: line["message"] == f"task {task} is finished")
    server.kill()
    with closing(sqlite3.connect(server.state_dir / "journal.sqlite")) as journal, journal:
        journal.execute(
            "UPDATE tasks SET status = 'running', ended = NULL, server = 'dead', cancelled = ?", [cancelled]
        )
    server.start()
    (last,) = wait_for(server, lambda line: line["message"].startswith(f"task {task} ended: "))
    assert (first["user"], first["task"]) == (last["user"], last["task"]) == ("token:nightly", int(task))
    assert first["request_id"] == last["request_id"] == "before-it-died"


# --- The audit -------------------------------------------------------------------------------------------------------


def audited(server: Server, request_id: str) -> Line:
    """What the one audit line for a request says, without what every line has."""
    line = of_request(server, request_id, "cloner.audit")
    assert line["address"] == "127.0.0.1"
    kept = ("user", "action", "target", "outcome", "task", "made", "storage", "undo")
    return {key: line[key] for key in kept if key in line}


def test_a_clone_is_audited(server: Server) -> None:
    task = clone(server, "vms/web", "audit-clone").json
    assert audited(server, "audit-clone") == {
        "user": "admin",
        "action": "clone",
        "target": "vms/web",
        "outcome": "accepted",
        "task": int(task["id"]),
        "made": task["name"],
    }


def test_a_clone_of_a_volume_is_audited(server: Server) -> None:
    task = clone(server, VOLUME, "audit-volume").json
    line = audited(server, "audit-volume")
    assert (line["action"], line["target"], line["outcome"]) == ("clone", VOLUME, "accepted")
    assert (line["task"], line["made"]) == (int(task["id"]), task["name"])


@pytest.mark.parametrize(
    ("method", "path", "body", "line"),
    [
        ("POST", "vms/mail/clone", {}, ("clone", "vms/mail", "KCHVM0033E")),
        ("POST", "vms/nope/clone", {}, ("clone", "vms/nope", "KCHVM0002E")),
        ("POST", "vms/web/clone", {"nope": 1}, ("clone", "vms/web", "CLNAPI0004E")),
        ("DELETE", "vms/mail", {}, ("delete", "vms/mail", "CLNVM0004E")),
        ("DELETE", "tasks/999999", {}, ("cancel", "tasks/999999", "WOKASYNC0001E")),
    ],
)
def test_what_is_refused_is_audited_with_the_reason(
    server: Server, method: str, path: str, body: Line, line: tuple[str, str, str]
) -> None:
    request_id = f"refused-{path}-{len(body)}".replace("/", "-")
    server.request(method, path, body, {"X-Request-Id": request_id})
    found = audited(server, request_id)
    assert (found["action"], found["target"], found["outcome"]) == line


def test_a_deletion_is_audited(server: Server) -> None:
    name = cloned(server, "vms/web")["name"]
    server.request("DELETE", f"vms/{name}", {"storage": True}, {"X-Request-Id": "audit-delete"})
    assert audited(server, "audit-delete") == {
        "user": "admin",
        "action": "delete",
        "target": f"vms/{name}",
        "outcome": "done",
        "storage": True,
    }


@pytest.mark.parametrize("undo", [True, False])
def test_a_withdrawal_is_audited_with_what_it_takes_away(server: Server, undo: bool) -> None:
    batch = server.request("POST", "vms/web/clone", {"count": 2}).json["batch"]
    server.request("DELETE", f"batches/{batch}", {"undo": undo}, {"X-Request-Id": f"audit-undo-{undo}"})
    line = audited(server, f"audit-undo-{undo}")
    assert (line["action"], line["target"], line["undo"]) == ("withdraw", f"batches/{batch}", undo)


def test_taking_a_task_out_of_the_list_is_audited(server: Server) -> None:
    task = cloned(server, "vms/web")["id"]
    server.request("DELETE", f"tasks/{task}", headers={"X-Request-Id": "audit-forget"})
    line = audited(server, "audit-forget")
    assert (line["action"], line["target"], line["outcome"]) == ("forget", f"tasks/{task}", "done")


def test_a_log_in_and_its_log_out_are_audited(server: Server) -> None:
    credentials = {"username": "admin", "password": server.token}
    answer = server.request("POST", "/login", credentials, {"X-Request-Id": "audit-in"}, anonymous=True)
    said = {"user": "admin", "target": "session", "outcome": "done"}
    assert audited(server, "audit-in") == {**said, "action": "log-in"}
    headers = {"Cookie": answer.headers["Set-Cookie"].split(";")[0], "X-Request-Id": "audit-out"}
    server.request("POST", "/logout", headers=headers, anonymous=True)
    assert audited(server, "audit-out") == {**said, "action": "log-out"}


def test_the_one_time_link_is_audited(start: Callable[..., Server]) -> None:
    server = start()
    link = server.ready_line.split()[-1]
    path = link.removeprefix("http://{}:{}".format(*server.address))
    for request_id, user, outcome in (("link-1", "admin", "done"), ("link-2", "", "WOKAUTH0008E")):
        server.request("GET", path, headers={"X-Request-Id": request_id}, anonymous=True)
        said = {"user": user, "target": "one-time link", "outcome": outcome}
        assert audited(server, request_id) == {**said, "action": "log-in"}


def test_a_failed_log_in_is_audited_once_with_who_it_claimed_to_be(start: Callable[..., Server]) -> None:
    server = start()
    attempts: list[tuple[dict[str, str], Line | None, str]] = [
        (basic("eve", "wrong"), None, "eve"),
        ({"Authorization": "Bearer wrong"}, None, ""),
        ({"Authorization": "Basic nonsense"}, None, ""),
        ({"Authorization": "Digest x"}, None, ""),
        ({}, {"username": "eve", "password": "wrong"}, "eve"),
    ]
    for number, (headers, body, user) in enumerate(attempts):
        method, path = ("POST", "/login") if body else ("GET", "vms")
        request_id = f"failed-{number}"
        answer = server.request(method, path, body, {**headers, "X-Request-Id": request_id}, anonymous=True)
        said = {"user": user, "action": "log-in", "target": "session", "outcome": answer.json["reason"][:12]}
        assert answer.status == 401
        assert audited(server, request_id) == said


def test_who_only_is_not_logged_in_is_not_audited(server: Server) -> None:
    server.request("GET", "vms", headers={"X-Request-Id": "nobody"}, anonymous=True)
    of_request(server, "nobody", "cloner.access")
    assert {line["logger"] for line in lines(server) if line.get("request_id") == "nobody"} == {"cloner.access"}


def test_every_route_that_changes_something_is_audited_and_no_other() -> None:
    for controller in sub_nodes.values():
        for route in controller.routes:
            assert (route.action is None) == (route.method == "GET"), route


# --- What must not be in it ------------------------------------------------------------------------------------------


def test_no_secret_is_in_the_log(start: Callable[..., Server]) -> None:
    server = start()
    link = server.ready_line.split("once=")[1]
    answer = server.request("GET", f"/?once={link}", anonymous=True)
    cookie = answer.headers["Set-Cookie"].split(";")[0]
    secrets = [server.token, link, cookie.split("=")[1]]
    secrets += ["wrong-password", "wrong-bearer", "wrong-link", "in-a-query"]
    for headers in (
        {"Cookie": cookie},
        basic("admin", server.token),
        basic("admin", "wrong-password"),
        {"Authorization": "Bearer wrong-bearer"},
    ):
        for path in ("vms", "vms/nope", "/?once=wrong-link", "vms?token=in-a-query"):
            server.request("GET", path, headers=headers, anonymous=True)
    for password in ("wrong-password", server.token):
        server.request("POST", "/login", {"username": "admin", "password": password}, anonymous=True)
    server.request("POST", "/login", '{"password": "wrong-password"', {"Content-Type": "application/json"})
    server.request("POST", "/logout", headers={"Cookie": cookie}, anonymous=True)
    assert len(lines(server)) > 20
    assert not [secret for secret in secrets if secret in server.log]


NASTY = [
    "%0a%7b%22level%22%3a1%7d",
    "%0d%0aX",
    "%1b%5b2J",
    "%e2%80%a8",
    "%c2%85",
    "%7f",
    '"\\',
    "<script>",
]
NO_TEXT = ["%00", "%ff"]  # no name, so nothing is at that path


@pytest.mark.parametrize("style", ["json", "text"])
def test_nothing_from_outside_breaks_a_line(start: Callable[..., Server], style: str) -> None:
    server = start("--log-format", style)
    before = len(server.log.splitlines())
    for path in (*NASTY, *NO_TEXT):
        server.request("GET", f"vms/{path}")
        server.request("POST", f"vms/{path}/clone")
        server.request("GET", "vms", headers=basic("a\nb\u2028\x1b[2J", "x"), anonymous=True)
    server.request("POST", "vms/web/clone", {"name": "a\nb"})
    end = server.request("GET", "vms", headers={"X-Request-Id": "the-end"})
    wait_until(lambda: "the-end" in server.log, 10, "the last line", lambda: server.log)
    assert end.status == 200
    found = server.log.splitlines()[before:]
    for line in found:
        assert line.isprintable()
        assert json.loads(line) if style == "json" else re.match(rf"{TIME} (INFO|WARNING) [\w.]+: ", line)
    audit = [line for line in found if "cloner.audit" in line]
    assert len(audit) == 2 * len(NASTY) + len(NO_TEXT) + 1


# --- Formats ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    for end in (ours, theirs):
        with suppress(OSError):
            os.close(end)


def test_on_a_terminal_the_log_is_text(terminal: tuple[int, int], tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        argv = [sys.executable, "-m", "cloner", "serve", "--demo", "--state-dir", str(tmp_path)]
        argv += ["--port", str(taken.getsockname()[1])]
        subprocess.run(argv, cwd="/", stderr=terminal[1], timeout=60, check=False)
    said = os.read(terminal[0], 65536).decode()
    assert re.match(rf"{TIME} WARNING cloner\.server\.cli: DEMO\.", said)


def test_the_format_can_be_set(start: Callable[..., Server], tmp_path: Path) -> None:
    assert lines(start())[0]["message"].startswith("DEMO")
    conf = tmp_path / "cloner.conf"
    conf.write_text("[server]\nlog_format = text\n")
    assert re.match(rf"{TIME} WARNING cloner\.server\.cli: DEMO\.", start("--config", str(conf)).log)
    assert lines(start("--config", str(conf), "--log-format", "json"))
