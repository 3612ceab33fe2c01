"""What `doctor` found: one row for each thing that it set out to prove."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a proof went."""

    PROVED = "proved"
    WRONG = "wrong"
    UNKNOWN = "not proved"
    NOTED = "noted"


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is one of the words in docs/MTA.md, `about` a peer, domain or address; `cure` what to do about it."""

    check: str
    about: str
    verdict: Verdict
    text: str
    cure: str = ""


def proved(check: str, about: str, text: str) -> Finding:
    """It is as it should be, and this shows it."""
    return Finding(check, about, Verdict.PROVED, text)


def wrong(check: str, about: str, text: str, cure: str) -> Finding:
    """It is not as it should be."""
    return Finding(check, about, Verdict.WRONG, text, cure)


def unknown(check: str, about: str, text: str, cure: str = "") -> Finding:
    """It could not be found out."""
    return Finding(check, about, Verdict.UNKNOWN, text, cure)


def noted(check: str, about: str, text: str) -> Finding:
    """Neither good nor bad, and good to know."""
    return Finding(check, about, Verdict.NOTED, text)
