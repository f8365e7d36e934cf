"""Over the corpus of guests: a clone differs from its source in what docs/API.md publishes, and in nothing else."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from lxml import etree

from cloner import errors
from cloner.engine import domainxml
from cloner.engine.chain import Chain, Image
from cloner.engine.deciding import draft_domain
from cloner.engine.plan import Draft, Wishes
from cloner.engine.reach import Reach
from cloner.engine.survey import SourceDisk, Survey
from cloner.hypervisor.infos import DomainInfo, PoolInfo, VolumeInfo
from cloner.hypervisor.places import Places
from cloner.model.guests import read_guest
from support import corpus
from support.corpus import CASES, Case

GiB = 1 << 30
POOL = PoolInfo("pool", "", "dir", "active", GiB, 0, GiB, "/pool", {}, autostart=True, persistent=True)
each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])

COVERED = [
    "os[not(@firmware)]/nvram[text()]",
    "os/nvram/source/@file",
    "os[@firmware='efi'][not(nvram)]",
    "os[@firmware='efi']/nvram",
    *(f"devices/tpm/backend[@type='{kind}']" for kind in ("emulator", "passthrough", "external")),
    "devices[count(disk) > 26]",
    *(f"devices/disk/target[@bus='{bus}']" for bus in ("virtio", "sata", "scsi", "ide", "usb", "fdc")),
    "devices/controller[@type='scsi'][@model='virtio-scsi']",
    *(f"devices/disk[@device='{device}']" for device in ("disk", "lun")),
    *(f"devices/disk[@device='{device}'][source]" for device in ("cdrom", "floppy")),
    *(f"devices/disk[@device='{device}'][not(source)]" for device in ("cdrom", "floppy")),
    *(f"devices/disk[@type='{kind}']" for kind in ("block", "volume", "dir", "nvme", "vhostuser")),
    *(f"devices/disk/source[@protocol='{name}']" for name in ("rbd", "nbd", "iscsi", "gluster", "https")),
    *(f"devices/hostdev[@type='{kind}']" for kind in ("pci", "usb", "mdev", "scsi", "scsi_host")),
    *(f"devices/interface[@type='{kind}']" for kind in ("bridge", "direct", "ethernet", "hostdev", "network", "user")),
    *(f"devices/interface[@type='{kind}']" for kind in ("client", "mcast", "server", "udp", "vdpa", "vhostuser")),
    *(f"devices/interface/virtualport[@type='{kind}']" for kind in ("openvswitch", "802.1Qbg", "802.1Qbh", "midonet")),
    *(f"devices/interface/source[@mode='{mode}']" for mode in ("bridge", "vepa", "private", "passthrough")),
    *(f"devices/graphics[@{port} > 0]" for port in ("port", "tlsPort", "websocket")),
    *(f"devices/graphics[@type='{kind}']" for kind in ("vnc", "spice", "sdl", "egl-headless", "dbus", "rdp")),
    "devices/graphics[@type='spice']/listen/@socket",
    *(f"devices/serial[@type='{kind}']" for kind in ("file", "unix", "tcp", "udp", "pty", "pipe", "dev", "null")),
    *(f"devices/channel[@type='{kind}']" for kind in ("file", "unix", "tcp", "spicevmc", "spiceport", "qemu-vdagent")),
    *(f"devices/*[@type='{kind}']/source[@mode='connect']" for kind in ("unix", "tcp", "udp")),
    "devices/serial/log/@file",
    *(f"devices/rng/backend[@model='{model}']" for model in ("random", "builtin", "egd")),
    "devices/vsock/cid[@auto='no']",
    "devices/vsock/cid[@auto='yes']",
    *(f"devices/memory[@model='{model}']" for model in ("dimm", "nvdimm", "virtio-pmem", "virtio-mem")),
    "devices/filesystem/source/@socket",
    "devices/audio[@type='file']/@path",
    *(f"sysinfo/*/entry[@name='{name}']" for name in ("uuid", "serial")),
    "sysinfo[@type='fwcfg']",
    "genid",
    "*[namespace-uri()='http://libvirt.org/schemas/domain/qemu/1.0']",
    "metadata/*[namespace-uri()='https://github.com/kimchi-project/kimchi']",
    "metadata/*[namespace-uri()='http://libosinfo.org/xmlns/libvirt/domain/1.0']",
    *("title", "description", "//comment()", "//processing-instruction()"),
    *(f'devices/*/source/@*[contains(., "{character}")]' for character in "'&<"),
    "devices/*/source/@*[contains(., '\"')]",
    *(f"name[text()='{name}']" for name in ("a", "vm", "1")),
    "name[string-length() = 247]",
]


def drafted(case: Case, *, drop_hostdevs: bool) -> Draft:
    """What is planned for a guest whose disks are volumes of a pool, as far as their kind can be."""
    root = case.root
    domain = DomainInfo(root.findtext("name", ""), "", "shutoff", case.xml, True, False, False)
    disks = tuple(
        SourceDisk(disk, volume(disk), 0, {"pool": Reach()}, as_told(disk.told_chain)) for disk in domainxml.disks(root)
    )
    refusal = (
        "its NVRAM is not a file: name one in its place" if domainxml.nvram(root) == "" else None
    )  # as the survey finds it
    survey = Survey(disks, {"pool": POOL}, domain, Places(), (refusal,) if refusal else ())
    return draft_domain(survey, Wishes(drop_hostdevs=drop_hostdevs), lambda _pool: 1 << 40)


def as_told(told: domainxml.ToldChain | None) -> Chain:
    """Images that stand on what their guest says."""
    images = told.images if told else ()
    return Chain(tuple(Image(*each) for each in images), volumes=tuple(image_at(place) for place, _ in images))


def image_at(place: str) -> VolumeInfo:
    return VolumeInfo("pool", place, place, "file", "raw", GiB, 0, None, (), None, None, False, None)


def volume(disk: domainxml.Disk) -> VolumeInfo | None:
    if disk.network and disk.network.protocol == "rbd":
        name = disk.network.name
        return VolumeInfo("pool", name, name, "network", "raw", GiB, 0, None, (), None, None, False, None)
    place = disk.path or disk.volume
    if place is None or disk.type not in ("file", "block", "volume"):
        return None
    return replace(image_at(place), format=disk.format or "raw")


def causes(case: Case, *, drop_hostdevs: bool) -> list[str]:
    """Why a guest is not cloned."""
    try:
        drafted(case, drop_hostdevs=drop_hostdevs)
    except (errors.DeviceNotCloneable, errors.DiskNotCloneable) as refusal:
        return str(refusal.data["cause"]).split("; ")
    return []


# --- The corpus ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", COVERED)
def test_the_corpus_has(path: str) -> None:
    assert any(case.root.xpath(path) for case in CASES)


def test_the_guests_of_the_corpus_are_not_each_others() -> None:
    assert len(CASES) >= 30
    marks = Counter(mark for case in CASES for mark in {*case.root.xpath("uuid/text()"), *macs(case)})
    assert marks.most_common(1)[0][1] == 1


def macs(case: Case) -> list[str]:
    return domainxml.macs(case.root)


# --- What changes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "block"])
@each_case
def test_what_changes_is_published_and_all_else_is_the_sources_to_the_byte(case: Case, kind: str) -> None:
    source, clone = case.root, etree.fromstring(corpus.clone(case.xml, 1, kind))
    changes = corpus.changes(source, clone)
    assert [change for change in changes if not corpus.is_published(change, source)] == []
    for added in [change for change in changes if change.node is None]:
        assert (case.name, added.path) == ("minimal", "uuid")
        etree.SubElement(source, added.path).text = clone.findtext(added.path)
    corpus.apply(change for change in changes if change.node is not None)
    assert corpus.canonical(source) == corpus.canonical(clone)


@each_case
def test_what_changes_is_what_the_corpus_says(case: Case) -> None:
    changes = corpus.changes(case.root, etree.fromstring(corpus.clone(case.xml, 1)))
    assert Counter(change.path for change in changes) == case.changed


def test_all_that_is_published_changes_somewhere() -> None:
    changed = set()
    for case in CASES:
        for kind, owner in (("file", ""), ("block", ""), ("file", "ann")):
            source = case.root
            found = corpus.changes(source, etree.fromstring(corpus.clone(case.xml, 1, kind, owner)))
            changed |= {path for path in corpus.published() if any(corpus.is_by(path, each, source) for each in found)}
    console = re.compile(r"devices/(serial|parallel|console|channel|smartcard|redirdev)\b")
    unseen = {console.sub("devices/CONSOLE", path) for path in set(corpus.published()) - changed}
    assert unseen <= {console.sub("devices/CONSOLE", path) for path in changed}


@each_case
def test_a_clone_of_a_clone_is_one_of_its_source(case: Case) -> None:
    """What is changed once can be changed again: nothing is lost on the way but what the first clone lost."""
    first = corpus.clone(case.xml, 1)
    again = corpus.changes(etree.fromstring(first), etree.fromstring(corpus.clone(first, 2)))
    assert {change.path for change in again} <= set(case.changed)


# --- A user's clone --------------------------------------------------------------------------------------------------

(ACCESS,) = [path for path in corpus.published() if "local-name()='access'" in path]


def remove(node: etree._Element) -> None:
    parent = node.getparent()
    assert parent is not None
    parent.remove(node)


@each_case
def test_a_users_clone_is_that_users_alone_and_in_all_else_as_an_admins(case: Case) -> None:
    admins, users = (etree.fromstring(corpus.clone(case.xml, 1, owner=owner)) for owner in ("", "ann"))
    assert domainxml.access(admins) == domainxml.access(case.root)
    assert domainxml.access(users) == (["ann"], [])
    for node in (*admins.xpath(ACCESS), *users.xpath(ACCESS)):
        remove(node)
    known = {node.tag for node in admins.iter()}
    for node in users.xpath("metadata/*[not(node())] | metadata[not(*[node()])]"):  # made for it where there was none
        if node.tag not in known:
            remove(node)
    assert corpus.canonical(admins) == corpus.canonical(users)


# --- What is refused -------------------------------------------------------------------------------------------------


@each_case
def test_what_can_only_be_shared_is_refused_with_the_reason(case: Case) -> None:
    assert causes(case, drop_hostdevs=True) == case.refused


@each_case
def test_a_refusal_says_what_to_do(case: Case) -> None:
    assert [cause for cause in causes(case, drop_hostdevs=True) if ": " not in cause] == []


@each_case
def test_devices_of_the_host_are_refused_unless_they_may_be_left_out(case: Case) -> None:
    found = [cause for cause in causes(case, drop_hostdevs=False) if cause not in causes(case, drop_hostdevs=True)]
    owner = "which only one guest can have"
    expected = [f"it has {words}, {owner}" for words in case.dropped]
    assert [cause for cause in found if cause != "drop_hostdevs leaves it out"] == expected


@each_case
def test_the_plan_clones_the_disks_that_the_corpus_clones(case: Case) -> None:
    if not case.refused:
        plan = drafted(case, drop_hostdevs=True)
        assert {copy.item for copy in plan.copies} == set(corpus.new_sources(domainxml.disks(case.root), "x"))


@each_case
def test_an_audit_finds_nothing_that_a_clone_shares(case: Case) -> None:
    if not case.refused:
        xmls = [case.xml, corpus.clone(case.xml, 1), corpus.clone(case.xml, 2)]
        marks = Counter(mark for number, xml in enumerate(xmls) for mark in audited(xml, number))
        assert [mark for mark, owners in marks.items() if owners > 1] == []


def audited(xml: str, number: int) -> frozenset[str]:
    domain = etree.fromstring(xml)
    uuid = domain.findtext("uuid") or f"made-up-{number}"
    return read_guest(DomainInfo(domain.findtext("name", ""), uuid, "shutoff", xml, True, False, False)).marks
