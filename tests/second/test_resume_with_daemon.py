"""The second implementation and the real daemon: carriers are cut, sessions go on, or do not."""

from __future__ import annotations

import copy

import pytest

from tests.second.conftest import MakeLink
from tests.second.daemon import DaemonDials, Link, WeDial
from tests.second.hub import Wire
from tests.second.initiator import Initiator
from tests.second.responder import Responder
from tests.second.schedule import M1_LEN, M3_LEN
from tests.second.session import Session

pytestmark = pytest.mark.e2e

LETTER = b"".join(b"line %06d of a letter that is cut in the middle\r\n" % n for n in range(1450))


def resumed(link: Link, session: Session) -> Wire:
    """The next carrier, once the session goes on there and the ratchet step that RS8 demands is complete."""
    index = session.index
    wire = link.connect(session)
    carrier = wire.carrier
    assert isinstance(carrier, Initiator | Responder)
    wire.until(lambda: carrier.up, "RESUMED")
    assert wire.session is session, "a new session instead of the old one"
    assert session.index == index + 1
    wire.until(lambda: carrier.steps_done == 1, "the step that comes first")
    if isinstance(carrier, Responder):
        assert [name for name, _, _ in carrier.log[:2]] == ["RESUME", "RK1"]
    wire.until(lambda: len(session.roots) == 1, "one root again")
    assert session.index == index + 2
    return wire


def test_cuts_in_the_middle_of_data(link: Link) -> None:
    """Twice, each inside a record that we send and with bytes of the daemon's unread; not one byte is lost."""
    wire = link.connect().up()
    session = wire.session
    session.cut = 900
    stream = session.streams.open()
    mta = link.delivered(wire)
    wire.until(lambda: session.all_acknowledged, "ACK")
    for cut in range(2):
        session.streams.send(stream, LETTER)
        mta.send(LETTER)
        wire.until_sent(20000 + 1234 * cut)
        wire.until_received(lambda cut=cut: len(stream.received) > len(LETTER) * cut)
        assert len(stream.received) < len(LETTER) * (cut + 1)
        wire.cut()
        assert not session.all_acknowledged
        wire = resumed(link, session)
        wire.until(lambda cut=cut: stream.received == LETTER * (cut + 1), "all of the MTA's bytes")
        wire.until(lambda cut=cut: mta.received == LETTER * (cut + 1), "all of our bytes at the MTA")
    session.streams.end(stream)
    wire.until(lambda: mta.ended, "the end at the MTA")
    mta.shut()
    wire.until(lambda: stream.gone, "END")
    assert stream.reset is None
    assert link.daemon.peer_status()["session"]["resumed"] == 2


def test_both_sides_see_no_cut_of_an_idle_session(link: Link) -> None:
    wire = link.connect().up()
    stream = wire.session.streams.open()
    mta = link.delivered(wire)
    wire.until(lambda: wire.session.all_acknowledged, "ACK")
    session = wire.session
    for _ in range(2):
        wire.cut()
        wire = resumed(link, session)
    mta.send(b"250 as if nothing had been\r\n")
    wire.until(lambda: stream.received == b"250 as if nothing had been\r\n", "the reply")


def test_resume_while_the_old_carrier_works(make_link: MakeLink) -> None:
    """The daemon takes the session over to the new carrier, and gives up the old one."""
    link = make_link(WeDial)
    old = link.connect().up()
    session = old.session
    stream = session.streams.open()
    mta = link.delivered(old)
    mta.send(LETTER)
    old.until_received(lambda: len(stream.received) > 0)
    wire = resumed(link, session)
    wire.until(lambda: stream.received == LETTER, "the letter")
    assert old.carrier.closed


@pytest.mark.parametrize("seen", [False, True])
def test_a_cut_in_a_ratchet_step_of_ours(make_link: MakeLink, seen: bool) -> None:
    """With RK2 unread the session goes on from root n, with RK2 read from n+1: the daemon holds both (RS9)."""
    link = make_link(WeDial)
    wire = link.connect().up()
    session = wire.session
    carrier = wire.carrier
    assert isinstance(carrier, Initiator)
    carrier.start_step()
    wire.flush()
    if seen:
        wire.until_received(lambda: session.index == 1)
    wire.cut()
    assert set(session.roots) == {int(seen)}
    resumed(link, session)


