"""What else a domain must not have in common with another: ports, paths, sockets, numbers and devices of the host.

docs/API.md publishes the list, and tests/unit/test_corpus.py holds the two together. Everything not named here stays as
the source has it. `qemu:commandline` is one of these: it is QEMU's, and nobody can tell what an argument means.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Mapping
from hashlib import blake2b

from ..utils import MAX_FILE_NAME_BYTES, byte_length
from .xmltree import Element, remove

_CHARACTER_DEVICES = ("serial", "parallel", "console", "channel", "smartcard", "redirdev")
_PATH_TYPES = ("file", "unix", "pipe")
_CONNECTING = ("connect", "client")
"""What libvirt calls the modes of a socket that another program listens on."""

_MAX_SOCKET_BYTES = 107
"""The longest path of a unix socket that a program can bind (unix(7)), in bytes."""

_PORTS = ("port", "tlsPort", "websocket")
_NUMBER_BYTES = 8
"""Length of the number that stands for a name too long, in bytes; it is written with two digits for each."""

_BELONGS = "which only one guest can have"
_TAKE_OUT = f"{_BELONGS}: take it out of the guest first"
_CONNECT = f"{_BELONGS}: have it connect, or take it out of the guest first"
_READ_ONLY = "say readonly='yes' of its loader, and name an nvram for its variables"
_PRIVATE = "say access='private' of it, if the guest need not keep what it writes there, or take it out first"
_SHORTER = "name one in a folder with a shorter path"
_HOST_DISKS = ("nvme", "vhostuser", "vhostvdpa")
_WORDS = {
    "interface": "a network device of the host",
    "tpm": "the TPM of the host",
    "input": "an input device of the host",
}


def obstacles(domain: Element, *, drop_hostdevs: bool) -> list[str]:
    """Why the domain cannot be cloned as a whole, in words."""
    found = [*_writable_parts(domain), *_held(domain), *_crowded(domain)]
    if not drop_hostdevs:
        names = sorted({_in_words(node) for node in _host_devices(domain)})
        found += [f"it has {name}, {_BELONGS}; drop_hostdevs leaves it out" for name in names]
    return list(dict.fromkeys(found))


def make_own(domain: Element, source: str, name: str, uuid: str, *, drop_hostdevs: bool) -> None:
    """Gives a clone's XML ports, paths and numbers of its own; `source` is the source's name."""
    if drop_hostdevs:
        for node in list(_host_devices(domain)):
            remove(node)
    for entry in domain.iterfind("sysinfo/*/entry[@name='serial']"):
        entry.text = uuid
    for node in domain.iterfind("devices/graphics"):
        _free_ports(node)
    for node in domain.iterfind("devices/interface"):
        _free_interface(node)
    for node in domain.iterfind("devices/vsock/cid"):
        node.set("auto", "yes")
        _drop(node, "address")
    for node in domain.findall("devices/pstore/path"):
        remove(node)
    for node in list(_listening_consoles(domain)):
        _as_pty(node)
    _rename_paths(domain, source, name, uuid)


def paths(domain: Element) -> Iterator[tuple[Element, str]]:
    """The elements and attributes that name a socket, a log or a pipe of the domain's own."""
    for device in domain.iterfind("devices/*"):  # once, and not once for each kind, since every clone has it read often
        find = _PATHS_OF.get(str(device.tag))
        if find is not None:
            yield from find(device)


def _paths_of_console(node: Element) -> Iterator[tuple[Element, str]]:
    if node.get("type") in _PATH_TYPES:
        yield from ((source, "path") for source in node.iterfind("source[@path]") if not _is_node(source.get("path")))
    yield from ((log, "file") for log in node.iterfind("log[@file]") if not _is_node(log.get("file")))


def _paths_of_rng(rng: Element) -> Iterator[tuple[Element, str]]:
    for backend in rng.iterfind("backend[@model='egd']"):
        yield from _paths_of_console(backend)


def _paths_of_interface(interface: Element) -> Iterator[tuple[Element, str]]:
    if interface.get("type") == "vhostuser":
        yield from ((source, "path") for source in interface.iterfind("source[@path]"))
    yield from ((backend, "logFile") for backend in interface.iterfind("backend[@logFile]"))


