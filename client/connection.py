"""One request and its answer over HTTP or HTTPS, and in which words it goes wrong."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

from ..errors import printable
from .access import Access
from .failures import ClientError, Misused, NoAnswer
from .retry import seconds_of

_LONGEST_CONNECT_S = 10.0


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: Message
    text: str

    @property
    def content(self) -> Any:
        """The answer's JSON; None where it has none."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None

    @property
    def row(self) -> dict[str, Any]:
        """The JSON object that it should be. Raises NoAnswer."""
        return _checked([self.content])[0]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The list of JSON objects that it should be. Raises NoAnswer."""
        return _checked(self.content)

    @property
    def reason(self) -> str:
        """Why the server refuses, in its own words; empty where the answer is no cloner's."""
        content = self.content
        return printable(content.get("reason", "")) if isinstance(content, dict) else ""

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the server wants to be asked again, if it says so."""
        return seconds_of(self.headers.get("Retry-After"))


class Connection:
    """A connection to a server, opened when it is needed and again when it was lost. Not for several threads."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._tls: ssl.SSLContext | None = None
        self._http: http.client.HTTPConnection | None = None

    def exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Raises NoAnswer after `timeout` seconds of silence or when the connection is lost, Misused."""
        response = self.open(method, path, body, headers, timeout)
        try:
            text = response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._explained(error) from error
        except BaseException:  # Ctrl-C, in the middle of an answer that nobody will read to its end
            self.close()
            raise
        return Answer(response.status, response.headers, text)

    def open(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> http.client.HTTPResponse:
        """The answer as far as its headers, for who reads on as it comes. Raises as exchange()."""
        connection = self._connected(timeout)
        try:
            connection.request(method, path, body, dict(headers))
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._explained(error) from error
        except BaseException:  # as above
            self.close()
            raise

    def read_line(self, response: http.client.HTTPResponse, limit: int) -> bytes:
        """A line of an answer as it comes, `limit` bytes of it at most; b"" at its end. Raises as exchange()."""
        try:
            return response.readline(limit)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._explained(error) from error

    def close(self) -> None:
        """Can be repeated; the next request opens it again."""
        if self._http:
            self._http.close()
        self._http = None

    def _connected(self, timeout: float) -> http.client.HTTPConnection:
        if self._http is None or self._http.sock is None:
            self._http = self._new(min(timeout, _LONGEST_CONNECT_S))
            try:
                self._http.connect()
            except (OSError, http.client.HTTPException) as error:
                self.close()
                raise self._explained(error, is_unsent=True) from error
        self._http.sock.settimeout(timeout)
        return self._http

    def _new(self, timeout: float) -> http.client.HTTPConnection:
        host, port = self._access.url.hostname or "", self._access.url.port
        if self._access.url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout)
        self._tls = self._tls or self._trust()
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls)

    def _trust(self) -> ssl.SSLContext:
        """Whose certificates are good: the system's authorities, or the one that was named and no other."""
        try:
            return ssl.create_default_context(cafile=self._access.cacert)
        except OSError as error:  # SSLError is one
            why = "it has no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise Misused(f"the authority's certificate cannot be used: {self._access.cacert}: {why}") from error

    def _explained(self, error: Exception, *, is_unsent: bool = False) -> ClientError:
        address = self._access.address
        if isinstance(error, ssl.SSLCertVerificationError):
            return Misused(
                f"the certificate of {address} is not to be trusted: {printable(error.verify_message)}. "
                "If an authority of your own has signed it, name that one's certificate with --cacert"
            )
        return NoAnswer(f"{address} does not answer: {_cause(error)}", is_unsent=is_unsent)


def _checked(rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise NoAnswer("the server's answer is none that a cloner gives")
    return rows


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead | ConnectionResetError):
        return "it closed the connection"
    if isinstance(error, http.client.HTTPException):
        return "what it says is no HTTP"
    return printable(getattr(error, "strerror", None) or error)
