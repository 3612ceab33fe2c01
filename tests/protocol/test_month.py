"""A month of two hubs in seconds: letters by day and night, cuts, black holes, flipped bits, restarts, steps."""

from __future__ import annotations

import random

import pytest

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.link import Settings
from tests.protocol.letters import Post
from tests.protocol.standins import kem_in_place
from tests.protocol.support import Wire

DAY = 86_400.0
LATEST = 8  # letters that are compared at every step; after every event it is all of them


class Watched(Post):
    """A post that is checked whenever bytes have moved or a deadline was met, and counts how often that was."""

    steps = 0

    def settle(self, rounds: int = 200) -> None:
        """Every invariant that holds between any two events holds here."""
        super().settle(rounds)
        self.steps += 1
        assert self.faults == []
        self._check_roots()
        for hub in (self.a, self.b):
            sent = self.sent[self.other(hub).name]
            for got in self.received[hub.name][-LATEST:]:
                if got.number in sent:
                    assert sent[got.number][0].data.startswith(got.data)
            for session in hub.link.sessions:
                assert len(session.roots) <= (1 if session.initiator else 2)
                assert not session.up or session.carrier is not None
            assert sum(not session.ended for session in hub.link.sessions) <= c.SESSIONS_PER_LINK
            assert 0 <= hub.budget.used <= hub.budget.peak
            assert hub.budget.promised >= 0


class Month:
    """The faults of a month, drawn from a seed; after each the hubs go on as daemons do."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        # Keepalive of ten minutes: a month of fifteen seconds is 350,000 PINGs, and nothing else.
        self.post = Watched(Settings(version="x", keepalive=600.0), seed=seed)
        self.counts: dict[str, int] = {}

    def wire(self) -> Wire | None:
        """A wire that both ends hold."""
        whole = [wire for wire in self.post.wires if len(wire.ends) == 2]
        return self.random.choice(whole) if whole else None

    def happen(self, what: str) -> None:
        """One event."""
        post, hub = self.post, self.random.choice((self.post.a, self.post.b))
        wire = self.wire()
        self.counts[what] = self.counts.get(what, 0) + 1
        if what == "letter":
            number = post.post(hub, self.random.choice((100, 2_000, 30_000)))
            if number is not None:
                post.end(hub, number)
        elif what == "cut" and wire is not None:
            number = post.post(hub, 30_000)
            post.deliver(wire, post.other(hub), self.random.randrange(20_000))
            post.cut(wire)
            if number is not None:
                post.end(hub, number)
        elif what == "flip" and wire is not None:
            post.post(hub, 1_000)
            on_the_way = wire.to[post.other(hub).name]
            if on_the_way:
                on_the_way[self.random.randrange(len(on_the_way))] ^= 1 << self.random.randrange(8)
        elif what == "black hole" and wire is not None:
            wire.cut = True  # nothing moves and nobody is told
        elif what == "restart":
            post.restart(hub)
        elif what == "crossing":
            post.dial(post.a)
            post.dial(post.b)

    def live(self, days: float) -> None:
        """So many days."""
        end = self.post.now + days * DAY
        while self.post.now < end:
            kinds, weights = ["letter", "cut", "flip", "black hole", "restart", "crossing"], [60, 12, 5, 2, 1, 2]
            self.happen(self.random.choices(kinds, weights)[0])
            self.post.check()
            self.pass_time(self.random.expovariate(1 / 5000))

    def pass_time(self, seconds: float) -> None:
        """Hubs dial where they want to, every now and then."""
        for part in (0.0, 0.3, 16.0, 0.05 * seconds, 0.95 * seconds):
            self.post.dial_where_wanted()
            self.post.advance(part)


@pytest.mark.slow
def test_a_month() -> None:
    """Thirty days: every letter whole or reset, no alarm, and a link that is ready at the end."""
    with kem_in_place():
        a_month(Month(1))


def a_month(month: Month) -> None:
    """The days, then an hour without faults, then everything is compared."""
    month.post.dial(month.post.a)
    month.live(30)
    post = month.post
    post.live_on(c.LINGER + 2_000, step=100.0)
    for name in ("A", "B"):
        for number in list(post.sent[name]):
            post.end(post.a if name == "A" else post.b, number)
    post.live_on(60)
    post.check()
    post.check_arrived()
    assert post.alarms == []
    assert post.steps > 5_000
    assert min(month.counts.values()) > 0
    assert len(month.counts) == 6
    for hub in (post.a, post.b):
        assert (hub.budget.used, hub.budget.promised) == (0, 0)
        assert len(hub.link.carriers) == 1
