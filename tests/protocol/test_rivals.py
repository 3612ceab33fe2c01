"""Two sessions with one peer: crossing dials, restarts, a second process with our peer's key (PROTOCOL.md 7.7)."""

from __future__ import annotations

import pytest

from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames
from hubtunnel.protocol.constants import Code, Record
from hubtunnel.protocol.events import Alarm, Notice, SessionEnded, StreamOpened
from hubtunnel.protocol.link import Settings
from hubtunnel.protocol.rivals import Rivals
from hubtunnel.protocol.session import Phase
from tests.protocol.puppet import HELLO, Line, Puppet
from tests.protocol.support import CorePair, Hub, connected

OLD, NEW = b"the old process!", b"the new process!"


def answer(line: Line) -> None:
    """Answer every PING that waits on a line."""
    line.answer_pings()


def closes(line: Line) -> list[int]:
    """Codes of CLOSE records that were said."""
    return [data[0] for kind, data in line.take() if kind is Record.CLOSE]


def lower_and_higher(pair: CorePair) -> tuple[Hub, Hub]:
    """The hub that decides, and the other one."""
    return (pair.a, pair.b) if pair.a.idfp < pair.b.idfp else (pair.b, pair.a)


def crossed(seed: int) -> CorePair:
    """Two hubs that dialled each other at the same time."""
    pair = CorePair(seed=seed)
    one = pair.dial(pair.a)
    two = pair.dial(pair.b)
    del one, two
    pair.settle()
    return pair


# --- RV1, RV2: dials that cross -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_RV1_crossing_dials_leave_one_session(seed: int) -> None:
    """Both hubs end with the session of the smaller sid; nothing is reset, no alarm is raised."""
    pair = crossed(60 + seed)
    smallest = min(s.sid for s in pair.a.link.sessions)
    pair.advance(5)
    for hub in (pair.a, pair.b):
        (session,) = hub.link.sessions
        assert session.sid == smallest
        assert session.ready
        assert hub.seen(Alarm) == []
        assert hub.resets == {}
        assert not hub.link.wants_carrier(pair.now)


def test_RV1_only_the_hub_with_the_smaller_fingerprint_decides() -> None:
    """The other one never says GOAWAY(superseded), however long it takes."""
    seen = set()
    for name in ("B", "C", "D", "E", "F", "G"):
        puppet = Puppet(name=name)
        decides = puppet.hub.idfp < puppet.me.idfp
        first, second = puppet.up(hub_dials=True), puppet.up(hub_dials=False)
        keep = min((first, second), key=lambda line: line.session.sid)
        other = second if keep is first else first
        puppet.pump()
        answer(keep)
        answer(other)
        puppet.advance(1)
        assert other.session.goaway_sent == (Code.SUPERSEDED if decides else None)
        assert keep.session.goaway_sent is None
        seen.add(decides)
    assert seen == {True, False}, "both kinds were looked at"


def deciding() -> Puppet:
    """A puppet whose hub is the one that decides."""
    for name in ("B", "C", "D", "E", "F", "G"):
        puppet = Puppet(name=name)
        if puppet.hub.idfp < puppet.me.idfp:
            return puppet
    raise AssertionError


def test_RV1_session_that_is_to_stay_but_does_not_answer() -> None:
    """Ten seconds without PONG: that carrier counts as lost, and the other session takes the streams."""
    puppet = deciding()
    first, second = puppet.up(hub_dials=True), puppet.up(hub_dials=False)
    keep = min((first, second), key=lambda line: line.session.sid)
    other = second if keep is first else first
    for _ in range(11):
        answer(other)
        puppet.advance(1)
    assert keep.dropped
    assert other.closed is None
    assert other.session.goaway_sent is None
    stream = puppet.hub.link.open_stream(None, puppet.now)
    assert stream.session is other.session


def test_RV1_nothing_is_superseded_before_the_answer() -> None:
    """A session is not given up for one that may be dead."""
    puppet = deciding()
    first, second = puppet.up(hub_dials=True), puppet.up(hub_dials=False)
    puppet.advance(5)
    assert first.session.goaway_sent is second.session.goaway_sent is None


