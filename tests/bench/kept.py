"""Kept results: JSON files, one a run, which everything else is made from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.runs import Notebook
from tests.bench.samples import Sample, Samples

RESULTS = Path(__file__).with_name("results")
SCHEMA = 2


@dataclass(frozen=True, slots=True)
class Result:
    """One run. `head` says when, where, with what versions and by which command."""

    head: dict[str, Any]
    skipped: dict[str, str]
    samples: Samples


def as_json(notebook: Notebook, head: dict[str, Any]) -> dict[str, Any]:
    """What is kept."""
    samples = [asdict(sample) for sample in notebook.samples]
    return {"schema": SCHEMA, **head, "skipped": notebook.skipped, "samples": samples}


def latest() -> Path:
    """The newest kept result. Raises SystemExit where there is none."""
    found = sorted(RESULTS.glob("bench-*.json"))
    if not found:
        raise SystemExit(f"no result in {RESULTS}: python -m tests.bench all --keep")
    return found[-1]


def read(path: Path) -> Result:
    """Raises SystemExit for a file of another schema."""
    content = json.loads(path.read_text())
    if content.get("schema") != SCHEMA:
        raise SystemExit(f"{path} has schema {content.get('schema')}, this program reads {SCHEMA}: measure anew")
    samples = Samples(tuple(Sample(**entry) for entry in content.pop("samples")))
    return Result(head=content, skipped=content.pop("skipped"), samples=samples)
