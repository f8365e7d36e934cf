"""HTTPS by the server itself."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import pytest

from support.answers import cloned
from support.server import Response, Server
from support.tls import Certificate, make_certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("https")
    with Server(None, folder, args=certificate.args, tls=certificate.trusted) as running:
        yield running


def log_in(server: Server, headers: dict[str, str] | None = None) -> Response:
    return server.request("POST", "/login", {"username": "admin", "password": server.token}, headers, anonymous=True)


def test_the_ready_line_says_https(server: Server) -> None:
    assert f"open https://127.0.0.1:{server.address[1]}/?once=" in server.ready_line


def test_clones_are_made(server: Server) -> None:
    cloned(server, "vms/web")


def test_the_certificate_is_the_one_that_was_given(server: Server, certificate: Certificate) -> None:
    pem = ssl.get_server_certificate(server.address, ca_certs=str(certificate.chain))
    assert pem.strip() == certificate.chain.read_text().strip()


def test_browsers_are_told_to_stay_with_https(server: Server) -> None:
    for path in ("vms", "/", "vms/nope", "/ui/app.js"):
        seconds = int(server.request("GET", path).headers["Strict-Transport-Security"].removeprefix("max-age="))
        assert seconds >= 180 * 86400
    refused = server.request("GET", "vms", headers={"Content-Length": "x"})  # before anything of it is looked at
    assert (refused.status, "Strict-Transport-Security" in refused.headers) == (400, True)


def test_the_cookie_never_goes_over_plain_http(server: Server) -> None:
    assert "Secure" in log_in(server).headers["Set-Cookie"].split("; ")
    link = "/" + server.ready_line.rpartition("/")[2]
    assert "Secure" in server.request("GET", link, anonymous=True).headers["Set-Cookie"].split("; ")


def test_nor_behind_a_proxy_that_speaks_https(start_plain: Server) -> None:
    answer = log_in(start_plain, {"Origin": "https://cloner.example", "Sec-Fetch-Site": "same-origin"})
    assert "Secure" in answer.headers["Set-Cookie"].split("; ")
    assert "Secure" not in log_in(start_plain).headers["Set-Cookie"].split("; ")


@pytest.fixture(scope="module")
def start_plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(None, tmp_path_factory.mktemp("http")) as running:
        yield running


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_of_tls_are_refused(server: Server, certificate: Certificate, version: ssl.TLSVersion) -> None:
    context = certificate.trusted
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(server.address, timeout=20) as connection,
        pytest.raises(OSError, match=r"(?i)protocol|alert|eof"),
    ):
        context.wrap_socket(connection, server_hostname="localhost")


def test_an_end_in_order_is_one_with_https_too(
    certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ends")
    with Server(None, folder, args=certificate.args, tls=certificate.trusted) as server:
        assert server.request("GET", "config").status == 200
        assert server.terminate() == 0
        assert "Traceback" not in server.log
