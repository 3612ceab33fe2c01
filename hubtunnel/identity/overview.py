"""What can be said about a hub's own link keys now, for `key list` and `status`: nothing secret, nothing changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hubtunnel.config.model import Config, Peer
from hubtunnel.identity import acknowledged, lifecycle, windows
from hubtunnel.identity.acknowledged import Known
from hubtunnel.identity.card import SignedCard
from hubtunnel.identity.signing import newest
from hubtunnel.identity.state import State
from hubtunnel.protocol.pair import LinkPublic


@dataclass(frozen=True)
class KeyLine:
    """One link key of ours. `state`: current, next, retired, ended, revoked or lost (its private key is gone)."""

    key: LinkPublic
    state: str
    listed: bool  # in our newest card
    private: bool  # its private key is here
    deleted_at: float | None  # when it will be, by itself
    known_to: tuple[str, ...]  # peers that hold a card of ours with it
    used_by: tuple[str, ...]  # peers whose newest completed handshake was on it


@dataclass(frozen=True)
class PeerLine:
    """What one peer holds of us. `until`: the end of the last link key it knows."""

    name: str
    known: Known
    until: float


@dataclass(frozen=True)
class Overview:
    """All of it, at one moment."""

    own: SignedCard
    identity: str  # "here", "locked" or "elsewhere"
    keys: tuple[KeyLine, ...]
    peers: tuple[PeerLine, ...]
    rotation_due: float
    warnings: tuple[str, ...]


def look(config: Config, state: State, now: float, *, identity: str) -> Overview:
    """Everything about own link keys. Raises `StateError`."""
    cards = newest(state)
    known = {str(peer.name): acknowledged.read(state, peer.pin) for peer in config.peers}
    peers = [PeerLine(name, each, lifecycle.reachable_until(state, cards, each, now)) for name, each in known.items()]
    return Overview(
        cards[-1],
        identity,
        tuple(_key_lines(state, cards, config.peers, known, now)),
        tuple(peers),
        lifecycle.rotation_due(cards[-1], now),
        tuple(warned.text for warned in lifecycle.warnings(state, config.peers, now, acknowledged.on_disk(state))),
    )


def _key_lines(
    state: State, cards: list[SignedCard], peers: Iterable[Peer], known: dict[str, Known], now: float
) -> Iterable[KeyLine]:
    latest = cards[-1].card
    listed = {key.id for key in latest.link_keys}
    everything = {key.id: key for signed in cards for key in signed.card.link_keys}
    knowing = {
        name: {key.id for key in acknowledged.keys_known(cards, each)} for name, each in known.items() if each.holds
    }
    used = windows.current([key for key in latest.link_keys if state.link_key_path(key.id).exists()], now)
    for key in sorted(everything.values(), key=lambda key: (key.not_before, key.not_after)):
        private = state.link_key_path(key.id).exists()
        word = _state(key, now, key.id in listed, private, used, key.id in latest.revoked)
        if word in ("ended", "revoked") and not private and key.not_after + windows.GRACE < now:
            continue
        yield KeyLine(
            key,
            word,
            key.id in listed,
            private,
            key.not_after + windows.GRACE if private else None,
            tuple(str(peer.name) for peer in peers if key.id in knowing.get(peer.name, ())),
            tuple(str(peer.name) for peer in peers if known[peer.name].used == key.id.hex()),
        )


def _state(key: LinkPublic, now: float, listed: bool, private: bool, used: LinkPublic | None, revoked: bool) -> str:
    if revoked:
        return "revoked"
    if key.not_after <= now:
        return "ended"
    if not private:
        return "lost"
    if not listed:
        return "retired"
    if key.not_before > now:
        return "next"
    return "current" if used is not None and used.id == key.id else "retired"
