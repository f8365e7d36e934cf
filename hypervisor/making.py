"""Makes volumes: empty ones by a short call, copies by a long one on a connection of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

import libvirt

from .. import errors
from .connection import Connections
from .host import Host
from .infos import VolumeInfo

_POLL_S = 0.25
_FIRST_POLL_S = 0.01


class NotMade(errors.StepFailed):
    """Nothing was made, since the pool is stopped, or gone."""


class VolumeMaker:
    """Makes volumes of one host, exclusively: what is there already is never overwritten."""

    def __init__(self, connections: Connections, host: Host) -> None:
        self._connections = connections
        self._host = host
        self.is_local = connections.is_local
        self._in_the_way = {libvirt.VIR_ERR_STORAGE_VOL_EXIST, libvirt.VIR_ERR_OPERATION_INVALID}
        if connections.is_test_driver:
            self._in_the_way.add(libvirt.VIR_ERR_OPERATION_FAILED)

    def create(self, pool: str, name: str, xml: str) -> str:
        """Makes an empty volume; returns its path.

        Raises VolumeInTheWay when something of that name is there, which is then not ours; StepFailed with libvirt's
        reason, which is a NotMade where that is its pool; LibvirtUnavailable when the connection broke, and it is
        unknown whether the volume was made.
        """
        with self._connections.short_call() as connection:
            try:
                volume = connection.storagePoolLookupByName(pool).createXML(xml, 0)
            except libvirt.libvirtError as error:
                raise self._explained(error, connection, pool, name) from error
            return self._host.path_of_new(pool, name, volume)

    def create_from(
        self, source: VolumeInfo, pool: str, name: str, xml: str, see: Callable[[VolumeInfo], None]
    ) -> VolumeInfo:
        """Makes a volume with the content of another, in libvirt's own way: that can take long and cannot be stopped.

        `see` is shown the new volume now and then. Raises as `create` does.
        """
        with self._connections.long_call() as connection:
            ended = threading.Event()
            watcher = threading.Thread(target=self._watch, args=(pool, name, see, ended), daemon=True)
            if self._is_there(pool, name):  # and in the way
                ended.set()
            watcher.start()
            try:
                self._copy(connection, source, pool, xml)
            except libvirt.libvirtError as error:
                raise self._explained(error, connection, pool, name) from error
            finally:
                ended.set()
                watcher.join()
        return self._host.volume(pool, name)

    def _copy(self, connection: libvirt.virConnect, source: VolumeInfo, pool: str, xml: str) -> None:
        target = connection.storagePoolLookupByName(pool)
        if self._connections.is_test_driver and source.pool != pool:
            target.createXML(xml, 0)  # it has no bytes to copy, and refuses to pretend across pools
            return
        volume = connection.storagePoolLookupByName(source.pool).storageVolLookupByName(source.name)
        target.createXMLFrom(xml, volume, 0)

    def _is_there(self, pool: str, name: str) -> bool:
        try:
            self._host.volume(pool, name)
        except (errors.VolumeNotFound, errors.PoolNotFound, errors.PoolInactive):
            return False
        return True

    def _watch(self, pool: str, name: str, see: Callable[[VolumeInfo], None], ended: threading.Event) -> None:
        """What was not there before is ours; no clock tells that, since another host's may be behind."""
        poll_s = _FIRST_POLL_S  # it is to be known as soon as it is there, lest a crash leave it
        while not ended.wait(poll_s):
            try:
                volume = self._host.volume(pool, name)
            except errors.ClonerError:
                poll_s = min(2 * poll_s, _POLL_S)
                continue  # not there yet, or libvirt is away, which the copy will say
            poll_s = _POLL_S
            if not ended.is_set():
                see(volume)

    def _explained(
        self, error: libvirt.libvirtError, connection: libvirt.virConnect, pool: str, name: str
    ) -> errors.ClonerError:
        cause = error.get_error_message()
        if self._connections.failed(error, connection, of_storage=True):
            return errors.LibvirtUnavailable(uri=self._connections.uri, cause=cause)
        code = error.get_error_code()
        if code == libvirt.VIR_ERR_NO_STORAGE_POOL or (code in self._in_the_way and _is_stopped(connection, pool)):
            return NotMade(cause=cause)
        if code in self._in_the_way:
            return errors.VolumeInTheWay(name=name, pool=pool, cause=cause)
        return errors.StepFailed(cause=cause)


def _is_stopped(connection: libvirt.virConnect, pool: str) -> bool:
    try:
        return not connection.storagePoolLookupByName(pool).isActive()
    except libvirt.libvirtError:
        return False
