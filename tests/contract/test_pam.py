"""`--auth pam`: users of the system log in with their passwords, by real PAM modules; groups decide who they are."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from support import pam, people
from support.answers import refusal
from support.pam import ADMIN, EXPIRED, OUTSIDER, USER, Pam
from support.running import wait_until
from support.server import Response, Server

ROOT = Path(__file__).parents[2]
WRONG, TOO_MANY = (401, "WOKAUTH0008E"), (403, "WOKAUTH0004E")


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Pam:
    return Pam(tmp_path_factory.mktemp("pam"))


@pytest.fixture(scope="module")
def server(checks: Pam, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    conf = folder / "cloner.conf"
    conf.write_text(pam.CONFIGURATION)
    with Server(people.inventory(folder), folder / "state", args=["--config", str(conf)], env=checks.env) as running:
        yield running


def log_in(server: Server, user: str, password: str) -> Response:
    return server.request("POST", "/login", {"username": user, "password": password}, anonymous=True)


def session(answer: Response) -> dict[str, str]:
    return {"Cookie": "wok=" + SimpleCookie(answer.headers["Set-Cookie"])["wok"].value}


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def names(server: Server, headers: dict[str, str]) -> list[str]:
    return [guest["name"] for guest in server.request("GET", "vms", headers=headers, anonymous=True).json]


@pytest.mark.parametrize(
    ("user", "role", "groups", "seen"),
    [
        (ADMIN, "admin", ["daemon"], ["db", "mail", "web", "win-uefi"]),
        (USER, "user", ["nogroup"], people.SEEN[USER]),
    ],
)
def test_groups_decide_who_a_user_is(
    server: Server, checks: Pam, user: str, role: str, groups: list[str], seen: list[str]
) -> None:
    answer = log_in(server, user, checks.password(user))
    assert (answer.status, answer.json) == (200, {"username": user, "groups": groups, "role": role})
    for headers in (session(answer), basic(user, checks.password(user))):
        assert [name for name in names(server, headers) if "-clone-" not in name] == seen


def test_a_user_clones_what_is_theirs(server: Server, checks: Pam) -> None:
    headers = session(log_in(server, USER, checks.password(USER)))
    answer = server.request("POST", "vms/web/clone", headers=headers, anonymous=True)
    assert (answer.status, answer.json["owner"]) == (202, USER)
    assert server.wait_task(answer.json["id"])["status"] == "finished"
    assert refusal(server.request("POST", "vms/win-uefi/clone", headers=headers, anonymous=True))[0] == 404


@pytest.mark.parametrize(
    ("user", "password"),
    [
        (USER, "wrong"),
        (ADMIN, f"{USER}'s password"),
        (ADMIN, ""),
        ("root", ""),
        (OUTSIDER, f"{OUTSIDER}'s password"),  # right, but in none of the groups
        (EXPIRED, f"{EXPIRED}'s password"),  # right, but the account may not be used
        ("no-such-user", "x"),
        ("admin", "wrong"),
        ("-x", "x"),
        ("名前", "x"),
        ("x" * 10_000, "x"),
    ],
)
def test_nobody_else_comes_in_and_all_are_told_the_same(server: Server, user: str, password: str) -> None:
    answer = log_in(server, user, password)
    assert refusal(answer) == WRONG
    assert answer.headers["Set-Cookie"] is None
    assert answer.json["reason"] == "WOKAUTH0008E: The user name or password is wrong"


def test_after_three_wrong_passwords_one_has_to_wait_in_whatever_case_one_writes_the_name(
    server: Server, checks: Pam
) -> None:
    guesses = [log_in(server, name, "wrong") for name in ("sync", "Sync", "SYNC", "sYnc")]
    assert [refusal(guess) for guess in guesses] == [WRONG] * 3 + [TOO_MANY]
    assert log_in(server, ADMIN, checks.password(ADMIN)).status == 200


def test_tokens_open_as_well(server: Server) -> None:
    assert server.request("GET", "storagepools").status == 200
    assert log_in(server, "admin", server.token).json["role"] == "admin"
    assert names(server, basic("admin", server.token)) == [
        "db",
        "mail",
        *names(server, basic("admin", server.token))[2:],
    ]


@pytest.mark.parametrize(
    ("user", "scope", "statuses"),
    [
        (USER, "clone", (200, 404, 404)),
        (ADMIN, "read", (200, 200, 403)),
        (OUTSIDER, "clone", (401, 401, 401)),
        (OUTSIDER, "admin", (401, 401, 401)),
        ("no-such-user", "admin", (401, 401, 401)),
    ],
)
def test_a_token_that_acts_for_a_user_has_that_users_rights_or_none(
    server: Server, user: str, scope: str, statuses: tuple[int, int, int]
) -> None:
    secret = people.token(server.state_dir, f"{user}-{scope}", scope, user=user)
    headers = {"Authorization": f"Bearer {secret}"}
    asked = (("GET", "vms"), ("GET", "storagepools/default"), ("POST", "vms/nope/clone"))
    assert tuple(server.request(*each, headers=headers, anonymous=True).status for each in asked) == statuses


def test_pam_is_told_from_where_somebody_logs_in(checks: Pam) -> None:
    """The program is asked itself, since pam_wrapper tells on its stderr."""
    question = {"user": USER, "password": checks.password(USER), "service": "login", "address": "192.0.2.7"}
    env = {**os.environ, **checks.env, "PAM_WRAPPER_DEBUGLEVEL": "3"}
    argv = [sys.executable, "-P", str(ROOT / "server" / "system_user.py")]
    done = subprocess.run(argv, input=json.dumps(question), env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"name": USER, "groups": ["nogroup"], "right": True}
    assert "PAM_RHOST=192.0.2.7\n" in done.stderr


def test_passwords_are_nowhere_to_be_read(server: Server, checks: Pam) -> None:
    log_in(server, USER, checks.password(USER))
    log_in(server, USER, "a wrong password")
    kept = b"".join(path.read_bytes() for path in server.state_dir.glob("journal*"))
    for password in (checks.password(USER), "a wrong password"):
        assert password not in server.log
        assert password.encode() not in kept


def children(pid: int) -> int:
    """How many processes a process has begun that have not ended."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(len((task / "children").read_text().split()) for task in tasks)


def test_while_pam_hangs_everybody_who_does_not_log_in_is_served(server: Server, checks: Pam) -> None:
    user = session(log_in(server, USER, checks.password(USER)))
    with ThreadPoolExecutor(2) as threads:
        with checks.hanging():
            hanging = [threads.submit(log_in, server, OUTSIDER, "x") for _ in range(2)]
            wait_until(lambda: children(server.pid) == 2, 20, "both passwords are being checked")
            served = [
                server.request("GET", "vms", headers=user, anonymous=True).status,
                server.request("GET", "vms").status,
                server.request("GET", "/", anonymous=True).status,
                log_in(server, "admin", server.token).status,
            ]
            still_hanging = [not each.done() for each in hanging]
        assert (served, still_hanging) == ([200] * 4, [True, True])
        assert [refusal(each.result()) for each in hanging] == [WRONG] * 2
    assert log_in(server, USER, checks.password(USER)).status == 200


def test_it_is_said_which_service_checks(server: Server) -> None:
    assert "PAM service login" in server.log
    assert not list(Path("/etc/pam.d").glob("cloner*"))  # which is what these tests take for granted
