"""The hub that dials: 4.3, RT6, RS5, RS8 and RS10 of docs/PROTOCOL.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.second import records
from tests.second.carrier import Carrier
from tests.second.kdf import number, same, u64
from tests.second.records import Drop, Traffic
from tests.second.schedule import M2_LEN, Chain, Keys, Offer, WrongAuth, make_m1, proof_i, proof_r
from tests.second.session import Session
from tests.second.streams import Fault

if TYPE_CHECKING:
    from tests.second.hub import Hub


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
