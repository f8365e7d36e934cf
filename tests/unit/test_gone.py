"""Clones that were undefined by somebody else, and when the journal forgets them. On libvirt's test driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from cloner import errors
from cloner.callers import ANYBODY
from cloner.engine.lease import Lease
from cloner.engine.records import FINISHED, Clone, Link
from cloner.model.gone import GoneClones
from cloner.model.holding import held
from cloner.model.needs import Needs
from cloner.model.services import DOMAIN_NAME, MAC, Services
from cloner.model.vms import VMsModel
from cloner.plugin import build
from cloner.settings import Settings, demo_uri
from support.running import wait_until

HOUR = 3600.0
PATIENCE = 20  # seconds
XML = "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>1</memory><os><type>hvm</type></os></domain>"
UUIDS = {name: f"00000000-0000-4000-8000-00000000000{number}" for number, name in enumerate(("here", "gone"))}


class SetClock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """With two clones, of which one is gone."""
    built = build(Settings(connect=demo_uri(), state_dir=str(tmp_path)))
    built.inventory.start()
    built.connections.start(10)
    built.host.define("here", UUIDS["here"], XML.format(name="here", uuid=UUIDS["here"]))
    for name, uuid in UUIDS.items():
        built.journal.end(accept(built, name), FINISHED, "OK", Clone(uuid, name, 1, []))
    wait_until(lambda: built.inventory.is_complete, PATIENCE, "the host is known")
    yield built
    built.host.undefine(UUIDS["here"])
    built.connections.stop()
    built.inventory.stop()
    built.journal.close()
    built.lease.release()


def accept(services: Services, name: str, server: str = "") -> int:
    """A task that makes a clone, with a MAC of its own."""
    with services.journal.transaction() as transaction:
        task = transaction.add_task(transaction.new_task_id(), DOMAIN_NAME, "", server or services.lease.id, {}).id
        transaction.reserve(MAC, "", f"mac of {name}", task=task, domain=UUIDS[name])
    return task


def kept(services: Services) -> tuple[bool, bool]:
    """Whether the clone that is gone is remembered, and whether its MAC is."""
    with services.journal.transaction() as transaction:
        has_mac = transaction.is_reserved(MAC, "", "mac of gone")
    return services.journal.clones.find(UUIDS["gone"]) is not None, has_mac


def test_a_clone_that_is_gone_for_an_hour_is_forgotten(services: Services, clock: SetClock) -> None:
    gone = GoneClones(services, clock)
    gone.sweep()
    clock.now = HOUR - 1
    gone.sweep()
    assert kept(services) == (True, True)
    clock.now = HOUR
    gone.sweep()
    assert kept(services) == (False, False)
    assert set(services.journal.clones.servers()) == {UUIDS["here"]}


def test_the_hour_begins_anew_when_it_was_back_meanwhile(services: Services, clock: SetClock) -> None:
    gone = GoneClones(services, clock)
    gone.sweep()
    services.host.define("gone", UUIDS["gone"], XML.format(name="gone", uuid=UUIDS["gone"]))
    clock.now = HOUR
    gone.sweep()
    services.host.undefine(UUIDS["gone"])
    gone.sweep()
    assert kept(services) == (True, True)


def test_a_clone_that_is_being_made_is_not_gone(services: Services, clock: SetClock) -> None:
    """Its domain is defined last."""
    services.journal.clones.forget(UUIDS["gone"])
    accept(services, "gone")
    gone = GoneClones(services, clock)
    for clock.now in (0, HOUR, 2 * HOUR):
        gone.sweep()
    assert kept(services) == (False, True)


def test_of_a_host_that_has_none_of_the_clones_nothing_is_concluded(services: Services, clock: SetClock) -> None:
    services.journal.clones.forget(UUIDS["here"])
    gone = GoneClones(services, clock)
    for clock.now in (0, HOUR):
        gone.sweep()
    assert kept(services) == (True, True)


def test_a_clone_on_another_libvirt_is_not_missing_from_this_one(services: Services, clock: SetClock) -> None:
    """Servers of both forgot each other's: their disks stayed when they were deleted, and their users lost them."""
    services.journal.clones.forget(UUIDS["gone"])
    other = Lease(services.lease._folder, "qemu:///system")
    task = accept(services, "gone", other.id)
    link = Link("/base.qcow2", "default", "gone.qcow2")
    services.journal.end(task, FINISHED, "OK", Clone(UUIDS["gone"], "gone", 1, []), links=[link])
    gone = GoneClones(services, clock)
    for clock.now in (0, HOUR):
        gone.sweep()
    with held(services, "base", [], "started", ANYBODY):
        pass
    with pytest.raises(errors.SourceInUse), held(services, "base", [link.parent], "started", ANYBODY):
        pass
    other.release()
    assert kept(services) == (True, True)


def test_of_a_host_that_is_not_known_nothing_is_concluded(services: Services, clock: SetClock) -> None:
    gone = GoneClones(services, clock)
    gone.sweep()
    clock.now = HOUR
    with mock.patch.object(services.inventory, "is_taken", return_value=None):
        gone.sweep()
    assert kept(services) == (True, True)


def test_a_clone_that_is_gone_when_it_is_to_be_undone_is_forgotten_at_once(services: Services) -> None:
    VMsModel(services).delete_made(UUIDS["gone"], ANYBODY, Needs(services))
    assert kept(services) == (False, False)
