"""Whether a card is accepted: by its pin for the first one, by the accepted card for every later one.

What is accepted never goes back: an older, forked or rewritten card is refused and the accepted one stays in force.
"""

from __future__ import annotations

from collections.abc import Iterable

from hubtunnel.errors import CardError
from hubtunnel.identity.card import Card, SignedCard
from hubtunnel.identity.fingerprint import to_text
from hubtunnel.protocol.constants import Code


def accept_first(pin: bytes, signed: SignedCard) -> None:
    """Return if `signed` may be the first card of the identity pinned; else raise `CardError`.

    A first card may have any serial, since a hub is older than most of its peers.
    """
    card = signed.card
    if card.idfp != pin:
        raise CardError(
            Code.CARD_CHAIN.word,
            f"the card is that of {to_text(card.idfp)}, the pin is {to_text(pin)}: not the hub that was pinned",
        )
    if len(signed.signatures) != 1:
        raise CardError(
            Code.CARD_SIGNATURE.word,
            "the card changes the hub's identity, so it can only follow a card that is already accepted: "
            "ask for the card after it",
        )
    _verify_own(signed)


def accept_successor(accepted: SignedCard, signed: SignedCard) -> None:
    """Return if `signed` may follow `accepted`; else raise `CardError` whose code says why not.

    The accepted card itself, given again, is `card_older`: it changes nothing.
    """
    old, new = accepted.card, signed.card
    if new.serial == old.serial and new.hash != old.hash:
        raise CardError(
            Code.CARD_FORK.word,
            f"two different cards with serial {old.serial}: the hub's key is used in two places, or was stolen",
        )
    if new.serial <= old.serial:
        raise CardError(Code.CARD_OLDER.word, f"card {new.serial} is not newer than the accepted card {old.serial}")
    if new.serial != old.serial + 1:
        raise CardError(
            Code.CARD_CHAIN.word, f"card {new.serial} cannot follow card {old.serial}: those between are missing"
        )
    if new.previous != old.hash:
        raise CardError(
            Code.CARD_CHAIN.word, f"card {new.serial} follows another card {old.serial} than the one accepted"
        )
    if new.issued < old.issued:
        raise CardError(Code.CARD_CHAIN.word, f"card {new.serial} was issued before card {old.serial}")
    _check_identity(old, signed)
    _verify_own(signed)


def accept_chain(pin: bytes, accepted: SignedCard | None, cards: Iterable[SignedCard]) -> list[SignedCard]:
    """The cards that become accepted, in order, when `cards` (any order) are offered at once.

    Cards that are merely older are passed over as long as a newer one is taken. Raises `CardError` for the first card
    refused otherwise: then none of them counts.
    """
    taken: list[SignedCard] = []
    latest = accepted
    refusal: CardError | None = None
    for signed in sorted(cards, key=lambda s: s.card.serial):
        try:
            if latest is None:
                accept_first(pin, signed)
            else:
                accept_successor(latest, signed)
        except CardError as exc:
            refusal = exc
            if exc.code != Code.CARD_OLDER.word:
                break
        else:
            latest = signed
            taken.append(signed)
    if refusal is not None and (not taken or refusal.code != Code.CARD_OLDER.word):
        raise refusal
    return taken


def shared_key(newcomer: Card, accepted: Iterable[Card]) -> str | None:
    """What of `newcomer`'s link keys stands in the card of another identity too, for a message; None when nothing.

    Who lists a key that is another's, or makes it the other's by listing it first, could shift blame or silence: so the
    newcomer is refused, and what was accepted before stays.
    """
    ours = {key.x25519 for key in newcomer.link_keys} | {key.mlkem768 for key in newcomer.link_keys}
    for other in accepted:
        if other.idfp == newcomer.idfp:
            continue
        for key in other.link_keys:
            if key.x25519 in ours or key.mlkem768 in ours:
                return f"link key {key.id.hex()} of {other.name}"
    return None


def _check_identity(old: Card, signed: SignedCard) -> None:
    new = signed.card
    promised = old.next_identity
    if new.idfp == old.idfp:
        if promised is not None and new.next_identity != promised:
            raise CardError(
                Code.CARD_CHAIN.word, "the card takes back the next identity that was stated: it is binding"
            )
        if len(signed.signatures) != 1:
            raise CardError(Code.CARD_SIGNATURE.word, "a card of the same identity has one pair of signatures")
        return
    if promised is not None and new.idfp != promised:
        raise CardError(Code.CARD_CHAIN.word, "the card's identity is not the one that the card before it announced")
    if len(signed.signatures) != 2:
        raise CardError(Code.CARD_SIGNATURE.word, "a new identity must be signed by itself and by the one before it")
    if not old.identity.verifies(new.body, signed.signatures[1]):
        raise CardError(Code.CARD_SIGNATURE.word, "the new identity is not signed by the one before it")


def _verify_own(signed: SignedCard) -> None:
    if not signed.card.identity.verifies(signed.card.body, signed.signatures[0]):
        raise CardError(Code.CARD_SIGNATURE.word, "the card is not signed by its own identity, or was altered")
