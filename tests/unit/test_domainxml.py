"""From the source's XML to the clone's: what must be its own is, and everything else is the source's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from cloner.engine import domainxml
from cloner.engine.domainxml import Disk, Identity, NewSource
from cloner.engine.xmltree import parse

UUID = "11f5c8a2-7c1e-4a34-9c3d-5c3c5a1c0001"
GENID = "8f2b1c5e-0d0f-4f53-8b36-1f2c0f4f0002"
OURS = Identity(
    name="web-clone-7",
    uuid="6f1ecb8e-6c61-4d4b-8d52-1a4f5f1a0c11",
    genid="0c9d5c47-4d3a-4a86-a3b7-5f5b3c1e0c12",
    macs=("52:54:00:00:00:01", "00:16:3e:00:00:02", "52:54:00:00:00:03"),
)
NVRAM = "/var/lib/libvirt/qemu/nvram/web-clone-7_VARS.fd"
XML_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"))


def _below(inside: str) -> str:
    """Two backing files, the second with something in its source."""
    last = f"<format type='raw'/><source file='/c'>{inside}</source><backingStore/>"
    return (
        "<backingStore type='file'><format type='qcow2'/><source file='/b'/>"
        f"<backingStore type='file'>{last}</backingStore></backingStore>"
    )


SOURCE = f"""<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name>
  <uuid>{UUID}</uuid>
  <genid>{GENID}</genid>
  <title>The shop's front end</title>
  <description>Debian 12 &amp; nginx, "the old one"; not to be confused with {UUID}</description>
  <metadata>
    <!-- written by Kimchi -->
    <kimchi:kimchi xmlns:kimchi="https://github.com/kimchi-project/kimchi">
      <kimchi:access><kimchi:user>ann</kimchi:user><kimchi:group>web team</kimchi:group></kimchi:access>
      <kimchi:icon>images/icon-debian.png</kimchi:icon>
    </kimchi:kimchi>
    <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
      <libosinfo:os id="http://debian.org/debian/12"/>
    </libosinfo:libosinfo>
  </metadata>
  <memory unit='KiB'>2097152</memory>
  <vcpu placement='static' cpuset='1-4,^3'>2</vcpu>
  <sysinfo type='smbios'>
    <bios><entry name='vendor'>LENOVO</entry></bios>
    <system>
      <entry name='serial'>{UUID}</entry>
      <entry name='uuid'>{UUID}</entry>
    </system>
  </sysinfo>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram>
    <smbios mode='sysinfo'/>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/srv/the shop&apos;s/web.qcow2' startupPolicy='optional'>
        <seclabel model='dac' relabel='no'/>
      </source>
      <backingStore type='file'>
        <format type='qcow2'/>
        <source file='/srv/base.qcow2'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <serial>WEB-1</serial>
      <boot order='1'/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/vg0/web'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='volume' device='disk'>
      <driver name='qemu' type='raw'/>
      <source pool='data' volume='web-data'/>
      <target dev='vdc' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <source file='/srv/debian-12.iso'/>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sdb' bus='sata'/>
      <readonly/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:AA:00:01'/>
      <source network='default'/>
    </interface>
    <interface type='bridge'>
      <source bridge='br0'/>
    </interface>
    <interface type='bridge'>
      <mac address='00:16:3e:aa:00:02'/>
      <source bridge='br0'/>
    </interface>
    <hostdev mode='capabilities' type='net'>
      <source><interface>eth9</interface></source>
    </hostdev>
    <interface type='user'>
      <mac address='52:54:00:aa:00:03'/>
    </interface>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-uuid-in-some-argument={UUID}'/>
  </qemu:commandline>
