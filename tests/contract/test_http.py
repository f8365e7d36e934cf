"""HTTP as consumers meet it: methods, bodies, media types, errors, and requests that no honest client sends."""

from __future__ import annotations

import http.client
import json
import re
import socket
from pathlib import Path

import pytest

from cloner.control import sub_nodes
from support.answers import JSON, PROBLEM, error_code, parsed, refusal
from support.server import MOUNT_POINT, Response, Server

CLONE_OF_A_RUNNING_GUEST = "vms/mail/clone"  # whoever gets as far as the guest is refused with RUNNING
RUNNING = (400, "KCHVM0033E")
LIMIT = 64 * 1024
JSON_IN = {"Content-Type": "application/json"}

ROUTES = {
    "batches/1": "DELETE, GET, HEAD",
    "events": "GET, HEAD",
    "config": "GET, HEAD",
    "openapi.json": "GET, HEAD",
    "vms": "GET, HEAD",
    "vms/web": "DELETE, GET, HEAD",
    "vms/web/clone": "POST",
    "vms/web/start": "POST",
    "storagepools": "GET, HEAD",
    "storagepools/default": "GET, HEAD",
    "storagepools/default/storagevolumes": "GET, HEAD",
    "storagepools/default/storagevolumes/web.qcow2": "GET, HEAD",
    "storagepools/default/storagevolumes/web.qcow2/clone": "POST",
    "tasks": "GET, HEAD",
    "tasks/1": "DELETE, GET, HEAD",
    "/": "GET, HEAD",
    "/login": "POST",
    "/logout": "POST",
    "/docs": "GET, HEAD",
    "/livez": "GET, HEAD",
    "/readyz": "GET, HEAD",
    "/metrics": "GET, HEAD",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
READABLE = [path for path, allow in ROUTES.items() if "GET" in allow and path not in ("tasks/1", "batches/1", "events")]


def post(server: Server, body: bytes | str, headers: dict[str, str] | None = None) -> Response:
    return server.request("POST", CLONE_OF_A_RUNNING_GUEST, body, JSON_IN if headers is None else headers)


def target(path: str) -> str:
    """A path as the request line has it; like the server's request(), below the mount point unless it begins with /."""
    return path if path.startswith("/") else f"{MOUNT_POINT}/{path}"


def send(server: Server, *lines: str, body: bytes = b"", request: str = "") -> Response:
    """The answer to a request whose lines are sent as they are; log-in and Host are there unless a line begins so."""
    request = request or f"POST {target(CLONE_OF_A_RUNNING_GUEST)} HTTP/1.1"
    given = {"Host": "localhost", "Authorization": f"Bearer {server.token}", "Connection": "close"}
    given = {name: value for name, value in given.items() if not any(line.startswith(name) for line in lines)}
    head = [request, *(f"{name}: {value}" for name, value in given.items()), *lines]
    return parsed(server.raw("\r\n".join([*head, "", ""]).encode("latin-1") + body))


def test_no_route_is_forgotten_here() -> None:
    for resource, controller in sub_nodes.items():
        known = {"{pool}": "default", "{id}": "1", "{name}": "web.qcow2" if resource == "storagepools" else "web"}
        for route in controller.routes:
            path = "/".join([resource, *(known.get(part, part) for part in route.parts)])
            assert route.method in ROUTES[path].split(", ")


# --- Methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method"),
    [(path, method) for path, allow in ROUTES.items() for method in METHODS if method not in allow.split(", ")],
)
def test_a_method_that_is_not_possible_is_405_and_says_which_are(server: Server, path: str, method: str) -> None:
    answer = server.request(method, path)
    assert answer.status == 405
    assert answer.headers["Allow"] == ROUTES[path]
    if method != "HEAD":
        assert refusal(answer) == (405, "CLNAPI0002E")


