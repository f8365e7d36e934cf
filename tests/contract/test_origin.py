"""Where a request comes from: pages of other sites change nothing, and no other name leads here."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import cherrypy
import pytest

from cloner import errors
from cloner.server.origin import LOCAL_ADDRESS, Origins
from support.answers import parsed, refusal
from support.server import MOUNT_POINT, Response, Server

FOREIGN_PAGE, FOREIGN_NAME = (403, "CLNAUTH0001E"), (403, "CLNAUTH0002E")
RUNNING = (400, "KCHVM0033E")  # whoever is let in is refused with this, and changes nothing
FOREIGN_NAMES = [
    "evil.example", "evil.example:{port}", "192.0.2.1", "[2001:db8::1]:{port}", "localhost.evil.example",
    "127.0.0.1.evil.example", "evil.example:80@localhost", "localhost@evil.example", "localhost, evil.example", "x",
    "localhost:99999999", "localhost:8010:80", "[::1", "::1", "[localhost]", "a b", "<script>", "../..",
    "localhost/evil.example", "localhost#", "localhost?", "x" * 5000, "", ":{port}", "cloner.example.evil.example",
    "sub.cloner.example", "localhost.", "local\xffhost",
]  # fmt: skip
OUR_NAMES = [
    "127.0.0.1:{port}", "127.0.0.1", "127.9.9.9:1", "[::1]:{port}", "localhost", "LocalHost:{port}",
    "cloner.example", "CLONER.EXAMPLE:443", "cloner.lan", "cloner.lan:8443", "cloner.lan:1",
]  # fmt: skip
SECURITY = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    folder = tmp_path_factory.mktemp("origins")
    conf = folder / "cloner.conf"
    conf.write_text("[server]\nserver_names = Cloner.example, cloner.lan:8443\n")
    shut = Server(None, folder / "shut", args=["--config", str(conf)])
    wide = Server(None, folder / "wide", args=["--config", str(conf), "--auth", "none"])
    with shut, wide:
        yield {"token": shut, "none": wide}


@pytest.fixture(params=["token", "none"])
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    """One whose door is shut and one whose door is open."""
    return servers[str(request.param)]


def get(server: Server, path: str, host: str) -> Response:
    place = path if path.startswith("/") else f"{MOUNT_POINT}/{path}"
    head = [f"GET {place} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {server.token}", "Connection: close"]
    return parsed(server.raw("\r\n".join([*head, "", ""]).encode("latin-1")))


# --- Names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", FOREIGN_NAMES)
def test_no_other_name_leads_here(server: Server, host: str) -> None:
    """A page whose own name was made to lead here (DNS rebinding) sends that name."""
    for path in ("vms", "vms/nope", "/", "/ui/app.js", "/nope", "/login", "/?once=x"):
        answer = get(server, path, host.format(port=server.address[1]))
        assert refusal(answer) == FOREIGN_NAME
        assert answer.headers["Set-Cookie"] is None


@pytest.mark.parametrize(("place", "expected"), [("evil.example", 403), ("x@localhost", 403), ("localhost", 200)])
def test_a_name_before_the_path_counts_and_not_host(server: Server, place: str, expected: int) -> None:
    """RFC 9112, 3.2.2."""
    head = [
        f"GET http://{place}{MOUNT_POINT}/vms HTTP/1.1",
        f"Authorization: Bearer {server.token}",
        "Connection: close",
    ]
    for host in ("localhost", "evil.example"):
        answer = parsed(server.raw("\r\n".join([*head, f"Host: {host}", "", ""]).encode()))
        assert answer.status == expected
        assert expected == 200 or refusal(answer) == FOREIGN_NAME


@pytest.mark.parametrize("host", OUR_NAMES)
def test_names_of_ours_do(server: Server, host: str) -> None:
    assert get(server, "vms", host.format(port=server.address[1])).status == 200


def test_who_names_no_host_is_no_browser(server: Server) -> None:
    """HTTP/1.0 has no Host, and is what probes speak."""
    said = server.raw(f"GET {MOUNT_POINT}/vms HTTP/1.0\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode())
    assert parsed(said).status == 200


@pytest.mark.parametrize(
    ("listens", "arrived", "host", "is_ours"),
    [
        ("0.0.0.0", "192.0.2.7", "192.0.2.7:8010", True),  # noqa: S104 - that is what one may listen on
        ("::", "::ffff:192.0.2.7", "192.0.2.7", True),
        ("::", "2001:db8::7", "[2001:DB8:0::7]:80", True),
        ("0.0.0.0", "192.0.2.7", "192.0.2.8", False),  # noqa: S104 - as above
        ("0.0.0.0", "192.0.2.7", "evil.example", False),  # noqa: S104 - as above
        ("192.0.2.7", "192.0.2.7", "192.0.2.7", True),
        ("cloner.lan", "192.0.2.7", "cloner.lan:8010", True),
        ("cloner.lan", "", "192.0.2.7", False),
    ],
)
def test_the_address_at_which_one_arrived_does(listens: str, arrived: str, host: str, is_ours: bool) -> None:
    request = mock.Mock(headers={"Host": host}, wsgi_environ={LOCAL_ADDRESS: arrived})
    with mock.patch.object(cherrypy.serving, "request", request):
        try:
            Origins(listens).check_host()
        except errors.ForeignHost:
            assert not is_ours
        else:
            assert is_ours


# --- Pages -----------------------------------------------------------------------------------------------------------


def change(server: Server, headers: dict[str, str]) -> tuple[int, str]:
    port = server.address[1]
    return refusal(
        server.request(
            "POST", "vms/mail/clone", headers={name: value.format(port=port) for name, value in headers.items()}
        )
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "nonsense"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:{port}"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://"},
        {"Origin": "file://"},
        {"Origin": "http://127.0.0.1"},  # another port is another origin
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:{port}"},  # and another name
        {"Origin": "http://127.0.0.1:{port}.evil.example"},
        {"Origin": "http://evil.example@127.0.0.1:{port}"},
        {"Origin": "chrome-extension://127.0.0.1:{port}"},
        {"Origin": "127.0.0.1:{port}"},
        {"Origin": "http://cloner.lan"},
        {"Origin": "http://sub.cloner.example"},
    ],
)
def test_a_page_of_another_site_changes_nothing(server: Server, headers: dict[str, str]) -> None:
    """A browser adds the headers itself, and the cookie or the Basic credentials that it knows."""
    assert change(server, headers) == FOREIGN_PAGE
    for method, path in (("DELETE", "vms/nope"), ("DELETE", "tasks/1"), ("POST", "/login"), ("POST", "/logout")):
        sent = {name: value.format(port=server.address[1]) for name, value in headers.items()}
        assert refusal(server.request(method, path, headers=sent)) == FOREIGN_PAGE


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy.example"},
        {"Origin": "http://127.0.0.1:{port}"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "https://cloner.example"},  # of a proxy that does not hand its Host on
        {"Origin": "https://Cloner.Example"},
        {"Origin": "http://cloner.lan:8443"},
    ],
)
def test_a_page_of_ours_does(server: Server, headers: dict[str, str]) -> None:
    assert change(server, headers) == RUNNING


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}])
def test_a_page_of_another_site_may_lead_here_but_reads_nothing(server: Server, headers: dict[str, str]) -> None:
    """It gets no CORS header, without which a browser does not show it the answer."""
    for path in ("vms", "/"):
        answer = server.request("GET", path, headers=headers)
        assert answer.status == 200
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


# --- What a browser is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "vms", 200),
        ("HEAD", "vms", 200),
        ("GET", "vms/nope", 404),
        ("GET", "nope", 404),
        ("POST", "vms/mail/clone", 400),
        ("PUT", "vms", 405),
        ("GET", "/", 200),
        ("GET", "/?once=x", 303),
        ("GET", "/ui/app.js", 200),
        ("GET", "/ui/nope", 404),
        ("POST", "/login", 400),
        ("CONNECT", "vms", 400),  # refused by the HTTP server before the application
    ],
)
def test_every_answer_says_what_a_browser_must_not_do_with_it(
    server: Server, method: str, path: str, status: int
) -> None:
    answer = server.request(method, path)
    assert answer.status == status
    for name, value in SECURITY.items():
        assert len(answer.headers.get_all(name, [])) == 1
        assert value in answer.headers[name]
    assert answer.headers["Strict-Transport-Security"] is None


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX\r\n\r\n"])
def test_so_does_one_to_what_is_no_request(server: Server, raw: bytes) -> None:
    answer = parsed(server.raw(raw))
    assert answer.status == 400
    assert all(value in answer.headers[name] for name, value in SECURITY.items())
