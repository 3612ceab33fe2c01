"""Two hubs under random rules: letters, cuts, flipped bits, time, restarts, dials, steps, drains (hypothesis)."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Code
from hubtunnel.protocol.link import Settings
from tests.protocol.letters import Post
from tests.protocol.standins import kem_in_place
from tests.protocol.support import Hub

HUBS = st.sampled_from(["A", "B"])


class TwoHubs(RuleBasedStateMachine):
    """Rules are what the world may do; the invariants hold after each; at the end everything comes right again."""

    post: Post
    primitives: ExitStack
    harm_left: dict[str, int]

    @initialize(seed=st.integers(0, 1000), up=st.booleans())
    def begin(self, seed: int, up: bool) -> None:
        """Two hubs, one dial. Only the KEM is a stand-in: the real one draws coins, so no run is like another."""
        self.primitives = ExitStack()
        self.primitives.enter_context(kem_in_place())
        self.post = Post(Settings(version="x", ratchet_after=20.0), seed=seed)
        self.harm_left = {"restart": 1, "leave": 1, "corrupt": 2, "dial": 2}
        self.post.dial(self.post.a)
        if up:
            self.post.settle()

    def allowed(self, harm: str) -> bool:
        """Rules that end sessions are not for every second step: then nothing else would ever get anywhere."""
        self.harm_left[harm] -= 1
        return self.harm_left[harm] >= 0

    def hub(self, name: str) -> Hub:
        """A hub by its name."""
        return self.post.a if name == "A" else self.post.b

    # --- letters ----------------------------------------------------------------------------------------------

    @rule(name=HUBS, size=st.sampled_from([0, 1, 500, 20_000, 70_000]))
    def a_letter(self, name: str, size: int) -> None:
        """A letter begins."""
        self.post.post(self.hub(name), size)

    @rule(name=HUBS, size=st.integers(0, 40_000), pick=st.integers(0, 99))
    def more_of_it(self, name: str, size: int, pick: int) -> None:
        """One that has begun goes on."""
        if numbers := list(self.post.sent[name]):
            self.post.write(self.hub(name), numbers[pick % len(numbers)], bytes(size))

    @rule(name=HUBS, pick=st.integers(0, 99))
    def its_end(self, name: str, pick: int) -> None:
        """One ends."""
        if numbers := list(self.post.sent[name]):
            self.post.end(self.hub(name), numbers[pick % len(numbers)])

    @rule(name=HUBS, pick=st.integers(0, 99))
    def reset(self, name: str, pick: int) -> None:
        """A client goes away in the middle."""
        if numbers := list(self.post.sent[name]):
            letter, stream = self.post.sent[name][numbers[pick % len(numbers)]]
            letter.reset |= not stream.closed
            stream.reset(Code.BROKEN)
            self.post.flush(self.hub(name))

    # --- the net ----------------------------------------------------------------------------------------------

    @rule(pick=st.integers(0, 9), name=HUBS, n=st.integers(1, 5000) | st.none())
    def some_bytes(self, pick: int, name: str, n: int | None) -> None:
        """A few bytes of what is on its way to one hub arrive, or all of them."""
        self.post.deliver(self.post.wires[pick % len(self.post.wires)], self.hub(name), n)

    @rule()
    def everything_arrives(self) -> None:
        """All that is on its way."""
        self.post.settle()

    @rule(pick=st.integers(0, 9), lose=st.booleans())
    def cut(self, pick: int, lose: bool) -> None:
        """A wire breaks."""
        self.post.cut(self.post.wires[pick % len(self.post.wires)], lose=lose)

    @rule(pick=st.integers(0, 9), name=HUBS)
    def cut_at_one_end(self, pick: int, name: str) -> None:
        """One end is closed; what it wrote may still arrive, late."""
        wire, hub = self.post.wires[pick % len(self.post.wires)], self.hub(name)
        carrier = wire.ends.pop(name, None)
        if carrier is not None:
            wire.to[name].clear()
            hub.link.detach(carrier, "reset", self.post.now)
            self.post.flush(hub)

    @rule(pick=st.integers(0, 9), name=HUBS, at=st.integers(0, 100_000), bit=st.integers(0, 7))
    def corrupt(self, pick: int, name: str, at: int, bit: int) -> None:
        """A bit turns over."""
        on_the_way = self.post.wires[pick % len(self.post.wires)].to[name]
        if on_the_way and self.allowed("corrupt"):
            on_the_way[at % len(on_the_way)] ^= 1 << bit

    @rule(name=HUBS)
    def dial(self, name: str) -> None:
        """A dial that its hub may not even have wanted."""
        if self.allowed("dial"):
            self.post.dial(self.hub(name))

    # --- time and processes -----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.01, 0.3, 3.0, 11.0, 16.0, 50.0, 160.0]))
    def time_passes(self, seconds: float) -> None:
        """With everything delivered as it comes."""
        self.post.advance(seconds)

    @rule(seconds=st.sampled_from([0.3, 3.0, 11.0, 46.0]))
    def time_passes_in_a_black_hole(self, seconds: float) -> None:
        """Nothing arrives, nobody notices."""
        self.post.now += seconds
        for hub in (self.post.a, self.post.b):
            hub.link.handle_deadline(self.post.now)
            self.post.flush(hub)
            left = hub.link.next_deadline()
            assert left is None or left > self.post.now

    @rule(name=HUBS)
    def restart(self, name: str) -> None:
        """A process ends without a word and another one begins."""
        if self.allowed("restart"):
            self.post.restart(self.hub(name))

    @rule(flights=st.integers(0, 3))
    def step(self, flights: int) -> None:
        """A ratchet step begins at whoever may begin one, and gets as far as so many flights."""
        self.post.now += c.RATCHET_INTERVAL_MIN
        for hub in (self.post.a, self.post.b):
            if hub.link.rekey(self.post.now):
                hub.link.handle_deadline(self.post.now)
                self.post.flush(hub)
        for n in range(flights):
            for wire in list(self.post.wires):
                if not wire.cut:
                    self.post.deliver(wire, (self.post.b, self.post.a)[n % 2])

    @rule(name=HUBS, close=st.booleans())
    def leave(self, name: str, close: bool) -> None:
        """A hub drains or closes its sessions."""
        if not self.allowed("leave"):
            return
        link = self.hub(name).link
        (link.close if close else link.drain)(Code.RESTART, self.post.now)
        self.post.flush(self.hub(name))

    @rule()
    def as_daemons_do(self) -> None:
        """Hubs dial where they want to, and what they say arrives."""
        self.post.dial_where_wanted()
        self.post.settle()

    # --- what must hold ---------------------------------------------------------------------------------------

    @invariant()
    def letters_are_whole_or_beginnings(self) -> None:
        """In order and once; bounds kept."""
        if not hasattr(self, "post"):
            return
        self.post.check()
        for hub in (self.post.a, self.post.b):
            for session in hub.link.sessions:
                assert len(session.roots) <= (1 if session.initiator else 2)
            live = [s for s in hub.link.sessions if not s.leaving]
            assert len(live) <= c.SESSIONS_PER_LINK

    def teardown(self) -> None:
        """Without further faults both hubs are ready again, and every letter that was not reset has arrived."""
        if not hasattr(self, "post"):
            return
        with self.primitives:
            self.comes_right_again()

    def comes_right_again(self) -> None:
        """Letters end, hubs dial, half an hour passes at most."""
        self.post.live_on(30)
        for name in ("A", "B"):
            for number in list(self.post.sent[name]):
                self.post.end(self.hub(name), number)
        self.post.live_on(c.LINGER + 100)
        self.post.check()
        self.post.check_arrived()


TwoHubs.TestCase.settings = settings(
    max_examples=100 if os.environ.get("CI") == "true" else 40,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)
test_two_hubs = pytest.mark.slow(TwoHubs.TestCase)
