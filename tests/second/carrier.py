"""Sections 4 to 7 of docs/PROTOCOL.md on one carrier: handshake, records by state, ratchet steps. No socket is here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.second import records
from tests.second.kdf import number, same, u8, u64
from tests.second.keys import Pair
from tests.second.records import Drop, Receiver, Traffic
from tests.second.schedule import (
    M1_LEN,
    M2_LEN,
    M3_LEN,
    Chain,
    Keys,
    Offer,
    WrongAuth,
    answer,
    make_m1,
    open_m1,
    proof_i,
    proof_r,
)
from tests.second.session import Session
from tests.second.streams import Fault

if TYPE_CHECKING:
    from tests.second.hub import Hub

STEP_INTERVAL_REFUSED = 0.5
"""Seconds; RT9."""


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


class Initiator(Carrier):
    """Dials: M1 is in `out` at once."""

    def __init__(self, hub: Hub, resume: Session | None = None) -> None:
        super().__init__(hub)
        self._resume = resume
        self._resume_record = b""
        self._pair = hub.pair(dials=True)
        self._offer = Offer(self._pair.own, self._pair.peer)
        self._m1 = make_m1(self._pair, hub.hour(), self._offer.shares)
        self.out += self._m1
        self._step: tuple[Offer, bytes, Chain] | None = None
        self._turning = False
        """RK3 is sent, and no record of the new epoch has come."""
        self.steps_done = 0
        self.not_resumed = False
        """The peer answered RESUME with status 0."""

    def _traffic(self, keys: Keys, epoch: int) -> tuple[Traffic, Traffic]:
        return Traffic(keys.t_i, epoch), Traffic(keys.t_r, epoch)

    def _handshake(self) -> None:
        """HS5 to HS7."""
        if len(self._before_records) < M2_LEN:
            return
        m2 = bytes(self._before_records[:M2_LEN])
        keys = self._offer.finish(Chain.handshake(self.pair), self._m1, m2)
        self.out += keys.auth_i
        self._start_records(keys)
        self.receiver.buffer += self._before_records[M2_LEN:]
        if self._resume is None:
            self._send_start()
        else:
            self._send_resume(self._resume)

    def _send_start(self) -> None:
        """RS2, with HELLO in the same flight."""
        hub = self.hub
        self.send(records.START, hub.boot + u64(hub.next_dial()))
        session = self._new_session(initiator=True, boot=None)
        self.session = session
        session.send = self.send
        session.streams.send_hello(hub.requires)
        session.streams.send_card_have()

    def _send_resume(self, session: Session) -> None:
        """RS5: the old carrier is given up first."""
        if session.send is not None:
            for carrier in self.hub.carriers:
                if carrier.session is session and carrier is not self:
                    carrier.close()
        assert session.send is None
        (index,) = session.roots
        head = session.sid + u64(index) + u64(session.received_offset) + u64(session.send_base)
        head += self.hub.boot + u64(self.hub.next_dial())
        self._resume_record = head + proof_i(session.roots[index], self.keys.th, head)
        self.session = session
        self.send(records.RESUME, self._resume_record)

    def _record(self, kind: int, data: bytes) -> None:
        if self.up:
            self._turn()
            super()._record(kind, data)
            return
        expected = records.STARTED if self._resume is None else records.RESUMED
        if kind != expected:
            raise Drop(f"{records.NAMES[kind]} where {records.NAMES[expected]} is due")
        assert self.session is not None
        if kind == records.STARTED:
            self.session.peer_boot = data
            self.up = True
        else:
            self._resumed(self.session, data)

    def _resumed(self, session: Session, data: bytes) -> None:
        """RS8, RS10."""
        status, boot = data[0], data[1:17]
        if status not in (0, 1):
            raise Drop(f"RESUMED with status {status}")
        if status == 0:
            if any(data[17:]):
                raise Drop("RESUMED with status 0 is not zeros")
            self.not_resumed = True
            session.over = True
            session.roots = {}
            fresh = self._new_session(initiator=True, boot=boot)
            self._adopt(fresh)
            fresh.streams.send_hello(self.hub.requires)
            fresh.streams.send_card_have()
            return
        index = session.index
        expected = proof_r(session.roots[index], self.keys.th, self._resume_record[64:], data[:33])
        if not same(expected, data[33:]):
            raise Drop("proof_R does not verify")
        if session.peer_boot not in (None, boot):
            raise Drop("another boot resumed the session")
        session.peer_boot = boot
        session.resumed(index, self.keys, self.pair.direction)
        received, base = number(data[17:25]), number(data[25:33])
        if base > session.received_offset:
            raise Fault(f"the peer can send from {base} only, {session.received_offset} is received")
        session.go_on_from(received)
        self._adopt(session)
        self.start_step()
        session.flush()
        session.streams.send_card_have()

    def start_step(self) -> None:
        """RT4: RK1."""
        assert self._step is None, "RT5"
        assert self.session is not None
        offer = Offer(self.pair.own, self.pair.peer)
        rk1 = offer.shares
        self._step = offer, rk1, self._chain_of_step(self.session)
        self.send(records.RK1, rk1)

    @property
    def step_under_way(self) -> bool:
        return self._step is not None

    def _ratchet(self, kind: int, data: bytes) -> None:
        """RT6."""
        if kind != records.RK2 or self._step is None or self._turning:
            raise Drop(f"{records.NAMES[kind]} that answers nothing")
        assert self.session is not None
        offer, rk1, chain = self._step
        try:
            keys = offer.finish(chain, rk1, data)
        except WrongAuth as error:
            raise Drop(str(error)) from error
        self.session.stepped(keys, self.session.index + 1, keep_old=False)
        self.send(records.RK3, keys.auth_i)
        epoch = self.receiver.traffic.epoch + 1
        self._turning = True
        self._sender, self.receiver.next_traffic = self._traffic(keys, epoch)

    def _turn(self) -> None:
        """The first record of the new epoch completes the step (RT5, RT6)."""
        if self._turning and self.receiver.next_traffic is None:
            self._step, self._turning = None, False
            self.steps_done += 1


class Responder(Carrier):
    """Was dialled."""

    def __init__(self, hub: Hub, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(hub)
        self._clock = clock
        self._pending: Keys | None = None
        self._last_step: float | None = None
        self._superseded_root: int | None = None
        """RS9: index of the root that goes with the initiator's next record."""
        self.steps_done = 0

    def _traffic(self, keys: Keys, epoch: int) -> tuple[Traffic, Traffic]:
        return Traffic(keys.t_r, epoch), Traffic(keys.t_i, epoch)

    def _handshake(self) -> None:
        """RD2 to RD7; what a stranger would do raises WrongAuth."""
        buffer = self._before_records
        if self._keys is None and len(buffer) >= M1_LEN:
            m1 = bytes(buffer[:M1_LEN])
            del buffer[:M1_LEN]
            self._pair, shares = self._find(m1)
            m2, self._keys = answer(self._pair.own, self._pair.peer, Chain.handshake(self._pair), m1, shares)
            self.out += m2
        if self._keys is not None and len(buffer) >= M3_LEN:
            if not same(bytes(buffer[:M3_LEN]), self._keys.auth_i):
                raise WrongAuth("auth_I")
            self._start_records(self._keys)
            self.receiver.buffer += buffer[M3_LEN:]

    def _find(self, m1: bytes) -> tuple[Pair, bytes]:
        hour = self.hub.hour()
        for pair in self.hub.pairs_as_responder():
            if m1[1:17] in [pair.hint(hour + shift) for shift in (-1, 0, 1)]:
                return pair, open_m1(pair, range(hour - 1, hour + 2), m1)
        raise WrongAuth("hint")

    def _record(self, kind: int, data: bytes) -> None:
        if not self.up:
            self._first(kind, data)
            return
        assert self.session is not None
        if self._superseded_root is not None:
            self.session.roots.pop(self._superseded_root, None)
            self._superseded_root = None
        super()._record(kind, data)

    def _first(self, kind: int, data: bytes) -> None:
        """RS1, RS3, RS4, RS6."""
        if kind not in (records.START, records.RESUME):
            raise Drop(f"the first record is {records.NAMES[kind]}")
        boot, dial = (data[:16], data[16:24]) if kind == records.START else (data[40:56], data[56:64])
        if number(dial) <= self.hub.highest_dial.get(boot, -1):
            raise Drop(f"dial {number(dial)} is not higher than {self.hub.highest_dial[boot]}")
        self.hub.highest_dial[boot] = number(dial)
        if kind == records.RESUME and self._resume(data, boot):
            return
        session = self._new_session(initiator=False, boot=boot)
        self._adopt(session)
        if kind == records.START:
            self.send(records.STARTED, self.hub.boot)
        else:
            self.send(records.RESUMED, u8(0) + self.hub.boot + bytes(48))
        session.flush()
        session.streams.send_hello(self.hub.requires)
        session.streams.send_card_have()

    def _resume(self, data: bytes, boot: bytes) -> bool:
        """RS6; False is status 0."""
        session = self.hub.sessions.get(data[:16])
        index, received, base = number(data[16:24]), number(data[24:32]), number(data[32:40])
        if session is None or session.initiator or session.over or session.peer_boot != boot:
            return False
        if index not in session.roots:
            return False
        root = session.roots[index]
        if not same(proof_i(root, self.keys.th, data[:64]), data[64:]):
            return False
        for carrier in self.hub.carriers:
            if carrier.session is session and carrier is not self:
                carrier.close()
        if base > session.received_offset or not session.send_base <= received <= session.ever_sent:
            session.over = True
            session.roots = {}
            return False
        session.resumed(index, self.keys, self.pair.direction)
        self._superseded_root = index
        head = u8(1) + self.hub.boot + u64(session.received_offset) + u64(session.send_base)
        session.go_on_from(received)
        self.session = session
        self.send(records.RESUMED, head + proof_r(root, self.keys.th, data[64:], head))
        self._adopt(session)
        session.flush()
        session.streams.send_card_have()
        return True

    def _ratchet(self, kind: int, data: bytes) -> None:
        """RT7 to RT9."""
        session = self.session
        assert session is not None
        if kind == records.RK1 and self._pending is None:
            if self._last_step is not None and self._clock() - self._last_step < STEP_INTERVAL_REFUSED:
                raise Drop("RK1 too soon")
            chain = self._chain_of_step(session)
            rk2, self._pending = answer(self.pair.own, self.pair.peer, chain, data, data)
            session.stepped(self._pending, session.index + 1, keep_old=True)
            self.send(records.RK2, rk2)
        elif kind == records.RK3 and self._pending is not None:
            if not same(data, self._pending.auth_i):
                raise Drop("auth_I of RK3")
            session.stepped(self._pending, session.index, keep_old=False)
            self._sender, self.receiver.traffic = self._traffic(self._pending, self.sender.epoch + 1)
            self._pending, self._last_step = None, self._clock()
            self.steps_done += 1
            self.send(records.PAD, b"")
        else:
            raise Drop(f"{records.NAMES[kind]} that answers nothing")
