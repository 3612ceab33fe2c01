"""Writes the table of failures in docs/OPERATING.md anew: makes every failure, and reads what is said of it.

    python -m tests.failures

As root, with Postfix, dnsmasq and faketime; it takes half a minute.
"""

from __future__ import annotations

from contextlib import ExitStack

from tests.failures.cases import Cases
from tests.failures.table import text_of, write

with ExitStack() as stack:
    cases = Cases(stack)
    cases.start()
    write(text_of(cases.rows()))
