"""The server's memory while it copies a disk, against what it has when nothing goes on."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator

from support.storage import GiB

from . import clones, processes
from .report import Result, more
from .rounds import Contender, Measured, take_turns
from .scale import Scale
from .sites import Sites, sites

IDLE, PEAK = "server, idle", "server, peak of the copy"
_REST_S = 2.0
_SHARE_OF_FREE = 4
"""Of the free space of the disk a fourth may be the source; the copy takes as much again."""


def results(scale: Scale) -> Iterator[Result]:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    size = min(scale.memory, free // _SHARE_OF_FREE // GiB * GiB)
    with sites("ext4", "raw", size, size) as found:
        clones.at_once(found, 1, 1)  # so that what is loaded at the first clone is there
        found.clear()
        rounds = take_turns("memory", [Contender(lambda: _measure(found))], scale.memory_rounds)
    yield Result(
        key="memory",
        title=f"Memory of the server while it copies {size / GiB:.2g} GiB of data on ext4 (resident set)",
        unit="MiB",
        rounds=rounds,
        rows=[IDLE, PEAK],
        relations=[more(rounds, PEAK, IDLE, "MiB", "≤ 20")],
    )


def _measure(found: Sites) -> Measured:
    time.sleep(_REST_S)
    pid = found.server.pid
    idle = processes.resident(pid)
    processes.reset_peak(pid)
    clones.at_once(found, 1, 1)
    peak = processes.peak_resident(pid)
    found.clear()
    return {IDLE: [idle], PEAK: [peak]}
