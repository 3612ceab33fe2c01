"""How often two hubs step: what each wants, what the responder takes, how they agree (PROTOCOL.md RT4, RT5, RT9)."""

from __future__ import annotations

import msgpack
import pytest

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames
from hubtunnel.protocol.events import CarrierClosing, Ratcheted
from hubtunnel.protocol.link import Settings
from tests.protocol.support import CorePair, connected

TICK = 0.01


def wanting(after: float) -> Settings:
    """As the daemon sets the core, for a `ratchet_after`."""
    return Settings(
        version="x",
        ratchet_after=after,
        ratchet_interval_min=min(c.RATCHET_INTERVAL_MIN, after),
        ratchet_interval_refused=min(c.RATCHET_INTERVAL_REFUSED, after / 4),
    )


def steps_in(pair: CorePair, seconds: float) -> int:
    """How many steps the initiator makes while data flows without a pause."""
    before = len(pair.a.seen(Ratcheted))
    stream = pair.a.link.open_stream(None, pair.now)
    end = pair.now + seconds
    while pair.now < end:
        stream.write(b"x" * 100)
        pair.flush(pair.a)
        pair.advance(TICK)
    for hub in (pair.a, pair.b):
        assert hub.seen(CarrierClosing) == []
    return len(pair.a.seen(Ratcheted)) - before


@pytest.mark.parametrize(
    ("initiators", "responders", "apart"),
    [
        (0.1, 0.1, 0.1),  # both want them often
        (0.1, c.RATCHET_AFTER, 2 * c.RATCHET_INTERVAL_REFUSED),  # the responder takes what it always took
        (0.1, 1.2, 0.6),  # twice what the responder takes
        (10.0, 0.1, 10.0),  # the initiator begins them
    ],
)
def test_RT5_both_ends_agree(initiators: float, responders: float, apart: float) -> None:
    """The initiator steps as often as it wants to and the responder takes; no carrier is ever dropped for it."""
    pair, _ = connected(wanting(initiators), settings_b=wanting(responders), seed=61)
    seconds = 12 * apart
    assert 10 <= steps_in(pair, seconds) <= 12


def test_RT5_holds_after_a_resume() -> None:
    """HELLO is said once in a session; what it said holds on every carrier of it."""
    pair, wire = connected(wanting(0.1), settings_b=wanting(0.1), seed=62)
    pair.cut(wire)
    pair.dial(pair.a)
    pair.settle()
    (session,) = pair.a.link.sessions
    assert session.resumed == 1
    for hub in (pair.a, pair.b):
        hub.events.clear()
    assert steps_in(pair, 1.2) >= 10


@pytest.mark.parametrize("said", [-1, 501, 1 << 40, True, "100", None, 0.1, [100]])
def test_FR5_interval_that_cannot_be(said: object) -> None:
    """A peer may shorten what is assumed; it can never make us put our steps off."""
    payload = msgpack.packb({"version": "x", "capabilities": [], "requires": [], "ratchet_interval": said})
    with pytest.raises(ProtocolError, match="ratchet_interval"):
        frames.decode_hello(payload)


@pytest.mark.parametrize(("seconds", "heard"), [(0.0, 0.0), (0.025, 0.025), (0.0251, 0.026), (0.5, 0.5), (7.0, 0.5)])
def test_FR5_interval_is_said_in_milliseconds_and_never_too_short(seconds: float, heard: float) -> None:
    """Rounded up: who keeps to what it heard is never refused. What is assumed anyway is not said."""
    frame = frames.encode_hello(frames.Hello("x", (), (), seconds))
    assert (b"ratchet_interval" in frame) == (seconds < c.RATCHET_INTERVAL_REFUSED)
    assert frames.decode_hello(frame[c.FRAME_HEADER_LEN :]).ratchet_interval == heard


def test_RT4_every_64_KiB() -> None:
    """Steps as often as bytes make them: every byte arrives, under a new epoch for each 64 KiB or little more."""
    limit, total = 64 * 1024, 8 << 20
    settings = Settings(
        version="x", ratchet_bytes=limit, ratchet_interval_min=0.0, ratchet_interval_refused=0.0, ratchet_after=1e9
    )
    pair, _ = connected(settings, seed=63)
    stream = pair.a.link.open_stream(None, pair.now)
    sent = bytearray()
    number = 0
    while len(sent) < total:
        number += 1
        chunk = number.to_bytes(4, "big") * 4096
        sent += chunk
        stream.write(chunk)
        pair.flush(pair.a)
        pair.settle()
        pair.advance(0.001)
    stream.end()
    pair.flush(pair.a)
    pair.settle()
    assert bytes(pair.b.received[stream.id]) == bytes(sent)
    assert stream.id in pair.b.ended
    steps = pair.a.link.sessions[0].index
    assert steps == pair.b.link.sessions[0].index
    assert total / limit * 0.7 <= steps <= total / limit * 1.1
    assert pair.a.seen(CarrierClosing) == pair.b.seen(CarrierClosing) == []
