"""The questions and orders that we have for libvirt: names in, plain data out, libvirt's errors as ours.

Each method is a handful of short calls over one connection. None lists all domains or refreshes a pool, except those
whose name says that they list, `definitions` and `domain_uuids`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import libvirt

from .. import errors
from . import filesystems, starting
from .connection import Connections
from .infos import (
    DOMAIN_XML,
    SHUT_OFF,
    STATES,
    Definition,
    DomainInfo,
    PoolInfo,
    VolumeInfo,
    definition,
    domain_info,
    pool_info,
    volume_info,
)
from .xmlparser import parse

_EXISTS = {libvirt.VIR_ERR_DOM_EXIST, libvirt.VIR_ERR_OPERATION_FAILED}
_NOT_FOUND = {
    libvirt.VIR_ERR_NO_DOMAIN: errors.DomainNotFound,
    libvirt.VIR_ERR_NO_STORAGE_POOL: errors.PoolNotFound,
    libvirt.VIR_ERR_NO_STORAGE_VOL: errors.VolumeNotFound,
}


_HEAD_START_S = 0.1

Read = TypeVar("Read")


class Host:
    """One libvirt host, through its connections.

    Every method raises LibvirtUnavailable when the host cannot be asked, and LibvirtFailed for what is not foreseen.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self.defining: Callable[[str], AbstractContextManager[Callable[[DomainInfo], None]]] = _nobody_listens
        """What surrounds the definition of a domain, whose UUID it is given; it gives what is told how that is."""

        self._kept = threading.local()
        self.undefined: Callable[[str], None] = lambda _uuid: None
        """Is told the UUID of a domain that is gone."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """For some questions after one another: over one connection, and with each pool looked up once."""
        with self._connections.short_call():
            self._kept.pools = {}
            try:
                yield
            finally:
                self._kept.pools = None

    @property
    def is_local(self) -> bool:
        """Whether the server sees the host's files as its own."""
        return self._connections.is_local

    # --- Domains -----------------------------------------------------------------------------------------------------

    def domain(self, name: str) -> DomainInfo:
        """Raises DomainNotFound."""
        with self._doing("look up a domain", name=name) as connection:
            return domain_info(connection.lookupByName(name))

    def source(self, name: str) -> DomainInfo:
        """A domain as far as its clone needs it: what it takes calls to know beside that is left False.

        Raises DomainNotFound.
        """
        with self._doing("look up a domain", name=name) as connection:
            return domain_info(connection.lookupByName(name), in_full=False)

    def domain_by_uuid(self, uuid: str) -> DomainInfo:
        """Raises DomainNotFound."""
        with self._doing("look up a domain", name=uuid) as connection:
            return domain_info(connection.lookupByUUIDString(uuid))

    def domain_state(self, uuid: str) -> tuple[str, str]:
        """Name and state of a domain. Raises DomainNotFound."""
        with self._doing("look up a domain", name=uuid) as connection:
            domain = connection.lookupByUUIDString(uuid)
            return domain.name(), STATES.get(domain.state()[0], "nostate")

    def domain_runs(self, uuid: str) -> tuple[str, bool]:
        """Name of a domain, and whether it is not shut off: by one call, since its handle has both.

        Raises DomainNotFound.
        """
        with self._doing("look up a domain", name=uuid) as connection:
            domain = connection.lookupByUUIDString(uuid)
            return domain.name(), domain.ID() >= 0

    def list_domains(self) -> list[DomainInfo]:
        return list(self.list_domains_from(""))

    def list_domains_from(self, after: str) -> Generator[DomainInfo, None, None]:
        """Those whose names come after one, each as it is asked for: the first few cost what a few cost.

        It has a connection to itself until its end, or until it is closed.
        """
        return self._read_each(domain_info, after)

    def definitions(self) -> list[Definition]:
        """What every domain consists of: a call for each that is off, where `list_domains` takes five."""
        return list(self._read_each(definition, ""))

    def _read_each(self, read: Callable[[libvirt.virDomain], Read], after: str) -> Generator[Read, None, None]:
        with self._connections.short_call():  # what is listed belongs to its connection
            with self._doing("list the domains") as connection:
                domains = sorted(connection.listAllDomains(), key=lambda domain: domain.name())
            for domain in domains:
                if domain.name() <= after:
                    continue
                found = None
                with suppress(errors.DomainNotFound), self._doing("look up a domain", name="?"):
                    found = read(domain)
                if found is not None:
                    yield found

    def domain_uuids(self) -> set[str]:
        """The UUIDs of all domains: by one call, whatever they are."""
        with self._doing("list the domains") as connection:
            return {domain.UUIDString() for domain in connection.listAllDomains()}

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
                    raise errors.NameTaken(name=name, cause="a virtual machine is called so") from error
                raise
            # It is new, so that much is known of it without a question.
            now = xml if is_whole else domain.XMLDesc(DOMAIN_XML)
            defined(DomainInfo(name, uuid, SHUT_OFF, now, persistent=True, autostart=False, saved_state=False))

    def define_again(self, domain: DomainInfo) -> None:
        """Gives a domain that runs without a definition that which it had."""
        with self._doing("define the domain", name=domain.name) as connection:
            defined = connection.defineXML(domain.xml)
            if domain.autostart:
                defined.setAutostart(1)

    def start(self, uuid: str, is_wanted: Callable[[], bool] | None = None, *, is_saved: bool = False) -> None:
        """Starts a domain, as long as that `is_wanted`; who does not say so waits some seconds for a turn at most.

        Where its memory `is_saved`, that is restored, which may take long.
        Raises DomainNotFound; LibvirtFailed with QEMU's reason, or when it was broken off; Busy.
        """
        most = starting.MOST_RESTORED_S if is_saved else starting.MOST_S
        starting.start(self._connections, partial(self._create, uuid), partial(self.stop, uuid), is_wanted, most=most)

    def _create(self, uuid: str) -> None:
        with self._connections.own_call() as connection, self._told(connection, "start the domain", name=uuid):
            connection.lookupByUUIDString(uuid).create()

    def stop(self, uuid: str) -> None:
        """Pulls a domain's plug. One that is not there, or does not run, is fine."""
        with suppress(errors.DomainNotFound), self._doing("stop the domain", name=uuid) as connection:
            domain = connection.lookupByUUIDString(uuid)
            if domain.isActive():
                domain.destroy()

    def undefine(self, uuid: str, *, keep_nvram: bool = False, with_tpm: bool = False) -> None:
        """Undefines a domain that is shut off, with what libvirt keeps for it. One that is not there is fine.

        One that has been started meanwhile goes on without a definition. `with_tpm`: also the state of a TPM that
        libvirt would leave.
        """
        flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM if keep_nvram else libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_TPM if with_tpm else 0  # which not every driver knows
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
            return pool_info(connection.storagePoolLookupByName(name))

    def target(self, name: str) -> PoolInfo:
        """A pool as far as a clone into it needs it: what it takes calls to know beside that is left False.

        Raises PoolNotFound.
        """
        with self._doing("look up a storage pool", pool=name) as connection:
            pool = pool_info(self._pool(connection, name), in_full=False)
        if self._connections.is_local and pool.holds_files:
            with suppress(OSError):
                is_read_only = filesystems.is_read_only(pool.path)
                return replace(pool, device=filesystems.number(pool.path), is_read_only=is_read_only)
        return pool

    def _pool(self, connection: libvirt.virConnect, name: str) -> libvirt.virStoragePool:
        kept: dict[str, libvirt.virStoragePool] = getattr(self._kept, "pools", None) or {}
        return kept.get(name) or self._keep(connection.storagePoolLookupByName(name))

    def _keep(self, pool: libvirt.virStoragePool) -> libvirt.virStoragePool:
        kept: dict[str, libvirt.virStoragePool] | None = getattr(self._kept, "pools", None)
        if kept is not None:
            kept[pool.name()] = pool
        return pool

    def pool_hosts(self, name: str) -> list[str]:
        """Names of the servers that a network pool lies on. Raises PoolNotFound."""
        with self._doing("look up a storage pool", pool=name) as connection:
            root = parse(connection.storagePoolLookupByName(name).XMLDesc(0))
        return [str(host.get("name")) for host in root.iterfind("source/host[@name]")]

    def list_pools(self) -> list[PoolInfo]:
        with self._connections.short_call():  # what is listed belongs to its connection
            with self._doing("list the storage pools", pool="?") as connection:
                pools = connection.listAllStoragePools()
            infos = []
            for pool in pools:
                with suppress(errors.PoolNotFound), self._doing("look up a storage pool", pool="?") as connection:
                    infos.append(pool_info(pool))
            return sorted(infos, key=lambda info: info.name)

    def available(self, pool: PoolInfo) -> int:
        """Bytes free in the pool now. libvirt's figure is as old as its last refresh, so a file system is asked."""
        if self._connections.is_local and pool.holds_files:
            with suppress(OSError):
                return filesystems.available(pool.path)
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
            return volume_info(pool, _active_pool(connection, pool).storageVolLookupByName(name))

    def volume_at(self, path: str) -> VolumeInfo | None:
        """The volume with this path in any active pool."""
        with (
            suppress(errors.VolumeNotFound, errors.PoolNotFound, errors.PoolInactive),  # its pool may end in between
            self._doing("look up a storage volume", pool="?", name=path) as connection,
        ):
            volume = connection.storageVolLookupByPath(path)
            return volume_info(self._keep(volume.storagePoolLookupByVolume()).name(), volume)
        return None

    def volume_behind(self, path: str) -> VolumeInfo | None:
        """The volume with this path, or with that to which a symbolic link among its folders leads."""
        found = self.volume_at(path)
        if found is None and self._connections.is_local:
            folder, name = os.path.split(path)
            real = os.path.join(os.path.realpath(folder), name)
            found = self.volume_at(real) if real != path else None
        return found

    def list_volumes(self, pool: str, *, but_unreadable: bool = False) -> list[VolumeInfo]:
        """Raises PoolNotFound, PoolInactive.

        `but_unreadable`: all but those that libvirt cannot look at, which it leaves out itself when it refreshes the
        pool; else one of them is a LibvirtFailed.
        """
        passed_over = (errors.VolumeNotFound, *((errors.LibvirtFailed,) if but_unreadable else ()))
        with self._connections.short_call():  # what is listed belongs to its connection
            with self._doing("list the storage volumes", pool=pool) as connection:
                volumes = _active_pool(connection, pool).listAllVolumes()
            infos = []
            for volume in volumes:
                # A file's name that is no UTF-8 cannot be told in JSON, nor asked for.
                with (
                    suppress(*passed_over, UnicodeDecodeError),
                    self._doing("look up a storage volume", pool=pool, name="?"),
                ):
                    infos.append(volume_info(pool, volume))
            return sorted(infos, key=lambda info: info.name)

    def any_volume(self, pool: str) -> VolumeInfo | None:
        """One of the volumes of a pool that libvirt can look at, None where it has none such.

        Raises PoolNotFound, PoolInactive.
        """
        with self._connections.short_call():  # what is listed belongs to its connection
            with self._doing("list the storage volumes", pool=pool) as connection:
                volumes = _active_pool(connection, pool).listAllVolumes()
            for volume in volumes:
                with (
                    suppress(errors.VolumeNotFound, errors.LibvirtFailed, UnicodeDecodeError),
                    self._doing("look up a storage volume", pool=pool, name="?"),
                ):
                    return volume_info(pool, volume)
        return None

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
                    self._raise_if_lost(error, connection, of_storage=True)
                    raise errors.Busy(what=f"the volume {name}: {error.get_error_message()}") from error
                raise
            return True
        return False

    def looked_again(self, pool: str, name: str) -> bool:
        """Has libvirt look into a pool again if it knows a volume there, which it may not see; whether it does.

        Raises Busy while it makes any volume in that pool.
        """
        with (
            suppress(errors.VolumeNotFound),
            self._doing("refresh the storage pool", pool=pool, name=name) as connection,
        ):
            found = _active_pool(connection, pool)
            found.storageVolLookupByName(name)
            try:
                found.refresh(0)
            except libvirt.libvirtError as error:
                self._raise_if_lost(error, connection, of_storage=True)
                if error.get_error_code() == libvirt.VIR_ERR_INTERNAL_ERROR:
                    raise errors.Busy(what=f"the storage pool: {error.get_error_message()}") from error
                raise
            return True
        return False

    def catch_up(self) -> None:
        """Waits until libvirt has begun with what it was asked for before, also by a client that is gone.

        With all its workers busy it makes volumes when their turn comes, but tells at once that they are not there.
        This question has no priority either (remote_protocol.x). Nor does it tell of a domain before it knows what a
        new QEMU can do, which this question waits for, too.
        """
        with self._doing("ask for its capabilities") as connection:
            connection.getCapabilities()
            time.sleep(_HEAD_START_S)  # another worker may have begun with such a thing in the same instant
            connection.getCapabilities()

    # --- Translation -------------------------------------------------------------------------------------------------

    def path_of_new(self, pool: str, name: str, volume: libvirt.virStorageVol) -> str:
        """The path of a volume that libvirt has just made: of a file that is its key, which needs no call."""
        with self._doing("look up a storage volume", pool=pool, name=name):
            key = str(volume.key())
            is_path = os.path.isabs(key) and os.path.basename(key) == name
            return key if is_path else str(volume.path())

    @contextmanager
    def _doing(self, act: str, **names: str) -> Iterator[libvirt.virConnect]:
        with self._connections.short_call() as connection, self._told(connection, act, **names):
            yield connection

    @contextmanager
    def _told(self, connection: libvirt.virConnect, act: str, **names: str) -> Iterator[None]:
        try:
            yield
        except libvirt.libvirtError as error:
            self._raise_if_lost(error, connection, of_storage="pool" in names)
            not_found = _NOT_FOUND.get(error.get_error_code())
            if not_found is not None:
                raise not_found(**names) from error
            if names.get("pool") and error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
                raise errors.PoolInactive(pool=names["pool"]) from error  # it was stopped in this moment
            raise errors.LibvirtFailed(act=act, cause=error.get_error_message()) from error

    def _raise_if_lost(self, error: libvirt.libvirtError, connection: libvirt.virConnect, *, of_storage: bool) -> None:
        if self._connections.failed(error, connection, of_storage=of_storage):
            raise errors.LibvirtUnavailable(uri=self._connections.uri, cause=error.get_error_message()) from error


def _nobody_listens(_uuid: str) -> AbstractContextManager[Callable[[DomainInfo], None]]:
    return nullcontext(lambda _domain: None)


def _active_pool(connection: libvirt.virConnect, name: str) -> libvirt.virStoragePool:
    pool = connection.storagePoolLookupByName(name)
    if not pool.isActive():
        raise errors.PoolInactive(pool=name)
    return pool
