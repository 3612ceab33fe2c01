"""The next card: made from the newest one, signed, and stored so that a crash at any point leaves the old or the new.

Private keys come first and the card last: it is the card that counts. Link keys in no card are what a crash left; they
go when the next card is signed, for then it is sure that no newer card of ours lists them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hubtunnel.errors import HubtunnelError, KeyFileError
from hubtunnel.identity import credentials, keyfiles, windows
from hubtunnel.identity.acknowledged import Claim
from hubtunnel.identity.card import Card, IdentitySecret, SignedCard, link_public
from hubtunnel.identity.state import State, StateError
from hubtunnel.protocol.constants import CARD_LINK_KEYS_MAX
from hubtunnel.protocol.pair import LinkPublic, LinkSecret

CLOCK_BEHIND_MAX = windows.DAY  # seconds by which the clock may be behind our newest card


class SigningError(HubtunnelError):
    """No card can be signed here and now; the text says why and what to do."""


@dataclass(frozen=True)
class Signed:
    """A card that is in force, and what it changed."""

    card: SignedCard
    made: tuple[LinkPublic, ...] = ()
    retired: tuple[LinkPublic, ...] = ()
    lost: tuple[LinkPublic, ...] = ()  # no longer listed because the private key is gone


def newest(state: State) -> list[SignedCard]:
    """All own cards, at least one. Raises `StateError`."""
    cards = state.cards()
    if not cards:
        raise StateError(f"{state.folder / 'cards'}: there is no card of this hub; restore the folder from a backup")
    return cards


def identity_here(state: State, passphrase: bytes | None) -> IdentitySecret:
    """The identity key. Raises `SigningError` when it is elsewhere and `KeyFileError` when it stays closed."""
    if not state.has_identity():
        raise SigningError(
            f"{state.identity_path}: the identity key is not on this machine, so no card can be signed here; "
            "where it is: `hubtunnel key rotate` or `issue`, then `key export FILE`; here: `key import FILE`"
        )
    if passphrase is None:
        return state.identity()
    return state.identity(lambda: passphrase)


def passphrase_for(state: State, typed: bytes | None) -> bytes | None:
    """The passphrase to open the identity key with: as typed, else the one that systemd gave to this process.

    None where the key is under none, is not here, or nobody knows it. Raises `KeyFileError`.
    """
    if typed is not None or not state.has_identity() or not keyfiles.is_locked(state.identity_path):
        return typed
    return credentials.identity_passphrase()


def refuse_fork(own: Card, claim: Claim | None) -> None:
    """Raise `SigningError` when a peer holds a newer card of ours than we do: to sign would fork our chain."""
    if claim is None or claim.serial <= own.serial:
        return
    raise SigningError(
        f"{claim.peer} holds our card {claim.serial}, this hub's newest is {own.serial}: this state is older than what "
        "was signed (a restored backup, or a second copy of the identity key), and another card now would fork the "
        f"chain. Let the daemon connect to {claim.peer}, which gives the card back, or `hubtunnel key import` it; "
        "--force signs all the same, and every peer that holds the other card must `peer repin`"
    )


def publish(
    state: State,
    identity: IdentitySecret,
    *,
    keys: Iterable[LinkPublic],
    now: float,
    made: Sequence[LinkSecret] = (),
    revoked: Iterable[bytes] = (),
    before: IdentitySecret | None = None,
    claim: Claim | None = None,
) -> Signed:
    """Sign and store the card that follows our newest: `keys` of it that stay, and `made`.

    `before` is the identity before where it changes, `claim` what a peer says to hold of us. Raises `SigningError`,
    `StateError`, `KeyFileError` or `CardError`; then the card before is still the newest.
    """
    cards = newest(state)
    own = cards[-1].card
    refuse_fork(own, claim)
    _refuse_clock(own, now)
    signer = before if before is not None else identity
    if signer.public.idfp != own.idfp:
        raise SigningError(f"{state.identity_path}: is not the identity of card {own.serial}; put the right one back")
    revoked = set(revoked)
    wished = [key for key in keys if key.id not in revoked]
    there = [key for key in wished if state.link_key_path(key.id).exists()]
    listed = windows.to_list([*there, *map(link_public, made)], now)
    if len(listed) > CARD_LINK_KEYS_MAX:
        raise SigningError(
            f"the card would list {len(listed)} link keys, at most {CARD_LINK_KEYS_MAX}: some of those made ahead must "
            "begin and end first, or be revoked"
        )
    card = Card.build(
        name=own.name,
        serial=own.serial + 1,
        previous=own.hash,
        issued=max(int(now), own.issued),
        identity=identity.public,
        link_keys=tuple(listed),
        revoked=tuple(sorted(revoked | _still_revoked(cards, now))),
        # Binding once stated (CD5); a card of the identity that was promised need not promise another.
        next_identity=own.next_identity if before is None else None,
        policy=own.policy,
        extensions=dict(own.extensions),
        critical=own.critical,
    )
    signed = SignedCard.sign(card, identity, before)
    _store(state, signed, made)
    _sweep(state, [*cards, signed])
    kept = {key.id for key in listed}
    return Signed(
        signed,
        made=tuple(map(link_public, made)),
        retired=tuple(key for key in own.link_keys if key.id not in kept and key.id not in revoked),
        lost=tuple(key for key in wished if key not in there),
    )


def _store(state: State, signed: SignedCard, made: Sequence[LinkSecret]) -> None:
    try:
        for key in made:
            state.add_link_key(key)
        state.add_card(signed)
    except BaseException:
        if not state.card_path(signed.card.serial).exists():
            for key in made:
                with contextlib.suppress(OSError, StateError):
                    state.remove_link_key(key.id)
        raise


def _sweep(state: State, cards: list[SignedCard]) -> None:
    """Delete link keys that no card of ours lists: a crash left them before their card was there."""
    listed = {key.id.hex() for signed in cards for key in signed.card.link_keys}
    for path in state.link_key_files():
        if path.stem not in listed:
            with contextlib.suppress(StateError):
                state.remove(path)


def _still_revoked(cards: list[SignedCard], now: float) -> set[bytes]:
    """What was revoked and whose window has not ended, so that it must be said again."""
    ends = {key.id: key.not_after for signed in cards for key in signed.card.link_keys}
    return {key_id for key_id in cards[-1].card.revoked if ends.get(key_id, now + 1) > now}


def _refuse_clock(own: Card, now: float) -> None:
    if now < windows.CLOCK_MIN:
        raise SigningError("the clock was never set, and keys are made for a time: set it, then try again")
    if now < own.issued - CLOCK_BEHIND_MAX:
        raise SigningError(
            f"the clock is {int((own.issued - now) // windows.DAY)} days behind our card {own.serial}: set it; "
            "if it was ahead when that card was signed, wait or compare what the card's link keys say (`key list`)"
        )


# --- the identity changes ---------------------------------------------------------------------------------------


def change_identity(
    state: State, before: IdentitySecret, *, passphrase: bytes | None, now: float, claim: Claim | None = None
) -> Signed:
    """A new identity, its card signed by it and by `before`; the key of the old one is kept aside.

    The new key is written first, under its fingerprint; `finish_identity` puts it in place once its card is there.
    """
    own = newest(state)[-1].card
    refuse_fork(own, claim)
    if own.next_identity is not None and own.next_identity != own.idfp:
        path = state.identity_file(own.next_identity)
        if not path.exists():
            raise SigningError(f"card {own.serial} promises another next identity, and its key {path} is not here")
        after = keyfiles.read_identity(path, None if passphrase is None else lambda: passphrase)
    else:
        after = keyfiles.new_identity()
        state.add_identity_aside(after, passphrase)
    try:
        signed = publish(state, after, keys=own.link_keys, now=now, before=before, claim=claim)
    except BaseException:
        if not state.card_path(own.serial + 1).exists() and own.next_identity is None:
            with contextlib.suppress(OSError, StateError):
                state.remove(state.identity_file(after.public.idfp))
        raise
    finish_identity(state)
    ours = {state.identity_file(each.card.idfp) for each in state.cards()}
    for path in state.identities_aside():
        if path not in ours:  # a crash left it before its card was there
            with contextlib.suppress(StateError):
                state.remove(path)
    return signed


def finish_identity(state: State) -> bool:
    """Put the key of our newest card's identity in place if a crash kept it from that. True when it did."""
    cards = state.cards()
    if not cards:
        return False
    own = cards[-1].card
    waiting = state.identity_file(own.idfp)
    if not waiting.exists():
        return False
    old = next((signed.card for signed in reversed(cards) if signed.card.idfp != own.idfp), None)
    if old is None:
        raise KeyFileError(f"{waiting}: nothing is known of an identity before it; move it away if it is a copy")
    if state.identity_path.exists():
        state.rename(state.identity_path, state.identity_file(old.idfp))
    state.rename(waiting, state.identity_path)
    return True
