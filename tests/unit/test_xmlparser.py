"""lxml and libvirt's test driver beside each other, where both have one libxml2."""

from __future__ import annotations

import threading

from cloner.hypervisor.connection import Connections
from cloner.hypervisor.xmlparser import parse
from cloner.settings import demo_uri

LONG = f"<a>{'<b/>' * 20_000}</a>"


def test_a_connection_opens_its_inventory_while_others_parse() -> None:
    """Without the lock the process would end at once, with lxml of Debian 12."""
    stop = threading.Event()

    def parse_on() -> None:
        while not stop.is_set():
            parse(LONG)

    other = threading.Thread(target=parse_on)
    other.start()
    connections = Connections(demo_uri())
    opened = [connections._open() for _ in range(20)]
    stop.set()
    other.join()
    assert [connection.getType() for connection in opened] == ["TEST"] * 20
