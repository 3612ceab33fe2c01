"""Records: framing, key steps, what ends a carrier (PROTOCOL.md 5), and which record a state takes (7.2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hubtunnel.errors import CryptoError, ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Code, Record
from hubtunnel.protocol.events import SessionEnded
from hubtunnel.protocol.records import Reader, TrafficKey, check_record
from hubtunnel.protocol.session import SEAL_PIECE, Phase
from tests.protocol.puppet import HELLO, Line, Puppet

T = bytes(range(32))
U64 = (0).to_bytes(8, "big")


def sealed(kind: int, data: bytes = b"", *, epoch: int = 0, skip: int = 0) -> bytes:
    """A record under T, the one after `skip` others."""
    key = TrafficKey(T, epoch)
    for _ in range(skip):
        key.seal(b"\0")
    return bytes(key.seal(bytes((kind,)) + data))


def reader(epoch: int = 0) -> Reader:
    """The receiving end for them."""
    return Reader(TrafficKey(T, epoch))


def read(data: bytes, epoch: int = 0) -> list[tuple[Record, bytes]]:
    """All records of some bytes."""
    end = reader(epoch)
    end.feed(data)
    found = []
    while (record := end.next()) is not None:
        found.append(record)
    return found


def example(kind: Record) -> bytes:
    """Data of a length that this type may have."""
    length = c.RECORD_DATA_LEN[kind]
    return bytes(5 if length is None else length)


# --- framing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Record)
def test_RC4_each_type_whole_bytewise_and_with_trailing_bytes(kind: Record) -> None:
    """Each type is read the same whole, byte by byte (nothing before the last byte), and with more behind it."""
    data = example(kind)
    record = sealed(kind, data)
    expected = [(kind, bytes((kind,)) + data)]
    assert read(record) == expected
    slow = reader()
    for at in range(len(record) - 1):
        slow.feed(record[at : at + 1])
        assert slow.next() is None
    slow.feed(record[-1:])
    assert [slow.next()] == expected
    key = TrafficKey(T, 0)
    two = bytes(key.seal(bytes((kind,)) + data) + key.seal(bytes((kind,)) + data))
    assert read(two) == expected * 2
    assert read(two[:-1]) == expected


def test_RC4_length_and_epoch_are_checked_before_the_body_comes() -> None:
    """Three bytes are enough to refuse a record that cannot be."""
    for header in (b"\0\0\x10", b"\0\0\0", b"\x01\0\x11", b"\xff\xff\xff"):
        end = reader()
        end.feed(header)
        with pytest.raises(ProtocolError):
            end.next()
    end = reader()
    end.feed(b"\0\0\x11")
    assert end.next() is None, "control: a length of 17 is awaited"


def test_RC4_longest_and_shortest_record() -> None:
    """0 to 65518 bytes of data fit; the header cannot say more."""
    assert read(sealed(Record.DATA, bytes(c.RECORD_DATA_MAX))) == [
        (Record.DATA, bytes((1,)) + bytes(c.RECORD_DATA_MAX))
    ]
    assert len(sealed(Record.PAD)) == c.RECORD_HEADER_LEN + c.RECORD_BODY_MIN
    assert read(sealed(Record.PAD)) == [(Record.PAD, b"\0")]


@pytest.mark.parametrize("number", sorted(set(range(256)) - set(Record)))
def test_RC4_unknown_type(number: int) -> None:
    """A type that the table lacks ends the carrier, although its tag is good."""
    with pytest.raises(ProtocolError):
        read(sealed(number, b"data"))


@pytest.mark.parametrize("kind", [kind for kind in Record if c.RECORD_DATA_LEN[kind] is not None])
@pytest.mark.parametrize("off", [-1, 1])
def test_RC4_data_of_another_length(kind: Record, off: int) -> None:
    """One byte more or less than the table's length ends the carrier."""
    with pytest.raises(ProtocolError):
        read(sealed(kind, bytes(len(example(kind)) + off)))
    assert check_record(bytes((kind,)) + example(kind))[0] is kind


@pytest.mark.parametrize("kind", Record)
def test_RC4_every_flip_in_a_record_of_each_type(kind: Record) -> None:
    """Each bit of header, type and tag, and a bit of each byte of the data: never a record, always an error.

    A flip that makes the length greater makes the reader wait; with the bytes that it then gets it ends in the error.
    """
    record = sealed(kind, example(kind))
    for at in range(len(record)):
        for bit in range(8) if at < 8 or at >= len(record) - 16 or len(record) < 150 else [at % 8]:
            bad = bytearray(record)
            bad[at] ^= 1 << bit
            end = reader()
            end.feed(bytes(bad) + bytes(c.RECORD_BODY_MAX))
            with pytest.raises(ProtocolError):
                end.next()