@pytest.mark.parametrize("path", READABLE)
def test_head_is_get_without_the_body(server: Server, path: str) -> None:
    head, get = server.request("HEAD", path), server.request("GET", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert int(head.headers["Content-Length"]) > 0


def test_head_of_what_is_not_there_is_404_without_a_body(server: Server) -> None:
    answer = server.request("HEAD", "vms/nope")
    assert (answer.status, answer.body) == (404, b"")


# --- Paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "",
        "nope",
        "vmss",
        "vms/web/nope",
        "vms/web/clone/again",
        "storagepools/default/nope",
        "storagepools/default/storagevolumes/web.qcow2/clone/x",
        "tasks/1/x",
        "config/x",
        "vms/web/../db",
        "services",
        "settings",
        "api_schema",
        "messages",
        "get_custom_conf",
        "stop",
        "__class__",
        "vms/web/__init__",
    ],
)
def test_where_nothing_is_the_answer_is_404_and_says_where(server: Server, path: str) -> None:
    answer = server.request("GET", path)
    assert refusal(answer) == (404, "CLNAPI0001E")
    assert f"{MOUNT_POINT}/{path}." in answer.json["reason"]


@pytest.mark.parametrize(
    "path", ["/nope", "/plugins", "/plugins/", "/login/x", "/index", "/_door", "/ui/nope.js", "/ui"]
)
def test_outside_of_the_plugin_too(server: Server, path: str) -> None:
    assert refusal(server.request("GET", path)) == (404, "CLNAPI0001E")


@pytest.mark.parametrize("path", ["vms", "vms/web", "storagepools/default/storagevolumes", "tasks", "config"])
def test_a_slash_at_the_end_makes_no_difference(server: Server, path: str) -> None:
    with_slash, without = server.request("GET", f"{path}/"), server.request("GET", path)
    assert with_slash.status == 200
    assert type(with_slash.json) is type(without.json)


@pytest.mark.parametrize("ranges", ["bytes=a-b", "bytes=" + "0-," * 3000 + "0-", "bytes=0-10", "bytes=999999-"])
def test_a_file_is_sent_as_a_whole(server: Server, ranges: str) -> None:
    """CherryPy stumbles over what is no range, and gathers any number of them in memory, for whoever asks."""
    whole = server.request("GET", "/ui/page.css", anonymous=True)
    answer = server.request("GET", "/ui/page.css", headers={"Range": ranges}, anonymous=True)
    assert (answer.status, answer.body) == (200, whole.body)


@pytest.mark.parametrize(
    "path", ["/ui/../settings.py", "/ui/..%2fsettings.py", "/ui/%2e%2e/settings.py", "/ui//etc/passwd"]
)
def test_the_pages_folder_is_not_left(server: Server, path: str) -> None:
    answer = server.request("GET", path)
    assert refusal(answer)[0] in (403, 404)


