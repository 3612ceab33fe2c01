"""The fault bench: `python -m tests.faults [--long] [--only NAME …] [--output FILE]`. Needs root and the MTA's tools.

The long form is what results/ keeps. Scenarios that mostly wait run beside each other, the measurement of ratchet steps
alone and first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvloop

from tests.e2e.hubs import ROOT
from tests.e2e.processes import missing
from tests.faults import addresses, carriers, cuts, deaths, moments, ratchets, versions

PROGRAMS = ("ip", *ratchets.PROGRAMS)
LONGEST = 1800.0


def _versions(_: bool) -> dict[str, Any]:
    commit = versions.previous()
    with versions.installed(commit) as package:
        return {"previous": commit, **_loop(versions.run(package))}


def _loop(work: Any) -> dict[str, Any]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found: dict[str, Any] = runner.run(work)
        return found


SCENARIOS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "ratchets": lambda long: _loop(ratchets.measure(ratchets.LONG if long else ratchets.SHORT)),
    "carriers": lambda long: _loop(carriers.run(carriers.LONG["carriers"] if long else carriers.SHORT)),
    "lossy": lambda long: _loop(carriers.run(carriers.LONG["lossy"] if long else carriers.SHORT_LOSSY)),
    "slow": lambda long: _loop(carriers.run(carriers.LONG["slow"] if long else carriers.SHORT_SLOW)),
    "deaths": lambda long: _loop(deaths.run(deaths.LONG if long else deaths.SHORT)),
    "address": lambda long: _loop(addresses.run()),
    "moments, daemons": lambda long: _loop(moments.run_daemons(moments.LONG if long else moments.SHORT)),
    "moments, core": lambda long: moments.run_core(1000 if long else 60),
    "cuts": lambda long: cuts.run(every=1 if long else 61),
    "versions": _versions,
}
ALONE = ("ratchets",)  # what is measured there is time


def main() -> int:
    """0: all of it as it must be; 1: something was not; 2: it cannot be run here."""
    options = _parser().parse_args()
    absent = missing(PROGRAMS)
    if os.geteuid() != 0 or absent:
        print(f"needs root and {', '.join(PROGRAMS)} (Debian: postfix, iproute2)", file=sys.stderr)
        return 2
    names = options.only or list(SCENARIOS)
    if options.only and len(names) == 1:
        found = {names[0]: _one(names[0], options.long)}
    else:
        found = _each_in_its_process(names, options.long)
    form = "long" if options.long else "short"
    if options.only and options.output is not None and options.output.exists():
        kept = json.loads(options.output.read_text())
        found = (kept["scenarios"] if kept["form"] == form else {}) | found
    report = {
        "schema": 1,
        "ok": all(result["ok"] for result in found.values()),
        "form": form,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, "
        f"Python {platform.python_version()}",
        "scenarios": found,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n")
    return 0 if report["ok"] else 1


def _one(name: str, long: bool) -> dict[str, Any]:
    began = time.monotonic()
    try:
        result = SCENARIOS[name](long)
    except (AssertionError, versions.NoPreviousError) as exc:
        result = {"ok": False, "failure": str(exc)}
    result["took_s"] = round(time.monotonic() - began, 1)
    result["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    result["commit"] = versions.commit()
    result["load_average"] = [round(load, 1) for load in os.getloadavg()[:2]]
    print(f"{result['took_s']:7.1f} s  {'ok    ' if result['ok'] else 'FAILED'}  {name}", file=sys.stderr, flush=True)
    return result


def _each_in_its_process(names: Sequence[str], long: bool) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(SCENARIOS)) as pool:

        def start(name: str) -> dict[str, Any]:
            output = Path(folder, f"{name}.json")
            argv = [sys.executable, "-m", "tests.faults", "--only", name, "--output", str(output)]
            argv += ["--long"] if long else []
            done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=LONGEST, check=False)
            if not output.exists():
                return {"ok": False, "failure": f"ended with status {done.returncode} and no report"}
            scenario: dict[str, Any] = json.loads(output.read_text())["scenarios"][name]
            return scenario

        found = {name: start(name) for name in names if name in ALONE}
        beside = [name for name in names if name not in ALONE]
        return found | dict(zip(beside, pool.map(start, beside), strict=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--long", action="store_true", help="below 20 minutes; without: a short look at everything")
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the report here as well; with --only, into it"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
