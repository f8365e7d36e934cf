"""POST → 202 as the host has more and more guests: on libvirt's test driver, which costs nothing itself."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from support.running import wait_until
from support.server import Server

from .client import Client
from .report import Result, faster
from .rounds import Contender, Measured, Rounds, take_turns
from .scale import Scale

_WARM_UP = 20
_IN_A_ROW = 10
_GUEST = "guest-1"
_REST_TIMEOUT = 60.0  # seconds


def results(scale: Scale) -> Iterator[Result]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        contenders = [_contender(stack, folder, size) for size in scale.sizes]
        rounds = take_turns("accepting", contenders, scale.accept_rounds)
    yield _result(
        "accepting", "Accepting a clone (POST → 202, one client) while nothing else goes on", rounds, scale, _alone
    )
    busy = f"Accepting a clone, {_IN_A_ROW} in a row, while the ones before are made"
    yield _result("accepting-busy", busy, rounds, scale, _in_a_row)


def _result(key: str, title: str, rounds: Rounds, scale: Scale, row: Callable[[int], str]) -> Result:
    least = row(scale.sizes[0])
    rows = [row(size) for size in scale.sizes]
    relations = [faster(rounds, more, least, "0.9 – 1.1") for more in rows[1:]]
    return Result(key, title, "ms a request", rounds, rows, relations, rate="requests/s")


def _alone(size: int) -> str:
    return f"{size:,} guests"


def _in_a_row(size: int) -> str:
    return f"{size:,} guests, busy"


def _contender(stack: ExitStack, folder: Path, size: int) -> Contender:
    inventory = folder / f"{size}.xml"
    inventory.write_text("".join(_inventory(size)), "utf-8")
    server = stack.enter_context(Server(f"test://{inventory}", folder / str(size)))
    client = stack.enter_context(Client(server))
    _times(client, _WARM_UP)

    def measure() -> Measured:
        _rest(client)
        alone = _times(client, 1)
        _rest(client)
        return {_alone(size): alone, _in_a_row(size): _times(client, _IN_A_ROW)}

    return Contender(measure)


def _times(client: Client, count: int) -> list[float]:
    """Milliseconds of each of `count` requests."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        client.clone(_GUEST)
        times.append((time.perf_counter() - begun) * 1000)
    return times


def _rest(client: Client) -> None:
    """Waits until the accepted clones are made, so that what is timed is accepting alone."""
    wait_until(lambda: not client.get("tasks?status=running"), _REST_TIMEOUT, "the clones are made")


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