# --- Accept ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "text/html", "text/html,*/*;q=0.8", "nonsense", ""]
)
def test_the_api_answers_in_json_whatever_is_accepted(server: Server, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    found, missing = server.request("GET", "vms/web", headers=headers), server.request("GET", "vms/x", headers=headers)
    assert (found.status, found.headers["Content-Type"]) == (200, JSON)
    assert refusal(missing) == (404, "KCHVM0002E")


@pytest.mark.parametrize("accept", [PROBLEM, f"application/json, {PROBLEM};q=0.9"])
def test_who_asks_for_problem_json_gets_rfc_9457_on_top(server: Server, accept: str) -> None:
    answer = server.request("GET", "vms/nope", headers={"Accept": accept})
    problem = answer.json
    assert (answer.status, answer.headers["Content-Type"]) == (404, PROBLEM)
    assert problem.keys() == {"code", "reason", "type", "title", "status", "detail"}
    assert error_code(404, {key: problem[key] for key in ("code", "reason")}) == "KCHVM0002E"
    assert (problem["status"], problem["title"]) == (404, "Not Found")
    assert problem["type"] == "urn:cloner:error:KCHVM0002E"
    assert problem["reason"] == f"KCHVM0002E: {problem['detail']}"


def test_problem_json_is_for_problems(server: Server) -> None:
    assert server.request("GET", "vms/web", headers={"Accept": PROBLEM}).headers["Content-Type"] == JSON


# --- Bodies ----------------------------------------------------------------------------------------------------------


def test_no_body_is_an_empty_object(server: Server) -> None:
    assert refusal(send(server)) == RUNNING
    assert refusal(send(server, "Content-Length: 0")) == RUNNING
    assert refusal(send(server, "Content-Length: 0", "Content-Type: text/plain")) == RUNNING
    assert refusal(send(server, "Transfer-Encoding: chunked", body=b"0\r\n\r\n")) == RUNNING


@pytest.mark.parametrize(
    "body", ["{}", " {} ", '{"pool": "data"}', '{"name":"\\u00fc"}', '{"name":"ü", "pool":"data"}']
)
def test_a_body_that_is_as_it_should_be_is_taken(server: Server, body: str) -> None:
    assert refusal(post(server, body)) == RUNNING


def test_a_body_in_chunks_is_a_body(server: Server) -> None:
    chunks = b'a\r\n{"pool":"n\r\n5;x=y\r\nope"}\r\n0\r\n\r\n'
    answer = send(server, "Content-Type: application/json", "Transfer-Encoding: chunked", body=chunks)
    assert refusal(answer) == (404, "KCHPOOL0002E")


@pytest.mark.parametrize(
    "media",
    ["application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON", "application/json ;x=y"],
)
def test_parameters_of_the_media_type_are_fine(server: Server, media: str) -> None:
    assert refusal(post(server, "{}", {"Content-Type": media})) == RUNNING


@pytest.mark.parametrize(
    "media",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "json",
        "",
    ],
)
def test_another_media_type_is_415(server: Server, media: str) -> None:
    assert refusal(post(server, "{}", {"Content-Type": media})) == (415, "WOKAPI0007E")


def test_a_body_without_a_media_type_is_415(server: Server) -> None:
    assert refusal(send(server, "Content-Length: 2", body=b"{}")) == (415, "WOKAPI0007E")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"}",
        b" ",
        b"{}{}",
        b"{'name': 'x'}",
        b'{"name": "x",}',
        b'{"name": x}',
        b'{"name": NaN}',
        b'{"name": Infinity}',
        b'{"name": -Infinity}',
        b"NaN",
        b'{"name": "a\nb"}',
        b'{"name": "\xff"}',
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b"\x00",
        b"[" * 30_000,
        b'{"name":' * 8_000,
        b'{"name": ' + b"9" * 5_000 + b"}",
        b'{"name": "a", "name": "b"}',
        b'{"name": "a", "n\\u0061me": "b"}',
        b'{"name": "a", "pool": {"x": 1, "x": 1}}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_malformed_json_is_400(server: Server, body: bytes) -> None:
    assert refusal(post(server, body)) == (400, "WOKAPI0006E")


@pytest.mark.parametrize("body", ["[]", '["name"]', '"{}"', "1", "1.5", "1e999", "true", "false", "null"])
def test_json_that_is_no_object_is_400(server: Server, body: str) -> None:
    assert refusal(post(server, body)) == (400, "CLNAPI0003E")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"nope": 1}, ["nope", "name, pool"]),
        ({"Name": "x"}, ["Name"]),
        ({"name": "x", "nope": 1, "more": 2}, ["nope", "more"]),
        ({"": 1}, ["name, pool"]),
        ({"__class__": 1}, ["__class__"]),
        ({"<img src=x>": 1}, ["‹img src=x›"]),
    ],
)
def test_an_unknown_field_is_400_and_named(server: Server, body: dict[str, object], named: list[str]) -> None:
    answer = server.request("POST", CLONE_OF_A_RUNNING_GUEST, body)
    assert refusal(answer) == (400, "CLNAPI0004E")
    assert all(name in answer.json["reason"] for name in named)


