"""Spacing of dials."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.daemon.backoff import CEILING, Backoff
from hubtunnel.protocol.constants import BACKOFF_RESET_AFTER


def test_first_dial_is_at_once() -> None:
    assert Backoff(lambda: 0.99).next_dial_at(100.0) == 100.0


def test_ceilings_double_up_to_the_cap() -> None:
    backoff = Backoff(lambda: 1.0)
    waits = []
    now = 0.0
    for _ in range(9):
        at = backoff.next_dial_at(now)
        waits.append(at - now)
        now = at
        backoff.dialling(now)
    assert waits == [0, 1, 2, 4, 8, 16, 30, 30, 30]


@given(st.floats(min_value=0, max_value=1, exclude_max=True), st.integers(min_value=7, max_value=5000))
def test_jitter_is_full_after_the_cap(chance: float, attempts: int) -> None:
    """However long a peer is away, a wait is drawn between 0 and the cap, never near the cap alone."""
    backoff = Backoff(lambda: chance)
    for _ in range(attempts):
        backoff.dialling(0.0)
    assert backoff.next_dial_at(0.0) == chance * CEILING


def test_waits_count_from_the_start_of_the_dial() -> None:
    """A carrier that held for longer than its wait would have been is replaced at once."""
    backoff = Backoff(lambda: 0.5)
    for _ in range(4):
        backoff.dialling(100.0)
    assert backoff.ceiling() == 8.0
    backoff.up(100.1)
    backoff.down(101.0)
    assert backoff.next_dial_at(101.0) == 104.0
    backoff.down(110.0)
    assert backoff.next_dial_at(110.0) == 110.0


def test_only_a_carrier_that_was_up_for_long_resets() -> None:
    backoff = Backoff(lambda: 0.5)
    for _ in range(5):
        backoff.dialling(0.0)
    backoff.up(0.0)
    backoff.down(BACKOFF_RESET_AFTER - 0.1)
    assert backoff.attempts == 5
    backoff.up(100.0)
    backoff.down(100.0 + BACKOFF_RESET_AFTER)
    assert backoff.attempts == 0
    assert backoff.next_dial_at(170.0) == 170.0


def test_a_loss_that_follows_no_success_changes_nothing() -> None:
    backoff = Backoff(lambda: 0.5)
    backoff.dialling(0.0)
    backoff.down(1000.0)
    assert backoff.attempts == 1
