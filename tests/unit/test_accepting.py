"""What a clone asks of libvirt, on the plugin's own parts and libvirt's test driver: no list, and nothing too much.

Each question is a round trip, and of the time that a clone takes they are a good part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import libvirt
import pytest
from lxml import etree

from cloner import errors
from cloner.callers import ANYBODY, Caller
from cloner.engine import domainxml
from cloner.engine.job import Job
from cloner.engine.plan import DomainPlan
from cloner.hypervisor.infos import domain_info
from cloner.model.accepting import Request, accept
from cloner.model.guests import mac_mark
from cloner.model.limits import Limits
from cloner.model.services import MAC, Services
from cloner.model.storagevolumes import StorageVolumesModel
from cloner.model.usage import writers, written_volumes
from cloner.model.vms import VMsModel
from cloner.plugin import build
from cloner.settings import Settings, demo_uri
from support.running import wait_until

MOUNT = "/plugins/kimchi"
_LISTS = re.compile(r"list|numOf|refresh|getAllDomainStats")


@pytest.fixture
def unfollowed(tmp_path: Path) -> Iterator[Services]:
    """A server's parts, connected, whose inventory does not know yet. No worker runs, so what is accepted waits."""
    services = build(Settings(connect=demo_uri(), state_dir=str(tmp_path)))
    services.connections.start()
    yield services
    services.connections.stop()
    services.journal.close()
    services.lease.release()


@pytest.fixture
def services(unfollowed: Services) -> Iterator[Services]:
    """The same with an inventory that is complete."""
    unfollowed.inventory.start()
    wait_until(lambda: unfollowed.inventory.entries() is not None, 10, "the inventory is complete")
    yield unfollowed
    unfollowed.inventory.stop()


class _Unlisted:
    """Something of libvirt's that fails the test when it, or what it gives out, is asked for a list or a refresh."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        if _LISTS.match(name):
            raise AssertionError(f"{type(self._real).__name__}.{name} was asked for")
        found = getattr(self._real, name)
        if not callable(found):
            return found
        return lambda *args, **kwargs: _guarded(found(*args, **kwargs))


def _guarded(answer: Any) -> Any:
    kinds = (libvirt.virConnect, libvirt.virDomain, libvirt.virStoragePool, libvirt.virStorageVol)
    return _Unlisted(answer) if isinstance(answer, kinds) else answer


def connection(services: Services) -> Any:
    """The only one to the test driver, which makes of each connection a host of its own."""
    assert services.connections._control is not None
    return services.connections._control


@contextmanager
def nothing_listed(services: Services) -> Iterator[None]:
    """While it lasts, a list or a refresh over the connection is an AssertionError."""
    with mock.patch.object(services.connections, "_control", _Unlisted(connection(services))):
        yield


def test_a_list_of_guests_asks_libvirt_nothing(services: Services) -> None:
    """Of a host whose guests are known."""
    model = VMsModel(services)
    with mock.patch.object(services.connections, "_control", None):
        assert [each["name"] for each in model.get_list(ANYBODY)] == ["db", "mail", "web", "win-uefi"]


def test_the_watch_sees_lists_of_a_host_and_of_a_pool(services: Services) -> None:
    with nothing_listed(services):
        for ask in (
            services.host.list_domains,
            services.host.list_pools,
            lambda: services.host.list_volumes("default"),
        ):
            with pytest.raises(AssertionError, match="listAll"):
                ask()
        pool = connection(services).storagePoolLookupByName("default")
        for question in ("listVolumes", "numOfVolumes", "refresh"):
            with pytest.raises(AssertionError, match=f"virStoragePool.{question}"):
                getattr(pool, question)()


@pytest.mark.parametrize("params", [{}, {"name": "copy"}, {"pool": "data"}], ids=["plain", "named", "other-pool"])
def test_accepting_a_clone_of_a_guest_lists_nothing(services: Services, params: dict[str, str]) -> None:
    with nothing_listed(services):
        task = VMsModel(services).clone("web", Request(params, MOUNT, ANYBODY)).tasks[0]
    assert services.journal.task(task.id) == task


@pytest.mark.parametrize("params", [{}, {"name": "copy.qcow2"}, {"pool": "data"}], ids=["plain", "named", "other-pool"])
def test_accepting_a_clone_of_a_volume_lists_nothing(services: Services, params: dict[str, str]) -> None:
    with nothing_listed(services):
        task = StorageVolumesModel(services).clone("default", "web.qcow2", Request(params, MOUNT, ANYBODY)).tasks[0]
    assert services.journal.task(task.id) == task


class _Heard:
    """Something of libvirt's that writes down what it, or what it gives out, is asked over the connection."""

    LOCAL = frozenset({"name", "UUIDString", "ID", "isAlive"})

    def __init__(self, real: Any, questions: list[str]) -> None:
        self._real = real
        self._questions = questions

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        return partial(self._ask, found) if callable(found) else found

    def _ask(self, question: Callable[..., Any], *args: Any) -> Any:
        if question.__name__ not in self.LOCAL:
            self._questions.append(f"{type(self._real).__name__.removeprefix('vir')}.{question.__name__}")
        answer = question(*(getattr(arg, "_real", arg) for arg in args))
        kinds = (libvirt.virConnect, libvirt.virDomain, libvirt.virStoragePool, libvirt.virStorageVol)
        return _Heard(answer, self._questions) if isinstance(answer, kinds) else answer


