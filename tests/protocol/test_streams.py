"""Frames and streams: every frame in every state, half-close, reset, numbers (PROTOCOL.md 8)."""

from __future__ import annotations

import itertools

import msgpack
import pytest

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames
from hubtunnel.protocol.constants import Code, Frame, Record
from hubtunnel.protocol.events import (
    CardReceived,
    StreamData,
    StreamEnd,
    StreamOpened,
    StreamReset,
)
from hubtunnel.protocol.link import NotReady, Settings
from hubtunnel.protocol.session import Phase
from hubtunnel.protocol.streams import TRANSITIONS, Input, State, Stream
from tests.protocol.framing import OPEN_PAYLOAD, data, end, faulted, opening
from tests.protocol.puppet import HELLO, Line, Puppet
from tests.protocol.support import connected

# --- 8.4: the table -----------------------------------------------------------------------------------------------

# The stream numbers that a test uses: of the sender's parity (the puppet dialled: odd) and of the hub's own.
ABOVE, OPENED, ENDED, GONE = "above the highest", "open", "peer's direction ended", "gone"
FAULT, IGNORED, OK = "fault", "ignore", "ok"
KINDS = {
    "OPEN": lambda n: opening(n),
    "DATA": lambda n: data(n),
    "END": lambda n: end(n),
    "RESET": lambda n: frames.encode_reset(n, Code.BROKEN),
    "CREDIT": lambda n: frames.encode_credit(n, 1000),
}
EXPECTED = {
    ("OPEN", ABOVE): (OK, FAULT),
    ("OPEN", OPENED): (FAULT, FAULT),
    ("OPEN", ENDED): (FAULT, FAULT),
    ("OPEN", GONE): (FAULT, FAULT),
    ("DATA", ABOVE): (FAULT, FAULT),
    ("DATA", OPENED): (OK, OK),
    ("DATA", ENDED): (FAULT, FAULT),
    ("DATA", GONE): (IGNORED, IGNORED),
    ("END", ABOVE): (FAULT, FAULT),
    ("END", OPENED): (OK, OK),
    ("END", ENDED): (FAULT, FAULT),
    ("END", GONE): (IGNORED, IGNORED),
    ("RESET", ABOVE): (FAULT, FAULT),
    ("RESET", OPENED): (OK, OK),
    ("RESET", ENDED): (OK, OK),
    ("RESET", GONE): (IGNORED, IGNORED),
    ("CREDIT", ABOVE): (FAULT, FAULT),
    ("CREDIT", OPENED): (OK, OK),
    ("CREDIT", ENDED): (OK, OK),
    ("CREDIT", GONE): (IGNORED, IGNORED),
}
CASES = [
    (kind, state, ours)
    for (kind, state), ours in itertools.product(itertools.product(KINDS, [ABOVE, OPENED, ENDED, GONE]), [False, True])
]


def stream_in(line: Line, state: str, *, ours: bool) -> int:
    """The number of a stream in a state: one that the hub opened, or one that the puppet did."""
    puppet = line.puppet
    if state == ABOVE:
        return 2 if ours else 1
    if ours:
        number = puppet.hub.link.open_stream(None, puppet.now).id
        puppet.pump()
    else:
        number = 1
        line.frames(opening(1))
    if state == ENDED:
        line.frames(end(number))
    elif state == GONE:
        line.frames(frames.encode_reset(number, Code.BROKEN))
    line.take()
    return number


@pytest.mark.parametrize(
    ("kind", "state", "ours"), CASES, ids=[f"{k} {s} {'ours' if o else 'theirs'}" for k, s, o in CASES]
)
def test_8_4_each_frame_in_each_state(kind: str, state: str, ours: bool) -> None:
    """The table of 8.4, every pair, for streams of either hub."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    number = stream_in(line, state, ours=ours)
    puppet.events.clear()
    line.frames(KINDS[kind](number))
    outcome = EXPECTED[kind, state][ours]
    if outcome == FAULT:
        assert faulted(line)
    elif outcome == IGNORED:
        assert line.take() == []
        assert puppet.events == []
        assert line.closed is None
    else:
        assert line.closed is None
        assert line.session.phase is Phase.UP
        stream = line.session.mux.streams.get(number)
        wanted = {"OPEN": StreamOpened, "DATA": StreamData, "END": StreamEnd, "RESET": StreamReset}.get(kind)
        assert [type(event) for event in puppet.events] == ([wanted] if wanted else [])
        assert (stream is None) is (kind == "RESET")
        if kind == "CREDIT":
            assert stream is not None
            assert stream.send_credit == c.INITIAL_CREDIT + 1000


def test_ST5_end_of_both_directions_in_either_order() -> None:
    """When both have ended the stream is gone at both hubs, and late frames for it are ignored."""
    for first, second in (("a", "b"), ("b", "a")):
        pair, _ = connected()
        ours = pair.a.link.open_stream(None, pair.now)
        pair.settle()
        ends = {"a": (pair.a, ours), "b": (pair.b, pair.b.streams[ours.id])}
        for name in (first, second):
            hub, stream = ends[name]
            stream.write(name.encode())
            stream.end()
            pair.flush(hub)
            pair.settle()
        assert pair.a.ended == pair.b.ended == {ours.id}
        assert pair.a.received[ours.id] == b"b"
        assert pair.b.received[ours.id] == b"a"
        for hub in (pair.a, pair.b):
            assert hub.link.sessions[0].mux.streams == {}
            assert hub.resets == {}


def test_ST5_end_comes_after_all_data() -> None:
    """END waits behind DATA that has no credit yet, and nothing can be written behind it."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    stream.write(bytes(c.INITIAL_CREDIT + 10))
    stream.end()
    stream.write(b"too late")
    kinds = [kind for kind, _, _ in line.take_frames()]
    assert Frame.END not in kinds
    line.frames(frames.encode_credit(stream.id, 10))
    assert [(kind, len(payload)) for kind, _, payload in line.take_frames()] == [(Frame.DATA, 10), (Frame.END, 0)]


