"""A client that costs next to nothing, so that it is not what is measured: one connection, requests made beforehand."""

from __future__ import annotations

import json
import re
import socket
import time
from http import HTTPStatus
from types import TracebackType
from typing import Any, Protocol, Self

from support.server import MOUNT_POINT, REQUEST_TIMEOUT

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HANGS_UP = re.compile(rb"\r\nconnection: *close\b", re.IGNORECASE)
_STALE_S = 3.0
"""The server hangs up on a connection that is idle for a while, so after this a new one is made."""


class Serving(Protocol):
    """What a client has to know of a server."""

    @property
    def address(self) -> tuple[str, int]: ...

    @property
    def token(self) -> str: ...

    @property
    def log(self) -> str: ...


def head(server: Serving, method: str, path: str, *fields: str) -> bytes:
    """The head of a request to a path below the plugin's root."""
    host, port = server.address
    lines = [f"{method} {MOUNT_POINT}/{path} HTTP/1.1", f"Host: {host}:{port}", f"Authorization: Bearer {server.token}"]
    return "\r\n".join([*lines, *fields, "", ""]).encode()


class Client:
    """A connection to a server that stays open. Every call raises RuntimeError for an answer that is no success."""

    def __init__(self, server: Serving) -> None:
        self._server = server
        self._used = 0.0
        self._connect()

    def clone(self, guest: str, **body: object) -> dict[str, Any]:
        """Asks for a clone; the answer."""
        content = json.dumps(body).encode() if body else b""
        fields = [f"Content-Length: {len(content)}", *(["Content-Type: application/json"] if body else [])]
        request = head(self._server, "POST", f"vms/{guest}/clone", *fields) + content
        answer: dict[str, Any] = json.loads(self.ask(request))
        return answer

    def delete(self, path: str) -> None:
        self.ask(head(self._server, "DELETE", path))

    def get(self, path: str) -> Any:
        """The JSON at a path below the plugin's root."""
        return json.loads(self.ask(head(self._server, "GET", path)))

    def ask(self, request: bytes) -> bytes:
        """Sends a request as it is; the answer's body."""
        if time.monotonic() > self._used + _STALE_S:
            self.close()
            self._connect()
        self._socket.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._more()
        begin, _, body = received.partition(b"\r\n\r\n")
        length = _LENGTH.search(begin + b"\r\n")
        status = int(begin.split(b" ", 2)[1])
        if length is None and status != HTTPStatus.NO_CONTENT:
            raise RuntimeError(f"an answer without a length: {begin.decode()}")
        while length and len(body) < int(length[1]):
            body += self._more()
        if _HANGS_UP.search(begin):
            self._used = -_STALE_S
        if status not in (HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT):
            raise RuntimeError(f"{begin.decode()}\n{body.decode()}")
        return body

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._server.address, timeout=REQUEST_TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._used = time.monotonic()

    def _more(self) -> bytes:
        piece = self._socket.recv(1 << 20)
        if not piece:
            raise RuntimeError(f"the server hung up\n{self._server.log[-2000:]}")
        self._used = time.monotonic()
        return piece

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
