"""Carriers that are lost, and sessions that wait for another (PROTOCOL.md 7.1 RS11–RS13, 7.3)."""

from __future__ import annotations

import pytest

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Code, Frame, Record
from hubtunnel.protocol.events import CarrierLost, SessionEnded
from hubtunnel.protocol.link import Settings
from hubtunnel.protocol.session import Phase
from tests.protocol.losses import refused
from tests.protocol.puppet import HELLO, Puppet
from tests.protocol.support import connected

# --- RS11, RS13: linger and loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hub_dials", [True, False], ids=["I", "R"])
def test_RS11_linger(hub_dials: bool) -> None:
    """150 s without a carrier, then the session ends: streams reset, roots deleted, memory given back."""
    puppet = Puppet()
    line = puppet.up(hub_dials=hub_dials)
    session = line.session
    stream = puppet.hub.link.open_stream(None, puppet.now)
    stream.write(b"unsent")
    puppet.cut(line)
    puppet.advance(c.LINGER - 0.1)
    assert session.phase is Phase.LOST
    puppet.advance(0.2)
    assert session.ended
    assert stream.closed
    assert session.roots == {}
    assert puppet.hub.budget.used == 0
    assert [event.code for event in puppet.seen(SessionEnded) if isinstance(event, SessionEnded)] == [Code.TIMED_OUT]
    late = puppet.line(hub_dials=False)
    late.send(Record.RESUME, puppet.resume_record(late, session.sid, 0, line.established.root, 0, 0))
    assert refused(late)


def test_RS11_linger_begins_anew_with_each_loss() -> None:
    """A session that came back has its full time again."""
    pair, wire = connected(seed=22)
    for _ in range(3):
        pair.cut(wire)
        pair.advance(c.LINGER - 1)
        wire = pair.dial(pair.a)
        pair.settle()
    assert pair.a.link.sessions[0].resumed == 3


def test_RS11_who_dials() -> None:
    """The initiator at once; the responder only after 15 s."""
    pair, wire = connected(seed=23)
    assert not pair.a.link.wants_carrier(pair.now)
    assert not pair.b.link.wants_carrier(pair.now)
    pair.cut(wire)
    assert pair.a.link.wants_carrier(pair.now)
    assert not pair.b.link.wants_carrier(pair.now)
    assert pair.b.link.next_deadline() == pair.now + c.RESPONDER_DIAL_AFTER
    pair.now += c.RESPONDER_DIAL_AFTER
    pair.b.link.handle_deadline(pair.now)
    assert pair.b.link.wants_carrier(pair.now)


def test_RS11_nobody_dials_while_a_carrier_says_what_it_is() -> None:
    """A carrier that was accepted and has not spoken yet is a reason to wait."""
    puppet = Puppet()
    assert puppet.hub.link.wants_carrier(puppet.now)
    line = puppet.line(hub_dials=False)
    assert not puppet.hub.link.wants_carrier(puppet.now)
    puppet.cut(line)
    assert puppet.hub.link.wants_carrier(puppet.now)


def test_RS13_loss_is_told_once_and_detach_is_idempotent() -> None:
    """One event, however often the shell says it."""
    puppet = Puppet()
    line = puppet.up(hub_dials=True)
    for _ in range(3):
        puppet.cut(line)
    assert len(puppet.seen(CarrierLost)) == 1
    puppet.hub.link.receive_data(line.carrier, b"late bytes", puppet.now)
    assert puppet.hub.link.data_to_send(line.carrier, puppet.now) == b""


def test_BS6_bytes_again_in_other_records() -> None:
    """After a resume in the middle of a record the rest of it comes, unchanged and in order."""
    settings = Settings(version="test")
    puppet = Puppet(settings)
    line = puppet.up(hub_dials=False)
    session, root = line.session, line.session.roots[0]
    stream = puppet.hub.link.open_stream(None, puppet.now)
    sent = b"".join(data for kind, data in line.take() if kind is Record.DATA)
    for n in range(5):
        stream.write(bytes((n,)) * 1000)
        sent += b"".join(data for kind, data in line.take() if kind is Record.DATA)
    start = session._send.end - len(sent)
    for cut in (0, 1, 500, 1007, 1500, len(sent) - 1, len(sent)):
        puppet.cut(puppet.lines[-1])
        new = puppet.line(hub_dials=False)
        index = session.index if cut else 0
        held = session.roots[index] if cut else root
        new.send(Record.RESUME, puppet.resume_record(new, session.sid, index, held, start + cut, len(HELLO)))
        said = new.take()
        assert said[0][1][0] == 1
        assert b"".join(data for kind, data in said if kind is Record.DATA) == sent[cut:]


def test_hello_of_frames_constant() -> None:
    """The first frame on a byte stream is HELLO, on which the offsets above rest."""
    assert HELLO[0] == Frame.HELLO