def test_ST6_reset_discards_what_waits() -> None:
    """DATA that was not sent stays unsent, RESET goes out once, and is not answered by the peer."""
    pair, _ = connected()
    stream = pair.a.link.open_stream(None, pair.now)
    pair.settle()
    stream.write(bytes(1000))
    stream.reset(Code.MTA_FAILED)
    stream.reset(Code.BROKEN)
    pair.flush(pair.a)
    pair.settle()
    assert pair.b.received == {}
    assert pair.b.resets == {stream.id: Code.MTA_FAILED}
    assert pair.a.resets == {}
    for hub in (pair.a, pair.b):
        assert hub.link.sessions[0].mux.streams == {}


def test_ST6_stream_that_was_never_announced_leaves_a_gap() -> None:
    """A stream that is reset before its OPEN left is never heard of; the next number is higher."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    first = puppet.hub.link.open_stream(None, puppet.now)
    first.write(b"data")
    first.reset()
    second = puppet.hub.link.open_stream(None, puppet.now)
    assert [(kind, number) for kind, number, _ in line.take_frames()] == [(Frame.OPEN, second.id)]
    assert second.id == first.id + 2


def test_local_calls_on_a_stream_that_is_over_do_nothing() -> None:
    """The shell need not know whose word came last."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    puppet.pump()
    line.frames(frames.encode_reset(stream.id, Code.BROKEN))
    line.take()
    assert stream.closed
    assert stream.write(b"x")
    stream.end()
    stream.consumed(100)
    stream.reset()
    assert line.take_frames() == []
    assert puppet.hub.budget.used == line.session.unacknowledged + 1 * len(line.session._send._kept)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Input)))
def test_every_pair_of_the_stream_table(state: State, event: Input) -> None:
    """A pair of the table leads on; every other one raises and changes nothing."""
    puppet = Puppet()
    stream = Stream(puppet.up(hub_dials=True).session.mux, 1, None)
    stream.state = state
    if (state, event) in TRANSITIONS:
        stream._step(event)
        assert stream.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(ProtocolError):
            stream._step(event)
        assert stream.state is state


# --- numbers and opening ------------------------------------------------------------------------------------------


def test_ST1_numbers() -> None:
    """The initiator's are odd, the responder's even from 2; both rise; OPENs leave in their order."""
    pair, _ = connected()
    for hub, first in ((pair.a, 1), (pair.b, 2)):
        numbers = [hub.link.open_stream(None, pair.now).id for _ in range(5)]
        assert numbers == list(range(first, first + 10, 2))
    pair.settle()
    assert list(pair.b.streams) == [1, 3, 5, 7, 9]
    assert list(pair.a.streams) == [2, 4, 6, 8, 10]


def test_ST1_gaps_are_allowed() -> None:
    """Numbers may skip; they must rise."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    line.frames(opening(1), opening(7), opening(0xFFFFFFFF))
    assert len(puppet.seen(StreamOpened)) == 3
    line.frames(opening(9))
    assert faulted(line)


def test_ST1_numbers_run_out() -> None:
    """At 2^32-1 the session is drained: no more streams on it, GOAWAY said, and no error anywhere."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    line.session.mux._next_own = 0xFFFFFFFF
    assert puppet.hub.link.open_stream(None, puppet.now).id == 0xFFFFFFFF
    assert not puppet.hub.link.ready
    with pytest.raises(NotReady):
        puppet.hub.link.open_stream(None, puppet.now)
    said = line.take_frames()
    assert (Frame.OPEN, 0xFFFFFFFF, OPEN_PAYLOAD) in said
    assert [kind for kind, _, _ in said].count(Frame.GOAWAY) == 1


def test_ST2_no_stream_before_the_peers_hello() -> None:
    """STARTED alone is not enough."""
    puppet = Puppet()
    line = puppet.line(hub_dials=True)
    line.send(Record.STARTED, puppet.started_record())
    assert not puppet.hub.link.ready
    with pytest.raises(NotReady) as none:
        puppet.hub.link.open_stream(None, puppet.now)
    assert none.value.code is None
    line.frames(HELLO)
    assert puppet.hub.link.ready


