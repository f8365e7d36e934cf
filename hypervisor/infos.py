"""What libvirt tells of a domain, a storage pool and a storage volume, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import libvirt
from lxml import etree

from .xmlparser import parse

SHUT_OFF = "shutoff"
STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: "nostate",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "blocked",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}
POOL_STATES = ("inactive", "initializing", "active", "degraded", "inaccessible")

DOMAIN_XML = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


@dataclass(frozen=True)
class DomainInfo:
    """A domain as it is defined. `xml` is the persistent definition, with its secrets."""

    name: str
    uuid: str
    state: str
    xml: str
    persistent: bool
    autostart: bool
    saved_state: bool
    live_xml: str = ""
    """What it has while it runs, such as a disk that was attached meanwhile; '' while it is off."""

    @property
    def is_off(self) -> bool:
        return self.state == SHUT_OFF  # one that crashed may still have its QEMU (on_crash=preserve)

    @cached_property
    def tree(self) -> etree._Element:
        """Its `xml`, parsed: to be read only."""
        return parse(self.xml)


@dataclass(frozen=True)
class Definition:
    """What a domain consists of: as it is defined, and in `live_xml` as it runs, '' while it is off."""

    name: str
    uuid: str
    xml: str
    live_xml: str = ""


@dataclass(frozen=True)
class PoolInfo:
    """A storage pool. Sizes in bytes; `path` is where its volumes appear, '' where they do not appear as paths."""

    FILE_TYPES: ClassVar[frozenset[str]] = frozenset({"dir", "fs", "netfs", "vstorage"})
    READ_ONLY_TYPES: ClassVar[frozenset[str]] = frozenset({"scsi", "iscsi", "iscsi-direct", "mpath", "gluster"})
    NETWORK_TYPES: ClassVar[frozenset[str]] = frozenset({"rbd", "gluster", "iscsi-direct", "sheepdog"})

    name: str
    uuid: str
    type: str
    state: str
    capacity: int
    allocated: int
    available: int
    path: str
    source: dict[str, str]
    autostart: bool
    persistent: bool
    device: int | None = None
    """Number of the file system that its files lie on, where the server sees that and a clone is to go there."""

    is_read_only: bool = False
    """Whether nothing can be written there: known likewise."""

    @property
    def store(self) -> int | str:
        """What its free bytes are those of: a file system, which other pools may lie on too, or the pool alone."""
        return self.name if self.device is None else self.device

    @property
    def is_active(self) -> bool:
        return self.state not in ("inactive", "inaccessible")

    @property
    def can_create(self) -> bool:
        """Whether libvirt can make volumes in a pool of this type (its storage drivers' createVol), where it lies."""
        return self.type not in self.READ_ONLY_TYPES and not self.is_read_only

    @property
    def volume_type(self) -> str:
        """libvirt's type of what the pool's volumes are: `file`, `block` or `network`."""
        if self.holds_files:
            return "file"
        return "network" if self.type in self.NETWORK_TYPES else "block"

    @property
    def holds_files(self) -> bool:
        """Whether volumes are files, and so have a format; elsewhere they are raw block or network devices."""
        return self.type in self.FILE_TYPES


@dataclass(frozen=True)
class VolumeInfo:
    """A storage volume. Sizes in bytes; `changed` is its file's ctime in µs since 1970, None where there is none."""

    pool: str
    name: str
    path: str
    type: str
    format: str
    capacity: int
    allocation: int
    compat: str | None
    features: tuple[str, ...]
    cluster_size: int | None
    backing: str | None
    encrypted: bool
    changed: int | None
    link: VolumeInfo | None = None
    """The symbolic link by which it was come to, which libvirt takes for a volume as well."""

    @property
    def places(self) -> tuple[str, ...]:
        """How the disk of a domain may name it: by path, by pool and name, or, in Ceph, over the network."""
        by_name = (f"{self.pool}/{self.name}",) if self.pool else ()
        by_link = self.link.places if self.link else ()
        return (self.path if self.type != "network" else f"rbd:{self.path}", *by_name, *by_link)


def domain_info(domain: libvirt.virDomain, *, in_full: bool = True) -> DomainInfo:
    """A domain; not in full, what takes calls to know beside what its clone needs is left False."""
    try:
        saved = bool(domain.hasManagedSaveImage())
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        saved = False
    state = STATES.get(domain.state()[0], "nostate")
    return DomainInfo(
        name=domain.name(),
        uuid=domain.UUIDString(),
        state=state,
        xml=domain.XMLDesc(DOMAIN_XML),
        persistent=in_full and bool(domain.isPersistent()),
        autostart=in_full and bool(domain.autostart()),
        saved_state=saved,
        live_xml=domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE) if in_full and state != SHUT_OFF else "",
    )


def definition(domain: libvirt.virDomain) -> Definition:
    """A domain's definition. Whether it runs is as its handle has it, and takes no call."""
    live = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE) if domain.ID() >= 0 else ""
    return Definition(domain.name(), domain.UUIDString(), domain.XMLDesc(DOMAIN_XML), live)


def pool_info(pool: libvirt.virStoragePool, *, in_full: bool = True) -> PoolInfo:
    """A pool; not in full, what takes calls to know beside what a clone into it needs is left False."""
    state, capacity, allocated, available = pool.info()
    root = parse(pool.XMLDesc(0))
    return PoolInfo(
        name=pool.name(),
        uuid=pool.UUIDString(),
        type=root.get("type", ""),
        state=POOL_STATES[state] if state < len(POOL_STATES) else "inaccessible",
        capacity=capacity,
        allocated=allocated,
        available=available,
        path=root.findtext("target/path") or "",
        source=_source(root),
        autostart=in_full and bool(pool.autostart()),
        persistent=in_full and bool(pool.isPersistent()),
    )


def volume_info(pool: str, volume: libvirt.virStorageVol) -> VolumeInfo:
    """A volume of the pool with this name."""
    root = parse(volume.XMLDesc(0))
    changed = root.findtext("target/timestamps/ctime")  # libvirt 9 gives 0 as time of birth
    form = root.find("target/format")
    return VolumeInfo(
        pool=pool,
        name=volume.name(),
        path=root.findtext("target/path") or volume.path(),
        type=root.get("type") or "file",
        format="raw" if form is None else form.get("type", "raw"),
        capacity=int(root.findtext("capacity", "0")),
        allocation=int(root.findtext("allocation", "0")),
        compat=root.findtext("target/compat"),
        features=tuple(str(feature.tag) for feature in root.iterfind("target/features/*")),
        cluster_size=int(root.findtext("target/clusterSize") or 0) or None,
        backing=root.findtext("backingStore/path"),
        encrypted=root.find("target/encryption") is not None,
        changed=int(float(changed) * 1_000_000) if changed else None,
    )


def _source(pool: etree._Element) -> dict[str, str]:
    """What a pool's volumes come from, in Kimchi's words: host address, path, adapter name."""
    found = {
        "addr": pool.find("source/host[@name]"),
        "path": pool.find("source/dir[@path]"),
        "device": pool.find("source/device[@path]"),
        "name": pool.find("source/adapter[@name]"),
    }
    attribute = {"addr": "name", "path": "path", "device": "path", "name": "name"}
    return {key: str(node.get(attribute[key])) for key, node in found.items() if node is not None}
