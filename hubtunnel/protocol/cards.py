"""Cards inside a session: who holds which, and how one that is missing gets across (PROTOCOL.md 9.3, CD9–CD14).

The core carries cards and keeps their order; it does not know what a card says. The shell verifies and stores what came
in whole, and says so with `accepted` or `refused`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames
from hubtunnel.protocol.constants import Code, Frame
from hubtunnel.protocol.events import Alarm, CardAcknowledged, CardReceived, CardRefused, Event, OwnCardsBehind

if TYPE_CHECKING:
    from hubtunnel.protocol.session import Session

_HAVE = Struct(">Q32s")
_PART = Struct(">QII")
_NAK = Struct(">QH")
_GET = Struct(">Q")


@dataclass(frozen=True, slots=True)
class HeldCard:
    """One signed card as the core needs it: its number, its hash, its exact bytes."""

    serial: int
    hash: bytes
    data: bytes = field(repr=False)


@dataclass(slots=True)
class CardBook:
    """What this hub holds: all its own cards, oldest first, and the latest that it accepted of the peer."""

    own: tuple[HeldCard, ...] = ()
    peers: HeldCard | None = None

    def own_card(self, serial: int) -> HeldCard | None:
        """Our card of that number, if we still have it."""
        return next((card for card in self.own if card.serial == serial), None)


class CardExchange:
    """The cards of one session, both directions."""

    __slots__ = (
        "_asked",
        "_book",
        "_buffer",
        "_claimed",
        "_events",
        "_in_flight",
        "_receiving",
        "_send",
        "_session",
        "_stopped",
        "_to_send",
        "_verifying",
        "peer_has",
    )

    def __init__(self, session: Session, book: CardBook, events: deque[Event], send: Callable[[bytes], None]) -> None:
        self.peer_has = -1  # the newest card of ours that the peer is known to hold
        self._session = session
        self._book = book
        self._events = events
        self._send = send
        self._to_send: list[HeldCard] = []  # not a deque, of which an empty one takes as much as all the rest of this
        self._in_flight: HeldCard | None = None
        self._stopped = False  # CD12: the peer refused a card: no more of them in this session
        self._asked = False  # CD13: CARD_GET was sent
        self._claimed: tuple[int, bytes] | None = None  # a card of ours that the peer holds and we lacked
        self._receiving: tuple[int, int] | None = None  # serial and total of the card whose parts come in
        self._buffer = bytearray()
        self._verifying: int | None = None  # serial of the card that the shell looks at

    # --- out ------------------------------------------------------------------------------------------------

    def greet(self) -> None:
        """CD9: say what we hold of the peer."""
        held = self._book.peers
        if held is not None:
            self._send(frames.encode(Frame.CARD_HAVE, 0, _HAVE.pack(held.serial, held.hash)))

    def offer(self) -> None:
        """CD10: send what the peer lacks of our own cards, oldest first."""
        claimed, own = self._claimed, self._book.own
        if claimed is not None and own and own[-1].serial >= claimed[0]:
            self._claimed = None
            self._have(*claimed)  # what it holds has come back to us: now it can be compared
            return
        if self._stopped or self.peer_has < 0:
            return
        waiting = {card.serial for card in self._to_send}
        if self._in_flight is not None:
            waiting.add(self._in_flight.serial)
        self._to_send.extend(
            card for card in self._book.own if card.serial > self.peer_has and card.serial not in waiting
        )
        self._send_next()

    def _send_next(self) -> None:
        """CD11: one card at a time, in parts; the next after the answer."""
        if self._in_flight is not None or self._stopped or not self._to_send:
            return
        card = self._in_flight = self._to_send.pop(0)
        for at in range(0, len(card.data), c.CARD_PART_MAX):
            head = _PART.pack(card.serial, len(card.data), at)
            self._send(frames.encode(Frame.CARD_PART, 0, head + card.data[at : at + c.CARD_PART_MAX]))

    def accepted(self, serial: int, card_hash: bytes) -> None:
        """CD12: the card that came is stored so that it survives a crash: acknowledge it."""
        if self._verifying == serial:
            self._verifying = None
            self._send(frames.encode(Frame.CARD_ACK, 0, _HAVE.pack(serial, card_hash)))

    def refused(self, serial: int, code: int) -> None:
        """CD12: the card that came is not taken."""
        if self._verifying == serial:
            self._verifying = None
            self._send(frames.encode(Frame.CARD_NAK, 0, _NAK.pack(serial, code)))

    def misnamed(self, serial: int, now: float) -> None:
        """CD11: the card that came has another number inside."""
        if self._verifying == serial:
            self._verifying = None
            self._session.fail(ProtocolError(f"card {serial} has another serial inside"), now)

    # --- in -------------------------------------------------------------------------------------------------

    def receive(self, kind: int, payload: bytes) -> None:
        """A CARD frame. Raises `ProtocolError`, which ends the session."""
        if kind == Frame.CARD_HAVE:
            self._have(*_HAVE.unpack(payload))
        elif kind == Frame.CARD_PART:
            serial, total, offset = _PART.unpack_from(payload)
            self._part(serial, total, offset, payload[_PART.size :])
        elif kind == Frame.CARD_ACK:
            self._acknowledged(*_HAVE.unpack(payload))
        elif kind == Frame.CARD_NAK:
            self._nak(*_NAK.unpack(payload))
        elif kind == Frame.CARD_GET:
            self._get(*_GET.unpack(payload))

    def _have(self, serial: int, card_hash: bytes) -> None:
        """CD10: what the peer holds of us, against what we hold ourselves."""
        own = self._book.own
        if not own:
            return
        newest = own[-1]
        if serial > newest.serial:
            self._claimed = (serial, card_hash)
            self._events.append(OwnCardsBehind(self._session, serial))
            if not self._asked:
                self._asked = True
                self._send(frames.encode(Frame.CARD_GET, 0, _GET.pack(newest.serial + 1)))
            return
        ours = self._book.own_card(serial)
        if ours is not None and ours.hash != card_hash:
            self._events.append(
                Alarm(
                    "own_fork",
                    f"the peer holds another card {serial} of this hub than this hub does: two copies of "
                    "the identity key sign, or it was stolen; nothing is announced until `peer repin` there",
                )
            )
            return
        if serial > self.peer_has:
            self.peer_has = serial
            self._events.append(CardAcknowledged(self._session, serial))
        self.offer()

    def _part(self, serial: int, total: int, offset: int, data: bytes) -> None:
        """CD11: parts in order and without gaps, one card at a time."""
        if self._verifying is not None:
            raise ProtocolError("a second card before the answer to the first")
        if self._receiving is None:
            if offset:
                raise ProtocolError("a card that does not begin at its beginning")
            self._receiving = (serial, total)
        if self._receiving != (serial, total) or offset != len(self._buffer):
            raise ProtocolError("a part of a card that does not continue the one before")
        if offset + len(data) > total:
            raise ProtocolError("a card with more bytes than it announced")
        if total <= c.CARD_MAX:
            self._buffer += data
        if total > c.CARD_MAX or len(self._buffer) == total:
            self._received(serial, total)

    def _received(self, serial: int, total: int) -> None:
        card = bytes(self._buffer)
        self._buffer.clear()
        self._receiving = None
        self._verifying = serial
        if total > c.CARD_MAX:
            self.refused(serial, Code.CARD_LIMIT)
        else:
            self._events.append(CardReceived(self._session, serial, card))

    def _answered(self, serial: int) -> HeldCard:
        """CD14: an answer answers what is in flight."""
        card = self._in_flight
        if card is None or card.serial != serial:
            raise ProtocolError(f"an answer to card {serial}, which was not sent")
        self._in_flight = None
        return card

    def _acknowledged(self, serial: int, card_hash: bytes) -> None:
        card = self._answered(serial)
        if card.hash != card_hash:
            raise ProtocolError(f"card {serial} acknowledged with another hash")
        if card in self._book.own and serial > self.peer_has:
            self.peer_has = serial
            self._events.append(CardAcknowledged(self._session, serial))
        self._send_next()

    def _nak(self, serial: int, code: int) -> None:
        self._answered(serial)
        self._stopped = True
        self._to_send.clear()
        self._events.append(CardRefused(self._session, serial, code))

    def _get(self, serial: int) -> None:
        """CD13: the peer's state is older than what it once signed: give it its own card back."""
        held = self._book.peers
        if held is not None and held.serial >= serial and held not in self._to_send and held is not self._in_flight:
            self._to_send.append(held)
            self._send_next()
