"""What every model works with, and what several of them do with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any

from .. import errors
from ..engine.executor import Executor
from ..engine.journal import Journal
from ..engine.lease import Lease
from ..engine.ledger import Ledger
from ..engine.observer import Observer
from ..engine.plan import Wishes
from ..engine.survey import Surveyor
from ..engine.tokens import Tokens
from ..hypervisor.connection import Connections
from ..hypervisor.host import Host
from ..hypervisor.infos import DomainInfo
from ..hypervisor.inventory import Inventory
from ..hypervisor.places import Places
from ..utils import MAX_FILE_NAME_BYTES, MAX_NAME_BYTES, byte_length
from .feed import Feed
from .foresight import Foresight
from .guests import Guest, read_guest
from .limits import Limits

DOMAIN_NAME, VOLUME_NAME, FOLDER, MAC, PATH = "domain", "volume", "folder", "mac", "path"
"""Kinds of reservations. A volume's `scope` is its pool, and that of its file the folder's number, see reserving.py; a
socket, a log or a pipe has its path there, and no name."""

_FEW = 200
"""Guests that are read one by one in no time."""

_FORBIDDEN = frozenset({".", ".."})
_ACTED_UPON = "<>&\"'`$;|\\"


@dataclass(frozen=True)
class Services:
    """One server's parts, built in plugin.py."""

    connections: Connections
    host: Host
    journal: Journal
    executor: Executor
    ledger: Ledger
    lease: Lease
    surveyor: Surveyor
    inventory: Inventory[Guest]
    tokens: Tokens
    limits: Limits
    foresight: Foresight
    observer: Observer
    feed: Feed
    places: Places
    log_in: str
    """The kind of log-in that users have here."""

    plain_names: bool
    """Whether Kimchi is, or may be, beside us: its pages take names for markup, and it hands some to a shell."""

    def check_domain_name(self, name: str) -> None:
        """Raises InvalidName for what libvirt, a file system, a URL or Kimchi would not take as a domain's name."""
        _check_name(name, MAX_NAME_BYTES, plain=self.plain_names)

    def check_volume_name(self, name: str) -> None:
        """Raises InvalidName for what cannot be a file's name, or what Kimchi would not take as one."""
        _check_name(name, MAX_FILE_NAME_BYTES, plain=self.plain_names)

    def read(self, domain: DomainInfo) -> Guest:
        """What is kept of a domain."""
        return read_guest(domain, self.places, self.log_in)

    def guests(self) -> Collection[Guest]:
        """Every domain of the host: from the inventory, or from libvirt as long as that is not complete."""
        known = self.inventory.entries_soon()
        return known if known is not None else self.guests_now()

    def guests_from(self, after: str, most: int | None) -> Generator[Guest, None, None]:
        """Those whose names come after one, by name; no more are read than are asked for. To be closed.

        `most` is how many may be asked for: a few are there before all others have been read.
        """
        is_few = most is not None and most <= _FEW
        known = self.inventory.entries() if is_few else self.inventory.entries_soon()
        if known is not None:
            yield from sorted((guest for guest in known if guest.name > after), key=lambda guest: guest.name)
        else:
            with closing(self.host.list_domains_from(after)) as domains:
                yield from map(self.read, domains)

    def guests_now(self) -> Collection[Guest]:
        """Every domain of the host, asked for: also what was done to its definition without an event of libvirt's."""
        return [self.read(domain) for domain in self.host.list_domains()]

    def taken_marks(self) -> Callable[[str], bool]:
        """Answers whether any domain of the host has what no two should have in common. May list the host, once."""
        listed = cache(lambda: {mark for guest in self.guests() for mark in guest.marks})

        def is_taken(mark: str) -> bool:
            known = self.inventory.is_taken(mark)  # which may have lost its connection since it was asked last
            return known if known is not None else mark in listed()

        if not self.inventory.is_complete:  # now rather than while the journal is locked
            listed()
        return is_taken


def read_wishes(params: Mapping[str, Any]) -> Wishes:
    """What the body of any clone may ask for, as API.json has it."""
    return Wishes(
        pool=params.get("pool"),
        method=params.get("method", "auto"),
        flatten=params.get("flatten", False),
        bandwidth=params.get("bandwidth"),
    )


class Skipping(Container[str]):
    """Names that are taken, and tells each time that one which was about to be given out is among them."""

    def __init__(self, taken: Container[str], skipped: Callable[[], None]) -> None:
        self._taken = taken
        self._skipped = skipped

    def __contains__(self, name: object) -> bool:
        is_taken = name in self._taken
        if is_taken:
            self._skipped()
        return is_taken


def _check_name(name: str, max_bytes: int, *, plain: bool) -> None:
    problems = {
        "it is empty": not name.strip(),
        "it has a slash": "/" in name,
        "it has control characters, or is not valid Unicode": not name.isprintable(),
        "it is reserved for folders": name in _FORBIDDEN,
        f"it is longer than {max_bytes} bytes": byte_length(name) > max_bytes,
        "it begins or ends with a space": name != name.strip(),
        f"Kimchi would act upon {' '.join(_ACTED_UPON)} in it": plain and not set(_ACTED_UPON).isdisjoint(name),
    }
    cause = next((words for words, is_so in problems.items() if is_so), None)
    if cause:
        raise errors.InvalidName(name=name[:80], cause=cause)


def paths_in_use(guests: Collection[Guest]) -> dict[str, list[str]]:
    """Names of the guests that use each path or `pool/volume`."""
    used: dict[str, list[str]] = {}
    for guest in guests:
        for place in guest.storage:
            used.setdefault(place, []).append(guest.name)
    return used
