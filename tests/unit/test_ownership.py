"""What a clone has of its own: it shares no mark with its source nor with another clone, and its paths are sound."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import combinations
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lxml import etree

from cloner.engine import ownership
from cloner.engine.ownership import own_path
from cloner.utils import byte_length
from support import corpus
from support.corpus import CASES, Case, Element

OURS = UUID("6f1ecb8e-6c61-4d4b-8d52-1a4f5f1a0c11")
CLONE = "web-clone-7"
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/\ufffe\uffff"),
    min_size=1,
    max_size=247,
).filter(lambda name: byte_length(name) <= 247 and name not in (".", ".."))
FOLDERS = st.lists(NAMES.filter(lambda name: byte_length(name) < 40), max_size=4).map(
    lambda names: f"/{'/'.join(names)}"
)

WHOLE_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
WHOLE_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
PORTS = ("port", "tlsPort", "websocket", "service", "start", "end", "to")

TAKE_OUT = "which only one guest can have: take it out of the guest first"
CONNECT = "which only one guest can have: have it connect, or take it out of the guest first"
PRIVATE = "say access='private' of it, if the guest need not keep what it writes there, or take it out first"
SHORTER = "name one in a folder with a shorter path"

MAY_BE_SHARED = (
    # Programs, firmware and media that are only read.
    "devices/emulator",
    "os/loader[@readonly='yes' or @type='rom']",
    "os/*[self::kernel or self::initrd or self::dtb]",
    "os/acpi/table",
    "os/*[self::nvram or self::varstore]/@template",
    "devices/disk[readonly or shareable or @device='cdrom']/descendant::*/@*",
    "devices/disk/backingStore/descendant::*/@*",
    "devices/memory[target/readonly or @access='private']/source/path",
    "devices/filesystem/binary/@path",
    "devices/interface/script/@path",
    "sysinfo[@type='fwcfg']/entry/@file",
    # What is there to be shared: folders, and what the host has for everybody.
    "devices/filesystem/*/@dir",
    "devices/shmem/server/@path",
    "devices/graphics/@xauth",
    "devices/graphics/gl/@rendernode",
    "devices/rng/backend[@model='random']",
    "devices/audio/*/@dev",
    "devices/*/source[@path='/dev/null']/@path",
    "blkiotune/device/path",
    "resource/partition",
    # Ports that somebody else listens on, and numbers of ports inside the guest.
    "devices/*/source[@mode='connect']/@service",
    "devices/rng/backend/source[@mode='connect']/@service",
    "devices/interface[@type='mcast' or @type='client']/source/@port",
    "devices/*/target/@port",
    # Where an image on the network is, and how to get at it.
    "devices/disk/source/host/@port",
    "devices/disk/source/config/@file",
    "devices/disk/auth/secret/@uuid",
    # The key of a TPM's state, which a copy of the state has too.
    "devices/tpm/backend/encryption/@secret",
    "devices/*/address/@port",
)


def marks(root: Element) -> set[str]:
    """All in a domain that looks as if no other may have it, wherever it is, but for what may be shared."""
    shared = {place for path in MAY_BE_SHARED for place in places(root, path)}
    return {mark for node, name, mark in looks(root) if (node, name) not in shared}


def places(root: Element, path: str) -> Iterator[tuple[Element, str]]:
    found = root.xpath(path)
    assert isinstance(found, list), path
    for each in found:
        if isinstance(each, Element):
            yield each, ""
        elif isinstance(each, etree._ElementUnicodeResult):
            parent = each.getparent()
            assert parent is not None
            yield parent, str(each.attrname or "")


def looks(root: Element) -> Iterator[tuple[Element, str, str]]:
    """Elements, names of attributes ('' for an element's text), and what they look like."""
    for node in root.iter("{}*"):  # not what lies in other namespaces: nobody knows what it means
        if next(node.iterancestors("metadata"), None) is not None or node.tag in ("title", "description", "name"):
            continue
        for name, value in [("", (node.text or "").strip()), *node.attrib.items()]:
            mark = look(node, str(name), str(value))
            if mark is not None:
                yield node, str(name), mark


def look(node: Element, name: str, value: str) -> str | None:
    of = node.getparent()
    parent = of.tag if of is not None else ""
    looks_like = {
        f"UUID {value.lower()}": WHOLE_UUID.fullmatch(value),
        f"MAC {value.lower()}": WHOLE_MAC.fullmatch(value),
        f"path {value}": value.startswith("/"),
        f"port {value}": name in PORTS and value.isdigit() and int(value) > 0,
        f"CID {value}": (node.tag, name) == ("cid", "address"),
        f"network device {value}": (parent, node.tag, name) == ("interface", "target", "dev"),
        f"volume {node.get('pool')}/{value}": (node.tag, name) == ("source", "volume"),
        f"serial number {value}": (node.tag, name, node.get("name")) == ("entry", "", "serial"),
    }
    return next((mark for mark, is_so in looks_like.items() if is_so), None)


each_that_is_cloned = pytest.mark.parametrize("case", [c for c in CASES if not c.refused], ids=lambda case: case.name)


@each_that_is_cloned
def test_two_clones_and_their_source_share_nothing_that_looks_like_a_mark(case: Case) -> None:
    domains = [case.root, *(etree.fromstring(corpus.clone(case.xml, number)) for number in (1, 2))]
    for one, other in combinations(domains, 2):
        assert marks(one) & marks(other) == set()


def test_a_guest_that_is_refused_would_share_something() -> None:
    """Unseen: NVMe drives, which have an address only, and the socket for which there is no room."""
    refused = [case for case in CASES if case.refused]
    sharing = {case.name for case in refused if marks(case.root) & marks(etree.fromstring(corpus.clone(case.xml, 1)))}
    assert {case.name for case in refused} - sharing == {"nvme", "nvme-readonly", "deep-socket"}


@pytest.mark.parametrize(
    ("xml", "mark"),
    [
        ("<uuid>6F1ECB8E-6c61-4d4b-8d52-1a4f5f1a0c11</uuid>", f"UUID {OURS}"),
        ("<devices><interface><mac address='52:54:00:AA:00:01'/></interface></devices>", "MAC 52:54:00:aa:00:01"),
        ("<os><nvram template='/t'>\n/v\n</nvram></os>", "path /v"),
        ("<devices><any><thing at='/x'/></any></devices>", "path /x"),
        ("<devices><graphics port='5901' tlsPort='-1'/></devices>", "port 5901"),
        ("<devices><vsock><cid address='3'/></vsock></devices>", "CID 3"),
        ("<devices><interface><target dev='tap0'/></interface></devices>", "network device tap0"),
        ("<devices><disk><source pool='p' volume='v'/></disk></devices>", "volume p/v"),
        ("<sysinfo><chassis><entry name='serial'>7</entry></chassis></sysinfo>", "serial number 7"),
    ],
)
def test_a_mark_is_seen(xml: str, mark: str) -> None:
    assert marks(etree.fromstring(f"<domain>{xml}</domain>")) == {mark}


# --- Paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source", "own"),
    [
        ("/log/web.log", "web", "/log/web-clone-7.log"),
        ("/log/web", "web", "/log/web-clone-7"),
        ("/log/web-serial0.log", "web", "/log/web-clone-7-serial0.log"),
        ("/log/serial0.web.log", "web", "/log/serial0.web-clone-7.log"),
        ("/log/serial0.log", "web", "/log/web-clone-7-serial0.log"),
        ("/log/webster.log", "web", "/log/web-clone-7-webster.log"),
        ("/log/cobweb.log", "web", "/log/web-clone-7-cobweb.log"),
        ("/log/cobweb-web.log", "web", "/log/cobweb-web-clone-7.log"),
        ("/web/web/web.web", "web", "/web/web/web-clone-7.web"),
        ("/log/serial.log", "log", "/log/web-clone-7-serial.log"),
        ("/log/www.example.org", "www.example.org", "/log/web-clone-7"),
        ("/log/banana.log", "a", "/log/web-clone-7-banana.log"),
        ("/log/11.1.1", "1", "/log/11.web-clone-7.1"),
        ("/log/мой-сервер.лог", "сервер", "/log/мой-web-clone-7.лог"),
        ("/log/.hidden", "web", "/log/web-clone-7-.hidden"),
    ],
)
def test_the_clones_name_takes_the_place_of_the_sources_where_that_is_a_word(path: str, source: str, own: str) -> None:
    assert own_path(path, source, CLONE, str(OURS)) == own


