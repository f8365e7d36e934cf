"""Results as tables for people and as JSON for machines."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .rounds import Rounds, Summary, summary

_MS_PER_S = 1000
_ENOUGH_FOR_P99 = 100


@dataclass(frozen=True)
class Relation:
    """How two rows stand to each other, and what is aimed at, in words; '' where nothing is."""

    what: str
    figure: Summary
    unit: str
    aim: str = ""


@dataclass(frozen=True)
class Result:
    """The answer to a question: `rows` of what the rounds gave, in `unit`, and how they stand to each other."""

    key: str
    title: str
    unit: str
    rounds: Rounds
    rows: Sequence[str]
    relations: Sequence[Relation] = ()
    notes: Sequence[str] = ()
    rate: str = ""
    """What a row is a number of per second, where the unit is that of milliseconds for one; '' elsewhere."""


def faster(rounds: Rounds, ours: str, theirs: str, aim: str = "") -> Relation:
    """How many times as fast as theirs ours is."""
    return Relation(f"{ours} : {theirs}", rounds.times_as_fast(ours, theirs), "times as fast", aim)


def more(rounds: Rounds, row: str, than: str, unit: str, aim: str = "") -> Relation:
    """How much more a row is than another."""
    return Relation(f"{row} − {than}", rounds.more(row, than), unit, aim)  # noqa: RUF001 - a minus


def table(result: Result) -> str:
    """A result as lines of text."""
    return "\n".join(_lines(result))


def _lines(result: Result) -> Iterator[str]:
    yield result.title
    heads = [result.unit, "quartiles", "samples", *(["p99"] if _has_tail(result) else [])]
    rows = [(row, _cells(result, row)) for row in result.rows]
    yield from _aligned([("", [*heads, *([result.rate] if result.rate else [])]), *rows])
    if result.relations:
        yield ""
        yield from _aligned([(relation.what, _related(relation)) for relation in result.relations])
    yield from (f"  {note}" for note in result.notes)


def _cells(result: Result, row: str) -> list[str]:
    samples = result.rounds.samples(row)
    short = summary(samples)
    cells = [_number(short.median), f"{_number(short.low)} – {_number(short.high)}", str(short.count)]
    if _has_tail(result):
        cells.append(_number(_p99(samples)))
    return [*cells, *([_number(_MS_PER_S / short.median)] if result.rate else [])]


def _related(relation: Relation) -> list[str]:
    figure = relation.figure
    spread = f"({_number(figure.low)} – {_number(figure.high)})"
    return [_number(figure.median), spread, relation.unit, f"aim: {relation.aim}" if relation.aim else ""]


def _aligned(rows: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """The first column to the left, the others to the right."""
    first = max(len(name) for name, _ in rows)
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    for name, cells in rows:
        columns = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"  {name.ljust(first)}  {'  '.join(columns)}".rstrip()


def _number(value: float) -> str:
    """Three digits that count."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _has_tail(result: Result) -> bool:
    return all(len(result.rounds.samples(row)) >= _ENOUGH_FOR_P99 for row in result.rows)


def _p99(samples: Sequence[float]) -> float:
    return statistics.quantiles(samples, n=100, method="inclusive")[98]


def as_json(result: Result) -> Mapping[str, Any]:
    """A result with all of its samples."""
    samples = {row: result.rounds.samples(row) for row in result.rows}
    return {
        "key": result.key,
        "title": result.title,
        "unit": result.unit,
        "rows": {row: asdict(summary(values)) | {"samples": values} for row, values in samples.items()},
        "relations": [asdict(relation) for relation in result.relations],
        "notes": list(result.notes),
    }
