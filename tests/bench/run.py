"""`make bench`: how long it takes to accept a clone, as the host has more and more guests.

Nothing here passes or fails. Machines are shared and noisy: the servers are asked in turn, round by round, so that what
disturbs one disturbs all, and what counts are the ratios.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from support.server import Server

SIZES = (10, 1000, 5000)
WARM_UP = 20

Times = dict[int, list[float]]
"""Milliseconds, by number of guests."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Times POST → 202 on libvirt's test driver.")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of ten requests for each size (default 40)")
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clients = {size: stack.enter_context(_served(folder, size)) for size in SIZES}
        for client in clients.values():
            _times(client, WARM_UP)
        alone: Times = {size: [] for size in SIZES}
        busy: Times = {size: [] for size in SIZES}
        for _ in range(rounds):
            for size, client in clients.items():
                client.rest()
                alone[size] += _times(client, 1)
                client.rest()
                busy[size] += _times(client, 10)
    print("Accepting a clone: POST → 202, one client, libvirt's test driver")
    _report("while nothing else goes on", alone)
    _report("ten in a row, while the ones before are made", busy)


class _Client:
    """A server with `size` guests and one connection to it that stays open."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection(*server.address)
        self._headers = {"Authorization": f"Bearer {server.token}"}

    def clone(self) -> None:
        self._connection.request("POST", "/plugins/kimchi/vms/guest-1/clone", headers=self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != http.client.ACCEPTED:
            raise RuntimeError(text.decode())

    def rest(self) -> None:
        """Waits until the accepted clones are made, so that what is timed is accepting alone."""
        while self._get("/plugins/kimchi/tasks?status=running") != b"[]":
            time.sleep(0.01)

    def _get(self, path: str) -> bytes:
        self._connection.request("GET", path, headers=self._headers)
        return self._connection.getresponse().read()

    def close(self) -> None:
        self._connection.close()


class _served:
    def __init__(self, folder: Path, size: int) -> None:
        inventory = folder / f"{size}.xml"
        inventory.write_text("".join(_inventory(size)), "utf-8")
        self._server = Server(f"test://{inventory}", folder / str(size))

    def __enter__(self) -> _Client:
        self._server.start()
        self._client = _Client(self._server)
        return self._client

    def __exit__(self, *_error: object) -> None:
        self._client.close()
        self._server.close()


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


def _times(client: _Client, count: int) -> list[float]:
    """Milliseconds of each of `count` requests."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        client.clone()
        times.append((time.perf_counter() - begun) * 1000)
    return times


def _report(title: str, times: Times) -> None:
    base = statistics.median(times[SIZES[0]])
    print(f"\n{title}:")
    print(f"{'guests':>8} {'requests':>9} {'p50 ms':>8} {'p99 ms':>8} {'p50 : that of 10':>17}")
    for size, values in times.items():
        p50, p99 = statistics.median(values), statistics.quantiles(values, n=100)[98]
        print(f"{size:>8} {len(values):>9} {p50:>8.2f} {p99:>8.2f} {p50 / base:>17.2f}")


if __name__ == "__main__":
    main()