def _paths_of_graphics(graphics: Element) -> Iterator[tuple[Element, str]]:
    if graphics.get("socket") is not None:
        yield graphics, "socket"
    yield from ((listen, "socket") for listen in graphics.iterfind("listen[@type='socket'][@socket]"))


def _paths_of_filesystem(filesystem: Element) -> Iterator[tuple[Element, str]]:
    yield from ((source, "socket") for source in filesystem.iterfind("source[@socket]"))


def _paths_of_audio(audio: Element) -> Iterator[tuple[Element, str]]:
    if audio.get("type") == "file" and audio.get("path") is not None:
        yield audio, "path"


_PATHS_OF: Mapping[str, Callable[[Element], Iterator[tuple[Element, str]]]] = {
    **dict.fromkeys(_CHARACTER_DEVICES, _paths_of_console),
    "rng": _paths_of_rng,
    "interface": _paths_of_interface,
    "graphics": _paths_of_graphics,
    "filesystem": _paths_of_filesystem,
    "audio": _paths_of_audio,
}
"""How each kind of device names them."""


def is_made_anew(node: Element) -> bool:
    """Whether the hypervisor makes what an element of `paths` names, over what is there, when the guest starts.

    A pipe, and a socket that it connects to, are made by somebody else, and should be there before.
    """
    parent = node.getparent()
    if node.tag != "source" or parent is None:
        return True
    return not (parent.get("type") == "pipe" or parent.tag == "filesystem" or node.get("mode") in _CONNECTING)


def own_path(
    path: str, source: str, clone: str, uuid: str, *, is_socket: bool = False, taken: Container[str] = ()
) -> str:
    """A path in the same folder that names the clone: in place of the source, or else in addition.

    Where that is `taken`, or longer than a file's name or a socket's path can be, a number stands for it that is made
    of the clone's UUID and the path.
    """
    folder, name = os.path.split(path)
    room = _room(path, is_socket=is_socket)
    renamed = _renamed(name, source, clone)
    own = os.path.join(folder, renamed)
    if byte_length(renamed) <= room and own not in taken:
        return own
    number = blake2b(f"{uuid}{path}".encode("utf-8", "surrogatepass"), digest_size=_NUMBER_BYTES).hexdigest()
    extension = os.path.splitext(name)[1]
    return os.path.join(folder, number + extension if byte_length(number + extension) <= room else number)


def _rename_paths(domain: Element, source: str, name: str, uuid: str) -> None:
    """Devices that have one path in the source, as a serial port and its console do, have one in the clone."""
    found = [(node, attribute, node.get(attribute, "")) for node, attribute in paths(domain)]
    sockets = {path for node, attribute, path in found if _is_socket(node, attribute)}
    taken = {path for _, _, path in found}
    own: dict[str, str] = {}
    for node, attribute, path in found:
        if path not in own:
            own[path] = own_path(path, source, name, uuid, is_socket=path in sockets, taken=taken)
            taken.add(own[path])
        node.set(attribute, own[path])


def _renamed(name: str, source: str, clone: str) -> str:
    """A file's name with the clone in place of the source, where that is a word of it and not its extension."""
    end = len(os.path.splitext(name)[0])
    start = name.find(source) if source else -1
    while 0 <= start < end:
        rest = name[start + len(source) :]
        if not (name[:start][-1:].isalnum() or rest[:1].isalnum()):
            return name[:start] + clone + rest
        start = name.find(source, start + 1)
    return f"{clone}-{name}"


def _room(path: str, *, is_socket: bool) -> int:
    """Bytes that the name of a file beside `path` can have."""
    if not is_socket or byte_length(path) > _MAX_SOCKET_BYTES:
        return MAX_FILE_NAME_BYTES
    return _MAX_SOCKET_BYTES - byte_length(path) + byte_length(os.path.basename(path))


def _is_socket(node: Element, attribute: str) -> bool:
    parent = node.getparent()
    kind = parent.get("type") if parent is not None else None
    return attribute == "socket" or (attribute == "path" and kind in ("unix", "vhostuser"))


def _is_node(path: str | None) -> bool:
    """Whether it is one of the host's device nodes, such as /dev/null, beside which there is no place for files."""
    return os.path.dirname(path or "") == "/dev"


def _consoles(domain: Element) -> Iterator[Element]:
    for tag in _CHARACTER_DEVICES:
        yield from domain.iterfind(f"devices/{tag}")


