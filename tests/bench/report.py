"""Results as tables for people, as Markdown for a page and as JSON for machines."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .rounds import Rounds, Summary, summary

_MS_PER_S = 1000
_ENOUGH_FOR_P99 = 100
_SMALL = 0.1


@dataclass(frozen=True)
class Relation:
    """How two rows stand to each other, and what is aimed at, in words; '' where nothing is."""

    what: str
    figure: Summary
    unit: str
    aim: str = ""


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def p99(samples: Sequence[float]) -> float:
    return statistics.quantiles(samples, n=100, method="inclusive")[98] if len(samples) > 1 else samples[0]


@dataclass(frozen=True)
class Column:
    """More that the rounds gave: the name in the rounds of what each row has there, and what is shown of it."""

    head: str
    names: Mapping[str, str]
    figure: Callable[[Sequence[float]], float] = median


@dataclass(frozen=True)
class Curve:
    """A line of a plot: the medians of rows, by where they stand on the x axis."""

    label: str
    points: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Plot:
    """A picture of a result: curves, or, without any, how the samples of its rows are distributed."""

    x: str
    y: str
    curves: Sequence[Curve] = ()
    title: str = ""
    """Where it is not the result's."""


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

    columns: Sequence[Column] = ()
    aims: Mapping[str, str] = field(default_factory=dict)
    """What is aimed at, by row: in the result's unit, or a rate where it ends with '/s'."""

    plot: Plot | None = None


@dataclass(frozen=True)
class Aim:
    """What was aimed at, and what came of it."""

    what: str
    figure: float
    unit: str
    aim: str

    @property
    def is_met(self) -> bool:
        """By the numbers of an aim: `≥ 1`, `≤ 1`, or `0.9 – 1.1`."""
        numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", self.aim)]
        least = numbers[0] if "≥" in self.aim or "–" in self.aim else -float("inf")
        most = numbers[-1] if "≤" in self.aim or "–" in self.aim else float("inf")
        return least <= self.figure <= most


def aims(result: Result) -> Iterator[Aim]:
    """Every aim of a result, with its figure."""
    for row, aim in result.aims.items():
        figure = median(result.rounds.samples(row))
        is_rate = aim.endswith("/s")
        yield Aim(row, _MS_PER_S / figure if is_rate else figure, result.rate if is_rate else result.unit, aim)
    for relation in result.relations:
        if relation.aim:
            yield Aim(relation.what, relation.figure.median, relation.unit, relation.aim)


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
    yield from _aligned([("", _heads(result)), *((row, _cells(result, row)) for row in result.rows)])
    if result.relations:
        yield ""
        yield from _aligned([(relation.what, _related(relation)) for relation in result.relations])
    yield from (f"  {note}" for note in result.notes)


def markdown(result: Result) -> Iterator[str]:
    """A result as Markdown, line by line: its rows, and how they stand to each other."""
    yield from _markdown([("", _heads(result)), *((row, _cells(result, row)) for row in result.rows)])
    if result.relations:
        yield ""
        heads = ("", ["median", "quartiles", "", "aim"])
        yield from _markdown([heads, *((relation.what, _related(relation)) for relation in result.relations)])
    for note in result.notes:
        yield from ("", note)


def _heads(result: Result) -> list[str]:
    heads = [result.unit, "quartiles", "samples", *(["p99"] if _has_tail(result) else [])]
    heads += [result.rate] if result.rate else []
    return [*heads, *(column.head for column in result.columns), *(["aim"] if result.aims else [])]


def _cells(result: Result, row: str) -> list[str]:
    samples = result.rounds.samples(row)
    short = summary(samples)
    cells = [number(short.median), f"{number(short.low)} – {number(short.high)}", str(short.count)]
    if _has_tail(result):
        cells.append(number(p99(samples)))
    cells += [number(_MS_PER_S / short.median)] if result.rate else []
    cells += [_further(column, result.rounds.samples(column.names.get(row, ""))) for column in result.columns]
    return [*cells, *([result.aims.get(row, "")] if result.aims else [])]


def _further(column: Column, samples: Sequence[float]) -> str:
    """A count as it is."""
    figure = column.figure(samples) if samples else None
    return "" if figure is None else f"{figure:,}" if isinstance(figure, int) else number(figure)


def _related(relation: Relation) -> list[str]:
    figure = relation.figure
    spread = f"({number(figure.low)} – {number(figure.high)})"
    return [number(figure.median), spread, relation.unit, f"aim: {relation.aim}" if relation.aim else ""]


def _aligned(rows: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """The first column to the left, the others to the right."""
    first = max(len(name) for name, _ in rows)
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    for name, cells in rows:
        columns = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"  {name.ljust(first)}  {'  '.join(columns)}".rstrip()


def _markdown(rows: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    (head, heads), *others = rows
    yield f"| {' | '.join([head, *heads])} |"
    yield f"|---|{'---:|' * len(heads)}"
    for name, cells in others:
        yield f"| {' | '.join([name, *(cell.removeprefix('aim: ') for cell in cells)])} |"


def number(value: float) -> str:
    """Three digits that count, and two of what is small."""
    size = abs(value)
    if 0 < size < _SMALL:
        return f"{value:.2g}"
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _has_tail(result: Result) -> bool:
    """Whether a p99 is shown of itself: with enough samples, and where no column has it anyway."""
    has_column = any(column.figure is p99 for column in result.columns)
    return not has_column and all(len(result.rounds.samples(row)) >= _ENOUGH_FOR_P99 for row in result.rows)


def _short(samples: Sequence[float]) -> list[float]:
    """With the digits that can count."""
    return [float(f"{value:.5g}") for value in samples]


def as_json(result: Result) -> Mapping[str, Any]:
    """A result with all of its samples."""
    samples = {row: _short(result.rounds.samples(row)) for row in result.rows}
    columns = {
        column.head: {row: _short(result.rounds.samples(name)) for row, name in column.names.items()}
        for column in result.columns
    }
    return {
        "key": result.key,
        "title": result.title,
        "unit": result.unit,
        "rows": {row: asdict(summary(values)) | {"samples": values} for row, values in samples.items()},
        "columns": columns,
        "relations": [asdict(relation) for relation in result.relations],
        "aims": [asdict(aim) | {"is_met": aim.is_met} for aim in aims(result)],
        "notes": list(result.notes),
    }
