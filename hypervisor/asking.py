"""How libvirt is asked: over one of the connections for short calls, with its errors as ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from .. import errors
from .connection import Connections

_NOT_FOUND = {
    libvirt.VIR_ERR_NO_DOMAIN: errors.DomainNotFound,
    libvirt.VIR_ERR_NO_STORAGE_POOL: errors.PoolNotFound,
    libvirt.VIR_ERR_NO_STORAGE_VOL: errors.VolumeNotFound,
}


class Asking:
    """One libvirt host, through its connections.

    Every method of what is made of this raises LibvirtUnavailable when the host cannot be asked, and LibvirtFailed for
    what is not foreseen.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._kept = threading.local()

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