def test_RC1_reordered_doubled_and_left_out_records() -> None:
    """The counter is not sent, so a record in another place does not authenticate."""
    first, second = sealed(Record.PAD, b"1"), sealed(Record.PAD, b"2", skip=1)
    assert [data for _, data in read(first + second)] == [b"\x001", b"\x002"]
    for wrong in (second, second + first, first + first):
        with pytest.raises(ProtocolError):
            read(wrong)


def test_RC2_header_is_authenticated() -> None:
    """A record whose header says another epoch, which the reader happens to be in, is refused."""
    record = bytearray(sealed(Record.PAD, b"x", epoch=0))
    record[0] = 1
    with pytest.raises(ProtocolError):
        read(bytes(record), epoch=1)


def test_RC4_reader_is_bounded_by_one_record() -> None:
    """However much is fed, what stays after all records are taken is less than one record."""
    key, end = TrafficKey(T, 0), reader()
    stream = b"".join(bytes(key.seal(b"\x01" + bytes(60000))) for _ in range(20))
    for at in range(0, len(stream), 70001):
        end.feed(stream[at : at + 70001])
        while end.next() is not None:
            pass
        assert end.held < c.RECORD_HEADER_LEN + c.RECORD_BODY_MAX


# --- key steps and epochs -----------------------------------------------------------------------------------------


def test_RC3_old_key_is_gone_after_a_step() -> None:
    """From record 1024 on nothing of before is held: what it sealed cannot be opened with what is."""
    key = TrafficKey(T, 0)
    early = [bytes(key.seal(b"\0")) for _ in range(c.KEY_STEP_RECORDS)]
    assert key._t == T, "the step falls before record 1024, not after record 1023"
    key.seal(b"\0")
    assert key._t != T
    held = TrafficKey(key._t, 0)
    for record in (early[0], early[-1]):
        held.counter = 0 if record is early[0] else c.KEY_STEP_RECORDS - 1
        with pytest.raises(CryptoError):
            held.open(record[:3], memoryview(record)[3:])


def test_RC3_steps_are_silent_and_both_ends_make_them() -> None:
    """3000 records go through three keys without anything on the wire to announce it."""
    key, end = TrafficKey(T, 0), reader()
    for n in range(3 * c.KEY_STEP_RECORDS + 5):
        record = key.seal(b"\0" + n.to_bytes(4, "big"))
        assert len(record) == 3 + 1 + 4 + 16
        end.feed(bytes(record))
        assert end.next() == (Record.PAD, b"\0" + n.to_bytes(4, "big"))


def test_RT6_next_epoch_is_taken_only_when_it_authenticates() -> None:
    """The old epoch goes on until a record that names the new one *and* verifies; then it is over."""
    old, new = TrafficKey(T, 0), TrafficKey(bytes(32), 1)
    end = reader()
    end.expect_epoch(TrafficKey(bytes(32), 1))
    end.feed(bytes(old.seal(b"\0old")))
    assert end.next() == (Record.PAD, b"\0old")
    assert not end.switched
    end.feed(bytes(new.seal(b"\0new")))
    assert end.next() == (Record.PAD, b"\0new")
    assert end.switched
    end.feed(bytes(old.seal(b"\0late")))
    with pytest.raises(ProtocolError):
        end.next()


def test_RT6_forged_new_epoch_does_not_end_the_old_one_unnoticed() -> None:
    """A record that names the next epoch and does not verify ends the carrier, with the reader still in the old one."""
    end = reader()
    end.expect_epoch(TrafficKey(bytes(32), 1))
    end.feed(b"\x01\x00\x11" + bytes(17))
    with pytest.raises(ProtocolError):
        end.next()
    assert end.key.epoch == 0


def test_epoch_byte_wraps() -> None:
    """After 256 steps the byte begins anew; only the current epoch and the next one exist, so nothing is confused."""
    assert read(sealed(Record.PAD, epoch=256), epoch=256) == read(sealed(Record.PAD, epoch=0), epoch=0)
    with pytest.raises(ProtocolError):
        read(sealed(Record.PAD, epoch=255), epoch=256)


# --- 7.2: which record when ---------------------------------------------------------------------------------------


def first(puppet: Puppet) -> Line:
    """R that waits for the first record."""
    return puppet.line(hub_dials=False)


def starting(puppet: Puppet) -> Line:
    """I that has sent START."""
    return puppet.line(hub_dials=True)


