"""START, RESUME, status 0: each rule of 7.1 (PROTOCOL.md)."""

from __future__ import annotations

import pytest

from hubtunnel import crypto
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Code, Record
from hubtunnel.protocol.events import Alarm, SessionEnded, SessionResumed, SessionUp, StreamReset
from hubtunnel.protocol.session import Phase, Session
from hubtunnel.protocol.wire import RESUME, RESUMED, START, STARTED
from tests.protocol.losses import ZEROS, hub_received, lost, refused
from tests.protocol.puppet import HELLO, Line, Puppet
from tests.protocol.support import connected

# --- RS1: dials ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Record.START, Record.RESUME])
@pytest.mark.parametrize("step", [-5, -1, 0, 1])
def test_RS1_dial_must_rise(kind: Record, step: int) -> None:
    """A first record of a dial that is not higher than the highest accepted is dropped; a higher one is taken."""
    puppet = Puppet()
    puppet.dials = 9
    first = puppet.up(hub_dials=False)
    line = puppet.line(hub_dials=False)
    dial = 10 + step
    if kind is Record.START:
        line.send(kind, START.pack(puppet.boot, dial))
    else:
        line.send(kind, puppet.resume_record(line, bytes(16), 0, bytes(32), 0, 0, dial=dial))
    assert line.dropped is (step <= 0)
    assert first.closed is None, "the session that runs is not touched"


def test_RS1_dial_that_passes_is_remembered_whatever_becomes_of_it() -> None:
    """A RESUME that is refused has used its dial up."""
    puppet = Puppet()
    line = puppet.line(hub_dials=False)
    line.send(Record.RESUME, puppet.resume_record(line, bytes(16), 0, bytes(32), 0, 0, dial=50))
    assert refused(line)
    late = puppet.line(hub_dials=False)
    late.send(Record.START, START.pack(puppet.boot, 49))
    assert late.dropped


def test_RS1_boots_have_their_own_dials() -> None:
    """Another process of the peer counts from the beginning; sixteen are remembered, the longest unused forgotten."""
    puppet = Puppet()
    boots = [bytes((n,)) * 16 for n in range(c.BOOTS_REMEMBERED + 1)]

    def dialled(boot: bytes, dial: int) -> bool:
        line = puppet.line(hub_dials=False)
        line.send(Record.START, START.pack(boot, dial))
        return not line.dropped

    assert all(dialled(boot, 5) for boot in boots[:-1])
    assert not any(dialled(boot, 5) for boot in boots[:-1])
    assert dialled(boots[0], 6)
    assert dialled(boots[-1], 1)
    assert dialled(boots[1], 5), "the longest unused was forgotten"
    assert not dialled(boots[0], 6)


def test_RS1_our_own_dials_rise() -> None:
    """START and RESUME of one process carry rising numbers and the same boot."""
    puppet = Puppet()
    seen = []
    line = puppet.up(hub_dials=True)
    for _ in range(3):
        puppet.cut(line)
        line = puppet.line(hub_dials=True)
        ((_, said),) = line.take()
        seen.append((RESUME.get(said, "boot_I"), RESUME.get_int(said, "dial")))
    assert len({boot for boot, _ in seen}) == 1
    assert [dial for _, dial in seen] == [2, 3, 4]


# --- RS2, RS3, RS4: a new session ----------------------------------------------------------------------------------


def test_RS2_first_flight_of_the_initiator() -> None:
    """START, and HELLO in the same flight; nothing that needs an answer first."""
    puppet = Puppet()
    line = puppet.line(hub_dials=True)
    said = line.take()
    assert [kind for kind, _ in said] == [Record.START, Record.DATA]
    assert START.get(said[0][1], "boot_I") == puppet.hub.link._env.boot
    assert line.session.sid == line.established.sid
    assert line.session.roots == {0: line.established.root}


def test_RS4_responder_answers_start() -> None:
    """STARTED first, then HELLO."""
    puppet = Puppet()
    line = puppet.line(hub_dials=False)
    assert line.take() == [], "R sends no record before the first of I"
    line.send(Record.START, puppet.start_record())
    said = line.take()
    assert [kind for kind, _ in said if kind is not Record.PING] == [Record.STARTED, Record.DATA]
    assert STARTED.get(said[0][1], "boot_R") == puppet.hub.link._env.boot
    assert line.session.peer_boot == puppet.boot


