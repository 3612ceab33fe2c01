"""Comments and shell lines that all recipes share."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from hubtunnel.mta.plan import Plan

_WIDTH = 110


def comment(*paragraphs: str, sign: str = "#") -> str:
    """Paragraphs as comment lines, folded."""
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += textwrap.wrap(paragraph, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"{sign} {line}\n" for line in lines)


def head(plan: Plan, what: str, *, sign: str = "#") -> str:
    """The first lines of a file: what it is, where it comes from, who is missing."""
    return comment(what, f"Made by `hubtunnel mta` on {plan.hub}; make it anew when peers change.", *plan.left_out,
                   sign=sign)  # fmt: skip


def script(what: str, body: str) -> str:
    """A shell script that stops at the first error and finds its files beside itself."""
    return f'#!/bin/sh\n{comment(what)}set -eu\ncd "$(dirname "$0")"\n\n{body}'


def block(name: str, lines: Iterable[str], *, sign: str = "#") -> str:
    """Lines between marks by which `REPLACE_BLOCK` finds them again."""
    return f"{sign} BEGIN {name}\n{''.join(lines)}{sign} END {name}\n"


WITHOUT_BLOCKS = """\
# without FILE: takes out of FILE whatever an earlier run of this script put there
without() {
    sed -i '/^\\(#\\|dnl #\\) BEGIN hubtunnel/,/^\\(#\\|dnl #\\) END hubtunnel/d' "$1"
}
"""
