"""A dry run's plan, held against what then happens, over hundreds of guests, volumes and wishes.

hypothesis makes them up, the same ones each time. What is planned is looked for on the host, not in the answer alone:
the clone's configuration as libvirt has it, its images, and the bytes that they occupy. What a dry run refuses is
refused in the same words for real.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import pytest
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from lxml import etree

from support.guests import Disk, define_guest, inventory, remove_guest
from support.libvirtd import PrivateLibvirtd
from support.running import run
from support.server import Response, Server
from support.storage import (
    KiB,
    MiB,
    allocated,
    image_info,
    make_pool,
    make_qcow2,
    make_raw,
    mounted,
    owned_bytes,
    pool_path,
    remove_pool,
    sha256,
    some_data,
    write_image,
)

GUESTS = 200
VOLUMES = 100
STATED = {".img": "raw", ".qcow2": "qcow2", ".vmdk": "vmdk"}
USB = "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xabcd'/></source></hostdev>"

BUS = {"readonly": "vd", "shareable": "vd", "cdrom": "sd"}
"""Of disks that libvirt does not take on every bus."""

Body = dict[str, Any]

# --- What there is to clone ------------------------------------------------------------------------------------------

PLAIN = ["empty.img", "data.img", "full.img", "data", "empty.qcow2", "data.qcow2", "old.qcow2", "snapshots.qcow2"]
OVERLAYS = ["overlay.qcow2", "on-raw.qcow2", "deep.qcow2", "afar.qcow2"]
ODD = ["astray.qcow2", "link.img", "disk.vmdk", "wrong.img", "loose.img", "missing.img"]
"""Refused, or cloned only into a pool that is named."""

POOLS = ["fast", "default"]
"""On XFS, which shares blocks, and on ext4, which does not."""


@dataclass(frozen=True)
class Drive:
    """A disk of a guest that is made up. Without an image it is an empty CD-ROM drive."""

    image: str
    pool: str
    by_pool: bool
    bus: str
    access: str


@dataclass(frozen=True)
class Made:
    """A guest that is made up. `nvram` is whether there is a file of its UEFI variables, None where it has none."""

    drives: Sequence[Drive]
    floppy: bool
    nvram: bool | None
    hostdev: bool


images = st.sampled_from(PLAIN + PLAIN + OVERLAYS) | st.sampled_from(PLAIN + ODD)
drives = st.builds(
    Drive,
    image=images,
    pool=st.sampled_from(POOLS),
    by_pool=st.booleans(),
    bus=st.sampled_from(["vd", "sd", "hd"]),
    access=st.sampled_from(["", "", "", "", "readonly", "shareable", "cdrom"]),
)
empty = st.builds(Drive, st.just(""), st.just(""), st.just(False), st.just("sd"), st.just("cdrom"))
guests = st.builds(
    Made,
    drives=st.lists(drives | drives | drives | empty, max_size=4),
    floppy=st.sampled_from([False, False, True]),
    nvram=st.sampled_from([None, None, True, False]),
    hostdev=st.sampled_from([False, False, False, True]),
)


def _maybe(**fields: Any) -> st.SearchStrategy[Body]:
    """Bodies with some of the fields: more often left out than not."""
    parts = {
        name: st.none() | values if name == "method" else st.none() | st.none() | values
        for name, values in fields.items()
    }
    return st.fixed_dictionaries(parts).map(
        lambda body: {key: value for key, value in body.items() if value is not None}
    )


COMMON = {
    "method": st.sampled_from(["auto", "reflink", "copy", "linked", "libvirt"]),
    "pool": st.sampled_from([*POOLS, *POOLS, "tight", "asleep", "nope"]),
    "flatten": st.booleans(),
    "bandwidth": st.just(1000),
}
names = st.sampled_from([{}, {}, {"count": 1}, {"count": 3}, {"name": "new"}, {"name": "taken"}, {"name": "a/b"}])
guest_wishes = st.builds(
    lambda one, other: {**one, **other},
    names,
    _maybe(**COMMON, drop_hostdevs=st.booleans(), title=st.just("A <title>"), description=st.just("told & described")),
)
volume_wishes = st.builds(lambda one, other: {**one, **other}, names, _maybe(**COMMON))


@dataclass
class Site:
    """A server on pools that are full of images, and what was found out with it."""

    server: Server
    conn: libvirt.virConnect
    folder: Path
    refused: int = 0
    done: int = 0
    disks: int = 0
    methods: set[str] = field(default_factory=set)

    @property
    def nvram(self) -> Path:
        return self.folder / "nvram"

    def pool(self, name: str) -> Path:
        return pool_path(self.conn.storagePoolLookupByName(name))

    def image(self, drive: Drive) -> Path:
        if drive.image == "loose.img":
            return self.folder / "outside" / drive.image
        return self.pool(drive.pool) / drive.image

    def state(self) -> tuple[set[str], list[Any]]:
        """All that there is, and all that the journal says, but for the proof that it can be written."""
        with closing(sqlite3.connect(self.server.state_dir / "journal.sqlite", timeout=30)) as journal:
            tables = [name for (name,) in journal.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            rows = [
                (table, row)
                for table in tables
                if table != "facts"
                for row in journal.execute(f"SELECT * FROM {table}")  # noqa: S608 - a table of the journal
            ]
        return inventory(self.conn, self.nvram), rows


@pytest.fixture(scope="module")
def site(libvirtd: PrivateLibvirtd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with (
        mounted("xfs") as fast,
        mounted("ext4", 128 * MiB) as plain,
        mounted("ext4") as tight,
        closing(libvirtd.open()) as conn,
    ):
        for name in ("nvram", "outside"):
            (plain / name).mkdir()
            shutil.chown(plain / name, libvirtd.uid, libvirtd.gid)
        pools = [make_pool(conn, "fast", fast / "pool"), make_pool(conn, "default", plain / "pool")]
        pools += [make_pool(conn, "tight", tight / "pool"), make_pool(conn, "asleep", plain / "asleep")]
        try:
            for pool in pools[:2]:
                _fill(pool, plain / "outside")
            make_qcow2(pools[0], "afar.qcow2", MiB, backing=pool_path(pools[1]) / "data.img")
            make_qcow2(pools[1], "afar.qcow2", MiB, backing=pool_path(pools[0]) / "data.img")
            _leave(pools[2], 600 * KiB)
            pools[3].destroy()
            define_guest(conn, "taken")
            make_raw(pools[0], "taken", MiB)
            make_raw(pools[1], "taken", MiB)
            with Server(libvirtd.uri, tmp_path_factory.mktemp("plans") / "state") as server:
                yield Site(server, conn, plain)
        finally:
            for domain in conn.listAllDomains():
                remove_guest(domain)
            for pool in pools:
                remove_pool(pool)


def _fill(pool: libvirt.virStoragePool, outside: Path) -> None:
    """One image of each kind."""
    some = {128 * KiB: some_data(64 * KiB)}
    make_raw(pool, "empty.img", MiB)
    make_raw(pool, "data.img", MiB, some)
    make_raw(pool, "full.img", MiB, {0: some_data(MiB)})
    make_raw(pool, "data", MiB, some)
    make_qcow2(pool, "empty.qcow2", MiB)
    base = Path(make_qcow2(pool, "data.qcow2", MiB, some).path())
    make_qcow2(pool, "old.qcow2", MiB, some, compat="0.10")
    snapshots = Path(make_qcow2(pool, "snapshots.qcow2", MiB, some).path())
    run("qemu-img", "snapshot", "-c", "before", snapshots)
    write_image(snapshots, {512 * KiB: some_data(64 * KiB, 1)})
    overlay = Path(make_qcow2(pool, "overlay.qcow2", MiB, {0: some_data(64 * KiB, 2)}, backing=base).path())
    make_qcow2(pool, "deep.qcow2", MiB, {256 * KiB: some_data(64 * KiB, 3)}, backing=overlay)
    make_qcow2(pool, "on-raw.qcow2", MiB, some, backing=pool_path(pool) / "data.img")
    loose = outside / "loose.img"
    loose.write_bytes(some_data(64 * KiB))
    run("qemu-img", "create", "-q", "-f", "vmdk", pool_path(pool) / "disk.vmdk", "1M")
    run("qemu-img", "create", "-q", "-f", "qcow2", pool_path(pool) / "wrong.img", "1M")
    where = ["-F", "raw", "-b", str(loose), str(pool_path(pool) / "astray.qcow2")]
    run("qemu-img", "create", "-q", "-f", "qcow2", *where, "1M")
    (pool_path(pool) / "link.img").symlink_to(loose)
    pool.refresh()


def _leave(pool: libvirt.virStoragePool, room: int) -> None:
    """Fills a pool's file system but for some bytes."""
    folder = pool_path(pool)
    (folder / "filler").write_bytes(bytes(shutil.disk_usage(folder).free - room))


