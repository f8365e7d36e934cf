"""Domains: what exists, and what may be asked of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

from .. import errors
from ..engine import domainxml
from ..engine.journal import SOURCE, Task, Transaction
from ..engine.plan import DomainPlan, Draft, Wishes, draft_domain
from ..engine.xmltree import parse
from ..hypervisor.host import DomainInfo, Host, VolumeInfo
from ..utils import byte_length, get_next_clone_name
from .guests import Guest, mac_mark, read_guest
from .services import (
    DOMAIN_NAME,
    MAC,
    VOLUME_NAME,
    Services,
    Skipping,
    check_domain_name,
    check_independent,
    paths_in_use,
    room,
)


class VMsModel:
    def __init__(self, services: Services) -> None:
        self._services = services

    def get_list(self) -> list[dict[str, Any]]:
        return [guest.resource for guest in sorted(self._services.guests(), key=lambda guest: guest.name)]

    def lookup(self, name: str) -> dict[str, Any]:
        """Raises DomainNotFound."""
        return read_guest(self._services.host.domain(name)).resource

    def clone(self, name: str, params: Mapping[str, Any], mount: str) -> Task:
        """Accepts a clone of the domain; workers make it.

        Args:
            name: of the source.
            params: as API.json's `vm_clone` has them.
            mount: URI path that the plugin is served at, which `target_uri` starts with.

        Raises what the survey and the plan raise, InvalidName and NameTaken; nothing is written then.
        """
        services = self._services
        wanted = params.get("name")
        wishes = Wishes(params.get("pool"), params.get("method", "auto"), params.get("drop_hostdevs", False))
        if wanted is not None:
            check_domain_name(wanted)
        survey = services.surveyor.domain(name, wishes.pool)
        is_taken = services.taken_marks()
        with services.journal.transaction() as transaction:
            draft = draft_domain(survey, wishes, room(transaction, services.host))
            plan, task = self._accept(transaction, draft, is_taken, (name, wanted), mount)
        services.executor.submit(task.id, plan)
        return task

    def _accept(
        self,
        transaction: Transaction,
        draft: Draft,
        is_taken: Callable[[str], bool],
        names: tuple[str, str | None],
        mount: str,
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
        plan = draft.domain_plan(domainxml.Identity(new_name, uuid, str(uuid4()), macs))
        transaction.reserve(DOMAIN_NAME, "", new_name, task=task_id)
        for copy in plan.copies:
            transaction.reserve(VOLUME_NAME, copy.pool, copy.name, task=task_id)
            transaction.promise(task_id, copy.pool, copy.name, copy.size)
            transaction.reserve(SOURCE, copy.source.path, str(task_id), task=task_id)
        uri = f"{mount}/vms/{new_name}/clone"
        return plan, transaction.add_task(task_id, DOMAIN_NAME, uri, self._services.lease.id, plan.describe())

    def delete(self, name: str, *, storage: bool = False) -> None:
        """Deletes a domain that is shut off, and its storage if we made it or `storage` asks for it.

        Storage that another domain uses, and media that are read-only or shareable, stay. Raises DomainNotFound,
        DomainIsRunning, SourceInUse, DomainDeletedInPart.
        """
        host, journal = self._services.host, self._services.journal
        domain = host.domain(name)
        if not domain.is_off:
            raise errors.DomainIsRunning(name=name, state=domain.state)
        if (DOMAIN_NAME, "", name) in journal.reserved():
            raise errors.SourceInUse(name=name, cause="it is still being made; wait for its task, or cancel that")
        check_independent(self._services, name, [volume.path for volume in _volumes(host, domain)])
        clone = journal.clone(domain.uuid)
        others = [read_guest(other) for other in host.list_domains() if other.uuid != domain.uuid]
        ours = None if clone is None else [dict(item) for item in clone.storage]
        doomed = _storage_to_delete(host, domain, ours, others, everything=storage)
        nvram = domainxml.nvram(parse(domain.xml))
        shared = nvram is not None and any(other.nvram == nvram for other in others)
        host.undefine(domain.uuid, keep_nvram=shared or (clone is None and not storage))
        left = {}
        for pool, volume in doomed:
            try:
                host.delete_volume(pool, volume)
            except errors.ClonerError as error:
                left[f"{pool}/{volume}"] = error.reason
        journal.clone_is_gone(domain.uuid)
        if left:
            causes = "; ".join(dict.fromkeys(left.values()))
            raise errors.DomainDeletedInPart(name=name, storage=", ".join(left), cause=causes)


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


def _volumes(host: Host, domain: DomainInfo) -> Iterator[VolumeInfo]:
    """The volumes that a domain's writable disks lie in."""
    for disk in domainxml.disks(parse(domain.xml)):
        if not disk.has_source or disk.readonly or disk.shareable or disk.device == "cdrom":
            continue
        volume = None
        if disk.pool and disk.volume:
            with suppress(errors.PoolNotFound, errors.PoolInactive, errors.VolumeNotFound):
                volume = host.volume(disk.pool, disk.volume)
        elif disk.path:
            volume = host.volume_at(disk.path)
        if volume is not None:
            yield volume


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
        for volume in _volumes(host, domain)
        if volume.path not in used
        and f"{volume.pool}/{volume.name}" not in used
        and (everything or (ours is not None and {"pool": volume.pool, "volume": volume.name} in ours))
    ]
