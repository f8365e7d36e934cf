"""How the bytes get there: one small class a method, each with the same three verbs.

`refusal` says why a method cannot serve a copy, `make` makes the volume or raises and leaves nothing of its own,
`remove` takes a volume back that `make` made.
"""

from __future__ import annotations

import os
import shutil
from typing import Protocol

import libvirt
from lxml import etree
from lxml.builder import E

from .. import errors
from ..hypervisor.connection import Connections
from ..hypervisor.host import Host, VolumeInfo
from .plan import Copy


class Method(Protocol):
    """A way to make one volume from another."""

    name: str

    def refusal(self, copy: Copy) -> str | None:
        """Why this method cannot make this copy; None if it can."""

    def make(self, copy: Copy) -> VolumeInfo:
        """Makes the volume, exclusively: what is there already is never overwritten.

        Raises VolumeInTheWay when something of that name is there, which is then not ours; StepFailed with the cause;
        LibvirtUnavailable when the connection broke, and it is unknown whether the volume was made.
        """

    def remove(self, pool: str, name: str) -> None:
        """Removes a volume that this method made. Raises Busy while that has to wait."""


class LibvirtCopy:
    """`virStoragePool.createXMLFrom`: libvirt copies, on a connection of its own, in every pool that can create."""

    name = "libvirt"

    def __init__(self, connections: Connections, host: Host) -> None:
        self._connections = connections
        self._host = host
        self._in_the_way = {libvirt.VIR_ERR_STORAGE_VOL_EXIST, libvirt.VIR_ERR_OPERATION_INVALID}
        if connections.is_test_driver:
            self._in_the_way.add(libvirt.VIR_ERR_OPERATION_FAILED)

    def refusal(self, copy: Copy) -> str | None:  # noqa: ARG002 - the protocol's signature
        return None

    def make(self, copy: Copy) -> VolumeInfo:
        with self._connections.long_call() as connection:
            try:
                self._create(connection, copy)
            except libvirt.libvirtError as error:
                raise self._explained(error, connection, copy) from error
        return self._host.volume(copy.pool, copy.name)

    def remove(self, pool: str, name: str) -> None:
        self._host.delete_volume(pool, name)

    def _create(self, connection: libvirt.virConnect, copy: Copy) -> None:
        pool = connection.storagePoolLookupByName(copy.pool)
        if self._connections.is_test_driver and copy.source.pool != copy.pool:
            pool.createXML(_volume_xml(copy), 0)  # it has no bytes to copy, and refuses to pretend across pools
            return
        source = connection.storagePoolLookupByName(copy.source.pool).storageVolLookupByName(copy.source.name)
        pool.createXMLFrom(_volume_xml(copy), source, 0)

    def _explained(self, error: libvirt.libvirtError, connection: libvirt.virConnect, copy: Copy) -> errors.ClonerError:
        cause = error.get_error_message()
        if self._connections.failed(error, connection):
            return errors.LibvirtUnavailable(uri=self._connections.uri, cause=cause)
        if error.get_error_code() in self._in_the_way:
            return errors.VolumeInTheWay(name=copy.name, pool=copy.pool, cause=cause)
        return errors.StepFailed(cause=cause)


def _volume_xml(copy: Copy) -> str:
    """The new volume. `allocation` 0 keeps it sparse; without `compat` libvirt writes qcow2 in its old form."""
    source = copy.source
    target = E.target(E.format(type=copy.format))
    if copy.format == source.format:
        if source.compat:
            target.append(E.compat(source.compat))
        if source.cluster_size:
            target.append(E.clusterSize(str(source.cluster_size), unit="B"))
        if source.features:
            target.append(E.features(*(etree.Element(feature) for feature in source.features)))
    volume = E.volume(
        E.name(copy.name), E.capacity(str(source.capacity), unit="bytes"), E.allocation("0", unit="bytes"), target
    )
    return etree.tostring(volume, encoding="unicode")


def copy_file(source: str, target: str) -> dict[str, int]:
    """Copies a small file with its owner and mode to a name that must be free; returns what identifies it.

    A source that is not there leaves the target missing as well, and returns nothing. Raises VolumeInTheWay and
    StepFailed.
    """
    try:
        with open(source, "rb") as reader:
            status = os.fstat(reader.fileno())
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as writer:
                made = os.fstat(descriptor)
                try:
                    shutil.copyfileobj(reader, writer)
                    writer.flush()
                    if os.geteuid() == 0:
                        os.fchown(descriptor, status.st_uid, status.st_gid)
                    os.fchmod(descriptor, status.st_mode & 0o777)
                except OSError:
                    os.unlink(target)
                    raise
    except FileExistsError as error:
        raise errors.VolumeInTheWay(name=os.path.basename(target), pool=os.path.dirname(target), cause=error) from error
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise errors.StepFailed(cause=error) from error
    return {"device": made.st_dev, "inode": made.st_ino}


def remove_file(path: str, identity: dict[str, int]) -> None:
    """Removes a file if it is still the one that `copy_file` made. Raises StepFailed."""
    try:
        status = os.lstat(path)
        if (status.st_dev, status.st_ino) == (identity.get("device"), identity.get("inode")):
            os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise errors.StepFailed(cause=error) from error
