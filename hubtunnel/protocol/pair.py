"""Link keys as the protocol sees them, and what two hubs share before they speak (PROTOCOL.md 3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hubtunnel import crypto
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Domain, Label
from hubtunnel.protocol.wire import u64


@dataclass(frozen=True, slots=True)
class LinkPublic:
    """A link key as it stands in a card. Times are unix seconds."""

    id: bytes
    x25519: bytes
    mlkem768: bytes
    not_before: float
    not_after: float

    @property
    def public(self) -> bytes:
        """LK = SX ‖ SM, 1216 bytes."""
        return self.x25519 + self.mlkem768


@dataclass(frozen=True, slots=True)
class LinkSecret:
    """An own link key with its private halves, always in seed form (PROTOCOL.md 3)."""

    id: bytes
    x25519_private: bytes = field(repr=False)
    mlkem_seed: bytes = field(repr=False)
    not_before: float
    not_after: float
    _public: bytes = field(default=b"", repr=False, compare=False)

    @property
    def public(self) -> bytes:
        """LK = SX ‖ SM, 1216 bytes; computed once."""
        if not self._public:
            public = crypto.x25519_public(self.x25519_private) + crypto.mlkem_public(self.mlkem_seed)
            object.__setattr__(self, "_public", public)
        return self._public


def identity_fingerprint(ed25519: bytes, mldsa65: bytes) -> bytes:
    """PC1: the 32-byte fingerprint of an identity, which is what a pin holds."""
    return crypto.H(Domain.IDENTITY, b"\0", ed25519, mldsa65)


def link_fingerprint(idfp: bytes, public: bytes) -> bytes:
    """PC2: the fingerprint of a link key *of this identity*.

    The identity is inside so that a pinned peer that lists another hub's link key in its own card gets another
    fingerprint, hence other hints, hence silence.
    """
    return crypto.H(Domain.LINK_KEY, b"\0", idfp, public)


def hedged_seed(secret: LinkSecret, entropy: bytes, time_ns: int, counter: int) -> bytes:
    """HS2: 96 bytes for a pair of ephemerals (32 X25519 ‖ 64 ML-KEM), hedged against a weak random generator.

    `entropy` is 64 fresh random bytes. The private link key goes in as well (the idea of NAXOS), so that whoever
    can predict the generator still does not know the ephemerals.
    """
    salt = crypto.extract(Domain.HEDGE, secret.x25519_private + secret.mlkem_seed)
    prk = crypto.extract(crypto.expand(salt, Label.HEDGE), entropy + u64(time_ns) + u64(counter))
    return crypto.expand(prk, Label.EPHEMERAL, b"", c.EPHEMERAL_SEED_LEN)


@dataclass(frozen=True, slots=True)
class Direction:
    """The keys of one pair context for one direction of dialling (PROTOCOL.md 3, step PC5)."""

    d: bytes
    k_gate: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    _k_pair: bytes = field(repr=False)

    @classmethod
    def make(cls, k_pair: bytes, fp_initiator: bytes, fp_responder: bytes) -> Direction:
        """Derive from K_pair; D names the initiator first, which is what makes reflection fail."""
        d = fp_initiator + fp_responder
        return cls(
            d,
            crypto.expand(k_pair, Label.GATE, d),
            crypto.expand(k_pair, Label.CHAIN, d),
            k_pair,
        )

    def hint(self, hour: int) -> bytes:
        """PC6: the 16-byte pseudonym of this context in an hour."""
        return crypto.expand(self._k_pair, Label.HINT, self.d + u64(hour), 16)


@dataclass(frozen=True, slots=True)
class PairContext:
    """Own link key, peer's link key and psk: everything that both sides know before the first byte."""

    peer: object
    own_idfp: bytes
    peer_idfp: bytes
    own: LinkSecret
    theirs: LinkPublic
    dialling: Direction
    listening: Direction

    @classmethod
    def make(
        cls,
        *,
        peer: object,
        own_idfp: bytes,
        own: LinkSecret,
        peer_idfp: bytes,
        theirs: LinkPublic,
        psk: bytes | None,
    ) -> PairContext:
        """PC4: costs one X25519, so build it off the event loop. Raises `CryptoError` for a low-order peer key."""
        shared = crypto.x25519(own.x25519_private, theirs.x25519)
        k_pair = crypto.extract(Domain.PAIR, shared + (psk or c.NO_PSK))
        fp_own = link_fingerprint(own_idfp, own.public)
        fp_peer = link_fingerprint(peer_idfp, theirs.public)
        return cls(
            peer,
            own_idfp,
            peer_idfp,
            own,
            theirs,
            Direction.make(k_pair, fp_own, fp_peer),
            Direction.make(k_pair, fp_peer, fp_own),
        )

    @property
    def not_before(self) -> float:
        """When both keys' windows have begun."""
        return max(self.own.not_before, self.theirs.not_before)

    @property
    def not_after(self) -> float:
        """When the first of both keys' windows ends."""
        return min(self.own.not_after, self.theirs.not_after)


