"""The second implementation and the real daemon: ratchet steps, key steps, liveness."""

from __future__ import annotations

import time

import pytest

from tests.second import records, tcp
from tests.second.conftest import MakeLink
from tests.second.daemon import DaemonDials, Link, WeDial
from tests.second.hub import Wire
from tests.second.initiator import Initiator
from tests.second.responder import Responder
from tests.second.streams import Stream

pytestmark = pytest.mark.e2e

ROUNDS = 1100
"""So that in each direction a key step is passed, of 1,024 records, and in ours two."""


def conversation(link: Link, wire: Wire) -> tuple[Stream, tcp.End]:
    """A stream that we opened, and its end at the MTA."""
    stream = wire.session.streams.open()
    return stream, link.delivered(wire)


def check_both_ways(wire: Wire, stream: Stream, mta: tcp.End, data: bytes) -> None:
    wire.session.streams.send(stream, data)
    wire.until(lambda: mta.received.endswith(data), "our bytes at the MTA")
    mta.send(data)
    wire.until(lambda: stream.received.endswith(data), "the MTA's bytes")


def test_key_steps(link: Link) -> None:
    """In each direction one record a round at least: of ours DATA and PING, of the daemon's PONG."""
    wire = link.connect().up()
    stream, mta = conversation(link, wire)
    for number in range(ROUNDS):
        wire.session.streams.send(stream, b"%04d" % number)
        wire.carrier.ping(b"%08d" % number)
        wire.until(lambda number=number: wire.carrier.pongs == [b"%08d" % number], "PONG")
        wire.carrier.pongs.clear()
    expected = b"".join(b"%04d" % number for number in range(ROUNDS))
    wire.until(lambda: mta.received == expected, "all rounds at the MTA")
    assert wire.carrier.sender.counter > 2 * ROUNDS > 2 * records.KEY_STEP
    assert wire.carrier.receiver.traffic.counter > ROUNDS > records.KEY_STEP
    assert {epoch for _, epoch, _ in wire.carrier.log} == {0}
    check_both_ways(wire, stream, mta, b"still one key on each side\r\n")


def test_our_ratchet_steps_are_answered(make_link: MakeLink) -> None:
    link = make_link(WeDial)
    wire = link.connect().up()
    carrier = wire.carrier
    assert isinstance(carrier, Initiator)
    stream, mta = conversation(link, wire)
    check_both_ways(wire, stream, mta, b"epoch 0\r\n")
    completed = 0.0
    for step in (1, 2):
        wire.until(lambda completed=completed: time.monotonic() > completed + 2, "the 2 s of RT5")
        carrier.start_step()
        wire.session.streams.send(stream, b"while step %d is under way\r\n" % step)
        wire.until(lambda step=step: carrier.steps_done == step, f"step {step}")
        completed = time.monotonic()
        check_both_ways(wire, stream, mta, b"epoch %d\r\n" % step)
        assert (wire.session.index, carrier.sender.epoch, carrier.receiver.traffic.epoch) == (step, step, step)
        assert link.daemon.peer_status()["session"]["epoch"] == step
    assert mta.received.count(b"under way") == 2


def test_the_daemons_ratchet_steps_are_answered(make_link: MakeLink) -> None:
    """It starts a step so long after the first DATA of an epoch as it was told, and rests where no DATA was."""
    link = make_link(DaemonDials, 'drain = "0s"\nratchet_after = "500ms"')
    wire = link.connect().up()
    carrier = wire.carrier
    assert isinstance(carrier, Responder)
    wire.until(lambda: carrier.steps_done == 1, "the first step")
    first = time.monotonic()
    stream, mta = conversation(link, wire)
    check_both_ways(wire, stream, mta, b"epoch 1\r\n")
    wire.until(lambda: carrier.steps_done == 2, "the second step")
    # Our HELLO leaves `ratchet_interval` out, so RT9 is 500 ms here and RT5 twice that, however much less it was told.
    assert time.monotonic() - first > 0.95, "RT5: not sooner than twice RT9 after the one before"
    check_both_ways(wire, stream, mta, b"epoch 2\r\n")
    assert (wire.session.index, len(wire.session.roots)) == (2, 1)


def test_ping_is_answered_and_sent(make_link: MakeLink) -> None:
    """The daemon pings a silent carrier, and gives up one on which nothing comes (LV1, LV2)."""
    link = make_link(WeDial, 'drain = "0s"\nkeepalive = "500ms"')
    wire = link.connect().up()
    wire.carrier.ping(b"8 bytes.")
    wire.until(lambda: wire.carrier.pongs == [b"8 bytes."], "PONG")
    answered = wire.carrier.pings_answered
    wire.until(lambda: wire.carrier.pings_answered >= answered + 4, "PINGs over more than three times keepalive")
    assert not wire.ended
    wire.carrier.answers_pings = False
    wire.until_ended(deadline=5)