def test_RV1_streams_on_the_superseded_session_go_on_to_their_end() -> None:
    """Bytes of both sessions arrive; the superseded one closes when its stream has ended."""
    pair = crossed(70)
    low, high = lower_and_higher(pair)
    by_sid = {s.sid: s for s in high.link.sessions}
    smallest = min(by_sid)
    gone = next(s for sid, s in by_sid.items() if sid != smallest)
    stream = gone.mux.open(None)
    stream.write(b"on its way")
    pair.flush(high)
    pair.advance(2)
    assert len(low.link.sessions) == 2
    opened = [event.stream for event in low.seen(StreamOpened) if isinstance(event, StreamOpened)]
    assert bytes(low.received[stream.id]) == b"on its way"
    stream.write(b", all of it")
    stream.end()
    opened[0].end()
    pair.flush(high)
    pair.flush(low)
    pair.advance(2)
    assert bytes(low.received[stream.id]) == b"on its way, all of it"
    assert [s.sid for s in low.link.sessions] == [s.sid for s in high.link.sessions] == [smallest]
    assert low.resets == high.resets == {}


def test_RV2_new_streams_while_nothing_is_decided() -> None:
    """Both hubs take the session with the smaller sid."""
    pair = crossed(71)
    for hub in (pair.a, pair.b):
        if len(hub.link.sessions) == 2:
            assert hub.link.open_stream(None, pair.now).session.sid == min(s.sid for s in hub.link.sessions)


def test_float_times_of_a_young_machine() -> None:
    """An answer is an answer at any clock reading, also where (now - rtt) is not what it was asked at."""
    for asked in (0.1, 0.7, 1.1, 2.3):
        for rtt in (0.2, 0.3, 4.2, 7.7):
            puppet = Puppet()
            puppet.now = asked
            line = puppet.up(hub_dials=True, boot=OLD)
            puppet.up(hub_dials=False, boot=NEW)
            puppet.now += rtt
            answer(line)
            assert line.session.answered, f"asked at {asked}, answered {rtt} later"


# --- RV3 to RV8: another boot -------------------------------------------------------------------------------------


def rivals(**kwargs: object) -> tuple[Puppet, Line, Line]:
    """An old session that the peer dialled, and a newcomer of another boot."""
    puppet = Puppet(**kwargs)  # type: ignore[arg-type]
    old = puppet.up(hub_dials=False, boot=OLD)
    puppet.advance(1)
    answer(old)
    return puppet, old, puppet.up(hub_dials=False, boot=NEW)


def test_RV3_both_are_asked() -> None:
    """PING goes out on both when the newcomer comes."""
    puppet = Puppet()
    old = puppet.up(hub_dials=False, boot=OLD)
    puppet.advance(1)
    answer(old)
    new = puppet.line(hub_dials=False)
    new.send(Record.START, puppet.start_record(NEW))
    assert Record.PING in [kind for kind, _ in old.take()]
    assert Record.PING in [kind for kind, _ in new.take()]


def test_RV4_new_streams_go_to_the_old_session() -> None:
    """While its carrier lives, whatever the sids are."""
    for _ in range(4):
        puppet, old, _ = rivals()
        assert puppet.hub.link.open_stream(None, puppet.now).session is old.session


def test_RV4_old_session_that_does_not_answer() -> None:
    """After 10 s its carrier counts as lost; then the newcomer has the streams."""
    puppet, old, new = rivals()
    for _ in range(9):
        answer(new)
        puppet.advance(1)
    assert old.closed is None
    puppet.advance(1.1)
    assert old.dropped
    assert puppet.hub.link.open_stream(None, puppet.now).session is new.session
    assert puppet.seen(Alarm) == []


def test_RV5_honest_restart() -> None:
    """The old session ends 20 s after its carrier is lost, not after 150; no alarm; the newcomer stays."""
    puppet, old, new = rivals()
    answer(new)
    session = old.session
    puppet.cut(old)
    for _ in range(19):
        answer(new)
        puppet.advance(1)
    assert not session.ended
    answer(new)
    puppet.advance(2)
    assert session.ended
    assert new.closed is None
    assert puppet.seen(Alarm) == []
    assert puppet.hub.link.sessions == [new.session]


