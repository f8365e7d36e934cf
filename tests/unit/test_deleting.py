"""What is refused or goes wrong at the edges of a clone's life, on libvirt's test driver in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import libvirt
import pytest

from cloner import errors
from cloner.callers import ANYBODY
from cloner.engine import files
from cloner.engine.lease import Lease
from cloner.engine.records import DONE, FINISHED, VOLUME, Clone, Mark
from cloner.engine.transaction import Transaction
from cloner.hypervisor import making
from cloner.hypervisor.making import VolumeMaker
from cloner.model import deletions
from cloner.model.accepting import Request
from cloner.model.deletions import Deletions
from cloner.model.holding import held, refuse_held, release_left
from cloner.model.services import DOMAIN_NAME, VOLUME_NAME, Services
from cloner.model.storagevolumes import StorageVolumesModel
from cloner.model.vms import VMsModel
from support.services import connected


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with connected(tmp_path) as found:
        yield found


def test_a_volume_that_cannot_be_deleted_is_named_and_the_others_go(services: Services) -> None:
    delete = services.host.delete_volume

    def fail_once(pool: str, name: str, path: str) -> bool:
        if pool == "default":
            raise errors.Busy(what="a test")
        return delete(pool, name, path)

    with (
        mock.patch.object(services.host, "delete_volume", side_effect=fail_once),
        pytest.raises(errors.DomainDeletedInPart, match=r"default/db-system\.qcow2"),
    ):
        VMsModel(services).delete("db", ANYBODY, storage=True)
    assert not services.host.has_domain("db")
    assert [volume.name for volume in services.host.list_volumes("data")] == []


def test_a_clone_whose_disk_somebody_has_deleted_leaves_none(services: Services) -> None:
    with services.journal.transaction() as transaction:
        task = transaction.add_task(transaction.new_task_id(), DOMAIN_NAME, "", services.lease.id, {}).id
    storage = [{"pool": "default", "volume": "db-system.qcow2"}]
    services.journal.end(task, FINISHED, "OK", Clone(services.host.domain("db").uuid, "db", 1, storage))
    services.host.delete_volume("default", "db-system.qcow2")
    VMsModel(services).delete("db", ANYBODY)
    assert not services.host.has_domain("db")


def test_a_guest_that_is_still_being_made_is_not_deleted(services: Services) -> None:
    with services.journal.transaction() as transaction:
        transaction.reserve(DOMAIN_NAME, "", "web", task=7)
    with pytest.raises(errors.SourceInUse):
        VMsModel(services).delete("web", ANYBODY)
    assert services.host.has_domain("web")


def test_what_is_held_is_free_again_though_the_journal_was_away_as_that_ended(services: Services) -> None:
    """Nobody could start, delete or clone the guest until the server was started anew."""
    away = errors.JournalUnavailable(cause="a test")
    model, path = VMsModel(services), services.host.volume("default", "web.qcow2").path
    refused = mock.patch.object(services.host, "start", side_effect=errors.Busy(what="a test"))
    for sweeps in (False, True):
        with mock.patch.object(Transaction, "release", side_effect=away), refused, pytest.raises(errors.Busy):
            model.start("web", ANYBODY)
        assert services.journal.image_paths() == {path}
        if sweeps:
            release_left(services)
            assert services.journal.image_paths() == set()
        with held(services, "web", [path], "started", ANYBODY):
            release_left(services)
            with pytest.raises(errors.SourceInUse), held(services, "web", [path], "deleted", ANYBODY):
                pass
            with pytest.raises(errors.SourceInUse), held(services, "web", [path], "deleted", ANYBODY):
                pass
        assert services.journal.image_paths() == set()


def test_what_is_held_is_not_taken_over_while_its_end_waits_for_the_journal(services: Services) -> None:
    """That end freed what the next one held by then: a guest could be cloned whose disks were being deleted."""
    ends, is_held = threading.Event(), threading.Event()

    def hold() -> None:
        with held(services, "web", ["/x"], "started", ANYBODY):
            is_held.set()
            ends.wait(20)

    first = threading.Thread(target=hold)
    first.start()
    assert is_held.wait(20)
    with services.journal.transaction() as transaction:
        ends.set()
        first.join(0.5)  # it comes as far as the journal
        with pytest.raises(errors.SourceInUse):
            refuse_held(services, transaction, "web", ["/x"], "deleted")
    first.join(20)
    with held(services, "web", ["/x"], "deleted", ANYBODY):
        assert services.journal.image_paths() == {"/x"}


def test_what_servers_held_that_died_is_forgotten(services: Services) -> None:
    living = Lease(services.lease._folder)
    with services.journal.transaction() as transaction:
        for server in ("a dead server", living.id):
            transaction.hold([f"/{server}"], server, "deleted")
    release_left(services)
    assert services.journal.image_paths() == {f"/{living.id}"}
    living.release()


def test_a_file_that_cannot_be_removed_keeps_no_other_deletion_from_its_end(services: Services) -> None:
    for uuid in (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2)):
        what = {"server": "a dead server", "volumes": [], "nvram": f"/{uuid}", "file": {"inode": 1, "device": 1}}
        services.journal.removals.begin_deletion(uuid, what)
    with mock.patch.object(files, "remove", side_effect=errors.StepFailed(cause="a test")) as remove:
        Deletions(services).sweep()
    assert remove.call_count == 2
    assert services.journal.removals.deletions() == {}


def test_a_volume_that_libvirt_cannot_look_at_keeps_no_other_deletion_from_its_end(services: Services) -> None:
    """Each minute, for ever. As long as it cannot be told what it is, it stays."""
    for number, name in ((1, "odd.img"), (2, "gone.img")):
        part = {"pool": "default", "name": name, "path": f"/default-pool/{name}", "file": {}, "changed": 1}
        what = {"server": "a dead server", "volumes": [part], "nvram": "", "file": {}}
        services.journal.removals.begin_deletion(f"00000000-0000-4000-8000-00000000000{number}", what)

    def volume(pool: str, name: str) -> None:
        if name == "odd.img":
            raise errors.LibvirtFailed(act="look up a storage volume", cause="a test")
        raise errors.VolumeNotFound(pool=pool, name=name)

    with mock.patch.object(services.host, "volume", side_effect=volume):
        Deletions(services).sweep()
    assert list(services.journal.removals.deletions()) == ["00000000-0000-4000-8000-000000000001"]


def test_a_deletion_whose_guest_stays_is_forgotten_when_libvirt_has_no_more_to_do_for_it(services: Services) -> None:
    """Longer than libvirt has one client wait for another, its own half minute."""
    domain = services.host.domain("db")
    part = {"pool": "default", "name": "db-system.qcow2", "path": "/default-pool/db-system.qcow2", "file": {}}
    what = {"server": "a dead server", "volumes": [part], "nvram": "", "file": {}}
    services.journal.removals.begin_deletion(domain.uuid, what)
    now = 1000.0
    sweeper = Deletions(services, lambda: now)
    for left in ({domain.uuid}, {domain.uuid}, set()):
        sweeper.sweep()
        assert set(services.journal.removals.deletions()) == left
        now += 30.0
    assert services.host.has_volume(services.host.pool("default"), "db-system.qcow2")


def test_how_long_a_guest_stays_is_counted_anew_for_each_deletion(services: Services) -> None:
    """Another server has ended the first."""
    uuid = services.host.domain("db").uuid
    what = {"server": "a dead server", "volumes": [], "nvram": "", "file": {}}
    now = 1000.0
    sweeper = Deletions(services, lambda: now)
    for _ in range(2):
        now += 1000.0
        services.journal.removals.begin_deletion(uuid, what)
        sweeper.sweep()
        assert set(services.journal.removals.deletions()) == {uuid}
        services.journal.removals.end_deletion(uuid)
        sweeper.sweep()


def test_one_server_alone_goes_on_with_a_deletion(services: Services) -> None:
    """Another found a volume held by the first, left it for good, and ended what the first had to try again."""
    uuid, path = "00000000-0000-4000-8000-000000000001", "/default-pool/gone.img"
    part = {"pool": "default", "name": "gone.img", "path": path, "file": {"inode": 1, "device": 1}}
    what = {"server": "a dead server", "volumes": [part], "nvram": "", "file": {}}
    services.journal.removals.begin_deletion(uuid, what)
    other = replace(services, lease=Lease(services.lease._folder))

    def meanwhile(*_: object) -> None:
        Deletions(other).sweep()
        raise errors.Busy(what="a test")

    with mock.patch.object(deletions, "take_back", side_effect=meanwhile):
        Deletions(services).sweep()
    assert set(services.journal.removals.deletions()) == {uuid}
    with mock.patch.object(deletions, "take_back") as take_back:
        Deletions(services).sweep()
    take_back.assert_called_once()
    assert services.journal.removals.deletions() == {}
    other.lease.release()


def test_a_volume_that_libvirt_makes_is_known_as_soon_as_it_is_there(services: Services) -> None:
    """A server that dies before that cannot tell it from another's."""
    source, seen = services.host.volume("default", "web.qcow2"), threading.Event()
    not_yet = errors.VolumeNotFound(pool="", name="")
    maker = VolumeMaker(services.connections, services.host)
    with (
        mock.patch.object(making, "_POLL_S", 3600),
        mock.patch.object(maker, "_copy", side_effect=lambda *_: seen.wait(20)),
        mock.patch.object(services.host, "volume", side_effect=[not_yet, source, source]),
    ):
        maker.create_from(source, "default", "new.img", "", lambda _: seen.set())
    assert seen.is_set()


