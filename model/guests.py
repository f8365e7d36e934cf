"""A domain in Kimchi's words, and what of it must not be shared: read once from its XML, and kept in the inventory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..callers import Caller
from ..engine import domainxml, ownership
from ..engine.domainxml import Disk
from ..engine.ownfiles import own_files
from ..engine.xmltree import Element, parse
from ..hypervisor.infos import DomainInfo
from ..hypervisor.places import Places

_NOWHERE = Places()
_MIB_PER_UNIT = {"b": 2**-20, "bytes": 2**-20, "KB": 1e3 / 2**20, "k": 2**-10, "KiB": 2**-10, "MB": 1e6 / 2**20}
_MIB_PER_UNIT |= {
    "M": 1,
    "MiB": 1,
    "GB": 1e9 / 2**20,
    "G": 2**10,
    "GiB": 2**10,
    "TB": 1e12 / 2**20,
    "T": 2**20,
    "TiB": 2**20,
}


@dataclass(frozen=True)
class Guest:
    """What is kept of a domain. `storage` has its disks' paths and `pool/volume`s, `marks` what must be its alone."""

    name: str
    uuid: str
    state: str
    resource: dict[str, Any]
    marks: frozenset[str]
    nvram: str | None
    storage: frozenset[str]
    written: frozenset[str]
    """What of its storage it may write to."""

    users: frozenset[str]
    groups: frozenset[str]

    @property
    def is_off(self) -> bool:
        return self.state == "shutoff"

    def is_there_for(self, caller: Caller) -> bool:
        """Whether a caller sees it: everything is there for an admin, for others what names them or their groups."""
        return caller.is_admin or caller.name in self.users or not caller.groups.isdisjoint(self.groups)


def disk_mark(place: str) -> str:
    """A disk that the guest writes to, as a mark, by its place (engine/domainxml.py, Disk.place)."""
    return f"writable disk {place}"


def mac_mark(mac: str) -> str:
    """A MAC address as a mark."""
    return f"MAC {mac.lower()}"


def nvram_mark(path: str) -> str:
    """The file with a guest's UEFI variables, as a mark."""
    return f"NVRAM {path}"


def path_mark(path: str) -> str:
    """A socket, a log or a pipe of a guest's own, as a mark."""
    return f"path {path}"


def _marks(uuid: str, root: Element, nvram: str | None, disks: Sequence[Disk]) -> Iterator[str]:
    """Everything that no two domains should have in common, in words."""
    yield f"UUID {uuid}"
    yield from (f"genid {node.text}" for node in root.iterfind("genid") if node.text)
    yield from (f"SMBIOS UUID {node.text}" for node in root.iterfind("sysinfo/system/entry[@name='uuid']"))
    yield from map(mac_mark, domainxml.macs(root))
    yield from map(nvram_mark, filter(None, [nvram]))
    yield from (path_mark(node.get(attribute, "")) for node, attribute in ownership.paths(root))
    yield from (disk_mark(disk.place) for disk in disks if disk.is_written and disk.place)


def read_guest(domain: DomainInfo, places: Places = _NOWHERE, log_in: str = domainxml.PAM) -> Guest:
    """A domain as it is defined and, where that differs, as it runs.

    `places` tell of files that its XML does not, `log_in` which of the users that it names are those of this server.
    """
    root = parse(domain.xml)  # not its `tree`: a host has thousands, of which a list has all at once
    disks, nvram = domainxml.disks(root), own_files(root, places).nvram
    users, groups = domainxml.access(root, log_in)
    resource = _resource(domain, root, disks, users, groups)
    marks = set(_marks(domain.uuid, root, nvram, disks))
    if domain.live_xml:
        live = parse(domain.live_xml)
        disks_now = domainxml.disks(live)
        marks.update(_marks(domain.uuid, live, own_files(live, places).nvram, disks_now))
        disks += disks_now
    return Guest(
        name=domain.name,
        uuid=domain.uuid,
        state=domain.state,
        resource=resource,
        marks=frozenset(marks),
        nvram=nvram,
        storage=frozenset(disk.place for disk in disks if disk.place),
        written=frozenset(disk.place for disk in disks if disk.is_written and disk.place),
        users=frozenset(users),
        groups=frozenset(groups),
    )


def _resource(
    domain: DomainInfo, root: Element, disks: Sequence[Disk], users: Sequence[str], groups: Sequence[str]
) -> dict[str, Any]:
    """A domain in Kimchi's words. What is not measured is null or 0."""
    measured = ("cpu_utilization", "mem_utilization", "net_throughput", "net_throughput_peak")
    return {
        "name": domain.name,
        "title": root.findtext("title") or "",
        "description": root.findtext("description") or "",
        "uuid": domain.uuid,
        "state": domain.state,
        "persistent": domain.persistent,
        "memory": {"current": _mib(root, "memory"), "maxmemory": _mib(root, "maxMemory") or _mib(root, "memory")},
        "cpu_info": _cpu_info(root),
        "graphics": _graphics(root, domain.state),
        "users": users,
        "groups": groups,
        "access": "full",
        "disks": [{"disk": disk.target, "device": disk.device, "place": disk.place} for disk in disks],
        "bootorder": [node.get("dev") for node in root.iterfind("os/boot")],
        "bootmenu": root.find("os/bootmenu[@enable='yes']") is not None,
        "autostart": domain.autostart,
        "icon": None,
        "screenshot": None,
        "stats": dict.fromkeys((*measured, "io_throughput", "io_throughput_peak"), 0),
    }


def _mib(root: Element, tag: str) -> int:
    node = root.find(tag)
    if node is None or not node.text:
        return 0
    return int(int(node.text) * _MIB_PER_UNIT.get(node.get("unit", "KiB"), 2**-10))


def _cpu_info(root: Element) -> dict[str, Any]:
    vcpu = root.find("vcpu")
    most = int(vcpu.text or 1) if vcpu is not None else 1
    topology = root.find("cpu/topology")
    parts = ("sockets", "cores", "threads")
    return {
        "vcpus": int(vcpu.get("current", most)) if vcpu is not None else most,
        "maxvcpus": most,
        "topology": {} if topology is None else {part: int(topology.get(part, "1")) for part in parts},
    }


def _graphics(root: Element, state: str) -> dict[str, Any]:
    node = root.find("devices/graphics")
    attributes: Mapping[str, str] = dict(node.attrib) if node is not None else {}
    port = attributes.get("port", "-1")
    return {
        "type": attributes.get("type"),
        "listen": attributes.get("listen"),
        "port": int(port) if state == "running" and port.isdigit() else None,
        "passwd": attributes.get("passwd"),
        "passwdValidTo": attributes.get("passwdValidTo"),
    }