def test_a_cut_in_a_ratchet_step_of_the_daemons(make_link: MakeLink) -> None:
    """We hold both roots; the daemon names the one that it holds."""
    link = make_link(DaemonDials, 'drain = "0s"\nratchet_after = "1s"')
    wire = link.connect()
    wire.until(lambda: wire.carrier.up, "START")
    session = wire.session
    wire.until_received(lambda: len(session.roots) == 2)
    wire.cut()
    assert set(session.roots) == {0, 1}
    wire = link.connect(session)
    wire.until(lambda: wire.carrier.up, "RESUMED")
    assert wire.session is session
    assert max(session.roots) == 1, "the daemon had not seen RK2, so it holds the root of index 0"


def lying_about(session: Session, what: str) -> Session:
    """A session like this one, but for one thing that its RESUME will say."""
    liar = copy.copy(session)
    liar.send = None
    ((index, root),) = session.roots.items()
    if what == "sid":
        liar.sid = bytes(16)
    elif what == "index":
        liar.roots = {index + 1: root}
    elif what == "root":
        liar.roots = {index: bytes(32)}
    return liar


@pytest.mark.parametrize("what", ["sid", "index", "root"])
def test_a_resume_that_does_not_prove_itself(make_link: MakeLink, what: str) -> None:
    """Status 0, a new session on the same carrier, and the session that was named is not touched."""
    link = make_link(WeDial)
    wire = link.connect().up()
    stream = wire.session.streams.open()
    mta = link.delivered(wire)
    other = link.connect(lying_about(wire.session, what)).up()
    carrier = other.carrier
    assert isinstance(carrier, Initiator)
    assert carrier.not_resumed
    assert other.session.sid == carrier.keys.sid
    assert "RK1" not in [name for name, _, _ in carrier.log]
    mta.send(b"250 untouched\r\n")
    wire.until(lambda: stream.received == b"250 untouched\r\n", "bytes on the old session")


def test_the_daemon_gives_up_a_session_that_we_lost(make_link: MakeLink) -> None:
    """Status 0 to the daemon's RESUME: its streams are reset, and a new session stands on the same carrier."""
    link = make_link(DaemonDials)
    wire = link.connect().up()
    session = wire.session
    session.streams.open()
    mta = link.delivered(wire)
    wire.cut()
    session.roots.clear()
    wire = link.connect()
    wire.up()
    assert wire.session is not session
    names = [name for name, _, _ in wire.carrier.log]
    assert names[0] == "RESUME"
    assert "RK1" not in names
    wire.until(lambda: mta.reset, "RST at the MTA")
    stream = wire.session.streams.open()
    fresh = link.delivered(wire)
    fresh.send(b"220 new\r\n")
    wire.until(lambda: stream.received == b"220 new\r\n", "bytes on the new session")


def test_a_dial_that_is_not_higher_is_dropped(make_link: MakeLink) -> None:
    link = make_link(WeDial)
    wire = link.connect().up()
    link.second._dial -= 1
    late = link.connect()
    late.until_ended()
    assert late.carrier.log == []
    wire.carrier.ping(b"12345678")
    wire.until(lambda: wire.carrier.pongs, "PONG on the session, which is not touched")


def test_a_start_that_we_never_saw(make_link: MakeLink) -> None:
    """RS10's exception: the daemon's byte stream comes again from offset 0, with its one HELLO."""
    link = make_link(DaemonDials)
    wire = link.connect()
    wire.until_received(lambda: wire.carrier.out)
    wire.deaf = True
    wire.until(lambda: wire.bytes_received > M1_LEN + M3_LEN, "M3 and what follows it")
    wire.cut()
    assert link.second.sessions == {}
    wire = link.connect().up()
    stream = wire.session.streams.open()
    mta = link.delivered(wire)
    mta.send(b"220 at the second attempt\r\n")
    wire.until(lambda: stream.received == b"220 at the second attempt\r\n", "the greeting")
