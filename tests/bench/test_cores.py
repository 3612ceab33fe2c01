"""The two cores of the benchmark carry what they are given, whole and without each part; and a part left out is out."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

import pytest

from hubtunnel.protocol.records import TrafficKey
from hubtunnel.protocol.streams import Stream
from tests.bench.cores import BULK, FRAMES, PIECES, Carried, Cores, Piece, compare, ratchet_step
from tests.bench.ways import cpu_seconds

SHARE = 0.05
NAMED = {piece.name: piece for piece in PIECES}
SAID = b"what the near end's MTA said"


def answers(*names: str) -> int:
    """Records from the end that only receives, for two megabytes, without those parts."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(NAMED[name].left_out())
        cores = Cores(1)
        for _ in range(32):
            cores.carry(0, BULK.data)
        assert cores.far.octets == 32 * len(BULK.data)
        return cores.far.records


@pytest.mark.parametrize("carried", [FRAMES, BULK], ids=lambda carried: carried.name)
@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.name)
def test_everything_comes_out_without_each_part(carried: Carried, piece: Piece) -> None:
    """`compare` itself fails where it does not, and where a part has another name now."""
    whole, without = compare(carried, piece, 1, SHARE)
    assert whole > 0
    assert without > 0


def test_what_does_not_come_out_is_noticed() -> None:
    mute = Piece("mute", "nothing that is written leaves", ((Stream, "write", lambda *_: True),))
    with pytest.raises(AssertionError, match="not all came out"):
        compare(FRAMES, mute, 1, SHARE)


def test_a_part_that_is_left_out_says_nothing() -> None:
    """The receiving end says ACK and CREDIT, and nothing when both are left out; then all is in its place again."""
    assert answers("credit") > 0
    assert answers("resend buffer, ACK") > 0
    assert answers("credit", "resend buffer, ACK") == 0
    assert answers("credit") > 0


def test_without_aead_records_are_in_clear() -> None:
    assert SAID not in TrafficKey(bytes(32), 0).seal(SAID)
    with NAMED["AEAD"].left_out():
        assert SAID in TrafficKey(bytes(32), 0).seal(SAID)


def test_a_step_of_the_ratchet_takes_time() -> None:
    assert ratchet_step(1) > 100


def test_cpu_time_is_that_of_the_process() -> None:
    """The clock of another process, read here for our own, which has an exact one."""
    first = time.process_time()
    read = cpu_seconds(os.getpid())
    assert first <= read <= time.process_time()
