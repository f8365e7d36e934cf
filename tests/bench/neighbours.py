"""What another client of libvirt feels: its small calls alone, and while many guests are copied in full.

Kimchi's way to copy is createXMLFrom by a thread for each clone: twenty such calls take all of libvirtd's workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import libvirt

from support.storage import GiB, MiB

from . import clones, rivals
from .report import Column, Plot, Result, faster, p99
from .rounds import Contender, Measured, take_turns
from .scale import Scale
from .sites import GUEST, Guest, Site, Sites, sites_of

_NAP_S = 0.005
_ALONE_S = 2.0
_MS = 1000


def results(scale: Scale) -> Iterator[Result]:
    count, data = scale.neighbour_copies, scale.neighbour_data
    alone, ours = "alone", f"while {count} guests are copied by cloner"
    kimchi = f"while {count} disks are copied by createXMLFrom, a thread each"
    with sites_of("ext4", [Guest(data, data)], 3 * count * data + GiB) as found:
        theirs = found.theirs
        acts: dict[str, tuple[Site, Callable[[], object]]] = {
            alone: (theirs, lambda: time.sleep(_ALONE_S)),
            ours: (found.ours, lambda: clones.batch(found, count)),
            kimchi: (theirs, lambda: _as_kimchi(theirs, count)),
        }
        contenders = [_contender(found, row, site, act) for row, (site, act) in acts.items()]
        rounds = take_turns("neighbours", contenders, scale.neighbour_rounds)
    every = {row: row for row in (alone, ours, kimchi)}
    yield Result(
        key="neighbours",
        title=f"Small calls of another libvirt client while guests with {data // MiB} MiB of data are copied on ext4",
        unit="ms a call",
        rounds=rounds,
        rows=[alone, ours, kimchi],
        columns=[Column("p99", every, p99), Column("longest", every, max)],
        relations=[faster(rounds, ours, alone), faster(rounds, ours, kimchi)],
        notes=[
            f"A call is lookupByName and info() of a guest, every {_MS * _NAP_S:.0f} ms, over a connection of its own."
        ],
        plot=Plot("ms a call", "share of the calls that take no longer"),
    )
    yield Result(
        key="neighbours-copies",
        title="What these copies took",
        unit="s",
        rounds=rounds,
        rows=[_copied(ours), _copied(kimchi)],
        relations=[faster(rounds, _copied(ours), _copied(kimchi))],
    )


def _copied(row: str) -> str:
    return row.removeprefix("while ")


def _contender(found: Sites, row: str, site: Site, act: Callable[[], object]) -> Contender:
    def measure() -> Measured:
        ended = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            calling = threads.submit(_calls, site, ended)
            try:
                taken = rivals.seconds(act)
            finally:
                ended.set()
            times = calling.result()
        found.clear()
        return {row: times, _copied(row): [taken]} if _copied(row) != row else {row: times}

    return Contender(measure)


def _calls(site: Site, ended: threading.Event) -> list[float]:
    """Milliseconds of each call until the end."""
    conn = site.daemon.open()
    times = []
    while not ended.wait(_NAP_S):
        begun = time.perf_counter()
        conn.lookupByName(GUEST).info()
        times.append(_MS * (time.perf_counter() - begun))
    conn.close()
    return times


def _as_kimchi(site: Site, count: int) -> None:
    with ThreadPoolExecutor(count) as threads:
        for copied in [threads.submit(_copy, site, number) for number in range(count)]:
            copied.result()


def _copy(site: Site, number: int) -> None:
    conn: libvirt.virConnect = site.daemon.open()
    rivals.create_from(site, f"copy-{number}.img", conn)
    conn.close()
