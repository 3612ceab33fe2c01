"""Spacing of dials."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.daemon.backoff import CEILING, DIALS_PER_SECOND, Backoff, Pace
from hubtunnel.protocol.constants import (
    BACKOFF_CEILING_AFTER_LOSS,
    BACKOFF_RESET_AFTER,
    BACKOFF_RESET_AFTER_LOSS,
    RESTART_CEILING,
    RESTART_EXPECTED,
)


def test_dials_to_any_number_of_absent_peers_share_a_pace() -> None:
    """A thousand that are due in the same moment are dialled one after the other; one that is alone does not wait."""
    pace = Pace()
    assert pace.slot(50.0) == 50.0
    slots = [pace.slot(100.0) for _ in range(1000)]
    assert slots == sorted(slots)
    assert slots[0] == 100.0
    assert slots[-1] == pytest.approx(100.0 + 999 / DIALS_PER_SECOND)
    assert pace.slot(1000.0) == 1000.0


def test_only_who_is_away_for_long_waits_for_others() -> None:
    backoff = Backoff(lambda: 1.0)
    reached = []
    for _ in range(8):
        reached.append(backoff.at_its_ceiling)
        backoff.dialling(0.0)
    assert reached == [False] * 6 + [True] * 2
    backoff.reset()
    assert not backoff.at_its_ceiling


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
    assert backoff.next_dial_at(101.0) == 104.0
    assert backoff.next_dial_at(110.0) == 110.0


def test_of_carriers_that_end_with_their_session_only_one_that_was_up_for_long_resets() -> None:
    backoff = Backoff(lambda: 0.5)
    for _ in range(5):
        backoff.dialling(0.0)
    backoff.up(0.0)
    backoff.down(BACKOFF_RESET_AFTER - 0.1, waits=False)
    assert backoff.attempts == 5
    backoff.up(100.0)
    backoff.down(100.0 + BACKOFF_RESET_AFTER, waits=False)
    assert backoff.attempts == 0
    assert backoff.next_dial_at(170.0) == 170.0


def test_a_line_that_breaks_every_other_second_is_dialled_at_once() -> None:
    """LV4: streams stand still meanwhile, and the peer has just proved that it is there."""
    backoff = Backoff(lambda: 0.99)
    now = 0.0
    for _ in range(20):
        assert backoff.next_dial_at(now) == now
        backoff.dialling(now)
        backoff.up(now + 0.1)
        now += 0.1 + BACKOFF_RESET_AFTER_LOSS
        backoff.down(now, waits=True)


@pytest.mark.parametrize(("waits", "expected"), [(True, [1, 2, 2, 2, 2, 2, 2]), (False, [1, 2, 4, 8, 16, 30, 30])])
def test_carriers_that_break_at_birth(waits: bool, expected: list[float]) -> None:
    """While streams wait they are dialled up to every second on average; else ever later."""
    backoff = Backoff(lambda: 1.0)
    now, found = 0.0, []
    for _ in expected:
        backoff.dialling(now)
        backoff.up(now)
        backoff.down(now + BACKOFF_RESET_AFTER_LOSS - 0.5, waits=waits)
        found.append(backoff.next_dial_at(now) - now)
        now += found[-1]
    assert found == expected


def test_a_peer_that_was_away_and_comes_back_for_an_instant() -> None:
    """However many dials failed before: the carrier that came up and broke lowers the ceiling."""
    backoff = Backoff(lambda: 1.0)
    for _ in range(10):
        backoff.dialling(0.0)
    backoff.up(0.1)
    backoff.down(0.2, waits=True)
    assert backoff.ceiling() == BACKOFF_CEILING_AFTER_LOSS


def test_a_loss_that_follows_no_success_changes_nothing() -> None:
    backoff = Backoff(lambda: 0.5)
    backoff.dialling(0.0)
    backoff.down(1000.0, waits=True)
    assert backoff.attempts == 1


def test_a_peer_that_said_that_it_restarts_is_waited_for_in_short_steps() -> None:
    """However many dials came before, and for a minute: then it is away like any other."""
    backoff = Backoff(lambda: 1.0)
    for _ in range(10):
        backoff.dialling(0.0)
    backoff.restarts(0.0)
    now, dials = 0.0, []
    while now < RESTART_EXPECTED:
        at = backoff.next_dial_at(now)
        dials.append(at - now)
        backoff.dialling(at)
        now = at
    assert dials == [RESTART_CEILING] * round(RESTART_EXPECTED / RESTART_CEILING)
    assert backoff.next_dial_at(now) == now + CEILING


def test_a_restart_makes_no_wait_longer() -> None:
    backoff = Backoff(lambda: 1.0)
    backoff.dialling(0.0)
    backoff.restarts(0.0)
    assert backoff.next_dial_at(0.0) == 1.0
