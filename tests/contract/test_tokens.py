"""`cloner token`, and what a token lets its holder do on a server that runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloner.engine.journal import Journal
from cloner.engine.tokens import Tokens
from support import nursery
from support.answers import at_once, refusal
from support.server import Response, Server

NOT_LOGGED_IN = (401, "WOKAUTH0002E")
ONLY_READS = (403, "CLNAUTH0003E")
CHANGES = [  # what is refused after it was let in, and changes nothing
    ("POST", "vms/mail/clone", (400, "KCHVM0033E")),
    ("DELETE", "vms/nope", (404, "KCHVM0002E")),
    ("POST", "storagepools/default/storagevolumes/nope/clone", (404, "KCHVOL0002E")),
    ("DELETE", "tasks/999999", (404, "WOKASYNC0001E")),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with Server(None, folder) as running:
        yield running


def command(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "cloner", "token", *args, "--demo", "--state-dir", str(folder)]
    return nursery.run(argv)


def made(folder: Path, *args: str) -> str:
    """A new token's secret."""
    done = command(folder, "create", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(server: Server, method: str, path: str, secret: str) -> Response:
    return server.request(method, path, headers={"Authorization": f"Bearer {secret}"}, anonymous=True)


def listed(folder: Path, name: str) -> dict[str, str | None]:
    rows: list[dict[str, str | None]] = json.loads(command(folder, "list", "--json").stdout)
    return next(row for row in rows if row["name"] == name)


# --- The command -----------------------------------------------------------------------------------------------------


def test_a_token_is_printed_once_and_alone(folder: Path) -> None:
    done = command(folder, "create", "once", "--scope", "clone", "--user", "ann")
    assert re.fullmatch(r"cln_[\w-]{43}\n", done.stdout)
    assert "not shown again" in done.stderr
    for said in (done.stderr, command(folder, "list").stdout, command(folder, "list", "--json").stdout):
        assert done.stdout.strip() not in said
    assert "once" in command(folder, "list").stdout


def test_the_list_tells_what_there_is_to_know(folder: Path) -> None:
    made(folder, "known", "--scope", "clone", "--user", "ann", "--expires", "12h")
    row = listed(folder, "known")
    assert (row["scope"], row["user"], row["last_used"]) == ("clone", "ann", None)
    created, expires = (datetime.fromisoformat(str(row[key])) for key in ("created", "expires"))
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=5)
    assert abs(expires - created - timedelta(hours=12)) <= timedelta(seconds=1)
    heading, *lines = command(folder, "list").stdout.splitlines()
    assert heading.split("  ")[0] == "NAME"
    assert [line for line in lines if line.startswith("known ") and " ann " in line and line.endswith(" never")]


def test_left_to_itself_a_token_reads_for_90_days_and_acts_for_nobody(folder: Path) -> None:
    made(folder, "plain")
    row = listed(folder, "plain")
    created, expires = (datetime.fromisoformat(str(row[key])) for key in ("created", "expires"))
    assert (row["scope"], row["user"]) == ("read", None)
    assert abs(expires - created - timedelta(days=90)) <= timedelta(seconds=1)