</domain>
"""

NEW_SOURCES = {
    "vda": NewSource("file", "/pool/o'clock & <co>/web-clone-7-vda.qcow2", "o'clock", "web-clone-7-vda.qcow2", "qcow2"),
    "vdb": NewSource("block", "/dev/vg0/web-clone-7-vdb", "vg0", "web-clone-7-vdb", "raw"),
    "vdc": NewSource("file", "/pool/data/web-clone-7-vdc", "o'clock & <co>", "web-clone-7-vdc", "raw"),
}

CHANGES = {
    "<name>web</name>": "<name>web-clone-7</name>",
    f"<uuid>{UUID}</uuid>": f"<uuid>{OURS.uuid}</uuid>",
    f"<entry name='serial'>{UUID}</entry>": f"<entry name='serial'>{OURS.uuid}</entry>",
    f"<entry name='uuid'>{UUID}</entry>": f"<entry name='uuid'>{OURS.uuid}</entry>",
    f"<genid>{GENID}</genid>": f"<genid>{OURS.genid}</genid>",
    "  <title>The shop's front end</title>\n": "",
    "52:54:00:AA:00:01": OURS.macs[0],
    "00:16:3e:aa:00:02": OURS.macs[1],
    "52:54:00:aa:00:03": OURS.macs[2],
    "/var/lib/libvirt/qemu/nvram/web_VARS.fd": NVRAM,
    "/srv/the shop&apos;s/web.qcow2": "/pool/o'clock &amp; &lt;co>/web-clone-7-vda.qcow2".replace("'", "&apos;"),
    "/dev/vg0/web": "/dev/vg0/web-clone-7-vdb",
    "pool='data' volume='web-data'": "pool='o&apos;clock &amp; &lt;co>' volume='web-clone-7-vdc'",
    SOURCE[SOURCE.index("      <backingStore type") : SOURCE.index("      <target dev='vda'")]: "",
}


def canonical(xml: str) -> str:
    """XML without what no reader can tell: the kind of quotes, the order of attributes. White space counts."""
    return str(etree.canonicalize(xml))


def changed(xml: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert xml.count(old) == 1, old
        xml = xml.replace(old, new)
    return xml


def domain(devices: str = "", os: str = "", more: str = "") -> str:
    return f"<domain><name>web</name><uuid>{UUID}</uuid>{more}<os>{os}</os><devices>{devices}</devices></domain>"


def cloned(xml: str, sources: Mapping[str, NewSource] | None = None, nvram: str | None = None) -> str:
    """The clone of a domain that has no MACs."""
    return domainxml.clone(xml, Identity(OURS.name, OURS.uuid, OURS.genid, ()), sources or {}, nvram)


def disk_of(xml: str) -> Disk:
    (disk,) = domainxml.disks(parse(xml))
    return disk


# --- The whole -------------------------------------------------------------------------------------------------------


def test_what_must_be_its_own_is_changed_and_nothing_else() -> None:
    clone = domainxml.clone(SOURCE, OURS, NEW_SOURCES, NVRAM)
    assert canonical(clone) == canonical(changed(SOURCE, CHANGES))


def test_a_domain_that_has_little_gets_nothing_that_it_did_not_have() -> None:
    source = domain("<disk device='cdrom'><target dev='sda'/></disk><interface type='user'/>")
    changes = {"<name>web<": f"<name>{OURS.name}<", f"<uuid>{UUID}<": f"<uuid>{OURS.uuid}<"}
    assert canonical(cloned(source)) == canonical(changed(source, changes))


def test_a_domain_without_a_uuid_gets_one() -> None:
    assert parse(cloned("<domain><name>web</name></domain>")).findtext("uuid") == OURS.uuid


def test_kimchis_metadata_travel() -> None:
    clone = domainxml.clone(SOURCE, OURS, NEW_SOURCES, NVRAM)
    assert domainxml.access(parse(clone)) == (["ann"], ["web team"])


@given(text=XML_TEXT.filter(str.strip))
@settings(deadline=None)
def test_any_text_arrives_as_it_is(text: str) -> None:
    source = domain("<disk><source file='/a'/><target dev='vda'/></disk>", "<nvram>/b</nvram>")
    new = NewSource("file", f"/x/{text}", "pool", text, "raw")
    root = parse(domainxml.clone(source, Identity(text, OURS.uuid, "", ()), {"vda": new}, f"/n/{text}"))
    assert root.findtext("name") == text
    assert domainxml.disks(root)[0].path == f"/x/{text}"
    assert domainxml.nvram(root) == f"/n/{text}"


def test_the_source_cannot_smuggle_xml_in_through_a_name() -> None:
    name = "x</name><devices><disk/></devices><name>"
    root = parse(domainxml.clone(domain(), Identity(name, OURS.uuid, "", ()), {}, None))
    assert root.findtext("name") == name
    assert root.find("devices/disk") is None


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("TOP SECRET")
    entities = f"<!ENTITY file SYSTEM 'file://{tmp_path}/secret'><!ENTITY word 'AB'><!ENTITY words '&word;&word;'>"
    source = f"<!DOCTYPE domain [{entities}]>{domain(more='<description>&file;&words;</description>')}"
    clone = cloned(source)
    assert "SECRET" not in clone
    assert "AB" not in clone.partition("<domain>")[2]


# --- Identity --------------------------------------------------------------------------------------------------------


def test_each_interface_gets_the_mac_at_its_place() -> None:
    root = parse(SOURCE)
    assert domainxml.macs(root) == ["52:54:00:AA:00:01", "00:16:3e:aa:00:02", "52:54:00:aa:00:03"]
    assert domainxml.macs(parse(domainxml.clone(SOURCE, OURS, NEW_SOURCES, NVRAM))) == list(OURS.macs)


@pytest.mark.parametrize("macs", [(), OURS.macs[:2], (*OURS.macs, OURS.macs[0])])
def test_each_interface_needs_a_mac_of_its_own(macs: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="zip"):
        domainxml.clone(SOURCE, Identity(OURS.name, OURS.uuid, OURS.genid, macs), NEW_SOURCES, NVRAM)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<domain>\n\t{}<title>x</title>\n  {}</domain>", "<domain>\n\t{}\n  {}</domain>"),
        ("<domain>\n\t<title>x</title>\n  {}{}</domain>", "<domain>\n  {}{}</domain>"),
        ("<domain>\n\t{}{}\n\t<title>x</title>\n</domain>", "<domain>\n\t{}{}\n</domain>"),
    ],
)
def test_the_title_takes_its_line_with_it(source: str, expected: str) -> None:
    name, uuid = "<name>{}</name>", "<uuid>{}</uuid>"
    clone = cloned(source.format(name.format("web"), uuid.format(UUID)))
    assert clone == expected.format(name.format(OURS.name), uuid.format(OURS.uuid))


def test_an_empty_genid_is_filled() -> None:
    """libvirt makes one up for it, and keeps it from then on."""
    assert parse(cloned(domain(more="<genid/>"))).findtext("genid") == OURS.genid


# --- Disks -----------------------------------------------------------------------------------------------------------

FILE = NewSource("file", "/new/vda.raw", "new", "vda.raw", "raw")
BLOCK = NewSource("block", "/dev/new/vda", "new", "vda", "raw")


@pytest.mark.parametrize(
    ("source", "new", "expected"),
    [
        ("<disk type='file'><source file='/a'/>", FILE, "<disk type='file'><source file='/new/vda.raw'/>"),
        ("<disk type='file'><source file='/a'/>", BLOCK, "<disk type='block'><source dev='/dev/new/vda'/>"),
        ("<disk type='block'><source dev='/dev/a'/>", FILE, "<disk type='file'><source file='/new/vda.raw'/>"),
        ("<disk type='block'><source dev='/dev/a'/>", BLOCK, "<disk type='block'><source dev='/dev/new/vda'/>"),
        ("<disk><source file='/a'/>", FILE, "<disk type='file'><source file='/new/vda.raw'/>"),
        (
            "<disk type='volume'><source pool='old' volume='a'/>",
            BLOCK,
            "<disk type='volume'><source pool='new' volume='vda'/>",
        ),
        (
            "<disk type='volume'><source pool='iscsi' volume='unit:0:0:1' mode='host' startupPolicy='optional'/>",
            FILE,
            "<disk type='volume'><source pool='new' volume='vda.raw' startupPolicy='optional'/>",
        ),
    ],
)
def test_a_cloned_disk_lies_where_its_copy_is(source: str, new: NewSource, expected: str) -> None:
    rest = "<target dev='vda'/></disk>"
    clone = parse(cloned(domain(source + rest), {"vda": new})).find("devices/disk")
    assert clone is not None
    assert canonical(etree.tostring(clone, encoding="unicode")) == canonical(expected + rest)


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        ("<driver name='qemu' type='qcow2' io='native'/>", {"name": "qemu", "type": "raw", "io": "native"}),
        ("<driver name='qemu'/>", {"name": "qemu"}),
    ],
)
def test_a_driver_that_says_a_format_says_the_copys(driver: str, expected: dict[str, str]) -> None:
    source = domain(f"<disk type='file'>{driver}<source file='/a'/><target dev='vda'/></disk>")
    node = parse(cloned(source, {"vda": BLOCK})).find("devices/disk/driver")
    assert node is not None
    assert dict(node.attrib) == expected


def test_a_copy_that_is_raw_has_nothing_of_what_libvirt_takes_for_qcow2_alone() -> None:
    """qemu_validate.c and qemu_domain.c of libvirt: it would not define the clone."""
    cache = "<metadata_cache><max_size unit='bytes'>1048576</max_size></metadata_cache>"
    driver = f"<driver name='qemu' type='qcow2' discard_no_unref='on' io='native'>{cache}</driver>"
    source = domain(f"<disk type='file'>{driver}<source file='/a'/><target dev='vda'/></disk>")
    node = parse(cloned(source, {"vda": BLOCK})).find("devices/disk/driver")
    assert node is not None
    assert (dict(node.attrib), list(node)) == ({"name": "qemu", "type": "raw", "io": "native"}, [])
    kept = parse(cloned(source, {"vda": NewSource("file", "/p/b", "p", "b", "qcow2")})).find("devices/disk/driver")
    assert kept is not None
    assert kept.get("discard_no_unref") == "on"
    assert kept.find("metadata_cache") is not None


@pytest.mark.parametrize("driver", ["", "<driver name='qemu'/>", "<driver name='qemu' type='raw'/>"])
def test_an_overlay_on_a_raw_disk_is_not_read_as_raw(driver: str) -> None:
    """Of a volume libvirt does not write down that QEMU reads it as raw where nobody says otherwise."""
    disk = f"<disk type='volume'>{driver}<source pool='p' volume='v'/><target dev='vda'/></disk>"
    made = parse(cloned(domain(disk), {"vda": NewSource("file", "/p/new.qcow2", "p", "new.qcow2", "qcow2")}))
    assert made.find("devices/disk/driver[@type='qcow2']") is not None


@pytest.mark.parametrize("driver", ["", "<driver name='qemu'/>"])
def test_a_format_that_nobody_told_stays_untold_where_it_stays(driver: str) -> None:
    disk = f"<disk type='volume'>{driver}<source pool='p' volume='v'/><target dev='vda'/></disk>"
    made = parse(cloned(domain(disk), {"vda": NewSource("file", "/p/new.img", "p", "new.img", "raw")}))
    assert made.find("devices/disk/driver[@type]") is None


def test_nothing_of_the_sources_chain_is_left() -> None:
    """What the source's XML knows of backing files is not true of the copy, which has none."""
    chain = "<backingStore type='file'><source file='/base'/><backingStore/></backingStore>"
    source = domain(f"<disk type='file'>{chain}<source file='/a'/><target dev='vda'/></disk>")
    assert "base" not in cloned(source, {"vda": FILE})
    assert "backingStore" not in cloned(source, {"vda": FILE})