@given(folder=FOLDERS, name=NAMES, source=NAMES, clones=st.tuples(NAMES, NAMES), is_socket=st.booleans())
@settings(deadline=None)
def test_each_clone_has_a_path_of_its_own_in_the_same_folder(
    folder: str, name: str, source: str, clones: tuple[str, str], is_socket: bool
) -> None:
    path = os.path.join(folder, name)
    assume(len({source, *clones}) == 3)
    own = [own_path(path, source, clone, str(UUID(int=n)), is_socket=is_socket) for n, clone in enumerate(clones)]
    assert len({path, *own}) == 3
    for each in own:
        assert os.path.dirname(each) == os.path.dirname(path)
        assert byte_length(os.path.basename(each)) <= 255
        if is_socket and byte_length(path) <= 107 and byte_length(os.path.dirname(path)) <= 107 - 17:
            assert byte_length(each) <= 107
    assert own[0] == own_path(path, source, clones[0], str(UUID(int=0)), is_socket=is_socket)


@given(folder=FOLDERS, names=st.sets(NAMES, min_size=2, max_size=6), source=NAMES, clone=NAMES)
@settings(deadline=None)
def test_as_many_devices_have_paths_of_their_own_in_the_clone_as_in_the_source(
    folder: str, names: set[str], source: str, clone: str
) -> None:
    assume(source != clone)
    domain = etree.Element("domain")
    devices = etree.SubElement(domain, "devices")
    for name in sorted(names):
        serial = etree.SubElement(devices, "serial", type="unix")
        etree.SubElement(serial, "source", mode="bind", path=os.path.join(folder, name))
    theirs = [node.get("path") for node in devices.iterfind("serial/source")]
    ownership.make_own(domain, source, clone, str(OURS), drop_hostdevs=False)
    ours = [node.get("path") for node in devices.iterfind("serial/source")]
    assert len({*theirs, *ours}) == 2 * len(names)


