"""Mail through us and through others, measured in one run: `python -m tests.bench.mail`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.floor import below_floor, read_floors
from tests.bench.loads import INSTALL, LOADS
from tests.bench.measure import Figure, Run, figures, measure, programs_of, report
from tests.bench.pairs import PAIRS, REFERENCE
from tests.e2e.processes import missing

RESULTS = Path(__file__).with_name("results")

SHORT_ROUNDS = 5
SHORT_SHARE = 1 / 3
SHORT_PAIRS = ("haproxy", "hubtunnel")
SHORT_LOADS = ("new",)


def main() -> int:
    """0: measured, no floor missed; 1: a floor was missed; 2: it cannot be measured here."""
    options = _parser().parse_args()
    pairs = [PAIRS[name] for name in options.pairs or (SHORT_PAIRS if options.short else PAIRS)]
    loads = [LOADS[name] for name in options.loads or (SHORT_LOADS if options.short else LOADS)]
    rounds = options.rounds or (SHORT_ROUNDS if options.short else 5)
    absent = missing(programs_of(pairs))
    if absent:
        print(f"{', '.join(absent)} not found: {INSTALL}", file=sys.stderr)
        return 2
    screen = Console(stderr=True)

    def progress(run: Run) -> None:
        screen.print(f"round {run.round + 1}: {run.load:6} {run.pair:18} {run.messages_per_second:7.0f} messages/s")

    runs = measure(pairs, loads, rounds=rounds, share=SHORT_SHARE if options.short else 1.0, progress=progress)
    result = report(runs)
    if options.keep:
        path = RESULTS / f"mail-{result['at'].replace(':', '')}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        screen.print(f"kept as {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        Console().print(_table(figures(runs)))
    missed = below_floor(figures(runs), read_floors()) if options.check else []
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mail", description=__doc__)
    parser.add_argument("--pairs", nargs="+", choices=sorted(PAIRS), help="default: all")
    parser.add_argument("--loads", nargs="+", choices=sorted(LOADS), help="default: all")
    parser.add_argument("--rounds", type=int, help="default: 5, with --short also 5")
    parser.add_argument("--short", action="store_true", help="one load, a third of its messages: below 40 seconds")
    parser.add_argument("--check", action="store_true", help="status 1 when a floor of floor.json is missed")
    parser.add_argument("--json", action="store_true", help="print figures and single runs as JSON")
    parser.add_argument("--keep", action="store_true", help="write the same JSON into tests/bench/results")
    return parser


def _table(measured: list[Figure]) -> Table:
    table = Table(title=f"medians; × is the ratio to {REFERENCE} within each round", caption=_legend(measured))
    for name in ("load", "pair"):
        table.add_column(name)
    for name in ("messages/s", "×", "CPU µs/message", "×"):
        table.add_column(name, justify="right")
    for f in measured:
        table.add_row(
            f.load,
            f.pair,
            f"{f.messages_per_second:.0f}",
            _ratio(f.speed_ratio),
            f"{f.cpu_us_per_message:.0f}",
            _ratio(f.cpu_ratio),
        )
    return table


def _legend(measured: list[Figure]) -> str:
    loads = {f.load: LOADS[f.load].text for f in measured}
    pairs = {f.pair: PAIRS[f.pair].text for f in measured}
    return "\n".join([*(f"{name}: {text}" for name, text in {**loads, **pairs}.items()), "CPU: of both ends together"])


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
