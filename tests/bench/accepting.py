"""POST → 202 as the host has more and more guests, and as more and more ask at once: on libvirt's test driver.

That costs next to nothing itself. The clones stay, so that a host of ten guests has some hundreds in the end, which its
table says; one of 10,000 always has a great many more. The limit is the bare handler of bare.py, asked in the same way
in the same rounds.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from support.running import wait_until
from support.server import Server

from .bare import Bare
from .client import Client, Serving
from .report import Column, Curve, Plot, Relation, Result, faster, p99
from .rounds import Contender, Measured, Rounds, say, take_turns
from .scale import Scale

GUEST = "guest-1"
BACKLOG = 2048
_WARM_UP = 20
_IN_A_ROW = 10
_EACH = {8: 10, 64: 2}
"""How many requests each of so many clients makes in a turn."""

_PLOTTED = "Accepting a clone as the host has more guests and more clients ask at once"
_AIMS = {8: "≥ 600/s"}
_REST_TIMEOUT = 120.0  # seconds
_MS = 1000
_BARE = "a bare CherryPy handler with one SQLite commit"


def results(scale: Scale) -> Iterator[Result]:
    with _hosts(scale) as hosts:
        first = Rounds([{row: [host.first_s] for row, host in hosts.items() if row != _BARE}])
        rounds = take_turns("accepting", [_one(host, row) for row, host in hosts.items()], scale.accept_rounds)
        contenders = [_many(host, row, crowd) for crowd in scale.crowds for row, host in hosts.items()]
        crowded = take_turns("accepting from many", contenders, scale.crowd_rounds)
    yield Result(
        key="accepting-first",
        title="From the start of the server until it has accepted its first clone, on the test driver",
        unit="s",
        rounds=first,
        rows=[_guests(size) for size in scale.sizes],
    )
    alone = "Accepting a clone (POST → 202, one client) while nothing else goes on"
    yield _result("accepting", alone, rounds, scale, lambda row: row, "≤ 2")
    busy = f"Accepting a clone, {_IN_A_ROW} in a row by one client, while the ones before are made"
    yield _result("accepting-busy", busy, rounds, scale, _busy)
    everything = Rounds([*rounds.rounds, *crowded.rounds])
    for crowd in scale.crowds:
        yield _crowded(crowd, everything, scale)


def _guests(size: int) -> str:
    return f"{size:,} guests"


def _busy(row: str) -> str:
    return f"{row}, busy"


def _by(row: str, crowd: int) -> str:
    return f"{row}, {crowd} clients"


def _latency_by(crowd: int, row: str) -> str:
    return _latency(_by(row, crowd))


def _latency(row: str) -> str:
    return f"{row}: a request"


def _result(key: str, title: str, rounds: Rounds, scale: Scale, row: Callable[[str], str], aim: str = "") -> Result:
    least, *others = (row(_guests(size)) for size in scale.sizes)
    bare = row(_BARE)
    return Result(
        key=key,
        title=title,
        unit="ms a request",
        rate="requests/s",
        rounds=rounds,
        rows=[least, *others, bare],
        relations=[*_flat(rounds, least, others), faster(rounds, least, bare)],
        notes=[_note(scale, 0)],
        aims={least: aim} if aim else {},
    )


def _note(scale: Scale, crowd_rounds: int) -> str:
    accepted = 1 + _WARM_UP + scale.accept_rounds * (1 + _IN_A_ROW)
    accepted += crowd_rounds * sum(crowd * _EACH[crowd] for crowd in scale.crowds)
    return f"The guests are those at the beginning; in the end there were {accepted:,} clones beside them."


def _flat(rounds: Rounds, least: str, others: Sequence[str]) -> list[Relation]:
    return [faster(rounds, more, least, "≥ 0.9") for more in others]


def _crowded(crowd: int, rounds: Rounds, scale: Scale) -> Result:
    least, *others = (_by(_guests(size), crowd) for size in scale.sizes)
    bare = _by(_BARE, crowd)
    rows = [least, *others, bare]
    latencies = {row: _latency(row) for row in rows}
    return Result(
        key=f"accepting-{crowd}",
        title=f"Accepting clones from {crowd} clients at once, {_EACH[crowd]} in a row by each, while they are made",
        unit="ms by requests",
        rate="requests/s",
        rounds=rounds,
        rows=rows,
        columns=[Column("p50 of a request, ms", latencies), Column("p99, ms", latencies, p99)],
        relations=[*_flat(rounds, least, others), faster(rounds, least, bare)],
        notes=[_note(scale, scale.crowd_rounds)],
        aims={least: _AIMS[crowd]} if crowd in _AIMS else {},
        plot=_plot(scale) if crowd == scale.crowds[-1] else None,
    )


def _plot(scale: Scale) -> Plot:
    ways: list[tuple[str, Callable[[str], str]]] = [("cloner, 1 client", lambda row: row)]
    ways += [(f"cloner, {crowd} clients", partial(_latency_by, crowd)) for crowd in scale.crowds]
    ends = (scale.sizes[0], scale.sizes[-1])
    curves = [Curve(label, [(size, row(_guests(size))) for size in scale.sizes]) for label, row in ways]
    for label, row in ways:
        bare = label.replace("cloner", "bare handler")
        curves.append(Curve(bare, [(end, row(_BARE)) for end in ends]))
    return Plot("guests of the host", "p50 of POST → 202, ms", curves, _PLOTTED)


# --- The hosts -------------------------------------------------------------------------------------------------------


@contextmanager
def _hosts(scale: Scale) -> Iterator[dict[str, Host]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        hosts = {_BARE: Host(stack, stack.enter_context(Bare(_made(folder / "bare"), BACKLOG)))}
        for size in scale.sizes:
            say(f"starts a server with {size:,} guests")
            begun = time.perf_counter()
            server = stack.enter_context(serving(folder, size))
            stack.callback(server.kill)  # in order, one with 10,000 guests takes longer than the tests allow for
            hosts[_guests(size)] = Host(stack, server, begun)
        yield hosts


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def serving(folder: Path, size: int) -> Server:
    """A server, not started, on libvirt's test driver with so many guests, each with a disk of its own."""
    inventory = folder / f"{size}.xml"
    inventory.write_text("".join(_inventory(size)), "utf-8")
    return Server(f"test://{inventory}", folder / str(size))