def test_a_disk_that_is_not_cloned_keeps_all() -> None:
    chain = "<backingStore type='file'><source file='/base'/></backingStore>"
    other = f"<disk type='file'><source file='/b'/>{chain}<target dev='vdb'/><shareable/></disk>"
    source = domain(f"<disk type='file'><source file='/a'/><target dev='vda'/></disk>{other}")
    kept = parse(cloned(source, {"vda": FILE})).findall("devices/disk")[1]
    assert canonical(etree.tostring(kept, encoding="unicode")) == canonical(other)


def test_a_disk_without_a_source_has_nothing_to_clone() -> None:
    with pytest.raises(ValueError, match="without a source"):
        cloned(domain("<disk type='file'><target dev='vda'/></disk>"), {"vda": FILE})


def test_the_disks_of_a_domain_are_told_apart() -> None:
    found = [(d.target, d.device, d.type, d.format, d.readonly) for d in domainxml.disks(parse(SOURCE))]
    assert found == [
        ("vda", "disk", "file", "qcow2", False),
        ("vdb", "disk", "block", "raw", False),
        ("vdc", "disk", "volume", "raw", False),
        ("sda", "cdrom", "file", None, True),
        ("sdb", "cdrom", "file", None, True),
    ]


@pytest.mark.parametrize(
    ("source", "path", "pool", "volume", "has_source"),
    [
        ('<source file="/a b/it\'s &amp; more.img"/>', "/a b/it's & more.img", None, None, True),
        ("<source dev='/dev/sdb'/>", "/dev/sdb", None, None, True),
        ("<source pool='p' volume='v'/>", None, "p", "v", True),
        ("<source dir='/d'/>", None, None, None, True),
        ("<source protocol='rbd' name='pool/image'><host name='h'/></source>", None, None, None, True),
        ("<source type='pci' namespace='1'><address bus='1'/></source>", None, None, None, True),
        ("<source startupPolicy='optional'/>", None, None, None, False),
        ("<source/>", None, None, None, False),
        ("", None, None, None, False),
    ],
)
def test_where_a_disk_lies(
    source: str, path: str | None, pool: str | None, volume: str | None, has_source: bool
) -> None:
    disk = disk_of(domain(f"<disk>{source}<target dev='vda'/></disk>"))
    assert (disk.path, disk.pool, disk.volume, disk.has_source) == (path, pool, volume, has_source)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("", None),
        ("<backingStore/>", ((), True)),
        (_below(""), ((("/b", "qcow2"), ("/c", "raw")), True)),
        ("<backingStore type='file'><source file='//b/../c'/></backingStore>", ((("/c", None),), False)),
        ("<backingStore type='block'><format type='raw'/><source dev='/d'/></backingStore>", ((("/d", "raw"),), False)),
        ("<backingStore type='volume'><source pool='p' volume='v'/></backingStore>", ((("p/v", None),), False)),
        ("<backingStore type='network'><source protocol='nbd'/></backingStore>", ((("", None),), False)),
        ("<backingStore type='file'><format type='raw'/></backingStore>", ((("", "raw"),), False)),
    ],
)
def test_backing_files_that_a_domain_names_itself(told: str, expected: object) -> None:
    found = disk_of(domain(f"<disk><source file='/a'/>{told}<target dev='vda'/></disk>")).told_chain
    assert (found and (found.images, found.is_whole)) == expected


