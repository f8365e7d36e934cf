"""Pools and volumes that go, or cannot be looked at any more, between two of libvirt's answers about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from cloner import errors
from cloner.model.needs import Needs
from cloner.model.services import Services
from cloner.model.storagepools import StoragePoolsModel
from cloner.model.storagevolumes import StorageVolumesModel
from support.guests import define_guest
from support.libvirtd import PrivateLibvirtd
from support.services import server_parts
from support.storage import MiB, make_qcow2, make_raw, pool_path, remove_pool


@pytest.fixture
def services(libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, tmp_path: Path) -> Iterator[Services]:
    del conn  # it ends after us
    with server_parts(libvirtd.uri, tmp_path / "state") as parts:
        yield parts


ENDS = pytest.mark.parametrize("end", [libvirt.virStoragePool.destroy, remove_pool])


def ends_at(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any], pool: libvirt.virStoragePool, end: Callable[..., Any]
) -> None:
    """Has a pool end, for real, just before a call of libvirt's is made."""
    kind = getattr(libvirt, call.__qualname__.split(".")[0])

    def late(self: object, *args: object) -> Any:
        monkeypatch.undo()
        end(pool)
        return call(self, *args)

    monkeypatch.setattr(kind, call.__name__, late)


@ENDS
@pytest.mark.parametrize("call", [libvirt.virStorageVol.storagePoolLookupByVolume, libvirt.virStorageVol.XMLDesc])
def test_a_volume_whose_pool_ends_as_it_is_looked_at_is_none_of_an_active_pool(
    services: Services,
    pool: libvirt.virStoragePool,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., Any],
    end: Callable[..., Any],
) -> None:
    path = make_raw(pool, "web.img", MiB).path()
    assert services.host.volume_at(path) is not None
    ends_at(monkeypatch, call, pool, end)
    assert services.host.volume_at(path) is None


def test_a_pool_that_is_stopped_as_its_volumes_are_listed_is_told_as_stopped(
    services: Services, pool: libvirt.virStoragePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_at(monkeypatch, libvirt.virStoragePool.listAllVolumes, pool, libvirt.virStoragePool.destroy)
    with pytest.raises(errors.PoolInactive):
        services.host.list_volumes(pool.name())


@ENDS
def test_a_pool_that_ends_as_pools_are_listed_keeps_no_other_from_the_list(
    services: Services, pool: libvirt.virStoragePool, monkeypatch: pytest.MonkeyPatch, end: Callable[..., Any]
) -> None:
    ends_at(monkeypatch, libvirt.virStoragePool.numOfVolumes, pool, end)
    found = {each["name"]: each["nr_volumes"] for each in StoragePoolsModel(services).get_list()}
    assert found[pool.name()] == 0


def test_a_volume_that_libvirt_may_not_read_any_more_keeps_no_other_from_the_list(
    services: Services, pool: libvirt.virStoragePool
) -> None:
    """So it is with the disks of guests that run, on a file server that takes root for nobody."""
    for name in ("web.img", "db.img"):
        make_raw(pool, name, MiB)
    (pool_path(pool) / "web.img").chmod(0)
    assert [each["name"] for each in StorageVolumesModel(services).get_list(pool.name())] == ["db.img"]
    with pytest.raises(errors.LibvirtFailed):  # who asks what may be deleted is to know of all
        services.host.list_volumes(pool.name())


def test_a_volume_that_libvirt_may_not_read_any_more_keeps_no_other_guest_from_being_deleted(
    services: Services, conn: libvirt.virConnect, pool: libvirt.virStoragePool
) -> None:
    """What it stands on stays all the same, as the server sees its files."""
    base = make_raw(pool, "base.img", MiB)
    for name in ("web", "db"):
        top = make_qcow2(pool, f"{name}.qcow2", MiB, backing=Path(base.path()))
        define_guest(conn, name, [top])
    for path in pool_path(pool).iterdir():
        path.chmod(0)
    needs = Needs(services)
    assert needs.users(base.path()) == ["db", "web"]
    assert needs.overlays(base.path()) == [f"{pool.name()}/{name}.qcow2" for name in ("db", "web")]