def test_paths_that_would_become_one_stay_apart() -> None:
    xml = consoles("/log/web-1.log", "/log/1.log")
    first, second = made_own(xml).xpath("devices/serial/source/@path")
    assert first == "/log/web-clone-7-1.log"
    assert re.fullmatch(r"/log/[0-9a-f]{16}\.log", second)


def test_two_sockets_stay_apart_where_a_number_stands_for_each() -> None:
    folder = "/" + "d" * 86
    own = made_own(consoles(f"{folder}/serial-0", f"{folder}/serial-1", kind="unix")).xpath(
        "devices/serial/source/@path"
    )
    assert [re.fullmatch(rf"{folder}/[0-9a-f]{{16}}", path) is not None for path in own] == [True, True]
    assert own[0] != own[1]


def test_no_path_of_the_source_is_taken() -> None:
    """Its files may be named as the clone's would be: it was a clone of that name once."""
    xml = consoles("/log/web.log", f"/log/{CLONE}.log")
    own = made_own(xml).xpath("devices/serial/source/@path")
    assert f"/log/{CLONE}.log" not in own
    assert len(set(own)) == 2


def test_a_serial_port_and_its_console_stay_on_one_path() -> None:
    xml = consoles("/log/web.log").replace(
        "</devices>", "<console type='file'><source path='/log/web.log'/></console></devices>"
    )
    assert made_own(xml).xpath("devices/*/source/@path") == [f"/log/{CLONE}.log"] * 2


def test_a_name_that_is_too_long_for_a_socket_is_not_for_a_log() -> None:
    path = f"{(folder := '/' + 'd' * 80)}/serial0-console.sock"
    (log,) = made_own(consoles(path)).xpath("devices/serial/source/@path")
    (socket,) = made_own(consoles(path, kind="unix")).xpath("devices/serial/source/@path")
    assert log == f"{folder}/{CLONE}-serial0-console.sock"
    assert re.fullmatch(rf"{folder}/[0-9a-f]{{16}}\.sock", socket)


@pytest.mark.parametrize("path", ["/dev/null", "/dev/full"])
def test_beside_a_device_of_the_host_nothing_is_made(path: str) -> None:
    assert made_own(consoles(path)).xpath("devices/serial/source/@path") == [path]
    logged = devices(f"<serial type='pty'><log file='{path}'/></serial>")
    assert made_own(logged).xpath("devices/serial/log/@file") == [path]


def consoles(*paths: str, kind: str = "file") -> str:
    return devices("".join(f"<serial type='{kind}'><source path='{path}'/></serial>" for path in paths))


def devices(xml: str) -> str:
    return f"<domain><name>web</name><devices>{xml}</devices></domain>"


def made_own(xml: str, *, drop_hostdevs: bool = False) -> Element:
    domain = etree.fromstring(xml)
    ownership.make_own(domain, "web", CLONE, str(OURS), drop_hostdevs=drop_hostdevs)
    return domain


