"""HTTP as it comes off the socket: what cheroot refuses by itself is refused in our shape, and no body takes a
connection's memory or is taken for the next request."""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from http import HTTPStatus
from socket import SHUT_WR
from typing import Any

from cheroot.errors import socket_errors_to_ignore
from cheroot.server import HTTPConnection, SizeCheckWrapper
from cheroot.wsgi import Gateway_10
from cherrypy._cpwsgi_server import CPWSGIHTTPRequest, CPWSGIServer

from .. import context, errors
from ..control.base import JSON_TYPE, MAX_BODY_BYTES, Foreign, error_content, unforeseen
from .origin import LOCAL_ADDRESS

log = logging.getLogger("cloner.access")

_LINGER_S = 2.0
_LINGER_BYTES = 16 * 1024 * 1024
_BLOCK_BYTES = 64 * 1024


_SECURITY = (
    (
        b"Content-Security-Policy",
        b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'",
    ),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"X-Frame-Options", b"DENY"),  # for browsers that do not know frame-ancestors
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)
"""What every answer tells a browser, unless the answer itself says otherwise."""

_SECURITY_OF_TLS = ((b"Strict-Transport-Security", b"max-age=31536000"),)


class _Request(CPWSGIHTTPRequest):  # type: ignore[misc]  # CherryPy has no types
    def parse_request(self) -> None:
        """Reads nothing more once the server stops: cheroot hangs up on a request that is not ready."""
        if self.server.ready:
            super().parse_request()

    def read_request_line(self) -> bool:
        try:
            return bool(super().read_request_line())
        except ValueError:  # of urlsplit, for a host such as [
            self.simple_response("400 Bad Request", "Malformed Request-URI")
            return False

    def read_request_headers(self) -> bool:
        """Adds to cheroot's checks those without which the length of a body would be a matter of opinion."""
        if not super().read_request_headers():
            return False
        length = self.inheaders.get(b"Content-Length", b"0")
        if not length.isdigit():  # int(), by which cheroot goes, takes signs and underscores too
            self.simple_response("400 Bad Request", "Malformed Content-Length Header.")
            return False
        if b"Transfer-Encoding" in self.inheaders and not self.chunked_read:
            self.simple_response("400 Bad Request", "Transfer-Encoding is not understood here.")
            return False
        return True

    def respond(self) -> None:
        if self.chunked_read:
            # cheroot reads the line before a chunk whatever its length; the connection serves no other request.
            self.conn.rfile = SizeCheckWrapper(self.conn.rfile, MAX_BODY_BYTES)
        super().respond()
        if self._is_unread:
            self._linger()

    def send_headers(self) -> None:
        known = {name.lower() for name, _ in self.outheaders}
        secure = _SECURITY + (_SECURITY_OF_TLS if self.server.ssl_adapter else ())
        self.outheaders += [(name, value) for name, value in secure if name.lower() not in known]
        if self.chunked_read or self._is_unread:
            self.close_connection = True  # or cheroot would take what is left for the next request, or into memory
        super().send_headers()

    def simple_response(self, status: str, msg: str = "") -> None:
        """cheroot's own refusals, after which it closes the connection."""
        given = getattr(self, "inheaders", {}).get(context.HEADER.encode(), b"").decode("latin-1")
        with context.use(context.Context(context.request_id(given), address=str(self.conn.remote_addr))):
            error = _our_error(str(status), msg)
            fields = {"status": error.status, "code": error.code}
            log.info("refused before it could be read: %s", error.reason, extra={"fields": fields})
            self._refuse(error)

    def _refuse(self, error: errors.ClonerError) -> None:
        shown = error_content(error)
        content = json.dumps(shown, ensure_ascii=False).encode("utf-8")
        head = f"{self.server.protocol} {shown['code']}\r\nContent-Type: {JSON_TYPE}\r\n"
        head += f"{context.HEADER}: {context.current().request_id}\r\n"
        head += f"Content-Length: {len(content)}\r\nConnection: close\r\n"
        secure = b"".join(name + b": " + value + b"\r\n" for name, value in _SECURITY)
        self.close_connection = True
        try:
            self.conn.wfile.write(head.encode("ascii") + secure + b"\r\n" + (b"" if self._is_head else content))
        except OSError as problem:
            if problem.errno not in socket_errors_to_ignore:
                raise
        if error.status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_URI_TOO_LONG):
            self._linger()

    @property
    def _is_head(self) -> bool:
        return getattr(self, "method", b"") == b"HEAD"

    @property
    def _is_unread(self) -> bool:
        return not self.rfile.closed if self.chunked_read else self.rfile.remaining > 0

    def _linger(self) -> None:
        """Reads away for a while what is still sent: closing with it unread resets the connection, answer and all."""
        connection: Any = self.conn.socket
        until, left = time.monotonic() + _LINGER_S, _LINGER_BYTES
        with suppress(OSError):
            connection.shutdown(SHUT_WR)
            connection.settimeout(_LINGER_S)
            while left > 0 and time.monotonic() < until and (block := connection.recv(_BLOCK_BYTES)):
                left -= len(block)


def _our_error(status: str, message: str) -> errors.ClonerError:
    code = int(status[:3])
    if code == HTTPStatus.INTERNAL_SERVER_ERROR:
        return unforeseen()
    if code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and message.startswith("The entity"):  # else it is the headers
        return errors.BodyTooLarge(limit=MAX_BODY_BYTES)
    return Foreign(code, message or status)


class _Connection(HTTPConnection):
    """A class of our own, since CherryPy's server changes the one that it is given."""


class _Gateway(Gateway_10):
    def get_environ(self) -> dict[str, Any]:  # type: ignore[override]  # cheroot's types are wrong
        environ: dict[str, Any] = super().get_environ()  # type: ignore[no-untyped-call]  # and incomplete
        return environ | {LOCAL_ADDRESS: self.req.conn.socket.getsockname()[0]}


class HTTPServer(CPWSGIServer):  # type: ignore[misc]  # CherryPy has no types
    """CherryPy's server with our requests."""

    ConnectionClass = _Connection

    def __init__(self, adapter: Any) -> None:
        super().__init__(adapter)
        self.ConnectionClass.RequestHandlerClass = _Request
        self.gateway = _Gateway

    def process_conn(self, conn: Any) -> None:
        """Gives a connection a thread when it can be read; cheroot gives it one when it is new and silent too."""
        if conn.last_used is None:
            self.put_conn(conn)
        else:
            super().process_conn(conn)
