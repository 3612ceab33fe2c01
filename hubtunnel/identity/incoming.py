"""Cards that arrive inside a session: a peer's newer one, or our own that our state has lost (PROTOCOL.md CD12, CD13).

Each is verified, stored so that it survives a crash, and put on the trail, accepted or refused, before it is answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hubtunnel.errors import CardError
from hubtunnel.identity.caller import Caller
from hubtunnel.identity.card import Card, SignedCard
from hubtunnel.identity.chain import accept_first, accept_successor, shared_key
from hubtunnel.identity.pins import HubKeys, PeerKeys
from hubtunnel.identity.signing import newest
from hubtunnel.identity.state import PeerCards, State
from hubtunnel.identity.trail import Trail, TrailError, note_accepted, note_refused
from hubtunnel.protocol.constants import Code


@dataclass(frozen=True)
class Received:
    """A card that was taken: `accepted` is a peer's newer one, `again` the one in force, `own` ours come back."""

    kind: Literal["accepted", "again", "own"]
    signed: SignedCard
    problem: str | None = None  # why it does not stand on the trail: an alarm, but no reason to stop mail


def receive(state: State, keys: HubKeys, peer: PeerKeys, data: bytes, by: Caller, now: float) -> Received:
    """Take the signed card `data` that `peer` sent. Raises `CardError`, whose code goes into CARD_NAK.

    `keys` is what is in force of everybody, for no two hubs may list one key. Load the keys anew when the kind is not
    `again`.
    """
    try:
        signed = SignedCard.parse(data)
        if signed.card.idfp == newest(state)[-1].card.idfp:
            return take_back(state, signed, by, now, source=peer.name)
        before = peer.cards
        if not accept_successor(before.latest, signed):
            return Received("again", signed)
        others = [keys.card.card, *(other.cards.latest.card for other in keys.peers if other.name != peer.name)]
        _refuse_known_elsewhere(signed.card, others)
        stored = state.peer(peer.config.pin)
        first = before.latest if stored is None else stored.first
        state.set_peer(peer.config.pin, PeerCards(first, signed))
    except CardError as exc:
        note_refused(state, by, now, peer.name, exc)
        raise
    return Received("accepted", signed, note_accepted(state, by, now, {peer.name: signed}))


def take_back(state: State, signed: SignedCard, by: Caller, now: float, *, source: str) -> Received:
    """Store a newer card of our own, from a peer that holds it or from a bundle. Raises `CardError`.

    One that follows our newest must do so in every respect; beyond a gap our own signature has to do, since the cards
    between are held by nobody any more (CD13).
    """
    own = newest(state)[-1]
    if signed.card.serial <= own.card.serial:
        if signed.card.serial == own.card.serial and signed.card.hash == own.card.hash:
            return Received("again", signed)
        code = Code.CARD_OLDER if signed.card.serial < own.card.serial else Code.CARD_FORK
        raise CardError(
            code.word, f"{source} gives back our card {signed.card.serial}, but ours is card {own.card.serial}"
        )
    if signed.card.serial == own.card.serial + 1:
        accept_successor(own, signed)
    else:
        accept_first(own.card.idfp, signed)
    state.add_card(signed)
    card = signed.card
    try:
        Trail(state).append("own card taken back", by, now, source=source, card=card.serial, hash=card.hash.hex())
    except TrailError as exc:
        return Received("own", signed, str(exc))
    return Received("own", signed)


def _refuse_known_elsewhere(card: Card, others: list[Card]) -> None:
    shared = shared_key(card, others)
    if shared is not None:
        raise CardError(Code.REFUSED.word, f"the card lists a key that is another hub's already ({shared})")
    if any(other.idfp == card.idfp for other in others):
        raise CardError(Code.REFUSED.word, "the card's new identity is that of another hub that we know")