def resuming(puppet: Puppet) -> Line:
    """I that has sent RESUME."""
    puppet.cut(puppet.up(hub_dials=True))
    return puppet.line(hub_dials=True)


def up_i(puppet: Puppet) -> Line:
    """I with a session that runs."""
    return puppet.up(hub_dials=True)


def up_r(puppet: Puppet) -> Line:
    """R with a session that runs."""
    return puppet.up(hub_dials=False)


def closing_i(puppet: Puppet) -> Line:
    """I that has sent CLOSE."""
    return closed(puppet, up_i(puppet))


def closing_r(puppet: Puppet) -> Line:
    """R that has sent CLOSE."""
    return closed(puppet, up_r(puppet))


def closing_unanswered(puppet: Puppet) -> Line:
    """I that has sent CLOSE before STARTED came."""
    return closed(puppet, starting(puppet))


def closed(puppet: Puppet, line: Line) -> Line:
    """The hub ends the session; the CLOSE has been read, nothing else follows."""
    puppet.hub.link.close(Code.DRAINED, puppet.now)
    puppet.pump()
    assert line.take()[-1][0] is Record.CLOSE
    assert line.session.phase is Phase.CLOSING
    return line


DROP, IGNORE, TAKEN, ENDS = "drop", "ignore", "taken", "ends"
STATES: dict[str, tuple[Callable[[Puppet], Line], dict[Record, str]]] = {
    "FIRST": (first, {Record.START: TAKEN, Record.RESUME: TAKEN}),
    "STARTING": (starting, {Record.STARTED: TAKEN}),
    "RESUMING": (resuming, {Record.RESUMED: TAKEN}),
    "UP at I": (
        up_i,
        {
            Record.PAD: IGNORE,
            Record.DATA: TAKEN,
            Record.ACK: TAKEN,
            Record.PING: TAKEN,
            Record.PONG: TAKEN,
            Record.CLOSE: ENDS,
        },
    ),
    "UP at R": (
        up_r,
        {
            Record.PAD: IGNORE,
            Record.DATA: TAKEN,
            Record.ACK: TAKEN,
            Record.PING: TAKEN,
            Record.PONG: TAKEN,
            Record.CLOSE: ENDS,
            Record.RK1: TAKEN,
        },
    ),
    "CLOSING at I": (
        closing_i,
        {
            Record.PAD: IGNORE,
            Record.DATA: IGNORE,
            Record.ACK: IGNORE,
            Record.PING: IGNORE,
            Record.PONG: IGNORE,
            Record.CLOSE: ENDS,
        },
    ),
    "CLOSING at R": (
        closing_r,
        {
            Record.PAD: IGNORE,
            Record.DATA: IGNORE,
            Record.ACK: IGNORE,
            Record.PING: IGNORE,
            Record.PONG: IGNORE,
            Record.CLOSE: ENDS,
            Record.RK1: IGNORE,
        },
    ),
    "CLOSING at I, STARTED due": (closing_unanswered, {Record.STARTED: IGNORE}),
}
PAIRS = [(state, kind) for state in STATES for kind in Record]


def data_for(line: Line, kind: Record) -> bytes:
    """Data that is as good as can be for this type in this state."""
    puppet = line.puppet
    match kind:
        case Record.START:
            return puppet.start_record()
        case Record.STARTED:
            return puppet.started_record()
        case Record.RESUME:
            return puppet.resume_record(line, bytes(16), 0, bytes(32), 0, 0)
        case Record.RESUMED:
            return bytes((0,)) + puppet.boot + bytes(48)
        case Record.RK1 if line.established.initiator:
            return puppet.offer(line, puppet.roots(line))
        case Record.DATA:
            return HELLO[:3]
        case _:
            return example(kind)


@pytest.mark.parametrize(("state", "kind"), PAIRS, ids=[f"{kind.name} in {state}" for state, kind in PAIRS])
def test_7_2_each_record_in_each_state(state: str, kind: Record) -> None:
    """The table of 7.2, every pair: what is not in it drops the carrier, without a word."""
    make, takes = STATES[state]
    puppet = Puppet()
    line = make(puppet)
    line.take()
    session = line.carrier.session
    before = None if session is None else (session.phase, dict(session.roots))
    line.send(kind, b"" if kind is Record.DATA and state.startswith("UP") else data_for(line, kind))
    outcome = takes.get(kind, DROP)
    if outcome == DROP:
        assert line.dropped
        assert line.kinds() == [], "a drop is silent"
        if session is not None:
            assert session.carrier is None
            assert session.phase in (Phase.LOST, Phase.ENDED if "at I" in state else Phase.CLOSING, Phase.LOST)
    elif outcome == ENDS:
        assert line.closed is not None
        assert not line.closed.fault
        assert len(puppet.seen(SessionEnded)) == 1
    else:
        assert line.closed is None
        if outcome == IGNORE:
            assert line.take() == [], "nothing at all is said"
            assert session is not None
            assert (session.phase, dict(session.roots)) == before


