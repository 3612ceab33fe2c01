"""Byte stream, liveness, CLOSE and GOAWAY, and the ends of a session (PROTOCOL.md 7.3 to 7.6)."""

from __future__ import annotations

import itertools

import pytest

from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames
from hubtunnel.protocol.constants import Code, Frame, Record
from hubtunnel.protocol.events import (
    Notice,
    PeerGoingAway,
    Pong,
    SessionEnded,
    StreamOpened,
    StreamReset,
)
from hubtunnel.protocol.link import NotReady, Settings
from hubtunnel.protocol.session import Phase
from tests.protocol.puppet import HELLO, Line, Puppet
from tests.protocol.support import connected
from tests.protocol.test_streams import OPEN_PAYLOAD, data, end, opening

U64 = 8


def u64(n: int) -> bytes:
    """Eight bytes."""
    return n.to_bytes(8, "big")


def acks(line: Line) -> list[int]:
    """Offsets that the hub has acknowledged since the last look."""
    return [int.from_bytes(payload, "big") for kind, payload in line.take() if kind is Record.ACK]


def ended(puppet: Puppet) -> SessionEnded:
    """The one session that has ended."""
    (event,) = puppet.seen(SessionEnded)
    assert isinstance(event, SessionEnded)
    return event


# --- 7.3: the byte stream -----------------------------------------------------------------------------------------


def test_BS3_ack_after_200_ms_or_256_KiB() -> None:
    """One ACK for what came within 200 ms, and at once when 256 KiB have gathered."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    puppet.advance(1)
    line.take()
    offset = len(HELLO)
    line.frames(frames.encode(0x90, 0, bytes(100)))
    line.frames(frames.encode(0x90, 0, bytes(100)))
    offset += 214
    puppet.advance(c.ACK_DELAY - 0.01)
    assert acks(line) == []
    puppet.advance(0.02)
    assert acks(line) == [offset]
    puppet.advance(5)
    assert acks(line) == [], "once is enough"
    for _ in range(5):
        line.frames(frames.encode(0x90, 0, bytes(60_000)))
        offset += 60_007
    assert acks(line) == [offset]


def test_BS3_ack_never_waits_for_the_layer_above() -> None:
    """Bytes that no local socket takes are acknowledged like any others."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    line.frames(opening(1), data(1, bytes(60_000)))
    puppet.advance(1)
    assert acks(line)[-1] == len(HELLO) + 7 + len(OPEN_PAYLOAD) + 60_007


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_BS4_bounds_of_an_ack(offset: int) -> None:
    """Equal to the last one: nothing. One below it, or above what was ever sent: CLOSE(protocol)."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    sent = line.session._send.end
    line.send(Record.ACK, u64(sent))
    line.send(Record.ACK, u64(sent))
    assert line.closed is None
    assert line.session.unacknowledged == 0
    line.send(Record.ACK, u64(sent + offset))
    closes = [payload[0] for kind, payload in line.take() if kind is Record.CLOSE]
    assert closes == ([] if offset == 0 else [Code.PROTOCOL])


def test_BS4_ack_of_the_largest_number() -> None:
    """2^64-1 is just a number too high."""
    line = Puppet().up(hub_dials=True)
    line.send(Record.ACK, b"\xff" * 8)
    assert [payload[0] for kind, payload in line.take() if kind is Record.CLOSE] == [Code.PROTOCOL]


def test_BS5_send_window() -> None:
    """Nothing new leaves while the window is full; it does when an ACK comes; memory stays within the window."""
    window = 300_000
    puppet = Puppet(Settings(version="test", send_window=window))
    line = puppet.up(hub_dials=True)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    stream.send_credit = 1 << 30
    stream.write(bytes(2 * window))
    puppet.pump()
    sent = line.session._send.end
    assert window <= line.session.unacknowledged <= window + c.RECORD_DATA_MAX
    puppet.advance(1)
    assert line.session._send.end == sent
    line.send(Record.ACK, u64(100_000))
    assert line.session._send.end > sent


def test_BS5_window_shrinks_while_memory_is_short() -> None:
    """With half of the hub's memory used, a session keeps no more than the tight window."""
    puppet = Puppet(budget=10 << 20)
    line = puppet.up(hub_dials=True)
    puppet.hub.budget.take(6 << 20)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    stream.send_credit = 1 << 30
    stream.write(bytes(3 << 20))
    puppet.pump()
    assert c.SEND_WINDOW_TIGHT <= line.session.unacknowledged <= c.SEND_WINDOW_TIGHT + c.RECORD_DATA_MAX