# --- Ports and numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "own"),
    [
        ("<graphics port='5901' autoport='no'/>", "<graphics port='-1' autoport='yes'/>"),
        ("<graphics port='5901'/>", "<graphics port='-1' autoport='yes'/>"),
        ("<graphics port='-1' websocket='5700'/>", "<graphics port='-1' websocket='-1' autoport='yes'/>"),
        ("<graphics tlsPort='5902' autoport='no'/>", "<graphics tlsPort='-1' autoport='yes'/>"),
        ("<graphics port='-1' autoport='yes' websocket='-1'/>", None),
        ("<graphics port='0' autoport='no'/>", None),
        ("<graphics type='sdl' display=':0'/>", None),
        ("<vsock><cid auto='no' address='3'/></vsock>", "<vsock><cid auto='yes'/></vsock>"),
        ("<vsock><cid auto='yes'/></vsock>", None),
        ("<vsock/>", None),
        ("<interface><target dev='tap0'/></interface>", "<interface/>"),
        ("<interface><target dev='tap0' managed='no'/></interface>", "<interface/>"),
        ("<interface><portForward proto='tcp'><range start='22' to='2022'/></portForward></interface>", "<interface/>"),
        (
            "<interface><virtualport type='802.1Qbg'><parameters typeid='1' instanceid='x'/></virtualport></interface>",
            "<interface><virtualport type='802.1Qbg'><parameters typeid='1'/></virtualport></interface>",
        ),
        (
            "<serial type='tcp'><source mode='bind' service='4555'/><protocol/><target port='0'/></serial>",
            "<serial type='pty'><target port='0'/></serial>",
        ),
        ("<serial type='tcp'><source mode='connect' service='4555'/></serial>", None),
        ("<channel type='udp'><source mode='bind'/><source mode='connect'/></channel>", "<channel type='pty'/>"),
        ("<channel type='udp'><source mode='connect' service='1'/></channel>", None),
        ("<pstore><path>/nv/web.raw</path><size>8</size></pstore>", "<pstore><size>8</size></pstore>"),
        ("<disk><serial>7</serial><wwn>5000c50015ea71aa</wwn></disk>", None),
        ("<hostdev type='usb'/>", None),
    ],
)
def test_ports_and_numbers(source: str, own: str | None) -> None:
    expected = etree.fromstring(devices(own or source))
    assert corpus.canonical(made_own(devices(source))) == corpus.canonical(expected)


@pytest.mark.parametrize("part", ["system", "baseBoard", "chassis"])
def test_serial_numbers_are_the_clones_uuid(part: str) -> None:
    source = f"<domain><sysinfo type='smbios'><{part}><entry name='serial'>7</entry></{part}></sysinfo></domain>"
    assert made_own(source).xpath("sysinfo/*/entry/text()") == [str(OURS)]


# --- Refusals --------------------------------------------------------------------------------------------------------

OF_THE_HOST = [
    ("<hostdev type='pci'/>", "a pci device of the host"),
    ("<hostdev mode='capabilities' type='storage'/>", "a storage device of the host"),
    ("<interface type='hostdev'/>", "a network device of the host"),
    ("<interface type='vdpa'/>", "a network device of the host"),
    ("<interface type='direct'><source dev='eth0' mode='passthrough'/></interface>", "a network device of the host"),
    ("<tpm><backend type='passthrough'/></tpm>", "the TPM of the host"),
    ("<input type='evdev'/>", "an input device of the host"),
    ("<input type='passthrough'/>", "an input device of the host"),
    ("<serial type='dev'><source path='/dev/ttyS0'/></serial>", "a character device of the host"),
    ("<rng><backend model='egd' type='dev'/></rng>", "a character device of the host"),
]


@pytest.mark.parametrize(("xml", "words"), OF_THE_HOST)
def test_a_device_of_the_host_is_refused_or_left_out(xml: str, words: str) -> None:
    domain = etree.fromstring(devices(f"<!-- before -->{xml}<memballoon/>"))
    (cause,) = ownership.obstacles(domain, drop_hostdevs=False)
    assert cause == f"it has {words}, which only one guest can have; drop_hostdevs leaves it out"
    assert ownership.obstacles(domain, drop_hostdevs=True) == []
    left = made_own(devices(f"<!-- before -->{xml}<memballoon/>"), drop_hostdevs=True)
    assert corpus.canonical(left) == devices("<!-- before --><memballoon></memballoon>")


