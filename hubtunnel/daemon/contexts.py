"""Which pairs of link keys may be used now: for listening with an hour's slack, for dialling newest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hubtunnel.errors import CryptoError
from hubtunnel.identity import acknowledged
from hubtunnel.identity.pins import OwnKeys, PeerKeys
from hubtunnel.protocol.constants import WINDOW_SLACK
from hubtunnel.protocol.pair import LinkPublic, LinkSecret, PairContext

# Contexts are made for keys whose window begins within this many seconds, so that those made at one full hour do until
# the next one, with the slack of the clock.
AHEAD = 2 * 3600.0

# A carrier leaves a pair of link keys so long before their window ends (LK5): the shorter of these seconds and this
# part of the window.
LEAVE_BEFORE = 600.0
LEAVE_PART = 0.05

OwnKey = tuple[bytes, bytes]  # fingerprint of our identity, id of our link key: what a peer knows us by


def make_contexts(own: OwnKeys, peer: PeerKeys, unix_time: float) -> tuple[PairContext, ...]:
    """All contexts of a peer that may be wanted within the hour, the later of equal keys first.

    One X25519 each: run it in a thread. Those under an identity of ours that the peer may not have seen followed are
    among them (PC9).
    """
    since, until = unix_time - WINDOW_SLACK, unix_time + AHEAD
    order = {key.id: n for n, key in enumerate(key for signed in own.cards for key in signed.card.link_keys)}
    secrets = sorted(own.links, key=lambda key: -order.get(key.id, 0))
    made = []
    for own_idfp in identities(own, peer):
        for secret in secrets:
            for theirs in reversed(peer.links):
                if not (_touches(secret, since, until) and _touches(theirs, since, until)):
                    continue
                try:
                    context = PairContext.make(
                        peer=peer.name,
                        own_idfp=own_idfp,
                        own=secret,
                        peer_idfp=peer.idfp,
                        theirs=theirs,
                        psk=peer.psk,
                    )
                except CryptoError:  # a low-order key in the card: its other keys still serve
                    continue
                made.append(context)
    return tuple(made)


def identities(own: OwnKeys, peer: PeerKeys) -> list[bytes]:
    """The identities under which this peer may know us, the present one first."""
    held = peer.known.holds
    earlier = [signed.card.idfp for signed in own.cards if signed.card.serial >= held]
    return list(dict.fromkeys([own.idfp, *reversed(earlier)]))


def announced(own: OwnKeys, peer: PeerKeys) -> frozenset[OwnKey]:
    """Our link keys of the card that this peer is known to hold (LK2), under the identity of that card."""
    if not own.cards:
        return frozenset((own.idfp, key.id) for key in own.card.card.link_keys)
    card = acknowledged.held_card(own.cards, peer.known).card
    return frozenset((card.idfp, key.id) for key in card.link_keys)


def _touches(key: LinkSecret | LinkPublic, since: float, until: float) -> bool:
    return key.not_before <= until and key.not_after >= since


def listening(contexts: Iterable[PairContext], unix_time: float) -> list[PairContext]:
    """Those under which a peer may call now, its clock being up to an hour off."""
    return [
        context
        for context in contexts
        if context.not_before - WINDOW_SLACK <= unix_time <= context.not_after + WINDOW_SLACK
    ]


def dialling(contexts: Iterable[PairContext], known: frozenset[OwnKey], unix_time: float) -> list[PairContext]:
    """Those to dial with, best first: our newest that the peer knows with its newest, then the others (LK2, LK3).

    Among the others are keys that it is not known to have learned: its word of that may have been lost.
    """
    usable = [context for context in contexts if context.not_before <= unix_time < context.not_after]
    usable.sort(key=lambda c: ((c.own_idfp, c.own.id) not in known, -c.own.not_before, -c.theirs.not_before))
    return usable


def to_move_to(
    contexts: Iterable[PairContext], known: frozenset[OwnKey], unix_time: float, own_id: bytes, their_id: bytes
) -> PairContext | None:
    """The pair that a carrier on these two link keys should leave them for, None when it rests well."""
    good = [c for c in dialling(contexts, known, unix_time) if (c.own_idfp, c.own.id) in known]
    lasting = [c for c in good if unix_time < leave_at(c)] or good
    if not lasting or (lasting[0].own.id, lasting[0].theirs.id) == (own_id, their_id):
        return None
    return lasting[0]


def leave_at(context: PairContext) -> float:
    """When carriers on this pair look for another one."""
    return context.not_after - min(LEAVE_BEFORE, LEAVE_PART * (context.not_after - context.not_before))


def next_change(contexts: Sequence[PairContext], unix_time: float) -> float:
    """The next moment at which one of these becomes usable or is to be left; infinite when there is none."""
    times = [at for context in contexts for at in (context.not_before, leave_at(context), context.not_after)]
    return min((at for at in times if at > unix_time), default=float("inf"))
