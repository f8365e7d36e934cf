"""The questions and orders that we have for libvirt: names in, plain data out, libvirt's errors as ours.

Each method is a handful of short calls over one connection. None lists all domains, except those whose name says that
they list, `definitions` and `domain_uuids`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TypeVar

import libvirt

from .. import errors
from . import starting
from .connection import Connections
from .infos import (
    DOMAIN_XML,
    SHUT_OFF,
    STATES,
    Definition,
    DomainInfo,
    definition,
    domain_info,
)
from .storage import Storage

_EXISTS = {libvirt.VIR_ERR_DOM_EXIST, libvirt.VIR_ERR_OPERATION_FAILED}

_HEAD_START_S = 0.1

Read = TypeVar("Read")


class Host(Storage):
    """One libvirt host, through its connections: its domains here, its storage in what this is made of."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(connections)
        self.defining: Callable[[str], AbstractContextManager[Callable[[DomainInfo], None]]] = _nobody_listens
        """What surrounds the definition of a domain, whose UUID it is given; it gives what is told how that is."""

        self.undefined: Callable[[str], None] = lambda _uuid: None
        """Is told the UUID of a domain that is gone."""

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


def _nobody_listens(_uuid: str) -> AbstractContextManager[Callable[[DomainInfo], None]]:
    return nullcontext(lambda _domain: None)
