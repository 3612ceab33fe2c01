"""Fuzzes every target for its share of a time.

    python -m tests.fuzz                          a minute over all targets, as in CI
    python -m tests.fuzz --seconds 600            ten minutes
    python -m tests.fuzz --seconds 600 core hubs  ten minutes over two of them
    python -m tests.fuzz --jobs 4 …               four targets at a time

Targets begin with tests/fuzz/corpus and with what earlier runs have found in .fuzz (both relative to the checkout; the
second is not in the tree). An input that makes a target raise, hang or outgrow its memory is written to .fuzz/crashes;
`python -m tests.fuzz --replay TARGET FILE` runs it again without atheris. Exit status: 0 nothing found, 1 something,
2 no atheris.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.targets import TARGETS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"
MEMORY_MAX = 1024  # MiB; a process begins with about 150
INPUT_SECONDS_MAX = 20  # one input that takes longer is a finding


def fuzz(name: str, seconds: int, found: Path) -> bool:
    """One target in a process of its own; whether it held."""
    kept, crashes = found / name, found / "crashes"
    kept.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(exist_ok=True)
    begin = time.monotonic()
    run = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.engine", name),
            f"-max_total_time={seconds}",
            f"-max_len={TARGETS[name].longest}",
            f"-timeout={INPUT_SECONDS_MAX}",
            f"-rss_limit_mb={MEMORY_MAX}",
            f"-artifact_prefix={crashes}/{name}-",
            "-print_final_stats=1",
            *(str(kept), str(CORPUS / name)),
        ],
        cwd=ROOT,
        env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    runs = re.search(r"number_of_executed_units: (\d+)", run.stdout)
    coverage = re.findall(r"cov: (\d+)", run.stdout)
    print(
        f"{'held' if run.returncode == 0 else 'FOUND':6} {name:16} {runs[1] if runs else '?':>9} inputs "
        f"{coverage[-1] if coverage else '?':>6} edges {time.monotonic() - begin:6.0f} s",
        flush=True,
    )
    if run.returncode != 0:
        print(run.stdout[-6000:], flush=True)
    return run.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz every target for a while.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="in all (default: 60)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default: 1)")
    parser.add_argument("--found", type=Path, default=ROOT / ".fuzz", help="where findings are kept (default: .fuzz)")
    parser.add_argument("--replay", action="store_true", help="run TARGET once on each FILE, without atheris")
    arguments = parser.parse_args()
    if arguments.replay:
        name, *files = arguments.targets
        for file in files:
            TARGETS[name].run(Path(file).read_bytes())
        print(f"{name}: held on {len(files)} inputs")
        return 0
    names = arguments.targets or list(TARGETS)
    if unknown := sorted(set(names) - TARGETS.keys()):
        parser.error(f"no such target: {', '.join(unknown)}")
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install hubtunnel[dev], on Linux on x86-64", file=sys.stderr)
        return 2
    weights = sum(TARGETS[name].weight for name in names)

    def held(name: str) -> bool:
        share = arguments.seconds * arguments.jobs * TARGETS[name].weight / weights
        return fuzz(name, max(1, round(share)), arguments.found.resolve())

    with ThreadPoolExecutor(arguments.jobs) as pool:
        return 0 if all(list(pool.map(held, names))) else 1


if __name__ == "__main__":
    sys.exit(main())
