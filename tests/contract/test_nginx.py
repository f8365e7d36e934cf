"""Behind nginx, with the configuration of docs/OPERATIONS.md: who asked is known, by TLS, and nobody can pretend."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.running import run, wait_until
from support.server import MOUNT_POINT, Response, Server

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = (ROOT / "docs" / "OPERATIONS.md").read_text("utf-8")
PLACES = os.pathsep.join([str(ROOT / ".venv/nginx/usr/sbin"), os.environ["PATH"], "/usr/sbin"])
CLIENT = "127.0.0.2"  # not the address that nginx, which is believed, comes from itself
NAME = "cloner.example.org"

AROUND = """
daemon off;
pid nginx.pid;
error_log error.log;
{user}
events {{}}
http {{
    access_log access.log;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    {server}
}}
"""


def documented() -> str:
    found = re.search(r"```nginx\n(.*?)```", OPERATIONS, re.DOTALL)
    assert found
    return found[1]


def configuration(folder: Path, port: int, upstream: int) -> str:
    """The documented one, on a port and with a certificate of the test's own."""
    server = documented()
    for old, new in (
        ("443", f"127.0.0.1:{port}"),
        ("8010", str(upstream)),
        (f"/etc/ssl/certs/{NAME}.pem", str(folder / "cert.pem")),
        (f"/etc/ssl/private/{NAME}.key", str(folder / "key.pem")),
    ):
        assert server.count(old) == 1, old
        server = server.replace(old, new)
    return AROUND.format(server=server, user="user root;" if os.geteuid() == 0 else "")


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port: int = taken.getsockname()[1]
        return port


class Nginx:
    """nginx as a client of another host meets it, by its name."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Response:
        source = (CLIENT, 0)
        client = http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=30, context=self._context, source_address=source
        )
        with closing(client):
            fields = {"Host": f"{NAME}:{self.port}", **(headers or {})}
            fields |= {"Content-Type": "application/json"} if body is not None else {}
            client.request(method, path, None if body is None else json.dumps(body), fields)
            answer = client.getresponse()
            return Response(answer.status, answer.headers, answer.read())


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(tmp_path / "key.pem")]
    run("openssl", "req", "-x509", "-subj", f"/CN={NAME}", *key, "-out", str(tmp_path / "cert.pem"))
    return tmp_path


@pytest.fixture
def server(start: Callable[..., Server], tmp_path: Path) -> Server:
    conf = tmp_path / "cloner.conf"
    conf.write_text(f"[server]\ntrusted_proxies = 127.0.0.1\nserver_names = {NAME}\n")
    return start("--config", str(conf))


@pytest.fixture
def nginx(certificate: Path, server: Server) -> Iterator[Nginx]:
    program = shutil.which("nginx", path=PLACES)
    assert program, "nginx is missing; make test fetches it"
    found = Nginx(free_port())
    conf = certificate / "nginx.conf"
    conf.write_text(configuration(certificate, found.port, server.address[1]))
    with subprocess.Popen([program, "-p", str(certificate), "-e", "error.log", "-c", str(conf)]) as process:
        try:
            wait_until(lambda: listens(found.port), 20, "nginx serves", lambda: log(certificate))
            yield found
        finally:
            process.terminate()


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def log(folder: Path) -> str:
    file = folder / "error.log"
    return file.read_text() if file.exists() else ""


def bearer(server: Server) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.token}"}


def lines(server: Server, request_id: str) -> list[dict[str, Any]]:
    """What the log has about a request, once it is complete."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [line for line in map(json.loads, server.log.splitlines()) if line.get("request_id") == request_id]
        return any(line["logger"] == "cloner.access" for line in found)

    wait_until(is_there, 10, "the request is in the log", lambda: server.log[-2000:])
    return found


def test_the_log_has_who_asked_and_by_nginxs_own_id(nginx: Nginx, server: Server) -> None:
    answer = nginx.request("GET", f"{MOUNT_POINT}/config", headers={**bearer(server), "X-Request-Id": "my-own"})
    assert answer.status == 200
    request_id = answer.headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", request_id)
    assert {line["address"] for line in lines(server, request_id)} == {CLIENT}


@pytest.mark.parametrize("forged", ["6.6.6.6", "6.6.6.6, 127.0.0.1", "127.0.0.1"])
def test_who_asks_cannot_pretend_to_be_another(nginx: Nginx, server: Server, forged: str) -> None:
    answer = nginx.request("GET", "/", headers={"X-Forwarded-For": forged, "X-Forwarded-Proto": "http"})
    assert {line["address"] for line in lines(server, answer.headers["X-Request-Id"])} == {CLIENT}


def test_a_session_is_for_tls_alone(nginx: Nginx, server: Server) -> None:
    answer = nginx.request("POST", "/login", {"username": "admin", "password": server.token})
    assert answer.status == 200
    assert "; Secure" in answer.headers["Set-Cookie"]
    assert "Strict-Transport-Security" in answer.headers


def test_a_redirect_leads_back_through_nginx(nginx: Nginx) -> None:
    answer = nginx.request("GET", "/?once=x")
    assert (answer.status, answer.headers["Location"]) == (303, f"https://{NAME}:{nginx.port}/")


def test_who_guesses_passwords_makes_nobody_else_wait(nginx: Nginx, server: Server) -> None:
    wrong = {"username": "admin", "password": "wrong"}
    assert [nginx.request("POST", "/login", wrong).status for _ in range(4)] == [401, 401, 401, 403]
    right = {"username": "admin", "password": server.token}
    assert server.request("POST", "/login", right, anonymous=True).status == 200


def test_a_clone_is_made_and_audited(nginx: Nginx, server: Server) -> None:
    answer = nginx.request("POST", f"{MOUNT_POINT}/vms/web/clone", {}, bearer(server))
    assert answer.status == 202
    audited = [line for line in lines(server, answer.headers["X-Request-Id"]) if line["logger"] == "cloner.audit"]
    assert [(line["action"], line["address"]) for line in audited] == [("clone", CLIENT)]


def test_metrics_do_not_go_out_and_health_does(nginx: Nginx, server: Server) -> None:
    assert nginx.request("GET", "/metrics", headers=bearer(server)).status == 404
    assert nginx.request("GET", "/readyz").status == 200


def test_without_the_setting_the_headers_mean_nothing(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start(folder=tmp_path / "other")
    lies = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https", "X-Request-Id": "lies"}
    answer = server.request(
        "POST", "/login", {"username": "admin", "password": server.token}, headers=lies, anonymous=True
    )
    assert "Secure" not in answer.headers["Set-Cookie"]
    assert {line["address"] for line in lines(server, "lies")} == {"127.0.0.1"}


def test_events_are_let_through_as_they_come() -> None:
    assert "proxy_buffering off;" in documented()
