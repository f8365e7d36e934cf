"""From the source's XML to the clone's. Pure: text in, text out, and no regular expression on XML.

What a clone has of its own is changed here and nothing else, so that everything that nobody thought of stays as it was.
The elements are described at https://libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lxml import etree

from . import ownership
from .xmltree import Element, parse, remove

KIMCHI_NAMESPACE = "https://github.com/kimchi-project/kimchi"

PAM = "pam"
"""The kind of log-in that users have outside Wok, in the word that Kimchi's metadata and wok.conf have for it."""


@dataclass(frozen=True)
class NetworkSource:
    """An image on the network: `name` is `<Ceph pool>/<image>` for rbd; `hosts` the names of its servers."""

    protocol: str
    name: str
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class ToldChain:
    """Backing files that a domain names itself: QEMU opens these, whatever the image says that it stands on."""

    images: tuple[tuple[str, str | None], ...]
    """Place and format of each, the nearest first."""

    is_whole: bool
    """Whether the last one stands on nothing; else it is the image that says what comes next."""


@dataclass(frozen=True)
class Disk:
    """A `<disk>` of a domain. `path`, `pool` and `volume` are set as far as the disk's type has them."""

    target: str
    device: str
    type: str
    format: str | None
    path: str | None
    pool: str | None
    volume: str | None
    has_source: bool
    readonly: bool
    shareable: bool
    oddity: str | None
    """Something about its source that a plain copy would lose, in words; None for most disks."""

    network: NetworkSource | None = None
    told_chain: ToldChain | None = None
    """None where the image alone says what it stands on."""

    @property
    def is_written(self) -> bool:
        """Whether the guest may write to it, and no other guest should."""
        return self.has_source and not (self.readonly or self.shareable or self.device == "cdrom")

    @property
    def place(self) -> str:
        """What it lies in: a path, `pool/volume`, or `protocol:name`; '' for none.

        A path is as libvirt's volumes have theirs, without what changes nothing (`//`, `/./`).
        """
        if self.path:
            return _plain(self.path)
        if self.volume:
            return f"{self.pool}/{self.volume}"
        return f"{self.network.protocol}:{self.network.name}" if self.network else ""


@dataclass(frozen=True)
class NewSource:
    """Where a cloned disk lies. `type` is libvirt's volume type: `file`, `block` or `network`."""

    type: str
    path: str
    pool: str
    volume: str
    format: str


@dataclass(frozen=True)
class Identity:
    """What makes a clone another domain than its source."""

    name: str
    uuid: str
    genid: str
    macs: Sequence[str]
    """In the order of the source's interfaces that have a MAC."""

    owner: str = ""
    """The user whom it belongs to, and nobody else; '' where it is for whom its source is for."""

    log_in: str = PAM
    """The kind of log-in that knows the user."""


@dataclass(frozen=True)
class Texts:
    """What a person calls a domain; None for what was not asked for."""

    title: str | None = None
    description: str | None = None


def disks(domain: Element) -> list[Disk]:
    return [_disk(node) for node in domain.iterfind("devices/disk")]


def macs(domain: Element) -> list[str]:
    return [node.get("address", "") for node in _mac_nodes(domain)]


def nvram(domain: Element) -> str | None:
    """Path of the file with the guest's UEFI variables; '' when they lie in something that is no file."""
    node = domain.find("os/nvram")
    if node is None:
        return None
    if node.get("type", "file") != "file":
        return ""
    source = node.find("source")
    return (source.get("file") if source is not None else node.text) or None


def chooses_firmware(domain: Element) -> bool:
    """Whether libvirt chooses the UEFI firmware, and with it, until libvirt 9.1, where the variables lie."""
    is_stateless = domain.find("os/loader[@stateless='yes']") is not None  # and so without variables
    return domain.find("os[@firmware='efi']") is not None and not is_stateless


def has_emulated_tpm(domain: Element) -> bool:
    return any(node.get("type") == "emulator" for node in domain.iterfind("devices/tpm/backend"))


def has_kept_tpm(domain: Element) -> bool:
    """Whether libvirt leaves the state of an emulated TPM when the domain is undefined."""
    return domain.find("devices/tpm/backend[@type='emulator'][@persistent_state='yes']") is not None