def test_what_is_read_of_a_host_is_not_kept_as_trees(services: Services) -> None:
    """A tree takes many times what its text takes, and a host may have thousands of guests."""
    domains = services.host.list_domains()
    with mock.patch.object(services.host, "list_domains", return_value=domains):
        assert len(services.guests_now()) == len(domains)
    assert [domain.name for domain in domains if "tree" in vars(domain)] == []


def test_a_clone_of_a_dead_server_whose_pool_is_stopped_hides_no_other(
    services: Services,
) -> None:
    """Where only libvirt sees its volume, whether that is there cannot be told until the pool is started."""
    with services.journal.transaction() as transaction:
        tasks = [
            transaction.add_task(transaction.new_task_id(), VOLUME_NAME, "", "a dead server", {}).id for _ in range(2)
        ]
    made = {"path": "/default-pool/web.qcow2", "type": "file", "file": {}}
    args = {"pool": "default", "name": "web.qcow2", "parents": [], "filled": True}
    services.journal.begin(tasks[0], 1, VOLUME, args, "Copying web.qcow2")
    services.journal.mark(tasks[0], [Mark(1, DONE, made)])
    with mock.patch.object(services.host, "volume", side_effect=errors.PoolInactive(pool="default")):
        found = services.ledger.orphans()
    assert [(task.id, [step.kind for step in steps]) for task, steps in found] == [(tasks[0], [VOLUME]), (tasks[1], [])]


