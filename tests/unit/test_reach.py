"""What the server can do itself with an image and a pool."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from cloner.engine import reach as module
from cloner.engine.reach import COPY, LIBVIRT, LINKED, REFLINK, reach
from cloner.hypervisor.host import PoolInfo, VolumeInfo


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
    assert set(reach(volume, "raw", pool, is_local=False).refusals) == {REFLINK, COPY}


def test_without_qemu_img_there_is_no_copy(volume: VolumeInfo, pool: PoolInfo) -> None:
    with mock.patch.object(module, "_has_qemu_img", return_value=False):
        assert "qemu-utils" in reach(volume, "raw", pool, is_local=True).refusals[COPY]
    assert COPY not in reach(volume, "raw", pool, is_local=True).refusals


def test_a_symlink_is_not_followed(volume: VolumeInfo, pool: PoolInfo, tmp_path: Path) -> None:
    path = Path(volume.path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert {REFLINK, COPY} <= set(reach(volume, "raw", pool, is_local=True).refusals)


def test_an_image_that_is_more_than_one_file_is_left_to_libvirt(volume: VolumeInfo, pool: PoolInfo) -> None:
    assert set(reach(volume, "vmdk", pool, is_local=True).refusals) == {REFLINK, COPY, LINKED}


def test_a_raw_file_that_is_said_to_be_qcow2_is_not_copied_as_such(volume: VolumeInfo, pool: PoolInfo) -> None:
    refusals = reach(volume, "qcow2", pool, is_local=True).refusals
    assert refusals[COPY] == "its file is no qcow2 image"
    assert LIBVIRT not in refusals