def test_flags_of_a_disk() -> None:
    assert not disk_of(domain("<disk/>")).readonly
    assert not disk_of(domain("<disk/>")).shareable
    assert disk_of(domain("<disk><readonly/></disk>")).readonly
    assert disk_of(domain("<disk><shareable/></disk>")).shareable


@pytest.mark.parametrize(
    ("disk", "oddity"),
    [
        ("<disk><source file='/a'/><target dev='vda'/></disk>", None),
        ("<disk><source file='/a'><encryption format='luks'/></source></disk>", "encrypted"),
        ("<disk><source file='/a'/><encryption format='qcow'/></disk>", "encrypted"),
        ("<disk><source file='/a'><slices><slice type='storage'/></slices></source></disk>", "slice"),
        ("<disk device='lun'><source dev='/dev/sdb'/></disk>", "LUN"),
        ("<disk><source file='/a'><dataStore type='file'/></source></disk>", "data store"),
        (f"<disk><source file='/a'/>{_below('<encryption/>')}</disk>", "a backing file of its is encrypted"),
        (f"<disk><source file='/a'/>{_below('<slices/>')}</disk>", "slice"),
        (f"<disk><source file='/a'/>{_below('<dataStore/>')}</disk>", "data store"),
        (f"<disk><source file='/a'/>{_below('')}</disk>", None),
    ],
)
def test_what_a_plain_copy_would_lose_is_told(disk: str, oddity: str | None) -> None:
    found = disk_of(domain(disk)).oddity
    assert (oddity in found) if oddity and found else (oddity is found)


