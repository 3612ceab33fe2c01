"""Sections 4 to 7 of docs/PROTOCOL.md on one carrier: handshake, records by state, ratchet steps. No socket is here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.second import records
from tests.second.kdf import number
from tests.second.keys import Pair
from tests.second.records import Drop, Receiver, Traffic
from tests.second.schedule import Chain, Keys, WrongAuth
from tests.second.session import Session
from tests.second.streams import Fault

if TYPE_CHECKING:
    from tests.second.hub import Hub


class Carrier:
    """What both roles share. `out` holds the bytes to be sent; `feed` takes what arrived, whole or in pieces."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.out = bytearray()
        self.session: Session | None = None
        self.up = False
        self.closing = False
        self.closed = False
        """No more is sent or read on it."""
        self.on_close: list[Callable[[], None]] = []
        self.answers_pings = True
        self.answers_close = True
        self.pongs: list[bytes] = []
        self.pings_answered = 0
        self.acks: list[int] = []
        self.log: list[tuple[str, int, int]] = []
        """Of each record received: name, epoch, length of the data."""
        self._before_records = bytearray()
        self._pair: Pair | None = None
        self._keys: Keys | None = None
        self._receiver: Receiver | None = None
        self._sender: Traffic | None = None

    @property
    def pair(self) -> Pair:
        assert self._pair is not None
        return self._pair

    @property
    def keys(self) -> Keys:
        """Of this carrier's own handshake."""
        assert self._keys is not None
        return self._keys

    @property
    def sender(self) -> Traffic:
        assert self._sender is not None
        return self._sender

    @property
    def receiver(self) -> Receiver:
        assert self._receiver is not None
        return self._receiver

    def _traffic(self, keys: Keys, epoch: int) -> tuple[Traffic, Traffic]:
        """KS6: own direction first."""
        raise NotImplementedError

    def _handshake(self) -> None:
        """Take from `_before_records` what is whole; ends with `_start_records`."""
        raise NotImplementedError

    def _start_records(self, keys: Keys) -> None:
        self._keys = keys
        self._sender, traffic = self._traffic(keys, 0)
        self._receiver = Receiver(traffic)

    def send(self, kind: int, data: bytes) -> None:
        """Seal one record. After CLOSE nothing more is sent."""
        if self.closed or self.closing:
            return
        self.out += self.sender.seal(kind, data)
        self.closing = kind == records.CLOSE

    def close(self) -> None:
        """Give the carrier up (RS13): the session, if it is its own, waits for another one."""
        if self.closed:
            return
        self.closed = True
        if self.session is not None and self.session.send == self.send:
            self.session.send = None
        for act in self.on_close:
            act()

    def feed(self, data: bytes) -> None:
        """Drop and WrongAuth close the carrier, Fault sends CLOSE; each is raised, for it is the peer's mistake."""
        try:
            if self._receiver is None:
                self._before_records += data
                self._handshake()
            else:
                self._receiver.buffer += data
            while not self.closed and self._receiver is not None and (record := self._receiver.record()):
                self.log.append((records.NAMES.get(record[0], "?"), self._receiver.traffic.epoch, len(record[1])))
                self._record(*record)
        except (Drop, WrongAuth):
            self.close()
            raise
        except Fault as fault:
            if self.session is not None and self.session.close_sent is None and not self.closed:
                self.session.close(fault.code)
            raise

    def _record(self, kind: int, data: bytes) -> None:
        """The columns UP and CLOSING of the table in 7.2."""
        session = self.session
        assert session is not None
        if kind == records.CLOSE:
            if self.answers_close:
                session.peer_closed(data)
                self.closing = True
            return
        if kind in (records.RK1, records.RK2, records.RK3):
            self._ratchet(kind, data)
            return
        if kind not in (records.PAD, records.DATA, records.ACK, records.PING, records.PONG):
            raise Drop(f"{records.NAMES[kind]} on a carrier that is up")
        if session.close_sent is not None:
            return
        if kind == records.DATA:
            if not data:
                raise Drop("DATA without bytes, which nobody sends (RC8)")
            session.data(data)
        elif kind == records.ACK:
            self.acks.append(number(data))
            session.acknowledged(number(data))
        elif kind == records.PING and self.answers_pings:
            self.pings_answered += 1
            self.send(records.PONG, data)
        elif kind == records.PONG:
            self.pongs.append(data)

    def _ratchet(self, kind: int, data: bytes) -> None:
        raise NotImplementedError

    def ping(self, payload: bytes) -> None:
        self.send(records.PING, payload)

    def _adopt(self, session: Session) -> None:
        """This carrier is the session's from here on, and may carry its records."""
        self.session = session
        session.send = self.send
        self.up = True

    def _new_session(self, *, initiator: bool, boot: bytes | None) -> Session:
        """RS2, RS4."""
        hub = self.hub
        session = Session(
            self.keys, self.pair.direction, initiator=initiator, boot=boot, own=hub.card, peer=hub.peer_card
        )
        hub.sessions[session.sid] = session
        return session

    def _chain_of_step(self, session: Session) -> Chain:
        """RT1, RT2, from the session's newest root."""
        index = session.index
        return Chain.step(session.roots[index], index + 1, session.th, session.direction)