def test_a_token_may_last_for_ever(folder: Path) -> None:
    made(folder, "lasting", "--expires", "never")
    assert listed(folder, "lasting")["expires"] is None


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("create", ""), "name"),
        (("create", "a b"), "a b"),
        (("create", "x" * 65), "x" * 65),
        (("create", "a\nb"), "a\\nb"),
        (("create", "t", "--scope", "write"), "write"),
        *((("create", "t", "--expires", text), "--expires") for text in ("90", "0d", "-1d", "1y", "", "99999999w")),
        *((("create", "t", "--user", text), "--user") for text in ("", "a:b", "admin", "a\nb")),
        (("revoke", "no-such"), "CLNTOKEN0001E"),
        (("frobnicate",), "frobnicate"),
        ((), "VERB"),
    ],
)
def test_what_is_wrong_is_refused_and_named(folder: Path, args: tuple[str, ...], named: str) -> None:
    done = command(folder, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_is_refused_the_second_time(folder: Path) -> None:
    made(folder, "twice")
    done = command(folder, "create", "twice")
    assert (done.returncode, done.stdout) == (2, "")
    assert "CLNTOKEN0002E" in done.stderr


# --- What it lets one do ---------------------------------------------------------------------------------------------


def test_a_token_opens_as_bearer_as_password_and_as_a_session(folder: Path, server: Server) -> None:
    secret = made(folder, "ways")
    assert ask(server, "GET", "vms", secret).status == 200
    answer = server.request("POST", "/login", {"username": "anything", "password": secret}, anonymous=True)
    assert answer.json == {"username": "token:ways", "groups": [], "role": "admin"}
    cookie = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
    assert server.request("GET", "vms", headers=cookie, anonymous=True).status == 200


def test_a_token_of_ones_own_forgives_no_wrong_password_of_another(folder: Path, server: Server) -> None:
    """It goes with every user's name, so that its holder could guess the user's password for ever."""
    secret = made(folder, "guesses")

    def log_in(password: str) -> int:
        return server.request("POST", "/login", {"username": "guessed", "password": password}, anonymous=True).status

    assert [log_in(password) for password in ("x", "x", secret, "x", "x", secret)] == [401, 401, 200, 401, 403, 403]


@pytest.mark.parametrize(("method", "path", "expected"), CHANGES)
def test_a_token_that_reads_changes_nothing(
    folder: Path, server: Server, method: str, path: str, expected: tuple[int, str]
) -> None:
    secret = made(folder, f"reads-{method}-{len(path)}", "--scope", "read")
    assert refusal(ask(server, method, path, secret)) == ONLY_READS
    session = server.request("POST", "/login", {"username": "x", "password": secret}, anonymous=True)
    cookie = {"Cookie": session.headers["Set-Cookie"].partition(";")[0]}
    assert refusal(server.request(method, path, headers=cookie, anonymous=True)) == ONLY_READS
    assert server.request("POST", "/logout", headers=cookie, anonymous=True).status == 200


@pytest.mark.parametrize(("method", "path", "expected"), CHANGES)
def test_a_token_for_everything_does_everything(
    folder: Path, server: Server, method: str, path: str, expected: tuple[int, str]
) -> None:
    secret = made(folder, f"all-{method}-{len(path)}", "--scope", "admin")
    assert refusal(ask(server, method, path, secret)) == expected


def test_a_revoked_token_and_its_session_are_worthless_from_then_on(folder: Path, server: Server) -> None:
    secret = made(folder, "gone", "--scope", "admin")
    answer = server.request("POST", "/login", {"username": "x", "password": secret}, anonymous=True)
    cookie = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
    assert server.request("GET", "vms", headers=cookie, anonymous=True).status == 200
    assert command(folder, "revoke", "gone").returncode == 0
    assert refusal(ask(server, "GET", "vms", secret)) == NOT_LOGGED_IN
    assert refusal(server.request("GET", "vms", headers=cookie, anonymous=True)) == NOT_LOGGED_IN


def test_an_expired_token_is_worthless(folder: Path, server: Server) -> None:
    journal = Journal(f"sqlite:///{folder}/journal.sqlite")
    secret = Tokens(journal).create("late", "admin", lifetime_s=-1)
    journal.close()
    assert refusal(ask(server, "GET", "vms", secret)) == NOT_LOGGED_IN
    assert listed(folder, "late")["name"] == "late"


def test_many_at_once_with_one_token(folder: Path, server: Server) -> None:
    secret = made(folder, "busy")
    assert {answer.status for answer in at_once(50, lambda _: ask(server, "GET", "config", secret))} == {200}


def test_when_it_was_last_used_is_known_after_the_server_ended(tmp_path: Path) -> None:
    with Server(None, tmp_path) as server:
        secret = made(tmp_path, "seen")
        assert ask(server, "GET", "vms", secret).status == 200
        assert server.terminate() == 0
        assert secret not in server.log
    assert listed(tmp_path, "seen")["last_used"] is not None


def test_where_nobody_has_to_log_in_a_token_does_no_harm(tmp_path: Path) -> None:
    with Server(None, tmp_path, args=["--auth", "none"]) as server:
        assert ask(server, "POST", "vms/web/clone", made(tmp_path, "reads")).status == 202