def test_a_volume_that_is_still_being_made_is_not_cloned(services: Services) -> None:
    with services.journal.transaction() as transaction:
        transaction.reserve(VOLUME_NAME, "default", "web.qcow2", task=7)
    with pytest.raises(errors.VolumeNotCloneable, match="still being made"):
        StorageVolumesModel(services).clone("default", "web.qcow2", Request({}, "/p", ANYBODY)).tasks[0]


def test_a_name_must_leave_the_nvram_a_name_of_its_own(services: Services) -> None:
    """`<name>_VARS.fd.new` has 255 bytes at the most."""
    with pytest.raises(errors.InvalidName, match="243 bytes"):
        VMsModel(services).clone("win-uefi", Request({"name": "n" * 244}, "/p", ANYBODY)).tasks[0]
    (task,) = VMsModel(services).clone("win-uefi", Request({"name": "n" * 243}, "/p", ANYBODY)).tasks
    assert task.plan["name"] == "n" * 243


@pytest.mark.parametrize("stamped", [True, False])
def test_without_times_a_stamp_tells_whose_a_volume_is(services: Services, stamped: bool) -> None:
    """The test driver's volumes have none, like Ceph's: the server died while it made one, or somebody else did."""
    with services.journal.transaction() as transaction:
        task = transaction.add_task(transaction.new_task_id(), VOLUME_NAME, "", "a dead server", {})
    args = {"pool": "default", "name": "new.img", "parents": [], "stamped": stamped}
    services.journal.begin(task.id, 1, VOLUME, args, "Making new.img")
    xml = "<volume><name>new.img</name><capacity>1024</capacity></volume>"
    VolumeMaker(services.connections, services.host).create("default", "new.img", xml)
    assert services.host.volume("default", "new.img").changed is None
    services.ledger.recover()
    ended = services.journal.task(task.id)
    assert ended is not None
    assert ended.message.startswith("CLNTASK0004E" if stamped else "CLNTASK0002E"), ended.message
    assert services.host.has_volume(services.host.pool("default"), "new.img") != stamped


def test_a_volume_that_libvirt_makes_while_it_says_that_it_has_caught_up_is_removed(services: Services) -> None:
    """Another of its workers began with that in the same instant."""
    with services.journal.transaction() as transaction:
        task = transaction.add_task(transaction.new_task_id(), VOLUME_NAME, "", "a dead server", {})
    args = {"pool": "default", "name": "new.img", "parents": [], "stamped": True}
    services.journal.begin(task.id, 1, VOLUME, args, "Making new.img")
    asked: list[None] = []

    def make_as_it_is_asked_again(_: libvirt.virConnect) -> str:
        asked.append(None)
        if len(asked) == 2:
            xml = "<volume><name>new.img</name><capacity>1024</capacity></volume>"
            VolumeMaker(services.connections, services.host).create("default", "new.img", xml)
        return ""

    with mock.patch.object(libvirt.virConnect, "getCapabilities", make_as_it_is_asked_again):
        services.ledger.recover()
    assert len(asked) == 2
    assert not services.host.has_volume(services.host.pool("default"), "new.img")