# --- Firmware, TPM, access -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("os", "path"),
    [
        ("", None),
        ("<nvram/>", None),
        ("<nvram template='/t'/>", None),
        ("<nvram template='/t'>/a/it's.fd</nvram>", "/a/it's.fd"),
        ("<nvram type='file'><source file='/a/b.fd'/></nvram>", "/a/b.fd"),
        ("<nvram type='block'><source dev='/dev/sdb'/></nvram>", ""),
        ("<nvram type='network'><source protocol='iscsi' name='x'/></nvram>", ""),
    ],
)
def test_where_the_firmwares_variables_lie(os: str, path: str | None) -> None:
    assert domainxml.nvram(parse(domain(os=os))) == path


@pytest.mark.parametrize(
    ("os", "expected"),
    [
        ("<nvram template='/t'>/a.fd</nvram>", "<nvram template='/t'>/new.fd</nvram>"),
        (
            "<nvram type='file' format='qcow2'><source file='/a.fd'><seclabel relabel='no'/></source></nvram>",
            "<nvram type='file' format='qcow2'><source file='/new.fd'><seclabel relabel='no'/></source></nvram>",
        ),
    ],
)
def test_a_clone_has_firmware_variables_of_its_own(os: str, expected: str) -> None:
    node = parse(cloned(domain(os=os), nvram="/new.fd")).find("os/nvram")
    assert node is not None
    assert canonical(etree.tostring(node, encoding="unicode")) == canonical(expected)