def test_devices_of_the_host_are_named_once_each_kind() -> None:
    domain = etree.fromstring(devices("".join(xml for xml, _ in OF_THE_HOST) * 2))
    found = ownership.obstacles(domain, drop_hostdevs=False)
    assert len(found) == len(set(found)) == len({words for _, words in OF_THE_HOST})


@pytest.mark.parametrize(
    "xml",
    [
        "<interface type='direct'><source dev='eth0' mode='bridge'/></interface>",
        "<interface type='network'><source network='passthrough'/></interface>",
        "<tpm><backend type='emulator'/></tpm>",
        "<input type='tablet' bus='usb'/>",
        "<serial type='dev'><source path='/dev/null'/></serial>",
        "<rng><backend model='random'>/dev/urandom</backend></rng>",
        "<disk type='file'><source file='/a'/><readonly/></disk>",
        "<disk type='nvme'/>",
        "<interface type='client'><source address='h' port='1'/></interface>",
        "<memory model='nvdimm'><source><path>/a</path></source><target><readonly/></target></memory>",
        "<memory model='nvdimm' access='private'><source><path>/a</path></source><target/></memory>",
        "<memory model='dimm'><target/></memory>",
        f"<serial type='unix'><source mode='bind' path='/{'d' * 89}/s'/></serial>",
        f"<serial type='file'><source path='/{'d' * 104}/s'/></serial>",
    ],
)
def test_this_is_no_obstacle(xml: str) -> None:
    assert ownership.obstacles(etree.fromstring(devices(xml)), drop_hostdevs=False) == []


@pytest.mark.parametrize(
    ("xml", "cause"),
    [
        (
            "<memory model='nvdimm'><source><path>/a</path></source><target/></memory>",
            f"its memory device /a can be written, and would be shared: {PRIVATE}",
        ),
        (
            "<memory model='nvdimm'><source><path>/a</path></source><readonly/></memory>",  # not libvirt's place for it
            f"its memory device /a can be written, and would be shared: {PRIVATE}",
        ),
        ("<lease><key>k</key></lease>", f"it holds the lease k, {TAKE_OUT}"),
        (
            "<disk type='nvme'><shareable/></disk>",
            f"its disk of type nvme is a device of the host, {TAKE_OUT}",
        ),
        (
            "<interface type='server'><source port='5558'/></interface>",
            f"its network device listens on port 5558 of the host, {CONNECT}",
        ),
        (
            "<interface type='udp'><source port='1'><local port='2'/></source></interface>",
            f"its network device listens on port 2 of the host, {CONNECT}",
        ),
        (
            "<rng><backend model='egd' type='tcp'><source mode='bind' service='3'/></backend></rng>",
            f"its random number generator listens on port 3 of the host, {CONNECT}",
        ),
        (
            "<interface><virtualport type='midonet'><parameters interfaceid='x'/></virtualport></interface>",
            f"its network device is the port x of MidoNet, {TAKE_OUT}",
        ),
        (
            "<tpm><backend type='external'/></tpm>",
            "it has an external TPM, whose state cannot be cloned: use an emulated one, or take it out first",
        ),
        (
            f"<serial type='unix'><source mode='bind' path='/{'d' * 90}/s'/></serial>" * 2,
            f"the path of its socket /{'d' * 90}/s leaves no room for another one beside it: {SHORTER}",
        ),
    ],
)
def test_this_is_an_obstacle_whatever_may_be_left_out(xml: str, cause: str) -> None:
    domain = etree.fromstring(devices(xml))
    assert ownership.obstacles(domain, drop_hostdevs=True) == [cause]
    assert ownership.obstacles(domain, drop_hostdevs=False) == [cause]


@pytest.mark.parametrize(
    ("os", "is_refused"),
    [
        ("<loader type='pflash' readonly='yes'>/CODE.fd</loader>", False),
        ("<loader type='pflash' readonly='no'>/one.fd</loader>", True),
        ("<loader type='pflash'>/one.fd</loader>", True),
        ("<loader type='pflash' secure='yes'/>", False),  # libvirt chooses it, and it is one that is only read
        ("<loader type='rom' readonly='no'>/bios.bin</loader>", False),
        ("<loader>/bios.bin</loader>", False),
        ("<varstore template='/t' path='/v'/>", True),
        ("<varstore template='/t'/>", False),
    ],
)
def test_firmware_that_can_be_written_is_not_shared(os: str, is_refused: bool) -> None:
    found = ownership.obstacles(etree.fromstring(f"<domain><os>{os}</os></domain>"), drop_hostdevs=True)
    assert bool(found) is is_refused
