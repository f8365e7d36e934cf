"""Idempotency keys: a request that is repeated, because its answer was lost, is not done twice.

As in the IETF's draft-ietf-httpapi-idempotency-key-header-07: the same key with the same request gets the first one's
answer, with another one it is refused. A request that failed leaves its key free, so that it can be tried again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..engine.journal import Journal
from ..engine.lease import Lease
from ..engine.records import Task

LONGEST_KEY = 255
KEPT_US = 24 * 3_600_000_000
"""How long a key is remembered, in µs."""


@dataclass(frozen=True)
class Key:
    """A key that somebody sent, and what makes the request that it came with the same as another."""

    owner: str
    text: str
    request: str
    """SHA-256 of the path and the body, in hex."""


@dataclass(frozen=True)
class Answered:
    """What a key was answered with."""

    tasks: Sequence[Task]
    batch: int | None


def read_key(header: str, owner: str, path: str, body: Mapping[str, Any]) -> Key | None:
    """The key of a header, in quotes as the draft has it or bare; None for an empty header. Raises BadRequest."""
    text = header.strip()
    if not text:
        return None
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if not text or len(text) > LONGEST_KEY or not (text.isascii() and text.isprintable()):
        raise errors.BadRequest(cause=f"an Idempotency-Key has 1 to {LONGEST_KEY} printable characters of ASCII")
    what = json.dumps([path, body], sort_keys=True, ensure_ascii=True).encode()
    return Key(owner, text, hashlib.sha256(what).hexdigest())


_under_way: dict[tuple[str, str, str], Keys] = {}
"""By server, owner and text of a key: which request it is of that is being accepted in this process."""

_lock = threading.Lock()


class Keys:
    """The keys of one journal, for one request to one of its servers."""

    def __init__(self, journal: Journal, lease: Lease) -> None:
        self._journal = journal
        self._lease = lease

    def _place(self, key: Key) -> tuple[str, str, str]:
        return self._lease.id, key.owner, key.text

    def claim(self, key: Key) -> Answered | None:
        """Makes a key this request's, until it is settled; if it was answered before, the answer.

        Raises KeyReused for another request's key, KeyInUse while the first is being accepted, and TaskNotFound when
        somebody has taken the task out of the list since.
        """
        is_ours = False
        try:
            with self._journal.transaction() as transaction:
                known = transaction.key(key.owner, key.text, KEPT_US)
                if known is not None and known.request != key.request:
                    raise errors.KeyReused(key=key.text)
                if known is None or known.tasks is None:
                    if known is not None and self._is_under_way(key, known.server):
                        raise errors.KeyInUse(key=key.text)
                    with _lock:
                        _under_way[self._place(key)] = self
                    is_ours = True
                    transaction.claim_key(key.owner, key.text, key.request, self._lease.id)
                    return None
        except BaseException:
            if is_ours:
                self.settle(key)
            raise
        tasks = self._journal.tasks_of(known.tasks)
        if not tasks:
            raise errors.TaskNotFound(id=known.tasks[0])
        return Answered(tasks, known.batch)

    def _is_under_way(self, key: Key, server: str) -> bool:
        """Of this server it is known better than the journal has it, which may not have been told of a failure."""
        return self._place(key) in _under_way if server == self._lease.id else self._lease.is_alive(server)

    def release(self, key: Key) -> None:
        """Frees the key of a request that was not accepted. Where the journal is away, `settle` does."""
        with suppress(errors.JournalUnavailable):
            self._journal.release_key(key.owner, key.text)

    def settle(self, key: Key) -> None:
        """Says that the request is not being accepted any more, whatever became of it."""
        with _lock:
            if _under_way.get(self._place(key)) is self:  # else somebody has claimed it since it was released
                del _under_way[self._place(key)]
