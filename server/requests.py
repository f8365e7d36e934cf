"""One request, from its first header to its line in the log: its id, who sent it, and how it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from email.errors import HeaderParseError
from typing import Any, ClassVar

import cherrypy
from cherrypy.lib import httputil

from .. import context, errors
from ..control import audit
from ..control.base import Refusal, error_page
from .auth import claimed_user
from .proxies import Proxies

log = logging.getLogger("cloner.access")

QUIET = ("/livez", "/readyz", "/metrics")
"""Asked again and again by machines: a line each only when something is wrong."""

_MOST_OF_A_PATH = 500
_FAILED_LOG_INS = (errors.WrongCredentials.code, errors.TooManyAttempts.code)


UNMATCHED = "(none)"
"""For the route of a request that found none, or was turned away before."""


class Listener:
    """Is told how requests were answered, to count them. This one does nothing with it."""

    def answered(self, method: str, template: str, status: int, seconds: float) -> None:
        """A request for one of a route's paths was answered, or the answer has begun, after `seconds`."""

    def log_in_failed(self) -> None:
        """A log-in was refused, or a token or password that came with a request."""


class ServedRequest(cherrypy._cprequest.Request):  # type: ignore[misc]  # CherryPy has no types
    """CherryPy's request under `cloner serve`.

    Errors have our shape from the first header on; what `config` says comes into force only after the headers.
    """

    error_page: ClassVar[dict[str, Any]] = {"default": error_page}
    show_tracebacks = False
    error_code = ""
    """The code of the error that is answered, if one is."""

    claimed = ""
    """Who a request that wants to log in says it is."""

    route = UNMATCHED
    """What is asked for, as a template of paths: there are as many as there are routes."""

    remote: Any
    scheme: str

    answered_so_far: ClassVar[int] = 0
    """Grows as requests are answered, if not by one for each: threads count side by side, without a lock."""

    def __init__(self, listener: Listener, proxies: Proxies, *connection: Any) -> None:
        super().__init__(*connection)
        self._listener = listener
        self._proxies = proxies

    def run(
        self, method: str, path: str, query: str, protocol: str, headers: Iterable[tuple[str, str]], rfile: Any
    ) -> Any:
        begun = time.perf_counter()
        headers = list(headers)
        self._learn_origin(headers)
        request_id = context.request_id(_first(headers, context.HEADER))
        about = {"request_id": request_id, "address": self.remote.ip, "method": method, "path": path[:_MOST_OF_A_PATH]}
        with context.use(context.Context(**about)):
            cherrypy.serving.response.headers[context.HEADER] = request_id
            response = super().run(method, path, query, protocol, headers, rfile)
            self._tell(int(response.output_status[:3]), time.perf_counter() - begun)
            ServedRequest.answered_so_far += 1
        return response

    def _learn_origin(self, headers: list[tuple[str, str]]) -> None:
        """Has everything that follows see the sender where a proxy stands between."""
        origin = self._proxies.origin(self.remote.ip, headers)
        self.remote = httputil.Host(origin.address, self.remote.port, origin.address)
        self.scheme = origin.scheme or self.scheme

    @property
    def login(self) -> str | None:
        """Who sent the request, once the door has found out."""
        return context.current().user or None

    @login.setter
    def login(self, user: str | None) -> None:
        context.learn(user=user or "")

    def process_headers(self) -> None:
        try:
            super().process_headers()
        except (LookupError, TypeError, ValueError, HeaderParseError) as error:  # it decodes RFC 2047 and may stumble
            raise Refusal(errors.BadRequest(cause="a header cannot be decoded")) from error
        # CherryPy gathers the parts of a file in memory, however many are asked for, and stumbles over what is none.
        self.headers.pop("Range", None)

    def _tell(self, status: int, seconds: float) -> None:
        if self._is_failed_log_in:
            user = self.claimed or claimed_user(self.headers.get("Authorization", ""))
            audit.record("log-in", "session", self.error_code, user=user)
            self._listener.log_in_failed()
        self._listener.answered(self.method, self.route, status, seconds)
        about = context.current()
        fields: dict[str, Any] = {"status": status, "duration_ms": round(seconds * 1000, 1)}
        fields |= {"code": self.error_code} if self.error_code else {}
        level = logging.INFO if status < 500 else logging.WARNING  # noqa: PLR2004 - where HTTP's server errors begin
        if about.path in QUIET and status < 400:  # noqa: PLR2004 - where HTTP's errors begin
            level = logging.DEBUG
        log.log(level, "%s %s %d", about.method, about.path, status, extra={"fields": fields})

    @property
    def _is_failed_log_in(self) -> bool:
        """Whether the request was refused for what it has to say who it comes from, and not for saying nothing."""
        is_wrong_token = self.error_code == errors.NotLoggedIn.code and "Authorization" in self.headers
        return self.error_code in _FAILED_LOG_INS or is_wrong_token


def _first(headers: Iterable[tuple[str, str]], name: str) -> str:
    return next((value for found, value in headers if found.lower() == name.lower()), "").strip()
