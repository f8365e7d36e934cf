"""libvirt's event loop: GLib's where that is libvirt's, and libvirt's own function where it is not."""

from __future__ import annotations

import subprocess
import sys

import libvirt
import pytest

from cloner.hypervisor import eventloop

# In a process of its own, since a process has one loop, and it runs for ever.
HEARS = """
import sys
import threading
import libvirt
from cloner.hypervisor import eventloop
if sys.argv[1] == "without":
    eventloop._run_in_glib.__defaults__ = ("libno-such.so",)
calls = []
their_own = libvirt.virEventRunDefaultImpl
libvirt.virEventRunDefaultImpl = lambda: calls.append(1) or their_own()
eventloop.run()
connection = libvirt.open("test:///default")
heard = threading.Event()
connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *_: heard.set(), None)
connection.lookupByName("test").suspend()
print(heard.wait(10), bool(calls))
"""


@pytest.mark.parametrize("glib", ["with", "without"])
def test_events_arrive(glib: str) -> None:
    heard = subprocess.run([sys.executable, "-c", HEARS, glib], capture_output=True, text=True, timeout=60, check=True)
    assert heard.stdout.split() == ["True", str(glib == "without")]


def test_an_older_libvirt_has_a_loop_of_its_own() -> None:
    with pytest.raises(OSError, match="a loop of its own"):
        eventloop._run_in_glib(6_000_000)


def test_without_glib_it_says_so() -> None:
    with pytest.raises(OSError, match="no-such"):
        eventloop._run_in_glib(libvirt.getVersion(), "libno-such.so.0")
