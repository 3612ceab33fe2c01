"""From configuration and state to what a daemon needs: own link keys, and of every peer the link keys to trust.

`peers.d/NAME.toml` and `NAME.card` say what is wished; the state says what was accepted. A card in `NAME.card` is taken
into the state when the pin vouches for it (the first one) or it follows the accepted one, and never takes the state
back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hubtunnel.config.model import Config, Peer
from hubtunnel.errors import CardError, ConfigError, KeyFileError
from hubtunnel.identity import acknowledged
from hubtunnel.identity.armour import read_cards
from hubtunnel.identity.caller import Caller
from hubtunnel.identity.card import Card, SignedCard
from hubtunnel.identity.chain import accept_chain, shared_key
from hubtunnel.identity.inforce import InForce
from hubtunnel.identity.published import refuse_published
from hubtunnel.identity.state import PeerCards, State, StateError
from hubtunnel.identity.trail import note_accepted, note_refused
from hubtunnel.protocol.constants import Code
from hubtunnel.protocol.pair import LinkPublic, LinkSecret

_OURSELVES = "the pin is this hub's own identity; a hub is not its own peer"


class Notice(NamedTuple):
    """Something to log that stops nothing; an alarm is a security event."""

    alarm: bool
    text: str
    peer: str = ""
    why: CardError | None = None  # the refusal behind an alarm


@dataclass(frozen=True, slots=True)
class FirstCard:
    """What a daemon needs of the card that was accepted first; the card itself stays in the state."""

    serial: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class HeldCards:
    """What was accepted of a peer, as a daemon holds it for each of its peers."""

    first: FirstCard
    latest: SignedCard

    @classmethod
    def of(cls, cards: PeerCards) -> HeldCards:
        """Out of what the state has."""
        return cls(FirstCard(cards.first.card.serial, cards.first.card.hash), cards.latest)


class _Accepted(NamedTuple):
    """A configured peer, and what is accepted of it."""

    config: Peer
    cards: PeerCards


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """What is trusted of one peer."""

    config: Peer
    cards: HeldCards
    known: acknowledged.Known = field(default=acknowledged.Known(), compare=False)  # what it is known to hold of us

    @property
    def name(self) -> str:
        """The name under which it is configured, whatever its card says."""
        return self.config.name

    @property
    def psk(self) -> bytes | None:
        """The pre-shared key. Raises `ConfigError` when there should be one that this process was not given.

        Where it is a systemd credential, commands do without it and only the service can use it: never none instead.
        """
        place = self.config.psk_file
        if place is not None and self.config.psk is None:
            raise ConfigError(
                [
                    f"{self.config.path}: psk_file: this process was not given the systemd credential "
                    f"{place.credential}: the unit of the service needs LoadCredential= or LoadCredentialEncrypted= "
                    "for it, and a restart"
                ]
            )
        return self.config.psk

    @property
    def idfp(self) -> bytes:
        """The fingerprint of its present identity: that pinned, or its successor by a card that both signed."""
        return self.cards.latest.card.idfp

    @property
    def links(self) -> tuple[LinkPublic, ...]:
        """Its link keys, of every window."""
        return self.cards.latest.card.link_keys


@dataclass(frozen=True)
class OwnKeys:
    """What is ours, as the files say now: what each link needs, without the keys of all other peers."""

    idfp: bytes
    card: SignedCard
    links: tuple[LinkSecret, ...]
    cards: tuple[SignedCard, ...]  # all our own, oldest first
    notices: tuple[Notice, ...]  # about them alone


@dataclass(frozen=True)
class HubKeys:
    """What is trusted of us and of every peer, as the files say now."""

    own: OwnKeys
    by_name: Mapping[str, PeerKeys]  # in the order of the names
    notices: tuple[Notice, ...]

    @property
    def peers(self) -> tuple[PeerKeys, ...]:
        """All peers, by their names."""
        return tuple(self.by_name.values())

    @property
    def idfp(self) -> bytes:
        """The fingerprint of our identity."""
        return self.own.idfp

    @property
    def card(self) -> SignedCard:
        """Our newest card."""
        return self.own.card

    @property
    def cards(self) -> tuple[SignedCard, ...]:
        """All our cards, oldest first."""
        return self.own.cards

    @property
    def links(self) -> tuple[LinkSecret, ...]:
        """Our link keys."""
        return self.own.links

    def peer(self, name: str) -> PeerKeys | None:
        """The peer configured under that name."""
        return self.by_name.get(name)

    def with_peer(self, peer: PeerKeys) -> HubKeys:
        """The same but for one peer that is configured."""
        return replace(self, by_name={**self.by_name, peer.name: peer})


def load_hub(
    config: Config, state: State, *, allow_published: bool = False, by: Caller | None = None, now: float | None = None
) -> HubKeys:
    """Own keys and every peer's, checked against each other.

    Cards of `peers.d` that are newly accepted are stored where `state` is writable, and put on the trail as `by`'s
    doing (this process' user unless named). `allow_published` is for tests only. Raises `ConfigError` with everything
    that is wrong; then nothing was stored.
    """
    problems: list[str] = []
    own = _own(state, allow_published, problems)
    if own is None:
        raise ConfigError(problems)
    notices = list(own.notices)
    peers, peer_notices, changed = _peers(config, state, list(own.cards), problems)
    if not allow_published:
        for peer, cards in peers:
            latest = cards.latest.card
            problems += refuse_published(
                str(peer.path), latest.idfp, [key.public for key in latest.link_keys], peer.psk
            )
    if problems:
        raise ConfigError(problems)
    if state.writable:
        by, now = by or Caller.me(), time.time() if now is None else now
        notices += _store(state, own.card.card.serial, changed, by, now)
        notices += _note_refusals(state, peer_notices, by, now)
    known, damaged = _with_known(state, peers)
    return HubKeys(own, {peer.name: peer for peer in known}, (*notices, *peer_notices, *damaged))


def load_own(state: State, *, allow_published: bool = False) -> OwnKeys:
    """Own keys alone, without peers. `allow_published` is for tests only. Raises `ConfigError`."""
    problems: list[str] = []
    own = _own(state, allow_published, problems)
    if own is None or problems:
        raise ConfigError(problems)
    return own


def _with_known(state: State, peers: list[_Accepted]) -> tuple[tuple[PeerKeys, ...], list[Notice]]:
    """The peers with what each is known to hold of us. A damaged record stops nothing: the peer says it again."""
    found: list[PeerKeys] = []
    notices: list[Notice] = []
    for peer, cards in peers:
        keys = PeerKeys(peer, HeldCards.of(cards))
        try:
            keys = replace(keys, known=acknowledged.read(state, peer.pin))
        except StateError as exc:
            notices.append(Notice(False, str(exc), peer.name))
        found.append(keys)
    return tuple(found), notices


def _store(state: State, own_serial: int, changed: list[_Accepted], by: Caller, now: float) -> list[Notice]:
    """Keep the cards that were newly accepted. Returns alarms about a trail that could not say so."""
    for peer, cards in changed:
        if state.peer(peer.pin) is None:
            acknowledged.note_given(state, peer.pin, own_serial)
        state.set_peer(peer.pin, cards)
    if not changed:
        return []
    problem = note_accepted(state, by, now, {peer.name: cards.latest for peer, cards in changed})
    return [Notice(True, problem)] if problem else []


def _note_refusals(state: State, notices: list[Notice], by: Caller, now: float) -> list[Notice]:
    problems = [note_refused(state, by, now, n.peer, n.why) for n in notices if n.alarm and n.why is not None]
    return [Notice(True, problem) for problem in problems if problem]


def read_card_file(peer: Peer, likely: SignedCard | None = None) -> list[SignedCard]:
    """The cards in `NAME.card`, none when there is no such file. Raises `CardError` or `OSError`."""
    try:
        return read_cards(peer.card_path, likely)
    except FileNotFoundError:
        return []


# --- own keys -----------------------------------------------------------------------------------------------------


def _own(state: State, allow_published: bool, problems: list[str]) -> OwnKeys | None:
    """Our cards and the link keys that a card of ours lists: no peer can know any other. None when there is no card."""
    try:
        cards = state.cards()
        found, unreadable = state.link_keys()
    except StateError as exc:
        problems.append(str(exc))
        return None
    problems += unreadable
    if not cards:
        problems.append(f"{state.folder / 'cards'}: there is no card of this hub; restore the folder from a backup")
        return None
    latest = cards[-1]
    listed = {key.id: key for signed in cards for key in signed.card.link_keys}
    notices: list[Notice] = []
    links: list[LinkSecret] = []
    for key in found:
        path = state.link_key_path(key.id)
        if key.id in latest.card.revoked:
            notices.append(Notice(False, f"{path}: is revoked and not used"))
        elif key.id not in listed:
            notices.append(Notice(False, f"{path}: is in no card of this hub, so no peer knows it; not used"))
        elif key.public != listed[key.id].public:
            problems.append(f"{path}: is not the link key {key.id.hex()} of this hub's card; restore it from a backup")
        else:
            links.append(key)
    for listed_key in latest.card.link_keys:
        if not state.link_key_path(listed_key.id).exists():
            text = f"link key {listed_key.id.hex()} of card {latest.card.serial} has no file in {state.folder / 'keys'}"
            notices.append(Notice(False, text))
    if not links and not unreadable:
        problems.append(f"{state.folder / 'keys'}: {_why_no_key(latest.card, time.time())}")
    if not allow_published:
        problems += refuse_published(str(state.folder), latest.card.idfp, [key.public for key in links])
    return OwnKeys(latest.card.idfp, latest, tuple(links), tuple(cards), tuple(notices))


def _why_no_key(card: Card, now: float) -> str:
    ended = max((key.not_after for key in card.link_keys), default=now)
    if ended <= now:
        return (
            f"every link key of card {card.serial} has ended and was deleted: `hubtunnel key"
            " rotate` makes new ones (where the identity key is on another machine: there, with `key export`, and"
            " `key import` here); peers then need `hubtunnel card` for their `peer update`"
        )
    return "holds no link key of this hub's cards; restore it from a backup"


# --- peers --------------------------------------------------------------------------------------------------------


def _peers(
    config: Config, state: State, own: list[SignedCard], problems: list[str]
) -> tuple[list[_Accepted], list[Notice], list[_Accepted]]:
    accepted = {peer.pin: cards for peer in config.peers if (cards := _accepted(state, peer, problems)) is not None}
    in_force = InForce(signed.card for signed in own)
    for pin, known in accepted.items():
        in_force.put(pin, known.latest.card)
    peers: list[_Accepted] = []
    changed: list[_Accepted] = []
    notices: list[Notice] = []
    # Those accepted before come first, so that of two that clash it is the newcomer that is refused.
    for peer in sorted(config.peers, key=lambda peer: peer.pin not in accepted):
        before = accepted.get(peer.pin)
        try:
            if peer.pin == own[-1].card.idfp:
                raise CardError(Code.REFUSED.word, _OURSELVES)
            cards, notice = _offered(peer, before, in_force)
        except (CardError, OSError) as exc:
            problems.append(f"{peer.card_path}: {exc.strerror if isinstance(exc, OSError) else exc}")
            continue
        notices += notice
        clash = _same_hub(peer, cards.latest.card, own[-1].card, in_force)
        if clash:
            problems.append(f"{peer.path}: pin: {clash}")
            continue
        in_force.put(peer.pin, cards.latest.card)
        peers.append(_Accepted(peer, cards))
        if cards is not before:
            changed.append(peers[-1])
    peers.sort(key=lambda each: each.config.name)
    return peers, notices, changed


def _accepted(state: State, peer: Peer, problems: list[str]) -> PeerCards | None:
    try:
        cards = state.peer(peer.pin)
    except (StateError, KeyFileError) as exc:
        problems.append(str(exc))
        return None
    if cards is not None and cards.first.card.idfp != peer.pin:
        problems.append(f"{state.peer_path(peer.pin)}: holds the cards of another identity; restore it from a backup")
        return None
    return cards


def _offered(peer: Peer, before: PeerCards | None, in_force: InForce) -> tuple[PeerCards, list[Notice]]:
    """What is in force of a peer once `NAME.card` was looked at. Raises `CardError` when there is nothing to trust."""
    if before is None:
        cards = read_card_file(peer)
        if not cards:
            raise CardError(
                Code.REFUSED.word,
                "there is no such file, and no card of this peer was accepted before; "
                "`hubtunnel card` on the peer prints it, `hubtunnel peer add` stores it",
            )
        taken = accept_chain(peer.pin, None, cards)
        _refuse_shared(peer, taken[-1], in_force)
        return PeerCards(taken[0], taken[-1]), []
    try:
        held = read_card_file(peer, before.latest)
        offered = [signed for signed in held if signed.card.hash != before.latest.card.hash]
        if not offered:
            return before, []
        taken = accept_chain(peer.pin, before.latest, offered)
        _refuse_shared(peer, taken[-1], in_force)
    except (CardError, OSError) as exc:
        alarm = isinstance(exc, CardError) and exc.code != Code.CARD_OLDER.word
        text = f"{peer.card_path}: ignored: {exc}; the accepted card {before.latest.card.serial} stays in force"
        # Another error than the one that was raised: its traceback would keep alive all that was read on the way here.
        why = CardError(exc.code, str(exc)) if isinstance(exc, CardError) else None
        return before, [Notice(alarm, text, peer.name, why)]
    return PeerCards(before.first, taken[-1]), []


def _refuse_shared(peer: Peer, newcomer: SignedCard, in_force: InForce) -> None:
    shared = shared_key(newcomer.card, in_force.same_keys(peer.pin, newcomer.card))
    if shared is not None:
        raise CardError(Code.REFUSED.word, f"the card lists a key that is another hub's already ({shared})")


def _same_hub(peer: Peer, card: Card, own: Card, in_force: InForce) -> str | None:
    if card.idfp == own.idfp:
        return _OURSELVES
    other = in_force.same_identity(peer.pin, card)
    if other is None:
        return None
    return f"is the same hub as another peer, which now has the identity of {other.shown_name}"
