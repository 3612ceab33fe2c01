"""Ratchet steps inside a session: order, time, limits, what a lost carrier leaves (PROTOCOL.md 6)."""

from __future__ import annotations

import copy
import itertools

import pytest

from hubtunnel import crypto
from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Record
from hubtunnel.protocol.events import Job, Ratcheted
from hubtunnel.protocol.link import Settings
from hubtunnel.protocol.ratchet import INITIATOR, RESPONDER, Input, Ratchet, Step
from hubtunnel.protocol.records import TrafficKey
from hubtunnel.protocol.session import Phase
from hubtunnel.protocol.wire import RK1, RK2
from tests.protocol.puppet import Puppet
from tests.protocol.steps import INTERVAL, answered, idle_up, stepped
from tests.protocol.support import connected

# --- the step -----------------------------------------------------------------------------------------------------


def test_RT3_both_ends_turn_while_data_flows() -> None:
    """Bytes in both directions before, in and after a step: in order and once, with new roots at both ends."""
    pair, _ = connected()
    stream = pair.a.link.open_stream(None, pair.now)
    pair.settle()
    theirs = pair.b.streams[stream.id]
    sent = {"a": b"", "b": b""}
    for n in range(40):
        chunk = n.to_bytes(2, "big") * 500
        stream.write(chunk)
        theirs.write(chunk[::-1])
        sent["a"] += chunk
        sent["b"] += chunk[::-1]
        if n % 10 == 5:
            assert pair.a.link.rekey(pair.now)
        pair.advance(0.3)
    assert pair.b.received[stream.id] == sent["a"]
    assert pair.a.received[stream.id] == sent["b"]
    (ours,), (peers,) = pair.a.link.sessions, pair.b.link.sessions
    assert ours.index == peers.index >= 3
    assert ours.roots == peers.roots
    assert len(ours.roots) == 1
    assert [event.index for event in pair.a.seen(Ratcheted)] == list(range(1, ours.index + 1))


def test_RT4_only_the_initiator_starts() -> None:
    """A hub that was dialled never says RK1, not even when it is asked to."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=False)
    assert not puppet.hub.link.rekey(puppet.now)
    line.frames(b"")
    for _ in range(14):
        puppet.advance(14)
        line.send(Record.PAD)
        assert Record.RK1 not in line.kinds()


def test_RT4_timer_fires_by_itself_and_then_rests() -> None:
    """120 s after the first DATA one step, although nothing else happens; then no more until DATA comes."""
    pair, _ = connected(seed=3)
    assert pair.a.seen(Ratcheted) == []
    pair.advance(c.RATCHET_AFTER - 1)
    assert pair.a.seen(Ratcheted) == []
    pair.advance(2)
    assert len(pair.a.seen(Ratcheted)) == 1
    pair.advance(1000)
    assert len(pair.a.seen(Ratcheted)) == 1, "an epoch without DATA sets no timer"
    stream = pair.a.link.open_stream(None, pair.now)
    stream.write(b"x")
    pair.flush(pair.a)
    pair.advance(c.RATCHET_AFTER + 1)
    assert len(pair.a.seen(Ratcheted)) == 2
    pair.advance(1000)
    assert len(pair.a.seen(Ratcheted)) == 2


def test_RT4_data_of_the_other_direction_counts_as_well() -> None:
    """A burst that comes from the responder alone is closed by a step too."""
    pair, _ = connected(seed=4)
    pair.advance(200)
    stream = pair.b.link.open_stream(None, pair.now)
    stream.write(b"x")
    pair.flush(pair.b)
    before = len(pair.a.seen(Ratcheted))
    pair.advance(c.RATCHET_AFTER + 1)
    assert len(pair.a.seen(Ratcheted)) == before + 1


def test_RT4_data_sent_while_turning_belongs_to_the_new_epoch() -> None:
    """The last burst of a link may leave between RK3 and the answer to it: it is closed by one more step as well."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=True)
    roots = puppet.roots(line)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    assert puppet.hub.link.rekey(puppet.now)
    puppet.advance(0)
    answered(line, roots)
    stream.write(b"the last burst, in the new epoch")
    assert Record.DATA in line.kinds()
    line.send(Record.PAD)
    assert len(puppet.seen(Ratcheted)) == 1
    for _ in range(13):
        puppet.advance(10)
        line.send(Record.PAD)
    assert Record.RK1 in line.kinds()


