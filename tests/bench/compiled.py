"""hubtunnel compiled, made from this checkout for the interpreter that the benchmark runs in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.hubs import ROOT

FOLDER = Path(sys.prefix) / "share" / "hubtunnel-compiled"
"""The package with its libraries: `-m hubtunnel` from in there runs it."""


def build() -> None:
    """Takes most of a minute, and a C compiler. Raises CalledProcessError without."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    target = ["--no-deps", "--no-build-isolation", "--no-warn-script-location", "--target", str(FOLDER)]
    environment = {**os.environ, "HATCH_BUILD_HOOKS_ENABLE": "1"}
    subprocess.run([*pip, "install", *target, str(ROOT)], check=True, env=environment)


def lacking() -> str:
    """Why it cannot be measured: it was not built, or the sources have changed since; empty where it can."""
    if not any((FOLDER / "hubtunnel" / "protocol").glob("session.*.so")):
        return "not built: python -m tests.bench install"
    if _sources(FOLDER) != _sources(ROOT):
        return "built from other sources than these: python -m tests.bench install"
    return ""


def _sources(place: Path) -> dict[Path, bytes]:
    return {path.relative_to(place): path.read_bytes() for path in (place / "hubtunnel").rglob("*.py")}
