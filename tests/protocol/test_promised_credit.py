"""What a hub has allowed its peers to send is bounded by its memory, before any of it has come (PROTOCOL.md ST11)."""

from __future__ import annotations

import pytest

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.bytestream import Budget
from hubtunnel.protocol.constants import Code
from hubtunnel.protocol.link import NotReady
from hubtunnel.protocol.streams import Stream
from tests.protocol.support import CorePair, connected

MIB = 1 << 20


def connected_with(limit: int) -> CorePair:
    """Two hubs, of which B has that much memory."""
    pair, _ = connected(seed=64)
    pair.b.budget.limit = limit
    return pair


def pour(pair: CorePair, streams: list[Stream], size: int) -> None:
    """So many bytes on each stream; what credit does not allow waits at A."""
    for _ in range(size // 65536):
        for stream in streams:
            stream.write(bytes(65536))
        pair.flush(pair.a)
        pair.settle()


def test_ST11_local_servers_that_all_stand_still_at_once() -> None:
    """Windows have grown while everything was taken at once; then nothing is taken, and the peer sends all it may."""
    limit = 16 * MIB
    pair = connected_with(limit)
    streams = [pair.a.link.open_stream(None, pair.now) for _ in range(40)]
    pour(pair, streams, MIB)
    assert pair.b.budget.used < c.INITIAL_CREDIT
    grown = [stream.receive_credit for stream in pair.b.streams.values()]
    assert max(grown) > 3 * c.INITIAL_CREDIT
    pair.b.autoconsume = False
    pour(pair, streams, 2 * MIB)
    assert limit / 4 < pair.b.budget.used <= limit
    assert pair.b.budget.peak <= limit


def test_ST11_a_stream_alone_still_gets_its_window() -> None:
    """With the memory that a hub has by default, one fast letter has all the credit that it can use."""
    pair = connected_with(256 * MIB)
    stream = pair.a.link.open_stream(None, pair.now)
    pour(pair, [stream], 40 * MIB)
    assert pair.b.streams[stream.id].receive_credit > c.CREDIT_MAX / 2


def test_ST4_streams_for_which_there_is_no_credit_left() -> None:
    """What each stream may send before anybody says a word counts as well: one too many is refused, at either end."""
    pair = connected_with(10 * c.INITIAL_CREDIT)
    streams = [pair.a.link.open_stream(None, pair.now) for _ in range(12)]
    pair.flush(pair.a)
    pair.settle()
    assert list(pair.a.resets.values()) == [Code.LIMIT] * 2
    with pytest.raises(NotReady) as caught:
        pair.b.link.open_stream(None, pair.now)
    assert caught.value.code == Code.LIMIT
    streams[0].reset()
    pair.flush(pair.a)
    pair.settle()
    assert pair.b.link.open_stream(None, pair.now)


def test_ST11_what_was_promised_is_taken_back() -> None:
    """With the last stream, however it ends, nothing is promised any more."""
    pair = connected_with(16 * MIB)
    streams = [pair.a.link.open_stream(None, pair.now) for _ in range(8)]
    pour(pair, streams, MIB)
    assert pair.b.budget.promised > 8 * c.INITIAL_CREDIT
    for stream in streams[::2]:
        stream.reset()
    for stream in streams[1::2]:
        stream.end()
        pair.b.streams[stream.id].end()
    for hub in (pair.a, pair.b):
        pair.flush(hub)
    pair.settle()
    assert (pair.a.budget.promised, pair.b.budget.promised) == (0, 0)


def test_budget_of_promises() -> None:
    """New streams up to the whole limit; growth up to half of it."""
    budget = Budget(100)
    assert budget.promise(40)
    assert budget.promise_more(10)
    assert not budget.promise_more(1)
    assert budget.promise(50)
    assert not budget.promise(1)
    assert budget.promised == 100
    budget.take_back(100)
    assert budget.promised == 0
