"""What else a domain must not have in common with another: ports, paths, sockets, numbers and devices of the host.

docs/API.md publishes the list, and a test holds the two together. Everything not named here stays as the source has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..utils import MAX_FILE_NAME_BYTES, byte_length, compose
from .xmltree import Element, remove

_CHARACTER_DEVICES = ("serial", "parallel", "console", "channel", "smartcard", "redirdev")
_PATH_TYPES = ("file", "unix", "pipe")
_MAX_SOCKET_BYTES = 107
"""The longest path of a unix socket that a program can bind (unix(7)), in bytes."""

_PORTS = ("port", "tlsPort", "websocket")


def obstacles(domain: Element, *, drop_hostdevs: bool) -> list[str]:
    """Why the domain cannot be cloned as a whole, in words."""
    found = []
    if domain.find("os/loader[@type='pflash'][@readonly='no']") is not None:
        found.append("its firmware image can be written, and would be shared")
    for node in domain.iterfind("devices/memory"):
        if node.find("source/path") is not None and node.find("readonly") is None:
            found.append(f"its memory device {node.findtext('source/path')} can be written, and would be shared")
    if not drop_hostdevs:
        names = sorted({_in_words(node) for node in _host_devices(domain)})
        found += [f"it has {name}, which only one guest can have; drop_hostdevs leaves it out" for name in names]
    return found


def make_own(domain: Element, source: str, name: str, uuid: str, *, drop_hostdevs: bool) -> None:
    """Gives a clone's XML ports, paths and numbers of its own; `source` is the source's name."""
    if drop_hostdevs:
        for node in list(_host_devices(domain)):
            remove(node)
    for entry in domain.iterfind("sysinfo/system/entry[@name='serial']"):
        entry.text = uuid
    for node in domain.iterfind("devices/graphics"):
        _free_ports(node)
    for node in domain.iterfind("devices/interface"):
        _free_interface(node)
    for node in domain.iterfind("devices/vsock/cid"):
        node.set("auto", "yes")
        _drop(node, "address")
    for node in list(_listening_consoles(domain)):
        _as_pty(node)
    for node, attribute in paths(domain):
        node.set(attribute, own_path(node.get(attribute, ""), source, name, uuid))


def paths(domain: Element) -> Iterator[tuple[Element, str]]:
    """The elements and attributes that name a socket, a log or a pipe of the domain's own."""
    devices = [node for tag in _CHARACTER_DEVICES for node in domain.iterfind(f"devices/{tag}")]
    for node in (*devices, *domain.iterfind("devices/rng/backend")):
        if node.get("type") in _PATH_TYPES or node.get("model") == "egd":
            yield from ((source, "path") for source in node.iterfind("source[@path]"))
        yield from ((log, "file") for log in node.iterfind("log[@file]"))
    yield from ((node, "path") for node in domain.iterfind("devices/interface[@type='vhostuser']/source[@path]"))
    yield from ((node, "socket") for node in domain.iterfind("devices/graphics[@socket]"))
    yield from ((node, "socket") for node in domain.iterfind("devices/graphics/listen[@type='socket'][@socket]"))
    yield from ((node, "socket") for node in domain.iterfind("devices/filesystem/source[@socket]"))
    yield from ((node, "path") for node in domain.iterfind("devices/audio[@type='file'][@path]"))


def own_path(path: str, source: str, clone: str, uuid: str) -> str:
    """A path in the same folder that names the clone: in place of the source, or else in addition."""
    folder, name = os.path.split(path)
    base, extension = os.path.splitext(name)
    kept = base.replace(source, "").strip("-_.") if source in base else base
    ending = f"-{kept}{extension}" if kept else extension
    own = os.path.join(folder, compose(clone, ending, MAX_FILE_NAME_BYTES))
    if byte_length(own) <= _MAX_SOCKET_BYTES or byte_length(path) > _MAX_SOCKET_BYTES:
        return own
    return os.path.join(folder, f"{uuid[:13]}{extension}")


def _host_devices(domain: Element) -> Iterator[Element]:
    yield from domain.iterfind("devices/hostdev")
    yield from domain.iterfind("devices/interface[@type='hostdev']")
    yield from (tpm for tpm in domain.iterfind("devices/tpm") if tpm.find("backend[@type='passthrough']") is not None)


def _in_words(device: Element) -> str:
    if device.tag == "hostdev":
        return f"a {device.get('type', 'host')} device of the host"
    return "a network device of the host" if device.tag == "interface" else "the TPM of the host"


def _free_ports(graphics: Element) -> None:
    """Fixed ports become libvirt's choice; a display on a socket has none."""
    fixed = [name for name in _PORTS if int(graphics.get(name, "-1")) > 0]
    if fixed:
        graphics.set("autoport", "yes")
    for name in fixed:
        graphics.set(name, "-1")


def _free_interface(interface: Element) -> None:
    for target in interface.findall("target[@dev]"):
        _drop(target, "dev")
        if not target.attrib:
            remove(target)
    for node in interface.iterfind("virtualport/parameters"):
        _drop(node, "interfaceid")
        _drop(node, "instanceid")


def _listening_consoles(domain: Element) -> Iterator[Element]:
    for tag in _CHARACTER_DEVICES:
        for node in domain.iterfind(f"devices/{tag}"):
            if node.get("type") in ("tcp", "udp") and node.find("source[@mode='bind']") is not None:
                yield node


def _as_pty(console: Element) -> None:
    """A console on a fixed port of the host becomes one that `virsh console` opens."""
    console.set("type", "pty")
    for node in [*console.findall("source"), *console.findall("protocol")]:
        remove(node)


def _drop(node: Element, attribute: str) -> None:
    if attribute in node.attrib:
        del node.attrib[attribute]
