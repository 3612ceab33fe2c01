"""Credit, turns and memory: no stream stands before another, nothing grows without bound (PROTOCOL.md 8.4, 8.5)."""

from __future__ import annotations

from collections import deque

import pytest

from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames
from hubtunnel.protocol.bytestream import Budget, SendBuffer
from hubtunnel.protocol.constants import Code, Frame, Record
from hubtunnel.protocol.events import StreamData, StreamWritable
from hubtunnel.protocol.link import Settings
from hubtunnel.protocol.mux import GROW_AT_ONCE_MAX
from hubtunnel.protocol.session import Phase
from hubtunnel.protocol.streams import Stream
from tests.protocol.puppet import Line, Puppet
from tests.protocol.support import CorePair, Hub, connected
from tests.protocol.test_streams import data, end, opening

MIB = 1 << 20


def received(puppet: Puppet) -> int:
    """Payload bytes that the hub's shell was given."""
    return sum(len(event.data) for event in puppet.seen(StreamData) if isinstance(event, StreamData))


def faulted(line: Line) -> bool:
    """CLOSE(protocol) was said."""
    return [payload[0] for kind, payload in line.take() if kind is Record.CLOSE] == [Code.PROTOCOL]


# --- credit -------------------------------------------------------------------------------------------------------


