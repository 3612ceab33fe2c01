"""The life of link keys: made, rotated, made ahead in a series, revoked, retired and deleted (PROTOCOL.md 3.3).

All of it works on an open state folder that is held for writing, with the time as an argument. A private key is
deleted a day after its window (`windows.GRACE`), or at once when it was revoked; earlier only by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hubtunnel.config.model import Peer
from hubtunnel.errors import UsageError
from hubtunnel.identity import acknowledged, keyfiles, windows
from hubtunnel.identity.acknowledged import Claim
from hubtunnel.identity.card import IdentitySecret, SignedCard
from hubtunnel.identity.signing import Signed, newest, publish
from hubtunnel.identity.state import State
from hubtunnel.protocol.constants import KEY_ID_LEN
from hubtunnel.protocol.pair import LinkPublic, LinkSecret

ENDED = "its window has ended"
REVOKED = "it was revoked"


@dataclass(frozen=True)
class Due:
    """A private link key that is to be deleted now, and why."""

    id: bytes
    why: str


@dataclass(frozen=True)
class Warned:
    """Something that ends: who can no longer reach us from `until` on (a peer's name, None for everybody)."""

    peer: str | None
    until: float
    days: int  # which of `windows.WARN_DAYS` has been reached, so that each is logged once
    text: str


# --- new cards --------------------------------------------------------------------------------------------------


def rotate(
    state: State,
    identity: IdentitySecret,
    now: float,
    *,
    every: float = windows.ROTATE,
    at_once: bool = False,
    claim: Claim | None = None,
) -> Signed:
    """The next link key and a card that lists it: its window begins `every` seconds after the newest one's.

    With `at_once` it begins now; another one ahead is made where there is none.
    """
    keys: list[windows.HasWindow] = list(newest(state)[-1].card.link_keys)
    made: list[windows.Window] = []
    if at_once:
        made.append(windows.Window(int(now), int(now) + windows.length(every)))
    if not at_once or windows.rotation_due([*keys, *made], now) <= now:
        made += windows.following([*keys, *made], now, every)
    return _publish_with(state, identity, made, now, claim=claim)


def rotation_due(own: SignedCard, now: float) -> float:
    """When the next rotation is due, unix seconds; it may be past."""
    return windows.rotation_due(own.card.link_keys, now)


def issue(
    state: State,
    identity: IdentitySecret,
    now: float,
    *,
    every: float,
    count: int,
    only: bool = False,
    claim: Claim | None = None,
) -> Signed:
    """`count` link keys ahead, the window of each beginning `every` seconds after the one before.

    With `only` the card lists no key that lasts longer than they do; such keys are retired, and peers that know no
    other can still use them until their windows end. Raises `UsageError` for numbers that no card could hold.
    """
    keys = newest(state)[-1].card.link_keys
    made = windows.series(keys, now, every, count)
    ends = max(window.not_after for window in made)
    drop = {key.id for key in keys if key.not_after > ends} if only else set()
    return _publish_with(state, identity, made, now, drop=drop, claim=claim)


def revoke(
    state: State,
    identity: IdentitySecret,
    now: float,
    key_id: bytes,
    *,
    every: float = windows.ROTATE,
    claim: Claim | None = None,
) -> Signed:
    """A card that revokes a link key; where it was the one in use, or a gap would open, it lists new ones.

    Raises `UsageError` for a key that is none of ours or was revoked before.
    """
    cards = newest(state)
    own = cards[-1].card
    if key_id in own.revoked:
        raise UsageError(f"link key {key_id.hex()} was revoked before, in or before card {own.serial}")
    if not any(key.id == key_id for signed in cards for key in signed.card.link_keys):
        raise UsageError(f"no card of this hub lists a link key {key_id.hex()}; `hubtunnel key list` shows them")
    used = windows.current(own.link_keys, now)
    keys: list[windows.HasWindow] = [key for key in own.link_keys if key.id != key_id]
    made: list[windows.Window] = []
    if used is not None and used.id == key_id:
        made.append(windows.Window(int(now), int(now) + windows.length(every)))
    if windows.rotation_due([*keys, *made], now) <= now:
        made += windows.following([*keys, *made], now, every)
    return _publish_with(state, identity, made, now, revoked={key_id}, claim=claim)


def retire(state: State, identity: IdentitySecret, now: float, key_id: bytes, *, claim: Claim | None = None) -> Signed:
    """A card that no longer lists a link key; it is not called stolen, and its file stays. Never leaves a gap."""
    own = newest(state)[-1].card
    keys: list[windows.HasWindow] = [key for key in own.link_keys if key.id != key_id]
    made = windows.following(keys, now, windows.ROTATE) if windows.rotation_due(keys, now) <= now else []
    return _publish_with(state, identity, made, now, drop={key_id}, claim=claim)


def _publish_with(
    state: State,
    identity: IdentitySecret,
    made: Sequence[windows.Window],
    now: float,
    *,
    revoked: Iterable[bytes] = (),
    drop: Iterable[bytes] = (),
    claim: Claim | None,
) -> Signed:
    dropped = set(drop)
    return publish(
        state,
        identity,
        keys=[key for key in newest(state)[-1].card.link_keys if key.id not in dropped],
        made=[keyfiles.new_link_key(*window) for window in made],
        revoked=revoked,
        now=now,
        claim=claim,
    )


def find_key(state: State, text: str) -> bytes:
    """The id of the own link key that `text` names, whole or by a beginning that only one has. Raises `UsageError`."""
    wanted = text.lower().strip()
    ids = {key.id for signed in state.cards() for key in signed.card.link_keys}
    ids |= {bytes.fromhex(path.stem) for path in state.link_key_files() if len(path.stem) == 2 * KEY_ID_LEN}
    found = sorted(key_id for key_id in ids if key_id.hex().startswith(wanted))
    if len(wanted) < 4 or not found:
        raise UsageError(f"{text!a}: no link key of this hub has that id; `hubtunnel key list` shows them")
    if len(found) > 1:
        raise UsageError(f"{text!a}: {len(found)} link keys have an id that begins so; write more of it")
    return found[0]


# --- the end of a key -------------------------------------------------------------------------------------------


def due_deletions(state: State, now: float) -> list[Due]:
    """The private link keys whose time has come. Files that cannot be read are left for `check` to name."""
    revoked = set(newest(state)[-1].card.revoked)
    due = []
    for key in state.link_keys()[0]:
        if key.id in revoked:
            due.append(Due(key.id, REVOKED))
        elif key.not_after + windows.GRACE <= now:
            due.append(Due(key.id, ENDED))
    return due


def delete_due(state: State, now: float) -> list[Due]:
    """Delete them. Returns what was deleted."""
    return [due for due in due_deletions(state, now) if state.remove_link_key(due.id)]


def dependants(state: State, peers: Iterable[Peer], key: LinkSecret | LinkPublic) -> list[str]:
    """The peers that have not completed a handshake with a later link key than `key` (LK4)."""
    names = []
    for peer in peers:
        known = acknowledged.read(state, peer.pin)
        if not known.used or known.used == key.id.hex() or known.used_begin < key.not_before:
            names.append(str(peer.name))
    return names


def old_identities_done(state: State, peers: Iterable[Peer], records: acknowledged.Records) -> bool:
    """Whether every peer holds a card of our present identity, so that the key of the one before can go."""
    cards = newest(state)
    idfp = cards[-1].card.idfp
    first = min(signed.card.serial for signed in cards if signed.card.idfp == idfp)
    return all(records(peer.pin).holds >= first for peer in peers)


def old_identity_due(state: State, peers: Iterable[Peer], records: acknowledged.Records) -> bool:
    """Whether there is a key of an earlier identity that can go."""
    return bool(_old_identities(state)) and old_identities_done(state, peers, records)


def forget_old_identities(state: State, peers: Iterable[Peer]) -> list[str]:
    """Delete the keys of earlier identities once no peer needs a card signed by them. Returns the files' names."""
    if not old_identity_due(state, peers, acknowledged.on_disk(state)):
        return []
    return [path.name for path in _old_identities(state) if state.remove(path)]


def _old_identities(state: State) -> list[Path]:
    aside = state.identities_aside()
    if not aside:
        return []
    own = newest(state)[-1].card
    keep = {state.identity_file(idfp) for idfp in (own.idfp, own.next_identity) if idfp is not None}
    return [path for path in aside if path not in keep]


# --- what is coming ---------------------------------------------------------------------------------------------


def reachable_until(state: State, cards: list[SignedCard], known: acknowledged.Known, now: float) -> float:
    """Until when a peer that knows what `known` says can reach us with those link keys; `now` if not even now."""
    own = cards[-1].card
    keys = [
        key
        for key in acknowledged.keys_known(cards, known)
        if key.id not in own.revoked and state.link_key_path(key.id).exists()
    ]
    return windows.covered_until(keys, now)


def cut_off(state: State, peers: Iterable[Peer], now: float) -> list[str]:
    """The peers that know no link key of ours which is in its window now: they cannot reach us without our new card."""
    cards = newest(state)
    return [
        str(peer.name)
        for peer in peers
        if reachable_until(state, cards, acknowledged.read(state, peer.pin), now) <= now
    ]


def warnings(state: State, peers: Iterable[Peer], now: float, records: acknowledged.Records) -> list[Warned]:
    """Who will be cut off, named days ahead: everybody when our keys end, one peer when those it knows do."""
    cards = newest(state)
    own = cards[-1].card
    found = []
    until = windows.covered_until(own.link_keys, now)
    days = windows.warn_days(until, own.issued, now)
    if days is not None:
        cure = (
            "`hubtunnel key rotate`"
            if state.has_identity()
            else "new ones must come from where the identity key is: `key issue` or `rotate` and `key export` there, "
            "`key import` here"
        )
        found.append(Warned(None, until, days, f"the last link key of this hub {_ends(until, now)}: {cure}"))
    reach: dict[int, float] = {}  # by the serial of the card that is held: most of those who lag hold the same one
    for peer in peers:
        known = records(peer.pin)
        if known.holds >= own.serial:
            continue
        if known.holds not in reach:
            reach[known.holds] = reachable_until(state, cards, known, now)
        ends = reach[known.holds]
        held = next((signed.card for signed in cards if signed.card.serial == known.holds), cards[0].card)
        days = windows.warn_days(ends, held.issued, now)
        if days is not None:
            text = (
                f"{peer.name} knows our card {held.serial} only, and the last link key of it "
                f"{_ends(ends, now)}: let it connect before, or give its admin our card for `hubtunnel peer update`"
            )
            found.append(Warned(str(peer.name), ends, days, text))
    return found


def _ends(until: float, now: float) -> str:
    left = until - now
    if left <= 0:
        return "has ended"
    if left < windows.DAY:
        return f"ends in {int(left // 3600)} hours"
    return f"ends in {int(left // windows.DAY)} days"
