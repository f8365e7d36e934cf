"""What a clone takes as there is more of something: guests on the host, clones in a batch, disks, extents of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from support.storage import GiB, KiB, MiB

from . import clones, rivals
from .report import Column, Curve, Plot, Result, faster
from .rounds import Contender, Measured, take_turns
from .scale import Scale
from .sites import Guest, Sites, extents, sites_of

BARE = "FICLONE + defineXML"
_DISKS = (1, 2, 4, 8)
_ONES, _CLONES = 5, 24
_CLIENTS = 8
_SIZE, _DATA, _ROOM = 2 * GiB, 64 * MiB, 8 * GiB
_PIECE = 4 * KiB
_STRIDE = 64 * KiB
_BATCH_AIM = {1000: "≤ 6"}
_RARE_BATCH = 1000
_MS = 1000


def results(scale: Scale) -> Iterator[Result]:
    yield _hosts(scale)
    guests = {count: Guest(_SIZE // count, _DATA // count, name=f"disks-{count}", disks=count) for count in _DISKS}
    files = {count: _of_extents(count) for count in scale.extents}
    all_guests = [Guest(_SIZE, _DATA), *guests.values(), *files.values()]
    with sites_of("xfs", all_guests, _ROOM) as found:
        yield _batches(scale, found)
        yield _grown(scale, found, "disks", {count: guest.name for count, guest in guests.items()})
        counted = {extents(found.ours.disks[guest.name][0]): guest.name for guest in files.values()}
        yield _grown(scale, found, "extents", counted)


def _of_extents(count: int) -> Guest:
    return Guest(max(_SIZE, count * _STRIDE * 2), count * _PIECE, name=f"extents-{count}", piece=_PIECE)


# --- Guests on the host ----------------------------------------------------------------------------------------------


def _hosts(scale: Scale) -> Result:
    with ExitStack() as stack:
        found = {
            count: stack.enter_context(sites_of("xfs", [Guest(_SIZE, _DATA)], _ROOM, others=count))
            for count in scale.hosts
        }
        contenders = [_on_host(sites, count) for count, sites in found.items()]
        rounds = take_turns("guests on the host", contenders, scale.growth_rounds)
    alone, many = ({count: of(count) for count in scale.hosts} for of in (_alone_on, _many_on))
    least, *others = scale.hosts
    return Result(
        key="growth-hosts",
        title="Cloning a guest on XFS as the host has more guests",
        unit="ms a clone",
        rate="clones/s",
        rounds=rounds,
        rows=[*alone.values(), *many.values()],
        relations=[faster(rounds, rows[count], rows[least], "≥ 0.9") for rows in (alone, many) for count in others],
        plot=Plot(
            "other guests of the host",
            "ms a clone",
            [
                Curve("cloner, one by one", list(alone.items())),
                Curve(f"cloner, {_CLIENTS} clients", list(many.items())),
            ],
        ),
    )


def _alone_on(count: int) -> str:
    return f"{count:,} others, one by one"


def _many_on(count: int) -> str:
    return f"{count:,} others, {_CLIENTS} clients"


def _on_host(found: Sites, count: int) -> Contender:
    def measure() -> Measured:
        alone = clones.one_by_one(found, _ONES)
        many = clones.at_once(found, _CLIENTS, _CLONES).seconds / _CLONES
        found.clear()
        return {_alone_on(count): [_MS * seconds for seconds in alone], _many_on(count): [_MS * many]}

    return Contender(measure)


# --- Clones in a batch -----------------------------------------------------------------------------------------------


def _batches(scale: Scale, found: Sites) -> Result:
    counts = scale.batches
    contenders = [_batch(found, count) for count in counts]
    rounds = take_turns("batches", contenders, scale.growth_rounds)
    rows = {count: _batch_row(count) for count in counts}
    return Result(
        key="growth-batch",
        title="A batch of clones by one request, on XFS, until all are defined",
        unit="s",
        rounds=rounds,
        rows=[*rows.values(), *(_bare_row(count) for count in counts)],
        columns=[
            Column("ms a clone", {row: _each(row) for count in counts for row in (rows[count], _bare_row(count))})
        ],
        relations=[faster(rounds, rows[count], _bare_row(count), "≥ 0.5" if count > 1 else "") for count in counts],
        aims={rows[count]: aim for count, aim in _BATCH_AIM.items() if count in rows},
        plot=Plot(
            "clones in the batch",
            "s until all are defined",
            [Curve("cloner", list(rows.items())), Curve(BARE, [(count, _bare_row(count)) for count in counts])],
        ),
    )


def _batch_row(count: int) -> str:
    return f"a batch of {count:,}"


def _bare_row(count: int) -> str:
    return f"{BARE} × {count:,}"


def _each(row: str) -> str:
    return f"{row}: each"


def _batch(found: Sites, count: int) -> Contender:
    row, bare = _batch_row(count), _bare_row(count)

    def measure() -> Measured:
        ours = clones.batch(found, count)
        theirs = rivals.seconds(lambda: rivals.bare_loop(found.theirs, count))
        found.clear()
        return {row: [ours], bare: [theirs], _each(row): [_MS * ours / count], _each(bare): [_MS * theirs / count]}

    return Contender(measure, every=2 if count >= _RARE_BATCH else 1)


# --- Disks of a guest, extents of a disk -----------------------------------------------------------------------------


def _grown(scale: Scale, found: Sites, what: str, guests: Mapping[int, str]) -> Result:
    """One guest after the other, each of which has so many of something."""
    ours, bare = (
        {count: f"{way}, {count:,} {what if count > 1 else what[:-1]}" for count in guests} for way in ("cloner", BARE)
    )
    contenders = [_one(found, guest, ours[count], bare[count]) for count, guest in guests.items()]
    rounds = take_turns(what, contenders, scale.growth_rounds)
    titles = {"disks": "as it has more disks", "extents": "as its disk lies in more extents"}
    return Result(
        key=f"growth-{what}",
        title=f"Cloning a guest on XFS, one by one, {titles[what]}",
        unit="ms a clone",
        rounds=rounds,
        rows=[*ours.values(), *bare.values()],
        relations=[faster(rounds, ours[count], bare[count]) for count in guests],
        plot=Plot(
            "disks of the guest" if what == "disks" else "extents of the disk",
            "ms a clone",
            [Curve("cloner", list(ours.items())), Curve(BARE, list(bare.items()))],
        ),
    )


def _one(found: Sites, guest: str, ours: str, bare: str) -> Contender:
    def measure() -> Measured:
        taken = clones.one_by_one(found, _ONES, guest)
        theirs = rivals.seconds(lambda: rivals.bare_loop(found.theirs, _ONES, guest)) / _ONES
        found.clear()
        return {ours: [_MS * seconds for seconds in taken], bare: [_MS * theirs]}

    return Contender(measure)
