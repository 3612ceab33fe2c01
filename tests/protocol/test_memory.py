"""What an idle session holds: a hub may have hundreds, which mostly wait."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from tests.protocol.support import CorePair, connected

SESSIONS = 20
# Bytes that the core allocates for one peer: a link key of 1.2 KB, link, session and carrier, after mail went by. It is
# 8.0 KB on CPython 3.11. It was 11.6 KB with five deques in it, each of which takes 620 bytes while it is empty.
MOST = 9_000


def idle_after_mail(seed: int) -> CorePair:
    """A session over which a short conversation went, and nothing since."""
    pair, wire = connected(seed=seed)
    stream = pair.a.link.open_stream(None, pair.now)
    for _ in range(20):
        stream.write(b"MAIL FROM:<a@a.example>\r\n")
        pair.settle()
    stream.end()
    pair.settle()
    pair.b.streams[stream.id].end()
    pair.settle()
    pair.advance(1.0)  # acknowledgements that were put off
    assert wire.ends
    assert not pair.a.link.sessions[0].unacknowledged
    for hub in (pair.a, pair.b):
        hub.events.clear()
        hub.received.clear()
        hub.streams.clear()
    for logged in wire.log.values():
        logged.clear()
    assert not pair.a.link.sessions[0].mux.streams
    return pair


@pytest.mark.interpreted
def test_an_idle_session_holds_little() -> None:
    idle_after_mail(1)  # what is made once is made
    gc.collect()
    tracemalloc.start()
    try:
        pairs = [idle_after_mail(seed) for seed in range(2, 2 + SESSIONS)]
        gc.collect()
        traces = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/hubtunnel/*")])
    finally:
        tracemalloc.stop()
    each = sum(trace.size for trace in traces.statistics("filename")) / (2 * len(pairs))
    assert each < MOST
