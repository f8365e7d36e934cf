"""Who sent a request: a proxy of ours is believed, nobody else, and of what it says only what it can know."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloner.server.proxies import Origin, Proxies

PROXIES = Proxies([ip_network("127.0.0.1"), ip_network("::1"), ip_network("10.0.0.0/24")])
EVIL = "6.6.6.6"


def origin(peer: str, forwarded: str = "", proto: str = "") -> Origin:
    headers = [("X-Forwarded-For", forwarded)] if forwarded else []
    headers += [("X-Forwarded-Proto", proto)] if proto else []
    return PROXIES.origin(peer, headers)


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.0.0.7", "::ffff:127.0.0.1", "::ffff:10.0.0.7"])
def test_a_proxy_of_ours_is_believed(peer: str) -> None:
    assert origin(peer, "1.2.3.4", "https") == Origin("1.2.3.4", "https")


@pytest.mark.parametrize("peer", ["127.0.0.2", "::2", "10.0.1.7", "6.6.6.6", "nonsense", ""])
def test_nobody_else_is(peer: str) -> None:
    assert origin(peer, "1.2.3.4", "https") == Origin(peer)


def test_by_default_nobody_is() -> None:
    headers = [("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-Proto", "https")]
    assert Proxies().origin("127.0.0.1", headers) == Origin("127.0.0.1")


@pytest.mark.parametrize(
    ("forwarded", "sender"),
    [
        ("1.2.3.4", "1.2.3.4"),
        (f"{EVIL}, 1.2.3.4", "1.2.3.4"),  # what the sender said itself is before what the proxy added
        (f"{EVIL}, 1.2.3.4, 10.0.0.9", "1.2.3.4"),  # through two proxies of ours
        (f"127.0.0.1, {EVIL}", EVIL),
        ("10.0.0.9, 10.0.0.8", "10.0.0.9"),  # a proxy itself asks
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        (f"{EVIL}, unknown", "127.0.0.1"),  # who that was cannot be told
        (f"{EVIL}, unknown, 10.0.0.9", "10.0.0.9"),
        (f"{EVIL}, 1.2.3.4:80", "127.0.0.1"),
        (" , ,", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
def test_the_last_address_that_is_no_proxy_of_ours_is_the_senders(forwarded: str, sender: str) -> None:
    assert origin("127.0.0.1", forwarded).address == sender


def test_lines_of_one_header_are_one_list() -> None:
    headers = [("x-forwarded-for", EVIL), ("Other", "x"), ("X-Forwarded-For", "1.2.3.4, 10.0.0.9")]
    assert PROXIES.origin("127.0.0.1", headers).address == "1.2.3.4"


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [("https", "https"), ("HTTPS", "https"), ("http", "http"), ("http, https", "https"), ("ftp", None), ("", None)],
)
def test_the_last_scheme_is_the_nearest_proxys(proto: str, scheme: str | None) -> None:
    assert origin("127.0.0.1", "1.2.3.4", proto).scheme == scheme


@given(st.lists(st.text() | st.ip_addresses().map(str)).map(",".join))
def test_whatever_the_sender_says_it_cannot_be_another(lie: str) -> None:
    """As long as the proxy adds the address that it saw."""
    assert origin("127.0.0.1", f"{lie},{EVIL}").address == EVIL
