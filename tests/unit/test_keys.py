"""Idempotency keys where the journal fails in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from cloner import errors
from cloner.callers import ANYBODY
from cloner.model.accepting import Accepted, Request
from cloner.model.keys import Keys, read_key
from cloner.model.services import Services
from cloner.model.vms import VMsModel
from support.services import connected

AWAY = errors.JournalUnavailable(cause="the disk is full")


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with connected(tmp_path) as found:
        yield found


def clone(services: Services) -> Accepted:
    key = read_key("once", ANYBODY.name, "/vms/web/clone", {})
    return VMsModel(services).clone("web", Request({}, "/p", ANYBODY, key))


def test_a_key_is_free_though_the_journal_could_not_be_told_so(services: Services) -> None:
    """Or whoever comes again, as the answer asks them to, would be told for a day that the first is on its way."""
    with (
        mock.patch.object(services.journal, "release_key", side_effect=AWAY),
        mock.patch.object(services.surveyor, "domain", side_effect=errors.DomainNotFound(name="web")),
        pytest.raises(errors.DomainNotFound),
    ):
        clone(services)
    first = clone(services)
    assert [task.id for task in clone(services).tasks] == [task.id for task in first.tasks]


def test_a_key_that_could_not_be_claimed_is_free(services: Services) -> None:
    commit = mock.patch("cloner.engine.transaction.Transaction.claim_key", side_effect=AWAY)
    with commit, pytest.raises(errors.JournalUnavailable):
        clone(services)
    assert clone(services).tasks


def test_while_the_first_is_accepted_the_second_is_told_so_and_takes_nothing_from_it(services: Services) -> None:
    key = read_key("once", ANYBODY.name, "/vms/web/clone", {})
    assert key is not None
    keys = Keys(services.journal, services.lease)
    assert keys.claim(key) is None
    for _ in range(2):
        with pytest.raises(errors.KeyInUse):
            clone(services)
    keys.release(key)
    following = Keys(services.journal, services.lease)
    assert following.claim(key) is None
    keys.settle(key)  # of the first, which says nothing of the one that follows
    with pytest.raises(errors.KeyInUse):
        clone(services)
    following.release(key)
    assert clone(services).tasks
