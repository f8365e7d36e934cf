"""A server over HTTP that answers as a test tells it, for what a real one does only when something is wrong."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

TIMEOUT = 30.0  # seconds; of a client that says nothing

Reply = bytes | None
"""The bytes of an answer; after one that is shorter than it says, and for None, the server hangs up."""


def answer(status: int, content: Any = None, **headers: str) -> bytes:
    """An answer with a JSON body; `Retry_After="1"` is the header Retry-After."""
    body = b"" if content is None else json.dumps(content).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = [f"HTTP/1.1 {status} So", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def refusal(status: int, reason: str, **headers: str) -> bytes:
    """An error as a cloner's server has it."""
    return answer(status, {"code": f"{status} So", "reason": reason}, **headers)


CONFIG = answer(200, {"version": "0", "extensions": ["idempotency-key"]})
"""What a cloner's server says first of itself."""


class Request:
    """What the server was sent."""

    def __init__(self, head: bytes, body: bytes) -> None:
        line, *fields = head.decode().split("\r\n")
        self.method, self.path, _ = line.split(" ")
        self.headers = dict(field.split(": ", 1) for field in fields)
        self.body = json.loads(body) if body else None


class Scripted:
    """Answers the requests for the plugin's configuration by itself, and all others with `replies`, one after another.

    `requests` are those that were sent beside. The last reply is given to all that follow.
    """

    def __init__(self, *replies: Reply, config: Reply = CONFIG, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self._replies, self._config, self._tls = list(replies), config, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []

    @property
    def url(self) -> str:
        """Its address."""
        return "{}://127.0.0.1:{}".format("https" if self._tls else "http", self._listener.getsockname()[1])

    def seen(self, look: Callable[[Request], Any]) -> Sequence[Any]:
        """Something of each request, in their order."""
        return [look(request) for request in self.requests]

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # close() alone would leave accept() waiting
        self._listener.close()
        for handle in self._connections:
            _hang_up(handle)
        for thread in self._threads:
            thread.join(TIMEOUT)
        for handle in self._connections:
            handle.close()

    def _begin(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # it was closed
            connection.settimeout(TIMEOUT)
            handle = connection.dup()  # the connection itself goes into TLS
            self._connections.append(handle)
            self._begin(partial(self._serve, connection, handle))

    def _serve(self, plain: socket.socket, handle: socket.socket) -> None:
        try:
            with self._tls.wrap_socket(plain, server_side=True) if self._tls else plain as connection:
                while (request := _read(connection)) and (reply := self._reply(request)):
                    connection.sendall(reply)
                    if not _is_whole(reply):
                        break
        except (OSError, ValueError):
            pass  # the client, or the end of the test, has hung up; or what came is no HTTP
        finally:
            _hang_up(handle)

    def _reply(self, request: Request) -> Reply:
        if request.path.endswith("/config"):
            return self._config
        self.requests.append(request)
        return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # it has been
        connection.shutdown(socket.SHUT_RDWR)


def _is_whole(reply: bytes) -> bool:
    """Whether the body is as long as its header says."""
    head, _, body = reply.partition(b"\r\n\r\n")
    return _length(head) == len(body)


def _length(head: bytes) -> int:
    found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else 0


def _read(connection: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        if data and not data[:1].isalpha():
            raise ValueError("this is no request")
        more = connection.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    while len(body) < _length(head):
        body += connection.recv(65536)
    return Request(head, body)
