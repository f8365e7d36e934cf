"""What the server takes: memory, processors, open files and wake-ups, idle and at work; its start; its journal."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

from support.running import run
from support.server import Server
from support.storage import GiB, MiB

from . import clones, processes
from .accepting import Host, serving
from .client import Client
from .report import Column, Result, faster
from .rounds import Contender, Measured, Rounds, take_turns
from .scale import Scale
from .sites import Guest, Sites, sites_of

FRESH, IDLE, LISTS, REFLINKS, COPIES = (
    "idle, nothing cloned yet",
    "idle, after work",
    "a page that asks for guests and tasks",
    "reflinks, 8 clients",
    "copies, 4 at once",
)
READY, IMPORT, OTHERS = "cloner serve, until it is ready", "import of the plugin", "import of what it stands on"
_SMALL, _BIG = Guest(GiB, 64 * MiB), Guest(GiB, 256 * MiB, name="big")
_ROOM = 8 * GiB
_AT_ONCE = 8
_INTERVAL_S = 0.1
_REST_S = 1.0
_MS = 1000
_MODULES = {IMPORT: "cloner.plugin", OTHERS: "cherrypy, jsonschema, libvirt, lxml.etree, re2, sqlalchemy"}
_JOURNALLED = 10_000
_GUESTS = 10


def results(scale: Scale) -> Iterator[Result]:
    yield _loads(scale)
    yield _starts(scale)
    yield _journal(scale)


# --- Idle and under load ---------------------------------------------------------------------------------------------


def _loads(scale: Scale) -> Result:
    with sites_of("xfs", [_SMALL, _BIG], _ROOM) as found:
        fresh = _load(found, FRESH, lambda: time.sleep(_INTERVAL_S), scale.cost_s).measure()
        clones.at_once(found, 1, 1)  # so that what is loaded at the first clone is there
        found.clear()
        acts: dict[str, Callable[[], object]] = {
            IDLE: lambda: time.sleep(_INTERVAL_S),
            LISTS: lambda: _look(found.client),
            REFLINKS: lambda: clones.at_once(found, _AT_ONCE, _AT_ONCE * 3),
            COPIES: lambda: clones.copies(found, 4, _BIG.name),
        }
        contenders = [_load(found, row, act, scale.cost_s) for row, act in acts.items()]
        rounds = Rounds([fresh, *take_turns("loads", contenders, scale.cost_rounds).rounds])
    rows = [FRESH, *acts]
    heads = ("processor, %", "open files", "threads", "wake-ups/s")
    return Result(
        key="cost",
        title="What the server takes, idle and under load",
        unit="MiB of memory (peak)",
        rounds=rounds,
        rows=rows,
        columns=[Column(head, {row: f"{row}: {head}" for row in rows}) for head in heads],
        aims={FRESH: "≤ 80"},
        notes=[
            "Memory is the resident set; of the processors 100 % is one of them. Wake-ups are voluntary context "
            "switches of all threads; those of an idle server are its heartbeats."
        ],
    )


def _look(client: Client) -> None:
    client.get("vms")
    client.get("tasks?status=running")
    time.sleep(_INTERVAL_S)


def _load(found: Sites, row: str, act: Callable[[], object], seconds: float) -> Contender:
    def measure() -> Measured:
        time.sleep(_REST_S)
        pid = found.server.pid
        processes.reset_peak(pid)
        used, woken, begun = processes.cpu_seconds(pid), processes.wake_ups(pid), time.monotonic()
        with ThreadPoolExecutor(1) as threads:
            ended = Event()
            counting = threads.submit(_most_files, pid, ended)
            while time.monotonic() < begun + seconds:
                act()
            ended.set()
        taken = time.monotonic() - begun
        figures = {
            "processor, %": 100 * (processes.cpu_seconds(pid) - used) / taken,
            "open files": counting.result(),
            "threads": processes.threads(pid),
            "wake-ups/s": (processes.wake_ups(pid) - woken) / taken,
        }
        peak = processes.peak_resident(pid)
        found.clear()
        return {row: [peak]} | {f"{row}: {head}": [value] for head, value in figures.items()}

    return Contender(measure)


def _most_files(pid: int, ended: Event) -> int:
    most = processes.open_files(pid)
    while not ended.wait(_INTERVAL_S):
        most = max(most, processes.open_files(pid))
    return most


# --- The start -------------------------------------------------------------------------------------------------------


def _starts(scale: Scale) -> Result:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        contenders = [Contender(_ready(Path(folder))), *(Contender(_importing(row)) for row in _MODULES)]
        rounds = take_turns("starts", contenders, scale.cost_rounds * 2)
    return Result(
        key="cost-start",
        title="Until the server is ready, and what of that is loading",
        unit="ms",
        rounds=rounds,
        rows=[READY, *_MODULES],
        relations=[faster(rounds, IMPORT, OTHERS)],
        aims={READY: f"≤ {_MS}"},
        notes=[
            f"On a test driver with {_GUESTS} guests, with a journal that is there already from the second round on."
        ],
    )


def _ready(folder: Path) -> Callable[[], Measured]:
    server = serving(folder, _GUESTS)

    def measure() -> Measured:
        begun = time.perf_counter()
        with server:
            return {READY: [_MS * (time.perf_counter() - begun)]}

    return measure


def _importing(row: str) -> Callable[[], Measured]:
    code = f"import time; begun = time.perf_counter(); import {_MODULES[row]}; print(time.perf_counter() - begun)"

    def measure() -> Measured:
        return {row: [_MS * float(run(sys.executable, "-P", "-c", code))]}

    return measure


# --- The journal -----------------------------------------------------------------------------------------------------


def _journal(scale: Scale) -> Result:
    row = f"per {_JOURNALLED:,} clones"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        server = serving(Path(folder), _GUESTS)
        _accept(server, 50)
        before = _size(server)
        _accept(server, scale.journalled)
        grown = (_size(server) - before) / MiB * _JOURNALLED / scale.journalled
        rounds = take_turns("journal", [Contender(lambda: {row: [grown]})], 1)
    return Result(
        key="cost-journal",
        title="What the journal grows by",
        unit="MiB",
        rounds=rounds,
        rows=[row],
        notes=[f"Told from {scale.journalled} clones of a guest with one disk. Ended tasks leave it after 12 hours."],
    )


def _accept(server: Server, clones_made: int) -> None:
    """Clones that are made, by a server that ends then, which puts all of the journal into one file."""
    with ExitStack() as stack:
        stack.enter_context(server)
        host = Host(stack, server)
        host.crowd(_AT_ONCE, clones_made // _AT_ONCE)
        host.rest()


def _size(server: Server) -> int:
    return sum(path.stat().st_size for path in server.state_dir.glob("journal.sqlite*"))
