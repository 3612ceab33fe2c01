"""The floor: what share of plain HAProxy's messages per second we must reach, kept in floor.json and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Figure

PATH = Path(__file__).with_name("floor.json")


@dataclass(frozen=True, slots=True)
class Floor:
    """`speed_ratio` of `pair` under `load` must not be below this."""

    load: str
    pair: str
    speed_ratio: float


def read_floors() -> list[Floor]:
    return [Floor(**entry) for entry in json.loads(PATH.read_text())["floors"]]


def below_floor(figures: Sequence[Figure], floors: Sequence[Floor]) -> list[str]:
    """A line for each floor that was measured and missed. Raises ValueError when none of the floors was measured."""
    measured = {(f.load, f.pair): f.speed_ratio for f in figures if f.speed_ratio is not None}
    judged = [(floor, measured[floor.load, floor.pair]) for floor in floors if (floor.load, floor.pair) in measured]
    if not judged:
        raise ValueError("no load and pair that has a floor was measured beside the reference")
    return [
        f"{floor.pair} under `{floor.load}`: {ratio:.2f} of the reference, the floor is {floor.speed_ratio:.2f}"
        for floor, ratio in judged
        if ratio < floor.speed_ratio
    ]
