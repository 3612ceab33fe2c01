"""Nothing of ours waits for an acknowledgement: one message's conversation, recorded on both legs of both hubs."""

from __future__ import annotations

import os

import pytest

from tests.bench.gaps import WAITED, Seen, gaps, watched
from tests.e2e.processes import missing


@pytest.mark.e2e
@pytest.mark.root
def test_no_segment_waits_for_an_acknowledgement() -> None:
    """TCP_NODELAY stands on the four sockets; no bytes stay in a hub; and where Nagle's wait is on, that is seen."""
    if os.geteuid() != 0:
        pytest.skip("needs root (network namespaces and TUN devices): run as root")
    if absent := missing(("ip", "smtp-sink")):
        pytest.skip(f"needs {', '.join(absent)}: apt-get install --no-install-recommends postfix iproute2")
    with watched() as line:
        assert line.without_delay() == [True] * 4
        assert line.worst_gap() < WAITED
        line.nagle()
        assert line.without_delay().count(False) == 1, "the carrier's; a new local connection has it set"
        assert line.worst_gap() >= WAITED


def test_gaps_of_a_recording() -> None:
    """Both directions are looked at; a record of which nothing goes further is no gap."""
    events = [
        Seen(1.000, local=True, into_hub=True),
        Seen(1.030, local=False, into_hub=False),  # 30 ms later
        Seen(1.100, local=False, into_hub=True),
        Seen(1.200, local=False, into_hub=True),
        Seen(1.250, local=True, into_hub=False),  # 50 ms after the last of them
    ]
    assert gaps(events) == pytest.approx([0.03, 0.05])
    assert gaps(events[:1]) == [float("inf")], "bytes that never left"
