"""A full copy of a raw disk on ext4, which shares no blocks: cloner, qemu-img, cp. And of a sparse one, as Kimchi does.

Before each turn the source is in the page cache and nothing waits to be written. A copy is timed until whoever makes it
says that it is done, and further until it is on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from support.running import run
from support.storage import GiB, MiB, allocated

from . import clones, rivals
from .report import Result, faster
from .rounds import Contender, Measured, Rounds, take_turns
from .scale import Scale
from .sites import GUEST, Sites, sites

VIRSH, VIRT_CLONE = "virsh vol-clone + define", "virt-clone"
OURS, QEMU_IMG, CP, KIMCHI = "cloner", "qemu-img convert -W -m 16", "cp --sparse=always", "createXMLFrom as Kimchi does"
SPARSE_DATA = 64 * MiB
_CHUNK = 4 * MiB
_SLOW, _RARELY = (VIRSH, VIRT_CLONE), 2  # rounds
_CACHE = "Warm: the source is in the page cache, and nothing waits to be written."

Copying = Callable[[], float]
"""Makes one copy; the seconds until it is said to be done."""


def results(scale: Scale) -> Iterator[Result]:
    for size in scale.copies:
        with sites("ext4", "raw", size, size) as found:
            ways = {
                OURS: _clone(found),
                QEMU_IMG: _tool(found, rivals.qemu_img),
                CP: _tool(found, rivals.cp),
                VIRSH: lambda: rivals.seconds(lambda: rivals.vol_clone(found.theirs, GUEST)),
                VIRT_CLONE: lambda: rivals.seconds(lambda: rivals.virt_clone(found.theirs)),
            }
            rounds = _compared(f"copy of {size / GiB:g} GiB", found, ways, scale.copy_rounds)
        title = f"Cloning a guest with {size / GiB:g} GiB of data, raw, on ext4, which has no reflink"
        yield _result(
            f"copy-{size / GiB:g}", title, rounds, {QEMU_IMG: "≥ 0.97", CP: "≥ 0.97", VIRSH: "", VIRT_CLONE: ""}
        )


def sparse(scale: Scale) -> Iterator[Result]:
    with sites("ext4", "raw", scale.sparse, SPARSE_DATA) as found:
        ways = {
            OURS: _clone(found),
            KIMCHI: lambda: rivals.seconds(lambda: rivals.create_from(found.theirs)),
        }
        rounds = _compared("sparse", found, ways, scale.copy_rounds)
    title = f"Cloning a guest of {scale.sparse / GiB:g} GiB with {SPARSE_DATA // MiB} MiB of data, raw, on ext4"
    yield _result("sparse", title, rounds, {KIMCHI: "≥ 4"})


def _result(key: str, title: str, rounds: Rounds, aims: Mapping[str, str]) -> Result:
    rows = [row for way in (OURS, *aims) for row in (way, _on_disk(way))]
    relations = [faster(rounds, OURS, way, aim) for way, aim in aims.items()]
    relations += [faster(rounds, _on_disk(OURS), _on_disk(way)) for way in aims]
    occupied = (f"{way}: {rounds.samples(_occupied(way))[0]:,.0f} MiB" for way in (OURS, *aims))
    return Result(key, title, "s", rounds, rows, relations, [_CACHE, f"The copy occupies, {', '.join(occupied)}."])


def _on_disk(way: str) -> str:
    return f"{way}, on the disk"


def _occupied(way: str) -> str:
    return f"{way}, MiB"


def _clone(found: Sites) -> Copying:
    return lambda: clones.at_once(found, 1, 1).seconds


def _tool(found: Sites, copy: Callable[[Path, Path], None]) -> Copying:
    disk = found.theirs.disk
    return lambda: rivals.seconds(lambda: copy(disk, disk.with_name("copy.img")))


def _compared(what: str, found: Sites, ways: Mapping[str, Copying], rounds: int) -> Rounds:
    contenders = [_contender(found, row, way, _RARELY if row in _SLOW else 1) for row, way in ways.items()]
    return take_turns(what, contenders, rounds)


def _contender(found: Sites, row: str, way: Copying, every: int) -> Contender:
    def measure() -> Measured:
        _prepare(found.ours.disk)
        done = way()
        (copy,) = found.copies()
        written = done + rivals.seconds(lambda: rivals.put_on_disk(copy))
        occupied = allocated(copy) / MiB
        found.clear()
        return {row: [done], _on_disk(row): [written], _occupied(row): [occupied]}

    return Contender(measure, every)


def _prepare(source: Path) -> None:
    run("sync", "--file-system", source, timeout=rivals.TOOL_TIMEOUT)
    with source.open("rb") as file:
        while file.read(_CHUNK):
            continue
