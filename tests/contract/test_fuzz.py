"""Whatever is asked, the answer is ours: never a 500, always JSON, and every refusal in the one shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cloner import errors
from support.answers import JSON, PROBLEM, error_code, parsed
from support.server import MOUNT_POINT, Server

SOME_WORDS = [
    "", "vms", "web", "db", "mail", "clone", "storagepools", "default", "data", "storagevolumes", "web.qcow2", "tasks",
    "1", "config", "login", "logout", "ui", "index", "__class__", "..", "self", "%2F", "%00", "%ff", "%", "?", ";", "*",
]  # fmt: skip
words = st.sampled_from(SOME_WORDS) | st.text(max_size=8).map(lambda text: quote(text.encode("utf-8", "surrogatepass")))
paths = st.tuples(
    st.sampled_from([MOUNT_POINT, MOUNT_POINT, MOUNT_POINT, ""]),
    st.sampled_from(["", "/vms", "/vms/web", "/vms/web/clone", "/storagepools/default/storagevolumes", "/tasks"]),
    st.lists(words, max_size=3),
    st.none() | st.lists(st.tuples(words, words), max_size=2),
)
methods = st.sampled_from(["GET", "GET", "POST", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "TRACE", "PATCH", "X"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["web", "data"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
fields = st.sampled_from(["name", "pool", "storage", "username", "password"]) | st.text(max_size=4)
bodies = (
    st.none()
    | st.dictionaries(fields, values, max_size=3).map(lambda body: json.dumps(body).encode())
    | values.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=16)
)
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=12)
headers = st.dictionaries(
    st.sampled_from(
        ["Accept", "Content-Type", "Host", "Cookie", "X-Requested-With", "Range", "If-None-Match", "Expect"]
    ),
    header_values
    | st.sampled_from(["application/json", PROBLEM, "*/*", "bytes=0-1", "=?x?q?y?=", "a(b=c", "100-continue"]),
    max_size=3,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of its own, since guests are deleted here."""
    with Server(None, tmp_path_factory.mktemp("fuzz")) as server:
        yield server


def path_of(parts: tuple[str, str, list[str], list[tuple[str, str]] | None]) -> str:
    root, known, more, query = parts
    path = "/".join([f"{root}{known}", *more]) or "/"
    return path if query is None else f"{path}?{'&'.join('='.join(pair) for pair in query)}"


@settings(max_examples=250, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=methods, path=paths.map(path_of), body=bodies, given_headers=headers, logged_in=st.booleans() | st.just(True)
)
@example("GET", f"{MOUNT_POINT}/vms?self=1", None, {}, True)
@example("GET", f"{MOUNT_POINT}/vms/%00", None, {}, True)
@example("POST", f"{MOUNT_POINT}/vms/web/clone", b'{"pool": "\\u0000"}', {}, True)
@example("POST", f"{MOUNT_POINT}/vms/web/clone", b'{"pool": "\\ud800"}', {}, True)
@example("GET", "/?self=1", None, {}, False)
def test_every_answer_is_ours(
    server: Server, method: str, path: str, body: bytes | None, given_headers: dict[str, str], logged_in: bool
) -> None:
    lines = {"Host": "localhost", "Content-Type": "application/json", **given_headers, "Connection": "close"}
    if logged_in:
        lines["Authorization"] = f"Bearer {server.token}"
    if body is not None:
        lines["Content-Length"] = str(len(body))
    head = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items()), "", ""]
    said = server.raw("\r\n".join(head).encode("latin-1") + (body or b""))
    answer = parsed(said.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))

    assert answer.status < 500
    if answer.status < 400:
        return
    if method == "HEAD":
        assert answer.body == b""
        return
    error = answer.json
    assert answer.headers["Content-Type"] == (PROBLEM if "type" in error else JSON)
    assert error_code(answer.status, {key: error[key] for key in ("code", "reason")})
    assert error["reason"] == errors.plain(error["reason"])


def test_after_all_that_the_server_is_well(server: Server) -> None:
    assert server.running
    assert "Traceback" not in server.log
    assert server.request("GET", "vms").status == 200
