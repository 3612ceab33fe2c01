"""A session's deadlines: facts in, deadlines out (PROTOCOL.md 6.3, 7.2, 7.4). Only this module knows what follows."""

from __future__ import annotations

from enum import IntEnum, auto

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.environment import Settings

NEVER = float("inf")


class Due(IntEnum):
    """What a deadline asks for."""

    RATCHET = auto()
    STALLED = auto()
    EPOCH_OVER = auto()
    PING = auto()
    DEAD = auto()
    UNANSWERED = auto()
    LINGER_OVER = auto()
    CLOSE_OVER = auto()


# The deadlines that end a carrier: code and text for the log.
CARRIER_ENDS = {
    Due.DEAD: ("dead", "no record for three keepalive intervals"),
    Due.STALLED: ("ratchet_stalled", "a ratchet step made no progress"),
    Due.EPOCH_OVER: ("epoch_over", "an epoch went on for too long"),
    Due.UNANSWERED: ("silent", "no answer to the first record"),
}


class SessionClock:
    """When the next thing happens on a session, if nothing else does."""

    __slots__ = (
        "_at",
        "_first_data_at",
        "_heard_at",
        "_initiator",
        "_interval",
        "_ratchet_asked",
        "_settings",
        "_step_ended_at",
        "_stepping",
    )

    def __init__(self, settings: Settings, *, initiator: bool) -> None:
        self._settings = settings
        self._initiator = initiator
        self._interval = settings.ratchet_interval_min  # RT5: from one step's end to the next one's begin
        self._at: dict[Due, float] = {}
        self._heard_at = 0.0
        self._first_data_at: float | None = None
        self._step_ended_at = -NEVER
        self._stepping = False
        self._ratchet_asked = False

    # --- facts ----------------------------------------------------------------------------------------------

    def on_hello(self, peers_interval: float) -> None:
        """RT5, RT9: how soon after a step the peer takes the next; we keep twice that, and never less than our own."""
        self._interval = max(self._settings.ratchet_interval_min, 2 * peers_interval)

    def on_attached(self, now: float, *, waiting: bool) -> None:
        """A carrier is there; `waiting`: our first record still needs its answer."""
        self._at.pop(Due.LINGER_OVER, None)
        self._forget_epoch()
        self._heard_at = now
        self._at[Due.PING] = now + self._settings.keepalive
        self._at[Due.DEAD] = now + c.DEAD_FACTOR * self._settings.keepalive
        if waiting:
            self._at[Due.UNANSWERED] = now + c.FIRST_RECORD_TIMEOUT

    def on_lost(self, now: float) -> None:
        """The carrier is gone."""
        for due in (Due.PING, Due.DEAD, Due.UNANSWERED):
            self._at.pop(due, None)
        self._forget_epoch()
        self._at.setdefault(Due.LINGER_OVER, now + self._settings.linger)

    def shorten_linger(self, now: float, seconds: float) -> None:
        """RV5: wait no longer than this for the carrier."""
        at = self._at.get(Due.LINGER_OVER)
        if at is not None:
            self._at[Due.LINGER_OVER] = min(at, now + seconds)

    def on_record(self, now: float) -> None:
        """A record was received: the peer lives. Any record counts as progress of a step (RT10)."""
        self._heard_at = now  # `due` puts off what this puts off: no deadline is moved for each record

    def on_answered(self) -> None:
        """STARTED or RESUMED came."""
        self._at.pop(Due.UNANSWERED, None)

    def on_pinged(self, now: float) -> None:
        """A PING was queued."""
        self._at[Due.PING] = now + self._settings.keepalive

    def on_data(self, now: float) -> None:
        """A DATA record of the epoch of now went out or came in (RT4: the timer runs from the first one)."""
        if self._first_data_at is None:
            self._first_data_at = now
            self._at.setdefault(Due.EPOCH_OVER, now + c.EPOCH_AGE_MAX)
            self._plan_ratchet()

    def on_traffic(self, records: int, size: int, now: float) -> Due | None:
        """RT4, RT10: what one direction has carried in this epoch. EPOCH_OVER: the carrier must end now."""
        if records >= c.EPOCH_RECORDS_MAX or size >= c.EPOCH_BYTES_MAX:
            return Due.EPOCH_OVER
        if records >= self._settings.ratchet_records or size >= self._settings.ratchet_bytes:
            self.ask_ratchet(now)
        return None

    def ask_ratchet(self, now: float) -> None:
        """A step as soon as the interval allows."""
        if self._initiator and not self._stepping and not self._ratchet_asked:
            self._ratchet_asked = True
            self._at[Due.RATCHET] = max(now, self._step_ended_at + self._interval)

    def on_step_begun(self, now: float) -> None:
        """A ratchet step is in flight."""
        self._stepping = True
        self._ratchet_asked = False
        self._at.pop(Due.RATCHET, None)
        self._at[Due.STALLED] = now + c.RATCHET_STALL

    def on_turned(self) -> None:
        """Our sending side is in the next epoch: DATA from here on is that epoch's first."""
        self._first_data_at = None

    def on_step_done(self, now: float) -> None:
        """A ratchet step is through; `on_turned` came before."""
        first_data_at = self._first_data_at
        self._forget_epoch()
        self._step_ended_at = now
        if first_data_at is not None:  # sent between our turn and the peer's
            self.on_data(first_data_at)

    def too_soon(self, now: float) -> bool:
        """RT9: whether a responder refuses a step for coming right after the last one."""
        return now - self._step_ended_at < self._settings.ratchet_interval_refused

    def on_closing(self, now: float) -> None:
        """CLOSE was sent."""
        self._at.pop(Due.RATCHET, None)
        self._at.setdefault(Due.CLOSE_OVER, now + c.CLOSE_ANSWER_TIMEOUT)

    def stop(self) -> None:
        """The session is over."""
        self._at.clear()

    def _forget_epoch(self) -> None:
        self._stepping = False
        self._ratchet_asked = False
        self._first_data_at = None
        for due in (Due.RATCHET, Due.STALLED, Due.EPOCH_OVER):
            self._at.pop(due, None)

    def _plan_ratchet(self) -> None:
        if self._initiator and self._first_data_at is not None and not self._stepping and not self._ratchet_asked:
            earliest = self._step_ended_at + self._interval
            self._at[Due.RATCHET] = max(self._first_data_at + self._settings.ratchet_after, earliest)

    # --- deadlines ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When `due` has something, in the caller's seconds."""
        return min(self._at.values(), default=NEVER)

    def due(self, now: float) -> list[Due]:
        """What is due now, once."""
        ready = []
        for due in [due for due, at in self._at.items() if at <= now]:
            at = self._put_off(due)
            if at > now:
                self._at[due] = at
            else:
                del self._at[due]
                ready.append(due)
        return ready

    def _put_off(self, due: Due) -> float:
        """Where a deadline stands that the last record received may have moved."""
        if due is Due.PING:
            return max(self._at[due], self._heard_at + self._settings.keepalive)
        if due is Due.DEAD:
            return self._heard_at + c.DEAD_FACTOR * self._settings.keepalive
        if due is Due.STALLED:
            return max(self._at[due], self._heard_at + c.RATCHET_STALL)
        return self._at[due]
