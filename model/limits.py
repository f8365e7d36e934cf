"""How much one user may have in the making."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .. import errors
from ..callers import Caller
from ..engine.plan import Copy
from ..engine.transaction import Transaction


@dataclass(frozen=True)
class Limits:
    """0 is no limit. Admins have none."""

    running: int = 0
    bytes: int = 0

    def is_exceeded_by(self, caller: Caller, count: int) -> bool:
        """Whether so many clones at once are too much for a caller, even if nothing of theirs is in the making."""
        return bool(self.running) and count > self.running and not caller.is_admin

    def check(self, transaction: Transaction, caller: Caller, copies: Iterable[Copy]) -> None:
        """Raises TooManyRunning or TooManyBytes if one more clone, of these volumes, is too much for its caller.

        To be asked in the transaction that accepts the clone, so that no two pass together.
        """
        if caller.is_admin or not (self.running or self.bytes):
            return
        running, promised = transaction.usage(caller.name)
        if self.running and running >= self.running:
            raise errors.TooManyRunning(running=running, limit=self.running)
        needed = sum(copy.size for copy in copies)
        if self.bytes and promised + needed > self.bytes:
            raise errors.TooManyBytes(needed, promised, self.bytes)
