"""The step numbers in the core's code are those of docs/PROTOCOL.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEP = re.compile(r"\b(PC|LK|HS|KS|RD|RC|RT|RS|BS|LV|CL|GA|RV|FR|ST|CD)(\d{1,2})(?:[–-](?:\1)?(\d{1,2}))?\b")
DEFINED = re.compile(r"\*\*(PC|LK|HS|KS|RD|RC|RT|RS|BS|LV|CL|GA|RV|FR|ST|CD)(\d{1,2})\*\*")


def defined_steps(text: str) -> set[str]:
    """Steps that the specification states."""
    return {family + number for family, number in DEFINED.findall(text)}


def named_steps(text: str) -> set[str]:
    """Steps that a text refers to, ranges written out."""
    named = set()
    for family, first, last in STEP.findall(text):
        named.update(f"{family}{number}" for number in range(int(first), int(last or first) + 1))
    return named


def core_sources() -> dict[str, str]:
    """The modules of the core, and those beside it that name steps."""
    files = [*(ROOT / "hubtunnel" / "protocol").glob("*.py"), *(ROOT / "hubtunnel" / "identity").glob("*.py")]
    return {path.name: path.read_text() for path in files}


def test_every_step_named_in_the_code_is_stated_in_the_specification() -> None:
    """No comment may point to a step that is not there."""
    stated = defined_steps((ROOT / "docs" / "PROTOCOL.md").read_text())

    astray = {name: sorted(named_steps(text) - stated) for name, text in core_sources().items()}

    assert {name: steps for name, steps in astray.items() if steps} == {}


def test_the_comparison_would_find_a_step_that_is_not_stated() -> None:
    """Control: ranges count whole, and what is not stated is found."""
    assert named_steps("RS3, RT1–RT3, nothing; XY9") == {"RS3", "RT1", "RT2", "RT3"}
    assert named_steps("RS3") - defined_steps("* **RS4** something") == {"RS3"}


def test_the_families_of_the_core_are_all_named_somewhere_in_it() -> None:
    """Handshake, records, ratchet, resume, stream and rival steps each stand beside the code that does them."""
    named = {step[:2] for text in core_sources().values() for step in named_steps(text)}

    assert {"PC", "HS", "KS", "RD", "RC", "RT", "RS", "BS", "CL", "GA", "RV", "FR", "ST", "CD"} <= named
