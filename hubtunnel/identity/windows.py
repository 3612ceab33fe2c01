"""When link keys begin and end: arithmetic over windows, unix seconds in and out, no clock (PROTOCOL.md 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from hubtunnel.errors import UsageError
from hubtunnel.protocol.constants import CARD_LINK_KEYS_MAX, CARD_WINDOW_MAX, HOUR

DAY = 86400
CLOCK_MIN = 1735689600  # 2025-01-01: a clock before it was never set
WINDOW = 180 * DAY  # of a link key
ROTATE = 30 * DAY  # from the beginning of one window to the beginning of the next
OVERLAP = HOUR  # by which neighbours overlap at least, so that clocks may differ
GRACE = DAY  # from the end of a window to the deletion of the private key
WARN_DAYS = (30, 14, 7, 1)  # ahead of the day on which nobody, or one peer, can reach us any more
BEGUN_MAX = 8  # link keys with a window that has begun which a card lists: what is older is retired


class Window(NamedTuple):
    """From `not_before` on, and no longer at `not_after`."""

    not_before: int
    not_after: int


class HasWindow(Protocol):
    """A link key, public or private."""

    @property
    def not_before(self) -> float: ...

    @property
    def not_after(self) -> float: ...


Key = TypeVar("Key", bound=HasWindow)


def holds(key: HasWindow, now: float) -> bool:
    """Whether `now` is in the key's window."""
    return key.not_before <= now < key.not_after


def current(keys: Iterable[Key], now: float) -> Key | None:
    """The newest key whose window holds `now`: the one to be used (LK2); among equals the later one."""
    found: Key | None = None
    for key in keys:
        if holds(key, now) and (found is None or key.not_before >= found.not_before):
            found = key
    return found


def covered_until(keys: Iterable[HasWindow], now: float) -> float:
    """The first moment from `now` on that is in no key's window; `now` itself where none holds it."""
    until = now
    for key in sorted(keys, key=lambda key: key.not_before):
        if key.not_before <= until < key.not_after:
            until = key.not_after
    return until


def rotation_due(keys: Sequence[HasWindow], now: float) -> float:
    """When the next link key should be made: when the last one pinned ahead begins, at once where a gap is coming."""
    newest = max((key.not_before for key in keys), default=now)
    return newest if covered_until(keys, now) > newest else min(now, newest)


def following(keys: Sequence[HasWindow], now: float, rotate: float) -> list[Window]:
    """The windows of the link keys that a rotation makes: `rotate` after the newest, so that one is always ahead.

    Two where the first must begin at once. Never a gap: each begins before those before it end.
    """
    made: list[Window] = []
    while True:
        known: list[HasWindow] = [*keys, *made]
        newest = max((key.not_before for key in known), default=now - rotate)
        wished = min(newest + int(rotate), covered_until(known, now) - OVERLAP)
        begin = max(int(now), int(wished))
        made.append(Window(begin, begin + length(rotate)))
        if begin > now:
            return made


def length(rotate: float) -> int:
    """How long a link key's window is that is followed by another after `rotate` seconds."""
    return min(max(WINDOW, 2 * int(rotate)), CARD_WINDOW_MAX)


def series(keys: Sequence[HasWindow], now: float, every: float, count: int) -> list[Window]:
    """`count` windows, each beginning `every` seconds after the one before and ending an overlap after the next begins.

    They continue keys of the same kind that are there already, else they begin now. Raises `UsageError`.
    """
    step = int(every)
    if step < 1 or step + OVERLAP > CARD_WINDOW_MAX:
        raise UsageError(f"--every takes 1s to {(CARD_WINDOW_MAX - OVERLAP) // DAY}d")
    if not 1 <= count <= CARD_LINK_KEYS_MAX:
        raise UsageError(f"--count takes 1 to {CARD_LINK_KEYS_MAX}, what a card holds")
    alike = [key for key in keys if key.not_after - key.not_before <= step + OVERLAP]
    begin = max(int(now), int(covered_until(alike, now)) - OVERLAP)
    return [Window(begin + n * step, begin + (n + 1) * step + OVERLAP) for n in range(count)]


def to_list(keys: Sequence[Key], now: float) -> list[Key]:
    """Those of `keys` that the next card lists: none that has ended, and of those begun only the newest few."""
    begun = [key for key in keys if holds(key, now)]
    begun.sort(key=lambda key: key.not_before)
    retired = {id(key) for key in begun[:-BEGUN_MAX]}
    return [key for key in keys if key.not_after > now and id(key) not in retired]


def warn_days(until: float, since: float, now: float) -> int | None:
    """Which of the warnings is due for something that ends at `until` and was settled at `since`; None for none.

    A warning counts only where it is less than half of the whole time: a week of daily keys needs none 30 days ahead.
    """
    left = [days for days in WARN_DAYS if until - now <= days * DAY and until - since >= 2 * days * DAY]
    return min(left, default=None)
