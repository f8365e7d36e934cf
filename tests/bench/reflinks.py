"""A guest on a file system that shares blocks: cloner, the bare loop, and virt-clone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from support.storage import GiB

from . import clones, rivals
from .report import Relation, Result, faster
from .rounds import Contender, Measured, Rounds, take_turns
from .scale import Scale
from .sites import Sites, extents, sites

CLIENTS = 8
ALONE, ONE, MANY = "cloner, one by one", "cloner, 1 client", f"cloner, {CLIENTS} clients"
BARE, WITH_VOLUMES = "FICLONE + defineXML", "createXML + FICLONE + defineXML"
TOOL, TOOL_REFLINK = "virt-clone", "virt-clone --reflink"
_ALONE_SHARE = 4
"""One by one, that many times fewer clones are made than at once."""

_MS = 1000


def results(scale: Scale, file_system: str = "xfs") -> Iterator[Result]:
    for image in scale.images:
        with sites(file_system, image, scale.guest_size, scale.guest_data) as found:
            refused = rivals.refusal(found.theirs, "--reflink")
            ways = _contenders(found, scale)
            if refused:
                del ways[TOOL_REFLINK]
            rounds = take_turns(f"reflink, {image}", list(ways.values()), scale.clone_rounds)
            written = f"{scale.guest_data / GiB:.2g} GiB of data in {extents(found.ours.disk)} extents"
        yield Result(
            key=f"reflink-{file_system}-{image}",
            title=f"Cloning a guest of {scale.guest_size // GiB} GiB with {written}, {image}, on {file_system}",
            unit="ms a clone",
            rate="clones/s",
            rounds=rounds,
            rows=list(ways),
            relations=_relations(rounds, ways),
            aims={MANY: "≥ 200/s"},
            notes=_notes(scale, refused),
        )
        yield Result(
            key=f"reflink-{file_system}-{image}-cpu",
            title=f"What a clone takes of the processors, {image}, on {file_system}",
            unit="ms a clone",
            rounds=rounds,
            rows=[f"{MANY}: the server", *(f"{row}: libvirtd" for row in (MANY, WITH_VOLUMES, BARE))],
        )


def _contenders(found: Sites, scale: Scale) -> dict[str, Contender]:
    """By the row that each fills. What a turn has made is removed outside of the time."""
    count, theirs, rare = scale.clones, found.theirs, scale.tool_every
    return {
        ALONE: Contender(_alone(found, count // _ALONE_SHARE)),
        ONE: Contender(_at_once(found, ONE, 1, count)),
        MANY: Contender(_at_once(found, MANY, CLIENTS, count)),
        BARE: Contender(_theirs(found, BARE, lambda: rivals.bare_loop(theirs, count), count)),
        WITH_VOLUMES: Contender(_theirs(found, WITH_VOLUMES, lambda: rivals.loop_with_volumes(theirs, count), count)),
        TOOL: Contender(_theirs(found, TOOL, lambda: rivals.virt_clone(theirs), 1), rare),
        TOOL_REFLINK: Contender(_theirs(found, TOOL_REFLINK, lambda: rivals.virt_clone(theirs, "--reflink"), 1), rare),
    }


def _alone(found: Sites, count: int) -> Callable[[], Measured]:
    def measure() -> Measured:
        taken = clones.one_by_one(found, count)
        found.clear()
        return {ALONE: [_MS * seconds for seconds in taken]}

    return measure


def _at_once(found: Sites, row: str, clients: int, count: int) -> Callable[[], Measured]:
    def measure() -> Measured:
        batch = clones.at_once(found, clients, count)
        found.clear()
        taken = {row: batch.seconds, f"{row}: the server": batch.server, f"{row}: libvirtd": batch.libvirtd}
        return {name: [_MS * seconds / count] for name, seconds in taken.items()}

    return measure


def _theirs(found: Sites, row: str, act: Callable[[], object], count: int) -> Callable[[], Measured]:
    def measure() -> Measured:
        used = found.theirs.cpu_seconds()
        taken = {row: rivals.seconds(act), f"{row}: libvirtd": found.theirs.cpu_seconds() - used}
        found.clear()
        return {name: [_MS * seconds / count] for name, seconds in taken.items()}

    return measure


def _relations(rounds: Rounds, ways: Mapping[str, Contender]) -> list[Relation]:
    relations = [faster(rounds, ours, BARE, "≥ 0.5") for ours in (ONE, MANY)]
    relations += [faster(rounds, ours, WITH_VOLUMES) for ours in (ONE, MANY)]
    relations += [faster(rounds, ALONE, TOOL, "≥ 50")]
    return relations + ([faster(rounds, ALONE, TOOL_REFLINK)] if TOOL_REFLINK in ways else [])


def _notes(scale: Scale, refused: str) -> Sequence[str]:
    asked = f"With clients: {scale.clones} clones asked for back to back, until all guests are defined and all tasks"
    notes = [f"{asked} finished.", "The loops are one thread of Python."]
    return notes + ([f"virt-clone --reflink refuses: {refused}"] if refused else [])
