"""Our tasks in Wok's queue, where its page and Kimchi's look for them: as the journal has them, whoever makes them."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

import cherrypy

from .. import errors
from ..callers import Caller
from ..control import audit
from ..control.base import within_request
from ..control.caller import current
from ..engine.journal import position
from ..engine.records import FINISHED, RUNNING, Task
from ..model.feed import OTHERS_S
from ..model.services import Services
from ..model.tasks import TasksModel
from . import wok

log = logging.getLogger(__name__)

KIMCHI = "/plugins/kimchi"
"""What its page expects `target_uri` to begin with, wherever Wok is mounted."""

_BELOW_MOUNT = {"domain": "/vms/", "volume": "/storagepools/"}
_AT_ONCE = 200
_US = 1_000_000

_LONGEST_S = 11.5 * 3600
"""How long an ended task stays. Wok removes those of 12 hours itself, while it goes through them, and fails at that."""

_SWEEP_S = 60.0
_PATIENCE_S = 1.0
_numbers = itertools.count(1)
_lock = threading.RLock()
"""Of the queue, for as long as one entry is put in or taken out; a mirror may be there before the last one is gone."""

_awaited: set[str] = set()
"""Tasks for which Wok still answers the request: at its end it writes `log_id`, and fails if the queue has none."""


class Entry:
    """A task with what Wok reads of its own (src/wok/asynctask.py, src/wok/model/tasks.py)."""

    log_id: str | None = None
    """Wok's, of the request."""

    def __init__(self, mirror: Mirror, task: Task) -> None:
        self._mirror = mirror
        self.task = task
        self.id = str(task.id)
        self.target_uri = _for_kimchi(task)

    @property
    def status(self) -> str:
        self._mirror.refresh(wait=False)
        return self.task.status

    @property
    def message(self) -> str:
        """Plain text: that page shows it as markup."""
        self._mirror.refresh(wait=False)
        return errors.plain(self.task.message)

    @property
    def timestamp(self) -> float:
        """When it began or, once it has, when it ended: from then on Wok counts the hours after which it goes."""
        return (self.task.ended or self.task.created) / _US

    @property
    def is_kept(self) -> bool:
        return self._mirror.keeps(self)

    def is_there_for(self, caller: Caller) -> bool:
        return caller.is_admin or caller.made(self.task.owner)

    def kill(self) -> None:
        """Cancels it. Raises an exception of Wok's for who may not."""
        try:
            with within_request(), audit.action("cancel", f"tasks/{self.id}") as line:
                caller = current()
                if not caller.may_change:
                    raise errors.NotLoggedIn
                self._mirror.cancel(self.id, caller)
                line["outcome"] = audit.ACCEPTED
        except errors.ClonerError as error:
            raise wok.exception(error) from error

    def remove(self) -> None:
        self._mirror.drop(self.id)


def _for_kimchi(task: Task) -> str:
    """A task's `target_uri` as Kimchi would have it, whoever accepted the clone."""
    start = _BELOW_MOUNT[task.kind]
    return KIMCHI + start + task.target_uri.partition(start)[2]