@contextmanager
def heard(services: Services) -> Iterator[list[str]]:
    """What is asked over the connection while it lasts."""
    questions: list[str] = []
    with mock.patch.object(services.connections, "_control", _Heard(connection(services), questions)):
        yield questions


SOURCE = ["Connect.lookupByName", "Domain.hasManagedSaveImage", "Domain.state", "Domain.XMLDesc"]
DISK = ["Connect.storageVolLookupByPath", "StorageVol.storagePoolLookupByVolume", "StorageVol.XMLDesc"]
POOL = ["StoragePool.info", "StoragePool.XMLDesc"]
ROOM = ["Connect.storagePoolLookupByName", "StoragePool.info"]
FREE_NAME = ["Connect.lookupByName", "Connect.storagePoolLookupByName", "StoragePool.storageVolLookupByName"]


def test_accepting_a_clone_asks_each_question_once(services: Services) -> None:
    with heard(services) as questions:
        VMsModel(services).clone("web", Request({}, MOUNT, ANYBODY))
    assert questions == [*SOURCE, *DISK, *POOL, *FREE_NAME, *ROOM]


def test_before_a_clone_is_defined_its_source_is_asked_once_how_it_is(services: Services) -> None:
    with mock.patch.object(services.executor, "submit") as submitted:
        VMsModel(services).clone("web", Request({}, MOUNT, ANYBODY))
    plan = submitted.call_args.args[1]
    with heard(services) as questions, mock.patch.object(services.host, "define"):
        services.executor._maker._define(Job(1, {}), plan, {}).do()
    assert questions == ["Connect.lookupByUUIDString"]


# --- What is found out before the journal is locked ------------------------------------------------------------------


@contextmanager
def asked_in_the_lock(services: Services) -> Iterator[list[str]]:
    """Names that libvirt is asked for while nobody else can write to the journal."""
    names: list[str] = []
    host, has_domain, has_volume = services.host, services.host.has_domain, services.host.has_volume

    def seen(name: str) -> str:
        names.extend([name] * services.journal._writing.locked())
        return name

    with (
        mock.patch.object(host, "has_domain", side_effect=lambda name: has_domain(seen(name))),
        mock.patch.object(host, "has_volume", side_effect=lambda pool, name: has_volume(pool, seen(name))),
    ):
        yield names


def stamp_of(name: str) -> int:
    return int(re.findall(r"-clone-(\d+)", name)[0])


def cloned(services: Services, **params: Any) -> list[Any]:
    """The plans of the tasks of a clone."""
    return [task.plan for task in VMsModel(services).clone("db", Request(params, MOUNT, ANYBODY)).tasks]


@pytest.mark.parametrize("params", [{}, {"count": 3}, {"count": 2, "dry_run": True}], ids=["one", "batch", "dry-run"])
def test_the_journal_is_not_locked_while_libvirt_is_asked_for_names(services: Services, params: dict[str, Any]) -> None:
    with asked_in_the_lock(services) as names:
        VMsModel(services).clone("web", Request(params, MOUNT, ANYBODY))
        StorageVolumesModel(services).clone("default", "web.qcow2", Request(params, MOUNT, ANYBODY))
    assert names == []


def test_where_another_server_was_faster_names_are_looked_for_anew(services: Services) -> None:
    ahead = services.journal.clock() + 3_600_000_000
    with services.journal.transaction() as transaction:
        assert transaction.claim_stamps(ahead, ahead)
    with asked_in_the_lock(services) as names:
        (first,) = cloned(services)
        assert stamp_of(first["name"]) > ahead
        assert first["name"] in names
        names.clear()
        (second,) = cloned(services)  # from then on this server knows how far the stamps are
        assert stamp_of(second["name"]) > stamp_of(first["name"])
        assert names == []


def test_a_batch_goes_on_in_another_pool_where_the_first_is_full(services: Services) -> None:
    """Names were looked at in the first; in the other they are looked at when it comes to that."""
    room = {"data": 50 << 30, "default": 1 << 40}  # one of its disks has 12 GiB
    with services.journal.transaction() as transaction:
        transaction.promise(1, "data", "somebody else's", 25 << 30)
    with (
        asked_in_the_lock(services) as names,
        mock.patch.object(services.host, "available", side_effect=lambda pool: room[pool.name]),
    ):
        plans = cloned(services, count=4)
    pools = [disk["target"]["pool"] for plan in plans for disk in plan["disks"] if disk["source"]["pool"] == "data"]
    assert pools == ["data", "data", "default", "default"]
    assert [plan["name"] in names for plan in plans] == [False, False, True, True]
    assert len({plan["name"] for plan in plans}) == len(plans)


