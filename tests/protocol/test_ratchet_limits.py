"""Ratchet: times, limits, and carriers that are lost in the middle of a step (PROTOCOL.md 6)."""

from __future__ import annotations

import pytest

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Code, Record
from hubtunnel.protocol.events import Ratcheted
from hubtunnel.protocol.link import Settings
from hubtunnel.protocol.session import Phase
from tests.protocol.puppet import Puppet
from tests.protocol.steps import INTERVAL, idle_up
from tests.protocol.support import connected

# --- time and limits ----------------------------------------------------------------------------------------------


def test_RT10_stall_at_the_initiator() -> None:
    """RK1 that is never answered: 30 s after the last record received the carrier is dropped."""
    puppet = Puppet(Settings(version="test", keepalive=100.0))
    line = idle_up(puppet, hub_dials=True)
    puppet.hub.link.rekey(puppet.now)
    puppet.advance(0)
    puppet.advance(25)
    line.send(Record.PAD)
    puppet.advance(c.RATCHET_STALL - 1)
    assert line.closed is None, "any record received counts as progress"
    puppet.advance(2)
    assert line.dropped
    assert line.closed is not None
    assert line.closed.code == "ratchet_stalled"


@pytest.mark.parametrize("pending", [False, True], ids=["in work", "pending"])
def test_RT10_stall_at_the_responder(pending: bool) -> None:
    """The same at R, whether it is its own work or RK3 that does not come."""
    puppet = Puppet(Settings(version="test", keepalive=100.0))
    line = idle_up(puppet, hub_dials=False)
    puppet.hold_jobs = not pending
    line.send(Record.RK1, puppet.offer(line, puppet.roots(line)))
    puppet.advance(c.RATCHET_STALL - 1)
    assert line.closed is None
    puppet.advance(2)
    assert line.dropped
    assert sorted(line.session.roots) == ([0, 1] if pending else [0])


@pytest.mark.parametrize("hub_dials", [True, False], ids=["I", "R"])
def test_RT10_age_of_an_epoch(hub_dials: bool) -> None:
    """600 s after the first DATA of an epoch the carrier is dropped, if no step has come."""
    puppet = Puppet(Settings(version="test", ratchet_after=10_000.0))
    line = idle_up(puppet, hub_dials=hub_dials)
    begun = puppet.now - INTERVAL - 1
    while puppet.now < begun + c.EPOCH_AGE_MAX - 15:
        puppet.advance(10)
        line.send(Record.PAD)
        assert line.closed is None
    puppet.advance(16)
    assert line.dropped
    assert line.closed is not None
    assert line.closed.code == "epoch_over"


def test_RT10_age_begins_anew_with_each_epoch() -> None:
    """With steps every two minutes a carrier lives on for hours."""
    pair, wire = connected(seed=9)
    stream = pair.a.link.open_stream(None, pair.now)
    for _ in range(200):
        stream.write(b"x")
        pair.flush(pair.a)
        pair.advance(20)
    assert wire.ends
    assert not pair.a.link.carriers[0].closed
    assert pair.a.link.sessions[0].resumed == 0


@pytest.mark.parametrize("limit", ["EPOCH_RECORDS_MAX", "EPOCH_BYTES_MAX"])
@pytest.mark.parametrize("direction", ["sent", "received"])
def test_RT10_records_and_bytes_of_an_epoch(monkeypatch: pytest.MonkeyPatch, limit: str, direction: str) -> None:
    """At the bound in either direction the carrier is dropped and the session waits for new keys."""
    monkeypatch.setattr(c, limit, 50 if limit == "EPOCH_RECORDS_MAX" else 10_000)
    puppet = Puppet()
    line = puppet.up(hub_dials=False)
    stream = None
    if direction == "sent":
        stream = puppet.hub.link.open_stream(None, puppet.now)
    for _ in range(60):
        if line.closed is None:
            if stream is None:
                line.send(Record.PAD, bytes(500))
            else:
                stream.write(bytes(500))
                puppet.pump()
    assert line.dropped
    assert line.closed is not None
    assert line.closed.code == "epoch_over"
    assert line.session.phase is Phase.LOST


# --- lost carriers ------------------------------------------------------------------------------------------------


def test_RS13_step_in_work_is_given_up() -> None:
    """At I the root stays; at R too, unless RK2 was already made."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=True)
    puppet.hub.link.rekey(puppet.now)
    puppet.advance(0)
    puppet.cut(line)
    assert list(line.session.roots) == [0]
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=False)
    line.send(Record.RK1, puppet.offer(line, puppet.roots(line)))
    puppet.cut(line)
    assert sorted(line.session.roots) == [0, 1]


def test_RT7_result_of_a_lost_carrier_is_thrown_away() -> None:
    """Work that ends after its carrier changes nothing, at I (both jobs) and at R."""
    for hub_dials, stage in ((True, "offer"), (True, "verify"), (False, "answer")):
        puppet = Puppet()
        line = idle_up(puppet, hub_dials=hub_dials)
        roots = puppet.roots(line)
        puppet.hold_jobs = stage != "verify"
        if hub_dials:
            puppet.hub.link.rekey(puppet.now)
            puppet.advance(0)
        else:
            line.send(Record.RK1, puppet.offer(line, roots))
        if stage == "verify":
            ((_, rk1),) = [said for said in line.take() if said[0] is Record.RK1]
            puppet.hold_jobs = True
            line.send(Record.RK2, puppet.answer(line, roots, rk1))
        assert puppet.jobs
        puppet.cut(line)
        puppet.run_jobs()
        assert list(line.session.roots) == [0]
        assert puppet.seen(Ratcheted) == []


@pytest.mark.parametrize("stage", ["offer", "verify", "answer"])
def test_CL1_nothing_follows_CLOSE(stage: str) -> None:
    """Work of a step that ends after CLOSE was sent says nothing more, and moves no root."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=stage != "answer")
    roots = puppet.roots(line)
    puppet.hold_jobs = stage != "verify"
    if stage == "answer":
        line.send(Record.RK1, puppet.offer(line, roots))
    else:
        puppet.hub.link.rekey(puppet.now)
        puppet.advance(0)
    if stage == "verify":
        ((_, rk1),) = [said for said in line.take() if said[0] is Record.RK1]
        puppet.hold_jobs = True
        line.send(Record.RK2, puppet.answer(line, roots, rk1))
    puppet.hub.link.close(Code.DONE, puppet.now)
    assert line.kinds() == [Record.CLOSE]
    puppet.run_jobs()
    assert line.take() == []
    assert list(line.session.roots) == [0]
    assert puppet.seen(Ratcheted) == []


def test_7_2_RK3_is_followed_while_closing() -> None:
    """R has sent CLOSE when RK3 comes: it turns, reads I's answer in the new epoch, and says nothing."""
    puppet = Puppet()
    line = idle_up(puppet, hub_dials=False)
    roots = puppet.roots(line)
    line.send(Record.RK1, puppet.offer(line, roots))
    (rk2,) = [data for kind, data in line.take() if kind is Record.RK2]
    puppet.hub.link.close(Code.DONE, puppet.now)
    assert line.kinds() == [Record.CLOSE]
    rk3, secrets = puppet.confirm(line, roots, rk2)
    line.send(Record.RK3, rk3)
    line.switch(secrets)
    assert line.take() == []
    line.send(Record.CLOSE, bytes(9))
    assert line.closed is not None
    assert not line.closed.fault