def access(domain: Element, log_in: str = PAM) -> tuple[list[str], list[str]]:
    """Users and groups that Kimchi's metadata give the guest to, as a kind of log-in knows them.

    Kimchi has them in `access/auth` by that kind, and had those of PAM in `access` itself before there were kinds.
    """
    found: dict[str, list[str]] = {"user": [], "group": []}
    for node in _children(_kimchi_nodes(domain), "access"):
        kinds = _children([node], "auth")
        for kind in ("user", "group"):
            places = [auth for auth in kinds if auth.get("type") == log_in]
            if not kinds and log_in == PAM:
                places = [node]
            texts = ((entry.text or "").strip() for entry in _children(places, kind))
            found[kind] += [text for text in texts if text]
    return found["user"], found["group"]


def _kimchi_nodes(domain: Element) -> list[Element]:
    nodes = (node for node in domain.iterfind("metadata/*") if isinstance(node.tag, str))
    return [node for node in nodes if etree.QName(node).namespace == KIMCHI_NAMESPACE]


def _children(nodes: Iterable[Element], name: str) -> list[Element]:
    """Children of a name. Their namespace makes no difference: Kimchi writes them in none."""
    children = (child for node in nodes for child in node if isinstance(child.tag, str))
    return [child for child in children if etree.QName(child).localname == name]


def clone(
    xml: str,
    identity: Identity,
    sources: Mapping[str, NewSource],
    nvram_path: str | None,
    texts: Texts | None = None,
    *,
    drop_hostdevs: bool = False,
) -> str:
    """The clone's XML.

    Args:
        xml: the source's inactive XML.
        identity: the clone's name, UUID, genid and MACs.
        sources: for each disk that was cloned, by its target, where the clone's lies.
        nvram_path: the clone's own NVRAM, where the source has one.
        texts: title and description, where they were asked for.
        drop_hostdevs: whether devices of the host are left out.
    """
    domain = parse(xml)
    source_name = domain.findtext("name", "")
    _set_identity(domain, identity)
    for tag, text in (("title", texts.title), ("description", texts.description)) if texts else ():
        if text is not None:
            _set_text(domain, tag, text)
    for node in domain.iterfind("devices/disk"):
        target = node.find("target")
        source = sources.get(target.get("dev", "")) if target is not None else None
        if source is not None:
            _set_source(node, source)
    if nvram_path is not None:
        _set_nvram(domain, nvram_path)
    ownership.make_own(domain, source_name, identity.name, identity.uuid, drop_hostdevs=drop_hostdevs)
    return etree.tostring(domain, encoding="unicode")


def _set_identity(domain: Element, identity: Identity) -> None:
    _set_text(domain, "name", identity.name)
    _set_text(domain, "uuid", identity.uuid)
    title = domain.find("title")
    if title is not None:
        remove(title)
    for shown in _children(_kimchi_nodes(domain), "name"):  # by which Kimchi lists a guest that is not called in ASCII
        remove(shown)
    genid = domain.find("genid")
    if genid is not None:
        genid.text = identity.genid
    hwuuid = domain.find("hwuuid")  # what the guest sees in place of the UUID, since libvirt 11.7
    if hwuuid is not None:
        hwuuid.text = identity.uuid
    # libvirt refuses a domain whose SMBIOS UUID is not its own.
    for entry in domain.iterfind("sysinfo/system/entry[@name='uuid']"):
        entry.text = identity.uuid
    for node, mac in zip(_mac_nodes(domain), identity.macs, strict=True):
        node.set("address", mac)
    if identity.owner:
        _give_to(domain, identity.owner, identity.log_in)


def _give_to(domain: Element, user: str, log_in: str) -> None:
    """Has Kimchi's metadata name one user and nobody else, in the form in which Kimchi writes them."""
    nodes = _kimchi_nodes(domain)
    for node in _children(nodes, "access"):
        remove(node)
    if not nodes:
        metadata = domain.find("metadata")
        if metadata is None:
            metadata = etree.SubElement(domain, "metadata")
        kimchi = {"kimchi": KIMCHI_NAMESPACE}
        nodes = [etree.SubElement(metadata, f"{{{KIMCHI_NAMESPACE}}}metadata", nsmap=kimchi)]
    auth = etree.SubElement(etree.SubElement(nodes[0], "access"), "auth", type=log_in)
    etree.SubElement(auth, "user").text = user


def _set_text(domain: Element, tag: str, text: str) -> None:
    node = domain.find(tag)
    if node is None:
        node = etree.SubElement(domain, tag)
    node.text = text


