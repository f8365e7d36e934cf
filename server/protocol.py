"""HTTP by cheroot: what it refuses by itself is refused in our shape, no body takes memory or is taken for the next
request, and no client that is slow takes a thread (connection.py)."""

from __future__ import annotations

import itertools
import json
import logging
import selectors
import socket
import ssl
import time
from contextlib import suppress
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

from cheroot import connections
from cheroot.errors import FatalSSLAlert, socket_errors_to_ignore
from cheroot.server import HeaderReader
from cheroot.wsgi import Gateway_10
from cherrypy._cpwsgi_server import CPWSGIHTTPRequest, CPWSGIServer

from .. import context, errors
from ..control.base import JSON_TYPE, MAX_BODY_BYTES, Foreign, error_content, unforeseen
from .connection import Aside, Connection, Next
from .intake import MAX_HEAD_BYTES
from .origin import LOCAL_ADDRESS

log = logging.getLogger("cloner.access")

_LOOK_S = 1.0
"""Between two looks for connections whose time is over, if nothing comes meanwhile."""

_WAKING_S = 0.2
_LAST_S = 0.5
_NAP_S = 0.01

# cheroot looks by the system's clock whose time is over, and that may be set: back, and there would be no look until it
# is as late again; forward, and everybody's time would be over.
connections.time = SimpleNamespace(**{**vars(time), "time": time.monotonic})  # type: ignore[attr-defined]  # not typed

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


class _HeaderReader(HeaderReader):
    def _allow_header(self, key_name: bytes) -> bool:
        """WSGI does not tell a dash from an underscore, so that one header could pass for another."""
        return b"_" not in key_name


class _Request(CPWSGIHTTPRequest):  # type: ignore[misc]  # CherryPy has no types
    header_reader = _HeaderReader()

    def parse_request(self) -> None:
        """Reads nothing more once the server stops: cheroot hangs up on a request that is not ready."""
        if self.conn.verdict is not None:
            self.simple_response(*self.conn.verdict)
        elif self.server.ready:
            super().parse_request()

    def read_request_line(self) -> bool:
        try:
            return bool(super().read_request_line())
        except ValueError:  # of urlsplit, for a host such as [
            self.simple_response("400 Bad Request", "Malformed Request-URI")
            return False

    def read_request_headers(self) -> bool:
        if not super().read_request_headers():
            return False
        if b"Transfer-Encoding" in self.inheaders and not self.chunked_read:
            self.simple_response("400 Bad Request", "Transfer-Encoding is not understood here.")
            return False
        if not self.uri.startswith(b"/") and self.authority and b"Host" in self.inheaders:  # RFC 9112, 3.2.2
            self.inheaders[b"Host"] = self.authority
        return True

    def respond(self) -> None:
        super().respond()
        if not self.conn.is_whole:
            self.conn.drain()

    def send_headers(self) -> None:
        known = {name.lower() for name, _ in self.outheaders}
        self.outheaders += [(name, value) for name, value in self._secure if name.lower() not in known]
        if self.chunked_read or not self.conn.is_whole:
            self.close_connection = True  # what follows might not be the next request
        super().send_headers()
        ends_with_connection = self.close_connection and b"content-length" not in known and self.method != b"HEAD"
        self.conn.wfile.is_endless = self.chunked_write or ends_with_connection or not self.server.ready

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
        secure = b"".join(name + b": " + value + b"\r\n" for name, value in self._secure)
        self.close_connection = True
        try:
            self.conn.wfile.write(head.encode("ascii") + secure + b"\r\n" + (b"" if self._is_head else content))
        except OSError as problem:
            if problem.errno not in socket_errors_to_ignore:
                raise
        if not self.conn.is_whole:
            self.conn.drain()

    @property
    def _secure(self) -> tuple[tuple[bytes, bytes], ...]:
        return _SECURITY + (_SECURITY_OF_TLS if self.server.ssl_adapter else ())

    @property
    def _is_head(self) -> bool:
        return getattr(self, "method", b"") == b"HEAD"


