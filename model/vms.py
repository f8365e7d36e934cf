"""Domains: what exists, and what may be asked of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from typing import Any

from .. import errors
from ..callers import Caller
from ..engine import domainxml, files
from ..engine.plan import Wishes
from ..hypervisor.infos import DomainInfo, VolumeInfo
from .accepting import Accepted, Request, accept, check_count
from .deletions import Deletions
from .domainorder import DomainOrder, refuse_written
from .guests import disk_mark
from .needs import Needs
from .services import DOMAIN_NAME, Services, read_wishes
from .usage import (
    files_in_no_pool,
    forget_deleted,
    held,
    refuse_open,
    stopped_volumes,
    written_paths,
    written_volumes,
)

_LOOKS_S = 5.0
"""How long a program that only looks at an image has it open at most."""


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
            self._delete(domain, Needs(self._services), everything=storage)

    def delete_made(self, uuid: str, caller: Caller, needs: Needs) -> None:
        """Deletes a clone that is shut off, if it is still there. Raises as `delete` does."""
        host = self._services.host
        try:
            domain = host.domain_by_uuid(uuid)
        except errors.DomainNotFound:
            self._services.journal.clone_is_gone(uuid)
            return
        if not domain.is_off:
            raise errors.DomainIsRunning(name=domain.name, state=domain.state)
        with held(self._services, domain.name, written_paths(host, domain), "deleted", caller):
            self._delete(domain, needs, everything=False)

    def _delete(self, domain: DomainInfo, needs: Needs, *, everything: bool) -> None:
        journal = self._services.journal
        clone = journal.clone(domain.uuid)
        ours = [] if clone is None else [dict(item) for item in clone.storage]
        seen = list(written_volumes(self._services.host, domain))
        for pool, volume in stopped_volumes(self._services.host, domain):
            if everything or {"pool": pool, "volume": volume} in ours:
                raise errors.PoolInactive(pool=pool)
        doomed = [
            volume
            for volume in seen
            if (everything or {"pool": volume.pool, "volume": volume.name} in ours)
            and not self._is_needed(volume, domain.uuid, needs)
        ]
        nvram = self._services.read(domain).nvram or ""
        lost = self._out_of_reach(domain, ours, seen, needs, everything=everything)
        lost |= self._given_up(domain, [item for item in ours if item.get("file") != nvram], seen, needs)
        keep_nvram = (clone is None and not everything) or bool(needs.users(nvram, but=domain.uuid))
        # libvirt removes those of a guest that was started meanwhile as well, so the server does it where it can.
        known = {} if keep_nvram or any(map(files.is_elsewhere, seen)) else self._removable(nvram)
        refuse_open(self._services, domain.name, [*(volume.path for volume in doomed), *([nvram] if known else [])])
        with Deletions(self._services).written_down(domain, doomed, nvram, known):
            with_tpm = (clone is not None or everything) and domainxml.has_kept_tpm(domain.tree)
            self._undefine(domain, keep_nvram=keep_nvram or bool(known), with_tpm=with_tpm)
            left = lost | self._delete_volumes(domain, doomed) | self._remove_nvram(domain, nvram, known)
            forget_deleted(self._services, [each for each in doomed if f"{each.pool}/{each.name}" not in left])
            journal.clone_is_gone(domain.uuid)
        if left:
            causes = "; ".join(dict.fromkeys(left.values()))
            raise errors.DomainDeletedInPart(name=domain.name, storage=", ".join(left), cause=causes)

    def _out_of_reach(
        self,
        domain: DomainInfo,
        ours: Collection[Mapping[str, str]],
        seen: Collection[VolumeInfo],
        needs: Needs,
        *,
        everything: bool,
    ) -> dict[str, str]:
        """Storage that should go and cannot, since no pool has it, or not that in which we made it; and why."""
        loose = files_in_no_pool(self._services.host, domain) if everything else []
        left = dict.fromkeys(filter(files.may_be_there, loose), "no active storage pool has it as a volume")
        found = {(volume.pool, volume.name) for volume in seen}
        paths = {volume.path for volume in seen} if everything else set()  # what goes, whatever its pool is
        for disk in domainxml.disks(domain.tree):
            if disk.is_written and disk.path not in paths:
                name = os.path.basename(disk.place)
                pools = [item["pool"] for item in ours if item.get("volume") == name]
                hidden = [pool for pool in pools if (pool, name) not in found and not self._is_gone(pool, disk.path)]
                if hidden:
                    left[disk.place] = f"it is no volume of pool {', '.join(hidden)} any more"
        return {
            place: why
            for place, why in left.items()
            if not needs.users(place, but=domain.uuid) and not needs.overlays(place)
        }

    def _given_up(
        self, domain: DomainInfo, ours: Collection[Mapping[str, str]], seen: Collection[VolumeInfo], needs: Needs
    ) -> dict[str, str]:
        """What we made for a guest that has something else in its place by now, such as a snapshot of it; and why.

        It may have been kept on purpose.
        """
        names = {os.path.basename(disk.place) for disk in domainxml.disks(domain.tree)}
        names.update(volume.name for volume in seen)
        left = {}
        for item in ours:
            place = item.get("file", "")
            if item.get("volume", "") in names or (place and not self._is_seen(place)):
                continue
            with suppress(errors.PoolNotFound, errors.VolumeNotFound):
                try:
                    place = place or self._services.host.volume(item["pool"], item["volume"]).path
                except errors.PoolInactive:
                    place = f"{item['pool']}/{item['volume']}"
                left[place] = "the guest had something else in its place by now"
        return {place: why for place, why in left.items() if not needs.users(place, but=domain.uuid)}

    def _is_seen(self, path: str) -> bool:
        return self._services.connections.is_local and files.may_be_there(path)

    def _is_needed(self, volume: VolumeInfo, but: str, needs: Needs) -> bool:
        """Whether anybody needs a volume, other than the domain with the UUID `but`; events may tell of newer users."""
        if needs.users(*volume.places, but=but) or needs.overlays(*volume.places):
            return True
        users = [user for place in volume.places for user in self._services.inventory.having(disk_mark(place)) or ()]
        return any(user.uuid != but for user in users)

    def _is_gone(self, pool: str, path: str | None) -> bool:
        """Whether a volume that libvirt does not find in a pool is nowhere else either."""
        if path and self._services.connections.is_local and not files.is_barred(path):
            return not files.may_be_there(path)
        with suppress(errors.PoolNotFound):
            found = self._services.host.pool(pool)
            return found.is_active and (not path or os.path.dirname(path) == found.path)
        return False

    def _removable(self, path: str) -> dict[str, int]:
        """The identity of a file that the server can remove by itself; empty for any other."""
        can_remove = self._services.connections.is_local and path and files.can_write(os.path.dirname(path))
        return files.identity(path) if can_remove else {}

    def _undefine(self, domain: DomainInfo, *, keep_nvram: bool, with_tpm: bool) -> None:
        """Raises SourceInUse for what was started meanwhile, and leaves it defined: libvirt undefines what runs."""
        host = self._services.host
        host.undefine(domain.uuid, keep_nvram=keep_nvram, with_tpm=with_tpm)
        with suppress(errors.DomainNotFound):
            if not host.domain_by_uuid(domain.uuid).persistent:
                host.define_again(domain)
            cause = "somebody has started or defined it meanwhile; shut it down, and try again"
            raise errors.SourceInUse(name=domain.name, act="deleted", cause=cause)

    def _delete_volumes(self, domain: DomainInfo, volumes: Collection[VolumeInfo]) -> dict[str, str]:
        """Deletes volumes; returns which are left, and why. Raises LibvirtUnavailable."""
        left = {}
        for volume in volumes:
            try:
                refuse_open(self._services, domain.name, [volume.path], _LOOKS_S)
                self._services.host.delete_volume(volume.pool, volume.name, volume.path)
            except errors.LibvirtUnavailable:  # the deletion goes on when libvirt is back
                raise
            except errors.ClonerError as error:
                left[f"{volume.pool}/{volume.name}"] = error.reason
        return left

    def _remove_nvram(self, domain: DomainInfo, path: str, known: dict[str, int]) -> dict[str, str]:
        try:
            refuse_open(self._services, domain.name, [path] if known else [], _LOOKS_S)
            files.remove(path, known)
        except errors.ClonerError as error:
            return {path: error.reason}
        return {}


def _read_wishes(params: Mapping[str, Any]) -> Wishes:
    return replace(
        read_wishes(params),
        drop_hostdevs=params.get("drop_hostdevs", False),
        start=params.get("start", False),
        title=params.get("title"),
        description=params.get("description"),
    )
