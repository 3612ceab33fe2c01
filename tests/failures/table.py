"""The table of failures in docs/OPERATING.md: made of what was seen, and compared with what stands there."""

from __future__ import annotations

from collections.abc import Iterable

from tests.e2e.hubs import ROOT
from tests.failures.rows import Row

DOCUMENT = ROOT / "docs" / "OPERATING.md"
BEGIN = "<!-- failures: written by `python -m tests.failures` from what was seen -->\n"
END = "<!-- end of failures -->\n"
HEAD = ("what was wrong", "the mail server's queue", "`status`", "the log", "`doctor`")


def text_of(rows: Iterable[Row]) -> str:
    """The table as Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def written() -> str:
    """What stands in the document now."""
    _, begin, rest = DOCUMENT.read_text().partition(BEGIN)
    table, end, _ = rest.partition(END)
    assert (begin, end) == (BEGIN, END), f"{DOCUMENT}: the marks of the table are gone"
    return table


def write(table: str) -> None:
    """Put it into the document."""
    DOCUMENT.write_text(DOCUMENT.read_text().replace(BEGIN + written() + END, BEGIN + table + END))