def _writable_parts(domain: Element) -> Iterator[str]:
    """Parts of the guest that it writes to and that are not cloned."""
    for loader in domain.iterfind("os/loader[@type='pflash']"):
        if loader.text and loader.get("readonly") != "yes":  # writable is what QEMU gets where nothing is said
            yield f"its firmware image can be written, and would be shared: {_READ_ONLY}"
    if domain.find("os/varstore[@path]") is not None:
        yield "its UEFI variables lie in a variable store, which cannot be cloned yet: use an nvram instead"
    if any(node.get("type") == "external" for node in domain.iterfind("devices/tpm/backend")):
        yield "it has an external TPM, whose state cannot be cloned: use an emulated one, or take it out first"
    for node in domain.iterfind("devices/tpm/backend[@type='emulator']/source[@path]"):
        place = f"in a place of its own, {node.get('path')}, which cannot be cloned yet"
        yield f"the state of its TPM lies {place}: name none, so that libvirt keeps it"
    for node in domain.iterfind("devices/memory"):
        is_kept = node.find("target/readonly") is None and node.get("access") != "private"
        if node.find("source/path") is not None and is_kept:
            yield f"its memory device {node.findtext('source/path')} can be written, and would be shared: {_PRIVATE}"


def _held(domain: Element) -> Iterator[str]:
    """What the guest has of the host, and what no other guest could get in its place."""
    for node in domain.iterfind("devices/lease"):
        yield f"it holds the lease {node.findtext('key')}, {_TAKE_OUT}"
    for node in domain.iterfind("devices/disk"):
        is_left = node.find("readonly") is not None or node.find("shareable") is not None
        if is_left and node.get("type") in _HOST_DISKS:
            yield f"its disk of type {node.get('type')} is a device of the host, {_TAKE_OUT}"
    servers = domain.iterfind("devices/interface[@type='server']/source[@port]")
    for node in (*servers, *domain.iterfind("devices/interface[@type='udp']/source/local[@port]")):
        yield f"its network device listens on port {node.get('port')} of the host, {_CONNECT}"
    for node in domain.iterfind("devices/rng/backend[@model='egd']/source[@mode='bind'][@service]"):
        yield f"its random number generator listens on port {node.get('service')} of the host, {_CONNECT}"
    for node in domain.iterfind("devices/interface/virtualport[@type='midonet']/parameters[@interfaceid]"):
        yield f"its network device is the port {node.get('interfaceid')} of MidoNet, {_TAKE_OUT}"


def _crowded(domain: Element) -> Iterator[str]:
    """Sockets in a folder so deep that there is no room for another name."""
    for node, attribute in paths(domain):
        path = node.get(attribute, "")
        if _is_socket(node, attribute) and _room(path, is_socket=True) < 2 * _NUMBER_BYTES:
            yield f"the path of its socket {path} leaves no room for another one beside it: {_SHORTER}"


def _host_devices(domain: Element) -> Iterator[Element]:
    yield from (device for device in domain.iterfind("devices/*") if _is_of_host(device))


def _is_of_host(device: Element) -> bool:
    kind = device.get("type")
    match device.tag:
        case "hostdev":
            return True
        case "interface":
            is_through = device.find("source[@mode='passthrough']") is not None
            return kind in ("hostdev", "vdpa") or (kind == "direct" and is_through)
        case "tpm":
            return device.find("backend[@type='passthrough']") is not None
        case "input":
            return kind in ("passthrough", "evdev")
        case "rng":
            return device.find("backend[@model='egd'][@type='dev']") is not None
    return device.tag in _CHARACTER_DEVICES and kind == "dev" and device.find("source[@path='/dev/null']") is None


def _in_words(device: Element) -> str:
    if device.tag == "hostdev":
        return f"a {device.get('type', 'host')} device of the host"
    return _WORDS.get(str(device.tag), "a character device of the host")


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
        _drop(target, "managed")  # who makes the device `dev`
        if not target.attrib:
            remove(target)
    for node in interface.findall("portForward"):
        remove(node)
    for node in interface.iterfind("virtualport/parameters"):
        _drop(node, "interfaceid")
        _drop(node, "instanceid")


def _listening_consoles(domain: Element) -> Iterator[Element]:
    for node in _consoles(domain):
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
