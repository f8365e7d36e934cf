"""The connections for short calls are none of the event loop's."""

from __future__ import annotations

import subprocess
import sys

from support.libvirtd import PrivateLibvirtd

# In a process of its own, since a process has one loop.
CALLS = """
import sys
from cloner.hypervisor import eventloop
from cloner.hypervisor.connection import SHORT_CALLS, Connections
connections = Connections(sys.argv[1])
connections.start(20)
while connections._short.qsize() < SHORT_CALLS:
    pass
woken = []
wake = eventloop._loop._wake
eventloop._loop._wake = lambda: woken.append(1) or wake()
for _ in range(50):
    with connections.short_call() as connection:
        connection.listAllDomains()
short = len(woken)
with connections.long_call() as connection:
    connection.listAllDomains()
print(short, len(woken) > short)
"""


def test_a_short_call_does_not_wake_the_event_loop_and_a_long_one_does(libvirtd: PrivateLibvirtd) -> None:
    found = subprocess.run(
        [sys.executable, "-c", CALLS, libvirtd.uri], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.split() == ["0", "True"]
