"""When to dial again: at once after a carrier that lived, then ever later, never two hubs in step."""

from __future__ import annotations

import math
from collections.abc import Callable

from hubtunnel.protocol.constants import (
    BACKOFF_CEILING_AFTER_LOSS,
    BACKOFF_RESET_AFTER,
    BACKOFF_RESET_AFTER_LOSS,
    RESTART_CEILING,
    RESTART_EXPECTED,
)

FIRST_CEILING = 1.0  # seconds; the second dial in a row starts at most this much after the first
CEILING = 30.0
DIALS_PER_SECOND = 20  # to all peers together for which the ceiling has been reached
DEMAND_CEILING = 4.0  # the same while mail waits for the peer: less than it is held for before the MTA is told 421
_ATTEMPTS_AFTER_LOSS = 1 + round(math.log2(BACKOFF_CEILING_AFTER_LOSS / FIRST_CEILING))


class Backoff:
    """Spaces the dials to one peer.

    The wait between the *starts* of two dials is uniform between 0 and a ceiling that doubles from `FIRST_CEILING` to
    `CEILING` (full jitter, drawn after the cap: jitter before the cap lets all waiters meet again at the cap). Counting
    from the start of a dial means that a carrier that held for a while is replaced at once when it breaks, and that
    one that breaks at birth is not dialled in a loop. The count begins anew after a carrier that was up for
    `BACKOFF_RESET_AFTER` seconds, and after one that was up for `BACKOFF_RESET_AFTER_LOSS` and left a session behind
    whose streams wait; one that left it sooner lowers the ceiling to `BACKOFF_CEILING_AFTER_LOSS`. While a
    peer is expected back from a restart that it announced, no ceiling is above `RESTART_CEILING` (LV4).
    """

    __slots__ = ("_dialled_at", "_expected_until", "_random", "_up_at", "attempts")

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random  # uniform in [0, 1)
        self._dialled_at: float | None = None
        self._up_at: float | None = None
        self._expected_until = float("-inf")
        self.attempts = 0

    def ceiling(self) -> float:
        """Seconds that the next wait stays below; 0 for the first dial."""
        if self.attempts == 0:
            return 0.0
        # the exponent is bounded before the power is taken: a peer may be away for months
        return float(min(CEILING, FIRST_CEILING * 2 ** min(self.attempts - 1, 16)))

    @property
    def at_its_ceiling(self) -> bool:
        """Whether it is of no consequence to be a little late: the peer has been away for a while."""
        return self.ceiling() >= CEILING

    def next_dial_at(self, now: float) -> float:
        """The time of the next dial; draw it once per dial."""
        if self._dialled_at is None:
            return now
        ceiling = min(RESTART_CEILING, self.ceiling()) if now < self._expected_until else self.ceiling()
        return max(now, self._dialled_at + self._random() * ceiling)

    def soon(self, now: float) -> float:
        """The time of a dial that somebody waits for: at most `DEMAND_CEILING` after the latest, whatever the count."""
        if self._dialled_at is None:
            return now
        return max(now, self._dialled_at + self._random() * min(DEMAND_CEILING, self.ceiling()))

    def dialling(self, now: float) -> None:
        """A dial starts."""
        self._dialled_at = now
        self.attempts += 1

    def up(self, now: float) -> None:
        """The dial led to a carrier."""
        self._up_at = now

    def down(self, now: float, *, waits: bool) -> None:
        """That carrier is gone. `waits`: its session is not over and waits for the next."""
        if self._up_at is not None:
            held = now - self._up_at
            if held >= (BACKOFF_RESET_AFTER_LOSS if waits else BACKOFF_RESET_AFTER):
                self.attempts = 0
            elif waits:
                self.attempts = min(self.attempts, _ATTEMPTS_AFTER_LOSS)
        self._up_at = None

    def restarts(self, now: float) -> None:
        """The peer has said that it restarts."""
        self._expected_until = now + RESTART_EXPECTED

    def reset(self) -> None:
        """Something changed that makes a dial promising (the peer dialled us, its endpoints were changed)."""
        self.attempts = 0


class Pace:
    """What the dials to all peers that stay away have in common: so many a second, however many peers there are."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = float("-inf")

    def slot(self, now: float) -> float:
        """The time of the next dial; each slot is given once, first come first served."""
        self._last = max(now, self._last + 1 / DIALS_PER_SECOND)
        return self._last
