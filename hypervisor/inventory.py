"""The host's domains, as libvirt's events tell them: read once for each connection, and one by one as they change.

So lists and checks over the whole host cost no call each, however many domains there are. Until everything has been
read once, and after a connection was lost, the inventory does not know, and whoever asks must ask libvirt.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

import libvirt

from .. import errors
from .connection import Connections
from .host import Host
from .infos import DomainInfo

log = logging.getLogger(__name__)

Entry = TypeVar("Entry")

_DEFINED = libvirt.VIR_DOMAIN_EVENT_DEFINED
_CHANGES = (
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
    libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
    libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
)
"""Changes of a domain that goes on as before. There is none for a device or a snapshot of its definition alone."""

_STARTED = (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_RESUMED)

_SOON_S = 5.0
"""How long the end of a reading is waited for that is under way."""

_PAUSE_S, _LONG_PAUSE_S = 1.0, 60.0
"""Until what could not be read is tried again: because of libvirt, or of what a domain is."""

_LOOK_S = 60.0
"""Until it is looked which domains there are: of one that is migrated while it is shut off libvirt tells nothing."""

_READ_AGAIN = 50
"""How many domains are read again then: nor does it tell of a device that is attached to a configuration alone."""


@dataclass
class _Known(Generic[Entry]):
    """What was read over one connection."""

    connection: libvirt.virConnect
    entries: dict[str, Entry] = field(default_factory=dict)
    owners: dict[str, set[str]] = field(default_factory=dict)
    """UUIDs of the domains that have a mark."""

    newer: set[str] = field(default_factory=set)
    """UUIDs of the domains that were looked at one by one before everything was read, those that had gone as well."""

    unread: dict[str | None, float] = field(default_factory=lambda: {None: math.inf})
    """UUIDs of the domains that changed and could not be read, and when they are tried again; None is all domains."""

    @property
    def is_complete(self) -> bool:
        return not self.unread


class Inventory(Generic[Entry]):
    """Follows the domains of a host.

    Args:
        connections: whose connection is followed, and the one after it when it is lost.
        host: to read domains from.
        read: makes of a domain what is kept of it.
        marks: of what is kept, all that no two domains should have in common.
    """

    def __init__(
        self,
        connections: Connections,
        host: Host,
        read: Callable[[DomainInfo], Entry],
        marks: Callable[[Entry], Collection[str]],
    ) -> None:
        self._host = host
        self._read = read
        self._marks = marks
        self.on_started: Callable[[str], None] = lambda _uuid: None
        """Is told the UUID of each domain that begins to run."""

        self.on_read: Callable[[Entry], None] = lambda _entry: None
        """Is told of each domain that was read anew after something had happened to it."""

        self.on_change: Callable[[Entry | None, Entry | None], None] = lambda _before, _now: None
        """Is told of a domain as it was and as it is, None where it was or is not there; two None: of any."""

        self._lock = threading.Lock()
        self._known: _Known[Entry] | None = None
        self._own: set[str] = set()
        self._new: set[str] = set()
        """UUIDs of domains that this server defines just now, and of which nothing else has been heard yet."""

        self._news: queue.SimpleQueue[tuple[_Known[Entry], str | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._follow, name="inventory", daemon=True)
        self._reading = threading.Lock()
        self._is_read = threading.Event()  # not while everything is being read
        self._is_read.set()
        host.defining = self.defining
        host.undefined = self.gone
        connections.on_connect = self._connected
        connections.on_lost = self._lost

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._news.put(None)

    def entries(self) -> Collection[Entry] | None:
        """What is kept of every domain; None while that is not known."""
        with self._lock:
            known = self._known
            return list(known.entries.values()) if known is not None and known.is_complete else None

    def entries_soon(self) -> Collection[Entry] | None:
        """The same, where everything is being read just now after that: to read it twice at once takes longer."""
        self._is_read.wait(_SOON_S)
        return self.entries()

    @property
    def is_complete(self) -> bool:
        """Whether every domain of the host is known."""
        with self._lock:
            return self._known is not None and self._known.is_complete

    def is_taken(self, mark: str) -> bool | None:
        """Whether any domain has this mark; None while that is not known."""
        with self._lock:
            known = self._known
            return mark in known.owners if known is not None and known.is_complete else None

    def having(self, mark: str) -> list[Entry] | None:
        """What is kept of the domains that have this mark; None while that is not known."""
        with self._lock:
            known = self._known
            if known is None or not known.is_complete:
                return None
            return [known.entries[uuid] for uuid in known.owners.get(mark, ())]

    @contextmanager
    def defining(self, uuid: str) -> Iterator[Callable[[DomainInfo], None]]:
        """While this server defines a domain: takes in what it is told of it, and passes over the event about it."""
        with self._lock:
            self._own.add(uuid)
            self._new.add(uuid)
        try:
            yield self._defined
        except BaseException:
            with self._lock:
                self._own.discard(uuid)
            raise
        finally:
            with self._lock:
                self._new.discard(uuid)

    def _defined(self, domain: DomainInfo) -> None:
        entry = self._read(domain)
        with self._lock:
            known = self._known
            # What an event has told since is newer, also that it is gone.
            is_news = known is not None and domain.uuid in self._new and domain.uuid not in known.entries
            if known is not None and is_news:
                self._put(known, domain.uuid, entry)
        if is_news:
            self.on_change(None, entry)

    def gone(self, uuid: str) -> None:
        """Takes a domain out that this server has just undefined, before anybody else hears of it."""
        known = self._known
        if known is not None and not self._tried(known, uuid):
            self._news.put((known, uuid))

    def _connected(self, connection: libvirt.virConnect) -> None:
        known: _Known[Entry] = _Known(connection)
        with self._lock:
            self._known = known
            self._own.clear()
            self._new.clear()
        try:
            connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._heard, known)
            for event in _CHANGES:
                with suppress(libvirt.libvirtError):  # the test driver has few
                    connection.domainEventRegisterAny(None, event, self._changed, known)
        except libvirt.libvirtError as error:
            log.warning("libvirt tells no events, so lists are read anew each time: %s", error)
            return
        self._news.put((known, None))

    def _lost(self) -> None:
        with self._lock:
            self._known = None

    def _heard(
        self, _connection: libvirt.virConnect, domain: libvirt.virDomain, event: int, _detail: int, known: _Known[Entry]
    ) -> None:
        """libvirt's callback: in the thread of its event loop, which must not be kept."""
        uuid = domain.UUIDString()
        if event in _STARTED:
            self.on_started(uuid)
        with self._lock:
            if event == _DEFINED and uuid in self._own:
                self._own.discard(uuid)
                return
            self._new.discard(uuid)
        self._news.put((known, uuid))

    def _changed(self, _connection: libvirt.virConnect, domain: libvirt.virDomain, *details: Any) -> None:
        """libvirt's callback for a change that is none of a domain's life; what was registered for it comes last."""
        self._news.put((details[-1], domain.UUIDString()))

    def _follow(self) -> None:
        looked = time.monotonic()
        while True:
            for known, uuid in self._due():
                self._tried(known, uuid)
            if time.monotonic() >= looked + _LOOK_S:
                self._look()
                looked = time.monotonic()
            try:
                news = self._news.get(timeout=min(self._patience(), max(0.0, looked + _LOOK_S - time.monotonic())))
            except queue.Empty:
                continue
            if news is None:
                return
            known, uuid = news
            if known is self._known:
                self._tried(known, uuid)

    def _look(self) -> None:
        """Takes out what has gone, and in what has come, without a word."""
        known = self._known
        if known is not None and known.is_complete:
            with suppress(errors.ClonerError):
                there = self._host.domain_uuids()
                with self._lock:
                    changed = known.entries.keys() ^ there
                for uuid in changed:
                    self._tried(known, uuid)
                with self._lock:
                    longest_known = list(islice(known.entries, _READ_AGAIN))  # what is read anew is put at the end
                for uuid in longest_known:
                    self._read_again(known, uuid)

    def _read_again(self, known: _Known[Entry], uuid: str) -> None:
        """Where that cannot be, a domain stays as it was known: nothing has told that it changed."""
        try:
            self._take_in(known, uuid)
        except errors.ClonerError as error:
            log.debug("%s is not read again: %s", uuid, error)
        except Exception:  # one odd domain must not end the thread; the stack is in the log
            log.exception("the inventory stumbled")

    def _due(self) -> list[tuple[_Known[Entry], str | None]]:
        """What could not be read, and is to be tried again now."""
        now = time.monotonic()
        with self._lock:
            known = self._known
            return [(known, uuid) for uuid, at in known.unread.items() if at <= now] if known is not None else []

    def _patience(self) -> float:
        """Seconds until something is to be tried again."""
        with self._lock:
            first = min(self._known.unread.values(), default=math.inf) if self._known is not None else math.inf
        return max(0.0, first - time.monotonic())

    def _tried(self, known: _Known[Entry], uuid: str | None) -> bool:
        """Whether a domain, or all of them, could be read. Until then the inventory does not know."""
        if uuid is not None:
            return self._could(known, uuid, lambda: self._take_in(known, uuid))
        self._is_read.clear()
        try:
            return self._could(known, None, lambda: self._read_everything(known))
        finally:
            self._is_read.set()

    def _could(self, known: _Known[Entry], uuid: str | None, read: Callable[[], None]) -> bool:
        try:
            read()
        except errors.ClonerError as error:
            log.warning("the inventory is incomplete: %s", error)
            pause = _PAUSE_S
        except Exception:  # one odd domain must not end the thread; the stack is in the log
            log.exception("the inventory stumbled")
            pause = _LONG_PAUSE_S
        else:
            with self._lock:
                known.unread.pop(uuid, None)
            if uuid is None:
                self.on_change(None, None)
            return True
        with self._lock:
            known.unread[uuid] = time.monotonic() + pause
        return False

    def _read_everything(self, known: _Known[Entry]) -> None:
        for domain in self._host.list_domains():
            entry = self._read(domain)
            with self._lock:
                if domain.uuid not in known.entries and domain.uuid not in known.newer:
                    self._put(known, domain.uuid, entry)
        log.info("inventory: %d domains", len(known.entries))

    def _take_in(self, known: _Known[Entry], uuid: str) -> None:
        with self._reading:  # what was read first is put first
            try:
                entry = self._read(self._host.domain_by_uuid(uuid))
            except errors.DomainNotFound:
                entry = None
            with self._lock:
                before = known.entries.get(uuid)
                self._put(known, uuid, entry)
                if None in known.unread:
                    known.newer.add(uuid)
        if before != entry:
            self.on_change(before, entry)
        if entry is not None:
            self.on_read(entry)

    def _put(self, known: _Known[Entry], uuid: str, entry: Entry | None) -> None:
        old = known.entries.pop(uuid, None)
        for mark in self._marks(old) if old is not None else ():
            owners = known.owners[mark]
            owners.discard(uuid)
            if not owners:
                del known.owners[mark]
        if entry is not None:
            known.entries[uuid] = entry
            for mark in self._marks(entry):
                known.owners.setdefault(mark, set()).add(uuid)