@pytest.mark.parametrize("field", ["name", "pool"])
@pytest.mark.parametrize("value", [1, 1.5, True, None, [], ["x"], {}, ""])
def test_a_wrong_type_is_400_and_its_field_is_named(server: Server, field: str, value: object) -> None:
    answer = server.request("POST", CLONE_OF_A_RUNNING_GUEST, {field: value})
    assert refusal(answer) == (400, "CLNAPI0004E")
    assert f"Field {field}: " in answer.json["reason"]


@pytest.mark.parametrize("value", ["a\0b", "\0", "\ud800", "a\udfffb"])
@pytest.mark.parametrize("field", ["name", "pool"])
def test_a_text_that_is_none_is_400_and_its_field_is_named(server: Server, field: str, value: str) -> None:
    answer = post(server, json.dumps({field: value}))
    assert refusal(answer) == (400, "CLNAPI0004E")
    assert f"Field {field}: " in answer.json["reason"]


@pytest.mark.parametrize("value", [1, 0, "true", "yes", None, []])
def test_storage_of_a_delete_is_true_or_false(server: Server, value: object) -> None:
    answer = server.request("DELETE", "vms/mail", {"storage": value})
    assert refusal(answer) == (400, "CLNAPI0004E")
    assert "Field storage: " in answer.json["reason"]


def test_a_task_is_deleted_without_any_field(server: Server) -> None:
    assert refusal(server.request("DELETE", "tasks/999999", {"storage": True})) == (400, "CLNAPI0004E")


# --- Bodies that are too large, or not what their headers say --------------------------------------------------------


def test_a_body_of_64_kib_is_read_and_one_byte_more_is_413(server: Server) -> None:
    fits = '{"name":"%s"}' % ("x" * (LIMIT - 11))
    assert len(fits) == LIMIT
    assert refusal(post(server, fits)) == (400, "CLNNAME0001E")
    assert refusal(post(server, fits + " ")) == (413, "CLNAPI0005E")


@pytest.mark.parametrize("logged_in", [True, False])
@pytest.mark.parametrize("path", ["vms/mail/clone", "/login", "/nope", "vms"])
def test_a_large_body_is_413_for_everybody_and_before_it_is_sent(server: Server, path: str, logged_in: bool) -> None:
    """The body does not follow, so a server that waits for it, or makes room for it, does not answer."""
    login = f"Authorization: Bearer {server.token}\r\n" if logged_in else ""
    head = f"POST {target(path)} HTTP/1.1\r\nHost: localhost\r\n{login}Content-Length: 99999999999999\r\n\r\n"
    assert refusal(first_answer(server, head.encode())) == (413, "CLNAPI0005E")


def first_answer(server: Server, data: bytes) -> Response:
    """What the server says to bytes after which the client neither sends more nor hangs up."""
    with socket.create_connection(server.address, timeout=20) as connection:
        connection.sendall(data)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return Response(answer.status, answer.headers, answer.read())


@pytest.mark.parametrize("logged_in", [True, False])
def test_who_sends_a_large_body_nevertheless_gets_the_answer(server: Server, logged_in: bool) -> None:
    answer = server.request("POST", "vms/mail/clone", b"x" * 8_000_000, JSON_IN, anonymous=not logged_in)
    assert refusal(answer) == (413, "CLNAPI0005E")


@pytest.mark.parametrize("path", ["/login", "vms/mail/clone"])
@pytest.mark.parametrize(
    "chunk", [b"fffffff\r\n", b"1;" + b"x" * 1_000_000, b"10001\r\n" + b"x" * 65537 + b"\r\n0\r\n\r\n"]
)
def test_large_chunks_are_413_before_there_is_room_for_them(server: Server, path: str, chunk: bytes) -> None:
    head = f"POST {target(path)} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert refusal(first_answer(server, head.encode() + chunk)) == (413, "CLNAPI0005E")


