"""A guest of 1 GiB as of 1 TiB: sparse disks on file systems that share blocks, by every way that can."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from support.storage import GiB, MiB

from . import clones, rivals
from .report import Curve, Plot, Result, faster
from .rounds import Contender, Measured, take_turns
from .scale import Scale
from .sites import Guest, Sites, sites_of

OURS, MANY, LINKED = "cloner", "cloner, 8 clients", "cloner, linked"
BARE, BARE_LINKED = "FICLONE + defineXML", "qemu-img create -b + defineXML"
CP, QEMU_IMG = "cp --reflink + defineXML", "qemu-img convert -W -m 16 + defineXML"
VIRT_CLONE, VIRSH = "virt-clone --reflink", "virsh vol-clone --reflink + define"
_WAYS = (OURS, MANY, LINKED, BARE, BARE_LINKED, CP, QEMU_IMG, VIRSH, VIRT_CLONE)
_DATA = 64 * MiB
_ROOM = 8 * GiB
_ONES, _BATCH = 5, 24
_CLIENTS = 8
_MS = 1000


def results(scale: Scale) -> Iterator[Result]:
    for file_system in scale.file_systems:
        yield _result(scale, file_system)


def _result(scale: Scale, file_system: str) -> Result:
    guests = [Guest(size, _DATA, name=_guest(size)) for size in scale.disk_sizes]
    with sites_of(file_system, guests, _ROOM) as found:
        contenders = []
        for size in scale.disk_sizes:
            contenders += list(_contenders(found, size, scale.tool_every))
        rounds = take_turns(f"sizes on {file_system}", contenders, scale.disk_rounds)
    rows = {way: [_row(way, size) for size in scale.disk_sizes] for way in _WAYS}
    least, most = scale.disk_sizes[0], scale.disk_sizes[-1]
    return Result(
        key=f"sizes-{file_system}",
        title=f"Cloning a guest with {_DATA // MiB} MiB of data, raw, on {file_system}, as its disk grows",
        unit="ms a clone",
        rate="clones/s",
        rounds=rounds,
        rows=[row for each in rows.values() for row in each],
        relations=[
            faster(rounds, _row(OURS, most), _row(OURS, least), "≥ 0.9"),
            *(faster(rounds, _row(OURS, most), _row(way, most)) for way in (BARE, CP, QEMU_IMG, VIRSH, VIRT_CLONE)),
            faster(rounds, _row(LINKED, most), _row(BARE_LINKED, most)),
        ],
        notes=[
            f"cloner: one clone after the other, or {_BATCH} that {_CLIENTS} clients ask for back to back. "
            "virt-clone and virsh without --reflink read all of a disk, holes too; they are measured where there is no "
            "reflink."
        ],
        plot=Plot(
            "size of the disk, GiB",
            "ms a clone",
            [
                Curve(way, [(size / GiB, row) for size, row in zip(scale.disk_sizes, rows[way], strict=True)])
                for way in _WAYS
            ],
        ),
    )


def _guest(size: int) -> str:
    return f"web-{size // GiB}"


def _row(way: str, size: int) -> str:
    return f"{way}, {size // GiB:,} GiB"


def _contenders(found: Sites, size: int, rare: int) -> Iterator[Contender]:
    guest, theirs = _guest(size), found.theirs

    def ours(way: str, **body: object) -> Contender:
        return _contender(found, _row(way, size), lambda: clones.one_by_one(found, _ONES, guest, **body))

    def many() -> list[float]:
        return [clones.at_once(found, _CLIENTS, _BATCH, guest).seconds / _BATCH]

    def others(way: str, act: Callable[[], None], count: int = 1, every: int = 1) -> Contender:
        return _contender(found, _row(way, size), lambda: [rivals.seconds(act) / count], every)

    yield ours(OURS)
    yield _contender(found, _row(MANY, size), many)
    yield ours(LINKED, method="linked")
    yield others(BARE, partial(rivals.bare_loop, theirs, _BATCH, guest), _BATCH)
    yield others(BARE_LINKED, partial(rivals.loop_with_overlays, theirs, _ONES, guest), _ONES)
    yield others(CP, partial(rivals.copy_and_define, theirs, guest, rivals.cp_reflink))
    yield others(QEMU_IMG, partial(rivals.copy_and_define, theirs, guest, rivals.qemu_img))
    yield others(VIRSH, partial(rivals.vol_clone, theirs, guest, "--reflink"))
    yield others(VIRT_CLONE, partial(rivals.virt_clone, theirs, "--reflink", guest=guest), every=rare)


def _contender(found: Sites, row: str, act: Callable[[], list[float]], every: int = 1) -> Contender:
    def measure() -> Measured:
        taken = act()
        found.clear()
        return {row: [_MS * seconds for seconds in taken]}

    return Contender(measure, every)