def _xml(site: Site, drive: Drive, place: int) -> Disk:
    path = site.image(drive) if drive.image else None
    source = (drive.pool, drive.image) if drive.by_pool and drive.image != "loose.img" else path
    stated = STATED.get(path.suffix, "raw") if path else "raw"
    return Disk(
        source,
        f"{BUS.get(drive.access, drive.bus)}{'abcd'[place]}",
        device="cdrom" if drive.access == "cdrom" else "disk",
        format=stated,
        readonly=drive.access == "readonly",
        shareable=drive.access == "shareable" and stated == "raw",  # libvirt takes no other
    )


def _defined(site: Site, made: Made) -> libvirt.virDomain:
    """The guest, which is called web."""
    nvram = None if made.nvram is None else site.nvram / "web_VARS.fd"
    if nvram is not None and made.nvram:
        nvram.write_bytes(some_data(4 * KiB))
    disks = [_xml(site, drive, place) for place, drive in enumerate(made.drives)]
    disks += [Disk(None, "fda", device="floppy")] * made.floppy
    return define_guest(
        site.conn,
        "web",
        disks,
        macs=["52:54:00:12:34:56"],
        nvram=nvram,
        title="The source",
        description="its own",
        devices=USB * made.hostdev,
    )


# --- The plan, and what then happens ---------------------------------------------------------------------------------