def test_RS3_first_record_comes_in_time() -> None:
    """R waits 10 s for the first record, I as long for the answer; then the carrier is dropped."""
    puppet = Puppet()
    waiting = puppet.line(hub_dials=False)
    puppet.advance(c.FIRST_RECORD_TIMEOUT - 0.1)
    assert waiting.closed is None
    puppet.advance(0.2)
    assert waiting.dropped
    asking = puppet.line(hub_dials=True)
    puppet.advance(c.FIRST_RECORD_TIMEOUT - 0.1)
    assert asking.closed is None
    puppet.advance(0.2)
    assert asking.dropped
    assert asking.session.phase is Phase.LOST, "START may have arrived: the session is resumed"
    resuming = puppet.line(hub_dials=True)
    assert resuming.session is asking.session
    puppet.advance(c.FIRST_RECORD_TIMEOUT + 0.1)
    assert resuming.dropped


def test_RS3_carriers_that_wait_are_bounded() -> None:
    """A peer may hold eight carriers that have not said what they are; one more is dropped at once."""
    puppet = Puppet()
    lines = [puppet.line(hub_dials=False) for _ in range(c.CARRIERS_PENDING_PER_LINK + 1)]
    assert [line.dropped for line in lines] == [False] * c.CARRIERS_PENDING_PER_LINK + [True]
    lines[0].send(Record.START, puppet.start_record())
    assert not puppet.line(hub_dials=False).dropped


# --- RS5, RS8: the initiator ---------------------------------------------------------------------------------------


