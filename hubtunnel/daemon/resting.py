"""What the sessions of one peer rest on: they leave link keys that end, and end with those that are revoked (LK5, LK6).

A carrier rests on the two link keys of its own handshake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hubtunnel.daemon import contexts
from hubtunnel.daemon.local import text_of
from hubtunnel.daemon.logs import event, log
from hubtunnel.protocol.constants import WINDOW_SLACK
from hubtunnel.protocol.handshake import Established
from hubtunnel.protocol.pair import PairContext
from hubtunnel.protocol.session import Session

if TYPE_CHECKING:
    from hubtunnel.daemon.link import PeerLink

TELL_REVOKED = 5.0  # seconds in which a peer is told, on its session, that the key under it is revoked


class Resting:
    """Looks whether what a link's carriers rest on is still to be trusted, or could be better."""

    def __init__(self, link: PeerLink) -> None:
        self._link = link
        self._to_cut: list[Session] = []

    def better_pair(self) -> PairContext | None:
        """The pair of link keys that our own session should move to; None when it rests well, or there is none."""
        link = self._link
        session = link.core.replaceable()
        if session is None or session.carrier is None or not session.ready:
            return None
        used = session.carrier.established
        now = link.services.unix_time()
        return contexts.to_move_to(link.contexts, link.announced, now, used.own.id, used.theirs.id)

    def keys_changed(self) -> None:
        """LK6: sessions on a revoked key end at once, one on a key of our own as soon as the peer has heard of it."""
        link = self._link
        theirs, ours = set(link.keys.cards.latest.card.revoked), set(link.own.card.card.revoked)
        for session in list(link.core.sessions):
            used = session.carrier.established if session.carrier is not None else None
            if used is None:
                continue
            if used.theirs.id in theirs:
                link.cut(session, _revoked(used.theirs.id))
            elif used.own.id in ours:
                self._cut_once_told(session, used.own.id)
        there = {key.id for key in link.own.links}
        self._abort_where(lambda used: used.own.id not in there and used.own.id not in ours, "our link key was deleted")

    def _cut_once_told(self, session: Session, key_id: bytes) -> None:
        """The card that revokes our key reaches the peer on this very session; but that is not waited for long."""
        link = self._link
        if session.cards.peer_has >= link.own.card.card.serial:
            link.cut(session, _revoked(key_id))
        elif session not in self._to_cut:
            self._to_cut.append(session)
            link.services.loop.call_later(TELL_REVOKED, self._cut_late, session, key_id)

    def _cut_late(self, session: Session, key_id: bytes) -> None:
        self._to_cut.remove(session)
        link = self._link
        rests = session.carrier is not None and session.carrier.established.own.id == key_id
        if rests and session in link.core.sessions and not link.closed:
            link.cut(session, _revoked(key_id))

    def time_passed(self) -> None:
        """A carrier whose window is over and which nobody moved is given up: its session resumes on other keys."""
        now = self._link.services.unix_time()
        self._abort_where(
            lambda used: min(used.own.not_after, used.theirs.not_after) + WINDOW_SLACK < now,
            "the window of its link keys is over",
        )

    def give_up(self, why: str) -> None:
        """All carriers rest on something that is no longer in force; their sessions may resume on what replaced it."""
        self._abort_where(lambda used: True, why)

    def _abort_where(self, stale: Callable[[Established], bool], why: str) -> None:
        link = self._link
        for connection in link.connections:
            if connection.carrier is not None and stale(connection.carrier.established):
                event(log.warning, "carrier_given_up", peer=link.name, address=text_of(connection.address), why=why)
                connection.abort()


def _revoked(key_id: bytes) -> str:
    return f"link key {key_id.hex()} was revoked"