class Host:
    """A server that accepts clones, with clients that are connected to it."""

    def __init__(self, stack: ExitStack, server: Serving, begun: float = 0.0) -> None:
        self._stack = stack
        self._server = server
        if isinstance(server, Server):
            wait_until(lambda: server.request("GET", "/readyz").status == 200, _REST_TIMEOUT, "libvirt answers")
            server.request("POST", f"vms/{GUEST}/clone", timeout=_REST_TIMEOUT)
        self.first_s = time.perf_counter() - begun
        self._clients = [self._client()]
        self.times(_WARM_UP)
        self.rest()

    def times(self, count: int) -> list[float]:
        """Milliseconds of each of `count` requests by one client."""
        return self._times(self._clients[0], count)

    def crowd(self, clients: int, each: int) -> tuple[list[float], float]:
        """Milliseconds of each of the requests of some clients, and all in all."""
        self._clients += [self._client() for _ in range(clients - len(self._clients))]
        ready = threading.Barrier(clients + 1)

        def ask(client: Client) -> list[float]:
            ready.wait()
            return self._times(client, each)

        with ThreadPoolExecutor(clients) as threads:
            asking = [threads.submit(ask, client) for client in self._clients[:clients]]
            ready.wait()
            begun = time.perf_counter()
            times = [value for future in asking for value in future.result()]
            return times, (time.perf_counter() - begun) * _MS

    def rest(self) -> None:
        """Waits until the accepted clones are made, so that what is timed next is not kept busy by them."""
        client = self._clients[0]
        if isinstance(self._server, Server):
            wait_until(lambda: not client.get("tasks?status=running"), _REST_TIMEOUT, "the clones are made")

    def _client(self) -> Client:
        return self._stack.enter_context(Client(self._server))

    def _times(self, client: Client, count: int) -> list[float]:
        times = []
        for _ in range(count):
            begun = time.perf_counter()
            client.clone(GUEST)
            times.append((time.perf_counter() - begun) * _MS)
        return times


def _one(host: Host, row: str) -> Contender:
    def measure() -> Measured:
        alone = host.times(1)
        host.rest()
        busy = host.times(_IN_A_ROW)
        host.rest()
        return {row: alone, _busy(row): busy}

    return Contender(measure)


def _many(host: Host, row: str, crowd: int) -> Contender:
    name = _by(row, crowd)

    def measure() -> Measured:
        times, taken = host.crowd(crowd, _EACH[crowd])
        host.rest()
        return {name: [taken / len(times)], _latency(name): times}

    return Contender(measure)


def _inventory(size: int) -> Iterator[str]:
    yield "<node><pool type='dir'><name>default</name><target><path>/images</path></target>"
    for number in range(1, size + 1):
        path = f"/images/guest-{number}.qcow2"
        yield f"<volume type='file'><name>guest-{number}.qcow2</name><key>{path}</key><capacity>1048576</capacity>"
        yield f"<allocation>4096</allocation><target><path>{path}</path><format type='qcow2'/></target></volume>"
    yield "</pool>"
    for number in range(1, size + 1):
        yield f"<domain type='test'><name>guest-{number}</name><memory>1024</memory><os><type>hvm</type></os><devices>"
        yield f"<disk type='file'><driver name='qemu' type='qcow2'/><source file='/images/guest-{number}.qcow2'/>"
        yield "<target dev='vda'/></disk><interface type='user'/></devices>"
        yield "<test:runstate xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>5</test:runstate></domain>"
    yield "</node>"