def test_RS5_RS7_RS8_resume_by_the_hub() -> None:
    """RESUME with a good proof; silence until RESUMED; then RK1 first, then what was not received, then new bytes."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    session, roots = line.session, puppet.roots(line)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    stream.write(b"before the cut")
    sent = sum(len(data) for kind, data in line.take() if kind is Record.DATA)
    hello_length = session.unacknowledged - sent
    puppet.cut(line)
    stream.write(b"while cut")

    new = puppet.line(hub_dials=True)
    ((kind, said),) = new.take()
    assert kind is Record.RESUME
    assert (RESUME.get(said, "sid"), RESUME.get_int(said, "m")) == (session.sid, 0)
    assert RESUME.get_int(said, "received_offset") == len(HELLO)
    assert RESUME.get_int(said, "send_base") == 0
    th = new.established.th
    assert RESUME.get(said, "proof_I") == crypto.expand(roots.roots[0], "resume I", th + said[:64])
    puppet.advance(5)
    assert new.take() == [], "nothing at all between RESUME and RESUMED"

    puppet.hold_jobs = True
    received = hello_length + 5
    new.send(Record.RESUMED, puppet.resumed_record(new, said, roots.roots[0], received, 0))
    assert new.take() == [], "RK1 comes first, and its work is not done yet"
    roots.resume(0, new.established.root, th, new.established.d)
    roots.confirmed()
    assert session.roots == roots.roots
    assert session.index == 1
    puppet.hold_jobs = False
    after = new.take()
    assert after[0][0] is Record.RK1
    resent = b"".join(data for kind, data in after if kind is Record.DATA)
    assert b"re the cut" in resent
    assert b"while cut" in resent
    assert b"test" not in resent, "HELLO is not repeated"
    assert puppet.seen(SessionResumed)
    assert len(puppet.seen(SessionUp)) == 1
    rk2 = puppet.answer(new, roots, after[0][1])
    new.send(Record.RK2, rk2)
    assert session.index == 2


def test_RS5_make_before_break() -> None:
    """Dialled while the old carrier works: it is closed before RESUME is said, with all that came over it counted."""
    pair, old = connected()
    stream = pair.b.link.open_stream(None, pair.now)
    stream.write(b"x" * 50_000)
    pair.flush(pair.b)
    pair.deliver(old, pair.a, 20_000)
    pair.dial(pair.a)
    assert "A" not in old.ends, "closed at once"
    pair.settle()
    assert len(pair.a.link.sessions) == len(pair.b.link.sessions) == 1
    assert pair.a.link.sessions[0].resumed == pair.b.link.sessions[0].resumed == 1
    assert pair.a.received[stream.id] == b"x" * 50_000
    assert pair.a.link.sessions[0].roots == pair.b.link.sessions[0].roots


def resuming(puppet: Puppet) -> tuple[Line, Session, bytes, bytes]:
    """A line on which the hub has said RESUME: the line, the session, its root, what was said."""
    _, session, root = lost(puppet, hub_dials=True)
    line = puppet.line(hub_dials=True)
    ((_, said),) = line.take()
    return line, session, root, said


@pytest.mark.parametrize("fault", ["root", "transcript", "boot", "status", "flip", "other RESUME"])
def test_RS8_answer_that_proves_nothing(fault: str) -> None:
    """Drop, the session as before (its root too); whoever fails to prove the root raises an alarm."""
    puppet = Puppet()
    line, session, root, said = resuming(puppet)
    before = dict(session.roots)
    base = session._send.base
    if fault == "root":
        answer = puppet.resumed_record(line, said, bytes(32), base, 0)
    elif fault == "transcript":
        answer = puppet.resumed_record(puppet.lines[0], said, root, base, 0)
    elif fault == "boot":
        answer = puppet.resumed_record(line, said, root, base, 0, boot=b"another process!")
    elif fault == "status":
        answer = b"\2" + puppet.resumed_record(line, said, root, base, 0)[1:]
    elif fault == "flip":
        good = puppet.resumed_record(line, said, root, base, 0)
        answer = good[:-1] + bytes((good[-1] ^ 1,))
    else:
        answer = puppet.resumed_record(line, said[:-1] + bytes((said[-1] ^ 1,)), root, base, 0)
    line.send(Record.RESUMED, answer)
    assert line.dropped
    assert session.phase is Phase.LOST
    assert session.roots == before
    assert bool(puppet.seen(Alarm)) is (fault != "status")
    again = puppet.line(hub_dials=True)
    ((_, said),) = again.take()
    again.send(Record.RESUMED, puppet.resumed_record(again, said, root, base, 0))
    assert session.phase is Phase.UP, "control: the right answer is taken"


def test_RS8_every_bit_of_RESUMED() -> None:
    """Any flip in RESUMED: drop, or, where it makes status 0 of 1, a new session; never a resumed one."""
    puppet = Puppet()
    line, session, root, said = resuming(puppet)
    for bit in range(65 * 8):
        good = bytearray(puppet.resumed_record(line, said, root, session._send.base, 0))
        good[bit // 8] ^= 1 << bit % 8
        line.send(Record.RESUMED, bytes(good))
        if bit == 0:
            assert session.ended
            assert line.session is not session
            puppet = Puppet()
            line, session, root, said = resuming(puppet)
            continue
        assert line.dropped
        assert (session.phase, session.index) == (Phase.LOST, 0)
        line = puppet.line(hub_dials=True)
        ((_, said),) = line.take()


@pytest.mark.parametrize(
    ("received", "base"), [(-1, 0), (1, 0), (0, 1)], ids=["below base", "above sent", "base above"]
)
def test_RS8_offsets_that_cannot_be(received: int, base: int) -> None:
    """A proven RESUMED with impossible offsets: CLOSE(protocol)."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    session = line.session
    line.send(Record.ACK, (10).to_bytes(8, "big"))
    puppet.cut(line)
    root = session.roots[0]
    line = puppet.line(hub_dials=True)
    ((_, said),) = line.take()
    if received < 0:
        received = 9
    elif received:
        received = session._send.end + 1
    else:
        received = session._send.end
    line.send(Record.RESUMED, puppet.resumed_record(line, said, root, received, len(HELLO) + 1 if base else 0))
    assert [(kind, data[0]) for kind, data in line.take()] == [(Record.CLOSE, Code.PROTOCOL)]
    assert session.phase is Phase.CLOSING


def test_RS8_offsets_at_their_bounds_are_fine() -> None:
    """Everything received, or nothing since the last ACK."""
    for offset in (0, 10, None):
        puppet = Puppet()
        line = puppet.up(hub_dials=True)
        session = line.session
        if offset:
            line.send(Record.ACK, offset.to_bytes(8, "big"))
        puppet.cut(line)
        root = session.roots[0]
        line = puppet.line(hub_dials=True)
        ((_, said),) = line.take()
        received = session._send.end if offset is None else offset
        line.send(Record.RESUMED, puppet.resumed_record(line, said, root, received, len(HELLO)))
        assert session.phase is Phase.UP
        assert session._send.base == received


