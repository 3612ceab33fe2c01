"""Which pairs of link keys may be used now: for listening with an hour's slack, for dialling newest first."""

from __future__ import annotations

from collections.abc import Iterable

from hubtunnel.errors import CryptoError
from hubtunnel.identity.pins import HubKeys, PeerKeys
from hubtunnel.protocol.constants import WINDOW_SLACK
from hubtunnel.protocol.pair import LinkPublic, LinkSecret, PairContext

# Contexts are made for keys whose window begins within this many seconds, so that those made at one full hour do until
# the next one, with the slack of the clock.
AHEAD = 2 * 3600.0


def make_contexts(own: HubKeys, peer: PeerKeys, unix_time: float) -> tuple[PairContext, ...]:
    """All contexts of a peer that may be wanted within the hour. One X25519 each: run it in a thread."""
    since, until = unix_time - WINDOW_SLACK, unix_time + AHEAD
    made = []
    for secret in own.links:
        for theirs in peer.links:
            if not (_touches(secret, since, until) and _touches(theirs, since, until)):
                continue
            try:
                context = PairContext.make(
                    peer=peer.name,
                    own_idfp=own.idfp,
                    own=secret,
                    peer_idfp=peer.idfp,
                    theirs=theirs,
                    psk=peer.psk,
                )
            except CryptoError:  # a low-order key in the card: its other keys still serve
                continue
            made.append(context)
    return tuple(made)


def _touches(key: LinkSecret | LinkPublic, since: float, until: float) -> bool:
    return key.not_before <= until and key.not_after >= since


def listening(contexts: Iterable[PairContext], unix_time: float) -> list[PairContext]:
    """Those under which a peer may call now, its clock being up to an hour off."""
    return [
        context
        for context in contexts
        if context.not_before - WINDOW_SLACK <= unix_time <= context.not_after + WINDOW_SLACK
    ]


def dialling(contexts: Iterable[PairContext], announced: frozenset[bytes], unix_time: float) -> list[PairContext]:
    """Those to dial with, best first: our newest announced key with their newest, then the others in a fixed order."""
    usable = [
        context
        for context in contexts
        if context.own.id in announced and context.not_before <= unix_time <= context.not_after
    ]
    usable.sort(key=lambda context: (-context.own.not_before, -context.theirs.not_before, context.own.id))
    return usable
