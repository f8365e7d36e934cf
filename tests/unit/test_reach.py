"""What the server can do itself with an image and a pool."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from cloner.engine import files, qemuimg
from cloner.engine.chain import Chain, Image
from cloner.engine.reach import COPY, LIBVIRT, LINKED, REFLINK, reach
from cloner.engine.survey import Surveyor
from cloner.hypervisor.host import Host
from cloner.hypervisor.infos import PoolInfo, VolumeInfo
from cloner.hypervisor.places import Places
from support.running import run

ALONE = Chain()
ON_BASE = Chain((Image("/base", "raw"),))


@pytest.fixture
def pool(tmp_path: Path) -> PoolInfo:
    sizes = {"capacity": 0, "allocated": 0, "available": 0}
    kinds = {"type": "dir", "state": "active", "source": {}, "autostart": False, "persistent": True}
    return PoolInfo(name="pool", uuid="", path=str(tmp_path), **sizes, **kinds)  # type: ignore[arg-type]


@pytest.fixture
def volume(tmp_path: Path) -> VolumeInfo:
    path = tmp_path / "disk.img"
    path.write_bytes(b"x" * 8192)
    facts = {"type": "file", "format": "raw", "capacity": 8192, "allocation": 8192, "compat": None, "features": ()}
    rest = {"cluster_size": None, "backing": None, "encrypted": False, "changed": None}
    return VolumeInfo(pool="pool", name="disk.img", path=str(path), **facts, **rest)  # type: ignore[arg-type]


def test_what_lies_on_another_host_is_left_to_libvirt(volume: VolumeInfo, pool: PoolInfo) -> None:
    assert set(reach(volume, "raw", pool, ALONE, is_local=False).refusals) == {REFLINK, COPY}


@pytest.mark.parametrize(
    ("is_local", "capacity", "is_refused"), [(False, 1536, True), (False, 4096, False), (True, 1536, False)]
)
def test_an_overlay_that_libvirt_makes_too_large_is_refused_where_nobody_mends_it(
    volume: VolumeInfo, pool: PoolInfo, is_local: bool, capacity: int, is_refused: bool
) -> None:
    with mock.patch.object(files, "can_write", return_value=is_local):
        found = reach(replace(volume, capacity=capacity), "raw", pool, ALONE, is_local=is_local)
    assert (LINKED in found.refusals) is is_refused


def test_a_source_that_can_be_read_is_known_whoever_copies_it(volume: VolumeInfo, pool: PoolInfo) -> None:
    """So that it is noticed when it changes meanwhile."""
    found = reach(volume, "raw", replace(pool, type="logical"), ALONE, is_local=True)
    assert set(found.refusals) == {REFLINK, COPY}
    assert found.facts is not None
    assert found.facts.written == Path(volume.path).stat().st_mtime_ns


def test_without_qemu_img_there_is_no_flat_copy(pool: PoolInfo, volume: VolumeInfo, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    image = replace(volume, name=path.name, path=str(path), format="qcow2")
    with mock.patch.object(qemuimg, "is_installed", return_value=False):
        found = reach(image, "qcow2", pool, ALONE, is_local=True)
    assert "qemu-utils" in found.flat_refusals[COPY]
    assert COPY not in found.refusals
    assert COPY not in reach(image, "qcow2", pool, ALONE, is_local=True).flat_refusals


@pytest.mark.parametrize(("kind", "measured"), [("dir", 1), ("logical", 0)])
def test_what_an_image_takes_unpacked_is_asked_only_where_it_counts(
    pool: PoolInfo, volume: VolumeInfo, tmp_path: Path, kind: str, measured: int
) -> None:
    """A logical volume has its whole size from the start; to read all of an image's tables may take seconds."""
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    host = mock.Mock(spec=Host)
    host.volume.return_value = replace(volume, name=path.name, path=str(path), format="qcow2")
    host.target.return_value = replace(pool, type=kind)
    surveyor = Surveyor(host, is_local=True, is_test=False, places=Places(), max_chain=9)
    with mock.patch.object(qemuimg, "measure", return_value=1) as measure:
        surveyor.volume("pool", path.name, None, LIBVIRT)
    assert measure.call_count == measured


def test_a_symlink_is_not_followed(volume: VolumeInfo, pool: PoolInfo, tmp_path: Path) -> None:
    path = Path(volume.path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert {REFLINK, COPY} <= set(reach(volume, "raw", pool, ALONE, is_local=True).refusals)


def test_an_image_that_is_more_than_one_file_is_left_to_libvirt(volume: VolumeInfo, pool: PoolInfo) -> None:
    assert set(reach(volume, "vmdk", pool, ALONE, is_local=True).refusals) == {REFLINK, COPY, LINKED}


def test_a_raw_file_that_is_said_to_be_qcow2_is_not_copied_as_such(volume: VolumeInfo, pool: PoolInfo) -> None:
    refusals = reach(volume, "qcow2", pool, ALONE, is_local=True).refusals
    assert refusals[COPY] == "its file is no qcow2 image"
    assert LIBVIRT not in refusals


def test_a_chain_that_leaves_the_pools_is_not_followed_by_libvirt_or_qemu(volume: VolumeInfo, pool: PoolInfo) -> None:
    """Its file as it is can be copied all the same: nobody reads what it stands on for that."""
    led_away = Chain((Image("/etc/shadow", "raw"),), problem="its backing file /etc/shadow is no volume")
    found = reach(volume, "raw", pool, led_away, is_local=True)
    assert found.refusals[LIBVIRT] == found.refusals[LINKED] == led_away.problem
    assert COPY not in found.refusals
    assert {REFLINK, COPY, LINKED, LIBVIRT} == set(found.flat_refusals)


@pytest.mark.parametrize(("allowed", "is_refused"), [(1, True), (2, False)])
def test_a_linked_clone_stands_on_so_many_and_no_more(
    volume: VolumeInfo, pool: PoolInfo, allowed: int, is_refused: bool
) -> None:
    refusals = reach(volume, "raw", pool, ON_BASE, is_local=True, max_chain=allowed).refusals
    assert (LINKED in refusals) == is_refused
    assert not is_refused or "would stand on 2 backing files, and max_chain allows 1" in refusals[LINKED]


@pytest.mark.parametrize(
    ("of_volume", "of_pool", "name", "is_refused"),
    [
        ("network", "rbd", "pool", False),
        ("network", "rbd", "other", True),
        ("network", "dir", "other", True),
        ("file", "rbd", "other", True),
        ("block", "dir", "other", False),
    ],
)
def test_an_image_in_ceph_does_not_leave_its_pool(
    volume: VolumeInfo, pool: PoolInfo, of_volume: str, of_pool: str, name: str, is_refused: bool
) -> None:
    """libvirt would look for the source in the pool of the clone."""
    found = reach(replace(volume, type=of_volume), "raw", replace(pool, type=of_pool, name=name), ALONE, is_local=True)
    assert (LIBVIRT in found.refusals) == is_refused
