"""Any sequence of operations at any times: one chain, no number twice, no gap, no key lost."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hubtunnel.errors import HubtunnelError
from hubtunnel.identity import bundle, lifecycle, windows
from hubtunnel.identity.card import Card, SignedCard
from hubtunnel.identity.chain import accept_chain
from hubtunnel.identity.signing import SigningError
from tests.identity import making
from tests.identity.living import cards, check, hub, opened, operate
from tests.identity.making import DAY, NOW

PAUSES = st.sampled_from([1, 3600, DAY, 6 * DAY, 29 * DAY, 45 * DAY])


class Keys(RuleBasedStateMachine):
    """A hub, and a peer that takes every card as it comes."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hubtunnel-"))
        self.config = hub(self.folder / "a")
        self.now = float(NOW)
        self.seen: list[SignedCard] = cards(self.config)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def _card(self) -> Card:
        return self.seen[-1].card

    def _operate(self, name: str, **arguments: Any) -> None:
        """Do it; what is refused changes nothing."""
        try:
            operate(self.config, name, self.now, **arguments)
        except SigningError as exc:
            if "at most 64" not in str(exc):
                raise
        own = cards(self.config)
        assert own[: len(self.seen)] == self.seen, "a card that was signed has changed"
        # The peer takes it as it is announced, checked against what it accepted before.
        self.seen += accept_chain(self.seen[0].card.idfp, self.seen[-1], own[len(self.seen) :])
        assert self._card().hash == own[-1].card.hash

    @rule(pause=PAUSES)
    def wait(self, pause: int) -> None:
        """As a daemon does: what is due is rotated and deleted, a day at a time."""
        until = self.now + pause
        while self.now < until:
            self.now = min(until, self.now + DAY)
            if lifecycle.rotation_due(self.seen[-1], self.now) <= self.now:
                self._operate("rotate")
            operate(self.config, "tidy", self.now)

    @rule(at_once=st.booleans())
    def rotate(self, at_once: bool) -> None:
        self._operate("rotate", at_once=at_once)

    @rule(every=st.sampled_from([60, 3600, DAY, 7 * DAY]), count=st.integers(1, 9), only=st.booleans())
    def issue(self, every: int, count: int, only: bool) -> None:
        self._operate("issue", every=every, count=count, only=only)

    @rule(which=st.integers(0, 63))
    def revoke(self, which: int) -> None:
        keys = self._card().link_keys
        self._operate("revoke", key=keys[which % len(keys)].id.hex())

    @rule(which=st.integers(0, 63))
    def delete(self, which: int) -> None:
        keys = self._card().link_keys
        self._operate("delete", key=keys[which % len(keys)].id.hex(), force=True)

    @rule()
    def new_identity(self) -> None:
        self._operate("rotate", identity=True)

    @rule()
    def signed_elsewhere(self) -> None:
        """The same folder on another machine rotates, and its bundle comes here, twice."""
        shutil.copytree(self.config.parent, self.folder / "there")
        there = self.folder / "there" / self.config.name
        try:
            operate(there, "rotate", self.now)
            with opened(there, write=False) as (_, state):
                data = bundle.collect(state, self.now).pack()
        except HubtunnelError:
            return
        finally:
            shutil.rmtree(self.folder / "there")
        self._operate("import", data=data)
        self._operate("import", data=data)

    @invariant()
    def all_is_well(self) -> None:
        if not hasattr(self, "folder"):
            return
        card = check(self.config, self.now)
        serials = [signed.card.serial for signed in cards(self.config)]
        assert len(set(serials)) == len(serials)
        newest = max(key.not_before for key in card.link_keys)
        assert windows.current(card.link_keys, self.now) is not None, "no link key can be used now"
        assert windows.covered_until(card.link_keys, self.now) > newest, "a gap before the newest key's window"
        fresh = accept_chain(making.identity("a").public.idfp, None, cards(self.config))
        assert fresh[-1].card.hash == card.hash


TestKeys = pytest.mark.slow(pytest.mark.timeout(300)(Keys.TestCase))
TestKeys.settings = settings(
    max_examples=12, stateful_step_count=10, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