def test_where_there_is_no_room_for_a_batch_no_names_are_looked_for(services: Services) -> None:
    with (
        mock.patch.object(services.host, "available", return_value=100 << 30),
        mock.patch.object(services.host, "has_domain", return_value=False) as asked,
        pytest.raises(errors.NoRoom),
    ):
        cloned(services, count=1000)
    assert asked.call_count < 20


def test_more_clones_than_a_user_may_have_are_not_looked_for(services: Services) -> None:
    few = replace(services, limits=Limits(running=3))
    user, order = Caller("ann"), VMsModel(few)._order("db", Request({}, MOUNT, ANYBODY))
    with (
        mock.patch.object(services.host, "has_domain", return_value=False) as asked,
        pytest.raises(errors.TooManyRunning),
    ):
        accept(few, Request({"count": 1000}, MOUNT, user), lambda: order)
    assert asked.call_count < 20


def test_of_a_list_that_is_not_known_yet_as_many_guests_are_read_as_are_asked_for(unfollowed: Services) -> None:
    everyone = [guest["name"] for guest in VMsModel(unfollowed).get_list(ANYBODY)]
    with mock.patch("cloner.hypervisor.host.domain_info", wraps=domain_info) as read:
        some = VMsModel(unfollowed).get_list(ANYBODY, after=everyone[0], most=2)
    assert [guest["name"] for guest in some] == everyone[1:3]
    assert read.call_count == 2


# --- MAC addresses ---------------------------------------------------------------------------------------------------


def macs_of(services: Services, name: str) -> list[str]:
    return domainxml.macs(etree.fromstring(services.host.domain(name).xml))


def drawn(mac: str) -> bytes:
    """The random bytes that a MAC address ends in."""
    return bytes.fromhex(mac.replace(":", ""))[3:]


@pytest.mark.parametrize("inventory", ["services", "unfollowed"], ids=["followed", "not-known-yet"])
def test_a_new_mac_is_none_of_the_host_nor_of_a_clone_on_its_way(
    request: pytest.FixtureRequest, inventory: str
) -> None:
    services: Services = request.getfixturevalue(inventory)
    (of_web,), (of_mail,) = macs_of(services, "web"), macs_of(services, "mail")
    reserved, free = f"{of_web[:8]}:01:02:03", f"{of_web[:8]}:04:05:06"
    assert of_mail[:8] == of_web[:8]  # else what is drawn would be another address
    with services.journal.transaction() as transaction:
        assert transaction.reserve(MAC, "", reserved, domain="of a clone on its way")

    draws = [drawn(mac) for mac in (of_web, of_mail, reserved, free)]
    with (
        mock.patch("cloner.model.domainorder.secrets.token_bytes", side_effect=draws),
        mock.patch.object(services.executor, "submit") as submitted,
    ):
        VMsModel(services).clone("web", Request({}, MOUNT, ANYBODY)).tasks[0]

    plan = submitted.call_args.args[1]
    assert isinstance(plan, DomainPlan)
    assert plan.identity.macs == [free]


def test_the_macs_of_two_clones_on_their_way_differ(services: Services) -> None:
    """Neither is defined yet, so that only the journal knows of the first."""
    (of_web,) = macs_of(services, "web")
    first, second = f"{of_web[:8]}:01:02:03", f"{of_web[:8]}:04:05:06"
    with (
        mock.patch("cloner.model.domainorder.secrets.token_bytes", side_effect=[*[drawn(first)] * 2, drawn(second)]),
        mock.patch.object(services.executor, "submit") as submitted,
    ):
        for _ in range(2):
            VMsModel(services).clone("web", Request({}, MOUNT, ANYBODY)).tasks[0]
    assert [call.args[1].identity.macs for call in submitted.call_args_list] == [[first], [second]]


def test_what_the_host_has_is_known_though_the_inventory_is_lost_in_the_next_moment(services: Services) -> None:
    (of_mail,) = macs_of(services, "mail")
    is_taken = services.taken_marks()
    db = services.host.domain("db")
    volume = next(written_volumes(services.host, db))
    with mock.patch.object(services.inventory, "having", return_value=None):
        assert writers(services.inventory, services.host, volume) == {db.uuid}
    services.inventory._lost()
    assert is_taken(mac_mark(of_mail))
    assert not is_taken(mac_mark("52:54:00:01:02:03"))


# --- Refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["<b>", "a>b", "R&D", 'a"b', "a'b", "a;b", "a|b", "a`b", "a$b", "a\\b"])
def test_a_name_that_kimchi_would_act_upon_is_refused_beside_it_alone(services: Services, name: str) -> None:
    for plain, refused in ((False, nullcontext()), (True, pytest.raises(errors.InvalidName))):
        beside = replace(services, plain_names=plain)
        for check in (beside.check_domain_name, beside.check_volume_name):
            with refused:
                check(name)
