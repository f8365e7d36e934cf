"""The connections for short calls are none of the event loop's."""

from __future__ import annotations

import os
import signal
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


# A libvirtd hangs while a connection is being opened in the place of one that died, and others are waited in.
HANGS = """
import os, signal, sys, threading
import libvirt
from cloner import errors
from cloner.hypervisor import connection
connection.KEEPALIVE_INTERVAL_S, connection.KEEPALIVE_COUNT = 1, 2
connections = connection.Connections(sys.argv[1])
connections.start(20)
while connections._short.qsize() < connection.SHORT_CALLS:
    pass
def call():
    with connections.short_call() as mine:
        try:
            mine.listAllDomains()
        except libvirt.libvirtError as error:
            print(f"{connections.failed(error, mine)} ", end="")  # in one piece, beside the others
os.kill(int(sys.argv[2]), signal.SIGSTOP)
dies = connections._short.get()
for each in connections._sockets[dies]:
    each.shutdown(2)
connections._short.put(dies)
calls = [threading.Thread(target=call) for _ in range(3)]
for each in calls:
    each.start()
    if dies:
        each.join()
        dies = None
for each in calls:
    each.join()
sys.stdout.flush()
os._exit(0)  # as a server does: libvirt may call into Python from the thread that opens a connection
"""


