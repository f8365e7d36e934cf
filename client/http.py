"""One server: where its plugin is mounted, how long a request is repeated, and what a refusal means."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

from .. import __version__
from ..errors import printable
from .access import Access
from .connection import Answer, Connection
from .failures import ClientError, Misused, NoAnswer, NoRoom, Refused
from .retry import Patience

MOUNTS = ("/plugins/kimchi", "")
"""Where the plugin may be: under `cloner serve`, or where the URL says, as a proxy may have it."""

STILL_BEING_ACCEPTED = "CLNAPI0010E"

ReadLine = Callable[[int], bytes]
"""A line, of so many bytes at most; b"" at the end."""

_LONGEST_SILENCE_S = 30.0
_HEARTBEATS_S = 45.0
"""Seconds: a stream of events is lost that is silent for three of the server's heartbeats."""

_MOST_OF_A_REFUSAL = 64 * 1024  # bytes

_ADVICE = "Put one into CLONER_TOKEN, or name its file with --token-file; the state directory of the server has one"


@dataclass(frozen=True)
class Call:
    """A request; `path` is below the mount point. `is_repeatable`: sent twice, it does no more than sent once.

    `wait` is for how many seconds the server is asked to hold its answer back.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True
    wait: int = 0

    @property
    def target(self) -> str:
        """Path and query."""
        query = dict(self.query) | ({"wait": str(self.wait)} if self.wait else {})
        return self.path + (f"?{urlencode(query)}" if query else "")


def path_of(*parts: str) -> str:
    """A path of which each part is one, whatever is in it."""
    return "/".join(quote(part, safe="") for part in parts)


class Server:
    """A server and the one connection that is kept to it. Not for several threads."""

    def __init__(self, access: Access, patience: Callable[[float], Patience] = Patience) -> None:
        self._access, self._patience = access, patience
        self._connection = Connection(access)
        self._mount: str | None = None
        self._has_answered = False
        self._extensions: frozenset[str] = frozenset()

    def ask(self, call: Call) -> Answer:
        """The answer, after as many attempts as may help within the access's timeout.

        Raises Refused, NoRoom, NoAnswer, Misused.
        """
        return self._ask(self.mount, call)

    @contextmanager
    def stream(self, path: str) -> Iterator[ReadLine]:
        """An answer read line by line as it comes, on a connection of its own. Asked for once. Raises as ask()."""
        headers = self._headers() | {"Accept": "text/event-stream"}
        with closing(Connection(self._access)) as connection:
            response = connection.open("GET", self._target(self.mount, path), None, headers, _HEARTBEATS_S)
            with response:
                if response.status != HTTPStatus.OK:
                    text = response.read(_MOST_OF_A_REFUSAL).decode("utf-8", "replace")
                    answer = Answer(response.status, response.headers, text)
                    raise self._failure(answer) or NoAnswer(f"{self._access.address} tells no events")
                yield lambda limit: connection.read_line(response, limit)

    def close(self) -> None:
        """Can be repeated."""
        self._connection.close()

    @property
    def mount(self) -> str:
        """Where the plugin is, below the URL; looked for once."""
        if self._mount is None:
            self._mount = self._find_mount()
        return self._mount

    def has(self, extension: str) -> bool:
        """Whether the server says that it can do something, by the names of docs/API.md."""
        return self.mount is not None and extension in self._extensions

    def _find_mount(self) -> str:
        for mount in MOUNTS if "/plugins/" not in self._access.url.path else ("",):
            try:
                content = self._ask(mount, Call("GET", "config")).content
            except Refused as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                continue
            if isinstance(content, dict) and isinstance(content.get("extensions"), list):
                self._extensions = frozenset(map(str, content["extensions"]))
                return mount
        raise Misused(f"there is no cloner at {self._access.address}")

    def _ask(self, mount: str, call: Call) -> Answer:
        patience = self._patience(self._access.timeout + call.wait)
        while True:
            try:
                answer = self._exchange(mount, call, min(_LONGEST_SILENCE_S + call.wait, patience.left))
            except NoAnswer as error:
                may_help = (call.is_repeatable or error.is_unsent) and self._has_answered
                if not may_help or not patience.wait():
                    raise
                continue
            self._has_answered = True
            failure = self._failure(answer)
            if failure is None:
                return answer
            if not _passes(answer, call) or not patience.wait(answer.retry_after):
                raise failure

    def _exchange(self, mount: str, call: Call, timeout: float) -> Answer:
        if not call.is_repeatable:
            self._connection.close()  # a connection that the server has just given up would lose the request
        headers = self._headers() | dict(call.headers)
        body = None
        if call.body is not None:
            body = json.dumps(call.body).encode()
            headers["Content-Type"] = "application/json"
        return self._connection.exchange(call.method, self._target(mount, call.target), body, headers, timeout)

    def _target(self, mount: str, path: str) -> str:
        return f"{self._access.url.path}{mount}/{path}"

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": f"cloner/{__version__}"}
        return headers | ({"Authorization": f"Bearer {self._access.token}"} if self._access.token else {})

    def _failure(self, answer: Answer) -> ClientError | None:
        """What the answer means where it is no success."""
        status = answer.status
        if status < HTTPStatus.MULTIPLE_CHOICES:
            return None
        reason = answer.reason or f"{self._access.address} answers {status} {http.client.responses.get(status, '')}"
        if status < HTTPStatus.BAD_REQUEST:
            where = printable(answer.headers.get("Location", "another place"))
            return Misused(f"{self._access.address} sends to {where}. Give the address that answers itself")
        if status == HTTPStatus.UNAUTHORIZED:
            advice = "The token that was sent is not known there" if self._access.token else _ADVICE
            return Refused(f"{reason}. {advice}", status)
        if _is_transient(answer) and answer.retry_after is not None:
            reason += f" (in {answer.retry_after:.0f} s it may go)"
        if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INSUFFICIENT_STORAGE):
            return NoRoom(reason, status)
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return Refused(reason, status)
        return NoAnswer(reason)


def _is_transient(answer: Answer) -> bool:
    """Whether the server did nothing, and may do it when it is asked again."""
    if answer.status == HTTPStatus.CONFLICT:
        return answer.reason.startswith(STILL_BEING_ACCEPTED)
    return answer.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


def _passes(answer: Answer, call: Call) -> bool:
    """Whether the refusal may pass. A proxy that lost its server (502, 504) cannot tell what that has done."""
    is_lost = answer.status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT) and not answer.reason
    return _is_transient(answer) or (is_lost and call.is_repeatable)