# --- 7.4: liveness ------------------------------------------------------------------------------------------------


def test_LV1_ping_after_silence() -> None:
    """15 s without a record: PING; 15 s more: another one; any record puts it off."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    puppet.advance(1)
    line.take()

    def pings() -> int:
        return sum(kind is Record.PING for kind, _ in line.take())

    puppet.advance(13.9)
    line.send(Record.PAD)
    puppet.advance(14.9)
    assert pings() == 0
    puppet.advance(0.2)
    assert pings() == 1
    puppet.advance(15)
    assert pings() == 1


def test_LV2_silence_of_three_times_keepalive() -> None:
    """45 s without a record: the carrier is lost, the session waits."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    puppet.advance(44.9)
    assert line.closed is None
    puppet.advance(0.2)
    assert line.dropped
    assert line.session.phase is Phase.LOST


def test_LV3_pong() -> None:
    """The answer to our PING gives a round trip; an answer to nothing counts as a record and does no more."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    token = puppet.hub.link.ping(puppet.now)
    said = [payload for kind, payload in line.take() if kind is Record.PING]
    puppet.now += 0.25
    line.send(Record.PONG, bytes(8))
    assert puppet.seen(Pong) == []
    for payload in said:
        line.send(Record.PONG, payload)
    pongs = [event for event in puppet.seen(Pong) if isinstance(event, Pong)]
    assert {pong.rtt for pong in pongs} == {0.25}
    assert token in {pong.token for pong in pongs}
    assert line.carrier.rtt == 0.25
    before = len(pongs)
    line.send(Record.PONG, said[0])
    assert len(puppet.seen(Pong)) == before, "an answer counts once"


def test_LV1_pings_that_nobody_answers_are_bounded() -> None:
    """However many are asked for, the carrier remembers a few."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    for _ in range(1000):
        puppet.hub.link.ping(puppet.now)
        puppet.pump()
    assert len(line.carrier._asked) <= 17


def test_LV4_deadlines_do_not_stay() -> None:
    """In every phase of a session a deadline that is handled is over (`advance` checks it): no busy loop."""
    for hub_dials, phase in itertools.product((True, False), ("up", "closing", "lost", "draining", "ended")):
        puppet = Puppet()
        line = puppet.up(hub_dials=hub_dials)
        line.frames(opening(2 if hub_dials else 1), data(2 if hub_dials else 1))
        if phase in ("closing", "ended"):
            puppet.hub.link.close(Code.DRAINED, puppet.now)
        if phase == "ended":
            line.send(Record.CLOSE, bytes(9))
        if phase == "lost":
            puppet.cut(line)
        if phase == "draining":
            puppet.hub.link.drain(Code.DRAINED, puppet.now)
        puppet.pump()
        puppet.advance(500)
        assert puppet.hub.link.sessions == []
        assert puppet.hub.link.next_deadline() is None
        assert puppet.hub.budget.used == 0


# --- 7.5: close ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hub_dials", [True, False], ids=["I", "R"])
def test_CL1_close_resets_streams_and_is_answered(hub_dials: bool) -> None:
    """Both hubs reset their streams; the one that closed waits for the answer; both forget everything."""
    pair, _ = connected()
    hub, peer = (pair.a, pair.b) if hub_dials else (pair.b, pair.a)
    stream = hub.link.open_stream(None, pair.now)
    stream.write(b"half a letter")
    pair.flush(hub)
    pair.settle()
    session, theirs = hub.link.sessions[0], peer.link.sessions[0]
    hub.link.close(Code.RESTART, pair.now)
    pair.settle()
    for one, of in ((session, hub), (theirs, peer)):
        assert one.ended
        assert one.roots == {}
        assert of.resets == {stream.id: Code.RESTART}
        assert of.link.sessions == of.link.carriers == []
        assert of.budget.used == 0
    (ours,), (other,) = hub.seen(SessionEnded), peer.seen(SessionEnded)
    assert isinstance(ours, SessionEnded)
    assert isinstance(other, SessionEnded)
    assert (ours.by_peer, other.by_peer) == (False, True)
    assert "missing" not in other.text


