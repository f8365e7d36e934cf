"""Who needs an image, and who has it open: block devices by all their names, chains as they are written."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest

from cloner import errors
from cloner.engine import files, locks
from cloner.hypervisor.infos import Definition, PoolInfo
from cloner.hypervisor.places import Places
from cloner.model.needs import Needs
from support.running import run
from support.storage import MiB, loop_device, open_in_qemu

XML = "<domain><name>other</name>{more}<os>{os}</os><devices>{disks}</devices></domain>"
DISK = "<disk type='{type}'><driver type='{form}'/><source {attribute}='{path}'/>{more}<target dev='vda'/></disk>"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with loop_device(tmp_path_factory.mktemp("device") / "image", MiB) as found:
        yield found


POOLS = [("pool", "active"), ("stopped", "inactive"), ("gone", "active")]


def needs(
    disks: str = "",
    *,
    os: str = "",
    live: str = "",
    more: str = "",
    is_local: bool = True,
    pools: Sequence[PoolInfo] = (),
    known: Path | None = None,
) -> Needs:
    """What one domain needs; libvirt knows of one volume at most."""
    xml, live_xml = (XML.format(os=os, disks=each, more=more) for each in (disks, live))
    domain = Definition("other", "7", xml, live_xml if live else "")
    host = SimpleNamespace(
        definitions=lambda: [domain],
        list_pools=lambda: pools,
        volume_behind=lambda _: None,
        any_file=lambda _: SimpleNamespace(path=str(known)) if known else None,
        list_volumes=lambda _: [],
    )
    services: Any = SimpleNamespace(host=host, connections=SimpleNamespace(is_local=is_local), places=Places())
    return Needs(services)


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
    assert needs(disk(link)).users(str(path), but="7") == []


def test_chains_are_followed_as_far_as_their_formats_say(tmp_path: Path) -> None:
    base = tmp_path / "base.img"
    base.write_bytes(bytes(MiB))
    top = overlay(tmp_path / "top.qcow2", overlay(tmp_path / "middle.qcow2", base, "raw"), "qcow2")
    assert needs(disk(top, "qcow2")).users(str(base)) == ["other"]
    assert needs(disk(top, "raw")).users(str(base)) == []


@pytest.mark.parametrize(
    "name",
    [
        "file:{0}",
        'json:{{"driver":"raw","file":{{"driver":"file","filename":"{0}"}}}}',
        'json:{{"driver":"raw","file.driver":"file","file.filename":"{0}"}}',
        'json:{{"driver":"qcow2","file.filename":"/nothing","backing":{{"driver":"raw","file":{{"filename":"{0}"}}}}}}',
        'json:{{"driver":"quorum","vote-threshold":1,"children":[{{"file":{{"filename":"file:{0}"}}}}]}}',
        "real/../base.img",
    ],
    ids=["file", "json", "flat json", "json with a backing file", "json with a list", "linked folder"],
)
def test_a_backing_file_is_followed_however_it_is_named(tmp_path: Path, name: str) -> None:
    """Nothing reads what it leads to, so that no name is too odd."""
    base = tmp_path / "deep" / "base.img"
    (tmp_path / "deep" / "folder").mkdir(parents=True)
    (tmp_path / "real").symlink_to(tmp_path / "deep" / "folder")
    base.write_bytes(bytes(MiB))
    middle = overlay(tmp_path / "middle.qcow2", base, "raw")
    top = overlay(tmp_path / "top.qcow2", middle, "qcow2")
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", name.format(base), middle)
    assert needs(disk(top, "qcow2")).users(str(base)) == ["other"]
    assert needs(disk(top, "qcow2")).users(str(tmp_path / "base.img")) == []


def test_a_file_with_an_images_data_is_needed(tmp_path: Path) -> None:
    top, data = tmp_path / "top.qcow2", tmp_path / "data.img"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", top, "1M")
    assert needs(disk(top, "qcow2")).users(str(data)) == ["other"]


@pytest.mark.parametrize(
    "devices",
    [
        "<memory model='nvdimm'><source><path>{0}</path></source></memory>",
        "<filesystem type='file'><source file='{0}'/></filesystem>",
        "<disk type='file'><source file='/top'><dataStore type='file'><source file='{0}'/></dataStore></source></disk>",
    ],
)
def test_a_file_that_a_definition_names_anywhere_is_needed(tmp_path: Path, devices: str) -> None:
    path, link = tmp_path / "a.img", tmp_path / "b.img"
    path.write_bytes(b"x")
    link.hardlink_to(path)
    assert needs(devices.format(link)).users(str(path)) == ["other"]


@pytest.mark.parametrize("argument", ["file={0},if=none", '{{"driver":"file","filename":"{0}"}}', "{0}"])
def test_a_file_that_is_qemus_own_argument_is_needed(tmp_path: Path, argument: str) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(b"x")
    argument = quoteattr(argument.format(path))
    qemu = (
        f"<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value={argument}/></q:commandline>"
    )
    assert needs(more=qemu).users(str(path)) == ["other"]


def test_what_is_only_said_of_a_file_is_no_need(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(b"x")
    said = f"<title>{path}</title><description>{path}</description><metadata><x:x xmlns:x='u:x'>{path}</x:x></metadata>"
    assert needs(more=said).users(str(path)) == []


def test_a_volume_needs_what_it_stands_on_whether_a_guest_has_it_or_not(tmp_path: Path) -> None:
    base, link = tmp_path / "base.img", tmp_path / "link.img"
    base.write_bytes(bytes(MiB))
    link.hardlink_to(base)
    (tmp_path / "pool").mkdir()
    overlay(tmp_path / "pool" / "top.qcow2", base, "raw")
    (tmp_path / "pool" / "other.img").write_bytes(b"x")
    pools = [PoolInfo(name, "", "dir", state, 0, 0, 0, f"{tmp_path}/{name}", {}, True, True) for name, state in POOLS]
    found = needs(pools=pools)
    assert found.overlays(str(link)) == ["pool/top.qcow2"]
    assert found.overlays(f"{tmp_path}/pool/top.qcow2") == found.users(str(base)) == []
    found = needs(pools=pools, known=tmp_path / "pool" / "removed.img")  # and nobody has refreshed the pool since
    assert found.overlays(str(base)) == ["pool/top.qcow2"]


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


@contextmanager
def no_file_left() -> Iterator[None]:
    """Nothing can be opened: as many files are open as may be (RLIMIT_NOFILE)."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = os.open("/", os.O_RDONLY)
    os.close(first_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_who_can_open_no_file_for_now_takes_none_for_not_needed_nor_for_unused(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base.qcow2", tmp_path / "overlay.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay)
    assert needs(disk(overlay, "qcow2")).users(str(base)) == ["other"]
    with open_in_qemu(base, form="qcow2"):
        assert locks.is_open(str(base))
        with no_file_left():
            for ask in (
                lambda: needs(disk(overlay, "qcow2")).users(str(base)),
                lambda: locks.is_open(str(base)),
                lambda: files.look(str(base)),
                lambda: files.reflink_refusal(str(base), str(tmp_path)),
            ):
                with pytest.raises(errors.Busy):
                    ask()
