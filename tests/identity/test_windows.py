"""Windows of link keys: never a gap, always one ahead, for any keys, clock and rhythm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.errors import UsageError
from hubtunnel.identity import windows
from hubtunnel.identity.windows import DAY, GRACE, OVERLAP, ROTATE, WINDOW, Window
from hubtunnel.protocol.constants import CARD_WINDOW_MAX
from tests.identity.making import NOW

ROTATES = st.one_of(st.floats(1, 150 * DAY), st.integers(1, 150 * DAY))
KEYS = st.lists(
    st.builds(
        lambda begin, length: Window(NOW + begin, NOW + begin + length),
        st.integers(-400 * DAY, 400 * DAY),
        st.integers(1, CARD_WINDOW_MAX),
    ),
    max_size=12,
)


@given(KEYS, ROTATES)
def test_after_a_rotation_one_is_ahead_and_no_gap_before_it(keys: list[Window], rotate: float) -> None:
    made = windows.following(keys, NOW, rotate)
    assert 1 <= len(made) <= 2
    assert made[-1].not_before > NOW
    assert windows.covered_until([*keys, *made], NOW) >= made[-1].not_after
    assert all(0 < window.not_after - window.not_before <= CARD_WINDOW_MAX for window in made)
    assert windows.rotation_due([*keys, *made], NOW) > NOW or windows.covered_until(keys, NOW) < max(
        key.not_before for key in keys
    )


@given(KEYS, st.floats(0, 800 * DAY))
def test_covered_until_is_the_first_moment_in_no_window(keys: list[Window], later: float) -> None:
    until = windows.covered_until(keys, NOW)
    assert not any(windows.holds(key, until) for key in keys)
    moment = min(NOW + later, until)
    assert moment == until or any(windows.holds(key, moment) for key in keys)


@given(KEYS, ROTATES)
def test_due_rotation_leaves_time_to_spread_the_next_key(keys: list[Window], rotate: float) -> None:
    due = windows.rotation_due(keys, NOW)
    if due > NOW:
        # Nothing to do yet: a key is ahead, and until it begins others cover every moment.
        assert any(key.not_before > NOW for key in keys)
        assert windows.covered_until(keys, NOW) > due


def test_first_rotation_is_a_month_after_init() -> None:
    keys = [Window(NOW - 3600, NOW + WINDOW), Window(NOW + ROTATE, NOW + ROTATE + WINDOW)]
    assert windows.rotation_due(keys, NOW) == NOW + ROTATE
    made = windows.following(keys, NOW + ROTATE, ROTATE)
    assert made == [Window(NOW + 2 * ROTATE, NOW + 2 * ROTATE + WINDOW)]


def test_hub_that_was_away_for_a_year_gets_a_key_now_and_one_ahead() -> None:
    keys = [Window(NOW - 400 * DAY, NOW - 220 * DAY)]
    assert windows.rotation_due(keys, NOW) <= NOW
    assert windows.following(keys, NOW, ROTATE) == [
        Window(NOW, NOW + WINDOW),
        Window(NOW + ROTATE, NOW + ROTATE + WINDOW),
    ]


@given(st.integers(1, 30 * DAY), st.integers(1, 64))
def test_series_has_no_gap_and_one_key_for_each_turn(every: int, count: int) -> None:
    made = windows.series([], NOW, every, count)
    assert [window.not_before for window in made] == [NOW + n * every for n in range(count)]
    assert all(window.not_after == window.not_before + every + OVERLAP for window in made)
    assert windows.covered_until(made, NOW) == NOW + count * every + OVERLAP
    for n, window in enumerate(made):
        assert windows.current(made, window.not_before) == made[n]


def test_series_continues_the_one_before() -> None:
    first = windows.series([], NOW, DAY, 7)
    later = NOW + 5 * DAY
    second = windows.series([*first, Window(NOW, NOW + WINDOW)], later, DAY, 7)
    assert second[0].not_before == first[-1].not_before + DAY
    assert windows.covered_until([*first, *second], later) == NOW + 14 * DAY + OVERLAP


@pytest.mark.parametrize(("every", "count"), [(0.5, 1), (DAY, 0), (DAY, 65), (400 * DAY, 1), (-DAY, 1)])
def test_series_that_no_card_could_hold(every: float, count: int) -> None:
    with pytest.raises(UsageError, match="takes"):
        windows.series([], NOW, every, count)


def test_current_is_the_newest_in_its_window_and_the_later_of_equals() -> None:
    old, one, two = Window(NOW - 9, NOW + 9), Window(NOW, NOW + 9), Window(NOW, NOW + 8)
    assert windows.current([old, one, two, Window(NOW + 1, NOW + 9)], NOW) is two
    assert windows.current([Window(NOW - 9, NOW)], NOW) is None, "a window does not hold its own end"
    assert windows.current([], NOW) is None


def test_of_keys_that_have_begun_a_card_lists_the_newest_few() -> None:
    begun = [Window(NOW - 100 + n, NOW + 1000) for n in range(20)]
    ahead = [Window(NOW + 1 + n, NOW + 1000) for n in range(20)]
    ended = [Window(NOW - 100, NOW)]
    assert windows.to_list([*ended, *begun, *ahead], NOW) == [*begun[-windows.BEGUN_MAX :], *ahead]


def test_warnings_come_at_30_14_7_and_1_days_and_not_for_a_week_of_daily_keys() -> None:
    end = NOW + WINDOW

    def at(days: float, since: float = NOW) -> int | None:
        return windows.warn_days(end, since, end - days * DAY)

    assert [at(days) for days in (31, 30, 15, 14, 8, 7, 2, 1, 0, -5)] == [None, 30, 30, 14, 14, 7, 7, 1, 1, 1]
    week = end - 7 * DAY
    assert [at(days, week) for days in (7, 6, 2, 1, 0)] == [None, None, None, 1, 1]
    assert GRACE == DAY