def test_RT4_old_data_received_while_turning_is_no_data_of_the_new_epoch() -> None:
    """What the peer had still sealed in the old epoch was closed by this very step: no other one follows."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=True)
    roots = puppet.roots(line)
    assert puppet.hub.link.rekey(puppet.now)
    puppet.advance(0)
    old = line.key
    ((_, rk1),) = [said for said in line.take() if said[0] is Record.RK1]
    line.send(Record.RK2, puppet.answer(line, roots, rk1))
    line.raw(bytes(old.seal(bytes((Record.DATA,)))))
    record = line.reader.next()
    while record is not None and record[0] is not Record.RK3:
        record = line.reader.next()
    assert record is not None
    line.switch(roots.read_rk3(record[1][1:]))
    line.send(Record.PAD)
    for _ in range(20):
        puppet.advance(10)
        line.send(Record.PAD)
    assert Record.RK1 not in line.kinds()


@pytest.mark.parametrize("limit", ["ratchet_records", "ratchet_bytes"])
def test_RT4_records_and_bytes(limit: str) -> None:
    """So many records or bytes in one direction make a step due, in either direction."""
    settings = Settings(version="test", **{limit: 40 if limit == "ratchet_records" else 20_000})
    pair, _ = connected(settings, seed=5)
    pair.advance(INTERVAL + 1)
    for n, hub in enumerate((pair.a, pair.b)):
        stream = hub.link.open_stream(None, pair.now)
        for _ in range(50):
            stream.write(bytes(500))
            pair.flush(hub)
            pair.settle()
        pair.advance(INTERVAL + 1)
        assert len(pair.a.seen(Ratcheted)) == n + 1


def test_RT4_wish_for_a_step_is_not_put_off_by_data() -> None:
    """A step asked for inside the interval comes after it, also when the epoch's first DATA comes in between."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=True)
    roots = puppet.roots(line)
    assert puppet.hub.link.rekey(puppet.now)
    puppet.advance(0)
    answered(line, roots)
    line.send(Record.PAD)
    assert puppet.hub.link.rekey(puppet.now)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    stream.write(b"first DATA of the epoch")
    puppet.pump()
    puppet.advance(INTERVAL - 0.5)
    assert Record.RK1 not in line.kinds()
    puppet.advance(1)
    assert Record.RK1 in line.kinds()


def test_RT5_not_sooner_than_two_seconds() -> None:
    """However often a step is asked for, steps begin two seconds apart, and one at a time."""
    pair, _ = connected(seed=6)
    pair.advance(INTERVAL + 1)
    begun = pair.now
    times = []
    for _ in range(100):
        pair.a.link.rekey(pair.now)
        pair.advance(0.1)
        times += [pair.now] * (len(pair.a.seen(Ratcheted)) - len(times))
    assert len(times) == 6
    assert all(later - earlier > INTERVAL - 0.15 for earlier, later in itertools.pairwise(times))
    assert times[0] - begun < 0.15


def test_RT5_no_step_before_STARTED() -> None:
    """A wish for a step before the session is up changes nothing."""
    puppet = Puppet()
    line = puppet.line(hub_dials=True)
    assert not puppet.hub.link.rekey(puppet.now)
    puppet.advance(5)
    assert line.kinds() == [Record.START, Record.DATA]


def test_RT6_initiator_takes_the_old_epoch_until_the_first_record_of_the_new() -> None:
    """After RK3 records of the old epoch are still good; after the first new one they are not."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=True)
    roots = puppet.roots(line)
    puppet.hub.link.rekey(puppet.now)
    puppet.advance(0)
    old = line.key
    answered(line, roots)
    line.raw(bytes(old.seal(bytes((Record.PING,)) + b"old     ")))
    assert (Record.PONG, b"old     ") in line.take()
    line.send(Record.PING, b"new     ")
    assert (Record.PONG, b"new     ") in line.take()
    assert len(puppet.seen(Ratcheted)) == 1
    line.raw(bytes(old.seal(bytes((Record.PING,)) + b"too late")))
    assert line.dropped


def test_RT8_responder_takes_no_old_record_after_RK3() -> None:
    """RK3 is the last record of the old epoch in its direction."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=False)
    old = line.key
    stepped(line, puppet.roots(line))
    line.send(Record.PING, b"new     ")
    assert (Record.PONG, b"new     ") in line.take()
    line.raw(bytes(old.seal(bytes((Record.PAD,)))))
    assert line.dropped


