"""When a session that works goes over to a better carrier, made before the old one is given up.

Better are the link keys that it should rest on (LK2, LK5), and an endpoint that stands before the one that was dialled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubtunnel.config import Endpoint
from hubtunnel.daemon import contexts
from hubtunnel.daemon.carrier import DialledConnection
from hubtunnel.daemon.logs import event, log
from hubtunnel.daemon.reasons import Failure
from hubtunnel.protocol.pair import PairContext

if TYPE_CHECKING:
    from hubtunnel.daemon.link import PeerLink

KEYS_AGAIN = 30.0  # seconds from one failed attempt to move to better keys to the next, doubled each time
RETURN_AFTER = 60.0  # seconds on another endpoint after which the preferred ones are tried, doubled each time
AGAIN_MAX = 600.0  # both at most; a carrier that stayed where it was preferred for so long lets the count begin anew

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Move:
    """A dial to be made while the session works."""

    why: str  # keys | endpoint
    context: PairContext
    endpoints: tuple[Endpoint, ...]


class Moves:
    """What could be better about the carrier of the session that we dialled, and when to try."""

    def __init__(self, link: PeerLink, wake: Callable[[], None]) -> None:
        self._link = link
        self._services = link.services
        self._wake = wake
        self._keys_at = _NEVER
        self._keys_failed = 0
        self._return_at = _NEVER
        self._returns = 0
        self._returned_at = -_NEVER

    @property
    def at(self) -> float:
        """When there is something to try; infinite when there is nothing."""
        return min(self._keys_at, self._return_at)

    def look(self) -> None:
        """Carriers, keys, windows, endpoints or what the peer knows have changed."""
        now, random = self._link.now(), self._services.random
        if self._link.better_pair() is None:
            self._keys_at, self._keys_failed = _NEVER, 0
        elif self._keys_at == _NEVER:
            # Many hubs learn of a new key at once: they do not all shake hands in the same second.
            self._keys_at = now + random() * self._services.move_spread
            self._wake()
        if not self._preferred():
            self._return_at = _NEVER
        elif self._return_at == _NEVER:
            if now - self._returned_at > AGAIN_MAX:
                self._returns = 0
            self._return_at = now + _wait(RETURN_AFTER, self._returns, random())
            self._wake()

    def take(self, now: float) -> Move | None:
        """What to try now; `done` must follow."""
        link = self._link
        if self._keys_at <= now:
            self._keys_at = _NEVER
            better = link.better_pair()
            return None if better is None else Move("keys", better, link.peer.endpoints)
        self._return_at = _NEVER
        context, preferred = self._context(), self._preferred()
        return None if context is None or not preferred else Move("endpoint", context, preferred)

    def done(self, move: Move, failure: Failure | None) -> None:
        """It was tried."""
        now, random = self._link.now(), self._services.random()
        if move.why == "keys":
            first = self._keys_failed == 0
            if failure is None:
                self._keys_failed = 0
            else:
                self._keys_at = now + _wait(KEYS_AGAIN, self._keys_failed, random)
                self._keys_failed += 1
        else:
            first = self._returns == 0
            self._returns += 1
            if failure is None:
                self._returned_at = now
            else:
                self._return_at = now + _wait(RETURN_AFTER, self._returns, random)
        if failure is not None:
            method = log.warning if first and move.why == "keys" else log.debug
            text = failure.text
            event(method, "move_failed", peer=self._link.name, why=move.why, code=failure.reason.value, text=text)
            return
        event(
            log.info,
            "session_moves",
            peer=self._link.name,
            why=move.why,
            our_key=move.context.own.id.hex(),
            their_key=move.context.theirs.id.hex(),
        )

    def _preferred(self) -> tuple[Endpoint, ...]:
        """The endpoints that stand before the one of our session's carrier; none when it is the first."""
        session = self._link.core.replaceable()
        if session is None or session.carrier is None or not session.ready:
            return ()
        connection, endpoints = session.carrier.app, self._link.peer.endpoints
        at = connection.endpoint if isinstance(connection, DialledConnection) else None
        return endpoints[: endpoints.index(at)] if at in endpoints else endpoints

    def _context(self) -> PairContext | None:
        """The pair of link keys that the session rests on, or the best one when that can no longer be dialled with."""
        link = self._link
        session = link.core.replaceable()
        pairs = contexts.dialling(link.contexts, link.announced, self._services.unix_time())
        if session is None or session.carrier is None or not pairs:
            return None
        used = session.carrier.established
        same = (pair for pair in pairs if (pair.own.id, pair.theirs.id) == (used.own.id, used.theirs.id))
        return next(same, pairs[0])


def _wait(first: float, times: int, random: float) -> float:
    """Seconds, doubled `times` times, drawn from their upper half."""
    return min(AGAIN_MAX, first * 2.0 ** min(times, 8)) * (0.5 + random / 2)
