"""The hub that was dialled: 4.4, RT7 to RT9, RS4, RS6 and RS9 of docs/PROTOCOL.md."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.second import records
from tests.second.carrier import Carrier
from tests.second.kdf import number, same, u8, u64
from tests.second.keys import Pair
from tests.second.records import Drop, Traffic
from tests.second.schedule import M1_LEN, M3_LEN, Chain, Keys, WrongAuth, answer, open_m1, proof_i, proof_r

if TYPE_CHECKING:
    from tests.second.hub import Hub

STEP_INTERVAL_REFUSED = 0.5
"""Seconds; RT9."""


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
