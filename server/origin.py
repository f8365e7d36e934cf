"""Where a request comes from, as far as a browser tells: a page of ours, and an address of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

import cherrypy

from .. import errors
from ..control import pages

LOCAL_ADDRESS = "cloner.local_address"
"""Where the WSGI environment has the address at which the connection arrived."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(?::\d{0,5})?")
_LONGEST_SHOWN = 100


class Origins:
    """What leads here, and whose pages may change something.

    Args:
        host: what the server listens on, an address or a name.
        names: further names by which it is known, each with its port where that is not the scheme's own.
    """

    def __init__(self, host: str = "127.0.0.1", names: Iterable[str] = ()) -> None:
        self._origins = frozenset(name.lower() for name in names)
        self._names = frozenset({"localhost", host.lower()} | {_name_in(name) for name in self._origins})

    def check_host(self) -> None:
        """Against DNS rebinding, where a page's own name leads to this server. Raises ForeignHost.

        A request without Host is of HTTP/1.0, which no browser speaks.
        """
        headers = cherrypy.serving.request.headers
        if "Host" in headers and not self._is_ours(_name_in(headers["Host"])):
            raise errors.ForeignHost(host=headers["Host"][:_LONGEST_SHOWN])

    def _is_ours(self, name: str) -> bool:
        if name in self._names:
            return True
        address = _address(name)
        if address is None:
            return False
        return address.is_loopback or address == _address(cherrypy.serving.request.wsgi_environ.get(LOCAL_ADDRESS, ""))

    def check_page(self) -> None:
        """Lets no page of another site change anything with the credentials of its reader. Raises ForeignOrigin.

        A browser that does not say it in Sec-Fetch-Site is an older one, and has it in Origin (RFC 6454).
        """
        request = cherrypy.serving.request
        if request.method in ("GET", "HEAD"):
            return
        is_foreign, origin = pages.is_foreign(), request.headers.get("Origin")
        if is_foreign is None:
            is_foreign = origin is not None and not self._is_our_page(origin)
        if is_foreign:
            raise errors.ForeignOrigin

    def _is_our_page(self, origin: str) -> bool:
        scheme, _, place = origin.lower().partition("://")
        host: str = cherrypy.serving.request.headers.get("Host", "").lower()
        return scheme in ("http", "https") and place != "" and place in {host, *self._origins}


def is_https() -> bool:
    """Whether the browser speaks TLS, with us or, as its Origin tells, with a proxy before us."""
    request = cherrypy.serving.request
    return request.scheme == "https" or str(request.headers.get("Origin")).startswith("https://")


def _name_in(host: str) -> str:
    """The name or address in `name:port`, in lower case and without brackets; '' for what is none."""
    found = _HOST.fullmatch(host)
    return found[1].strip("[]").lower() if found else ""


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(name)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
