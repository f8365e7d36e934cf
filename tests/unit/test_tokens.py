"""Tokens: kept as hashes, shared by all servers of a journal, worthless after their time and once they are revoked."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from cloner import errors
from cloner.engine.journal import Journal
from cloner.engine.tokens import Token, Tokens, digest

NOON = 1_795_429_330_539_756  # µs since 1970
DAY_S, SECOND_US = 86_400, 1_000_000


class SetClock:
    """A clock that shows what it was set to."""

    now = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def two_servers(tmp_path: Path, clock: SetClock) -> Iterator[tuple[Tokens, Tokens]]:
    """The tokens of one journal as two servers see them."""
    journals = [Journal(f"sqlite:///{tmp_path}/journal.sqlite", clock=clock) for _ in range(2)]
    yield Tokens(journals[0], clock=clock), Tokens(journals[1], clock=clock)
    for journal in journals:
        journal.close()


@pytest.fixture
def tokens(two_servers: tuple[Tokens, Tokens]) -> Tokens:
    return two_servers[0]


def found(tokens: Tokens, secret: str) -> Token | None:
    return tokens.find(digest(secret))


def test_a_token_is_found_by_its_secret_and_by_no_other(tokens: Tokens) -> None:
    secret = tokens.create("ci", "clone", owner="ann")
    assert found(tokens, secret) == Token("ci", digest(secret), "clone", "ann", NOON, None, None)
    for other in (secret[:-1], secret + "x", secret.upper(), "", digest(secret)):
        assert found(tokens, other) is None


def test_a_secret_has_256_random_bits_and_says_what_it_is(tokens: Tokens) -> None:
    secrets = [tokens.create(f"t{number}", "read") for number in range(50)]
    assert len(set(secrets)) == 50
    assert all(re.fullmatch(r"cln_[\w-]{43}", secret) for secret in secrets)


def test_the_secret_is_nowhere_in_the_journal(tokens: Tokens, tmp_path: Path) -> None:
    secret = tokens.create("ci", "admin")
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("journal.sqlite*"))
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in kept
    assert secret.encode() not in kept
    assert secret.removeprefix("cln_").encode() not in kept


def test_a_name_is_given_once(tokens: Tokens) -> None:
    secret = tokens.create("ci", "read")
    with pytest.raises(errors.TokenExists, match="CLNTOKEN0002E: Token ci exists"):
        tokens.create("ci", "admin")
    assert [token.scope for token in tokens.all()] == ["read"]
    assert found(tokens, secret) is not None


def test_of_many_who_take_a_name_at_once_one_gets_it(two_servers: tuple[Tokens, Tokens]) -> None:
    barrier = threading.Barrier(8)

    def take(number: int) -> bool:
        barrier.wait()
        try:
            two_servers[number % 2].create("ci", "read")
        except errors.TokenExists:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(take, range(8))) == [False] * 7 + [True]


def test_a_revoked_token_is_worthless_on_every_server_at_once(two_servers: tuple[Tokens, Tokens]) -> None:
    ours, theirs = two_servers
    secret = ours.create("ci", "admin")
    assert found(theirs, secret) is not None
    ours.revoke("ci")
    assert found(ours, secret) is None
    assert found(theirs, secret) is None
    assert theirs.all() == []


def test_a_name_that_is_free_again_is_no_way_back_for_the_old_secret(tokens: Tokens) -> None:
    old = tokens.create("ci", "admin")
    tokens.revoke("ci")
    new = tokens.create("ci", "admin")
    assert found(tokens, old) is None
    assert found(tokens, new) is not None


def test_what_is_not_there_cannot_be_revoked(tokens: Tokens) -> None:
    with pytest.raises(errors.TokenNotFound, match="CLNTOKEN0001E: Token nope does not exist"):
        tokens.revoke("nope")


def test_a_token_is_worthless_after_its_time_but_still_listed(tokens: Tokens, clock: SetClock) -> None:
    secret = tokens.create("ci", "admin", lifetime_s=90 * DAY_S)
    clock.now += 90 * DAY_S * SECOND_US - 1
    assert found(tokens, secret) is not None
    clock.now += 1
    assert found(tokens, secret) is None
    assert [(token.name, token.expires) for token in tokens.all()] == [("ci", NOON + 90 * DAY_S * SECOND_US)]


def test_when_a_token_was_last_used_is_written_down_later(
    two_servers: tuple[Tokens, Tokens], clock: SetClock, tmp_path: Path
) -> None:
    """A request waits for nobody who writes, or a server whose journal is held would let nobody in."""
    ours, theirs = two_servers
    secrets = [ours.create(name, "read") for name in ("used", "unused")]
    clock.now += 5
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        assert found(ours, secrets[0]) is not None
    assert [token.used for token in theirs.all()] == [None, None]
    ours.write_uses()
    assert {token.name: token.used for token in theirs.all()} == {"used": NOON + 5, "unused": None}


def test_a_use_that_was_written_down_is_not_written_again(tokens: Tokens, clock: SetClock) -> None:
    secret = tokens.create("ci", "read")
    assert found(tokens, secret) is not None
    tokens.write_uses()
    clock.now += 5
    tokens.write_uses()
    assert [token.used for token in tokens.all()] == [NOON]