def test_RV5_linger_is_not_cut_before_the_newcomer_has_answered() -> None:
    """A newcomer that says nothing does not shorten anybody's time."""
    puppet, old, new = rivals()
    session = old.session
    puppet.cut(old)
    puppet.advance(30)
    assert closes(new) == [Code.TIMED_OUT]
    assert session.phase is Phase.LOST
    puppet.advance(100)
    assert session.phase is Phase.LOST


def test_RV5_peer_that_is_killed_again_and_again_is_taken_up_every_time() -> None:
    """Each death leaves a session that nobody will resume: those are gone before RV9 would refuse the next start."""
    puppet = Puppet()
    for number in range(12):
        line = puppet.up(hub_dials=False, boot=b"%-16d" % number)
        for _ in range(8):
            answer(line)
            puppet.advance(1)
        assert line.closed is None, f"start {number}"
        assert puppet.hub.link.open_stream(None, puppet.now).session is line.session
        puppet.cut(line)
        puppet.advance(1)
    assert puppet.seen(Alarm) == []


def test_RV5_proven_resume_makes_it_the_old_one_again() -> None:
    """The old session comes back while the newcomer has the streams: streams go to it again, and all are asked anew."""
    puppet, old, new = rivals()
    session, root = old.session, old.established.root
    puppet.cut(old)
    answer(new)
    assert new.session.answered
    assert puppet.hub.link.open_stream(None, puppet.now).session is new.session
    back = puppet.line(hub_dials=False)
    received = session._send.end
    said = puppet.resume_record(back, session.sid, 0, root, received, len(HELLO), boot=OLD, dial=99)
    back.send(Record.RESUME, said)
    assert session.phase is Phase.UP
    assert puppet.hub.link.open_stream(None, puppet.now).session is session
    assert not new.session.answered
    assert Record.PING in [kind for kind, _ in new.take()]
    assert puppet.seen(Alarm) == [], "a RESUME is not an answer"


def test_RV6_newcomer_that_does_not_answer() -> None:
    """CLOSE(timed_out) after 10 s, a line in the log, no alarm; the old session goes on."""
    puppet, old, new = rivals()
    for _ in range(10):
        answer(old)
        puppet.advance(1.01)
    assert closes(new) == [Code.TIMED_OUT]
    assert puppet.seen(Alarm) == []
    assert any(isinstance(n, Notice) and n.code == "newcomer_silent" for n in puppet.seen(Notice))
    assert old.closed is None
    assert puppet.hub.link.open_stream(None, puppet.now).session is old.session


@pytest.mark.parametrize("first", ["old", "new"])
def test_RV7_two_processes_answer(first: str) -> None:
    """Both have answered: an alarm, once, and the newcomer is closed with `refused`; the old one stays."""
    puppet, old, new = rivals()
    for line in (old, new) if first == "old" else (new, old):
        assert puppet.seen(Alarm) == []
        assert new.session.phase is Phase.UP
        answer(line)
    (alarm,) = puppet.seen(Alarm)
    assert isinstance(alarm, Alarm)
    assert alarm.code == "two_boots"
    assert closes(new) == [Code.REFUSED]
    assert old.closed is None
    puppet.advance(1)
    assert len(puppet.seen(Alarm)) == 1


def test_RV7_impostor_against_a_hub_that_is_away() -> None:
    """The honest carrier is lost, the impostor answers, the honest hub comes back in time: it wins, with an alarm."""
    puppet, old, new = rivals()
    session, root = old.session, old.established.root
    puppet.cut(old)
    answer(new)
    puppet.advance(5)
    back = puppet.line(hub_dials=False)
    said = puppet.resume_record(back, session.sid, 0, root, session._send.end, len(HELLO), boot=OLD, dial=99)
    back.send(Record.RESUME, said)
    answer(back)
    answer(new)
    assert closes(new) == [Code.REFUSED]
    assert len(puppet.seen(Alarm)) == 1
    assert session.phase is Phase.UP