def test_RS8_early_data_behind_resumed() -> None:
    """R may send DATA at once behind RESUMED, before RK1 is even made."""
    puppet = Puppet()
    line, session, root, said = resuming(puppet)
    puppet.hold_jobs = True
    line.send(Record.RESUMED, puppet.resumed_record(line, said, root, session._send.base, 0))
    line.send(Record.DATA, b"")
    line.send(Record.PING, bytes(8))
    assert line.closed is None
    assert line.take() == []


def test_CL1_close_between_resumed_and_RK1() -> None:
    """A session that is closed while RK1 is still being made tells the peer, with CLOSE and nothing else."""
    puppet = Puppet()
    line, session, root, said = resuming(puppet)
    puppet.hold_jobs = True
    line.send(Record.RESUMED, puppet.resumed_record(line, said, root, session._send.base, 0))
    puppet.hub.link.close(Code.DRAINED, puppet.now)
    assert line.kinds() == [Record.CLOSE]
    puppet.run_jobs()
    assert line.take() == []


# --- RS6: the responder --------------------------------------------------------------------------------------------


def test_RS6_RS7_RS9_resume_by_the_puppet() -> None:
    """RESUMED with a good proof, the new root, two roots held until the next record, then one."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    session, roots = line.session, puppet.roots(line)
    puppet.cut(line)
    new = puppet.line(hub_dials=False)
    said = puppet.resume_record(new, session.sid, 0, roots.roots[0], 0, len(HELLO))
    new.send(Record.RESUME, said)
    first = new.take()
    assert first[0][0] is Record.RESUMED
    answer = first[0][1]
    assert RESUMED.get_int(answer, "status") == 1
    assert RESUMED.get_int(answer, "received_offset") == hub_received(session) == len(HELLO)
    th = new.established.th
    context = th + RESUME.get(said, "proof_I") + answer[:33]
    assert RESUMED.get(answer, "proof_R") == crypto.expand(roots.roots[0], "resume R", context)
    assert b"test" in b"".join(data for kind, data in first if kind is Record.DATA), "from the offset that I named"
    old = roots.roots[0]
    roots.resume(0, new.established.root, th, new.established.d)
    assert session.roots == {0: old, **roots.roots}
    new.send(Record.RK1, puppet.offer(new, roots))
    assert 0 not in session.roots
    assert sorted(session.roots) == [1, 2], "the root in force, and the pending one of the step"
    assert puppet.seen(SessionResumed)


def test_RS6_RESUMED_lost_and_said_again() -> None:
    """I resumes from the same root when RESUMED was lost, or from the next when it came; both work at R."""
    for came in (False, True):
        puppet = Puppet()
        _, session, root = lost(puppet, hub_dials=False)
        one = puppet.line(hub_dials=False)
        one.send(Record.RESUME, puppet.resume_record(one, session.sid, 0, root, 0, len(HELLO)))
        assert one.kinds()[0] is Record.RESUMED
        puppet.cut(one)
        m, held = (1, crypto.extract(root, one.established.root)) if came else (0, root)
        two = puppet.line(hub_dials=False)
        two.send(Record.RESUME, puppet.resume_record(two, session.sid, m, held, 0, len(HELLO)))
        assert two.take()[0][1][0] == 1
        assert session.index == m + 1
        assert session.roots[m + 1] == crypto.extract(held, two.established.root)
        assert sorted(session.roots) == [m, m + 1]


def test_RS6_RS9_resume_from_the_pending_root_and_from_the_one_before() -> None:
    """After RK2 the carrier goes: I may have turned or not; R resumes from either index."""
    for turned in (False, True):
        puppet = Puppet()
        line = puppet.up(hub_dials=False)
        session, roots = line.session, puppet.roots(line)
        puppet.advance(3)
        before = roots.roots[0]
        line.send(Record.RK1, puppet.offer(line, roots))
        (rk2,) = [data for kind, data in line.take() if kind is Record.RK2]
        puppet.confirm(line, roots, rk2)
        puppet.cut(line)
        m, root = (1, roots.roots[1]) if turned else (0, before)
        new = puppet.line(hub_dials=False)
        new.send(Record.RESUME, puppet.resume_record(new, session.sid, m, root, 0, len(HELLO)))
        assert new.take()[0][1][0] == 1
        assert session.roots == {m: root, m + 1: crypto.extract(root, new.established.root)}


@pytest.mark.parametrize("fault", ["sid", "boot", "index", "root", "transcript", "role", "flip"])
def test_RS6_1_resume_that_does_not_prove_itself(fault: str) -> None:
    """Status 0; the session named, with its carrier, is not touched and goes on."""
    puppet = Puppet()
    line = puppet.up(hub_dials=fault == "role")
    session, root = line.session, line.session.roots[0]
    new = puppet.line(hub_dials=False)
    sid = bytes(16) if fault == "sid" else session.sid
    said = puppet.resume_record(
        puppet.lines[0] if fault == "transcript" else new,
        sid,
        1 if fault == "index" else 0,
        bytes(32) if fault == "root" else root,
        0,
        len(HELLO),
        boot=b"another process!" if fault == "boot" else None,
    )
    if fault == "flip":
        said = said[:-1] + bytes((said[-1] ^ 1,))
    new.send(Record.RESUME, said)
    assert refused(new)
    assert line.closed is None
    assert session.phase is Phase.UP
    line.send(Record.PING, b"stillup?")
    assert (Record.PONG, b"stillup?") in line.take()


def test_RS6_every_bit_of_RESUME() -> None:
    """Any flip in RESUME is status 0, or a drop where it makes the dial one of the past; never a resumed session."""
    puppet = Puppet()
    _, session, root = lost(puppet, hub_dials=False)
    start, end = RESUME.offsets["dial"]
    for bit in range(96 * 8):
        if start <= bit // 8 < end:
            continue  # these move the dial itself: the proof covers it, below
        line = puppet.line(hub_dials=False)
        said = bytearray(puppet.resume_record(line, session.sid, 0, root, 0, len(HELLO)))
        said[bit // 8] ^= 1 << bit % 8
        line.send(Record.RESUME, bytes(said))
        assert refused(line)
        assert session.index == 0
        line.session.close(Code.DONE, "", puppet.now)
        puppet.pump()
        line.send(Record.CLOSE, bytes(9))
    line = puppet.line(hub_dials=False)
    said = bytearray(puppet.resume_record(line, session.sid, 0, root, 0, len(HELLO)))
    said[start] ^= 1
    line.send(Record.RESUME, bytes(said))
    assert refused(line)
    assert session.phase is Phase.LOST, "control: it can still be resumed"


def test_RS6_2_old_carrier_works_until_the_proof() -> None:
    """What the old carrier brought before counts; afterwards it is closed and what comes late is not taken."""
    puppet = Puppet()
    old = puppet.up(hub_dials=False)
    session, root = old.session, old.session.roots[0]
    new = puppet.line(hub_dials=False)
    old.frames(b"\x90" + bytes(6))
    offset = hub_received(session)
    assert offset == len(HELLO) + 7
    late = old.sealed(Record.DATA, b"\x91" + bytes(6))
    new.send(Record.RESUME, puppet.resume_record(new, session.sid, 0, root, 0, len(HELLO)))
    assert RESUMED.get_int(new.take()[0][1], "received_offset") == offset
    assert old.closed is not None
    assert not old.closed.fault
    puppet.hub.link.receive_data(old.carrier, late, puppet.now)
    assert hub_received(session) == offset
    assert session.carrier is new.carrier


@pytest.mark.parametrize("which", ["base above received", "received above sent", "received below base"])
def test_RS6_3_offsets_that_cannot_be(which: str) -> None:
    """Status 0, and the old session ends at R as well: its streams are reset, its roots deleted."""
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    session, root = line.session, line.session.roots[0]
    line.send(Record.ACK, (10).to_bytes(8, "big"))
    stream = puppet.hub.link.open_stream(None, puppet.now)
    puppet.pump()
    received, base = 10, len(HELLO)
    if which == "base above received":
        base += 1
    else:
        received = session._send.end + 1 if which == "received above sent" else 9
    new = puppet.line(hub_dials=False)
    new.send(Record.RESUME, puppet.resume_record(new, session.sid, 0, root, received, base))
    assert refused(new)
    assert session.ended
    assert session.roots == {}
    assert stream.closed
    assert len(puppet.seen(StreamReset)) == 1
    assert line.closed is not None


def test_RS12_as_often_as_needed() -> None:
    """Twenty resumes in a row, at each a few bytes more: in order, once, roots equal and one each."""
    pair, wire = connected(seed=20)
    stream = pair.a.link.open_stream(None, pair.now)
    expected = b""
    for n in range(20):
        chunk = bytes((n,)) * 3000
        stream.write(chunk)
        expected += chunk
        pair.flush(pair.a)
        pair.deliver(wire, pair.b, 1700)
        pair.cut(wire)
        wire = pair.dial(pair.a)
        pair.settle()
        assert pair.b.received[stream.id] == expected
        (ours,), (theirs,) = pair.a.link.sessions, pair.b.link.sessions
        assert ours.roots == theirs.roots
        assert len(ours.roots) == 1
    assert ours.index == theirs.index == 40, "a resume and a step each time"


# --- RS10: status 0 ------------------------------------------------------------------------------------------------


def test_RS10_peer_that_has_restarted() -> None:
    """The session is given up: streams reset, root deleted; the carrier goes on as a new session."""
    pair, wire = connected(seed=21)
    stream = pair.a.link.open_stream(None, pair.now)
    stream.write(b"lost")
    pair.flush(pair.a)
    pair.cut(wire)
    old = pair.a.link.sessions[0]
    pair.b.boot(pair.a)
    pair.b.events.clear()
    pair.dial(pair.a)
    pair.settle()
    assert old.ended
    assert old.roots == {}
    assert stream.closed
    (ours,), (theirs,) = pair.a.link.sessions, pair.b.link.sessions
    assert (ours.sid, ours.index, ours.initiator) == (theirs.sid, 0, True)
    assert ours.ready
    assert theirs.ready
    assert pair.a.resets == {stream.id: Code.BROKEN}
    fresh = pair.a.link.open_stream(None, pair.now)
    fresh.write(b"again")
    pair.flush(pair.a)
    pair.settle()
    assert pair.b.received[fresh.id] == b"again"


def test_RS10_start_was_lost() -> None:
    """I never heard of its session: it goes on as the new one, its byte stream from offset 0, its streams kept."""
    puppet = Puppet()
    line = puppet.line(hub_dials=True)
    session = line.session
    flight = [data for kind, data in line.take() if kind is Record.DATA]
    puppet.cut(line)
    again = puppet.line(hub_dials=True)
    ((kind, said),) = again.take()
    assert kind is Record.RESUME
    assert RESUME.get(said, "sid") == line.established.sid
    again.send(Record.RESUMED, b"\0" + puppet.boot + ZEROS)
    assert again.session is session
    assert not session.ended
    assert (session.sid, session.index) == (again.established.sid, 0)
    assert session.roots == {0: again.established.root}
    after = again.take()
    assert [data for kind, data in after if kind is Record.DATA] == flight
    assert Record.RK1 not in [kind for kind, _ in after]
    again.frames(HELLO)
    assert session.ready
    assert puppet.seen(SessionEnded) == []
    puppet.cut(again)
    third = puppet.line(hub_dials=True)
    ((_, said),) = third.take()
    assert RESUME.get(said, "sid") == again.established.sid
    third.send(Record.RESUMED, puppet.resumed_record(third, said, again.established.root, len(b"".join(flight)), 0))
    assert session.phase is Phase.UP


def test_RS10_zeros_are_not_looked_at() -> None:
    """Status 0 counts whatever else the record says."""
    puppet = Puppet()
    line, session, _, _ = resuming(puppet)
    line.send(Record.RESUMED, b"\0" + puppet.boot + b"\xff" * 48)
    assert session.ended
    assert line.session is not session
    assert line.session.peer_boot == puppet.boot
    assert line.session.initiator


def test_RS10_refused_resume_from_an_unknown_session_becomes_one() -> None:
    """At R: everything as if START had come."""
    puppet = Puppet()
    line = puppet.line(hub_dials=False)
    line.send(Record.RESUME, puppet.resume_record(line, b"unknown session!", 3, bytes(32), 5, 9))
    assert refused(line)
    line.frames(HELLO)
    assert line.session.ready
    assert line.session.peer_boot == puppet.boot
