"""For whom the present thread works: carried along by it, so that every line of the log can say so.

A request is known by its id, which the client may choose (`X-Request-Id`) and gets back. A task's worker goes on under
the id of the request that had it accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

HEADER = "X-Request-Id"

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:/+=@-]{0,127}")


@dataclass(frozen=True)
class Context:
    """What is known of the work at hand; what is not, or is nobody's, is empty."""

    request_id: str = ""
    user: str = ""
    address: str = ""
    method: str = ""
    path: str = ""
    task: int | None = None

    def of_task(self, task: int) -> Context:
        """That of a worker who makes what was asked for here."""
        return Context(request_id=self.request_id, user=self.user, task=task)


NOBODY = Context()
_current: ContextVar[Context] = ContextVar("cloner_context", default=NOBODY)


def current() -> Context:
    return _current.get()


@contextmanager
def use(context: Context) -> Iterator[None]:
    """Works in a context until the end of the block."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def take(context: Context) -> None:
    """Works in a context from now on: for a thread that belongs to one piece of work."""
    _current.set(context)


@contextmanager
def within(**more: Any) -> Iterator[None]:
    """Works in the present context until the end of the block, with more known of it."""
    with use(replace(_current.get(), **more)):
        yield


def learn(**more: Any) -> None:
    """Something becomes known of the work at hand: until the end of the block that it belongs to, or for a thread."""
    take(replace(_current.get(), **more))


def request_id(given: str) -> str:
    """The id that a client gave, if it is one that can be written into logs and headers, or a new one."""
    return given if _SANE_ID.fullmatch(given) else uuid4().hex
