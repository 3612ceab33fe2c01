"""The second implementation and the real daemon: GOAWAY, CLOSE, a daemon that stops, and two sessions of one peer."""

from __future__ import annotations

import signal

import pytest

from tests.second import streams
from tests.second.conftest import MakeLink
from tests.second.daemon import DaemonDials, Link, WeDial
from tests.second.hub import Wire

pytestmark = pytest.mark.e2e

ROLES = pytest.mark.parametrize("role", [WeDial, DaemonDials], ids=["initiator", "responder"])
PATIENT = 'drain = "20s"'


def check_closed(wire: Wire, code: int) -> None:
    """The daemon's CLOSE names the code, and as many bytes as have come."""
    session = wire.session
    wire.until(lambda: session.closed is not None, "CLOSE from the daemon")
    assert session.closed == (code, session.received_offset)
    wire.until_ended()
    assert wire.carrier.log[-1][0] == "CLOSE"


def test_our_close_is_answered(link: Link) -> None:
    wire = link.connect().up()
    wire.session.streams.open()
    mta = link.delivered(wire)
    wire.session.close(streams.DONE)
    check_closed(wire, streams.DONE)
    link.wait(lambda: mta.reset, "RST at the MTA: the session ended, not the conversation")


def test_our_fault_is_answered_by_close(link: Link) -> None:
    """A frame that breaks a rule ends the session with the code for it; a reset stream beside it as well."""
    wire = link.connect().up()
    wire.session.streams.send_frame(0x7F, 0)
    check_closed(wire, streams.PROTOCOL)


def test_a_capability_that_the_daemon_has_not(make_link: MakeLink, monkeypatch: pytest.MonkeyPatch) -> None:
    link = make_link(WeDial)
    monkeypatch.setattr(link.second, "requires", ["time travel"])
    wire = link.connect()
    wire.until(lambda: wire.carrier.session is not None, "the handshake")
    check_closed(wire, streams.REQUIRED_CAPABILITY)


def test_a_close_that_we_did_not_see_is_sent_again(make_link: MakeLink) -> None:
    """CL3: the responder closed the session, the carrier was lost before the answer: it can be resumed once more."""
    link = make_link(WeDial)
    wire = link.connect().up()
    session = wire.session
    wire.carrier.answers_close = False
    session.streams.send_frame(0x7F, 0)
    wire.until(lambda: wire.carrier.log[-1][0] == "CLOSE", "CLOSE")
    wire.cut()
    again = link.connect(session)
    again.until(lambda: again.carrier.up, "RESUMED")
    check_closed(again, streams.PROTOCOL)
    assert [name for name, _, _ in again.carrier.log] == ["RESUMED", "CLOSE"]


@ROLES
def test_an_idle_daemon_stops(make_link: MakeLink, role: type[Link]) -> None:
    link = make_link(role, PATIENT, fresh=True)
    wire = link.connect().up()
    link.daemon.signal(signal.SIGTERM)
    wire.until(lambda: wire.session.closed is not None, "CLOSE")
    assert wire.session.streams.goaway is not None
    code, last = wire.session.streams.goaway
    assert code in (streams.DRAINED, streams.RESTART)
    assert last == 0
    check_closed(wire, code)
    assert link.daemon.ended() == 0


@ROLES
def test_a_busy_daemon_stops(make_link: MakeLink, role: type[Link]) -> None:
    """What is open goes on to its end; an OPEN that GOAWAY has crossed is reset with its code (GA2)."""
    link = make_link(role, PATIENT, fresh=True)
    wire = link.connect().up()
    session = wire.session
    stream = session.streams.open()
    mta = link.delivered(wire)
    mta.send(b"220 slow\r\n")
    wire.until(lambda: stream.received == b"220 slow\r\n", "the greeting")
    link.daemon.signal(signal.SIGTERM)
    wire.until(lambda: session.streams.goaway is not None, "GOAWAY")
    assert session.streams.goaway is not None
    code, last = session.streams.goaway
    assert last == stream.number
    late = session.streams.open()
    wire.until(lambda: late.reset is not None, "RESET of the late stream")
    assert late.reset == code
    session.streams.send(stream, b"QUIT\r\n")
    wire.until(lambda: mta.received == b"QUIT\r\n", "QUIT")
    mta.send(b"221 bye\r\n")
    mta.shut()
    wire.until(lambda: stream.peer_ended, "the end of the reply")
    assert stream.received == b"220 slow\r\n221 bye\r\n"
    assert session.closed is None
    session.streams.end(stream)
    check_closed(wire, code)
    assert link.daemon.ended() == 0


def test_our_goaway(link: Link) -> None:
    """The daemon opens no stream on the session that is left, and answers our CLOSE."""
    wire = link.connect().up()
    session = wire.session
    stream = session.streams.open()
    mta = link.delivered(wire)
    session.streams.send_goaway(streams.DRAINED)
    wire.carrier.ping(b"12345678")
    wire.until(lambda: wire.carrier.pongs and session.all_acknowledged, "PONG and ACK")
    client = link.client()
    mta.send(b"220 still here\r\n")
    wire.until(lambda: stream.received == b"220 still here\r\n", "the open stream's bytes")
    session.streams.end(stream)
    mta.shut()
    wire.until(lambda: stream.gone and session.all_acknowledged, "the end of the stream")
    assert list(session.streams.streams) == [stream.number]
    session.close(streams.DRAINED)
    check_closed(wire, streams.DRAINED)
    client.close()


def test_two_boots_of_one_peer(make_link: MakeLink) -> None:
    """RV3 to RV7: the newcomer is refused while the old one answers, and the daemon's log has the alarm."""
    link = make_link(WeDial)
    old = link.connect().up()
    link.second.boot = b"another process."
    newcomer = link.connect()
    newcomer.poll_others = lambda: old.move()
    newcomer.until(lambda: newcomer.carrier.up, "STARTED")
    check_closed(newcomer, streams.REFUSED)
    assert "two boots" in link.daemon.log
    old.carrier.ping(b"12345678")
    old.until(lambda: old.carrier.pongs, "PONG on the old session")


def test_two_dials_of_one_boot(make_link: MakeLink) -> None:
    """RV1: the session with the smallest sid stays, the hub with the smaller idfp decides."""
    link = make_link(WeDial)
    wires = [link.connect().up() for _ in range(2)]
    stays, goes = sorted(wires, key=lambda wire: wire.session.sid)
    if link.second.idfp < link.daemon.card.identity.idfp:
        stays.carrier.ping(b"who stay")
        stays.until(lambda: stays.carrier.pongs, "PONG on the session that stays")
        goes.session.streams.send_goaway(streams.SUPERSEDED)
        goes.until(lambda: goes.session.all_acknowledged, "ACK")
        goes.session.close(streams.SUPERSEDED)
    else:
        goes.poll_others = stays.move
        goes.until(lambda: goes.session.streams.goaway is not None, "GOAWAY")
        assert goes.session.streams.goaway == (streams.SUPERSEDED, 0)
    check_closed(goes, streams.SUPERSEDED)
    stays.carrier.ping(b"12345678")
    stays.until(lambda: stays.carrier.pongs[-1:] == [b"12345678"], "PONG")
    assert stays.session.streams.goaway is None