def _set_source(disk: Element, new: NewSource) -> None:
    source = disk.find("source")
    if source is None:
        raise ValueError("a disk without a source has nothing to clone")
    # Its image has no backing file any more, or another one: what the XML knew of the chain is the source's.
    for chain in disk.findall("backingStore"):
        remove(chain)
    if disk.get("type") == "volume":
        source.set("pool", new.pool)
        source.set("volume", new.volume)
        source.attrib.pop("mode", None)  # how an iSCSI pool's LUN is reached; no volume can be made in such a pool
    elif new.type == "network":
        source.set("name", new.path)
    else:
        disk.set("type", new.type)
        for attribute in {"file", "dev", "fdgroup"} & set(source.attrib):  # fdgroup: descriptors of the source's file
            del source.attrib[attribute]
        source.set("dev" if new.type == "block" else "file", new.path)
    _set_format(disk, source, new.format)


def _set_format(disk: Element, source: Element, form: str) -> None:
    """Of a volume libvirt need not say that it is raw, which QEMU takes it for then."""
    driver = disk.find("driver")
    told = driver.get("type") if driver is not None else None
    if form == (told or "raw"):
        return
    if driver is None:
        driver = etree.Element("driver")
        source.addprevious(driver)
    driver.set("type", form)
    if form != "qcow2":  # for which alone libvirt takes these
        driver.attrib.pop("discard_no_unref", None)
        for cache in driver.findall("metadata_cache"):
            remove(cache)


def _set_nvram(domain: Element, path: str) -> None:
    node = domain.find("os/nvram")
    if node is None:
        raise ValueError("a domain without NVRAM has none to replace")
    source = node.find("source")
    if source is not None:
        source.set("file", path)
    else:
        node.text = path


def _mac_nodes(domain: Element) -> Iterator[Element]:
    return domain.iterfind("devices/interface/mac[@address]")


def _disk(node: Element) -> Disk:
    target = node.find("target")
    driver = node.find("driver")
    source = node.find("source")
    place: Mapping[str, str] = dict(source.attrib) if source is not None else {}
    return Disk(
        target=target.get("dev", "") if target is not None else "",
        device=node.get("device", "disk"),
        type=node.get("type", "file"),
        format=driver.get("type") if driver is not None else None,
        path=place.get("file") or place.get("dev"),
        pool=place.get("pool"),
        volume=place.get("volume"),
        has_source=bool(set(place) & {"file", "dev", "dir", "volume", "name", "protocol", "type"}),
        readonly=node.find("readonly") is not None,
        shareable=node.find("shareable") is not None,
        oddity=_oddity(node),
        network=_network(source) if source is not None and "protocol" in place else None,
        told_chain=_told_chain(node),
    )


def _plain(path: str) -> str:
    return "/" + os.path.normpath(path).lstrip("/") if path.startswith("/") else path


def _told_chain(disk: Element) -> ToldChain | None:
    below = disk.find("backingStore")
    if below is None:
        return None
    images: list[tuple[str, str | None]] = []
    while below is not None and len(below):  # an empty one stands for the chain's end
        form, source = below.find("format"), below.find("source")
        images.append((_place(source), form.get("type") if form is not None else None))
        below = below.find("backingStore")
    return ToldChain(tuple(images), below is not None)


def _place(source: Element | None) -> str:
    """Where a backing file lies, as `Disk.place`."""
    if source is None:
        return ""
    path = source.get("file") or source.get("dev")
    if path or not source.get("volume"):
        return _plain(path or "")
    return f"{source.get('pool')}/{source.get('volume')}"


def _network(source: Element) -> NetworkSource:
    hosts = tuple(host.get("name", "") for host in source.iterfind("host"))
    return NetworkSource(source.get("protocol", ""), source.get("name", ""), hosts)


def _oddity(disk: Element) -> str | None:
    below = disk.find("backingStore")
    found = {
        "it is encrypted": disk.find("source/encryption") is not None or disk.find("encryption") is not None,
        "it is a snapshot of its image": disk.find("source/snapshot") is not None,
        "it is a slice of its file": disk.find("source/slices") is not None,
        "it is passed through as a SCSI LUN": disk.get("device") == "lun",
        "its changes lie in a data store of their own": disk.find("source/dataStore") is not None,
        "a backing file of its is encrypted": _has(below, "encryption"),
        "a backing file of its is a slice of a file": _has(below, "slices"),
        "a backing file of its has a data store of its own": _has(below, "dataStore"),
    }
    return next((words for words, is_so in found.items() if is_so), None)


def _has(node: Element | None, tag: str) -> bool:
    return node is not None and node.find(f".//{tag}") is not None