def test_RT8_one_record_at_once() -> None:
    """The responder says something in the new epoch without being asked (`stepped` reads it)."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=False)
    stepped(line, puppet.roots(line))
    assert line.session.index == 1


def test_epoch_byte_goes_round() -> None:
    """More steps than the epoch byte has values: the carrier goes on."""
    settings = Settings(version="test", ratchet_interval_min=0.0, ratchet_interval_refused=0.0)
    pair, wire = connected(settings, seed=8)
    for _ in range(260):
        pair.a.link.rekey(pair.now)
        pair.advance(0.01)
    assert pair.a.link.sessions[0].index == pair.b.link.sessions[0].index == 260
    stream = pair.a.link.open_stream(None, pair.now)
    stream.write(b"hello")
    pair.flush(pair.a)
    pair.settle()
    assert pair.b.received[stream.id] == b"hello"
    assert not wire.cut


# --- what is refused ----------------------------------------------------------------------------------------------


def test_RT9_RK1_twice_while_in_work() -> None:
    """RK1 while the work on the first is not done: drop."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=False)
    puppet.hold_jobs = True
    rk1 = puppet.offer(line, puppet.roots(line))
    line.send(Record.RK1, rk1)
    assert line.closed is None
    line.send(Record.RK1, rk1)
    assert line.dropped
    puppet.run_jobs()
    assert list(line.session.roots) == [0], "the result of the work is thrown away with the carrier"


def test_RT9_RK1_twice_while_pending() -> None:
    """RK1 while RK3 is awaited: drop; the pending root stays."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=False)
    rk1 = puppet.offer(line, puppet.roots(line))
    line.send(Record.RK1, rk1)
    assert Record.RK2 in line.kinds()
    line.send(Record.RK1, rk1)
    assert line.dropped
    assert sorted(line.session.roots) == [0, 1]


def test_RT9_too_soon() -> None:
    """RK1 less than half a second after the last RK3: drop; after that time it is taken."""
    for wait, taken in ((0.4, False), (0.6, True)):
        puppet = Puppet()
        line = idle_up(puppet, hub_dials=False)
        roots = puppet.roots(line)
        stepped(line, roots)
        puppet.advance(wait)
        line.send(Record.RK1, puppet.offer(line, roots))
        assert line.dropped is not taken
        assert (Record.RK2 in line.kinds()) is taken


@pytest.mark.parametrize("state", ["REST", "WORKING"])
def test_RK3_before_RK2(state: str) -> None:
    """RK3 that nothing has asked for: drop."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=False)
    if state == "WORKING":
        puppet.hold_jobs = True
        line.send(Record.RK1, puppet.offer(line, puppet.roots(line)))
    line.send(Record.RK3, bytes(32))
    assert line.dropped
    assert list(line.session.roots) == [0]


@pytest.mark.parametrize("kind", [Record.RK1, Record.RK2, Record.RK3])
@pytest.mark.parametrize("state", ["REST", "OFFERING", "OFFERED", "VERIFYING", "TURNING"])
def test_each_ratchet_record_at_the_initiator(state: str, kind: Record) -> None:
    """At I only RK2 while OFFERED is taken; every other pair drops the carrier and leaves the root."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=True)
    roots = puppet.roots(line)
    if state != "REST":
        puppet.hold_jobs = state == "OFFERING"
        puppet.hub.link.rekey(puppet.now)
        puppet.advance(0)
    if state in ("VERIFYING", "TURNING"):
        puppet.hold_jobs = state == "VERIFYING"
        ((_, rk1),) = [said for said in line.take() if said[0] is Record.RK1]
        line.send(Record.RK2, puppet.answer(line, roots, rk1))
    if state == "OFFERED" and kind is Record.RK2:
        answered(line, roots)
        assert line.closed is None
        return
    before = dict(line.session.roots)
    line.send(kind, bytes(c.RECORD_DATA_LEN[kind] or 0))
    assert line.dropped
    assert line.session.roots == before
    assert line.session.phase is Phase.LOST
    puppet.run_jobs()
    assert line.session.roots == before, "late results change nothing"


@pytest.mark.parametrize("field", RK2.offsets)
def test_RT6_RK2_that_does_not_verify(field: str) -> None:
    """A flip in any field of RK2: drop, the root stays, and RK3 is never said."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=True)
    roots = puppet.roots(line)
    puppet.hub.link.rekey(puppet.now)
    puppet.advance(0)
    ((_, rk1),) = [said for said in line.take() if said[0] is Record.RK1]
    rk2 = bytearray(puppet.answer(line, roots, rk1))
    rk2[RK2.offsets[field][0] + 3] ^= 1
    line.send(Record.RK2, bytes(rk2))
    assert line.dropped
    assert line.kinds() == []
    assert list(line.session.roots) == [0]


