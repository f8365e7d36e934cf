"""Domains: what exists, and what may be asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

from .. import errors
from ..callers import Caller
from ..engine.plan import Wishes
from ..hypervisor.infos import DomainInfo
from .accepting import Accepted, Request, accept, check_count
from .deleting import Deleting
from .domainorder import DomainOrder, refuse_written
from .holding import held
from .needs import Needs
from .services import DOMAIN_NAME, Services, read_wishes
from .usage import (
    written_paths,
)


class VMsModel:
    def __init__(self, services: Services) -> None:
        self._services = services

    def get_list(self, caller: Caller, after: str = "", most: int | None = None) -> list[dict[str, Any]]:
        """Domains by name: those after one, `most` of them."""
        with closing(self._services.guests_from(after, most)) as guests:
            there = (guest.resource for guest in guests if guest.is_there_for(caller))
            return list(islice(there, most))

    def lookup(self, name: str, caller: Caller) -> dict[str, Any]:
        """Raises DomainNotFound."""
        return self._services.read(self._domain(name, caller)).resource

    def _domain(self, name: str, caller: Caller) -> DomainInfo:
        """Raises DomainNotFound, also for a domain that is not there for the caller."""
        domain = self._services.host.domain(name)
        if not (caller.is_admin or self._services.read(domain).is_there_for(caller)):
            raise errors.DomainNotFound(name=name)
        return domain

    def clone(self, name: str, request: Request) -> Accepted:
        """Accepts clones of the domain; workers make them.

        `request.params` are as API.json's `vm_clone` has them. Raises what the survey and the plan raise, InvalidName
        and NameTaken, and what `accept` raises; nothing is written then.
        """
        return accept(self._services, request, lambda: self._order(name, request))

    def _order(self, name: str, request: Request) -> DomainOrder:
        services, params = self._services, request.params
        if not request.caller.is_admin:
            self._check_there(name, params.get("pool"), request.caller)
        check_count(params)
        wanted = params.get("name")
        if wanted is not None:
            services.check_domain_name(wanted)
        wishes = _read_wishes(params)
        survey = services.surveyor.domain(name, wishes.pool, wishes.method, flatten=wishes.flatten)
        refuse_written(services, survey, request.caller)
        owner = "" if request.caller.is_admin else request.caller.name
        return DomainOrder(services, name, wanted, wishes, survey, services.taken_marks(), owner)

    def _check_there(self, name: str, pool: str | None, caller: Caller) -> None:
        """Raises DomainNotFound or PoolNotFound, as if what is not there for the caller did not exist."""
        self._domain(name, caller)
        if pool is not None:
            raise errors.PoolNotFound(pool=pool)

    def _own_domain(self, name: str, caller: Caller) -> DomainInfo:
        """Raises DomainNotFound, and NotYours for a domain that somebody else made, or nobody whom one knows."""
        domain = self._domain(name, caller)
        clone = None if caller.may_remove("") else self._services.journal.clones.find(domain.uuid)
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
            host.start(domain.uuid, is_saved=domain.saved_state)
        return self.lookup(name, caller)

    def _refuse_unfinished(self, name: str, act: str) -> None:
        """Raises SourceInUse while a domain is a clone that is not complete."""
        if (DOMAIN_NAME, "", name) in self._services.journal.reserved():
            cause = "it is still being made; wait for its task, or cancel that"
            raise errors.SourceInUse(name=name, act=act, cause=cause)

    def delete(self, name: str, caller: Caller, *, storage: bool = False) -> None:
        """Deletes a domain that is shut off, and its storage if we made it or `storage` asks for it.

        Storage that another domain needs, if only as a backing file, or any volume, and media that are read-only or
        shareable, stay.
        Raises DomainNotFound, NotYours, DomainIsRunning, SourceInUse, DomainDeletedInPart; PoolInactive where the pool
        of what is to go is stopped.
        """
        host = self._services.host
        domain = self._own_domain(name, caller)
        if storage and not caller.may_remove(""):
            raise errors.NotYours(what="Storage that cloner did not make")
        if not domain.is_off:
            raise errors.DomainIsRunning(name=name, state=domain.state)
        self._refuse_unfinished(name, "deleted")
        with held(self._services, name, written_paths(host, domain), "deleted", caller):
            Deleting(self._services).delete(domain, Needs(self._services), everything=storage)

    def delete_made(self, uuid: str, caller: Caller, needs: Needs) -> None:
        """Deletes a clone that is shut off, if it is still there. Raises as `delete` does."""
        host = self._services.host
        try:
            domain = host.domain_by_uuid(uuid)
        except errors.DomainNotFound:
            self._services.journal.clones.forget(uuid)
            return
        if not domain.is_off:
            raise errors.DomainIsRunning(name=domain.name, state=domain.state)
        with held(self._services, domain.name, written_paths(host, domain), "deleted", caller):
            Deleting(self._services).delete(domain, needs, everything=False)


def _read_wishes(params: Mapping[str, Any]) -> Wishes:
    return replace(
        read_wishes(params),
        drop_hostdevs=params.get("drop_hostdevs", False),
        start=params.get("start", False),
        title=params.get("title"),
        description=params.get("description"),
    )