@pytest.mark.parametrize(
    ("keys", "source"),
    [
        ({}, None),
        ({"source": ["192.0.2.1", 25]}, ("192.0.2.1", 25)),
        ({"source": ["2001:db8::1", 65535]}, ("2001:db8::1", 65535)),
        ({"source": ["mail.example", 25]}, None),
        ({"source": ["", 0]}, None),
        ({"later": [1.5, None, msgpack.ExtType(1, b"")]}, None),
    ],
    ids=["none", "IPv4", "IPv6", "name", "empty", "unknown key"],
)
def test_ST3_open(keys: dict[str, object], source: tuple[str, int] | None) -> None:
    """What OPEN says comes to the shell; a source that is no address is as good as none."""
    puppet = Puppet()
    puppet.up(hub_dials=False).frames(opening(1, service="smtp", **keys))
    (opened,) = [event for event in puppet.seen(StreamOpened) if isinstance(event, StreamOpened)]
    assert (opened.service, opened.source) == ("smtp", source)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x80",
        msgpack.packb(["smtp"]),
        msgpack.packb({"service": b"smtp"}),
        msgpack.packb({"service": None}),
        msgpack.packb({"service": "smtp"}) + b"\xc0",
        *(
            msgpack.packb({"service": "smtp", "source": wrong})
            for wrong in (
                None,
                "192.0.2.1",
                [],
                ["192.0.2.1"],
                ["192.0.2.1", "25"],
                ["192.0.2.1", -1],
                ["192.0.2.1", 65536],
                ["192.0.2.1", True],
                ["192.0.2.1", 2.0],
                [b"192.0.2.1", 25],
                ["192.0.2.1", 25, 1],
                {"address": "192.0.2.1"},
            )
        ),
    ],
    ids=lambda payload: payload.hex() or "empty",
)
def test_ST3_open_that_is_none(payload: bytes) -> None:
    """A missing service, a value of another type or range: CLOSE(protocol)."""
    line = Puppet().up(hub_dials=False)
    line.frames(frames.encode(Frame.OPEN, 1, payload))
    assert faulted(line)


@pytest.mark.parametrize("service", ["imap", "", "x" * 500, "SMTP"])
def test_ST3_unknown_service(service: str) -> None:
    """Refused with RESET; the session goes on, and the number counts as used."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    line.frames(opening(1, service=service))
    assert line.take_frames() == [(Frame.RESET, 1, Code.REFUSED.to_bytes(2, "big"))]
    assert puppet.seen(StreamOpened) == []
    line.frames(data(1), end(1))
    assert line.closed is None
    line.frames(opening(3))
    assert len(puppet.seen(StreamOpened)) == 1


def test_ST4_limit_of_streams() -> None:
    """One stream more than allowed is refused with `limit`, on both sides of the line."""
    puppet = Puppet(Settings(version="test", streams_per_peer=3))
    line = puppet.up(hub_dials=False)
    line.frames(*(opening(n) for n in (1, 3, 5, 7)))
    assert line.take_frames() == [(Frame.RESET, 7, Code.LIMIT.to_bytes(2, "big"))]
    with pytest.raises(NotReady) as none:
        puppet.hub.link.open_stream(None, puppet.now)
    assert none.value.code is Code.LIMIT
    line.frames(frames.encode_reset(3, Code.BROKEN), opening(9))
    assert line.take_frames() == []


def test_ST4_no_memory() -> None:
    """With the hub's memory fully used new streams are refused, those that are open go on."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    line.frames(opening(1))
    puppet.hub.budget.take(puppet.hub.budget.limit)
    line.frames(opening(3))
    assert line.take_frames() == [(Frame.RESET, 3, Code.LIMIT.to_bytes(2, "big"))]
    line.frames(data(1))
    assert len(puppet.seen(StreamData)) == 1


def test_ST7_every_stream_of_a_second_session_is_its_own() -> None:
    """Streams of one number on two sessions do not touch."""
    pair, _ = connected()
    pair.dial(pair.b)
    pair.settle()
    assert len(pair.a.link.sessions) == 2
    streams = [session.mux.open(None) for session in pair.a.link.sessions]
    for n, stream in enumerate(streams):
        stream.write(b"session %d" % n)
    pair.flush(pair.a)
    pair.settle()
    opened = [event.stream for event in pair.b.seen(StreamOpened)]
    assert {stream.session.sid for stream in opened} == {s.sid for s in pair.a.link.sessions}


# --- cards only pass through --------------------------------------------------------------------------------------


def test_card_parts_reach_the_shell() -> None:
    """The core joins parts and hands the card on; what it says is not the core's."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    card = bytes(range(256)) * 200
    for at in range(0, len(card), c.CARD_PART_MAX):
        head = (1).to_bytes(8, "big") + len(card).to_bytes(4, "big") + at.to_bytes(4, "big")
        line.frames(frames.encode(Frame.CARD_PART, 0, head + card[at : at + c.CARD_PART_MAX]))
    (received,) = [event for event in puppet.seen(CardReceived) if isinstance(event, CardReceived)]
    assert received.data == card
