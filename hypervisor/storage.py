"""The questions and orders that we have for libvirt about storage: pools and volumes.

Each method is a handful of short calls over one connection. None lists volumes, except those whose name says that they
list and `any_file`; and `looked_again` alone has a pool refreshed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import libvirt

from .. import errors
from . import filesystems
from .asking import Asking
from .infos import PoolInfo, VolumeInfo, pool_info, volume_info
from .xmlparser import parse


class Storage(Asking):
    """The storage of one libvirt host."""

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

    def any_file(self, pool: str) -> VolumeInfo | None:
        """One of the volumes of a pool that are files, and that libvirt can look at. None where it has none such.

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
                    info = volume_info(pool, volume)
                    if info.type == "file":
                        return info
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

    def path_of_new(self, pool: str, name: str, volume: libvirt.virStorageVol) -> str:
        """The path of a volume that libvirt has just made: of a file that is its key, which needs no call."""
        with self._doing("look up a storage volume", pool=pool, name=name):
            key = str(volume.key())
            is_path = os.path.isabs(key) and os.path.basename(key) == name
            return key if is_path else str(volume.path())


def _active_pool(connection: libvirt.virConnect, name: str) -> libvirt.virStoragePool:
    pool = connection.storagePoolLookupByName(name)
    if not pool.isActive():
        raise errors.PoolInactive(pool=name)
    return pool
