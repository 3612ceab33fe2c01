"""Section 7 of docs/PROTOCOL.md: a session's roots and its two byte streams, apart from carriers."""

from __future__ import annotations

from collections.abc import Callable

from tests.second.card import Card
from tests.second.kdf import number, u8, u64
from tests.second.records import ACK, CLOSE, DATA, DATA_MAX
from tests.second.schedule import Keys, root_after_resume
from tests.second.streams import Fault, Streams

Send = Callable[[int, bytes], None]
"""Seals a record of that type with that data on the session's carrier."""


class Session:
    """One session; `send` is the way onto its carrier while it has one that may carry its records."""

    def __init__(
        self, keys: Keys, direction: bytes, *, initiator: bool, boot: bytes | None, own: Card, peer: Card
    ) -> None:
        self.sid = keys.sid
        self.initiator = initiator
        self.roots = {0: keys.root}
        """By index: one at the initiator, at most two at the responder (RS9)."""
        self.th = keys.th
        self.direction = direction
        self.peer_boot = boot
        self.send: Send | None = None
        self.streams = Streams(self.write, odd=initiator, own_card=own, peer_card=peer)
        self.cut = DATA_MAX
        """Most bytes of the byte stream that go into one DATA record."""
        self.sends_acks = True
        self.received_offset = 0
        self.send_base = 0
        self._kept = bytearray()
        """From `send_base` on."""
        self._next = 0
        """Offset that the next DATA record of this carrier begins at."""
        self.ever_sent = 0
        self.close_sent: tuple[int, int] | None = None
        """Code and final offset, until the session is over."""
        self.closed: tuple[int, int] | None = None
        """Code and final offset that the peer's CLOSE named."""
        self.over = False

    @property
    def index(self) -> int:
        """Of the newest root."""
        return max(self.roots)

    # The byte stream out.

    def write(self, data: bytes) -> None:
        self._kept += data
        self.flush()

    def flush(self) -> None:
        while self.send is not None and self._next < self.end:
            start = self._next - self.send_base
            piece = bytes(self._kept[start : start + self.cut])
            self._next += len(piece)
            self.ever_sent = max(self.ever_sent, self._next)
            self.send(DATA, piece)

    @property
    def end(self) -> int:
        """Offset behind all that was ever written."""
        return self.send_base + len(self._kept)

    @property
    def all_acknowledged(self) -> bool:
        return not self._kept

    def acknowledged(self, offset: int) -> None:
        """BS4."""
        if not self.send_base <= offset <= self._next:
            raise Fault(f"{offset} acknowledged, outside {self.send_base} to {self._next}")
        del self._kept[: offset - self.send_base]
        self.send_base = offset

    def go_on_from(self, offset: int) -> None:
        """BS6: the next DATA record begins where the peer has said that it stands."""
        self._next = self.ever_sent
        self.acknowledged(offset)
        self._next = offset

    # The byte stream in.

    def data(self, piece: bytes) -> None:
        """BS2, BS3; acknowledged at once."""
        self.received_offset += len(piece)
        self.streams.feed(piece)
        if self.sends_acks and piece:
            self.send_ack()

    def send_ack(self) -> None:
        if self.send is not None:
            self.send(ACK, u64(self.received_offset))

    # Roots.

    def stepped(self, keys: Keys, reached: int, *, keep_old: bool) -> None:
        """A ratchet step has led to a root; the old one goes with RT6 and RT8, which keep_old puts off (RT7)."""
        if not keep_old:
            self.roots = {}
            self.th = keys.th
        self.roots[reached] = keys.root

    def resumed(self, m: int, keys: Keys, direction: bytes) -> None:
        """RS7, RS9."""
        old = self.roots[m]
        self.roots = {m + 1: root_after_resume(old, keys.root)}
        if not self.initiator:
            self.roots[m] = old
        self.th, self.direction = keys.th, direction

    # The end.

    def close(self, code: int) -> None:
        """CL1, for the first CLOSE of the session."""
        assert self.send is not None
        self.close_sent = code, self.ever_sent
        self.send(CLOSE, u8(code) + u64(self.ever_sent))

    def peer_closed(self, data: bytes) -> None:
        """CL2 to CL4."""
        self.closed = data[0], number(data[1:])
        if self.close_sent is None:
            self.close(data[0])
        self.over = True
        self.roots = {}
