"""The inventory of a host that does not always answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from threading import Event
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from cloner import errors
from cloner.hypervisor import inventory
from cloner.hypervisor.infos import SHUT_OFF, DomainInfo
from cloner.hypervisor.inventory import Inventory
from support.running import wait_until

PATIENCE = 20  # seconds


class Host:
    """Domains by UUID. Each question about one meets the next failure, as long as there are any."""

    def __init__(self) -> None:
        self.domains = {uuid: domain(uuid, "old") for uuid in ("a", "b")}
        self.failures: Iterator[Exception] = iter(())
        self.lists = 0
        self.may_list = Event()
        self.may_list.set()

    def list_domains(self) -> list[DomainInfo]:
        self.lists += 1
        assert self.may_list.wait(PATIENCE)
        return list(self.domains.values())

    def domain_uuids(self) -> set[str]:
        return set(self.domains)

    def domain_by_uuid(self, uuid: str) -> DomainInfo:
        failure = next(self.failures, None)
        if failure is not None:
            raise failure
        if uuid not in self.domains:
            raise errors.DomainNotFound(name=uuid)
        return self.domains[uuid]


class Connection:
    """Where libvirt's events come from."""

    def __init__(self) -> None:
        self.callbacks: list[tuple[Callable[..., None], Any]] = []

    def domainEventRegisterAny(self, _domain: None, _event: int, callback: Callable[..., None], opaque: Any) -> None:
        self.callbacks.append((callback, opaque))

    def tell(self, uuid: str, event: int = libvirt.VIR_DOMAIN_EVENT_DEFINED) -> None:
        callback, opaque = self.callbacks[0]
        callback(self, SimpleNamespace(UUIDString=lambda: uuid), event, 0, opaque)


def domain(uuid: str, xml: str) -> DomainInfo:
    return DomainInfo(uuid, uuid, SHUT_OFF, xml, persistent=True, autostart=False, saved_state=False)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
def followed(host: Host, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inventory[DomainInfo]]:
    monkeypatch.setattr(inventory, "_PAUSE_S", 0.1)
    monkeypatch.setattr(inventory, "_LONG_PAUSE_S", 0.1)
    connections: Any = SimpleNamespace()
    stands_in: Any = host
    found = Inventory(connections, stands_in, lambda each: each, lambda each: {each.xml})
    found.start()
    connections.on_connect(connection)
    wait_until(lambda: found.is_complete, PATIENCE, "everything is read")
    yield found
    found.stop()


@pytest.mark.parametrize("failure", [errors.Busy(what="a test"), ValueError("an odd domain")])
def test_a_domain_that_went_while_it_could_not_be_read_is_taken_out(
    host: Host, connection: Connection, followed: Inventory[DomainInfo], failure: Exception
) -> None:
    del host.domains["a"]
    host.failures = iter([failure])
    connection.tell("a")
    wait_until(lambda: names(followed) == {"b"}, PATIENCE, "it is taken out")


def test_a_domain_that_changed_while_it_could_not_be_read_is_read_again(
    host: Host, connection: Connection, followed: Inventory[DomainInfo]
) -> None:
    host.domains["a"] = domain("a", "new")
    host.failures = iter([errors.Busy(what="a test")] * 2)
    connection.tell("a")
    wait_until(lambda: followed.is_taken("new"), PATIENCE, "it is read again")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "_LOOK_S", 0.1)


@pytest.mark.usefixtures("often", "followed")
def test_what_goes_and_comes_without_an_event_is_noticed(host: Host, followed: Inventory[DomainInfo]) -> None:
    """As libvirt tells of none for a domain that is migrated while it is shut off."""
    host.domains = {"b": host.domains["b"], "c": domain("c", "new")}
    wait_until(lambda: names(followed) == {"b", "c"}, PATIENCE, "it is noticed")


@pytest.mark.usefixtures("often", "followed")
@pytest.mark.parametrize("failures", [[], [errors.Busy(what="a test")], [ValueError("an odd domain")]])
def test_what_changes_without_an_event_is_noticed_in_turn(
    host: Host, followed: Inventory[DomainInfo], monkeypatch: pytest.MonkeyPatch, failures: list[Exception]
) -> None:
    """As libvirt tells of none for a device that is attached to a definition. Meanwhile what was known counts."""
    monkeypatch.setattr(inventory, "_READ_AGAIN", 1)
    host.failures = iter(failures)
    host.domains = {uuid: domain(uuid, f"new {uuid}") for uuid in ("a", "b")}
    wait_until(lambda: followed.is_taken("new a") and followed.is_taken("new b"), PATIENCE, "both are noticed")
    assert followed.is_taken("old") is False