def _asked_twice(site: Site, path: str, wishes: Body) -> tuple[Body, list[Body]] | None:
    """A dry run, and the same for real: the plan, and the tasks as they ended; None if both were refused alike."""
    before = site.state()
    seen = site.server.request("POST", f"{path}/clone", {**wishes, "dry_run": True})
    assert site.state() == before, "a dry run writes nothing"
    answer = site.server.request("POST", f"{path}/clone", wishes)
    if seen.status != 200:
        assert (answer.status, answer.json) == (seen.status, seen.json)
        assert seen.status in (400, 404, 409, 507), seen.text
        assert site.state() == before, "nor does what is refused"
        site.refused += 1
        return None
    tasks = _tasks(answer)
    ended = [site.server.request("GET", f"tasks/{task['id']}?wait=60").json for task in tasks]
    assert [(task["status"], task["message"]) for task in ended] == [("finished", "OK")] * wishes.get("count", 1)
    assert [task["disks"] for task in ended] == [task["disks"] for task in tasks]
    site.done += 1
    return seen.json, ended


def _tasks(answer: Response) -> list[Body]:
    assert answer.status == 202, answer.text
    return answer.json.get("tasks", [answer.json])


def _check_plan(site: Site, seen: Body, tasks: Sequence[Body], source: str, wishes: Body) -> None:
    """What was foreseen is what the tasks say, but for the stamps in names; and the bytes add up."""
    assert len(seen["plans"]) == len(tasks)
    assert len({each["name"] for each in [*seen["plans"], *tasks]}) == len(tasks) * (1 if "name" in wishes else 2)
    needed: dict[str, int] = {}
    stem, ending = source, ""
    if tasks[0]["kind"] == "volume":
        stem, ending = source.partition(".")[0], re.escape(Path(tasks[0]["disks"][0]["target"]["name"]).suffix)
    for plan, task in zip(seen["plans"], tasks, strict=True):
        foreseen = json.loads(json.dumps(plan).replace(plan["name"], task["name"]))
        shown = {key: task[key] for key in ("source", "name", "disks", *(["pool"] if "pool" in task else []))}
        assert shown == {key: foreseen[key] for key in shown}
        for each in (plan, task):
            assert re.fullmatch(
                re.escape(wishes["name"]) if "name" in wishes else rf"{stem}-clone-\d{{16}}{ending}", each["name"]
            )
        for disk in task["disks"]:
            if disk["action"] == "clone":
                needed[disk["target"]["pool"]] = needed.get(disk["target"]["pool"], 0) + disk["bytes"]
    assert {name: each["needed"] for name, each in seen["pools"].items()} == needed
    assert all(each["available"] >= each["needed"] for each in seen["pools"].values())


def _check_image(site: Site, disk: Mapping[str, Any], wishes: Body) -> None:
    """The image is of the planned kind and made in the planned way, and occupies no more than that."""
    source, path = Path(disk["source"]["path"]), site.pool(disk["target"]["pool"]) / disk["target"]["name"]
    site.methods.add(disk["method"])
    site.disks += 1
    is_reflink = disk["method"] == "reflink"
    assert (owned_bytes(path) if is_reflink else allocated(path)) <= disk["bytes"], disk
    if disk["target"]["format"] == "qcow2":
        info, was = image_info(path), image_info(source)
        assert info["format"] == "qcow2"
        kept = disk["method"] in ("reflink", "copy") and not (wishes.get("flatten") and "backing-filename" in was)
        backing = was.get("full-backing-filename") if kept else str(source) if disk["method"] == "linked" else None
        assert info.get("full-backing-filename") == backing
        assert len(info.get("snapshots", [])) == (len(was.get("snapshots", [])) if kept else 0)
        note = disk.get("note", "")
        lost = not kept and "snapshots" in was
        assert ("internal snapshots (before)" in note) == lost
        assert ("backing file" in note) == (not kept and backing is None and "backing-filename" in was)
    if disk["method"] in ("reflink", "copy") and not wishes.get("flatten"):
        assert sha256(path) == sha256(source)
    else:
        assert run("qemu-img", "compare", source, path)


