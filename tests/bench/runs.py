"""Runs loads through ways, interleaved: all pairs one after the other, then all again, each round in another order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.loads import Load
from tests.bench.samples import Sample
from tests.bench.ways import Way


@dataclass
class Notebook:
    """Where measurements are written down; `progress` hears of each."""

    progress: Callable[[Sample], None] = lambda sample: None
    samples: list[Sample] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """What was not measured -> why."""

    def write(self, sample: Sample) -> None:
        self.samples.append(sample)
        self.progress(sample)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: `share` of each load's messages or seconds, over `rounds` (None: as the part has it)."""

    share: float = 1.0
    rounds: int | None = None
    pairs: tuple[str, ...] | None = None
    """None: as the part has it."""


def interleaved(
    part: str,
    ways: Mapping[str, Way],
    loads: Sequence[Load],
    rounds: int,
    effort: Effort,
    notebook: Notebook,
    *,
    warm: bool = False,
) -> None:
    """Every load through every way, in every round. The ways are warmed up first unless they are `warm` already."""
    for load, way in itertools.product(() if warm else loads, ways.values()):
        load.warm_up(way)
    names = list(ways)
    for number in range(effort.rounds or rounds):
        turn = number % len(names)
        for load, name in itertools.product(loads, [*names[turn:], *names[:turn]]):
            values = load.measure(ways[name], effort.share)
            notebook.write(Sample(part, load.name, name, number, values))
