"""Clones of a domain, as one request asks for them: looked up once, each with a name, MACs and volumes of its own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Container
from dataclasses import dataclass
from uuid import uuid4

from .. import errors
from ..callers import Caller
from ..clock import StampSource
from ..engine import domainxml
from ..engine.deciding import draft_domain
from ..engine.plan import DomainPlan, Draft, Wishes
from ..engine.survey import Survey
from ..engine.transaction import Transaction
from ..hypervisor.infos import PoolInfo
from ..utils import byte_length, get_next_clone_name
from .accepting import Free, settled
from .guests import disk_mark, mac_mark, nvram_mark, path_mark
from .reserving import is_being_made, is_reserved, reserve
from .services import DOMAIN_NAME, MAC, PATH, Services, Skipping
from .usage import running_users

_CALLED_SO = "a virtual machine is called so"
_IS_MADE = "a clone that is being made has it, or a disk of one"
_HAS_VOLUME = "a disk of it would be {volume} in pool {pool}, which is there already, or another guest's"


@dataclass(frozen=True)
class DomainOrder:
    """What is to be cloned. `wanted` is the name that was asked for; `owner` the user that clones belong to, or ''."""

    services: Services
    name: str
    wanted: str | None
    wishes: Wishes
    survey: Survey
    is_taken: Callable[[str], bool]
    owner: str

    kind = DOMAIN_NAME

    def draft(self, room: Callable[[PoolInfo], int]) -> Draft:
        return draft_domain(self.survey, self.wishes, room)

    def find_name(self, draft: Draft, stamps: StampSource) -> Free | None:
        if self.wanted is not None:
            return None
        uuid = str(uuid4())
        return Free(self._new_name(draft, stamps, _OfHost(self.services, draft, self.is_taken, uuid)), uuid)

    def reserve(self, transaction: Transaction, draft: Draft, task: int, found: Free | None) -> tuple[DomainPlan, str]:
        """Raises InvalidName and NameTaken; SourceInUse while the source, or a disk of it, is still being made."""
        self._refuse_unfinished(transaction, draft)
        uuid = found.uuid if found is not None else str(uuid4())
        taken = _Taken(self.services, transaction, draft, self.is_taken, uuid)
        if self.wanted is not None:
            self._check_wanted(self.wanted, draft, taken)
            name = self.wanted
        else:
            name = settled(found, taken.is_reserved, self._skipped, lambda: self._new_name(draft, transaction, taken))
        macs = _reserve_macs(transaction, draft.macs(), self.is_taken, task, uuid)
        identity = domainxml.Identity(name, uuid, str(uuid4()), macs, self.owner, self.services.log_in)
        plan = draft.domain_plan(identity, is_stamped=self.wanted is None)
        transaction.reserve(DOMAIN_NAME, "", name, task=task)
        for copy in plan.copies:
            reserve(self.services, transaction, draft.pool(copy.pool), copy.name, task=task)
        for path in plan.paths:
            transaction.reserve(PATH, path, "", task=task)
        return plan, f"vms/{name}"

    def _refuse_unfinished(self, transaction: Transaction, draft: Draft) -> None:
        if transaction.is_reserved(DOMAIN_NAME, "", self.name) or any(
            is_being_made(self.services, transaction, copy.source) for copy in draft.copies
        ):
            cause = "it is still being made; wait for its task, or cancel that"
            raise errors.SourceInUse(name=self.name, act="cloned", cause=cause)

    def _new_name(self, draft: Draft, stamps: StampSource, taken: Container[str]) -> str:
        free = Skipping(taken, self._skipped)
        return get_next_clone_name(free, self.name, ts=True, clock=stamps, max_bytes=draft.max_name_bytes())

    def _skipped(self) -> None:
        self.services.observer.name_skipped(DOMAIN_NAME)

    def _check_wanted(self, name: str, draft: Draft, taken: _Taken) -> None:
        """Raises InvalidName and NameTaken."""
        if byte_length(name) > draft.max_wanted_bytes():
            cause = f"it is longer than {draft.max_wanted_bytes()} bytes, which leaves its NVRAM no name of its own"
            raise errors.InvalidName(name=name[:80], cause=cause)
        bearer = taken.bearer(name)
        if bearer is not None:
            raise errors.NameTaken(name=name, cause=bearer)
        path = taken.path_in_the_way(name)
        if path is not None:
            raise errors.InvalidName(name=name, cause=f"a clone of that name would have the path {path}")


def refuse_written(services: Services, survey: Survey, caller: Caller) -> None:
    """Raises DiskNotCloneable for a disk that another guest writes to, which runs: an admin is told which."""
    domain = survey.domain
    for disk in survey.disks:
        if domain is None or disk.volume is None:
            continue
        users = running_users(services.inventory, services.host, disk.volume, but=domain.uuid)
        if users or disk.has_writer:
            which = ", ".join(users or ["a QEMU"]) if caller.is_admin else "another guest"
            cause = f"{which}, which runs, may write to it"
            raise errors.DiskNotCloneable(name=domain.name, disk=disk.disk.target, cause=cause)


class _OfHost(Container[str]):
    """Names that a clone cannot have because of what the host has: asked one by one, never listed."""

    def __init__(self, services: Services, draft: Draft, is_taken: Callable[[str], bool], uuid: str) -> None:
        self._host = services.host
        self._is_local = services.connections.is_local
        self._draft = draft
        self._is_taken = is_taken
        self._uuid = uuid

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (self.bearer(name) is not None or self.path_in_the_way(name) is not None)

    def path_in_the_way(self, name: str) -> str | None:
        """A socket, a log or a pipe that a clone of this name would have and cannot, with the reason, if so."""
        for path, is_made_anew in self._paths(name).items():
            if self._is_taken(path_mark(path)):
                return f"{path}, which is another guest's"
            if is_made_anew and self._is_local and os.path.lexists(path):
                return f"{path}, where there is something already, which its start would overwrite"
        return None

    def _paths(self, name: str) -> dict[str, bool]:
        return self._draft.own_paths(name, self._uuid)

    def bearer(self, name: str) -> str | None:
        """Who has the name, or that which the clone's variable store or a disk would have; in words."""
        if self._host.has_domain(name):
            return _CALLED_SO
        nvram = self._draft.nvram_path(name)
        if nvram is not None and (os.path.lexists(nvram) or self._is_taken(nvram_mark(nvram))):
            return f"its UEFI variables would lie in {nvram}, which is there already, or another guest's"
        volumes = ((pool.name, each) for pool, each in self._volumes(name) if self._is_in_the_way(pool, each))
        return next((_HAS_VOLUME.format(pool=pool, volume=each) for pool, each in volumes), None)

    def _volumes(self, name: str) -> list[tuple[PoolInfo, str]]:
        """The volumes that a clone of this name would have."""
        return [(self._draft.pool(copy.pool), self._draft.volume_name(copy, name)) for copy in self._draft.copies]

    def _is_in_the_way(self, pool: PoolInfo, volume: str) -> bool:
        places = [f"{pool.name}/{volume}", *([os.path.join(pool.path, volume)] if pool.path else [])]
        # A guest may name what is not there any more, or not yet.
        return self._host.has_volume(pool, volume) or any(self._is_taken(disk_mark(place)) for place in places)


class _Taken(_OfHost):
    """The same, and the names that clones on their way are going to have."""

    def __init__(
        self, services: Services, transaction: Transaction, draft: Draft, is_taken: Callable[[str], bool], uuid: str
    ) -> None:
        super().__init__(services, draft, is_taken, uuid)
        self._services = services
        self._transaction = transaction

    def is_reserved(self, name: str) -> bool:
        """Whether a clone on its way has the name, or a disk or a path of one that this would have."""
        return self._is_called_so(name) or self._reserved_path(name) is not None

    def path_in_the_way(self, name: str) -> str | None:
        path = self._reserved_path(name)
        return f"{path}, which is that of a clone that is being made" if path else super().path_in_the_way(name)

    def bearer(self, name: str) -> str | None:
        return _IS_MADE if self._is_called_so(name) else super().bearer(name)

    def _is_called_so(self, name: str) -> bool:
        return self._transaction.is_reserved(DOMAIN_NAME, "", name) or any(
            is_reserved(self._services, self._transaction, pool, volume) for pool, volume in self._volumes(name)
        )

    def _reserved_path(self, name: str) -> str | None:
        return next((path for path in self._paths(name) if self._transaction.is_reserved(PATH, path, "")), None)


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