def _check_guest(site: Site, plan: Body, task: Body, made: Made, wishes: Body) -> None:
    """The clone has the disks that were planned, and what was wished for."""
    web = etree.fromstring(site.conn.lookupByName("web").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    clone = etree.fromstring(site.conn.lookupByName(task["name"]).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    assert clone.findtext("uuid") == task["uuid"]
    assert (clone.findtext("title"), clone.findtext("description")) == (
        wishes.get("title"),
        wishes.get("description", "its own"),
    )
    assert len(clone.findall("devices/hostdev")) == 0, "one that has any is refused, or goes without"
    planned = {disk["disk"]: disk for disk in task["disks"]}
    assert len(planned) == len(made.drives) + made.floppy == len(clone.findall("devices/disk"))
    for element, was in zip(clone.findall("devices/disk"), web.findall("devices/disk"), strict=True):
        disk, place = planned[element.xpath("string(target/@dev)")], _source(element)
        if disk["action"] == "clone":
            target = disk["target"]
            assert place in (
                {"file": str(site.pool(target["pool"]) / target["name"])},
                {"pool": target["pool"], "volume": target["name"]},
            )
            assert element.xpath("string(driver/@type)") == target["format"]
            _check_image(site, disk, wishes)
        else:
            assert disk["action"] == ("share" if place else "empty")
            assert place == _source(was)
    nvram = clone.findtext("os/nvram")
    assert nvram == (None if made.nvram is None else str(site.nvram / f"{task['name']}_VARS.fd"))
    if made.nvram:
        assert nvram is not None
        assert nvram == plan["nvram"]["target"].replace(plan["name"], task["name"])
        assert Path(nvram).read_bytes() == Path(plan["nvram"]["source"]).read_bytes()
    else:  # what the source has not yet cannot be copied, and stays missing
        assert plan["nvram"] is None
        assert nvram is None or not Path(nvram).exists()
    assert (plan["tpm"], plan["start"]) == (False, False)


def _source(disk: Any) -> dict[str, str]:
    source = disk.find("source")
    return {} if source is None else {key: source.get(key) for key in ("file", "pool", "volume") if source.get(key)}


def _take_away(site: Site, tasks: Sequence[Body]) -> None:
    for task in tasks:
        if task["kind"] == "domain":
            assert site.server.request("DELETE", f"vms/{task['name']}").status == 204
        else:
            site.conn.storagePoolLookupByName(task["pool"]).storageVolLookupByName(task["name"]).delete()
        assert site.server.request("DELETE", f"tasks/{task['id']}").status == 204


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, print_blob=True, phases=[Phase.generate, Phase.shrink]
    )


def test_what_is_planned_for_a_guest_is_what_happens(site: Site, record_property: Any) -> None:
    @_settings(GUESTS)
    @given(guests, guest_wishes)
    def holds(made: Made, wishes: Body) -> None:
        note(f"{made}\n{wishes}")
        domain = _defined(site, made)
        before = inventory(site.conn, site.nvram)
        try:
            outcome = _asked_twice(site, "vms/web", wishes)
            if outcome is not None:
                seen, tasks = outcome
                _check_plan(site, seen, tasks, "web", wishes)
                for plan, task in zip(seen["plans"], tasks, strict=True):
                    _check_guest(site, plan, task, made, wishes)
                _take_away(site, tasks)
            assert inventory(site.conn, site.nvram) == before
        finally:
            remove_guest(domain)

    _run(site, holds, record_property)


def test_what_is_planned_for_a_volume_is_what_happens(site: Site, record_property: Any) -> None:
    @_settings(VOLUMES)
    @given(st.sampled_from(POOLS), images, volume_wishes)
    def holds(pool: str, image: str, wishes: Body) -> None:
        note(f"{pool}/{image}\n{wishes}")
        before = inventory(site.conn)
        outcome = _asked_twice(site, f"storagepools/{pool}/storagevolumes/{image}", wishes)
        if outcome is not None:
            seen, tasks = outcome
            _check_plan(site, seen, tasks, image, wishes)
            for task in tasks:
                _check_image(site, task["disks"][0], wishes)
            _take_away(site, tasks)
        assert inventory(site.conn) == before

    _run(site, holds, record_property)


def _run(site: Site, holds: Any, record_property: Any) -> None:
    """Nothing is shown by what is always refused, or always done in one way."""
    site.refused = site.done = site.disks = 0
    site.methods = set()
    holds()
    for name in ("refused", "done", "disks"):
        record_property(name, getattr(site, name))
    assert min(site.refused, site.done) >= 20
    assert site.methods == {"reflink", "copy", "linked", "libvirt"}