def test_CL1_started_is_ignored_once() -> None:
    """STARTED that was still due when CLOSE was sent is ignored once; another one drops."""
    puppet = Puppet()
    line = closing_unanswered(puppet)
    line.send(Record.STARTED, puppet.started_record())
    assert line.closed is None
    line.send(Record.STARTED, puppet.started_record())
    assert line.dropped


@pytest.mark.parametrize("hub_dials", [True, False], ids=["I", "R"])
def test_RC4_flips_through_the_facade(hub_dials: bool) -> None:
    """Flips in records of a running session: the carrier is dropped, the session waits, nothing escapes."""
    for kind in (Record.PAD, Record.DATA, Record.ACK, Record.PING, Record.PONG, Record.CLOSE):
        for at in (0, 1, 2, 3, 10, -1):
            puppet = Puppet()
            line = puppet.up(hub_dials=hub_dials)
            record = bytearray(line.sealed(kind, example(kind)))
            record[at] ^= 0x04 if at == 2 else 0x80
            line.raw(bytes(record) + bytes(c.RECORD_BODY_MAX))
            assert line.dropped
            assert line.session.phase is Phase.LOST
            assert line.kinds() == []


def test_RC5_end_of_TCP_in_the_middle_of_a_record() -> None:
    """A carrier that ends anywhere in a record is a carrier lost: no stream ends, the session waits."""
    record_length = 3 + 1 + 4 + 16
    for length in range(record_length):
        puppet = Puppet()
        line = puppet.up(hub_dials=True)
        stream = puppet.hub.link.open_stream(None, puppet.now)
        line.raw(line.sealed(Record.DATA, b"data")[:length])
        puppet.cut(line)
        assert line.session.phase is Phase.LOST
        assert not stream.closed
        assert puppet.seen(SessionEnded) == []


def test_RC6_keys_of_a_lost_carrier_are_gone() -> None:
    """After a loss the carrier holds neither key, nor what waited under it."""
    for end in ("cut", "drop"):
        puppet = Puppet()
        line = puppet.up(hub_dials=True)
        line.session.ping(puppet.now)
        if end == "cut":
            puppet.hub.link.detach(line.carrier, "reset", puppet.now)
        else:
            puppet.hub.link.receive_data(line.carrier, bytes(100), puppet.now)
        assert (line.carrier._key, line.carrier._reader) == (None, None)
        assert puppet.hub.link.data_to_send(line.carrier, puppet.now) == b""
        assert not puppet.hub.link.has_output(line.carrier)


def test_RC8_data_without_bytes() -> None:
    """An empty DATA is a DATA record and nothing else; the hub sends none itself."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    line.send(Record.DATA, b"")
    assert line.closed is None
    assert line.session.unacknowledged == len(HELLO) - len("puppet") + len("test")
    puppet.advance(1.0)
    assert all(data for kind, data in line.take() if kind is Record.DATA)


def test_RC7_control_goes_before_waiting_data() -> None:
    """ACK, PING and PONG leave before DATA that waits; what is handed over at once is a piece of it."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    stream.send_credit = 1 << 30
    stream.write(bytes(1 << 20))
    out = puppet.hub.link.data_to_send(line.carrier, puppet.now)
    assert SEAL_PIECE <= len(out) <= SEAL_PIECE + c.RECORD_BODY_MAX + 3
    line.reader.feed(bytes(out))
    token = b"12345678"
    puppet.hub.link.receive_data(line.carrier, line.sealed(Record.PING, token), puppet.now)
    out = puppet.hub.link.data_to_send(line.carrier, puppet.now)
    line.reader.feed(bytes(out))
    said = []
    while (record := line.reader.next()) is not None:
        said.append(record)
    after = said[said.index((Record.PONG, bytes((Record.PONG,)) + token)) + 1 :]
    assert after
    assert {kind for kind, _ in after} == {Record.DATA}


def test_RC7_newer_ack_and_pong_replace_those_that_wait() -> None:
    """A peer that asks and does not read gets one PONG and one ACK at a time, the newest."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    link = puppet.hub.link
    for n in range(1000):
        link.receive_data(line.carrier, line.sealed(Record.PING, n.to_bytes(8, "big")), puppet.now)
    puppet.pump()
    assert [data for kind, data in line.take() if kind is Record.PONG] == [(999).to_bytes(8, "big")]
