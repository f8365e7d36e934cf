"""Clones of a volume, as one request asks for them: looked up once, and each with a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from .. import errors
from ..engine.deciding import draft_volume
from ..engine.plan import Draft, VolumePlan, Wishes, split_volume_name
from ..engine.survey import Survey
from ..engine.transaction import Transaction
from ..hypervisor.host import Host, PoolInfo
from ..utils import MAX_FILE_NAME_BYTES, get_next_clone_name
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

    def reserve(self, transaction: Transaction, draft: Draft, task: int) -> tuple[VolumePlan, str]:
        """Raises VolumeNotCloneable while the source is being made, and NameTaken."""
        copy = draft.copies[0]
        if transaction.is_reserved(VOLUME_NAME, copy.source.pool, self.name):
            raise errors.VolumeNotCloneable(name=self.name, cause="it is still being made")
        name = self._new_name(transaction, draft)
        transaction.reserve(VOLUME_NAME, copy.pool, name, task=task)
        plan = draft.volume_plan(name, is_stamped=self.wanted is None)
        return plan, f"storagepools/{copy.pool}/storagevolumes/{name}"

    def _new_name(self, transaction: Transaction, draft: Draft) -> str:
        copy = draft.copies[0]
        taken = _TakenNames(self.services.host, transaction, draft.pool(copy.pool))
        if self.wanted is None:
            base, _ = split_volume_name(self.name)
            free = Skipping(taken, lambda: self.services.observer.name_skipped(VOLUME_NAME))
            return get_next_clone_name(
                free, base, copy.extension, ts=True, clock=transaction, max_bytes=MAX_FILE_NAME_BYTES
            )
        if self.wanted in taken:
            raise errors.NameTaken(name=self.wanted)
        return self.wanted


class _TakenNames(Container[str]):
    """Names that a volume of one pool cannot have: asked one by one, never listed."""

    def __init__(self, host: Host, transaction: Transaction, pool: PoolInfo) -> None:
        self._host = host
        self._transaction = transaction
        self._pool = pool

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if self._transaction.is_reserved(VOLUME_NAME, self._pool.name, name):
            return True
        return self._host.has_volume(self._pool, name)
