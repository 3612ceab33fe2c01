"""Every failure of the list is made, and docs/OPERATING.md has what the queue, `status`, the log and `doctor` said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.processes import missing
from tests.failures.cases import Cases
from tests.failures.rows import Row
from tests.failures.table import text_of, written

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow]

PROGRAMS = ("ip", "nsenter", "unshare", "postfix", "dnsmasq", "faketime")
INSTALL = "apt-get install --no-install-recommends postfix iproute2 dnsmasq-base faketime"


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    """All of them, at once, in one laboratory."""
    if os.geteuid() != 0:
        pytest.skip("needs root (overlays, namespaces, Postfix): run as root")
    absent = missing(PROGRAMS)
    if absent:
        pytest.skip(f"needs {', '.join(absent)}: {INSTALL}")
    with ExitStack() as stack:
        cases = Cases(stack)
        cases.start()
        yield cases.rows()


def test_the_table_in_the_document_is_what_is_said_today(rows: list[Row]) -> None:
    assert text_of(rows) == written(), "`python -m tests.failures` writes it anew: read it before you keep it"


def test_whatever_keeps_mail_waiting_says_what_to_do(rows: list[Row]) -> None:
    """Where the queue has our reason, `status` has a cure; where no daemon starts, what it said last is there."""
    reasons = [row for row in rows if "421 4.4.1 hubtunnel" in row.queue[0]]
    assert len(reasons) > 10
    assert [row.wrong for row in reasons if not any("what to do: " in said for said in row.status)] == []
    starts = [row for row in rows if row.queue[0] == "no daemon runs here"]
    assert len(starts) > 4
    assert [row.wrong for row in starts if not row.log[0].strip("` ").startswith("hubtunnel: ")] == []
