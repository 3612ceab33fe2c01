"""Whether a card is accepted: by its pin for the first one, by the accepted card for every later one (PROTOCOL.md 9.2).

What is accepted never goes back: an older, forked or rewritten card is refused and the accepted one stays in force.
Checks stand in the specification's order, since the first that fails gives the code that the peer is told.
"""

from __future__ import annotations

from collections.abc import Iterable

from hubtunnel import crypto
from hubtunnel.crypto import X25519_LEN
from hubtunnel.errors import CardError, CryptoError
from hubtunnel.identity.card import Card, SignedCard
from hubtunnel.identity.fingerprint import to_text
from hubtunnel.protocol.constants import Code

KNOWN_EXTENSIONS: frozenset[str] = frozenset()  # names that a card may call critical

_PROBE = bytes(range(1, X25519_LEN + 1))  # any scalar does: a low-order point gives zeros with every one


def accept_first(pin: bytes, signed: SignedCard) -> None:
    """Return if `signed` may be the first card of the identity pinned; else raise `CardError`.

    It may have any serial, since a hub is older than most of its peers, and a second pair of signatures, which nobody
    could check who does not know the identity before.
    """
    card = signed.card
    _verify_own(signed)  # CD4
    if card.idfp != pin:  # CD5
        raise CardError(
            Code.CARD_SIGNATURE.word,
            f"the card is that of {to_text(card.idfp)}, the pin is {to_text(pin)}: not the hub that was pinned. If it"
            " was set up anew, `hubtunnel peer repin NAME CARD` pins it again, words compared on the telephone",
        )
    _check_contents(card)  # CD7, CD8


def accept_successor(accepted: SignedCard, signed: SignedCard) -> bool:
    """Whether `signed` is new: True if it may follow `accepted`, False if it is the accepted card once more.

    Anything else raises `CardError`, whose code says why.
    """
    old, new = accepted.card, signed.card
    _verify(old, signed)  # CD4
    _check_identity(old, new)  # CD5
    if new.serial == old.serial and new.hash == old.hash:  # CD6
        return False
    _check_chain(old, new)  # CD6
    _check_contents(new)  # CD7, CD8
    return True


def accept_chain(pin: bytes, accepted: SignedCard | None, cards: Iterable[SignedCard]) -> list[SignedCard]:
    """The cards that become accepted, in order, when `cards` (any order) are offered at once by a file.

    Cards below the accepted one are passed over when a newer one is taken, and refused as `card_older` when none is.
    Raises `CardError` for the first card refused otherwise: then none of them counts.
    """
    taken: list[SignedCard] = []
    latest = accepted
    older: SignedCard | None = None
    for signed in sorted(cards, key=lambda s: s.card.serial):
        if latest is None:
            accept_first(pin, signed)
        elif signed.card.serial < latest.card.serial and signed.card.idfp in (pin, latest.card.idfp):
            older = signed
            continue
        elif not accept_successor(latest, signed):
            continue
        latest = signed
        taken.append(signed)
    if older is not None and not taken and accepted is not None:
        raise _older(accepted.card, older.card)
    return taken


def shared_key(newcomer: Card, accepted: Iterable[Card]) -> str | None:
    """Which of `newcomer`'s link keys stands in the card of another identity too, for a message; None when none does.

    Who lists a key that is another's, or makes it the other's by listing it first, could shift blame or silence: so the
    newcomer is refused, and what was accepted before stays (CD8).
    """
    ours = {key.x25519 for key in newcomer.link_keys} | {key.mlkem768 for key in newcomer.link_keys}
    for other in accepted:
        if other.idfp == newcomer.idfp:
            continue
        for key in other.link_keys:
            if key.x25519 in ours or key.mlkem768 in ours:
                return f"link key {key.id.hex()} of {other.shown_name}"
    return None


# --- CD4: signatures ------------------------------------------------------------------------------------------


def _verify(old: Card, signed: SignedCard) -> None:
    _verify_own(signed)
    if signed.card.idfp == old.idfp:
        if len(signed.signatures) != 1:
            raise CardError(Code.CARD_SIGNATURE.word, "a card of the same identity has one pair of signatures")
        return
    if len(signed.signatures) != 2:
        raise CardError(Code.CARD_SIGNATURE.word, "a new identity must be signed by itself and by the one before it")
    if not old.identity.verifies(signed.card.body, signed.signatures[1]):
        raise CardError(Code.CARD_SIGNATURE.word, "the new identity is not signed by the one before it")


def _verify_own(signed: SignedCard) -> None:
    if not signed.card.identity.verifies(signed.card.body, signed.signatures[0]):
        raise CardError(Code.CARD_SIGNATURE.word, "the card is not signed by its own identity, or was altered")


# --- CD5: identity --------------------------------------------------------------------------------------------


def _check_identity(old: Card, new: Card) -> None:
    promised = old.next_identity
    if promised is None:
        return
    if new.idfp == old.idfp and new.next_identity != promised:
        raise CardError(Code.CARD_CHAIN.word, "the card takes back the next identity that was stated: it is binding")
    if new.idfp not in (old.idfp, promised):
        raise CardError(Code.CARD_CHAIN.word, "the card's identity is not the one that the card before it announced")


# --- CD6: chain -----------------------------------------------------------------------------------------------


def _check_chain(old: Card, new: Card) -> None:
    if new.serial < old.serial:
        raise _older(old, new)
    if new.serial == old.serial:
        raise CardError(
            Code.CARD_FORK.word,
            f"two different cards with serial {old.serial}: the hub's key is used in two places, or was stolen",
        )
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


def _older(accepted: Card, card: Card) -> CardError:
    return CardError(Code.CARD_OLDER.word, f"card {card.serial} is older than the accepted card {accepted.serial}")


# --- CD7, CD8: extensions and keys ------------------------------------------------------------------------------


def _check_contents(card: Card) -> None:
    unknown = sorted(set(card.critical) - KNOWN_EXTENSIONS)
    if unknown:
        raise CardError(
            Code.CARD_CRITICAL.word, f"the card demands {unknown[0]!a:.80}, which this release does not know"
        )
    for what, values in (
        ("X25519", [key.x25519 for key in card.link_keys]),
        ("ML-KEM-768", [key.mlkem768 for key in card.link_keys]),
    ):
        if len(set(values)) != len(values):
            raise CardError(Code.CARD_LIMIT.word, f"two link keys of the card have the same {what} half")
    for key in card.link_keys:
        try:
            crypto.x25519(_PROBE, key.x25519)
            crypto.mlkem_check_public(key.mlkem768)
        except CryptoError as exc:
            raise CardError(Code.CARD_LIMIT.word, f"link key {key.id.hex()}: {exc}") from None
