"""Clones of a volume, as one request asks for them: looked up once, and each with a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from .. import errors
from ..clock import StampSource
from ..engine.deciding import draft_volume
from ..engine.plan import Draft, VolumePlan, Wishes, split_volume_name
from ..engine.survey import Survey
from ..engine.transaction import Transaction
from ..hypervisor.host import Host
from ..hypervisor.infos import PoolInfo
from ..utils import MAX_FILE_NAME_BYTES, get_next_clone_name
from .accepting import Free, settled
from .reserving import is_being_made, is_reserved, reserve
from .services import VOLUME_NAME, Services, Skipping


@dataclass(frozen=True)
class VolumeOrder:
    """What is to be cloned. `wanted` is the name that was asked for."""

    services: Services
    name: str
    wanted: str | None
    wishes: Wishes
    survey: Survey

    kind = VOLUME_NAME

    def draft(self, room: Callable[[PoolInfo], int]) -> Draft:
        return draft_volume(self.survey, self.wishes, room)

    def find_name(self, draft: Draft, stamps: StampSource) -> Free | None:
        if self.wanted is not None:
            return None
        return Free(self._new_name(draft, stamps, _OfHost(self.services.host, draft.pool(draft.copies[0].pool))))

    def reserve(self, transaction: Transaction, draft: Draft, task: int, found: Free | None) -> tuple[VolumePlan, str]:
        """Raises VolumeNotCloneable while the source is being made, and NameTaken."""
        copy = draft.copies[0]
        if is_being_made(self.services, transaction, copy.source):
            raise errors.VolumeNotCloneable(name=self.name, cause="it is still being made")
        taken = _Taken(self.services, transaction, draft.pool(copy.pool))
        if self.wanted is not None:
            name = self.wanted
            if name in taken:
                raise errors.NameTaken(name=name, cause=f"a volume in pool {copy.pool} has it, or is going to")
        else:
            name = settled(found, taken.is_reserved, self._skipped, lambda: self._new_name(draft, transaction, taken))
        reserve(self.services, transaction, draft.pool(copy.pool), name, task=task)
        plan = draft.volume_plan(name, is_stamped=self.wanted is None)
        return plan, f"storagepools/{copy.pool}/storagevolumes/{name}"

    def _new_name(self, draft: Draft, stamps: StampSource, taken: Container[str]) -> str:
        base, _ = split_volume_name(self.name)
        free = Skipping(taken, self._skipped)
        return get_next_clone_name(
            free, base, draft.copies[0].extension, ts=True, clock=stamps, max_bytes=MAX_FILE_NAME_BYTES
        )

    def _skipped(self) -> None:
        self.services.observer.name_skipped(VOLUME_NAME)


class _OfHost(Container[str]):
    """Names that volumes of one pool have: asked one by one, never listed."""

    def __init__(self, host: Host, pool: PoolInfo) -> None:
        self._host = host
        self._pool = pool

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._host.has_volume(self._pool, name)


class _Taken(_OfHost):
    """The same, and the names that clones on their way are going to have."""

    def __init__(self, services: Services, transaction: Transaction, pool: PoolInfo) -> None:
        super().__init__(services.host, pool)
        self._services = services
        self._transaction = transaction

    def is_reserved(self, name: str) -> bool:
        return is_reserved(self._services, self._transaction, self._pool, name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (self.is_reserved(name) or super().__contains__(name))
