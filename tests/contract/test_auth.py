"""Who may come in: every path, with every kind of credentials."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from itertools import count
from pathlib import Path
from unittest import mock

import pytest

from cloner import errors
from cloner.callers import ANYBODY, Caller
from cloner.control import sub_nodes
from cloner.server.attempts import Attempts
from cloner.server.auth import anybody
from cloner.server.sessions import Sessions
from support.answers import at_once, refusal
from support.server import Response, Server

NOT_LOGGED_IN = (401, "WOKAUTH0002E")
WRONG = (401, "WOKAUTH0008E")
TOO_MANY = (403, "WOKAUTH0004E")

ROUTES = [
    (route.method, "/".join([resource, *("nope" if part.startswith("{") else part for part in route.parts)]))
    for resource, controller in sub_nodes.items()
    for route in controller.routes
]
ROUTES += [
    ("HEAD", "vms"),
    ("GET", "vms/web"),
    ("POST", "vms/mail/clone"),
    ("GET", "storagepools/default/storagevolumes"),
    # What is not there is nobody's business either.
    ("GET", ""),
    ("GET", "nope"),
    ("GET", "vms/__class__"),
    ("PUT", "vms/web"),
    ("TRACE", "vms"),
    ("OPTIONS", "vms"),
]
every_route = pytest.mark.parametrize(("method", "path"), ROUTES)


def ask(server: Server, method: str, path: str, headers: dict[str, str] | None = None) -> Response:
    return server.request(method, path, headers=headers, anonymous=True)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def log_in(server: Server, password: str, user: str = "admin") -> Response:
    return server.request("POST", "/login", {"username": user, "password": password}, anonymous=True)


def session_of(answer: Response) -> str:
    """The session's secret in an answer's cookie; empty when it sets none."""
    cookie = SimpleCookie(answer.headers["Set-Cookie"] or "").get("wok")
    return cookie.value if cookie else ""


def lets_in(answer: Response) -> bool:
    return answer.status not in (401, 403)


def is_refused(answer: Response, method: str, expected: tuple[int, str]) -> bool:
    return answer.status == expected[0] and (method == "HEAD" or refusal(answer) == expected)


# --- Every path ------------------------------------------------------------------------------------------------------


@every_route
def test_nobody_comes_in_without_a_login(server: Server, method: str, path: str) -> None:
    answer = ask(server, method, path)
    assert is_refused(answer, method, NOT_LOGGED_IN)
    assert answer.headers["WWW-Authenticate"] == "Basic realm=wok"


@every_route
def test_a_pages_script_is_refused_without_the_browsers_own_window(server: Server, method: str, path: str) -> None:
    answer = ask(server, method, path, {"X-Requested-With": "XMLHttpRequest"})
    assert is_refused(answer, method, NOT_LOGGED_IN)
    assert answer.headers["WWW-Authenticate"] is None


@every_route
def test_the_token_opens_as_bearer(server: Server, method: str, path: str) -> None:
    assert lets_in(ask(server, method, path, {"Authorization": f"Bearer {server.token}"}))


@every_route
def test_the_token_opens_as_password_of_admin(server: Server, method: str, path: str) -> None:
    assert lets_in(ask(server, method, path, basic("admin", server.token)))


@every_route
def test_a_session_opens(server: Server, method: str, path: str) -> None:
    session = session_of(log_in(server, server.token))
    answer = ask(server, method, path, {"Cookie": f"wok={session}"})
    assert lets_in(answer)
    assert int(answer.headers["Session-Expires-On"]) == 1800


@every_route
def test_a_session_that_logged_out_does_not(server: Server, method: str, path: str) -> None:
    session = session_of(log_in(server, server.token))
    assert ask(server, "POST", "/logout", {"Cookie": f"wok={session}"}).status == 200
    answer = ask(server, method, path, {"Cookie": f"wok={session}"})
    assert is_refused(answer, method, NOT_LOGGED_IN)
    assert answer.headers["Session-Expires-On"] is None


@every_route
def test_a_wrong_token_does_not(server: Server, method: str, path: str) -> None:
    assert is_refused(ask(server, method, path, {"Authorization": "Bearer wrong"}), method, NOT_LOGGED_IN)


strangers = (f"stranger{number}" for number in count())


@every_route
def test_a_wrong_password_does_not(server: Server, method: str, path: str) -> None:
    assert is_refused(ask(server, method, path, basic(next(strangers), "wrong")), method, WRONG)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer None",
        "Bearer {token}x",
        "Bearer x{token}",
        "Bearer {TOKEN}",
        "Basic",
        "Basic !!!",
        "Basic YWRtaW4=",  # admin, without a colon
        "Basic //79",  # no UTF-8
        "Basic {token}",
        "Digest {token}",
        "{token}",
        "\xff",
        "Bearer \xff",
    ],
)
def test_credentials_that_are_none_are_refused(server: Server, authorization: str) -> None:
    given = authorization.format(token=server.token, TOKEN=server.token.upper())
    assert refusal(ask(server, "GET", "vms", {"Authorization": given}))[0] == 401


@pytest.mark.parametrize("cookie", ["wok=", "wok=x", 'wok="\\377"', "wok", "Wok=x", "wok=x; wok=y", "=", "wok={token}"])
def test_cookies_that_are_none_are_refused(server: Server, cookie: str) -> None:
    assert refusal(ask(server, "GET", "vms", {"Cookie": cookie.format(token=server.token)})) == NOT_LOGGED_IN


def test_a_token_in_the_query_is_no_login(server: Server) -> None:
    assert refusal(ask(server, "GET", f"vms?token={server.token}&once={server.token}")) == NOT_LOGGED_IN


@pytest.mark.parametrize("path", ["/", "/ui/index.html", "/login", "/nope"])
def test_the_page_and_the_login_are_for_everybody(server: Server, path: str) -> None:
    assert lets_in(ask(server, "GET", path))


# --- Logging in and out ----------------------------------------------------------------------------------------------


def test_a_login_tells_who_one_is(server: Server) -> None:
    answer = log_in(server, server.token)
    assert (answer.status, answer.json) == (200, {"username": "admin", "groups": [], "role": "admin"})


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(server: Server) -> None:
    attributes = log_in(server, server.token).headers["Set-Cookie"].split("; ")
    assert re.fullmatch(r"wok=[\w-]{40,}", attributes[0])
    assert set(attributes[1:]) == {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=1800"}  # Secure under TLS only


def test_every_login_is_a_session_of_its_own(server: Server) -> None:
    first = session_of(log_in(server, server.token))
    again = server.request(
        "POST",
        "/login",
        {"username": "admin", "password": server.token},
        {"Cookie": f"wok={first}"},
        anonymous=True,
    )
    assert session_of(again) not in ("", first)
    assert refusal(ask(server, "GET", "vms", {"Cookie": f"wok={first}"})) == NOT_LOGGED_IN  # it is nobody's any more


@pytest.mark.parametrize("planted", ["chosen-by-an-attacker", "x" * 43])
def test_a_session_that_somebody_planted_never_becomes_one(server: Server, planted: str) -> None:
    credentials = {"username": "admin", "password": server.token}
    server.request("POST", "/login", credentials, {"Cookie": f"wok={planted}"}, anonymous=True)
    assert refusal(ask(server, "GET", "vms", {"Cookie": f"wok={planted}"})) == NOT_LOGGED_IN


@pytest.mark.parametrize("user", ["root", "", "Admin", "admin ", "admin\n", "<b>", "名前", "x" * 10_000])
def test_only_admin_has_the_token_for_a_password(server: Server, user: str) -> None:
    assert refusal(log_in(server, server.token, user)) == (WRONG if user else (400, "CLNAPI0004E"))


def test_a_failed_login_sets_no_cookie(server: Server) -> None:
    assert session_of(log_in(server, "wrong", next(strangers))) == ""


@pytest.mark.parametrize("body", [None, {}, {"username": "admin"}, {"password": "x"}])
def test_a_login_without_a_field_is_400_and_names_it(server: Server, body: dict[str, str] | None) -> None:
    answer = server.request("POST", "/login", body, anonymous=True)
    assert refusal(answer) == (400, "CLNAPI0004E")
    for field in {"username", "password"} - (body or {}).keys():
        assert field in answer.json["reason"]


def test_a_logout_takes_the_cookie_away(server: Server) -> None:
    session = session_of(log_in(server, server.token))
    answer = ask(server, "POST", "/logout", {"Cookie": f"wok={session}"})
    assert (answer.status, answer.json) == (200, {})
    assert "Max-Age=0" in answer.headers["Set-Cookie"]


def test_a_logout_ends_no_other_session(server: Server) -> None:
    mine, other = session_of(log_in(server, server.token)), session_of(log_in(server, server.token))
    ask(server, "POST", "/logout", {"Cookie": f"wok={mine}"})
    assert lets_in(ask(server, "GET", "vms", {"Cookie": f"wok={other}"}))


@pytest.mark.parametrize("cookie", [{}, {"Cookie": "wok=x"}])
def test_who_is_not_logged_in_can_log_out(server: Server, cookie: dict[str, str]) -> None:
    assert ask(server, "POST", "/logout", cookie).status == 200


# --- Guessing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [log_in, lambda server, password: ask(server, "GET", "vms", basic("admin", password))])
def test_after_three_wrong_passwords_one_has_to_wait(
    start: Callable[..., Server], way: Callable[..., Response]
) -> None:
    server = start()
    assert [refusal(way(server, "wrong")) for _ in range(3)] == [WRONG] * 3
    for password in ("wrong", server.token):  # waiting is not for the wrong ones alone, or it would tell which is right
        answer = way(server, password)
        assert refusal(answer) == TOO_MANY
        assert 0 < int(answer.headers["Retry-After"]) <= 30
        assert answer.headers["Retry-After"] in answer.json["reason"]
    assert lets_in(ask(server, "GET", "vms", {"Authorization": f"Bearer {server.token}"}))


def test_waiting_is_for_the_user_who_was_guessed(server: Server) -> None:
    stranger = next(strangers)
    assert [refusal(log_in(server, "wrong", stranger)) for _ in range(4)] == [WRONG] * 3 + [TOO_MANY]
    assert log_in(server, server.token).status == 200


def test_a_right_password_forgives_the_wrong_ones_before(server: Server) -> None:
    for _ in range(3):
        assert [log_in(server, "wrong").status for _ in range(2)] == [401, 401]
        assert log_in(server, server.token).status == 200


@pytest.fixture
def clock() -> Iterator[mock.Mock]:
    with mock.patch("time.monotonic", return_value=1000.0) as reads:
        yield reads


def test_each_further_guess_doubles_the_wait_up_to_an_hour(clock: mock.Mock) -> None:
    attempts, waits = Attempts(), []
    for _ in range(3):
        attempts.check("admin", "::1")
        attempts.failed("admin", "::1")
    for _ in range(9):
        with pytest.raises(errors.TooManyAttempts) as refused:
            attempts.check("admin", "::1")
        waits.append((refused.value.retry_after or 0) - 1)
        clock.return_value += waits[-1] + 1
        attempts.check("admin", "::1")
        attempts.failed("admin", "::1")
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_who_guesses_many_at_once_learns_of_three(clock: mock.Mock) -> None:
    """A check of a password takes a while, so that all are begun before the first one has failed."""
    attempts = Attempts()
    for _ in range(50):
        attempts.check("ann", "::1")
    for _ in range(3):
        attempts.failed("ann", "::1")
    for told in (attempts.failed, attempts.succeeded):  # the right one among the others looks like them
        with pytest.raises(errors.TooManyAttempts) as refused:
            told("ann", "::1")
        assert refused.value.retry_after == 31
    clock.return_value += 30
    attempts.succeeded("ann", "::1")


def test_guesses_of_any_number_and_length_take_little_memory() -> None:
    attempts = Attempts()
    for number in range(20_000):
        attempts.failed(f"{number:05}" + "x" * 5_000, "::1")
    assert sum(len(user) for user, _ in attempts._failures) < 1_000_000


def test_a_session_ends_when_nobody_used_it_for_its_time(clock: mock.Mock) -> None:
    sessions = Sessions(lifetime_s=60)
    secret = sessions.open(anybody)
    for _ in range(3):  # each use prolongs it
        clock.return_value += 59
        assert sessions.caller(secret) == ANYBODY
    clock.return_value += 60
    assert sessions.caller(secret) is None


def test_who_logs_in_again_and_again_loses_sessions_of_their_own_and_of_nobody_else(clock: mock.Mock) -> None:
    sessions, ann = Sessions(lifetime_s=60), Caller("ann")
    other = sessions.open(anybody, ANYBODY)
    used, unused = (sessions.open(lambda: ann, ann) for _ in range(2))
    for _ in range(2000):
        clock.return_value += 0.01
        assert sessions.caller(used) == ann  # as a browser does that is open
        sessions.open(lambda: ann, ann)
    assert sessions.caller(unused) is None
    assert (sessions.caller(used), sessions.caller(other)) == (ann, ANYBODY)
    assert len(sessions._sessions) < 1100


def test_a_session_ends_when_its_user_is_one_no_longer() -> None:
    sessions, known = Sessions(lifetime_s=60), [ANYBODY]
    secret = sessions.open(lambda: known[0] if known else None)
    assert sessions.caller(secret) == ANYBODY
    known.clear()
    assert sessions.caller(secret) is None
    known.append(ANYBODY)  # who comes back logs in again
    assert sessions.caller(secret) is None


def test_the_length_of_a_session_is_configurable(start: Callable[..., Server], tmp_path: Path) -> None:
    config = tmp_path / "cloner.conf"
    config.write_text("[server]\nsession_minutes = 5\n")
    answer = log_in(server := start("--config", str(config)), server.token)
    assert "Max-Age=300" in answer.headers["Set-Cookie"]


# --- The one-time link -----------------------------------------------------------------------------------------------


def link_of(server: Server) -> str:
    return "/" + server.ready_line.rpartition("/")[2]


def test_the_printed_link_logs_in_once(start: Callable[..., Server]) -> None:
    server = start()
    for method in ("HEAD", "OPTIONS", "POST"):  # a mail scanner that looks at it does not use it up
        assert session_of(ask(server, method, link_of(server))) == ""
    first, second = ask(server, "GET", link_of(server)), ask(server, "GET", link_of(server))
    assert (first.status, first.headers["Location"].partition("://")[2].partition("/")[2]) == (303, "")
    assert lets_in(ask(server, "GET", "vms", {"Cookie": f"wok={session_of(first)}"}))
    assert (second.status, session_of(second)) == (303, "")


def test_of_many_who_open_the_link_at_once_one_is_logged_in(start: Callable[..., Server]) -> None:
    server = start()
    sessions = [session_of(answer) for answer in at_once(20, lambda _: ask(server, "GET", link_of(server)))]
    assert len([session for session in sessions if session]) == 1


@pytest.mark.parametrize("query", ["once=", "once=wrong", "once=a&once=b", "once"])
def test_another_link_does_not_log_in(server: Server, query: str) -> None:
    answer = ask(server, "GET", f"/?{query}")
    assert (answer.status, session_of(answer)) == (303, "")


# --- The token -------------------------------------------------------------------------------------------------------


def test_the_token_is_made_at_the_first_start_for_its_owner_alone_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with Server(None, folder, env={"CLONER_TOKEN": ""}) as server:
        path = folder / "token"
        token = path.read_text().strip()
        assert len(token) >= 40
        assert path.stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700
        assert log_in(server, token).status == 200
        server.kill()
        server.start()
        assert path.read_text().strip() == token
        assert log_in(server, token).status == 200
    assert sorted(entry.name for entry in folder.iterdir() if "token" in entry.name) == ["token"]


def test_servers_that_start_together_have_one_token(tmp_path: Path) -> None:
    servers = [Server(None, tmp_path, env={"CLONER_TOKEN": ""}) for _ in range(2)]
    try:
        at_once(2, lambda number: servers[number].start())
        token = (tmp_path / "token").read_text().strip()
        assert {log_in(server, token).status for server in servers} == {200}
    finally:
        for server in servers:
            server.kill()
            server.close()


def test_a_token_from_the_environment_leaves_no_file(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start(token="given-by-hand")  # noqa: S106 - a test's password
    assert log_in(server, "given-by-hand").status == 200
    assert not (tmp_path / "token").exists()


def test_neither_token_nor_link_is_in_the_log(start: Callable[..., Server]) -> None:
    server = start()
    ask(server, "GET", link_of(server))
    log_in(server, server.token)
    log_in(server, "wrong-password")
    secrets = (server.token, link_of(server).partition("=")[2], "wrong-password")
    assert not [secret for secret in secrets if secret in server.log]


# --- No log-in -------------------------------------------------------------------------------------------------------


def test_with_auth_none_everybody_comes_in(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--auth", "none")
    assert all(lets_in(ask(server, method, path)) for method, path in ROUTES)
    assert "once=" not in server.ready_line
    assert not (tmp_path / "token").exists()
    assert log_in(server, "anything").status == 200