def test_who_waits_for_a_libvirtd_that_hangs_is_told_so_though_a_connection_is_being_opened(
    libvirtd: PrivateLibvirtd,
) -> None:
    try:
        found = subprocess.run(
            [sys.executable, "-c", HANGS, libvirtd.uri, str(libvirtd.pid)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        os.kill(libvirtd.pid, signal.SIGCONT)
    assert found.stdout.split() == ["True"] * 3


# While those that are lost are hung up on, a thread gives back the one that it had.
GIVES_BACK = """
import socket, sys, threading
import libvirt
from cloner.hypervisor.connection import SHORT_CALLS, Connections
connections = Connections(sys.argv[1])
connections.start(20)
while connections._short.qsize() < SHORT_CALLS:
    pass
has, may_give = threading.Event(), threading.Event()
def hold():
    with connections.short_call():
        has.set()
        may_give.wait()
holder = threading.Thread(target=hold)
holder.start()
has.wait()
def shutdown(self, how, shutdown=socket.socket.shutdown):
    may_give.set()
    holder.join()
    shutdown(self, how)
socket.socket.shutdown = shutdown
connections._lose(connections._control, "it is said to be")
while len(connections._sockets) < SHORT_CALLS:
    pass
dead = 0
for _ in range(connections._short.qsize()):
    try:
        connections._short.get().listAllDomains()
    except libvirt.libvirtError:
        dead += 1
print(dead)
"""


def test_what_is_given_back_while_all_are_hung_up_on_is_not_kept(libvirtd: PrivateLibvirtd) -> None:
    found = subprocess.run(
        [sys.executable, "-c", GIVES_BACK, libvirtd.uri], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.split() == ["0"]


# It has room for the connection for events and a few more.
FULL = """
import sys, time
from cloner.hypervisor.connection import Connections
connections = Connections(sys.argv[1])
heard = []
connections.on_connect = heard.append
connections.start(20)
time.sleep(6)
with connections.short_call() as connection:
    connection.listAllDomains()
print(connections.is_connected, len(heard))
"""


def test_a_libvirtd_that_takes_few_clients_is_one_that_is_there() -> None:
    libvirtd = PrivateLibvirtd()
    with (libvirtd.folder / "libvirtd.conf").open("a") as configuration:
        configuration.write("max_clients = 4\nmax_anonymous_clients = 4\n")
    with libvirtd:
        found = subprocess.run(
            [sys.executable, "-c", FULL, libvirtd.uri], capture_output=True, text=True, timeout=60, check=True
        )
    assert found.stdout.split() == ["True", "1"]


# Who needs a connection of their own comes while others have all that libvirtd takes, and again when they have left.
CROWDED = """
import os, sys, threading
import libvirt
from cloner import errors
from cloner.hypervisor import connection
connection.TURN_S = 0.2
connections = connection.Connections(sys.argv[1], long_calls=1)
connections.start(20)
while connections._short.qsize() < connection.SHORT_CALLS:
    pass
others = [libvirt.open(sys.argv[1]) for _ in range(6)]
begun = threading.active_count()
def told():
    try:
        with connections.own_call() as mine:
            return mine.isAlive()
    except errors.Busy as error:
        return error.status
print(*(told() for _ in range(8)), threading.active_count() - begun)
for each in others:
    each.close()
while not connections._idle:
    pass
print(told(), told(), flush=True)
os._exit(0)
"""


def test_who_needs_a_connection_that_libvirtd_does_not_take_is_told_so_and_not_served_when_it_is_too_late() -> None:
    """A guest was started as soon as there was room, long after its start was said to be broken off."""
    libvirtd = PrivateLibvirtd()
    with (libvirtd.folder / "libvirtd.conf").open("a") as configuration:
        configuration.write("max_clients = 15\nmax_anonymous_clients = 15\n")
    with libvirtd:
        found = subprocess.run(
            [sys.executable, "-c", CROWDED, libvirtd.uri], capture_output=True, text=True, timeout=60, check=True
        )
    assert found.stdout.split() == [*["503"] * 8, "5", "1", "1"]


# Between here and a libvirtd that is far away, something forgets the connections for short calls, and is silent.
FORGETS = """
import socket, sys, threading
from urllib.parse import parse_qs, urlsplit
import libvirt
from cloner.hypervisor import connection
connection.KEEPALIVE_INTERVAL_S, connection.KEEPALIVE_COUNT = 1, 2
forgotten = set()
def pass_on(source, target, number):
    while data := source.recv(65536):
        if number not in forgotten:
            target.sendall(data)
def between(listener):
    for number in range(30):
        client = listener.accept()[0]
        server = socket.socket(socket.AF_UNIX)
        server.connect(parse_qs(urlsplit(sys.argv[1]).query)["socket"][0])
        for ends in ((client, server), (server, client)):
            threading.Thread(target=pass_on, args=(*ends, number), daemon=True).start()
listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=between, args=(listener,), daemon=True).start()
connections = connection.Connections(f"qemu+tcp://127.0.0.1:{listener.getsockname()[1]}/session")
connections.start(20)
while connections._short.qsize() < connection.SHORT_CALLS:
    pass
forgotten.update(range(1, 1 + connection.SHORT_CALLS))
with connections.short_call() as mine:
    try:
        mine.listAllDomains()
    except libvirt.libvirtError as error:
        print(connections.failed(error, mine), connections.is_connected)
"""


def test_a_connection_to_a_libvirtd_far_away_is_kept_alive_by_itself(libvirtd: PrivateLibvirtd) -> None:
    found = subprocess.run(
        [sys.executable, "-c", FORGETS, libvirtd.uri], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.split() == ["True", "True"]


# The keeper looks by itself in an hour: libvirt has to tell it.
DIES = """
import os, signal, sys, threading
from cloner.hypervisor import connection
connection._LOOK_S = 3600
connections = connection.Connections(sys.argv[1])
connected, lost = threading.Semaphore(0), threading.Event()
connections.on_connect = lambda _: connected.release()
connections.on_lost = lost.set
connections.start(20)
connected.acquire()
os.kill(int(sys.argv[2]), signal.SIGKILL)
print(lost.wait(20), connections.is_connected, flush=True)
os._exit(0)  # as a server ends: the keeper is still closing what was lost
"""


def test_the_loss_of_libvirtd_is_told_at_once_and_not_found_out_with_time() -> None:
    with PrivateLibvirtd() as libvirtd:
        found = subprocess.run(
            [sys.executable, "-c", DIES, libvirtd.uri, str(libvirtd.pid)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert found.stdout.split() == ["True", "False"]


# Where libvirt is modular, virtqemud asks virtstoraged over a connection for each client, and opens no other one when
# that has ended: from then on it hands on what its own connection says. The error is a real one of such a connection.
HANDS_ON = """
import os, socket, sys
import libvirt
from cloner import errors
from cloner.hypervisor import connection, eventloop
from cloner.hypervisor.host import Host
connections = connection.Connections(sys.argv[1])
connections.start(20)
host = Host(connections)
while connections._short.qsize() < connection.SHORT_CALLS:
    pass
with connections.own_call() as mine:
    old = {mine, *connections._sockets}
with eventloop.apart() as sockets:
    storage = libvirt.open(sys.argv[1])
sockets[0].shutdown(socket.SHUT_RDWR)
def look_up(self, name, look_up=libvirt.virConnect.storagePoolLookupByName):
    return look_up(storage if self in old else self, name)
libvirt.virConnect.storagePoolLookupByName = look_up
def told():
    try:
        host.pool("nope")
    except errors.ClonerError as error:
        return type(error).__name__
print(told(), told(), told(), len(connections._idle), all(each.isAlive() for each in old), flush=True)
os._exit(0)
"""


def test_a_connection_behind_which_virtstoraged_has_ended_is_given_up_for_a_new_one(libvirtd: PrivateLibvirtd) -> None:
    found = subprocess.run(
        [sys.executable, "-c", HANDS_ON, libvirtd.uri], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.split() == ["LibvirtUnavailable", "LibvirtUnavailable", "PoolNotFound", "0", "True"]