class Mirror:
    """Keeps the queue as the journal is.

    Args:
        services: of the plugin.
        on_made: is told of each clone of a domain when it is complete, before the queue says so, in a thread in which
            it may take as long as it likes.
    """

    def __init__(self, services: Services, on_made: Callable[[Task], None]) -> None:
        self._journal = services.journal
        self._feed = services.feed
        self._tasks = TasksModel(services)
        self._on_made = on_made
        self._queue: MutableMapping[str, Any] = wok.module("asynctask").tasks_queue
        self._reading = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._made: dict[str, Task] = {}
        """Clones that are complete, of which `on_made` has yet to be told."""

        self._at = (0, -1)
        self._serial = -1
        self._is_behind = False
        """Whether the journal could not be read the last time."""

        self._began = int(time.time() * _US)
        self._ends = threading.Event()
        # Kimchi's object store keeps a connection for each name of a thread, which no other thread may use.
        self._thread = threading.Thread(target=self._follow, name=f"bridge-{next(_numbers)}", daemon=True)

    def start(self) -> None:
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        """Takes everything out of the queue again."""
        self._ends.set()
        with _lock:
            for entry in list(self._entries.values()):
                self.drop(entry.id)

    def entry(self, task: Task) -> Entry:
        """Of a task that was accepted just now. It stays in the queue until the request for it is answered."""
        self.refresh()
        with _lock:
            if str(task.id) not in self._entries:  # the journal took it, and cannot be read now
                self._put(str(task.id), task)
            entry = self._entries.get(str(task.id)) or Entry(self, task)  # the bridge was switched off meanwhile
            self._queue.setdefault(entry.id, entry)
            _awaited.add(entry.id)
        cherrypy.serving.request.hooks.attach("on_end_request", partial(self._answered, entry.id))
        return entry

    def _answered(self, task_id: str) -> None:
        with _lock:
            _awaited.discard(task_id)
            found = self._queue.get(task_id)
            if isinstance(found, Entry) and not found.is_kept:
                del self._queue[task_id]

    def hides(self, task_id: str, caller: Caller) -> bool:
        """Whether a task is ours and not there for the caller. The queue may have it longer than the mirror."""
        found = self._queue.get(task_id)
        return isinstance(found, Entry) and not found.is_there_for(caller)

    def cancel(self, task_id: str, caller: Caller) -> None:
        """Raises TaskNotFound, NotYours."""
        self._tasks.delete(task_id, caller, only_cancel=True)
        self.refresh()

    def drop(self, task_id: str) -> None:
        with _lock:
            self._made.pop(task_id, None)
            entry = self._entries.pop(task_id, None)
            if entry is not None and task_id not in _awaited and self._queue.get(task_id) is entry:
                del self._queue[task_id]

    def keeps(self, entry: Entry) -> bool:
        """Whether it is one of those that the queue has for as long as the journal has their tasks."""
        return self._entries.get(entry.id) is entry

    def refresh(self, *, wait: bool = True) -> None:
        """Reads what this server has written since the last time.

        While another thread does it is waited for that, but not for long and not at all without `wait`: each request of
        Wok's comes by. A journal that could not be read is left to the mirror's own thread.
        """
        if self._is_behind or self._feed.serial == self._serial:
            return
        if self._reading.acquire(timeout=_PATIENCE_S if wait else 0):
            try:
                self._read()
            finally:
                self._reading.release()

    def _read(self) -> None:
        serial = self._feed.serial
        try:
            while not self._ends.is_set() and (news := self._journal.changes(self._at, _AT_ONCE)):
                for item in news:
                    self._take(item) if isinstance(item, Task) else self.drop(str(item.task))
                    self._at = position(item)
        except errors.JournalUnavailable as error:
            if not self._is_behind:
                log.warning("Wok's queue has our tasks as they were: %s", error)
            self._is_behind = True
            return
        self._is_behind = False
        self._serial = serial

    def _take(self, task: Task) -> None:
        key = str(task.id)
        with _lock:
            if key in self._made or self._is_made_now(task, self._entries.get(key)):
                self._made[key] = task
            else:
                self._put(key, task)

    def _put(self, key: str, task: Task) -> None:
        entry = self._entries.get(key)
        if entry is not None:
            entry.task = task
        elif not _is_old(task) and not self._ends.is_set():
            self._entries[key] = self._queue[key] = Entry(self, task)

    def _tell_made(self) -> None:
        while not self._ends.is_set() and (made := list(self._made.items())):
            for key, task in made:
                self._on_made(task)
                with _lock:
                    latest = self._made.pop(key, None)
                    if latest is not None:  # nor dropped meanwhile
                        self._put(key, latest)

    def _is_made_now(self, task: Task, entry: Entry | None) -> bool:
        was_running = entry is None or entry.task.status == RUNNING
        return task.kind == "domain" and task.status == FINISHED and was_running and (task.ended or 0) >= self._began

    def _follow(self) -> None:
        swept = time.monotonic()
        while (self._made or self._feed.await_change(self._serial)) and not self._ends.is_set():
            with self._reading:
                self._read()
            self._tell_made()
            if self._is_behind:
                self._ends.wait(OTHERS_S)
            if time.monotonic() - swept >= _SWEEP_S:
                swept = time.monotonic()
                self._sweep()

    def _sweep(self) -> None:
        with _lock:
            for entry in list(self._entries.values()):
                if _is_old(entry.task):
                    self.drop(entry.id)


def _is_old(task: Task) -> bool:
    return task.ended is not None and task.ended / _US < time.time() - _LONGEST_S