def test_firmware_variables_cannot_replace_none() -> None:
    with pytest.raises(ValueError, match="without NVRAM"):
        cloned(domain(), nvram="/new.fd")


@pytest.mark.parametrize(
    ("devices", "emulated"),
    [
        ("", False),
        ("<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>", False),
        ("<tpm><backend type='emulator' version='2.0'/></tpm>", True),
    ],
)
def test_an_emulated_tpm_is_seen(devices: str, emulated: bool) -> None:
    assert domainxml.has_emulated_tpm(parse(domain(devices))) is emulated


def test_the_name_by_which_kimchi_lists_a_guest_is_not_its_clones() -> None:
    """Of a guest that is not called in ASCII: libvirt knows it by another name."""
    form = "<metadata><k:metadata xmlns:k='{}'>{}<access/></k:metadata></metadata>"
    shown = form.format(domainxml.KIMCHI_NAMESPACE, "<name>Müller</name>")
    clone = parse(cloned(domain(more=shown)))
    assert [node.tag for node in clone.iterfind("metadata/*/*")] == ["access"]
    assert clone.findtext("name") == OURS.name


def test_access_is_read_from_kimchis_metadata_alone() -> None:
    other = "<o:x xmlns:o='http://other'><o:user>eve</o:user></o:x>"
    ours = (
        f"<k:kimchi xmlns:k='{domainxml.KIMCHI_NAMESPACE}'><!-- user --><k:access><k:user> ann </k:user><k:user/>"
        "<k:user>bob</k:user><k:group>web</k:group></k:access></k:kimchi>"
    )
    root = parse(domain(more=f"<metadata><!-- ours -->{other}{ours}</metadata>"))
    assert domainxml.access(root) == (["ann", "bob"], ["web"])
    assert domainxml.access(parse(domain())) == ([], [])


KIMCHIS_FORM = (
    f"<metadata><kimchi:metadata xmlns:kimchi='{domainxml.KIMCHI_NAMESPACE}'>"
    "<access><auth type='pam'><user>{}</user></auth></access></kimchi:metadata></metadata>"
)


def given_to(user: str, metadata: str = "", **more: str) -> str:
    """The metadata of a user's clone, in canonical form."""
    source = f"<domain><name>web</name><uuid>{UUID}</uuid>{metadata}</domain>"
    own = Identity("clone", OURS.uuid, OURS.genid, (), owner=user, **more)
    found = parse(domainxml.clone(source, own, {}, None)).find("metadata")
    assert found is not None
    return canonical(etree.tostring(found, encoding="unicode"))


def test_a_users_clone_names_the_user_as_kimchi_would() -> None:
    assert given_to("ann") == given_to("ann", "<metadata/>") == canonical(KIMCHIS_FORM.format("ann"))


def test_it_is_known_by_the_log_in_that_the_user_has() -> None:
    assert given_to("ann", log_in="ldap") == canonical(KIMCHIS_FORM.format("ann").replace("'pam'", "'ldap'"))


@pytest.mark.parametrize(
    "access",
    [
        "<access/>",
        "<access><user>bob</user><group>web</group></access>",
        "<access><auth type='pam'><user>bob</user></auth><auth type='ldap'><user>eve</user></auth></access>",
        "<access><user>bob</user></access><access><group>web</group></access>",
        "<kimchi:access><kimchi:user>bob</kimchi:user></kimchi:access>",
    ],
)
def test_and_nobody_else_whomever_the_source_was_for(access: str) -> None:
    whole = KIMCHIS_FORM.partition("<access>")[0] + access + "</kimchi:metadata></metadata>"
    assert given_to("ann", whole) == canonical(KIMCHIS_FORM.format("ann"))


def test_what_else_kimchi_keeps_there_stays() -> None:
    begin, _, end = KIMCHIS_FORM.format("ann").partition("<access>")
    other = "<os distro='debian' version='12'/>"
    made = given_to("ann", f"{begin}{other}<access><user>bob</user></access></kimchi:metadata></metadata>")
    assert made == canonical(f"{begin}{other}<access>{end}")


@given(XML_TEXT.filter(lambda text: text.strip() == text != ""))
def test_a_users_name_is_text_whatever_it_is(user: str) -> None:
    clone = parse(f"<domain>{given_to(user)}</domain>")
    assert domainxml.access(clone) == ([user], [])
