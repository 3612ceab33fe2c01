"""Messages per second against plain HAProxy in the same run must not fall below the floor."""

from __future__ import annotations

import os

import pytest

from tests.bench.floor import Floor, below_floor, read_floors
from tests.bench.loads import INSTALL, LOADS
from tests.bench.mail import SHORT_LOADS, SHORT_PAIRS, SHORT_ROUNDS, SHORT_SHARE
from tests.bench.measure import Figure, Run, figures, measure, programs_of
from tests.bench.pairs import PAIRS
from tests.e2e.processes import missing


def run(number: int, pair: str, seconds: float) -> Run:
    """A thousand messages in so many seconds."""
    return Run(round=number, load="new", pair=pair, messages=1000, seconds=seconds, cpu_seconds=seconds / 10)


def test_ratios_are_taken_within_a_round() -> None:
    """Where the whole machine slows down from round to round, the ratio stays what it is."""
    runs = [run(n, pair, base * (n + 1)) for n in range(3) for pair, base in (("haproxy", 1.0), ("hubtunnel", 2.0))]

    assert [f.speed_ratio for f in figures(runs)] == [1.0, 0.5]
    assert [f.cpu_ratio for f in figures(runs)] == [1.0, 2.0]


def test_a_missed_floor_is_told() -> None:
    """The check can fail: just above passes, just below does not, and measuring nothing is no pass."""
    floors = [Floor("new", "hubtunnel", 0.5)]

    def figure(ratio: float) -> list[Figure]:
        return [Figure("new", "hubtunnel", 1000.0, 300.0, ratio, 1.0)]

    assert below_floor(figure(0.51), floors) == []
    assert below_floor(figure(0.49), floors) == ["hubtunnel under `new`: 0.49 of the reference, the floor is 0.50"]
    with pytest.raises(ValueError, match="no load and pair"):
        below_floor([], floors)


@pytest.mark.alone
@pytest.mark.e2e
@pytest.mark.slow
def test_messages_per_second_stay_above_the_floor() -> None:
    """The short form of the benchmark, for real."""
    pairs = [PAIRS[name] for name in SHORT_PAIRS]
    absent = missing(programs_of(pairs))
    if absent:
        pytest.skip(f"needs {', '.join(absent)}: {INSTALL}")
    runs = measure(pairs, [LOADS[name] for name in SHORT_LOADS], rounds=SHORT_ROUNDS, share=SHORT_SHARE)

    assert below_floor(figures(runs), read_floors()) == [], f"load average {os.getloadavg()}"
