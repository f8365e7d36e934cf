"""A client that costs next to nothing, so that it is not what is measured: one connection, requests made beforehand."""

from __future__ import annotations

import json
import re
import socket
import time
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from support.server import MOUNT_POINT, REQUEST_TIMEOUT, Server

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_STALE_S = 3.0
"""The server hangs up on a connection that is idle for a while, so after this a new one is made."""


class Client:
    """A connection to a server that stays open. Every call raises RuntimeError for an answer that is no success."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connect()
        host, port = server.address
        self._fields = f"HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {server.token}\r\n\r\n"

    def clone(self, guest: str) -> str:
        """Asks for a clone; the id of its task."""
        answer = self.ask(f"POST {MOUNT_POINT}/vms/{guest}/clone {self._fields}".encode())
        return str(json.loads(answer)["id"])

    def get(self, path: str) -> Any:
        """The JSON at a path below the plugin's root."""
        return json.loads(self.ask(f"GET {MOUNT_POINT}/{path} {self._fields}".encode()))

    def ask(self, request: bytes) -> bytes:
        """Sends a request as it is; the answer's body."""
        if time.monotonic() > self._used + _STALE_S:
            self.close()
            self._connect()
        self._socket.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._more()
        head, _, body = received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if length is None:
            raise RuntimeError(f"an answer without a length: {head.decode()}")
        while len(body) < int(length[1]):
            body += self._more()
        if int(head.split(b" ", 2)[1]) not in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
            raise RuntimeError(f"{head.decode()}\n{body.decode()}")
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
