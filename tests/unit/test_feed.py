"""Who follows guests is told of each change, or to read all anew: never of a part alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from unittest import mock

import pytest

from cloner.hypervisor.infos import DomainInfo
from cloner.model.feed import Feed, GuestChange, News
from cloner.model.guests import Guest, read_guest

KEPT = 1000  # changes, for those who are slow


@pytest.fixture
def feed() -> Feed:
    """A feed of guests alone: the journal has nothing to tell."""
    journal = mock.Mock(last_change=mock.Mock(return_value=0), changes=mock.Mock(return_value=[]))
    return Feed(journal, 2)


def guest(number: int) -> Guest:
    xml = f"<domain><name>g{number}</name><memory>1</memory></domain>"
    return read_guest(
        DomainInfo(f"g{number}", str(number), "shutoff", xml, persistent=True, autostart=False, saved_state=False)
    )


def told(news: Iterator[News], count: int) -> list[GuestChange]:
    return [item for item in islice(news, count) if isinstance(item, GuestChange)]


def test_changes_are_told_in_their_order_from_now_on(feed: Feed) -> None:
    feed.guest_changed(None, guest(0))
    news = feed.follow(None, 60.0, guests=True)
    for number in range(1, 4):
        feed.guest_changed(None, guest(number))
    assert [change.now.name for change in told(news, 3) if change.now] == ["g1", "g2", "g3"]
    feed.guest_changed(guest(1), None)
    assert told(news, 1) == [GuestChange(guest(1), None)]


def test_who_misses_some_is_told_to_read_all_anew_once(feed: Feed) -> None:
    news = feed.follow(None, 60.0, guests=True)
    for number in range(KEPT + 1):
        feed.guest_changed(None, guest(number))
    feed.guest_changed(None, guest(0))
    assert told(news, 1) == [GuestChange(None, None)]
    feed.guest_changed(None, guest(7))
    assert told(news, 1) == [GuestChange(None, guest(7))]


def test_who_does_not_ask_for_guests_hears_of_none(feed: Feed) -> None:
    news = feed.follow(None, 0.0)
    feed.guest_changed(None, guest(1))
    assert next(news) is None