def hour_of(unix_time: float) -> int:
    """The epoch of a hint: whole hours since 1970."""
    return int(unix_time // c.HOUR)


class SeenGates:
    """RD5: the gate tags that were taken, per hour, so that a recorded M1 is answered at most once.

    Bounded: `SEEN_GATES_PER_PIN` for each peer and hour, three hours.
    """

    __slots__ = ("_hours",)

    def __init__(self) -> None:
        self._hours: dict[int, dict[bytes, set[bytes]]] = {}

    def add(self, peer_idfp: bytes, hour: int, gate: bytes) -> bool:
        """Remember a tag. False: it was there, or this peer's room for the hour is full."""
        tags = self._hours.setdefault(hour, {}).setdefault(peer_idfp, set())
        if gate in tags or len(tags) >= c.SEEN_GATES_PER_PIN:
            return False
        tags.add(gate)
        return True

    def forget_before(self, hour: int) -> None:
        """Drop hours whose hints are no longer known."""
        for old in [h for h in self._hours if h < hour]:
            del self._hours[old]


class HintTable:
    """The responder's look-up (RD2): every hint under which one of our peers could call now.

    Only the direction in which we respond is in it, so that our own M1, reflected, finds nothing.
    """

    __slots__ = ("_table", "hour", "seen")

    def __init__(self, contexts: Iterable[PairContext], unix_time: float, seen: SeenGates | None = None) -> None:
        self.hour = hour_of(unix_time)
        self.seen = seen or SeenGates()
        self.seen.forget_before(self.hour + c.HINT_HOURS[0])
        self._table: dict[bytes, tuple[PairContext, int]] = {}
        self.change((), contexts)

    def change(self, gone: Iterable[PairContext], come: Iterable[PairContext]) -> None:
        """Take contexts out and in; costs what these are, whatever else is in the table."""
        for hint, found in self._entries(gone):
            if self._table.get(hint) == found:  # two peers may have changed names: one has it already
                del self._table[hint]
        self._table.update(self._entries(come))

    def _entries(self, contexts: Iterable[PairContext]) -> Iterator[tuple[bytes, tuple[PairContext, int]]]:
        for context in contexts:
            for hour in (self.hour + step for step in c.HINT_HOURS):
                yield context.listening.hint(hour), (context, hour)

    def find(self, hint: bytes) -> tuple[PairContext, int] | None:
        """The context that a hint names, and its hour."""
        return self._table.get(hint)

    def rebuild_needed(self, unix_time: float) -> bool:
        """Whether the hour has changed since the table was made."""
        return hour_of(unix_time) != self.hour

    def rebuilt(self, contexts: Iterable[PairContext], unix_time: float) -> HintTable:
        """A table for other contexts or another hour that still knows which gate tags were taken."""
        return HintTable(contexts, unix_time, self.seen)
