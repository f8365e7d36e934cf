"""Many connections at one moment: how many of them are served, and what slow ones cost the others.

The alternative is a CherryPy server as it comes, with a handler that does next to nothing.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from support.server import Server

from .accepting import GUEST, Host, serving
from .bare import Bare
from .client import Serving, head
from .report import Column, Result, faster
from .rounds import Contender, Measured, take_turns
from .scale import Scale

_OURS, _PLAIN = "cloner", "CherryPy as it comes"
_GUESTS = 10
_RARELY = 3  # rounds; whom it does not serve it keeps waiting
_MS = 1000
_SLOW, _ALL = 200, 1000
_BYTE_EVERY_S = 0.5


@dataclass(frozen=True)
class Answered:
    """What came of one connection: its HTTP status, 0 for none, and after how many milliseconds."""

    status: int
    ms: float

    @property
    def is_served(self) -> bool:
        return 200 <= self.status < 300


def results(scale: Scale) -> Iterator[Result]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        ours = stack.enter_context(serving(folder, _GUESTS))
        host = Host(stack, ours)
        (folder / "bare").mkdir()
        plain = stack.enter_context(Bare(folder / "bare"))
        yield _burst(scale, host, ours, plain)
        yield _beside_slow(scale, ours)


def _burst(scale: Scale, host: Host, ours: Server, plain: Bare) -> Result:
    contenders = []
    for count in scale.connections:
        contenders += [_all_at_once(scale, count, ours, host), _all_at_once(scale, count, plain)]
    rounds = take_turns("connections", contenders, scale.connection_rounds)
    rows = [_row(way, count) for count in scale.connections for way in (_OURS, _PLAIN)]
    return Result(
        key="connections",
        title="Connections that are opened at one moment, each to ask for one clone (POST → 202)",
        unit="ms until it is answered",
        rounds=rounds,
        rows=rows,
        columns=[
            Column("asked", {row: _asked(row) for row in rows}),
            Column("served", {row: _served(row) for row in rows}),
        ],
        notes=[
            f"Within {scale.patience_s:.0f} s; served is the median of the rounds. "
            f"{_PLAIN} has a handler that does one SQLite commit."
        ],
    )


def _all_at_once(scale: Scale, count: int, server: Serving, host: Host | None = None) -> Contender:
    """Ours, of which the host is given, takes part in every round."""
    row = _row(_OURS if host else _PLAIN, count)

    def measure() -> Measured:
        request = head(server, "POST", f"vms/{GUEST}/clone", "Content-Length: 0")
        answers = asyncio.run(_ask_all(server, request, count, scale.patience_s))
        if host:
            host.rest()
        return _counted(row, answers)

    return Contender(measure, every=1 if host else _RARELY)


def _counted(row: str, answers: Sequence[Answered]) -> Measured:
    served = [answer.ms for answer in answers if answer.is_served]
    return {row: served or [answers[0].ms], _asked(row): [len(answers)], _served(row): [len(served)]}


def _row(way: str, count: int) -> str:
    return f"{way}, {count:,} connections"


def _asked(row: str) -> str:
    return f"{row}: asked"


def _served(row: str) -> str:
    return f"{row}: served"


def _beside_slow(scale: Scale, ours: Server) -> Result:
    alone, beside = f"{_ALL - _SLOW} connections", f"{_ALL - _SLOW} of {_ALL:,}, of which {_SLOW} are slow"
    request = head(ours, "GET", "config")

    def measure(row: str) -> Measured:
        return _counted(row, asyncio.run(_ask_all(ours, request, _ALL - _SLOW, scale.patience_s)))

    def measure_beside() -> Measured:
        with _slow_ones(ours):
            return measure(beside)

    contenders = [Contender(lambda: measure(alone)), Contender(measure_beside)]
    rounds = take_turns("slow connections", contenders, scale.connection_rounds)
    rows = [alone, beside]
    return Result(
        key="slow",
        title="Connections that are opened at one moment, each with one request (GET config), beside slow ones",
        unit="ms until it is answered",
        rounds=rounds,
        rows=rows,
        columns=[
            Column("asked", {row: _asked(row) for row in rows}),
            Column("served", {row: _served(row) for row in rows}),
        ],
        relations=[faster(rounds, beside, alone)],
        notes=[f"A slow one sends a byte of its head every {_BYTE_EVERY_S:g} s."],
    )


async def _ask_all(server: Serving, request: bytes, count: int, patience_s: float) -> list[Answered]:
    return await asyncio.gather(*(_ask(server, request, patience_s) for _ in range(count)))


async def _ask(server: Serving, request: bytes, patience_s: float) -> Answered:
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(patience_s):
            reader, writer = await asyncio.open_connection(*server.address)
            try:
                writer.write(request)
                line = await reader.readline()
            finally:
                writer.close()
    except OSError:  # TimeoutError is one
        line = b""
    status = int(line.split()[1]) if line.startswith(b"HTTP/") else 0
    return Answered(status, (time.perf_counter() - begun) * _MS)


@contextmanager
def _slow_ones(server: Serving) -> Iterator[None]:
    """Meanwhile there are connections that never get to the end of their request."""
    with ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(server.address)) for _ in range(_SLOW)]
        begin = head(server, "POST", f"vms/{GUEST}/clone").removesuffix(b"\r\n")
        for connection in connections:
            connection.sendall(begin)
        ended = threading.Event()
        dribbling = threading.Thread(target=_dribble, args=(connections, ended))
        dribbling.start()
        try:
            yield
        finally:
            ended.set()
            dribbling.join()


def _dribble(connections: list[socket.socket], ended: threading.Event) -> None:
    while not ended.wait(_BYTE_EVERY_S):
        for connection in connections:
            with suppress(OSError):  # it was cut off
                connection.send(b"X")
