"""Who needs an image, and who has it open: block devices by all their names, chains as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cloner.engine import locks
from cloner.hypervisor.host import SHUT_OFF, DomainInfo
from cloner.hypervisor.places import Places
from cloner.model.needs import Needs
from support.running import run
from support.storage import MiB, loop_device, open_in_qemu

XML = "<domain><name>other</name><os>{os}</os><devices>{disks}</devices></domain>"
DISK = "<disk type='{type}'><driver type='{form}'/><source {attribute}='{path}'/>{more}<target dev='vda'/></disk>"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with loop_device(tmp_path_factory.mktemp("device") / "image", MiB) as found:
        yield found


def needs(disks: str = "", *, os: str = "", live: str = "", but: str = "", is_local: bool = True) -> Needs:
    """What one domain needs."""
    xml, live_xml = (XML.format(os=os, disks=each) for each in (disks, live))
    domain = DomainInfo("other", "7", SHUT_OFF, xml, True, False, False, live_xml if live else "")
    host = SimpleNamespace(list_domains=lambda: [domain], volume_behind=lambda _: None)
    services: Any = SimpleNamespace(host=host, connections=SimpleNamespace(is_local=is_local), places=Places())
    return Needs(services, but)


def disk(path: Path, form: str = "raw", *, kind: str = "file", more: str = "") -> str:
    return DISK.format(type=kind, form=form, attribute="dev" if kind == "block" else "file", path=path, more=more)


def overlay(path: Path, backing: Path, form: str) -> Path:
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", backing, path)
    return path


def names_of(device: Path, folder: Path) -> tuple[Path, Path]:
    """Two names of a device, as LVM gives them."""
    found = folder / "vg" / "lv", folder / "mapper" / "vg-lv"
    for name in found:
        name.parent.mkdir()
        name.symlink_to(device)
    return found


def test_a_block_device_is_the_same_by_all_its_names(device: Path, tmp_path: Path) -> None:
    one, other = names_of(device, tmp_path)
    found = needs(disk(other, kind="block"))
    assert found.users(str(one)) == found.users(str(device)) == ["other"]
    assert found.users(f"{tmp_path}/nothing") == []


def test_a_file_is_the_same_by_all_its_names_only_where_files_are_seen(tmp_path: Path) -> None:
    path, link = tmp_path / "a.img", tmp_path / "b.img"
    path.write_bytes(b"x")
    link.hardlink_to(path)
    assert needs(disk(link)).users(str(path)) == ["other"]
    assert needs(disk(link), is_local=False).users(str(path)) == []
    assert needs(disk(link), but="7").users(str(path)) == []


def test_chains_are_followed_as_far_as_their_formats_say(tmp_path: Path) -> None:
    base = tmp_path / "base.img"
    base.write_bytes(bytes(MiB))
    top = overlay(tmp_path / "top.qcow2", overlay(tmp_path / "middle.qcow2", base, "raw"), "qcow2")
    assert needs(disk(top, "qcow2")).users(str(base)) == ["other"]
    assert needs(disk(top, "raw")).users(str(base)) == []


def test_what_libvirt_tells_of_a_guest_that_runs_is_needed(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("base.img", "under.img", "mirror.img", "vars.fd")]
    for path in paths:
        path.write_bytes(b"x")
    base, under, mirror, variables = paths
    below = f"<backingStore><source file='{base}'/><backingStore><source file='{under}'/></backingStore></backingStore>"
    live = disk(tmp_path / "top.qcow2", "qcow2", more=f"{below}<mirror><source file='{mirror}'/></mirror>")
    found = needs(live=live, os=f"<nvram>{variables}</nvram>")
    assert [found.users(str(path)) for path in paths] == [["other"]] * 4


@pytest.mark.parametrize("kind", ["file", "block"])
def test_an_image_that_a_qemu_has_open_is_known(kind: str, device: Path, tmp_path: Path) -> None:
    path = device if kind == "block" else tmp_path / "a.img"
    if kind == "file":
        path.write_bytes(bytes(MiB))
    assert states(path) == (False, False)
    with open_in_qemu(path):
        assert states(path) == (True, True)
    with open_in_qemu(path, "-r"):
        assert states(path) == (True, False)
    assert states(path) == (False, False)


def test_what_is_no_image_is_open_to_nobody(tmp_path: Path) -> None:
    assert states(tmp_path) == states(tmp_path / "nothing") == states(Path("/dev/null")) == (False, False)


def states(path: Path) -> tuple[bool, bool]:
    return locks.is_open(str(path)), locks.is_written(str(path))