def test_CL2_answer() -> None:
    """CLOSE is answered with the same code and the own final offset; unknown codes too."""
    for code in (0, Code.LIMIT, 200):
        puppet = Puppet()
        line = puppet.up(hub_dials=False)
        sent = line.session._send.end
        line.send(Record.CLOSE, bytes((code,)) + u64(len(HELLO)))
        assert [said for said in line.take() if said[0] is Record.CLOSE] == [(Record.CLOSE, bytes((code,)) + u64(sent))]
        assert line.closed is not None
        assert (ended(puppet).code, ended(puppet).by_peer) == (code, True)


def test_CL2_bytes_cut_off_are_reported() -> None:
    """A final offset that is not what was received changes nothing but the text for the operator."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    line.send(Record.CLOSE, b"\0" + u64(len(HELLO) + 77))
    assert "77 bytes" in ended(puppet).text


def test_CL3_no_answer() -> None:
    """60 s without an answer, or the loss of the carrier at I: the session is deleted."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    puppet.hub.link.close(Code.DRAINED, puppet.now)
    for _ in range(6):
        puppet.advance(9.9)
        line.send(Record.PAD)
    assert not line.session.ended
    puppet.advance(1)
    assert line.session.ended
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    puppet.hub.link.close(Code.DRAINED, puppet.now)
    puppet.pump()
    puppet.cut(line)
    assert line.session.ended


def test_CL3_responders_close_is_said_again_after_a_resume() -> None:
    """R's CLOSE was lost with the carrier: I resumes, hears RESUMED with status 1 and CLOSE behind it."""
    pair, wire = connected(seed=30)
    stream = pair.a.link.open_stream(None, pair.now)
    pair.settle()
    session = pair.b.link.sessions[0]
    pair.b.link.close(Code.DRAINED, pair.now)
    pair.flush(pair.b)
    pair.cut(wire)
    assert session.phase is Phase.CLOSING
    pair.dial(pair.a)
    pair.settle()
    assert session.ended
    assert pair.a.link.sessions == pair.b.link.sessions == []
    assert pair.a.resets == {stream.id: Code.DRAINED}


def test_CL4_crossing_closes() -> None:
    """Two CLOSEs answer each other; each hub keeps its own code."""
    pair, _ = connected(seed=31)
    pair.a.link.close(Code.DRAINED, pair.now)
    pair.b.link.close(Code.RESTART, pair.now)
    pair.settle()
    for hub, code in ((pair.a, Code.DRAINED), (pair.b, Code.RESTART)):
        (event,) = hub.seen(SessionEnded)
        assert isinstance(event, SessionEnded)
        assert event.code == code
        assert hub.link.carriers == []


def test_CL1_closing_before_started() -> None:
    """A hub that gives up right after START says CLOSE; the other one ends its session too."""
    pair, _ = connected(seed=32)
    pair.a.link.close(Code.DONE, pair.now)
    pair.settle()
    wire = pair.dial(pair.a)
    pair.a.link.close(Code.DRAINED, pair.now)
    pair.settle()
    assert pair.a.link.sessions == pair.b.link.sessions == []
    assert not wire.ends


# --- 7.6: GOAWAY --------------------------------------------------------------------------------------------------


