"""`P/events`: what becomes of tasks, and of guests for those who ask, as server-sent events (WHATWG's HTML, 9.2).

Each event's id says how far its reader has come, in the journal and therefore across servers and their restarts: sent
back as `Last-Event-ID`, it goes on from there. Events of guests have none: they are of no journal, and whoever comes
again reads the list.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import cherrypy

from .. import errors
from ..callers import Caller
from ..engine.journal import position
from ..engine.records import Forgotten, Task
from ..model.feed import GuestChange, News
from ..model.services import Services
from ..model.tasks import resource
from .base import Answer, Controller, Request, route
from .caller import lasting

HEARTBEAT_S = 15.0
LONGEST_S = 600.0
"""After this a stream ends, and its reader comes again."""

SURE_S = 1.0
"""How old it may be, when something is told, that the reader's log-in was good."""

_ID = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
_RETRY_MS = 2000


class Events(Controller):
    def __init__(self, services: Services) -> None:
        self._feed = services.feed
        self._observer = services.observer

    @route("GET", "")
    def follow(self, request: Request) -> Answer:
        last = _last_event_id(request)
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if cherrypy.serving.request.method == "HEAD":
            return Answer(b"", headers=headers)
        news = self._feed.follow(last, HEARTBEAT_S, guests=_with_guests(request))
        return Answer(stream=self._told(news, request.caller, lasting()), headers=headers)

    def _told(self, news: Iterator[News], caller: Caller, who: Callable[[], Caller | None]) -> Iterator[bytes]:
        begun = sure = time.monotonic()
        with self._observer.event_stream():
            yield f"retry: {_RETRY_MS}\n\n".encode()
            for item in news:
                now = time.monotonic()
                if now > sure + SURE_S:
                    found, sure = _asked(who), now
                    if found is None or now > begun + LONGEST_S:
                        return
                    caller = found
                if item is None:
                    yield b": still there\n\n"
                elif isinstance(item, GuestChange):
                    yield from _event_of_guest(item, caller)
                elif caller.is_admin or caller.made(item.owner):
                    yield _event_of_task(item)


def _asked(who: Callable[[], Caller | None]) -> Caller | None:
    """Who the reader is; nobody where that cannot be told, so that the reader comes again and is told why."""
    try:
        return who()
    except errors.ClonerError:
        return None


def _event_of_task(item: Task | Forgotten) -> bytes:
    name, data = ("task", resource(item)) if isinstance(item, Task) else _removed(item)
    change, task = position(item)
    return f"id: {change}-{task}\n".encode() + _lines(name, data)


def _event_of_guest(change: GuestChange, caller: Caller) -> Iterator[bytes]:
    """What a caller is told of a guest; nothing of one that is not there for them."""
    before, now = change.before, change.now
    if now is not None and now.is_there_for(caller):
        yield _lines("guest", now.resource)
    elif before is not None and before.is_there_for(caller):
        yield _lines("guest-removed", {"uuid": before.uuid, "name": before.name})
    elif before is now is None:
        yield _lines("guests", {})


def _lines(name: str, data: dict[str, Any]) -> bytes:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode("utf-8", "backslashreplace")


def _removed(item: Forgotten) -> tuple[str, dict[str, Any]]:
    return "removed", {"id": str(item.task)}


def _with_guests(request: Request) -> bool:
    """The flag `guests`. Raises InvalidParameter."""
    text = request.query.get("guests", "false")
    if text not in ("true", "false"):
        raise errors.InvalidParameter(field="guests", cause="it must be true or false")
    return bool(text == "true")


def _last_event_id(request: Request) -> tuple[int, int] | None:
    """Where to go on: the header, or for readers that cannot set one, the flag `_after`. Raises BadRequest."""
    text = cherrypy.serving.request.headers.get("Last-Event-ID", "") or request.query.get("_after", "")
    if not text:
        return None
    found = _ID.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise errors.BadRequest(cause="the Last-Event-ID is none that this server gave out")
    return int(found[1]), int(found[2])
