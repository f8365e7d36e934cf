"""Rounds: all that is compared is measured in turn, again and again, so that what disturbs one disturbs all.

What counts on a shared and noisy machine are the ratios, so each is taken within a round, and its median over them.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Measured = Mapping[str, Sequence[float]]
"""What one turn gave: samples by the row of the table that they belong to."""


@dataclass(frozen=True)
class Contender:
    """Something to be measured: each call of `measure` is its turn. It takes part in every `every`-th round."""

    measure: Callable[[], Measured]
    every: int = 1


@dataclass(frozen=True)
class Summary:
    """Samples in short: their median and quartiles, and how many there were."""

    median: float
    low: float
    high: float
    count: int


def summary(samples: Sequence[float]) -> Summary:
    """Raises statistics.StatisticsError when there are no samples."""
    if len(samples) == 1:
        return Summary(samples[0], samples[0], samples[0], 1)
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Summary(median, low, high, len(samples))


@dataclass(frozen=True)
class Rounds:
    """What the rounds gave, one after the other."""

    rounds: Sequence[Measured]

    def samples(self, row: str) -> list[float]:
        """All of a row, in the order in which they were taken."""
        return [value for measured in self.rounds for value in measured.get(row, ())]

    def times_as_fast(self, ours: str, theirs: str) -> Summary:
        """How many times as fast as `theirs` was `ours`, where both are times, in the rounds that have both."""
        return summary([their / our for our, their in self._pairs(ours, theirs)])

    def more(self, row: str, than: str) -> Summary:
        """By how much a row is above another, in the rounds that have both."""
        return summary([value - other for value, other in self._pairs(row, than)])

    def _pairs(self, one: str, other: str) -> list[tuple[float, float]]:
        both = (measured for measured in self.rounds if measured.get(one) and measured.get(other))
        return [(statistics.median(measured[one]), statistics.median(measured[other])) for measured in both]


def take_turns(what: str, contenders: Sequence[Contender], rounds: int) -> Rounds:
    """Measures the contenders in turn, in every other round from the last to the first."""
    taken: list[Measured] = []
    for number in range(rounds):
        say(f"{what}: round {number + 1} of {rounds}")
        measured: dict[str, Sequence[float]] = {}
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            if number % contender.every == 0:
                measured |= contender.measure()
        taken.append(measured)
    return Rounds(taken)


def say(what: str) -> None:
    """Tells who waits what is going on; the results alone go to stdout."""
    print(f"bench: {what}", file=sys.stderr, flush=True)
