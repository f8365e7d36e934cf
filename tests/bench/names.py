"""Names: what one costs without a journal, and how many a second threads and processes get out of one journal.

All are counted, and so are those that are distinct: of names that are only read off the clock many are not.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from cloner.utils import get_next_clone_name

from .report import Column, Curve, Plot, Result, faster
from .rounds import Contender, Measured, take_turns
from .scale import Scale

CLOCK, COMMIT = "the clock alone, as Kimchi does", "one INSERT and COMMIT of SQLite, 1 thread"
_MOST_S = 0.05
_NS = 1_000_000_000
_US = 1_000_000
_FEW, _MANY = 1000, 100_000

Naming = Callable[[], str]


def results(scale: Scale) -> Iterator[Result]:
    ways = {kind: _utils(taken) for kind, taken in _taken()} | {CLOCK: _clock}
    rounds = take_turns("names", [_alone(row, way) for row, way in ways.items()], scale.name_rounds)
    none, *_ = ways
    yield Result(
        key="names",
        title="A name from utils.get_next_clone_name(…, ts=True), by the names that are taken",
        unit="ns a name",
        rounds=rounds,
        rows=list(ways),
        columns=_counts(ways),
        relations=[
            faster(rounds, none, CLOCK),
            *(faster(rounds, row, none) for row in ways if row not in (none, CLOCK)),
        ],
        notes=[
            "The limit is a look at the clock, of which the names are not distinct. A list is read once for each name."
        ],
    )
    yield _journal(scale)


def _taken() -> Iterator[tuple[str, Collection[str]]]:
    yield "none taken", frozenset()
    for count in (_FEW, _MANY):
        names = [f"web-clone-{number}" for number in range(count)]
        yield f"{count:,} in a set", set(names)
        yield f"{count:,} in a list", names


def _utils(taken: Collection[str]) -> Naming:
    return lambda: get_next_clone_name(taken, "web", ts=True)


def _clock() -> str:
    return f"web-clone-{int(time.time() * _US)}"


def _alone(row: str, name: Naming) -> Contender:
    def measure() -> Measured:
        names, begun = [], time.perf_counter_ns()
        while time.perf_counter_ns() < begun + _MOST_S * _NS:
            names += [name() for _ in range(10)]
        taken = (time.perf_counter_ns() - begun) / len(names)
        return {row: [taken], _made(row): [len(names)], _distinct(row): [len(set(names))]}

    return Contender(measure)


def _counts(rows: Iterable[str]) -> list[Column]:
    """How many names there were, of all rounds, and how many were distinct."""
    names = list(rows)
    made, distinct = ({row: of(row) for row in names} for of in (_made, _distinct))
    return [Column("made", made, sum), Column("distinct", distinct, sum)]


def _made(row: str) -> str:
    return f"{row}, made"


def _distinct(row: str) -> str:
    return f"{row}, distinct"


# --- From the journal ------------------------------------------------------------------------------------------------


def _journal(scale: Scale) -> Result:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        most = max(processes for processes, _ in scale.namers)
        workers = [stack.enter_context(Namer(folder / "journal.sqlite")) for _ in range(most)]
        connection = stack.enter_context(closing(sqlite3.connect(folder / "bare.sqlite", isolation_level=None)))
        contenders = [_namers(workers[:processes], threads, scale.names) for processes, threads in scale.namers]
        rounds = take_turns("names from the journal", [*contenders, _bare(connection, scale.names)], scale.name_rounds)
    rows = [_journal_row(*namers) for namers in scale.namers]
    curves = [
        Curve(
            f"{count} process{'es' if count > 1 else ''}",
            [
                (processes * threads, _journal_row(processes, threads))
                for processes, threads in scale.namers
                if processes == count
            ],
        )
        for count in sorted({processes for processes, _ in scale.namers})
    ]
    return Result(
        key="names-journal",
        title="A name from the journal, reserved and with its task, in a transaction of its own",
        unit="ms a name",
        rate="names/s",
        rounds=rounds,
        rows=[*rows, COMMIT],
        columns=_counts(rows),
        relations=[faster(rounds, row, COMMIT) for row in rows],
        plot=Plot("threads, of all processes", "ms a name", curves),
    )


def _journal_row(processes: int, threads: int) -> str:
    one = "1 process" if processes == 1 else f"{processes} processes"
    return f"{one} × {threads} thread{'s' if threads > 1 else ''}"


class Namer:
    """A process that takes names from a journal when it is told to; see naming.py."""

    def __init__(self, journal: Path) -> None:
        argv = [sys.executable, "-P", "-m", "bench.naming", f"sqlite:///{journal}"]
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.answer()  # it is ready

    def ask(self, threads: int, count: int) -> None:
        """Has `count` names taken by some threads."""
        assert self._process.stdin is not None  # it is a pipe
        self._process.stdin.write(f"{json.dumps([threads, count])}\n")
        self._process.stdin.flush()

    def answer(self) -> tuple[float, float, list[str]]:
        """When it began and ended, in seconds since 1970, and the names."""
        assert self._process.stdout is not None  # it is a pipe
        begun, ended, names = json.loads(self._process.stdout.readline())
        return begun, ended, names

    def __enter__(self) -> Namer:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.communicate()  # it ends when nothing more can come


def _namers(workers: Sequence[Namer], threads: int, count: int) -> Contender:
    row = _journal_row(len(workers), threads)

    def measure() -> Measured:
        for worker in workers:
            worker.ask(threads, count // len(workers))
        answers = [worker.answer() for worker in workers]
        names = [name for *_, given in answers for name in given]
        taken = max(ended for _, ended, _ in answers) - min(begun for begun, *_ in answers)
        return {row: [taken * 1000 / len(names)], _made(row): [len(names)], _distinct(row): [len(set(names))]}

    return Contender(measure)


def _bare(connection: sqlite3.Connection, count: int) -> Contender:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE names (name TEXT PRIMARY KEY)")
    numbers = iter(range(_NS))

    def measure() -> Measured:
        begun = time.perf_counter()
        for _ in range(count):
            connection.execute("INSERT INTO names VALUES (?)", (f"web-clone-{next(numbers)}",))
        return {COMMIT: [(time.perf_counter() - begun) * 1000 / count]}

    return Contender(measure)
