"""The floor: what share of plain HAProxy's messages per second we must reach, kept in floor.json and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.pairs import REFERENCE
from tests.bench.samples import Samples

PATH = Path(__file__).with_name("floor.json")
PART, VALUE = "mail", "messages_per_s"


@dataclass(frozen=True, slots=True)
class Floor:
    """The ratio of `pair` to the reference under `load` must not be below this."""

    load: str
    pair: str
    speed_ratio: float


def read_floors() -> list[Floor]:
    return [Floor(**entry) for entry in json.loads(PATH.read_text())["floors"]]


def below_floor(samples: Samples, floors: Sequence[Floor]) -> list[str]:
    """A line for each floor that was measured and missed. Raises ValueError when none of the floors was measured."""
    judged = [(floor, samples.ratio(PART, floor.load, floor.pair, REFERENCE, VALUE)) for floor in floors]
    measured = [(floor, ratio.median) for floor, ratio in judged if ratio is not None]
    if not measured:
        raise ValueError("no load and pair that has a floor was measured beside the reference")
    return [
        f"{floor.pair} under `{floor.load}`: {ratio:.2f} of the reference, the floor is {floor.speed_ratio:.2f}"
        for floor, ratio in measured
        if ratio < floor.speed_ratio
    ]
