"""Runs loads through pairs, interleaved, and reduces the figures: only what was measured in one run is compared."""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.loads import PROGRAMS, Load
from tests.bench.pairs import REFERENCE, Pair, Place, accepts, cpu_seconds
from tests.e2e.processes import Child, run

WARM_UP = 100
"""Messages before the first round, so that no pair pays for its start."""

RUN_DEADLINE = 120.0
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Run:
    """One load through one pair, once."""

    round: int
    load: str
    pair: str
    messages: int
    seconds: float
    cpu_seconds: float

    @property
    def messages_per_second(self) -> float:
        return self.messages / self.seconds

    @property
    def cpu_us_per_message(self) -> float:
        """Of both ends together, microseconds."""
        return self.cpu_seconds * 1e6 / self.messages


@dataclass(frozen=True, slots=True)
class Figure:
    """Medians over the rounds. Ratios are taken within each round first, so that the machine's drift cancels."""

    load: str
    pair: str
    messages_per_second: float
    cpu_us_per_message: float
    speed_ratio: float | None
    cpu_ratio: float | None


def programs_of(pairs: Sequence[Pair]) -> list[str]:
    """What must be installed to measure these."""
    return [*PROGRAMS, *(program for pair in pairs for program in pair.programs)]


def measure(
    pairs: Sequence[Pair],
    loads: Sequence[Load],
    *,
    rounds: int,
    share: float = 1.0,
    progress: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """All loads through all pairs, `rounds` times, each round in another order; `share` of each load's messages."""
    runs: list[Run] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubtunnel-bench-")))
        network = f"127.{64 + os.getpid() // 250 % 128}.{os.getpid() % 250}"
        sink = f"{network}.1:2526"
        stack.enter_context(_smtp_sink(sink, directory))
        places: dict[str, tuple[Place, tuple[int, ...]]] = {}
        for number, pair in enumerate(pairs):
            folder = directory / pair.name
            folder.mkdir()
            place = Place(folder, f"{network}.{10 + 2 * number}:2524", f"{network}.{11 + 2 * number}:2625", sink)
            places[pair.name] = (place, stack.enter_context(pair.start(place)))
        for pair, load in itertools.product(pairs, loads):
            _one(0, load, pair, *places[pair.name], messages=WARM_UP)
        for number in range(rounds):
            turn = number % len(pairs)
            for load, pair in itertools.product(loads, [*pairs[turn:], *pairs[:turn]]):
                messages = max(load.sessions, round(load.messages * share))
                runs.append(_one(number, load, pair, *places[pair.name], messages=messages))
                progress(runs[-1])
    return runs


def _one(number: int, load: Load, pair: Pair, place: Place, pids: tuple[int, ...], *, messages: int) -> Run:
    """smtp-source ends with an error when a single message is not taken, and that fails the run."""
    before = cpu_seconds(pids)
    begin = time.perf_counter()
    run(*load.argv(place.entrance, messages), deadline=RUN_DEADLINE)
    seconds = time.perf_counter() - begin
    return Run(number, load.name, pair.name, messages, seconds, cpu_seconds(pids) - before)


@contextmanager
def _smtp_sink(address: str, directory: Path) -> Iterator[None]:
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    sink = Child("smtp-sink", ["smtp-sink", *user, address, "1000"], directory / "sink.log")
    try:
        sink.wait_for(partial(accepts, address), f"smtp-sink to listen on {address}")
        yield
    finally:
        sink.stop()


def figures(runs: Sequence[Run]) -> list[Figure]:
    """One a load and pair, in the order of the runs."""
    by_key = {(r.round, r.load, r.pair): r for r in runs}
    result = []
    for load, pair in dict.fromkeys((r.load, r.pair) for r in runs):
        own = [r for r in runs if (r.load, r.pair) == (load, pair)]
        beside = [(r, by_key[r.round, load, REFERENCE]) for r in own if (r.round, load, REFERENCE) in by_key]
        result.append(
            Figure(
                load=load,
                pair=pair,
                messages_per_second=statistics.median(r.messages_per_second for r in own),
                cpu_us_per_message=statistics.median(r.cpu_us_per_message for r in own),
                speed_ratio=_median_ratio([(r.messages_per_second, ref.messages_per_second) for r, ref in beside]),
                cpu_ratio=_median_ratio([(r.cpu_us_per_message, ref.cpu_us_per_message) for r, ref in beside]),
            )
        )
    return result


def _median_ratio(values: Sequence[tuple[float, float]]) -> float | None:
    """None without the reference, or where the reference used less CPU time than one tick of the clock."""
    ratios = [own / reference for own, reference in values if reference > 0]
    return statistics.median(ratios) if ratios else None


def report(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything, for `--json` and the kept results."""
    return {
        "schema": 1,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cpus": os.cpu_count(),
            "cpu": _cpu_model(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            # Of one minute and five: above the number of CPUs plus a little, somebody else was at work as well.
            "load_average": os.getloadavg()[:2],
        },
        "figures": [asdict(figure) for figure in figures(runs)],
        "runs": [asdict(r) for r in runs],
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
