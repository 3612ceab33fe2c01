"""A second hub, written from docs/PROTOCOL.md alone: it shares no code and no cryptographic library with the product.

Straight and slow: one peer, one socket at a time, integers for field elements. It is strict where the specification
binds a sender: what the peer must not send raises `Drop`, `Fault` or `WrongAuth` here, and so fails a test.
"""

from __future__ import annotations

import secrets
import select
import socket
import time
from collections.abc import Callable, Iterator

from tests.second import card as cards
from tests.second.card import Card
from tests.second.carrier import Carrier
from tests.second.initiator import Initiator
from tests.second.keys import HOUR, NO_PSK, Identity, LinkKey, Pair, fingerprint_text
from tests.second.responder import Responder
from tests.second.session import Session

DEADLINE = 40.0
"""Seconds that anything awaited may take."""


POLL = 0.01
"""Seconds between two looks at a fact that no byte of the carrier announces."""


class Hub:
    """Our side: identity, one link key, card, boot, and what is remembered of the one peer."""

    def __init__(self, name: str, identity: Identity | None = None) -> None:
        self.name = name
        self.identity = identity or Identity.new()
        self.keys = {secrets.token_bytes(8): LinkKey.new()}
        now = int(time.time())
        self.card = cards.issue(self.identity, name, self.keys, issued=now - 600, not_after=now + 86400)
        self.psk = NO_PSK
        self.hours_off = 0
        """How many hours our clock is ahead."""
        self.requires: list[str] = []
        """Capabilities that our HELLO insists on."""
        self.peer: Card | None = None
        self.start_process()

    def start_process(self) -> None:
        """Begin as a process does: with a boot of its own, and nothing remembered but keys and cards."""
        self.boot = secrets.token_bytes(16)
        self.sessions: dict[bytes, Session] = {}
        self.carriers: list[Carrier] = []
        self.highest_dial: dict[bytes, int] = {}
        """RS1, by boot of the peer."""
        self._dial = 0

    @property
    def idfp(self) -> bytes:
        return self.identity.public.idfp

    @property
    def fingerprint(self) -> str:
        """As people write it."""
        return fingerprint_text(self.idfp)

    @property
    def peer_card(self) -> Card:
        assert self.peer is not None, "no card of the peer was taken up"
        return self.peer

    def hour(self) -> int:
        """PC6, by our own clock."""
        return int(time.time()) // HOUR + self.hours_off

    def next_dial(self) -> int:
        self._dial += 1
        return self._dial

    def _pair(self, own: LinkKey, listed: cards.Listed, *, dials: bool) -> Pair:
        own_fp = own.public.fingerprint(self.idfp)
        peer_fp = listed.public.fingerprint(self.peer_card.identity.idfp)
        return Pair.make(own, own_fp, listed.public, peer_fp, self.psk, dials=dials)

    def pair(self, *, dials: bool) -> Pair:
        """LK2: the newest keys of both."""
        (*_, own) = self.keys.values()
        return self._pair(own, self.peer_card.newest(int(time.time())), dials=dials)

    def pairs_as_responder(self) -> Iterator[Pair]:
        """PC8: every combination of link keys."""
        for own in self.keys.values():
            for listed in self.peer_card.link_keys:
                yield self._pair(own, listed, dials=False)

    def dial(self, resume: Session | None = None) -> Initiator:
        carrier = Initiator(self, resume)
        self.carriers.append(carrier)
        return carrier

    def accept(self) -> Responder:
        carrier = Responder(self)
        self.carriers.append(carrier)
        return carrier


class Wire:
    """A carrier on a connected socket. Nothing is read but while something is awaited, and each wait has an end."""

    def __init__(self, carrier: Carrier, connection: socket.socket) -> None:
        self.carrier = carrier
        self._socket = connection
        self._socket.setblocking(False)
        self.ended = False
        """The peer ended the connection."""
        self.bytes_received = 0
        self.deaf = False
        """Count what comes, and do not look at it."""
        self.poll_others: Callable[[], None] = lambda: None
        """Looks after whatever else must move while something is awaited here."""
        carrier.on_close.append(self._socket.close)

    @property
    def session(self) -> Session:
        assert self.carrier.session is not None
        return self.carrier.session

    def until(self, fact: Callable[[], object], what: str, *, deadline: float = DEADLINE) -> None:
        """Send and receive until `fact` holds and all output has left; AssertionError naming `what` at the deadline."""
        end = time.monotonic() + deadline
        self.poll_others()
        while self.carrier.out or not fact():
            left = end - time.monotonic()
            assert left > 0, f"not within {deadline:g} s: {what}; received: {self.carrier.log[-12:]}"
            assert not self.carrier.closed, f"the carrier was closed before: {what}"
            assert not self.ended or fact(), f"the peer ended the carrier before: {what}; {self.carrier.log[-12:]}"
            self._turn(min(left, POLL))
            self.poll_others()

    def _turn(self, left: float) -> None:
        wants_to_write = [self._socket] if self.carrier.out else []
        readable, writable, _ = select.select([self._socket], wants_to_write, [], left)
        if writable:
            sent = self._socket.send(self.carrier.out)
            del self.carrier.out[:sent]
        if readable:
            self._read()

    def until_sent(self, count: int) -> None:
        """Send so many bytes of the output, which may end inside a record, and read nothing."""
        assert len(self.carrier.out) > count
        self._socket.settimeout(DEADLINE)
        self._socket.sendall(self.carrier.out[:count])
        self._socket.setblocking(False)
        del self.carrier.out[:count]

    def until_received(self, fact: Callable[[], object]) -> None:
        """Read, a little at a time, and send nothing, until `fact` holds: what is behind it stays unread."""
        end = time.monotonic() + DEADLINE
        while not fact():
            readable, _, _ = select.select([self._socket], [], [], max(0, end - time.monotonic()))
            assert readable, f"not within {DEADLINE:g} s; received: {self.carrier.log[-12:]}"
            self._read(1000)

    def _read(self, most: int = 65536) -> None:
        try:
            data = self._socket.recv(most)
        except ConnectionResetError:
            data = b""
        self.bytes_received += len(data)
        if data and self.deaf:
            pass
        elif data:
            self.carrier.feed(data)
        else:
            self.ended = True

    def until_ended(self, *, deadline: float = DEADLINE) -> None:
        """Until the peer has ended the connection."""
        self.until(lambda: self.ended, "the end of the carrier", deadline=deadline)

    def move(self) -> None:
        """Send and receive what can be at once."""
        self._turn(0)

    def flush(self) -> None:
        self.until(lambda: True, "all output to leave")

    def up(self) -> Wire:
        """Until the session stands and the peer's HELLO is there."""
        self.until(lambda: self.carrier.up and self.session.streams.hello is not None, "the session and HELLO")
        return self

    def cut(self) -> None:
        """Lose the carrier; what has not left is lost with it."""
        self.carrier.out.clear()
        self.carrier.close()


def carry(a: Carrier, b: Carrier, piece: int = 1 << 20) -> None:
    """Move bytes between two carriers in memory, `piece` at a time, until neither has any left."""
    while (a.out or b.out) and not (a.closed and b.closed):
        for sender, receiver in ((a, b), (b, a)):
            data = bytes(sender.out[:piece])
            del sender.out[: len(data)]
            if data and not receiver.closed:
                receiver.feed(data)