def test_RV8_planned_restart_is_no_alarm() -> None:
    """After GOAWAY(restart) the old session does not compete; the new process simply takes over."""
    puppet = Puppet()
    old = puppet.up(hub_dials=False, boot=OLD)
    stream = puppet.hub.link.open_stream(None, puppet.now)
    puppet.pump()
    old.frames(frames.encode_goaway(Code.RESTART, stream.id))
    new = puppet.up(hub_dials=False, boot=NEW)
    answer(old)
    answer(new)
    puppet.advance(1)
    assert puppet.seen(Alarm) == []
    assert puppet.hub.link.open_stream(None, puppet.now).session is new.session
    assert old.closed is None, "its stream may still end"


def test_RV_restart_between_two_real_hubs() -> None:
    """Either hub is started anew without a word; half a minute later both have one session and no alarm."""
    for restarting in ("A", "B"):
        for dialling in ("A", "B"):
            pair, wire = connected(seed=80)
            hub = pair.a if restarting == "A" else pair.b
            del wire.ends[hub.name]  # nobody tells the other hub
            wire.cut = True
            hub.boot(pair.other(hub))
            pair.dial(pair.a if dialling == "A" else pair.b)
            for _ in range(90):
                pair.advance(1)
                for one in (pair.a, pair.b):
                    if one.link.wants_carrier(pair.now):
                        pair.dial(one)
            for one in (pair.a, pair.b):
                assert one.seen(Alarm) == []
                (session,) = one.link.sessions
                assert session.ready
            assert pair.a.link.sessions[0].sid == pair.b.link.sessions[0].sid


# --- RV9 ----------------------------------------------------------------------------------------------------------


def test_RV9_fifth_session() -> None:
    """Four sessions are there: a fifth, the newest, is closed with `limit`; the others are not touched."""
    puppet = Puppet()
    lines = [puppet.up(hub_dials=False) for _ in range(c.SESSIONS_PER_LINK)]
    puppet.cut(lines[0])
    fifth = puppet.line(hub_dials=False)
    fifth.send(Record.START, puppet.start_record())
    said = fifth.take()
    assert said[0][0] is Record.STARTED
    assert [data[0] for kind, data in said if kind is Record.CLOSE] == [Code.LIMIT]
    assert lines[0].session.phase is Phase.LOST
    assert all(line.closed is None for line in lines[1:])
    fifth.send(Record.CLOSE, bytes((Code.LIMIT,)) + bytes(8))
    assert len(puppet.hub.link.sessions) == c.SESSIONS_PER_LINK
    assert [event.code for event in puppet.seen(SessionEnded) if isinstance(event, SessionEnded)] == [Code.LIMIT]


def test_RV9_our_own_dial_counts_too() -> None:
    """A hub does not break its own bound by dialling."""
    puppet = Puppet(Settings(version="test"))
    for _ in range(c.SESSIONS_PER_LINK):
        puppet.up(hub_dials=False)
    line = puppet.line(hub_dials=True)
    assert [data[0] for kind, data in line.take() if kind is Record.CLOSE] == [Code.LIMIT]
    line.send(Record.STARTED, puppet.started_record())
    line.send(Record.CLOSE, bytes((Code.LIMIT,)) + bytes(8))
    assert len(puppet.hub.link.sessions) == c.SESSIONS_PER_LINK


# --- the fast path ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_one_session_alone_is_settled_as_by_the_rules(known: bool) -> None:
    """`alone` gives what `settle` gives where there is one session, whichever boot was known before."""
    pair, _ = connected()
    session = pair.a.link.sessions[0]
    outcomes = []
    for by_rule in (True, False):
        rivals = Rivals(pair.a.link._env)
        rivals._boot = session.peer_boot if known else b"another boot 16 "
        rivals._deadline, rivals._ask_anew = 0.0, True
        if by_rule:
            rivals.settle([session], pair.now)
        else:
            rivals.alone(session)
        outcomes.append((rivals._boot, rivals.next_deadline(), rivals._ask_anew, rivals.preferred([session])))

    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == session.peer_boot
