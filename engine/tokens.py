"""Named tokens, in the journal's database, so that all servers of one journal see at once that one was revoked.

Of a token only the SHA-256 is kept. A slow hash is for passwords, which people choose and others can guess; a token is
256 random bits, of which nobody guesses one however fast the hash is.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from .. import errors
from ..clock import Clock, wall_clock
from .journal import Journal

PREFIX = "cln_"
"""What every token begins with, so that people and scanners of repositories tell it from other secrets."""

_SECRET_BYTES = 32

_tokens = sa.Table(
    "tokens",
    sa.MetaData(),
    *(sa.Column(name, sa.String) for name in ("name", "digest", "scope", "owner")),
    *(sa.Column(name, sa.BigInteger) for name in ("created", "expires", "used")),
)
_FIND = sa.select(_tokens).where(_tokens.c.digest == sa.bindparam("of_digest"))
_USED = (
    sa.update(_tokens)
    .where(_tokens.c.digest == sa.bindparam("of_digest"))
    .values(used=sa.bindparam("at", type_=sa.BigInteger))
)


@dataclass(frozen=True)
class Token:
    """A token without its secret. `owner` is the user that it acts for, '' for none. Times in µs since 1970."""

    name: str
    digest: str
    scope: str
    owner: str
    created: int
    expires: int | None
    used: int | None


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Tokens:
    """The tokens of one journal. Every method raises JournalUnavailable."""

    def __init__(self, journal: Journal, *, clock: Clock = wall_clock) -> None:
        self._journal = journal
        self._clock = clock
        self._uses: dict[str, int] = {}
        self._lock = threading.Lock()

    def create(self, name: str, scope: str, *, owner: str = "", lifetime_s: float | None = None) -> str:
        """A new token's secret, which nobody can look up again. Raises TokenExists."""
        secret = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        now = self._clock()
        row = {"name": name, "digest": digest(secret), "scope": scope, "owner": owner, "created": now}
        row |= {"expires": None if lifetime_s is None else now + int(lifetime_s * 1_000_000), "used": None}
        with self._journal.connection(writes=True) as connection:
            if connection.execute(sa.select(_tokens.c.name).where(_tokens.c.name == name)).first():
                raise errors.TokenExists(name=name)
            connection.execute(sa.insert(_tokens), row)
        return secret

    def find(self, of_digest: str) -> Token | None:
        """The token with this digest, unless it expired or was revoked."""
        with self._journal.connection(writes=False) as connection:
            row = connection.execute(_FIND, {"of_digest": of_digest}).mappings().first()
        if row is None or not hmac.compare_digest(row["digest"], of_digest):
            return None
        token, now = Token(**row), self._clock()
        if token.expires is not None and token.expires <= now:
            return None
        with self._lock:
            self._uses[of_digest] = now
        return token

    def all(self) -> Sequence[Token]:
        """Every token, those that expired too, by name."""
        with self._journal.connection(writes=False) as connection:
            rows = connection.execute(sa.select(_tokens).order_by(_tokens.c.name)).mappings()
            return [Token(**row) for row in rows]

    def revoke(self, name: str) -> None:
        """Makes a token worthless from now on. Raises TokenNotFound."""
        with self._journal.connection(writes=True) as connection:
            if connection.execute(sa.delete(_tokens).where(_tokens.c.name == name)).rowcount == 0:
                raise errors.TokenNotFound(name=name)

    def write_uses(self) -> None:
        """Writes down when tokens were last used: now and then, since a request must not wait for the write lock."""
        with self._lock:
            uses, self._uses = self._uses, {}
        if uses:
            with self._journal.connection(writes=True) as connection:
                connection.execute(_USED, [{"of_digest": found, "at": at} for found, at in uses.items()])
