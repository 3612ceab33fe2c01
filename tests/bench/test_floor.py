"""Messages per second against plain HAProxy in the same run must not fall below the floor."""

from __future__ import annotations

import os

import pytest

from tests.bench.floor import Floor, below_floor, read_floors
from tests.bench.ground import absent, on_loopback
from tests.bench.install import INSTALL
from tests.bench.loads import MAIL, PROGRAMS
from tests.bench.pairs import PAIRS
from tests.bench.runs import Effort, Notebook, interleaved
from tests.bench.samples import Sample, Samples

SHORT_PAIRS = ("haproxy", "hubtunnel")
SHORT_ROUNDS = 5


def mail(number: int, pair: str, rate: float) -> Sample:
    return Sample("mail", "new", pair, number, {"messages_per_s": rate})


def test_a_missed_floor_is_told() -> None:
    """The check can fail: just above passes, just below does not, and measuring nothing is no pass."""
    floors = [Floor("new", "hubtunnel", 0.5)]

    def measured(rate: float) -> Samples:
        return Samples((mail(0, "haproxy", 1000.0), mail(0, "hubtunnel", rate)))

    assert below_floor(measured(510.0), floors) == []
    assert below_floor(measured(490.0), floors) == ["hubtunnel under `new`: 0.49 of the reference, the floor is 0.50"]
    with pytest.raises(ValueError, match="no load and pair"):
        below_floor(Samples(()), floors)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.alone
def test_messages_per_second_stay_above_the_floor() -> None:
    """The short form of the benchmark, for real."""
    pairs = [PAIRS[name] for name in SHORT_PAIRS]
    lacking = absent(pairs, PROGRAMS)
    if lacking:
        pytest.skip(f"{lacking}: {INSTALL}")
    notebook = Notebook()
    with on_loopback(pairs, "smtp") as ways:
        interleaved("mail", ways, MAIL[:1], SHORT_ROUNDS, Effort(), notebook)

    assert below_floor(Samples(tuple(notebook.samples)), read_floors()) == [], f"load average {os.getloadavg()}"