def test_GA1_last_stream() -> None:
    """The highest number of the peer's that was accepted, 0 if none."""
    for opened in ((), (1,), (1, 9)):
        puppet = Puppet()
        line = puppet.up(hub_dials=False)
        line.frames(*(opening(n) for n in opened), b"")
        puppet.hub.link.drain(Code.DRAINED, puppet.now)
        (goaway,) = [payload for kind, _, payload in line.take_frames() if kind == Frame.GOAWAY]
        assert goaway == Code.DRAINED.to_bytes(2, "big") + max(opened, default=0).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("last", "fault"), [(0, False), (2, False), (4, False), (1, True), (6, True), (0xFFFFFFFF, True)]
)
def test_GA1_last_stream_that_cannot_be(last: int, fault: bool) -> None:
    """Of the sender's own parity, or above what we have opened: CLOSE(protocol)."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    for _ in range(2):
        puppet.hub.link.open_stream(None, puppet.now)
    puppet.pump()
    line.frames(frames.encode_goaway(Code.DRAINED, last))
    assert bool([payload for kind, payload in line.take() if kind is Record.CLOSE]) is fault
    assert bool(puppet.seen(PeerGoingAway)) is not fault


def test_GA2_after_goaway_received_no_stream_is_opened() -> None:
    """Streams that are open go on; new ones are not possible, and the shell learns the code."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    puppet.pump()
    line.frames(frames.encode_goaway(Code.RESTART, 1))
    assert not puppet.hub.link.ready
    with pytest.raises(NotReady) as none:
        puppet.hub.link.open_stream(None, puppet.now)
    assert none.value.code == Code.RESTART
    stream.write(b"goes on")
    assert any(b"goes on" in payload for _, _, payload in line.take_frames())


@pytest.mark.parametrize("code", [Code.DRAINED, Code.RESTART, Code.REFUSED, Code.SUPERSEDED])
def test_GA2_open_that_still_arrives(code: Code) -> None:
    """After our GOAWAY: RESET with its code; with `superseded` the stream is taken."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    line.frames(opening(1))
    line.session.goaway(code, puppet.now)
    line.take()
    line.frames(opening(3))
    if code is Code.SUPERSEDED:
        assert len(puppet.seen(StreamOpened)) == 2
    else:
        assert (Frame.RESET, 3, code.to_bytes(2, "big")) in line.take_frames()
        assert len(puppet.seen(StreamOpened)) == 1


def test_GA3_after_goaway_sent_no_stream_is_opened() -> None:
    """Whoever says GOAWAY opens nothing either."""
    puppet = Puppet()
    puppet.up(hub_dials=True).frames(opening(2))
    puppet.hub.link.drain(Code.DRAINED, puppet.now)
    assert not puppet.hub.link.ready
    with pytest.raises(NotReady):
        puppet.hub.link.open_stream(None, puppet.now)


@pytest.mark.parametrize("hub_dials", [True, False], ids=["I", "R"])
def test_GA4_drain(hub_dials: bool) -> None:
    """Open streams run to their end, then CLOSE with the code of the GOAWAY, nothing reset, nothing missing."""
    pair, _ = connected(seed=33)
    hub, peer = (pair.a, pair.b) if hub_dials else (pair.b, pair.a)
    ours, theirs = hub.link.open_stream(None, pair.now), peer.link.open_stream(None, pair.now)
    pair.settle()
    hub.link.drain(Code.RESTART, pair.now)
    pair.advance(1)
    assert hub.link.sessions
    for stream in (ours, peer.streams[ours.id], theirs, hub.streams[theirs.id]):
        stream.write(b"to the end")
        stream.end()
        pair.flush(hub)
        pair.flush(peer)
        pair.advance(1)
    assert hub.link.sessions == peer.link.sessions == []
    assert hub.resets == peer.resets == {}
    for of in (hub, peer):
        assert of.received == {ours.id: b"to the end", theirs.id: b"to the end"}
        (event,) = of.seen(SessionEnded)
        assert isinstance(event, SessionEnded)
        assert event.code == Code.RESTART
        assert "missing" not in event.text


def test_GA4_both_drain() -> None:
    """Both have said GOAWAY: either closes, and it ends well."""
    pair, _ = connected(seed=34)
    pair.a.link.drain(Code.DRAINED, pair.now)
    pair.b.link.drain(Code.RESTART, pair.now)
    pair.advance(2)
    assert pair.a.link.sessions == pair.b.link.sessions == []


def test_GA4_drain_over_a_cut() -> None:
    """A drain that began on one carrier ends on another."""
    pair, wire = connected(seed=35)
    stream = pair.a.link.open_stream(None, pair.now)
    pair.settle()
    pair.b.link.drain(Code.DRAINED, pair.now)
    pair.cut(wire)
    wire = pair.dial(pair.a)
    pair.settle()
    stream.write(b"x")
    stream.end()
    pair.b.streams[stream.id].end()
    pair.flush(pair.b)
    pair.advance(2)
    assert pair.b.received[stream.id] == b"x"
    assert pair.a.link.sessions == pair.b.link.sessions == []


@pytest.mark.parametrize("hub_dials", [True, False], ids=["I", "R"])
def test_GA4_resume_that_acknowledges_everything(hub_dials: bool) -> None:
    """The last ACK was lost with the carrier: the offset in RESUME or RESUMED is as good, and CLOSE follows."""
    puppet = Puppet()
    line = puppet.up(hub_dials=hub_dials)
    session, root = line.session, line.session.roots[0]
    puppet.hub.link.drain(Code.DRAINED, puppet.now)
    puppet.pump()
    puppet.cut(line)
    new = puppet.line(hub_dials=hub_dials)
    if hub_dials:
        ((_, said),) = new.take()
        new.send(Record.RESUMED, puppet.resumed_record(new, said, root, session._send.end, 0))
    else:
        said = puppet.resume_record(new, session.sid, 0, root, session._send.end, len(HELLO))
        new.send(Record.RESUME, said)
    assert Record.CLOSE in new.kinds()
    assert session.phase is Phase.CLOSING


def test_GA5_newest_code_counts() -> None:
    """GOAWAY may come again with another code; the same one again is no news."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    line.frames(opening(1))
    for code in (Code.SUPERSEDED, Code.DRAINED, Code.DRAINED):
        line.frames(frames.encode_goaway(code, 0))
    assert [event.code for event in puppet.seen(PeerGoingAway) if isinstance(event, PeerGoingAway)] == [3, 1]
    assert line.session.goaway_received == Code.DRAINED