def _our_error(status: str, message: str) -> errors.ClonerError:
    code = int(status[:3])
    if code == HTTPStatus.INTERNAL_SERVER_ERROR:
        return unforeseen()
    if code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and message.startswith("The entity"):  # else it is the headers
        return errors.BodyTooLarge(limit=MAX_BODY_BYTES)
    return Foreign(code, message or status)


class _Gateway(Gateway_10):
    def get_environ(self) -> dict[str, Any]:  # type: ignore[override]  # cheroot's types are wrong
        environ: dict[str, Any] = super().get_environ()  # type: ignore[no-untyped-call]  # and incomplete
        return environ | {LOCAL_ADDRESS: self.req.conn.socket.getsockname()[0]}


class _TLS:
    """What cheroot asks of an adapter for TLS. The handshake is the connection's, since cheroot would wait for it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def bind(self, listener: socket.socket) -> socket.socket:
        return listener

    def wrap(self, connection: socket.socket) -> tuple[ssl.SSLSocket, dict[str, str]]:
        try:
            wrapped = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError as error:  # it has gone
            raise FatalSSLAlert(*error.args) from error
        return wrapped, {"wsgi.url_scheme": "https", "HTTPS": "on"}

    makefile = None
    """A connection makes its own."""


class HTTPServer(CPWSGIServer):  # type: ignore[misc]  # CherryPy has no types
    """CherryPy's server with our connections and requests.

    Args:
        adapter: CherryPy's settings of it.
        tls: with which it speaks HTTPS.
        most_connections: about how many it has at once; then the one that has been silent longest makes room.
    """

    def __init__(self, adapter: Any, tls: ssl.SSLContext | None = None, most_connections: int = 4096) -> None:
        super().__init__(adapter)
        self.ConnectionClass = Connection
        self.ConnectionClass.RequestHandlerClass = _Request
        self.gateway = _Gateway
        self.ssl_adapter = None if tls is None else _TLS(tls)
        self.max_request_header_size = MAX_HEAD_BYTES
        self.keep_alive_conn_limit = most_connections // 2
        self.expiration_interval = _LOOK_S
        self._most_connections = most_connections
        self._watched: dict[Connection, None] = {}
        self.aside = Aside(self._hang_up_on_late)

    def stop(self) -> None:
        """As cheroot's, once clients have taken what their answers still lack, for which they have a moment.

        Nor does it wait until the loop comes round by itself: whatever comes wakes that.
        """
        if self.ready:
            until = time.monotonic() + _LAST_S
            while not self.aside.is_empty and time.monotonic() < until:
                time.sleep(_NAP_S)
            self._connections._stop_requested = True
            with suppress(OSError), socket.create_connection(self.bind_addr, _WAKING_S):
                pass
        super().stop()

    def put_conn(self, conn: Connection) -> None:
        self._watched[conn] = None
        if conn.has_more and self.ready:  # cheroot would watch for what it sends, not for when it takes something
            self._connections._selector.register(conn.socket.fileno(), selectors.EVENT_WRITE, data=conn)
        else:
            super().put_conn(conn)

    def forget(self, conn: Connection) -> None:
        """Is told of a connection that is closed."""
        self._watched.pop(conn, None)

    def process_conn(self, conn: Connection) -> None:
        """Gives a connection a thread when a request is all there; cheroot gives it one when it is new and silent."""
        self.forget(conn)
        if conn.last_used is None:
            self._make_room()
            self.put_conn(conn)
            return
        match conn.take_in():
            case Next.SERVE:
                super().process_conn(conn)
            case Next.WAIT:
                self.put_conn(conn)
            case Next.CLOSE:
                conn.close()

    def _make_room(self) -> None:
        excess = len(self._watched) - self._most_connections
        if excess > 0:
            for silent in list(itertools.islice(self._watched, excess)):
                silent.give_up()
            self._connections._expire(time.monotonic() - self.timeout)  # the next look would be too late

    def _hang_up_on_late(self, size: int) -> None:
        """Has those make room for so many bytes who have not taken their answers for longest."""
        for conn in list(self._watched):
            size -= conn.give_way()
            if size <= 0:
                return
