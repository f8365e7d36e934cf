"""The questions and orders that we have for libvirt: names in, plain data out, libvirt's errors as ours.

Each method is a handful of short calls on the control connection. None lists all domains or refreshes a pool, except
those whose name says that they list.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import libvirt
from lxml import etree

from .. import errors
from . import filesystems
from .connection import Connections
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

_DOMAIN_XML = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE

_EXISTS = {libvirt.VIR_ERR_DOM_EXIST, libvirt.VIR_ERR_OPERATION_FAILED}
_NOT_FOUND = {
    libvirt.VIR_ERR_NO_DOMAIN: errors.DomainNotFound,
    libvirt.VIR_ERR_NO_STORAGE_POOL: errors.PoolNotFound,
    libvirt.VIR_ERR_NO_STORAGE_VOL: errors.VolumeNotFound,
}


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

    @property
    def store(self) -> int | str:
        """What its free bytes are those of: a file system, which other pools may lie on too, or the pool alone."""
        return self.name if self.device is None else self.device

    @property
    def is_active(self) -> bool:
        return self.state not in ("inactive", "inaccessible")

    @property
    def can_create(self) -> bool:
        """Whether libvirt can make volumes in a pool of this type (its storage drivers' createVol)."""
        return self.type not in self.READ_ONLY_TYPES

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

    @property
    def places(self) -> tuple[str, ...]:
        """How the disk of a domain may name it: by path, by pool and name, or, in Ceph, over the network."""
        by_name = (f"{self.pool}/{self.name}",) if self.pool else ()
        return (self.path, *by_name) if self.type != "network" else (f"rbd:{self.path}", *by_name)


class Host:
    """One libvirt host, through its connections.

    Every method raises LibvirtUnavailable when the host cannot be asked, and LibvirtFailed for what is not foreseen.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self.defining: Callable[[str], AbstractContextManager[Callable[[DomainInfo], None]]] = _nobody_listens
        """What surrounds the definition of a domain, whose UUID it is given; it gives what is told how that is."""

        self.undefined: Callable[[str], None] = lambda _uuid: None
        """Is told the UUID of a domain that is gone."""

    @property
    def is_local(self) -> bool:
        """Whether the server sees the host's files as its own."""
        return self._connections.is_local

    # --- Domains -----------------------------------------------------------------------------------------------------

    def domain(self, name: str) -> DomainInfo:
        """Raises DomainNotFound."""
        with self._doing("look up a domain", name=name) as connection:
            return _domain_info(connection.lookupByName(name))

    def source(self, name: str) -> DomainInfo:
        """A domain as far as its clone needs it: what it takes calls to know beside that is left False.

        Raises DomainNotFound.
        """
        with self._doing("look up a domain", name=name) as connection:
            return _domain_info(connection.lookupByName(name), in_full=False)

    def domain_by_uuid(self, uuid: str) -> DomainInfo:
        """Raises DomainNotFound."""
        with self._doing("look up a domain", name=uuid) as connection:
            return _domain_info(connection.lookupByUUIDString(uuid))

    def domain_state(self, uuid: str) -> tuple[str, str]:
        """Name and state of a domain. Raises DomainNotFound."""
        with self._doing("look up a domain", name=uuid) as connection:
            domain = connection.lookupByUUIDString(uuid)
            return domain.name(), STATES.get(domain.state()[0], "nostate")

    def list_domains(self) -> list[DomainInfo]:
        return list(self.list_domains_from(""))

    def list_domains_from(self, after: str) -> Generator[DomainInfo, None, None]:
        """Those whose names come after one, each as it is asked for: the first few cost what a few cost.

        It has a connection to itself until its end, or until it is closed.
        """
        with self._connections.short_call():  # what is listed belongs to its connection
            with self._doing("list the domains") as connection:
                domains = sorted(connection.listAllDomains(), key=lambda domain: domain.name())
            for domain in domains:
                if domain.name() <= after:
                    continue
                info = None
                with suppress(errors.DomainNotFound), self._doing("look up a domain", name="?"):
                    info = _domain_info(domain)
                if info is not None:
                    yield info

    def has_domain(self, name: str) -> bool:
        try:
            with self._doing("look up a domain", name=name) as connection:
                connection.lookupByName(name)
        except errors.DomainNotFound:
            return False
        return True

    def has_domain_uuid(self, uuid: str) -> bool:
        try:
            with self._doing("look up a domain", name=uuid) as connection:
                connection.lookupByUUIDString(uuid)
        except errors.DomainNotFound:
            return False
        return True

    def define(self, name: str, uuid: str, xml: str, *, is_whole: bool = True) -> None:
        """Defines a domain whose UUID is new, so that one of the same name is an error. Raises NameTaken.

        `is_whole`: libvirt will add nothing to its XML that is kept of a domain, and is not asked what it made of it.
        """
        with self.defining(uuid) as defined, self._doing("define the domain", name=name) as connection:
            try:
                domain = connection.defineXML(xml)
            except libvirt.libvirtError as error:
                if error.get_error_code() in _EXISTS and self.has_domain(name):
                    raise errors.NameTaken(name=name) from error
                raise
            # It is new, so that much is known of it without a question.
            now = xml if is_whole else domain.XMLDesc(_DOMAIN_XML)
            defined(DomainInfo(name, uuid, SHUT_OFF, now, persistent=True, autostart=False, saved_state=False))

    def define_again(self, domain: DomainInfo) -> None:
        """Gives a domain that runs without a definition that which it had."""
        with self._doing("define the domain", name=domain.name) as connection:
            defined = connection.defineXML(domain.xml)
            if domain.autostart:
                defined.setAutostart(1)

    def start(self, uuid: str) -> None:
        """Starts a domain. Raises DomainNotFound; LibvirtFailed with QEMU's reason."""
        with self._doing("start the domain", name=uuid) as connection:
            connection.lookupByUUIDString(uuid).create()

    def stop(self, uuid: str) -> None:
        """Pulls a domain's plug. One that is not there, or does not run, is fine."""
        with suppress(errors.DomainNotFound), self._doing("stop the domain", name=uuid) as connection:
            domain = connection.lookupByUUIDString(uuid)
            if domain.isActive():
                domain.destroy()

    def undefine(self, uuid: str, *, keep_nvram: bool = False) -> None:
        """Undefines a domain that is shut off, with what libvirt keeps for it. One that is not there is fine.

        One that has been started meanwhile goes on without a definition.
        """
        flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM if keep_nvram else libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        with suppress(errors.DomainNotFound), self._doing("undefine the domain", name=uuid) as connection:
            domain = connection.lookupByUUIDString(uuid)
            if self._connections.is_test_driver:
                domain.undefine()
            else:
                domain.undefineFlags(flags)
        self.undefined(uuid)

    # --- Pools -------------------------------------------------------------------------------------------------------

    def pool(self, name: str) -> PoolInfo:
        """Raises PoolNotFound."""
        with self._doing("look up a storage pool", pool=name) as connection:
            return _pool_info(connection.storagePoolLookupByName(name))

    def target(self, name: str) -> PoolInfo:
        """A pool as far as a clone into it needs it: what it takes calls to know beside that is left False.

        Raises PoolNotFound.
        """
        with self._doing("look up a storage pool", pool=name) as connection:
            pool = _pool_info(connection.storagePoolLookupByName(name), in_full=False)
        if self._connections.is_local and pool.holds_files:
            with suppress(OSError):
                return replace(pool, device=filesystems.number(pool.path))
        return pool

    def pool_hosts(self, name: str) -> list[str]:
        """Names of the servers that a network pool lies on. Raises PoolNotFound."""
        with self._doing("look up a storage pool", pool=name) as connection:
            root = parse(connection.storagePoolLookupByName(name).XMLDesc(0))
        return [str(host.get("name")) for host in root.iterfind("source/host[@name]")]

    def list_pools(self) -> list[PoolInfo]:
        with self._connections.short_call():  # what is listed belongs to its connection
            with self._doing("list the storage pools") as connection:
                pools = connection.listAllStoragePools()
            infos = []
            for pool in pools:
                with suppress(errors.PoolNotFound), self._doing("look up a storage pool", pool="?") as connection:
                    infos.append(_pool_info(pool))
            return sorted(infos, key=lambda info: info.name)

    def available(self, pool: PoolInfo) -> int:
        """Bytes free in the pool now. libvirt's figure is as old as its last refresh, so a file system is asked."""
        if self._connections.is_local and pool.holds_files:
            with suppress(OSError):
                room = os.statvfs(pool.path)
                return room.f_bavail * room.f_frsize
        with self._doing("look up a storage pool", pool=pool.name) as connection:
            return int(connection.storagePoolLookupByName(pool.name).info()[3])

    def occupied(self, pool: PoolInfo, name: str) -> int:
        """Bytes that a volume of the pool takes now, where its file can be seen; else 0."""
        if self._connections.is_local and pool.holds_files:
            with suppress(OSError):
                return os.lstat(Path(pool.path, name)).st_blocks * 512
        return 0

    # --- Volumes -----------------------------------------------------------------------------------------------------

    def volume(self, pool: str, name: str) -> VolumeInfo:
        """Raises PoolNotFound, PoolInactive, VolumeNotFound."""
        with self._doing("look up a storage volume", pool=pool, name=name) as connection:
            return _volume_info(pool, _active_pool(connection, pool).storageVolLookupByName(name))

    def volume_at(self, path: str) -> VolumeInfo | None:
        """The volume with this path in any active pool."""
        try:
            with self._doing("look up a storage volume", pool="", name=path) as connection:
                volume = connection.storageVolLookupByPath(path)
                return _volume_info(volume.storagePoolLookupByVolume().name(), volume)
        except errors.VolumeNotFound:
            return None

    def volume_behind(self, path: str) -> VolumeInfo | None:
        """The volume with this path, or with that to which a symbolic link among its folders leads."""
        found = self.volume_at(path)
        if found is None and self._connections.is_local:
            folder, name = os.path.split(path)
            real = os.path.join(os.path.realpath(folder), name)
            found = self.volume_at(real) if real != path else None
        return found

    def list_volumes(self, pool: str) -> list[VolumeInfo]:
        """Raises PoolNotFound, PoolInactive."""
        with self._connections.short_call():  # what is listed belongs to its connection
            with self._doing("list the storage volumes", pool=pool) as connection:
                volumes = _active_pool(connection, pool).listAllVolumes()
            infos = []
            for volume in volumes:
                # A file's name that is no UTF-8 cannot be told in JSON, nor asked for.
                with (
                    suppress(errors.VolumeNotFound, UnicodeDecodeError),
                    self._doing("look up a storage volume", pool=pool, name="?"),
                ):
                    infos.append(_volume_info(pool, volume))
            return sorted(infos, key=lambda info: info.name)

    def count_volumes(self, pool: str) -> int:
        with self._doing("count the storage volumes", pool=pool) as connection:
            return int(connection.storagePoolLookupByName(pool).numOfVolumes())

    def has_volume(self, pool: PoolInfo, name: str) -> bool:
        """Whether a name in an active pool is taken: by a volume, or by a file that libvirt has not noticed yet."""
        path = os.path.join(pool.path, name) if self._connections.is_local and pool.holds_files else None
        if path is not None and os.path.lexists(path):
            return True
        try:
            with self._doing("look up a storage volume", pool=pool.name, name=name) as connection:
                if path is not None:
                    connection.storageVolLookupByPath(path)
                else:
                    connection.storagePoolLookupByName(pool.name).storageVolLookupByName(name)
        except errors.VolumeNotFound:
            return False
        return True

    def delete_volume(self, pool: str, name: str, path: str | None = None) -> bool:
        """Deletes a volume; whether it was there.

        Raises StepFailed for one that has another `path` than is given, and Busy while libvirt works on it or its pool.
        """
        with (
            suppress(errors.VolumeNotFound),
            self._doing("delete the storage volume", pool=pool, name=name) as connection,
        ):
            volume = _active_pool(connection, pool).storageVolLookupByName(name)
            if path is not None and volume.path() != path:
                raise errors.StepFailed(cause=f"{path} is not in its pool any more, which leads elsewhere")
            try:
                volume.delete(0)
            except libvirt.libvirtError as error:
                if error.get_error_code() in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_INTERNAL_ERROR):
                    self._raise_if_lost(error, connection)
                    raise errors.Busy(what=f"the volume {name}: {error.get_error_message()}") from error
                raise
            return True
        return False

    # --- Translation -------------------------------------------------------------------------------------------------

    def path_of_new(self, pool: str, name: str, volume: libvirt.virStorageVol) -> str:
        """The path of a volume that libvirt has just made: of a file that is its key, which needs no call."""
        with self._doing("look up a storage volume", pool=pool, name=name):
            key = str(volume.key())
            is_path = os.path.isabs(key) and os.path.basename(key) == name
            return key if is_path else str(volume.path())

    @contextmanager
    def _doing(self, act: str, **names: str) -> Iterator[libvirt.virConnect]:
        with self._connections.short_call() as connection:
            try:
                yield connection
            except libvirt.libvirtError as error:
                self._raise_if_lost(error, connection)
                not_found = _NOT_FOUND.get(error.get_error_code())
                if not_found is not None:
                    raise not_found(**names) from error
                raise errors.LibvirtFailed(act=act, cause=error.get_error_message()) from error

    def _raise_if_lost(self, error: libvirt.libvirtError, connection: libvirt.virConnect) -> None:
        if self._connections.failed(error, connection):
            raise errors.LibvirtUnavailable(uri=self._connections.uri, cause=error.get_error_message()) from error


def _nobody_listens(_uuid: str) -> AbstractContextManager[Callable[[DomainInfo], None]]:
    return nullcontext(lambda _domain: None)


def _active_pool(connection: libvirt.virConnect, name: str) -> libvirt.virStoragePool:
    pool = connection.storagePoolLookupByName(name)
    if not pool.isActive():
        raise errors.PoolInactive(pool=name)
    return pool


def _domain_info(domain: libvirt.virDomain, *, in_full: bool = True) -> DomainInfo:
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
        xml=domain.XMLDesc(_DOMAIN_XML),
        persistent=in_full and bool(domain.isPersistent()),
        autostart=in_full and bool(domain.autostart()),
        saved_state=saved,
        live_xml=domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE) if in_full and state != SHUT_OFF else "",
    )


def _pool_info(pool: libvirt.virStoragePool, *, in_full: bool = True) -> PoolInfo:
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


def _volume_info(pool: str, volume: libvirt.virStorageVol) -> VolumeInfo:
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