def test_large_bodies_do_not_eat_memory(server: Server) -> None:
    def resident() -> int:
        status = Path(f"/proc/{server.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))  # KiB, its peak

    before = resident()
    for length in ("Content-Length: 200000000", "Content-Length: +200000000", "Content-Length: -1"):
        head = f"POST {MOUNT_POINT}/vms/mail/clone HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode()
        with socket.create_connection(server.address, timeout=20) as connection:
            try:
                for block in (head, *[b"x" * 1_000_000] * 100):
                    connection.sendall(block)
            except ConnectionError:
                pass  # the server has hung up on us, which is its right
    assert resident() - before < 50_000


@pytest.mark.parametrize("length", ["-1", "+2", "2_0", "0x2", "2.0", "two", "²", "2, 2"])
def test_a_length_that_is_no_number_is_400(server: Server, length: str) -> None:
    answer = send(server, "Content-Type: application/json", f"Content-Length: {length}", body=b"{}")
    assert refusal(answer) == (400, "CLNAPI0007E")


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_a_body_that_ends_early_is_400_and_not_taken_for_a_whole_one(server: Server, body: bytes) -> None:
    """A client that dies between the headers and the body has not asked for a clone."""
    answer = send(server, "Content-Type: application/json", "Content-Length: 14", body=body)
    assert refusal(answer) == (400, "CLNAPI0007E")


@pytest.mark.parametrize(
    "chunks", [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}", b"2\r\n{}xx0\r\n\r\n", b"", b"\r\n", b"2\r\n{}\r\n"], ids=repr
)
def test_broken_chunks_are_400(server: Server, chunks: bytes) -> None:
    answer = send(server, "Content-Type: application/json", "Transfer-Encoding: chunked", body=chunks)
    assert refusal(answer) == (400, "CLNAPI0007E")


@pytest.mark.parametrize("path", ["vms", "/nope", "vms/mail/clone"])
def test_a_body_that_nobody_read_is_not_taken_for_the_next_request(server: Server, path: str) -> None:
    hidden = b"GET /plugins/kimchi/config HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = f"POST {target(path)} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert server.raw(head + hidden).count(b"HTTP/1.1 ") == 1


def test_one_connection_serves_one_request_after_another(server: Server) -> None:
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    headers = {"Authorization": f"Bearer {server.token}", **JSON_IN}
    statuses = []
    for method, path, body in [
        ("GET", "config", None),
        ("POST", "vms/mail/clone", "{}"),
        ("GET", "vms/nope", None),
    ] * 3:
        connection.request(method, f"{MOUNT_POINT}/{path}", body, headers)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()
    assert statuses == [200, 400, 404] * 3


# --- Requests that no honest client sends ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "GET vms HTTP/1.1",
        "GET / HTTP/9.9",
        "GET / XTTP/1.1",
        "GET /",
        "GET",
        "get / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /#x HTTP/1.1",
        "GET /\xff HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "GET http://[/ HTTP/1.1",
        "GET /" + "x" * 600_000 + " HTTP/1.1",
    ],
    ids=lambda line: line[:24],
)
def test_a_request_line_that_is_none_is_refused_in_our_shape(server: Server, line: str) -> None:
    status, code = refusal(send(server, request=line))
    assert status in (400, 414, 505)
    assert code == "CLNAPI0007E"


@pytest.mark.parametrize(
    "header",
    [
        "no colon",
        "Cookie: a(b=c",
        "X: =?no-such-charset?q?x?=",
        "X: a =?utf-8?q?b?=",
        "X: =?utf-8?b?x?=",
        "Transfer-Encoding: gzip",
        "X: " + "x" * 600_000,
    ],
    ids=lambda header: header[:24],
)
def test_a_header_that_is_none_is_refused_in_our_shape(server: Server, header: str) -> None:
    status, code = refusal(send(server, header, request=f"GET {MOUNT_POINT}/vms HTTP/1.1"))
    assert status in (400, 431, 501)
    assert code == "CLNAPI0007E"


def test_a_request_without_host_is_400(server: Server) -> None:
    answer = parsed(server.raw(b"GET /plugins/kimchi/vms HTTP/1.1\r\nConnection: close\r\n\r\n"))
    assert refusal(answer) == (400, "CLNAPI0007E")


