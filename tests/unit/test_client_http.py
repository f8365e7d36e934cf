"""The client's requests: what is repeated and for how long, what a refusal means, and whom it trusts."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path

import pytest

from cloner.client.access import read_access
from cloner.client.failures import ClientError, Misused, NoAnswer, NoRoom, Refused
from cloner.client.http import Call, Server
from cloner.client.retry import Patience, seconds_of
from support.scripted import Reply, Scripted, answer, refusal
from support.tls import Certificate, make_certificate

FINE = answer(200, {"fine": True})
BUSY = refusal(503, "CLNVIRT0003E: libvirt is busy", Retry_After="3")
LIMIT = refusal(429, "CLNLIMIT0001E: too many", Retry_After="3")
UNFINISHED = refusal(409, "CLNAPI0010E: still being accepted", Retry_After="1")
TAKEN = refusal(409, "CLNNAME0002E: taken")
PROXY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"

TOKEN = "t"  # noqa: S105 - a test's
READ = Call("GET", "vms")
CLONE = Call("POST", "vms/web/clone", {"count": 2}, headers={"Idempotency-Key": '"1"'})
START = Call("POST", "vms/web/start", {}, is_repeatable=False)


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def patience(self, seconds: float) -> Patience:
        return Patience(seconds, clock=lambda: self.now, sleep=self.sleep, chance=lambda: 0.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def asked(url: str, call: Call, clock: Clock, *, token: str = "") -> object:
    """The content of the answer."""
    server = Server(read_access({"CLONER_URL": url, "CLONER_TOKEN": token}), clock.patience)
    try:
        return server.ask(call).content
    finally:
        server.close()


def failed(call: Call, *replies: Reply, token: str = "") -> ClientError:
    """What a request that is answered so ends with."""
    with Scripted(*replies) as scripted, pytest.raises(ClientError) as caught:
        asked(scripted.url, call, Clock(), token=token)
    return caught.value


# --- Repeating -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [None, CUT, BUSY, LIMIT, UNFINISHED, PROXY])
@pytest.mark.parametrize("call", [READ, CLONE])
def test_what_may_pass_is_tried_again(clock: Clock, call: Call, trouble: Reply) -> None:
    with Scripted(trouble, trouble, FINE) as scripted:
        assert asked(scripted.url, call, clock) == {"fine": True}
    assert len(clock.slept) == 2


def test_each_attempt_is_the_same_request(clock: Clock) -> None:
    with Scripted(None, BUSY, FINE) as scripted:
        asked(scripted.url, CLONE, clock)
    assert scripted.seen(lambda request: request.headers["Idempotency-Key"]) == ['"1"'] * 3
    assert scripted.seen(lambda request: request.body) == [{"count": 2}] * 3


@pytest.mark.parametrize("trouble", [None, CUT, PROXY])
def test_what_must_not_be_done_twice_is_not_sent_again_when_its_answer_is_lost(trouble: Reply) -> None:
    with Scripted(trouble, FINE) as scripted, pytest.raises(NoAnswer):
        asked(scripted.url, START, Clock())
    assert len(scripted.requests) == 1


def test_what_the_server_did_not_begin_is_sent_again_in_any_case(clock: Clock) -> None:
    with Scripted(BUSY, FINE) as scripted:
        assert asked(scripted.url, START, clock) == {"fine": True}


@pytest.mark.parametrize(("trouble", "pause"), [(BUSY, 3), (LIMIT, 3), (UNFINISHED, 1)])
def test_the_server_says_when_it_wants_to_be_asked_again(clock: Clock, trouble: bytes, pause: int) -> None:
    with Scripted(trouble, FINE) as scripted:
        asked(scripted.url, READ, clock)
    assert clock.slept == [pause]


@pytest.mark.parametrize(("header", "seconds"), [("120", 120), (" 0 ", 0), ("Fri, 31 Dec 1999 23:59:59 GMT", 0)])
def test_the_server_may_say_it_as_a_number_or_as_a_date(header: str, seconds: float) -> None:
    assert seconds_of(header) == seconds


def test_a_date_ahead_is_so_many_seconds_away() -> None:
    seconds = seconds_of(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))
    assert seconds is not None
    assert 3000 <= seconds <= 3600


@pytest.mark.parametrize("header", [None, "", "soon", "-1", "1.5", "٣", "Fri, 99 Dec 1999"])
def test_what_is_neither_is_not_waited_for(header: str | None) -> None:
    assert seconds_of(header) is None


def test_clients_that_were_sent_away_together_do_not_come_back_together() -> None:
    clock = Clock()
    for chance in (0.0, 0.5, 1.0):
        Patience(60, clock=lambda: 0.0, sleep=clock.sleep, chance=partial(float, chance)).wait(10)
    assert clock.slept == [10, 11, 12]


def test_without_a_word_of_the_server_the_pauses_grow(clock: Clock) -> None:
    with Scripted(*[None] * 7, FINE) as scripted:
        asked(scripted.url, READ, clock)
    assert clock.slept == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@pytest.mark.parametrize(
    ("trouble", "kind"), [(None, NoAnswer), (BUSY, NoAnswer), (PROXY, NoAnswer), (LIMIT, NoRoom), (UNFINISHED, Refused)]
)
def test_it_gives_up_in_time(clock: Clock, trouble: Reply, kind: type[ClientError]) -> None:
    with Scripted(trouble) as scripted, pytest.raises(kind):
        asked(scripted.url, CLONE, clock)
    assert 45 < clock.now <= 60


def test_a_wait_that_would_be_too_long_is_not_begun(clock: Clock) -> None:
    later = refusal(429, "X0000E: much later", Retry_After="3600")
    with Scripted(later) as scripted, pytest.raises(NoRoom, match="3600"):
        asked(scripted.url, CLONE, clock)
    assert clock.slept == []


def test_a_server_that_is_not_there_is_said_at_once(clock: Clock) -> None:
    with Scripted(FINE) as scripted:
        url = scripted.url
    with pytest.raises(NoAnswer, match="Connection refused"):
        asked(url, READ, clock)
    assert clock.slept == []


def test_a_server_that_goes_away_is_waited_for(clock: Clock) -> None:
    with Scripted(FINE) as scripted:
        server = Server(read_access({"CLONER_URL": scripted.url}), clock.patience)
        server.ask(READ)
    with pytest.raises(NoAnswer):
        server.ask(CLONE)
    assert clock.now > 45


# --- What a refusal means --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "exit_status"),
    [(400, 3), (403, 3), (404, 3), (409, 3), (422, 3), (429, 4), (507, 4), (500, 5), (502, 5), (503, 5)],
)
def test_the_servers_reason_and_its_kind_are_told(status: int, exit_status: int) -> None:
    error = failed(READ, refusal(status, "X0000E: for a reason"))
    assert str(error).startswith("X0000E: for a reason")
    assert error.exit_status == exit_status


@pytest.mark.parametrize(("token", "advice"), [("", "CLONER_TOKEN"), ("t", "not known")])
def test_who_is_not_let_in_is_told_what_to_do(token: str, advice: str) -> None:
    error = failed(READ, refusal(401, "WOKAUTH0002E: You are not logged in"), token=token)
    assert isinstance(error, Refused)
    assert advice in str(error)


def test_a_reason_cannot_command_a_terminal() -> None:
    assert "\x1b" not in str(failed(READ, refusal(400, "X0000E: \x1b[2J")))


@pytest.mark.parametrize(
    "config",
    [
        answer(404, {"reason": "nothing"}),
        answer(200, {"version": "3.0.0"}),  # Kimchi's own
        answer(200, ["extensions"]),
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
    ],
)
def test_what_is_no_cloner_is_said(clock: Clock, config: bytes) -> None:
    with Scripted(FINE, config=config) as scripted, pytest.raises(Misused, match="no cloner at"):
        asked(scripted.url, READ, clock)
    assert scripted.requests == []


def test_the_token_does_not_follow_a_redirect() -> None:
    with Scripted(FINE) as elsewhere:
        error = failed(READ, answer(307, None, Location=f"{elsewhere.url}/plugins/kimchi/vms"), token=TOKEN)
        assert elsewhere.url in str(error)
    assert isinstance(error, Misused)
    assert elsewhere.requests == []


# --- Where it is, and whom it trusts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "/", "/plugins/kimchi", "/plugins/kimchi/"])
def test_the_mount_point_is_found(clock: Clock, below: str) -> None:
    with Scripted(FINE) as scripted:
        asked(scripted.url + below, READ, clock)
    assert scripted.seen(lambda request: request.path) == ["/plugins/kimchi/vms"]


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8010", "ftp://example.org", "http://", "http://host:port", "http://host/?a=b", "http://a\x1bb/"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Misused, match="no address"):
        read_access({"CLONER_URL": url})


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(Misused) as caught:
        read_access({"CLONER_URL": "http://admin:hunter2@host/"})
    assert "hunter2" not in str(caught.value)


def test_the_option_comes_before_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-the-file\n")
    environment = {"CLONER_URL": "http://one", "CLONER_TOKEN": "of-the-environment"}
    access = read_access(environment, url="http://two", token_file=tmp_path / "token")
    assert (access.url.hostname, access.token) == ("two", "of-the-file")


@pytest.mark.parametrize("token", ["two\r\nX-Header: lines", "with space", "ümlaut"])
def test_a_token_that_would_end_its_header_is_refused(token: str) -> None:
    with pytest.raises(Misused, match="token"):
        read_access({"CLONER_TOKEN": token})


@pytest.mark.parametrize("content", [None, ""])
def test_a_token_file_without_a_token_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Misused, match=str(path)):
        read_access({}, token_file=path)


def served_with(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    return context


def test_an_authority_that_is_named_is_trusted(clock: Clock, tmp_path: Path) -> None:
    own = make_certificate(tmp_path)
    with Scripted(FINE, tls=served_with(own)) as scripted:
        server = Server(read_access({"CLONER_URL": scripted.url}, cacert=own.chain), clock.patience)
        assert server.ask(READ).content == {"fine": True}
        server.close()


@pytest.mark.parametrize(("host", "trusts"), [("127.0.0.1", False), ("127.1", True)])
def test_another_certificate_gets_no_token(clock: Clock, tmp_path: Path, host: str, trusts: bool) -> None:
    """One that nobody has vouched for, and one of another host: 127.1 is the same one, by a name that is not in it."""
    own = make_certificate(tmp_path)
    with Scripted(FINE, tls=served_with(own)) as scripted:
        environment = {"CLONER_URL": scripted.url.replace("127.0.0.1", host), "CLONER_TOKEN": TOKEN}
        access = read_access(environment, cacert=own.chain if trusts else None)
        with pytest.raises(Misused, match=f"certificate of https://{host}"):
            Server(access, clock.patience).ask(READ)
    assert scripted.requests == []


def test_a_certificate_file_that_is_none_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", Path(__file__)):
        with pytest.raises(Misused, match=str(path)):
            Server(read_access({"CLONER_URL": "https://127.0.0.1:1"}, cacert=path)).ask(READ)


def test_a_server_without_tls_is_told_from_one_with_it(clock: Clock) -> None:
    with Scripted(FINE) as scripted, pytest.raises(NoAnswer, match="TLS"):
        asked(scripted.url.replace("http:", "https:"), READ, clock)
