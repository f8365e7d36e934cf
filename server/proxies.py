"""Whom a request comes from that a proxy hands on: what it says is believed if it is one of those in the configuration.

Of `X-Forwarded-For` the last address counts that is no proxy's of ours: those before it are the sender's own words, to
which a proxy only adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from ..settings import Network

FOR, PROTO = "X-Forwarded-For", "X-Forwarded-Proto"

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Origin:
    """The sender's address, and the scheme that it used; None where nobody can tell that it was another one."""

    address: str
    scheme: str | None = None


class Proxies:
    """The proxies that are believed, as networks; none by default."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)

    def origin(self, peer: str, headers: Sequence[tuple[str, str]]) -> Origin:
        """Where a request comes from that `peer` has sent."""
        if not self._networks or not self._is_proxy(_parsed(peer)):
            return Origin(peer)
        scheme = _values(headers, PROTO)[-1:]
        address = self._sender(peer, _values(headers, FOR))
        return Origin(address, scheme[0].lower() if scheme and scheme[0].lower() in ("http", "https") else None)

    def _sender(self, peer: str, forwarded: Sequence[str]) -> str:
        sender = peer
        for value in reversed(forwarded):
            address = _parsed(value)
            if address is None:  # somebody's name, or nonsense: what is before it cannot be told either
                break
            sender = str(address)
            if not self._is_proxy(address):
                break
        return sender

    def _is_proxy(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _values(headers: Sequence[tuple[str, str]], name: str) -> list[str]:
    """What a header lists, in the order of the lines that it came in."""
    lines = [value for found, value in headers if found.lower() == name.lower()]
    return [part.strip() for part in ",".join(lines).split(",") if part.strip()]


def _parsed(value: str) -> Address | None:
    """An address; one of IPv4 as such also where a socket for both has it as one of IPv6."""
    try:
        address = ip_address(value.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