@pytest.mark.parametrize("field", RK1.offsets)
def test_RT8_flip_in_RK1_ends_at_the_initiators_check(field: str) -> None:
    """R cannot tell, unless the key is refused; auth_R then does not verify at I, so nobody turns."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=False)
    roots = puppet.roots(line)
    rk1 = bytearray(puppet.offer(line, roots))
    rk1[RK1.offsets[field][0] + 3] ^= 1
    line.send(Record.RK1, bytes(rk1))
    if line.dropped:
        assert field == "eM_I"
        return
    (rk2,) = [data for kind, data in line.take() if kind is Record.RK2]
    fresh = line.established
    assert roots.read_rk2(rk2, fresh.own, fresh.theirs).run() is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("eX_I", bytes(32)), ("eM_I", b"\xff" * crypto.MLKEM_PUBLIC_LEN)],
    ids=["low order", "modulus"],
)
def test_RT8_refused_key_in_RK1(field: str, value: bytes) -> None:
    """A key that the primitives refuse: drop."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=False)
    rk1 = bytearray(puppet.offer(line, puppet.roots(line)))
    start, end = RK1.offsets[field]
    rk1[start:end] = value
    line.send(Record.RK1, bytes(rk1))
    assert line.dropped
    assert list(line.session.roots) == [0]


@pytest.mark.interpreted
def test_RT8_every_bit_of_RK3() -> None:
    """Any flip in RK3: drop; R stays with both roots, in the old epoch."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    roots = puppet.roots(line)
    line.send(Record.RK1, puppet.offer(line, roots))
    (rk2,) = [data for kind, data in line.take() if kind is Record.RK2]
    rk3, _ = puppet.confirm(line, roots, rk2)
    theirs = line.session._stepper.ratchet
    for bit in range(256):
        bad = bytearray(rk3)
        bad[bit // 8] ^= 1 << bit % 8
        other = copy.copy(theirs)
        with pytest.raises(ProtocolError):
            other.read_rk3(bytes(bad))
        assert sorted(other.roots) == [0, 1]
    assert copy.copy(theirs).read_rk3(rk3), "control"
    line.send(Record.RK3, bytes(bad))
    assert line.dropped
    assert sorted(line.session.roots) == [0, 1]


# --- the tables, every pair ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [INITIATOR, RESPONDER], ids=["I", "R"])
def test_every_pair_of_the_ratchet_tables(table: dict[tuple[Step, Input], Step]) -> None:
    """A pair of the table leads on; every other one raises `ProtocolError` and leaves the step where it was."""
    for step, event in itertools.product(Step, Input):
        ratchet = Ratchet(initiator=table is INITIATOR, root=bytes(32), th=bytes(32), d=bytes(64))
        ratchet.step = step
        if (step, event) in table:
            ratchet._move(event)
            assert ratchet.step is table[step, event]
        else:
            with pytest.raises(ProtocolError):
                ratchet._move(event)
            assert ratchet.step is step


def test_stale_job_of_another_owner_is_ignored() -> None:
    """The link takes a job's result only for a session of its own; anything else is dropped without an error."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    for owner in (None, object(), line.session):
        puppet.hub.link.job_done(Job(owner, lambda: None), None, puppet.now)
    assert line.closed is None


@pytest.mark.interpreted
def test_no_key_and_nonce_twice_over_steps() -> None:
    """Keys of all epochs and directions of a session with many steps differ."""
    seen: set[bytes] = set()
    original = TrafficKey._rekey

    def watched(self: TrafficKey, t: bytes) -> None:
        original(self, t)
        keys.append((t, self))

    keys: list[tuple[bytes, TrafficKey]] = []
    TrafficKey._rekey = watched  # type: ignore[method-assign]
    try:
        pair, _ = connected(Settings(version="test", ratchet_interval_min=0.0, ratchet_interval_refused=0.0), seed=10)
        for _ in range(20):
            pair.a.link.rekey(pair.now)
            pair.advance(0.01)
    finally:
        TrafficKey._rekey = original  # type: ignore[method-assign]
    assert pair.a.link.sessions[0].index == 20
    for t, _ in keys:
        seen.add(t)
    assert len(seen) == 2 * 21, "two directions, 21 epochs; each T is made at both ends"
    assert len(keys) == 2 * len(seen)