@pytest.mark.parametrize(
    "lines",
    [
        ("Host: localhost", "Host: localhost"),
        ("Host: localhost", "host: evil.example"),
        ("Content-Length: 2", "Content-Length: 2"),
        ("Content-Length: 2", "content-length: 3"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Content-Length: 2", "Transfer-Encoding: chunked"),
        ("Content-Length : 2",),
        (" Content-Length: 2",),
        ("X: a", " folded"),
        ("X: a", "\tContent-Length: 2"),
    ],
    ids=repr,
)
def test_a_head_that_others_may_read_in_another_way_is_refused(server: Server, lines: tuple[str, ...]) -> None:
    """What a proxy before us takes for the end of a request must be what we take for it (request smuggling)."""
    answer = send(server, *lines, body=b"{}")
    assert refusal(answer) == (400, "CLNAPI0007E")
    assert answer.headers["Connection"] == "close"


def test_no_header_passes_for_another(server: Server) -> None:
    """WSGI has one name for Authorization_ and the like: a proxy that takes one away would let the other pass."""
    assert refusal(send(server, "Sec_Fetch_Site: cross-site")) == RUNNING
    assert refusal(send(server, "Content_Length: 5", "Content-Length: 0")) == RUNNING


@pytest.mark.parametrize(("count", "status"), [(90, 200), (101, 431), (3000, 431)])
def test_the_number_of_headers_is_bounded(server: Server, count: int, status: int) -> None:
    lines = [f"X{number}: x" for number in range(count)]
    assert send(server, *lines, request=f"GET {MOUNT_POINT}/config HTTP/1.1").status == status


@pytest.mark.parametrize(("size", "status"), [(20_000, 200), (40_000, 431), (3_000_000, 431)])
def test_the_size_of_headers_is_bounded(server: Server, size: int, status: int) -> None:
    answer = send(server, "X: " + "x" * size, request=f"GET {MOUNT_POINT}/config HTTP/1.1")
    assert answer.status == status


@pytest.mark.parametrize(("size", "status"), [(20_000, 200), (40_000, 414), (3_000_000, 414)])
def test_the_length_of_a_request_line_is_bounded(server: Server, size: int, status: int) -> None:
    assert send(server, request=f"GET {MOUNT_POINT}/config?{'x' * size} HTTP/1.1").status == status


def test_requests_that_come_in_one_piece_are_answered_one_after_the_other(server: Server) -> None:
    head = f"Host: localhost\r\nAuthorization: Bearer {server.token}\r\n"
    get = f"GET {MOUNT_POINT}/vms/{{}} HTTP/1.1\r\n{head}\r\n"
    post = f"POST {target(CLONE_OF_A_RUNNING_GUEST)} HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
    post += "Content-Length: 2\r\n\r\n{}"
    said = server.raw((get.format("web") + post + get.format("nope") + get.format("db")).encode())
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"400", b"404", b"200"]


def test_who_waits_to_be_told_to_send_a_body_is_told_so_once(server: Server) -> None:
    head = f"POST {target(CLONE_OF_A_RUNNING_GUEST)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
    head += f"Authorization: Bearer {server.token}\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(server.address, timeout=20) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_who_would_send_too_much_is_not_told_to(server: Server) -> None:
    head = f"POST {target(CLONE_OF_A_RUNNING_GUEST)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n"
    assert refusal(first_answer(server, f"{head}Expect: 100-continue\r\n\r\n".encode())) == (413, "CLNAPI0005E")


@pytest.mark.parametrize("query", ["self=1", "_segments=1", "path=1", "name", "=x", "&&", "%00=%00", "a" * 5000, "1,2"])
def test_no_query_is_an_error_of_ours(server: Server, query: str) -> None:
    for path in ("vms", "vms/web", "config", "/"):
        assert server.request("GET", f"{path}?{query}").status in (200, 400)


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\nX", b"\r\n\r\n", b"\0" * 100])
def test_what_is_no_http_gets_no_stack(server: Server, data: bytes) -> None:
    said = server.raw(data)
    assert b"Traceback" not in said
    assert b".py" not in said
