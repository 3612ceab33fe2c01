"""The second implementation and the real daemon: handshake, HELLO, streams, credit, half-close, reset."""

from __future__ import annotations

import pytest

from tests.second import streams, tcp
from tests.second.daemon import PRESENTED, Link
from tests.second.hub import Wire
from tests.second.streams import Stream

pytestmark = pytest.mark.e2e

LETTER = b"".join(b"line %06d of a letter that is longer than the first credit\r\n" % n for n in range(1120))


def opened_by_daemon(wire: Wire) -> Stream:
    """The newest stream that the daemon opened, once one is there that is still open."""
    odd = 0 if wire.session.initiator else 1

    def theirs() -> list[Stream]:
        return [s for s in wire.session.streams.streams.values() if s.number % 2 == odd and not s.gone]

    wire.until(theirs, "OPEN from the daemon")
    return theirs()[-1]


def test_the_session_stands(link: Link) -> None:
    wire = link.connect().up()
    hello = wire.session.streams.hello
    assert hello is not None
    assert hello["capabilities"] == []
    assert hello["requires"] == []
    status = link.daemon.peer_status()
    assert status["state"] == "up"
    assert status["session"]["id"] == wire.session.sid.hex()
    assert status["session"]["peer_version"] == "second 1"


def test_a_conversation_that_we_open(link: Link) -> None:
    wire = link.connect().up()
    stream = wire.session.streams.open(source=("198.51.100.7", 4242))
    wire.session.streams.send(stream, b"EHLO second.example\r\n")
    mta = link.delivered(wire)
    assert mta.proxy_source is not None
    assert mta.proxy_source[0] == PRESENTED
    assert mta.proxy_values == {0xE0: link.daemon.second.name.encode(), 0xE1: wire.session.sid}
    wire.until(lambda: mta.received.endswith(b"EHLO second.example\r\n"), "the first line")
    mta.send(b"220 mta.example\r\n250 mta.example\r\n")
    wire.until(lambda: stream.received == b"220 mta.example\r\n250 mta.example\r\n", "the reply")
    assert len(LETTER) > streams.INITIAL_CREDIT
    wire.session.streams.send(stream, LETTER)
    wire.session.streams.end(stream)
    wire.until(lambda: mta.ended, "the end of our direction at the MTA")
    assert mta.received == b"EHLO second.example\r\n" + LETTER
    assert not stream.peer_ended
    mta.send(b"250 taken\r\n")
    mta.shut()
    wire.until(lambda: stream.gone, "the end of the MTA's direction")
    assert stream.reset is None
    assert stream.received.endswith(b"250 taken\r\n")
    wire.until(lambda: wire.session.all_acknowledged, "the last ACK")


def test_a_conversation_that_the_daemon_opens(link: Link) -> None:
    wire = link.connect().up()
    client = link.client()
    stream = opened_by_daemon(wire)
    assert (stream.service, stream.source) == ("smtp", client.address)
    wire.session.streams.send(stream, b"220 second.example\r\n")
    wire.until(lambda: client.received.endswith(b"220 second.example\r\n"), "the greeting at the client")
    client.send(LETTER)
    wire.until(lambda: len(stream.received) == len(LETTER), "the letter")
    assert stream.received == LETTER
    client.shut()
    wire.until(lambda: stream.peer_ended, "END")
    wire.session.streams.send(stream, b"250 taken\r\n")
    wire.session.streams.end(stream)
    wire.until(lambda: client.ended, "the end of our direction at the client")
    assert client.received == b"220 second.example\r\n250 taken\r\n"
    assert stream.gone
    assert stream.reset is None


def test_many_at_once(link: Link) -> None:
    """Numbers of both parities, interleaved, each with its own bytes."""
    wire = link.connect().up()
    ours = [wire.session.streams.open() for _ in range(3)]
    for stream in ours:
        wire.session.streams.send(stream, b"I am %d\r\n" % stream.number)
    mtas = [link.delivered(wire) for _ in ours]
    wire.until(lambda: all(mta.received.endswith(b"\r\n") for mta in mtas), "a line at each connection")
    assert sorted(bytes(mta.received) for mta in mtas) == [b"I am %d\r\n" % stream.number for stream in ours]
    clients = [link.client() for _ in range(3)]
    for client in clients:
        client.send(b"from %s:%d\r\n" % (client.address[0].encode(), client.address[1]))
    parity = 0 if wire.session.initiator else 1

    def theirs() -> list[Stream]:
        return [s for s in wire.session.streams.streams.values() if s.number % 2 == parity]

    wire.until(lambda: [s.received.endswith(b"\r\n") for s in theirs()] == [True] * 3, "a line of each client")
    for stream in theirs():
        assert stream.source is not None
        assert stream.received == b"from %s:%d\r\n" % (stream.source[0].encode(), stream.source[1])


def test_resets(link: Link) -> None:
    wire = link.connect().up()
    session = wire.session

    stream = session.streams.open()
    mta = link.delivered(wire)
    session.streams.reset(stream, streams.BROKEN)
    wire.until(lambda: mta.reset, "RST at the MTA")
    assert not mta.ended

    stream = session.streams.open()
    link.delivered(wire).abort()
    wire.until(lambda: stream.reset is not None, "RESET after the MTA's RST")
    assert stream.reset == streams.MTA_FAILED

    client = link.client()
    stream = opened_by_daemon(wire)
    client.abort()
    wire.until(lambda: stream.reset is not None, "RESET after the client's RST")
    assert stream.reset == streams.BROKEN

    stream = session.streams.open(service="http")
    wire.until(lambda: stream.reset is not None, "RESET of an unknown service")
    assert stream.reset == streams.REFUSED
    assert tcp.accepted(link.daemon.mta) is None

    link.daemon.mta.close()
    stream = session.streams.open()
    wire.until(lambda: stream.reset is not None, "RESET when the MTA is away")
    assert stream.reset == streams.MTA_UNREACHABLE


def test_the_daemon_keeps_to_the_credit(link: Link) -> None:
    wire = link.connect().up()
    stream = wire.session.streams.open()
    stream.gives_credit = False
    mta = link.delivered(wire)
    mta.send(LETTER)
    for granted in (0, 1, 2000):
        if granted:
            wire.session.streams.give_credit(stream, granted)
        wire.until(lambda: stream.may_receive == 0, "all that the credit allows")
        wire.carrier.ping(b"barrier!")
        wire.until(lambda: wire.carrier.pongs, "PONG")
        wire.carrier.pongs.clear()
    assert stream.received == LETTER[: streams.INITIAL_CREDIT + 2001]
    assert wire.session.streams.open().number == stream.number + 2
    quick = link.delivered(wire)
    quick.send(b"220 not held up\r\n")
    other = wire.session.streams.streams[stream.number + 2]
    wire.until(lambda: other.received == b"220 not held up\r\n", "another stream's bytes")
    stream.gives_credit = True
    wire.session.streams.give_credit(stream, 100000)
    wire.until(lambda: stream.received == LETTER, "the rest")


def test_frames_in_whatever_records(link: Link) -> None:
    """BS2: one byte a record, and unknown optional frames between (FR2)."""
    wire = link.connect().up()
    wire.session.cut = 1
    stream = wire.session.streams.open(source=("2001:db8::7", 25))
    wire.session.streams.send_frame(0x80, 0, b"nobody knows this")
    wire.session.streams.send_frame(0xFF, 77, b"nor this")
    wire.session.streams.send(stream, b"NOOP\r\n")
    mta = link.delivered(wire)
    wire.until(lambda: mta.received.endswith(b"NOOP\r\n"), "the line")
