"""Section 8 of docs/PROTOCOL.md: frames, streams, credit, and the exchange of cards."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.second.card import Card
from tests.second.kdf import number, u8, u16, u32, u64
from tests.second.pack import BadPack, pack, unpack

HELLO, OPEN, DATA, END, RESET, CREDIT, GOAWAY = 0x01, 0x10, 0x11, 0x12, 0x13, 0x14, 0x20
CARD_HAVE, CARD_PART, CARD_ACK, CARD_NAK, CARD_GET = 0x30, 0x31, 0x32, 0x33, 0x34
ABOUT_STREAMS = (OPEN, DATA, END, RESET, CREDIT)
ABOUT_SESSION = (HELLO, GOAWAY, CARD_HAVE, CARD_PART, CARD_ACK, CARD_NAK, CARD_GET)
PAYLOAD_LENGTHS = {END: 0, RESET: 2, CREDIT: 4, GOAWAY: 6, CARD_HAVE: 40, CARD_ACK: 40, CARD_NAK: 10, CARD_GET: 8}
OPTIONAL_FROM = 0x80
PAYLOAD_MAX = 65535

INITIAL_CREDIT = 65536
CREDIT_MAX = 2**31 - 1
CARD_PART_MAX = 32768

DONE, DRAINED, RESTART, SUPERSEDED, REFUSED, LIMIT, MTA_UNREACHABLE = range(7)
MTA_FAILED, BROKEN, TIMED_OUT, PROTOCOL, REQUIRED_CAPABILITY = range(7, 12)


class Fault(Exception):
    """The peer broke a rule about frames or the session: answered by CLOSE(code)."""

    def __init__(self, what: str, code: int = PROTOCOL) -> None:
        super().__init__(what)
        self.code = code


def _demand(fact: bool, what: str) -> None:
    if not fact:
        raise Fault(what)


def _map(payload: bytes) -> dict[str, Any]:
    """The one map of a payload, which a sender must have written in the shortest formats (2.4)."""
    try:
        fields = unpack(payload)
    except BadPack as error:
        raise Fault(f"msgpack: {error}") from error
    _demand(isinstance(fields, dict), "no map")
    _demand(pack(fields) == payload, "not in the shortest formats")
    return dict(fields)


@dataclass
class Stream:
    """One relayed conversation, as seen from here."""

    number: int
    service: str = ""
    source: tuple[str, int] | None = None
    received: bytearray = field(default_factory=bytearray)
    waiting: bytearray = field(default_factory=bytearray)
    """Bytes that want credit."""
    may_send: int = INITIAL_CREDIT
    may_receive: int = INITIAL_CREDIT
    gives_credit: bool = True
    """Give back what came as it comes; a test that counts credit turns this off."""
    end_wanted: bool = False
    we_ended: bool = False
    peer_ended: bool = False
    reset: int | None = None
    """The code, when the stream was reset by either side."""

    @property
    def gone(self) -> bool:
        return self.reset is not None or (self.we_ended and self.peer_ended)


class Streams:
    """The frames of one session in both directions; `write` takes the bytes of each frame that is to be sent."""

    def __init__(self, write: Callable[[bytes], None], *, odd: bool, own_card: Card, peer_card: Card) -> None:
        self._write = write
        self._own_parity = 1 if odd else 0
        self._own_card = own_card
        self._buffer = bytearray()
        self._highest = {0: 0, 1: 0}
        """By parity: the highest number that its opener has opened."""
        self.streams: dict[int, Stream] = {}
        self.hello: dict[str, Any] | None = None
        self.capabilities: list[str] = []
        self.goaway_sent: int | None = None
        self.goaway: tuple[int, int] | None = None
        """Code and last stream of the newest GOAWAY received."""
        self.card_have: list[tuple[int, bytes]] = []
        self.card_acks: list[tuple[int, bytes]] = []
        self.card_naks: list[tuple[int, int]] = []
        """Serial and code."""
        self.peer_cards = [peer_card]
        """Cards of the peer: the one that was there first, then those that it sent."""
        self._part = bytearray()

    # Sending.

    def send_frame(self, kind: int, stream: int, payload: bytes = b"") -> None:
        self._write(u8(kind) + u32(stream) + u16(len(payload)) + payload)

    def send_hello(self, requires: list[str]) -> None:
        fields = {"version": "second 1", "capabilities": self.capabilities, "requires": requires}
        self.send_frame(HELLO, 0, pack(fields))

    def send_card_have(self) -> None:
        newest = self.peer_cards[-1]
        self.send_frame(CARD_HAVE, 0, u64(newest.serial) + newest.hash)

    def send_card(self, card: Card) -> None:
        """CD11: a card of ours that follows the one that the peer has."""
        for offset in range(0, len(card.signed), CARD_PART_MAX):
            part = card.signed[offset : offset + CARD_PART_MAX]
            self.send_frame(CARD_PART, 0, u64(card.serial) + u32(len(card.signed)) + u32(offset) + part)

    def send_goaway(self, code: int) -> None:
        self.goaway_sent = code
        self.send_frame(GOAWAY, 0, u16(code) + u32(self._highest[1 - self._own_parity]))

    def open(self, service: str = "smtp", source: tuple[str, int] | None = None) -> Stream:
        """ST1 to ST3."""
        assert self.hello is not None, "no stream before the peer's HELLO (ST2)"
        highest = self._highest[self._own_parity]
        stream = Stream(highest + 2 if highest else 2 - self._own_parity, service, source)
        self._highest[self._own_parity] = stream.number
        self.streams[stream.number] = stream
        fields: dict[str, Any] = {"service": service}
        if source is not None:
            fields["source"] = list(source)
        self.send_frame(OPEN, stream.number, pack(fields))
        return stream

    def send(self, stream: Stream, data: bytes) -> None:
        stream.waiting += data
        self._flush(stream)

    def end(self, stream: Stream) -> None:
        """Half-close, behind all that waits."""
        stream.end_wanted = True
        self._flush(stream)

    def reset(self, stream: Stream, code: int) -> None:
        stream.reset = code
        self.send_frame(RESET, stream.number, u16(code))

    def give_credit(self, stream: Stream, amount: int) -> None:
        stream.may_receive += amount
        self.send_frame(CREDIT, stream.number, u32(amount))

    def _flush(self, stream: Stream) -> None:
        while stream.waiting and stream.may_send:
            length = min(len(stream.waiting), stream.may_send, PAYLOAD_MAX)
            stream.may_send -= length
            self.send_frame(DATA, stream.number, bytes(stream.waiting[:length]))
            del stream.waiting[:length]
        if stream.end_wanted and not stream.waiting and not stream.we_ended and stream.reset is None:
            stream.we_ended = True
            self.send_frame(END, stream.number)

    # Receiving.

    def feed(self, data: bytes) -> None:
        """Bytes of the byte stream, however they were cut; Fault for what the specification calls a fault."""
        self._buffer += data
        while len(self._buffer) >= 7:
            kind, stream, length = self._buffer[0], number(self._buffer[1:5]), number(self._buffer[5:7])
            if len(self._buffer) < 7 + length:
                return
            payload = bytes(self._buffer[7 : 7 + length])
            del self._buffer[: 7 + length]
            self._frame(kind, stream, payload)

    @property
    def in_the_middle_of_a_frame(self) -> bool:
        return bool(self._buffer)

    def _frame(self, kind: int, stream: int, payload: bytes) -> None:
        if self.hello is None:
            _demand(kind == HELLO, f"the first frame is {kind:#04x}")
        if kind >= OPTIONAL_FROM:
            return
        _demand(kind in ABOUT_STREAMS + ABOUT_SESSION, f"a frame of type {kind:#04x}")
        _demand((stream != 0) == (kind in ABOUT_STREAMS), f"a frame of type {kind:#04x} about stream {stream}")
        expected = PAYLOAD_LENGTHS.get(kind, len(payload))
        _demand(len(payload) == expected, f"a frame of type {kind:#04x} with {len(payload)} bytes")
        if kind in ABOUT_SESSION:
            self._about_session(kind, payload)
        elif kind == OPEN:
            self._opened(stream, payload)
        else:
            self._about_stream(kind, stream, payload)

    def _about_session(self, kind: int, payload: bytes) -> None:
        if kind == HELLO:
            self._hello(payload)
        elif kind == GOAWAY:
            code, last = number(payload[:2]), number(payload[2:])
            right_parity = last == 0 or last % 2 == self._own_parity
            _demand(right_parity and last <= self._highest[self._own_parity], f"GOAWAY with last stream {last}")
            self.goaway = code, last
        elif kind == CARD_HAVE:
            self.card_have.append((number(payload[:8]), payload[8:]))
        elif kind == CARD_ACK:
            self.card_acks.append((number(payload[:8]), payload[8:]))
        elif kind == CARD_NAK:
            self.card_naks.append((number(payload[:8]), number(payload[8:])))
        elif kind == CARD_PART:
            self._card_part(payload)
        else:
            raise Fault(f"nothing here calls for a frame of type {kind:#04x}")

    def _hello(self, payload: bytes) -> None:
        _demand(self.hello is None, "a second HELLO")
        fields = _map(payload)
        _demand(isinstance(fields.get("version"), str), "HELLO without version")
        for key in ("capabilities", "requires"):
            names = fields.get(key)
            _demand(isinstance(names, list) and all(isinstance(name, str) for name in names), f"HELLO: {key}")
        self.hello = fields
        if not set(fields["requires"]) <= set(self.capabilities):
            raise Fault("a capability is missing", REQUIRED_CAPABILITY)

    def _card_part(self, payload: bytes) -> None:
        """CD11, CD12, for a card of the peer that follows its newest."""
        serial, total, offset, part = number(payload[:8]), number(payload[8:12]), number(payload[12:16]), payload[16:]
        newest = self.peer_cards[-1]
        _demand(1 <= len(part) <= CARD_PART_MAX and total <= 131072, "sizes in CARD_PART")
        _demand(offset == len(self._part) and offset + len(part) <= total, "CARD_PART out of order")
        _demand(serial == newest.serial + 1, f"CARD_PART of serial {serial} after {newest.serial}")
        self._part += part
        if len(self._part) < total:
            return
        card = newest.followed_by(bytes(self._part))
        self._part.clear()
        self.peer_cards.append(card)
        self.send_frame(CARD_ACK, 0, u64(serial) + card.hash)

    def _opened(self, stream: int, payload: bytes) -> None:
        parity = stream % 2
        _demand(parity != self._own_parity, f"OPEN of stream {stream}, which is ours to open")
        _demand(stream > self._highest[parity], f"OPEN of stream {stream} after {self._highest[parity]}")
        fields = _map(payload)
        _demand(isinstance(fields.get("service"), str), "OPEN without service")
        source = fields.get("source")
        if source is not None:
            _demand(isinstance(source, list) and len(source) == 2, "OPEN: source")
            ipaddress.ip_address(source[0])
            _demand(0 <= source[1] <= 65535, "OPEN: port")
        self._highest[parity] = stream
        self.streams[stream] = Stream(stream, fields["service"], tuple(source) if source else None)
        _demand(self.goaway is None, "OPEN behind the sender's own GOAWAY (GA3)")

    def _about_stream(self, kind: int, stream_number: int, payload: bytes) -> None:
        _demand(
            stream_number <= self._highest[stream_number % 2], f"a frame about stream {stream_number}, never opened"
        )
        stream = self.streams.get(stream_number)
        if stream is None or stream.gone:
            return
        if kind == CREDIT:
            self._credit(stream, number(payload))
            return
        if kind == RESET:
            stream.reset = number(payload)
            return
        _demand(not stream.peer_ended, f"a frame of type {kind:#04x} behind END of stream {stream_number}")
        if kind == END:
            stream.peer_ended = True
            return
        _demand(len(payload) <= stream.may_receive, f"DATA beyond the credit of stream {stream_number}")
        stream.may_receive -= len(payload)
        stream.received += payload
        if stream.gives_credit and payload:
            self.give_credit(stream, len(payload))

    def _credit(self, stream: Stream, amount: int) -> None:
        if stream.we_ended:
            return
        _demand(stream.may_send + amount <= CREDIT_MAX, "credit above 2^31-1")
        stream.may_send += amount
        self._flush(stream)
