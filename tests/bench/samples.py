"""What was measured, and its reduction: only what was measured in one run is compared, round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One load through one pair, once. The values' names end in their units."""

    part: str
    load: str
    pair: str
    round: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of `count` values."""

    median: float
    least: float
    most: float
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """None where nothing was measured."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Samples:
    """All of one run."""

    every: tuple[Sample, ...]

    def parts(self) -> list[str]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(s.part for s in self.every))

    def loads(self, part: str) -> list[str]:
        """Of a part, in their order."""
        return list(dict.fromkeys(s.load for s in self.every if s.part == part))

    def pairs(self, part: str) -> list[str]:
        """That a part was measured with, in their order."""
        return list(dict.fromkeys(s.pair for s in self.every if s.part == part))

    def figure(self, part: str, load: str, pair: str, value: str) -> Spread | None:
        """Over the rounds."""
        return spread(list(self._rounds(part, load, pair, value).values()))

    def ratio(self, part: str, load: str, pair: str, other: str, value: str) -> Spread | None:
        """Of a pair to another, taken within each round first, so that the machine's drift cancels."""
        return self.within_rounds(part, load, (pair, other), value, lambda own, reference: own / reference)

    def within_rounds(
        self, part: str, load: str, pairs: Sequence[str], value: str, function: Callable[..., float]
    ) -> Spread | None:
        """`function` of the value of each of the pairs, for each round that has them all.

        A round in which it divides by zero (less CPU time than one tick of the clock) is left out.
        """
        columns = [self._rounds(part, load, pair, value) for pair in pairs]
        results = []
        for number in sorted(set[int].intersection(*(set(column) for column in columns))):
            try:
                results.append(function(*(column[number] for column in columns)))
            except ZeroDivisionError:
                continue
        return spread(results)

    def derived(self, part: str, load: str, pair: str, function: Callable[[dict[str, float]], float]) -> Spread | None:
        """`function` of all values of a sample, over the rounds."""
        key = (part, load, pair)
        return spread([function(s.values) for s in self.every if (s.part, s.load, s.pair) == key])

    def curve(self, part: str, load: str, value: str) -> list[tuple[int, float]]:
        """Points of a part whose rounds are places on an axis, in order."""
        chosen = [s for s in self.every if (s.part, s.load) == (part, load) and value in s.values]
        return sorted((s.round, s.values[value]) for s in chosen)

    def names(self, part: str, load: str) -> list[str]:
        """Of the values that were measured, in their order."""
        chosen = [s for s in self.every if (s.part, s.load) == (part, load)]
        return list(dict.fromkeys(name for s in chosen for name in s.values))

    def _rounds(self, part: str, load: str, pair: str, value: str) -> dict[int, float]:
        return {
            s.round: s.values[value]
            for s in self.every
            if (s.part, s.load, s.pair) == (part, load, pair) and value in s.values
        }
