"""Domains: what exists, and what may be asked of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from .. import errors
from ..callers import Caller
from ..engine import domainxml
from ..engine.deciding import draft_domain
from ..engine.journal import SOURCE, Task, Transaction
from ..engine.plan import DomainPlan, Draft
from ..engine.survey import Survey
from ..engine.xmltree import parse
from ..hypervisor.host import DomainInfo, Host
from ..utils import byte_length, get_next_clone_name
from .guests import Guest, mac_mark, read_guest
from .services import (
    DOMAIN_NAME,
    MAC,
    VOLUME_NAME,
    Services,
    Skipping,
    check_domain_name,
    paths_in_use,
    read_wishes,
    room,
)
from .usage import held, refuse_held, running_users, written_paths, written_volumes


class VMsModel:
    def __init__(self, services: Services) -> None:
        self._services = services

    def get_list(self, caller: Caller) -> list[dict[str, Any]]:
        guests = [guest for guest in self._services.guests() if guest.is_there_for(caller)]
        return [guest.resource for guest in sorted(guests, key=lambda guest: guest.name)]

    def lookup(self, name: str, caller: Caller) -> dict[str, Any]:
        """Raises DomainNotFound."""
        return read_guest(self._domain(name, caller)).resource

    def _domain(self, name: str, caller: Caller) -> DomainInfo:
        """Raises DomainNotFound, also for a domain that is not there for the caller."""
        domain = self._services.host.domain(name)
        if not (caller.is_admin or read_guest(domain).is_there_for(caller)):
            raise errors.DomainNotFound(name=name)
        return domain

    def clone(self, name: str, params: Mapping[str, Any], mount: str, caller: Caller) -> Task:
        """Accepts a clone of the domain; workers make it.

        Args:
            name: of the source.
            params: as API.json's `vm_clone` has them.
            mount: URI path that the plugin is served at, which `target_uri` starts with.
            caller: who asks, and for whom the source and the pool must be there.

        Raises what the survey and the plan raise, InvalidName and NameTaken; nothing is written then.
        """
        services = self._services
        if not caller.is_admin:
            self._check_there(name, params.get("pool"), caller)
        wanted = params.get("name")
        wishes = replace(read_wishes(params), drop_hostdevs=params.get("drop_hostdevs", False))
        if wanted is not None:
            check_domain_name(wanted)
        survey = services.surveyor.domain(name, wishes.pool, flatten=wishes.flatten)
        self._refuse_written(survey, caller)
        is_taken = services.taken_marks()
        with services.journal.transaction() as transaction:
            draft = draft_domain(survey, wishes, room(transaction, services.host))
            refuse_held(services, transaction, name, draft.reads)
            plan, task = self._accept(transaction, draft, is_taken, (name, wanted), mount, caller)
        services.executor.submit(task.id, plan)
        return task

    def _refuse_written(self, survey: Survey, caller: Caller) -> None:
        """Raises DiskNotCloneable for a disk that another guest writes to, which runs: an admin is told which."""
        services, domain = self._services, survey.domain
        for disk in survey.disks:
            if domain is None or disk.volume is None:
                continue
            users = running_users(services.inventory, services.host, disk.volume, but=domain.uuid)
            if users:
                which = ", ".join(users) if caller.is_admin else "another guest"
                cause = f"{which}, which runs, may write to it"
                raise errors.DiskNotCloneable(name=domain.name, disk=disk.disk.target, cause=cause)

    def _accept(
        self,
        transaction: Transaction,
        draft: Draft,
        is_taken: Callable[[str], bool],
        names: tuple[str, str | None],
        mount: str,
        caller: Caller,
    ) -> tuple[DomainPlan, Task]:
        name, wanted = names
        taken = _TakenNames(self._services.host, transaction, draft)
        if wanted is not None and byte_length(wanted) > draft.max_wanted_bytes():
            cause = f"it is longer than {draft.max_wanted_bytes()} bytes, which leaves its NVRAM no name of its own"
            raise errors.InvalidName(name=wanted[:80], cause=cause)
        if wanted is not None and wanted in taken:
            raise errors.NameTaken(name=wanted)
        free = Skipping(taken, lambda: self._services.observer.name_skipped(DOMAIN_NAME))
        new_name = wanted or get_next_clone_name(
            free, name, ts=True, clock=transaction, max_bytes=draft.max_name_bytes()
        )
        task_id = transaction.new_task_id()
        uuid = str(uuid4())
        macs = _reserve_macs(transaction, draft.macs(), is_taken, task_id, uuid)
        owner = "" if caller.is_admin else caller.name
        self._services.limits.check(transaction, caller, draft.copies)
        plan = draft.domain_plan(domainxml.Identity(new_name, uuid, str(uuid4()), macs, owner))
        transaction.reserve(DOMAIN_NAME, "", new_name, task=task_id)
        for copy in plan.copies:
            transaction.reserve(VOLUME_NAME, copy.pool, copy.name, task=task_id)
            transaction.promise(task_id, copy.pool, copy.name, copy.size)
        for path in draft.reads:
            transaction.reserve(SOURCE, path, str(task_id), task=task_id)
        uri = f"{mount}/vms/{new_name}/clone"
        lease = self._services.lease.id
        return plan, transaction.add_task(task_id, DOMAIN_NAME, uri, lease, plan.describe(), owner=caller.name)

    def _check_there(self, name: str, pool: str | None, caller: Caller) -> None:
        """Raises DomainNotFound or PoolNotFound, as if what is not there for the caller did not exist."""
        self._domain(name, caller)
        if pool is not None:
            raise errors.PoolNotFound(pool=pool)

    def _own_domain(self, name: str, caller: Caller) -> DomainInfo:
        """Raises DomainNotFound, and NotYours for a domain that somebody else made, or nobody whom one knows."""
        domain = self._domain(name, caller)
        clone = None if caller.may_remove("") else self._services.journal.clone(domain.uuid)
        if not caller.may_remove(clone.owner if clone else ""):
            raise errors.NotYours(what=f"Virtual machine {name}")
        return domain

    def start(self, name: str, caller: Caller) -> dict[str, Any]:
        """Starts a domain that is shut off; returns it. Its disks must not be what linked clones stand on.

        Raises DomainNotFound, NotYours, DomainIsActive, SourceInUse; LibvirtFailed with QEMU's reason.
        """
        host = self._services.host
        domain = self._own_domain(name, caller)
        if not domain.is_off:
            raise errors.DomainIsActive(name=name, state=domain.state)
        self._refuse_unfinished(name, "started")
        with held(self._services, name, written_paths(host, domain), "started", caller):
            host.start(domain.uuid)
        return self.lookup(name, caller)

    def _refuse_unfinished(self, name: str, act: str) -> None:
        """Raises SourceInUse while a domain is a clone that is not complete."""
        if (DOMAIN_NAME, "", name) in self._services.journal.reserved():
            cause = "it is still being made; wait for its task, or cancel that"
            raise errors.SourceInUse(name=name, act=act, cause=cause)

    def delete(self, name: str, caller: Caller, *, storage: bool = False) -> None:
        """Deletes a domain that is shut off, and its storage if we made it or `storage` asks for it.

        Storage that another domain uses, and media that are read-only or shareable, stay. Raises DomainNotFound,
        NotYours, DomainIsRunning, SourceInUse, DomainDeletedInPart.
        """
        host = self._services.host
        domain = self._own_domain(name, caller)
        if storage and not caller.may_remove(""):
            raise errors.NotYours(what="Storage that cloner did not make")
        if not domain.is_off:
            raise errors.DomainIsRunning(name=name, state=domain.state)
        self._refuse_unfinished(name, "deleted")
        with held(self._services, name, written_paths(host, domain), "deleted", caller):
            self._delete(domain, everything=storage)

    def _delete(self, domain: DomainInfo, *, everything: bool) -> None:
        host, journal = self._services.host, self._services.journal
        clone = journal.clone(domain.uuid)
        others = [read_guest(other) for other in host.list_domains() if other.uuid != domain.uuid]
        ours = None if clone is None else [dict(item) for item in clone.storage]
        doomed = _storage_to_delete(host, domain, ours, others, everything=everything)
        nvram = domainxml.nvram(parse(domain.xml))
        shared = nvram is not None and any(other.nvram == nvram for other in others)
        host.undefine(domain.uuid, keep_nvram=shared or (clone is None and not everything))
        left = {}
        for pool, volume in doomed:
            try:
                host.delete_volume(pool, volume)
            except errors.ClonerError as error:
                left[f"{pool}/{volume}"] = error.reason
        journal.clone_is_gone(domain.uuid)
        if left:
            causes = "; ".join(dict.fromkeys(left.values()))
            raise errors.DomainDeletedInPart(name=domain.name, storage=", ".join(left), cause=causes)


class _TakenNames(Container[str]):
    """Names that a clone cannot have: asked one by one, since listing a host costs more the more it has."""

    def __init__(self, host: Host, transaction: Transaction, draft: Draft) -> None:
        self._host = host
        self._transaction = transaction
        self._draft = draft

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if self._transaction.is_reserved(DOMAIN_NAME, "", name) or self._host.has_domain(name):
            return True
        nvram = self._draft.nvram_path(name)
        return self._volumes_in_the_way(name) or (nvram is not None and os.path.lexists(nvram))

    def _volumes_in_the_way(self, name: str) -> bool:
        for copy in self._draft.copies:
            volume = self._draft.volume_name(copy, name)
            if self._transaction.is_reserved(VOLUME_NAME, copy.pool, volume):
                return True
            if self._host.has_volume(self._draft.pool(copy.pool), volume):
                return True
        return False


def _reserve_macs(
    transaction: Transaction, of_source: list[str], is_taken: Callable[[str], bool], task: int, uuid: str
) -> list[str]:
    """New MACs with the vendor prefixes of the source's, which no domain of the host has, nor a clone on its way."""
    macs = []
    for old in of_source:
        while True:
            mac = old[:8].lower() + "".join(f":{byte:02x}" for byte in secrets.token_bytes(3))
            if not is_taken(mac_mark(mac)) and transaction.reserve(MAC, "", mac, task=task, domain=uuid):
                break
        macs.append(mac)
    return macs


def _storage_to_delete(
    host: Host,
    domain: DomainInfo,
    ours: list[dict[str, str]] | None,
    others: list[Guest],
    *,
    everything: bool,
) -> list[tuple[str, str]]:
    """(pool, volume) of each disk that goes with its domain."""
    used = paths_in_use(others)
    return [
        (volume.pool, volume.name)
        for volume in written_volumes(host, domain)
        if volume.path not in used
        and f"{volume.pool}/{volume.name}" not in used
        and (everything or (ours is not None and {"pool": volume.pool, "volume": volume.name} in ours))
    ]