def test_who_asks_while_everything_is_being_read_gets_what_was_read(host: Host) -> None:
    connections: Any = SimpleNamespace()
    stands_in: Any = host
    host.may_list.clear()
    anew = Inventory(connections, stands_in, lambda each: each, lambda each: {each.xml})
    anew.start()
    connections.on_connect(Connection())
    wait_until(lambda: host.lists == 1, PATIENCE, "it is being read")
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(anew.entries_soon) for _ in range(4)]
        assert anew.entries() is None
        host.may_list.set()
        assert [len(answer.result(PATIENCE) or ()) for answer in answers] == [2] * 4
    assert host.lists == 1
    anew.stop()


def test_what_this_server_undefines_while_everything_is_being_read_is_not_put_back(host: Host) -> None:
    """A guest whose DELETE was answered was in the list again, until libvirt's event about that was heard."""
    connections: Any = SimpleNamespace()
    stands_in: Any = SimpleNamespace(domain_by_uuid=host.domain_by_uuid)
    told = list(host.domains.values())
    is_told, may_go_on = Event(), Event()

    def list_domains() -> Iterator[DomainInfo]:
        is_told.set()
        assert may_go_on.wait(PATIENCE)
        yield from told

    stands_in.list_domains = list_domains
    found = Inventory(connections, stands_in, lambda each: each, lambda each: {each.xml})
    found.start()
    connections.on_connect(Connection())
    assert is_told.wait(PATIENCE)
    del host.domains["a"]
    found.gone("a")
    may_go_on.set()
    wait_until(lambda: found.is_complete, PATIENCE, "everything is read")
    found.stop()
    assert names(found) == {"b"}


def test_it_does_not_know_until_everything_could_be_read(host: Host, followed: Inventory[DomainInfo]) -> None:
    """What this server undefines is taken out at once, in the thread that does it."""
    host.failures = repeat(errors.Busy(what="a test"))
    followed.gone("a")
    assert not followed.is_complete
    assert followed.entries() is None
    host.failures = iter(())
    wait_until(lambda: names(followed) == {"a", "b"}, PATIENCE, "it knows again")


def test_what_it_knew_counts_no_more_once_the_connection_is_lost(
    host: Host, connection: Connection, followed: Inventory[DomainInfo]
) -> None:
    """Until everything has been read over the next one, of which nothing was heard meanwhile."""
    connections: Any = followed
    lost = connections._lost
    lost()
    assert (followed.is_complete, followed.entries(), followed.is_taken("old")) == (False, None, None)
    host.domains = {"c": domain("c", "new")}
    connections._connected(connection)
    wait_until(lambda: names(followed) == {"c"}, PATIENCE, "it is read anew")


def test_what_somebody_undefines_as_soon_as_this_server_has_defined_it_is_not_put_back(
    host: Host, connection: Connection, followed: Inventory[DomainInfo]
) -> None:
    with followed.defining("c") as defined:
        connection.tell("c")
        connection.tell("c", libvirt.VIR_DOMAIN_EVENT_UNDEFINED)
        del host.domains["a"]
        connection.tell("a", libvirt.VIR_DOMAIN_EVENT_UNDEFINED)
        wait_until(lambda: names(followed) == {"b"}, PATIENCE, "what has been heard is looked at")
        defined(domain("c", "new"))
    assert names(followed) == {"b"}


def test_what_this_server_has_defined_is_known_without_a_question(
    host: Host, connection: Connection, followed: Inventory[DomainInfo]
) -> None:
    host.failures = repeat(AssertionError("it is asked for"))
    with followed.defining("c") as defined:
        connection.tell("c")
        defined(domain("c", "new"))
    assert names(followed) == {"a", "b", "c"}


def names(followed: Inventory[DomainInfo]) -> set[str]:
    return {each.name for each in followed.entries() or ()}
