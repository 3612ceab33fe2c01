"""The benchmark, all of it or parts: `python -m tests.bench [all | PART... | install | report]`.

As root, for namespaces and Postfix, on a machine that has nothing else to do:

    python -m tests.bench install          once: haproxy, stunnel, spiped, wireguard-go, postfix; compiles ours
    python -m tests.bench all --keep       everything, interleaved, about twenty-five minutes; one JSON in results/
    python -m tests.bench report           docs/BENCHMARKS.md and its plots from the latest JSON in results/

`mail --pairs haproxy hubtunnel --rounds 3` measures one part with two pairs, `--share 0.1` a tenth of everything: to
try a change out. `python -m tests.bench.gaps` records one message's conversation and says whether any of its bytes
waited for an acknowledgement. Progress and skipped pairs, with the reason, go to standard error. What was measured
before an interrupt is kept too, and a part that fails does not stop the others.

Exit status: 0 measured; 1 a part failed, or with `--check` a floor of floor.json was missed; 2 nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench import report
from tests.bench.floor import below_floor, read_floors
from tests.bench.ground import ROOT
from tests.bench.install import INSTALL, install
from tests.bench.kept import RESULTS, as_json, latest, read
from tests.bench.machine import command_line, machine, versions
from tests.bench.pairs import PAIRS
from tests.bench.parts import PARTS
from tests.bench.runs import Effort, Notebook
from tests.bench.samples import Sample, Samples
from tests.e2e.processes import compile_package

_SCREEN = Console(stderr=True, highlight=False, soft_wrap=True)


def main() -> int:
    """Exit status as the module says."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started has to be ended
    if options.parts == ["install"]:
        install()
        return 0
    if options.parts == ["report"]:
        for path in report.write(read(Path(options.file) if options.file else latest())):
            _SCREEN.print(f"written: {path}")
        return 0
    names = list(PARTS) if options.parts == ["all"] else options.parts
    if unknown := [name for name in names if name not in PARTS]:
        _SCREEN.print(f"no such part: {', '.join(unknown)}; there are: all, install, report, {', '.join(PARTS)}")
        return 2
    result = _measure(names, options)
    samples = Samples(tuple(Sample(**entry) for entry in result["samples"]))
    if not samples.every:
        _SCREEN.print(f"nothing could be measured: {INSTALL}")
        return 2
    if options.keep:
        path = RESULTS / f"bench-{result['at'].replace(':', '')}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        _SCREEN.print(f"kept: {path}")
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print("\n".join(report.tables(samples)))
    missed = below_floor(samples, read_floors()) if options.check else []
    for line in missed:
        _SCREEN.print(line)
    return 1 if missed or any(why.startswith("failed") for why in result["skipped"].values()) else 0


def _measure(names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    pairs = tuple(options.pairs) if options.pairs else None
    notebook = Notebook(progress=_progress)
    head = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine(), "versions": versions()}
    began = time.monotonic()
    compile_package(ROOT / "hubtunnel")
    try:
        for name in names:
            _SCREEN.print(f"[{time.monotonic() - began:4.0f} s] {name}: {PARTS[name].text}", markup=False)
            try:
                PARTS[name].run(Effort(options.share, options.rounds, pairs), notebook)
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                # A long run does not lose what the other parts give; the page says what is missing, and why.
                traceback.print_exc()
                notebook.skipped[name] = f"failed: {str(error).splitlines()[0]}"
    except KeyboardInterrupt:
        _SCREEN.print("interrupted: what was measured so far")
    for what, why in notebook.skipped.items():
        _SCREEN.print(f"not measured: {what}: {why}")
    seconds = round(time.monotonic() - began)
    return as_json(notebook, head | {"command": command_line(), "seconds": seconds})


def _progress(sample: Sample) -> None:
    values = "  ".join(f"{name} {value:.4g}" for name, value in sample.values.items())
    _SCREEN.print(f"  {sample.round + 1:4} {sample.load:10} {sample.pair:18} {values}", markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", default=["all"], help="all, install, report, or some of " + ", ".join(PARTS)
    )
    parser.add_argument("--pairs", nargs="+", choices=[*PAIRS, "starttls"], help="default: those of each part")
    parser.add_argument("--rounds", type=int, help="default: those of each part")
    parser.add_argument("--share", type=float, default=1.0, help="of messages, seconds and peers; default: 1")
    parser.add_argument("--check", action="store_true", help="status 1 when a floor of floor.json is missed")
    parser.add_argument("--json", action="store_true", help="print all samples as JSON instead of tables")
    parser.add_argument("--keep", action="store_true", help="write the same JSON into tests/bench/results")
    parser.add_argument("--file", help="for report: this JSON instead of the latest one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
