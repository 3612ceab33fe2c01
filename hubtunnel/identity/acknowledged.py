"""What each peer is known to hold of us, kept across restarts: `peers/PIN.known`, one JSON object.

It decides which link key to dial with (LK2), whom a deletion would cut off (LK4), and whether we may sign a card: not
while a peer holds a newer card of ours than we do (CD10).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hubtunnel.config.model import Peer
from hubtunnel.identity.card import SignedCard
from hubtunnel.identity.state import State, StateError
from hubtunnel.protocol.pair import LinkPublic, LinkSecret

_FILE_MAX = 4096


@dataclass(frozen=True, slots=True)
class Known:
    """One peer's record; times are unix seconds, 0 where something never happened."""

    given: int = 0  # serial of our newest card when we pinned this peer: the one its admin got from us
    serial: int = 0  # of our newest card that it acknowledged, by CARD_ACK or CARD_HAVE
    at: float = 0.0  # when it did
    used: str = ""  # id of our newest link key with which it completed a handshake, hexadecimal
    used_begin: float = 0.0  # when that key's window began
    used_at: float = 0.0
    newer: int = 0  # serial of a card of ours that it holds, as it says, and we did not when it said so

    @property
    def holds(self) -> int:
        """Serial of the card of ours to reckon with."""
        return self.serial or self.given


Records = Callable[[bytes], Known]  # of the peer with this pin; may raise `StateError`


class Claim(NamedTuple):
    """A peer's word that it holds a card of ours which we do not."""

    serial: int
    peer: str


def read(state: State, pin: bytes) -> Known:
    """What is on record of the peer pinned by `pin`. Raises `StateError` when the file is damaged."""
    path = _path(state, pin)
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_FILE_MAX))
        kinds: dict[str, Any] = {field.name: type(field.default) for field in fields(Known)}
        return Known(**{name: kinds[name](value) for name, value in found.items() if name in kinds})
    except FileNotFoundError:
        return Known()
    except OSError as exc:
        raise StateError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise StateError(f"{path}: is damaged; remove it: the peer says again what it holds") from None


def on_disk(state: State) -> Records:
    """All records as the files say when they are asked for."""
    return partial(read, state)


def note_given(state: State, pin: bytes, serial: int) -> bool:
    """The peer was pinned while our newest card was `serial`."""
    return _change(state, pin, given=serial)


def note_acknowledged(state: State, pin: bytes, serial: int, now: float) -> bool:
    """The peer said that it holds our card `serial`. True when that is news; what it says last counts, even if less."""
    if read(state, pin).serial == serial:
        return False
    return _change(state, pin, serial=serial, at=now)


def note_used(state: State, pin: bytes, key: LinkSecret | LinkPublic, now: float) -> bool:
    """A handshake with the peer was completed on our link key `key`. True when it is a later one than ever before."""
    known = read(state, pin)
    if known.used and (known.used == key.id.hex() or key.not_before < known.used_begin):
        return False
    return _change(state, pin, used=key.id.hex(), used_begin=float(key.not_before), used_at=now)


def note_newer(state: State, pin: bytes, serial: int) -> bool:
    """The peer says that it holds our card `serial`, which we do not: nothing is signed until we do."""
    return _change(state, pin, newer=serial)


def newest_claim(records: Records, peers: Iterable[Peer], own_serial: int) -> Claim | None:
    """The newest card of ours beyond `own_serial` that a configured peer says it holds, None when there is none."""
    claims = []
    for peer in peers:
        known = records(peer.pin)
        claims.append(Claim(max(known.newer, known.serial), peer.name))
    newest = max(claims, default=None)
    return newest if newest is not None and newest.serial > own_serial else None


def held_card(own: Sequence[SignedCard], known: Known) -> SignedCard:
    """The card of ours that the peer holds: our newest where it holds a later one, our oldest where we cannot tell."""
    if known.holds >= own[-1].card.serial:
        return own[-1]
    return next((signed for signed in own if signed.card.serial == known.holds), own[0])


def keys_known(own: Sequence[SignedCard], known: Known) -> tuple[LinkPublic, ...]:
    """Our link keys that the peer knows: those of the card that it holds."""
    return held_card(own, known).card.link_keys


def _change(state: State, pin: bytes, **changes: Any) -> bool:
    before = read(state, pin)
    after = replace(before, **changes)
    if after == before:
        return False
    path = _path(state, pin)
    try:
        state.store(path, json.dumps(asdict(after)) + "\n")
    except OSError as exc:
        raise StateError(f"{path}: cannot be written: {exc.strerror}") from exc
    return True


def _path(state: State, pin: bytes) -> Path:
    return state.peer_path(pin).with_suffix(".known")
