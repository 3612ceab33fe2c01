"""A ratchet step that fails: the carrier goes, and a whole handshake on a new one brings everything back.

What the failed step would have replaced is never needed again, and what it had made already is not either: the next
dial works whichever of the roots each hub is left with (PROTOCOL.md RT7, RT10, RS9, RS13).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import events as ev
from hubtunnel.protocol.events import CarrierClosing, Job
from hubtunnel.protocol.link import Settings
from hubtunnel.protocol.session import Phase
from tests.protocol.support import CorePair, Hub, Wire, connected

SETTINGS = Settings(version="x", ratchet_interval_min=0.0, ratchet_interval_refused=0.0)
WRITTEN = bytes(range(256)) * 100


class Broken:
    """A step that is brought to a certain point and then fails there."""

    def __init__(self) -> None:
        self.pair, self.wire = connected(SETTINGS, seed=65)
        self.stream = self.pair.a.link.open_stream(None, self.pair.now)
        self.pair.settle()
        self.pair.run_jobs = False
        assert self.pair.a.link.rekey(self.pair.now)
        self.pair.a.link.handle_deadline(self.pair.now)
        self.stream.write(WRITTEN)
        self.pair.flush(self.pair.a)

    def job(self, hub: Hub, *, fails: bool = False) -> None:
        """The one job that waits is done, or raises."""
        ((owner, job),) = self.pair.held_jobs
        assert owner is hub
        self.pair.held_jobs.clear()
        result: object = RuntimeError("no memory for it") if fails else job.run()
        hub.link.job_done(job, result, self.pair.now)
        self.pair.flush(hub)

    def to(self, hub: Hub) -> None:
        """All that is on its way to a hub arrives."""
        self.pair.deliver(self.wire, hub)

    def offered(self) -> None:
        """RK1 has arrived."""
        self.job(self.pair.a)
        self.to(self.pair.b)

    def answered(self) -> None:
        """RK2 has arrived: R holds a pending root."""
        self.offered()
        self.job(self.pair.b)
        self.to(self.pair.a)

    def confirmed(self) -> None:
        """RK3 is on its way: I has the new root and no other."""
        self.answered()
        self.job(self.pair.a)


def offer_fails(broken: Broken) -> None:
    broken.job(broken.pair.a, fails=True)


def answer_fails(broken: Broken) -> None:
    broken.offered()
    broken.job(broken.pair.b, fails=True)


def check_fails(broken: Broken) -> None:
    broken.answered()
    broken.job(broken.pair.a, fails=True)


def answer_is_another(broken: Broken) -> None:
    """RK2 came with the AEAD of the epoch and does not verify."""
    broken.answered()
    ((_, job),) = broken.pair.held_jobs
    broken.pair.held_jobs.clear()
    broken.pair.a.link.job_done(job, None, broken.pair.now)
    broken.pair.flush(broken.pair.a)


def confirmation_is_altered(broken: Broken) -> None:
    broken.confirmed()
    broken.wire.to["B"][-1] ^= 1
    broken.to(broken.pair.b)


def confirmation_is_lost(broken: Broken) -> None:
    broken.confirmed()
    broken.pair.cut(broken.wire)


def nothing_comes_back(broken: Broken) -> None:
    """RT10: a peer that holds its work on RK1 back for ever, and says nothing else either."""
    broken.offered()
    broken.wire.cut = True
    broken.pair.now += c.RATCHET_STALL + 1
    for hub in (broken.pair.a, broken.pair.b):
        hub.link.handle_deadline(broken.pair.now)
        broken.pair.flush(hub)


FAILURES = (
    offer_fails,
    answer_fails,
    check_fails,
    answer_is_another,
    confirmation_is_altered,
    confirmation_is_lost,
    nothing_comes_back,
)


@pytest.mark.parametrize("fail", FAILURES)
@pytest.mark.parametrize("forgets", ["nobody", "the hub that answered"])
def test_a_step_that_fails_ends_the_carrier_and_nothing_else(fail: Callable[[Broken], None], forgets: str) -> None:
    """The same session goes on over a new handshake, with new keys; no stream notices.

    `forgets`: also where the responder has lost one of the two roots that it may hold, namely the one that the
    initiator does not name, everything goes on: nobody needs what a step was to replace.
    """
    broken = Broken()
    pair = broken.pair
    (session,), (theirs,) = pair.a.link.sessions, pair.b.link.sessions
    sid, keys = session.sid, broken.wire.ends["A"].established.th
    fail(broken)
    _lose(pair, broken.wire)
    assert session.phase is theirs.phase is Phase.LOST
    ((named, root),) = session.roots.items()
    assert theirs.roots[named] == root
    if forgets != "nobody":
        for index in [index for index in theirs.roots if index != named]:
            del theirs.roots[index]
    pair.held_jobs.clear()
    pair.run_jobs = True
    assert pair.a.link.wants_carrier(pair.now)
    wire = pair.dial(pair.a)
    pair.settle()
    assert pair.a.link.sessions == [session]
    assert pair.b.link.sessions == [theirs]
    assert session.sid == theirs.sid == sid
    assert wire.ends["A"].established.th != keys
    assert session.index == theirs.index == named + 2  # a resume, and the step that follows each
    assert session.roots == theirs.roots
    assert bytes(pair.b.received[broken.stream.id]) == WRITTEN
    assert pair.a.resets == pair.b.resets == {}
    for hub in (pair.a, pair.b):
        assert not [event for event in hub.events if isinstance(event, ev.Alarm)]


def _lose(pair: CorePair, wire: Wire) -> None:
    """Whoever has not noticed yet hears that the TCP connection is gone."""
    wire.cut = False
    for hub in (pair.a, pair.b):
        carrier = wire.ends.pop(hub.name, None)
        wire.to[hub.name].clear()
        if carrier is not None:
            hub.link.detach(carrier, "reset", pair.now)
            pair.flush(hub)


@pytest.mark.parametrize("fail", [offer_fails, answer_fails, check_fails, answer_is_another, confirmation_is_altered])
def test_whoever_finds_the_fault_drops_the_carrier_at_once(fail: Callable[[Broken], None]) -> None:
    """And says nothing on it: not even what waited."""
    broken = Broken()
    fail(broken)
    pair = broken.pair
    closing = [event for hub in (pair.a, pair.b) for event in hub.seen(CarrierClosing)]
    assert [(event.code, event.fault) for event in closing if isinstance(event, CarrierClosing)] in (
        [("bad_ratchet", True)],
        [("bad_record", True)],
    )


def test_job_that_fails_with_a_protocol_error_is_no_exception_of_the_facade() -> None:
    """What a job raises, whatever it is, ends the carrier and is not thrown at the shell."""
    broken = Broken()
    ((_, job),) = broken.pair.held_jobs
    assert isinstance(job, Job)
    broken.pair.a.link.job_done(job, ProtocolError("x"), broken.pair.now)
    broken.pair.flush(broken.pair.a)
    assert broken.pair.a.link.sessions[0].phase is Phase.LOST
