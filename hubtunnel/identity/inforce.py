"""The cards in force of all hubs: no two hubs may have one identity, or list one link key (PROTOCOL.md CD8)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from hubtunnel.identity.card import Card


class InForce:
    """The cards in force so far, found by what no two hubs may share: to compare each with all takes long of many."""

    def __init__(self, own: Iterable[Card]) -> None:
        self._cards: dict[bytes, Card] = {}  # by pin
        self._by_idfp: defaultdict[bytes, dict[bytes, Card]] = defaultdict(dict)  # by pin in turn, as are the next
        self._by_half: defaultdict[bytes, dict[bytes, Card]] = defaultdict(dict)  # of a link key
        for card in own:
            self._enter(card.hash, card)  # which is no pin of any peer

    def put(self, pin: bytes, card: Card) -> None:
        """This is the card of that peer now."""
        before = self._cards.get(pin)
        if before is not None:
            self._by_idfp[before.idfp].pop(pin)
            for half in _halves(before):
                self._by_half[half].pop(pin)
        self._cards[pin] = card
        self._by_idfp[card.idfp][pin] = card
        self._enter(pin, card)

    def _enter(self, pin: bytes, card: Card) -> None:
        for half in _halves(card):
            self._by_half[half][pin] = card

    def same_identity(self, pin: bytes, card: Card) -> Card | None:
        """The card of another peer that has the identity of this one."""
        return next((other for place, other in self._by_idfp[card.idfp].items() if place != pin), None)

    def same_keys(self, pin: bytes, card: Card) -> list[Card]:
        """The cards of others, our own among them, that list a link key of this one, or half of one."""
        return [other for half in _halves(card) for place, other in self._by_half[half].items() if place != pin]


def _halves(card: Card) -> set[bytes]:
    return {half for key in card.link_keys for half in (key.x25519, key.mlkem768)}