def test_CL1_graceful_close_only_when_both_directions_are_acknowledged() -> None:
    """Before CLOSE goes out, the peer has been told that all its bytes have arrived."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    line.frames(opening(1))
    stream = line.session.mux.streams[1]
    puppet.hub.link.drain(Code.DRAINED, puppet.now)
    stream.end()
    puppet.pump()
    line.send(Record.ACK, u64(line.session._send.end))
    line.take()
    line.frames(end(1))
    said = line.take()
    offset = len(HELLO) + 7 + len(OPEN_PAYLOAD) + 7
    assert [kind for kind, _ in said] == [Record.ACK, Record.CLOSE]
    assert said[0][1] == u64(offset)


def test_drain_without_a_carrier_ends_at_once() -> None:
    """There is nobody to tell."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    puppet.cut(line)
    puppet.hub.link.drain(Code.DRAINED, puppet.now)
    assert line.session.ended


# --- RC9: what a peer can make us hold ----------------------------------------------------------------------------


def test_RC9_control_that_piles_up() -> None:
    """A peer that makes us answer and does not read loses the session at 1 MiB, with `limit`."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    number = 1
    while line.session.phase is Phase.UP and number < 500_000:
        batch = b"".join(opening(number + 2 * n, service="x") for n in range(1000))
        number += 2000
        for at in range(0, len(batch), 60_000):
            puppet.hub.link.receive_data(line.carrier, line.sealed(Record.DATA, batch[at : at + 60_000]), puppet.now)
            assert line.session.mux._control_bytes <= c.CONTROL_QUEUE_MAX + 100
    assert line.session.phase is Phase.CLOSING
    assert any(isinstance(event, Notice) and "1 MiB" in event.text for event in puppet.seen(Notice))
    assert [payload[0] for kind, payload in line.take() if kind is Record.CLOSE] == [Code.LIMIT]


def test_RC9_reading_goes_on_while_nothing_is_taken() -> None:
    """Without any room to write, bytes are read, counted and bounded by credit; the ACK among them is heard."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    link, session = puppet.hub.link, line.session
    line.frames(opening(1))
    for _ in range(4):
        link.receive_data(line.carrier, line.sealed(Record.DATA, data(1, bytes(16_000))), puppet.now)
    link.receive_data(line.carrier, line.sealed(Record.ACK, u64(session._send.end)), puppet.now)
    assert session.unacknowledged == 0
    assert puppet.hub.budget.used == 64_000
    puppet.pump()
    line.frames(data(1, bytes(c.INITIAL_CREDIT - 64_000 + 1)))
    assert session.phase is Phase.CLOSING
    assert puppet.seen(StreamReset)