def test_ST9_initial_credit_to_the_byte() -> None:
    """65536 bytes may come without a word; one more is a fault."""
    for more in (0, 1):
        puppet = Puppet()
        line = puppet.up(hub_dials=False)
        line.frames(opening(1))
        line.frames(data(1, bytes(c.INITIAL_CREDIT // 2)))
        line.frames(data(1, bytes(c.INITIAL_CREDIT // 2 + more)))
        assert faulted(line) is bool(more)
        assert received(puppet) <= c.INITIAL_CREDIT


def test_ST9_data_without_bytes() -> None:
    """Allowed, without effect, also with no credit left."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    line.frames(opening(1))
    for _ in range(2):
        line.frames(data(1, bytes(c.INITIAL_CREDIT // 2)))
    events = len(puppet.events)
    line.frames(data(1, b""))
    assert line.session.phase is Phase.UP
    assert len(puppet.events) == events


def test_ST9_sender_keeps_to_its_credit() -> None:
    """What is written beyond the credit waits; it leaves to the byte as credit comes."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    stream.write(bytes(100_000))

    def sent() -> int:
        return sum(len(payload) for kind, _, payload in line.take_frames() if kind == Frame.DATA)

    assert sent() == c.INITIAL_CREDIT
    assert sent() == 0
    line.frames(frames.encode_credit(stream.id, 0))
    assert sent() == 0
    line.frames(frames.encode_credit(stream.id, 1))
    assert sent() == 1
    line.frames(frames.encode_credit(stream.id, 50_000))
    assert sent() == 100_000 - c.INITIAL_CREDIT - 1


@pytest.mark.parametrize("over", [0, 1])
def test_ST10_largest_credit(over: int) -> None:
    """Unused credit up to 2^31-1 is fine, one byte above is a fault."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    puppet.pump()
    line.frames(frames.encode_credit(stream.id, 0x7FFFFFFF - c.INITIAL_CREDIT + over))
    assert faulted(line) is bool(over)


def test_ST10_credit_for_a_direction_that_has_ended() -> None:
    """No effect, not even when it would be too much."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    stream.end()
    puppet.pump()
    line.frames(frames.encode_credit(stream.id, 0xFFFFFFFF))
    assert line.session.phase is Phase.UP


def test_ST11_credit_comes_back_as_bytes_are_taken() -> None:
    """Half a window at a time, and never more than was taken while the stream does not grow."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    line.frames(opening(1))
    stream = line.session.mux.streams[1]
    puppet.now += 5  # slow enough for the window to stay as it is

    def granted() -> list[int]:
        return [int.from_bytes(payload, "big") for kind, _, payload in line.take_frames() if kind == Frame.CREDIT]

    line.frames(data(1, bytes(40_000)))
    stream.consumed(30_000)
    assert granted() == []
    stream.consumed(5_000)
    assert granted() == [35_000]
    stream.consumed(1_000_000)
    assert stream.unconsumed == 0, "no more is given back than was there"
    assert granted() == []


def test_ST11_no_credit_after_the_peers_end() -> None:
    """Whoever has ended needs none."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    line.frames(opening(1), data(1, bytes(60_000)), end(1))
    line.session.mux.streams[1].consumed(60_000)
    assert Frame.CREDIT not in [kind for kind, _, _ in line.take_frames()]
    assert puppet.hub.budget.used == line.session.unacknowledged + len(line.session._send._kept)


def pour(pair: CorePair, total: int, wait: float) -> Stream:
    """A stream from A to B whose bytes are taken `wait` seconds after they came."""
    pair.b.autoconsume = False
    stream = pair.a.link.open_stream(None, pair.now)
    left = total
    while left or stream.queued:
        while left and stream.queued < c.STREAM_SEND_LOW:
            n = min(left, 100_000)
            stream.write(bytes(n))
            left -= n
        pair.flush(pair.a)
        pair.settle()
        pair.now += wait
        pair.b.link.handle_deadline(pair.now)
        theirs = pair.b.streams[stream.id]
        theirs.consumed(theirs.unconsumed)
        pair.flush(pair.b)
        pair.settle()
    return stream


def test_ST11_window_grows_while_the_connection_drains_fast() -> None:
    """A stream that is emptied within a round trip doubles its window up to 16 MiB, and no further."""
    pair, _ = connected(seed=40)
    stream = pour(pair, 60 * MIB, 0.0)
    assert pair.b.streams[stream.id]._window == c.CREDIT_MAX
    assert stream.send_credit <= c.CREDIT_MAX


def test_ST11_later_streams_begin_where_one_came_to() -> None:
    """The first letter's window doubled step by step; that of the next is there as soon as it is a letter, to 1 MiB."""
    pair, _ = connected(seed=43)
    first = pour(pair, 60 * MIB, 0.0)
    assert pair.b.streams[first.id]._window == c.CREDIT_MAX
    short = pour(pair, c.INITIAL_CREDIT // 2 - 1, 0.0)
    assert pair.b.streams[short.id]._window == c.INITIAL_CREDIT, "a short one is promised nothing"
    second = pour(pair, c.INITIAL_CREDIT // 2, 0.0)
    assert pair.b.streams[second.id]._window == GROW_AT_ONCE_MAX
    slow = pour(pair, MIB, 2.0)
    assert pair.b.streams[slow.id]._window == c.INITIAL_CREDIT, "nor is one whose connection is slow"


def test_ST11_where_memory_has_no_room_for_it_windows_double() -> None:
    """What is left of the promises is little: it is taken in small steps, not left unused."""
    pair, _ = connected(seed=44)
    pour(pair, 60 * MIB, 0.0)
    budget = pair.b.budget
    budget.promised = budget.limit // 2 - 2 * c.INITIAL_CREDIT
    second = pour(pair, c.INITIAL_CREDIT // 2, 0.0)
    assert pair.b.streams[second.id]._window == 2 * c.INITIAL_CREDIT


def test_ST11_window_stays_while_the_connection_is_slow() -> None:
    """A connection that takes its bytes slowly keeps the first window."""
    pair, _ = connected(seed=41)
    stream = pour(pair, MIB, 2.0)
    assert pair.b.streams[stream.id]._window == c.INITIAL_CREDIT


def test_ST11_window_stays_while_memory_is_short() -> None:
    """With half of the hub's memory used nothing grows."""
    pair, _ = connected(seed=42)
    pair.b.budget.take(pair.b.budget.limit // 2)
    stream = pour(pair, 4 * MIB, 0.0)
    assert pair.b.streams[stream.id]._window == c.INITIAL_CREDIT


def test_ST11_local_server_that_does_not_read() -> None:
    """However much the peer wants to send, what waits here is one window, and the sender's queue one high mark."""
    pair, _ = connected(seed=43)
    pair.b.autoconsume = False
    stream = pair.a.link.open_stream(None, pair.now)
    reading = True
    for _ in range(400):
        if reading:
            reading = stream.write(bytes(16_384))
        pair.flush(pair.a)
        pair.settle()
        pair.now += 0.01
    assert not reading
    assert len(pair.b.received[stream.id]) == c.INITIAL_CREDIT
    assert stream.queued <= c.STREAM_SEND_HIGH + 16_384
    assert pair.b.budget.peak <= c.INITIAL_CREDIT + 1000
    assert pair.a.budget.peak <= c.INITIAL_CREDIT + c.STREAM_SEND_HIGH + 20_000
    pair.b.streams[stream.id].consumed(c.INITIAL_CREDIT)
    pair.flush(pair.b)
    pair.settle()
    assert len(pair.b.received[stream.id]) > c.INITIAL_CREDIT, "control: it goes on when the server reads"


def test_stream_marks() -> None:
    """At 128 KiB the local socket is read no longer, at 32 KiB it is read again: one event."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    assert stream.write(bytes(c.STREAM_SEND_HIGH - 1))
    assert not stream.write(b"x")
    assert not stream.write(b"x")
    puppet.pump()
    assert puppet.seen(StreamWritable) == []
    line.frames(frames.encode_credit(stream.id, c.STREAM_SEND_HIGH - c.INITIAL_CREDIT - c.STREAM_SEND_LOW + 1))
    line.take()
    assert stream.queued == c.STREAM_SEND_LOW
    assert len(puppet.seen(StreamWritable)) == 1
    assert stream.write(b"x")


# --- turns --------------------------------------------------------------------------------------------------------


def test_ST8_large_letter_does_not_stand_before_a_reply() -> None:
    """25 MB wait on one stream with all the credit in the world; a reply on another leaves with the next record."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    link = puppet.hub.link
    letter, other = link.open_stream(None, puppet.now), link.open_stream(None, puppet.now)
    letter.send_credit = 1 << 30
    letter.write(bytes(25 * MIB))
    for n in range(20):
        line.reader.feed(bytes(link.data_to_send(line.carrier, puppet.now)))
        while line.reader.next() is not None:
            pass
        reply = b"250 2.0.0 Ok: queued as %d\r\n" % n
        other.write(reply)
        out = bytes(link.data_to_send(line.carrier, puppet.now))
        line.reader.feed(out)
        first = line.reader.next()
        assert first is not None
        assert reply in first[1], "in the first record of the next write"
        everything = line.session._send.end.to_bytes(8, "big")
        link.receive_data(line.carrier, line.sealed(Record.ACK, everything), puppet.now)
        while line.reader.next() is not None:
            pass


def test_ST8_streams_take_turns_of_a_quantum() -> None:
    """Ten streams that all have much to say each get as much as the others, a quantum at a time."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    streams = [puppet.hub.link.open_stream(None, puppet.now) for _ in range(10)]
    for stream in streams:
        stream.send_credit = 1 << 30
        stream.write(bytes(MIB))
    said = [(number, len(payload)) for kind, number, payload in line.take_frames() if kind == Frame.DATA]
    assert max(length for _, length in said) <= c.STREAM_QUANTUM
    sent: dict[int, int] = {}
    for number, length in said[:200]:
        sent[number] = sent.get(number, 0) + length
        if len(sent) == 10:
            assert max(sent.values()) - min(sent.values()) <= 2 * c.STREAM_QUANTUM


def letters(puppet: Puppet, line: Line, count: int) -> list[Stream]:
    """Streams that all have a MiB to say, and all the credit for it."""
    streams = [puppet.hub.link.open_stream(None, puppet.now) for _ in range(count)]
    puppet.pump()
    line.take()
    for stream in streams:
        stream.send_credit = 1 << 30
        stream.write(bytes(MIB))
    return streams


def test_ST8_reply_goes_before_letters_that_wait() -> None:
    """With fifty letters in the queue a reply is the first frame of the next record, not the fifty-first."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    link = puppet.hub.link
    other = link.open_stream(None, puppet.now)
    letters(puppet, line, 50)
    line.reader.feed(bytes(link.data_to_send(line.carrier, puppet.now)))
    while line.reader.next() is not None:
        pass
    other.write(b"250 2.1.0 Ok\r\n")
    record = line.session.mux.next_record(c.RECORD_DATA_MAX)
    assert record is not None
    assert record[1:].startswith(frames.encode(Frame.DATA, other.id, b"250 2.1.0 Ok\r\n"))


def test_ST8_letters_are_not_forgotten_over_replies() -> None:
    """Conversations that always have one more short word to say do not stop a letter: a quantum, then its turn."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    link = puppet.hub.link
    talkers = [link.open_stream(None, puppet.now) for _ in range(100)]
    puppet.pump()
    line.take()
    (letter,) = letters(puppet, line, 1)
    mux = line.session.mux
    for talker in talkers:
        talker.send_credit = 1 << 30
    everybody = 100 * (900 + c.FRAME_HEADER_LEN)
    for _ in range(20):
        queued, before = letter.queued, 0
        while letter.queued == queued:
            for talker in talkers:
                if not talker.queued:
                    talker.write(bytes(900))
            record = mux.next_record(8192)
            assert record is not None
            before += len(record)
        assert before <= everybody + c.STREAM_QUANTUM + 2 * 8192, "a round, those that went ahead, and its own record"


def test_ST1_streams_open_in_order_whatever_they_say() -> None:
    """OPEN of a stream that says much at once leaves before OPEN of a later one that says little."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    link = puppet.hub.link
    letters(puppet, line, 3)
    for n in range(20):
        stream = link.open_stream(None, puppet.now)
        stream.write(bytes(60_000) if n % 2 else b"EHLO a.example\r\n")
    opened = [number for kind, number, _ in line.take_frames() if kind == Frame.OPEN]
    assert opened == sorted(opened)
    assert len(opened) == 20


def test_RC7_records_of_a_slow_way_are_small() -> None:
    """The shell says how much of streams a record takes; a card's parts go whole all the same."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    link = puppet.hub.link
    letters(puppet, line, 3)
    line.carrier.record_room = 4096
    part = frames.encode(Frame.CARD_NAK, 0, bytes(30_000))
    line.session.mux.send_control(part)
    line.reader.feed(bytes(link.data_to_send(line.carrier, puppet.now)))
    sizes = []
    while (record := line.reader.next()) is not None:
        sizes.append(len(record[1]) - 1)
    line.reader.feed(bytes(link.data_to_send(line.carrier, puppet.now)))
    while (record := line.reader.next()) is not None:
        sizes.append(len(record[1]) - 1)
    assert sizes == [len(part), 4096]


def test_frames_of_one_turn_leave_in_one_record() -> None:
    """Fifty short replies of fifty streams that were written in one turn cost one record."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    streams = [puppet.hub.link.open_stream(None, puppet.now) for _ in range(50)]
    puppet.pump()
    line.take()
    for stream in streams:
        stream.write(b"250 2.1.0 Ok\r\n")
    assert len([1 for kind, _ in line.take() if kind is Record.DATA]) == 1


def test_frames_about_the_session_go_first() -> None:
    """GOAWAY and RESET do not wait behind a letter."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    letter, gone = puppet.hub.link.open_stream(None, puppet.now), puppet.hub.link.open_stream(None, puppet.now)
    puppet.pump()
    line.take()
    letter.write(bytes(60_000))
    gone.reset(Code.BROKEN)
    line.session.goaway(Code.DRAINED, puppet.now)
    assert [kind for kind, _, _ in line.take_frames()][:2] == [Frame.RESET, Frame.GOAWAY]


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending", ["drain", "close", "linger", "fault", "streams reset", "streams ended", "refused", "drop"]
)
def test_budget_returns_to_zero(ending: str) -> None:
    """Whatever way a session with full queues in both directions ends, nothing stays counted at either hub."""
    pair, wire = connected(Settings(version="test", linger=20.0), seed=50)
    pair.b.autoconsume = False
    streams = [pair.a.link.open_stream(None, pair.now) for _ in range(3)]
    for stream in streams:
        stream.write(bytes(200_000))
    pair.flush(pair.a)
    pair.settle()
    for stream in list(pair.b.streams.values()):
        stream.write(bytes(300_000))
    pair.flush(pair.b)
    pair.settle()
    assert pair.a.budget.used > 100_000
    assert pair.b.budget.used > 100_000
    if ending == "drain":
        pair.a.link.drain(Code.DRAINED, pair.now)
        for stream in [*streams, *pair.b.streams.values()]:
            stream.end()
    elif ending == "close":
        pair.b.link.close(Code.RESTART, pair.now)
    elif ending in ("linger", "refused"):
        pair.cut(wire)
        if ending == "refused":
            pair.b.link.sessions[0].end(Code.DONE, "forgotten", pair.now)
            pair.dial(pair.a)
    elif ending == "fault":
        pair.a.link.sessions[0].mux.send_control(b"\x7f" + bytes(6))
    elif ending == "drop":
        pair.deliver(wire, pair.a)
        wire.to["A"] += b"\xff" * 50
    else:
        for stream in streams:
            stream.reset() if ending == "streams reset" else stream.end()
    pair.b.autoconsume = True
    for stream in list(pair.b.streams.values()):
        stream.consumed(1 << 30)
        if ending in ("drain", "streams ended"):
            stream.end()
    pair.flush(pair.a)
    pair.flush(pair.b)
    pair.advance(60)
    assert (pair.a.budget.used, pair.a.budget.promised) == (0, 0)
    assert (pair.b.budget.used, pair.b.budget.promised) == (0, 0)
    assert pair.a.budget.peak > 0


def test_budget_of_links_is_shared() -> None:
    """Two links of one hub draw on one budget."""
    puppet = Puppet()
    other = Hub("C", 99, puppet.hub.settings)
    other.budget = puppet.hub.budget
    other.boot(puppet.me)
    assert other.link._env.budget is puppet.hub.link._env.budget


def test_budget_marks() -> None:
    """Tight from half of the limit on, full from the whole; the peak stays."""
    budget = Budget(100)
    budget.take(49)
    assert not budget.tight
    budget.take(1)
    assert budget.tight
    assert not budget.full
    budget.take(50)
    assert budget.full
    budget.give(100)
    assert (budget.used, budget.peak, budget.tight) == (0, 100, False)


def test_send_buffer_gives_back_what_is_acknowledged_in_parts() -> None:
    """A chunk is kept until its last byte is acknowledged, and what is sent again begins at the byte that is named."""
    budget = Budget(1000)
    buffer = SendBuffer(budget)
    for n in range(4):
        buffer.keep(b"\x01" + bytes((n,)) * 10)
    assert budget.used == 44
    buffer.acknowledge(15)
    assert (budget.used, buffer.base, buffer.end) == (33, 15, 40)
    buffer.rewind(17)
    chunks = []
    while (chunk := buffer.again()) is not None:
        chunks.append(chunk)
    assert b"".join(chunk[1:] for chunk in chunks) == b"\x01" * 3 + b"\x02" * 10 + b"\x03" * 10
    assert buffer.next == 40
    buffer.clear()
    assert budget.used == 0


# --- ST11 over a distance -------------------------------------------------------------------------------------------

ONE_WAY = 0.05


def test_ST11_windows_grow_on_a_way_that_became_longer() -> None:
    """The round trip was measured on a short way; under load nobody asks for signs of life, so it is measured anew."""
    pair, wire = connected()
    near, far = pair.a, pair.b
    stream = near.link.open_stream(None, pair.now)
    pair.flush(near)
    pair.settle()
    carriers = {"A": wire.ends["A"], "B": wire.ends["B"]}
    (sent_to,) = far.link.sessions[0].mux.streams.values()
    short = far.link.sessions[0].mux.rtt
    assert short < ONE_WAY / 2
    under_way: deque[tuple[float, str, bytes]] = deque()
    now, end = pair.now, pair.now + 8
    while now < end:
        while stream.write(bytes(65536)):
            pass
        for hub, own, other in ((near, "A", "B"), (far, "B", "A")):
            ahead = 0
            while ahead < c.SEAL_AHEAD and (data := hub.link.data_to_send(carriers[own], now)):
                under_way.append((now + ONE_WAY, other, bytes(data)))
                ahead += len(data)
        now = under_way[0][0] if under_way else now + 0.01
        for hub in (near, far):
            hub.link.handle_deadline(now)
        while under_way and under_way[0][0] <= now:
            _, to, data = under_way.popleft()
            (near if to == "A" else far).link.receive_data(carriers[to], data, now)
        while (happened := far.link.next_event()) is not None:
            if isinstance(happened, StreamData):
                happened.stream.consumed(len(happened.data))
        while near.link.next_event() is not None:
            pass
    assert far.link.sessions[0].mux.rtt > ONE_WAY
    assert sent_to._window >= MIB
