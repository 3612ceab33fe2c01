"""A session: keys and streams, which outlive carriers (PROTOCOL.md 7).

             START sent           STARTED                  carrier lost
initiator  ──────────► STARTING ──────────► UP ◄──RESUMED──┐     │
                           │                │              │     ▼
                           └─ carrier lost ─┴──────────► LOST ──RESUME sent──► RESUMING
responder  ──START / RESUME proven────────► UP ──carrier lost──► LOST ──RESUME proven──► UP
either     ──CLOSE sent──► CLOSING ──CLOSE or 60 s──► ENDED        LOST ──linger──► ENDED
"""

from __future__ import annotations

from enum import Enum

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames, resume
from hubtunnel.protocol.bytestream import ReceiveCount, SendBuffer
from hubtunnel.protocol.cards import CardExchange
from hubtunnel.protocol.carrier import Carrier
from hubtunnel.protocol.clock import CARRIER_ENDS, Due, SessionClock
from hubtunnel.protocol.constants import Code, Record
from hubtunnel.protocol.dispatch import Dispatcher
from hubtunnel.protocol.environment import Environment
from hubtunnel.protocol.events import (
    CarrierLost,
    Job,
    Notice,
    Pong,
    Ratcheted,
    SessionEnded,
    SessionResumed,
)
from hubtunnel.protocol.handshake import Established
from hubtunnel.protocol.mux import Mux
from hubtunnel.protocol.records import TrafficKey
from hubtunnel.protocol.stepping import Stepper
from hubtunnel.protocol.wire import RESUME, RESUMED, START, STARTED, u64


class Phase(Enum):
    """Where a session is with its carrier."""

    STARTING = "starting"
    UP = "up"
    LOST = "lost"
    RESUMING = "resuming"
    CLOSING = "closing"
    ENDED = "ended"


SEAL_PIECE = 32 * 1024  # bytes at which sealed records are handed over: to join more of them would copy them
_MEASURE_EVERY = 1.0  # seconds between looks at the round trip while windows are given back
# A module's name is found in a fraction of the time that an enumeration's member takes.
_DATA, _UP, _CLOSING, _ENDED = Record.DATA, Phase.UP, Phase.CLOSING, Phase.ENDED
_SENDS_DATA = (Phase.UP, Phase.STARTING)
_FIRST_RECORDS = frozenset((Record.START, Record.STARTED, Record.RESUME, Record.RESUMED))
_RATCHET_RECORDS = frozenset((Record.RK1, Record.RK2, Record.RK3))


class Session:
    """The facade of one session. Its link attaches carriers; records come in by `record`, DATA goes out by `fill`."""

    def __init__(self, env: Environment, established: Established, now: float) -> None:
        self.initiator = established.initiator
        self.sid = established.sid
        self.phase = Phase.STARTING if self.initiator else Phase.UP
        self.carrier: Carrier | None = None
        self.peer_boot: bytes | None = None
        self.peer_version = ""
        self.created_at = now
        self.resumed = 0
        self.heard = False  # whether a record of this session was ever received
        self.greeted = False  # whether the peer's HELLO came
        self.goaway_received: int | None = None
        self.asked_at: float | None = None  # RV1, RV3: when this session was asked whether its peer lives
        self.answered = False
        self.grace_at: float | None = None  # RS11: until then the peer, which dialled, is left to come back by itself
        self._env = env
        self._clock = SessionClock(env.settings, initiator=self.initiator)
        self._stepper = Stepper(env, self._clock, self, established)
        self._mux = Mux(self, env.events, env.budget, env.settings.streams_per_peer, now)
        self._send = SendBuffer(env.budget)
        self._count = ReceiveCount()
        self._dispatcher = Dispatcher(self, env)
        self._awaited: Record | None = None  # the answer that our first record on this carrier still needs
        self._said_resume = b""
        self._pinged_at = now
        self._end_code = int(Code.DONE)
        self._end_text = ""
        self._mux.send_control(frames.encode_hello(env.settings.hello))
        self.cards = CardExchange(self, env.cards, env.events, self._mux.send_control)
        self.cards.greet()

    # --- what others ask ------------------------------------------------------------------------------------

    @property
    def index(self) -> int:
        """The index of the root in force: how many steps and resumes this session has seen."""
        return self._stepper.ratchet.index

    @property
    def mux(self) -> Mux:
        """The streams."""
        return self._mux

    @property
    def goaway_sent(self) -> int | None:
        """The code of the GOAWAY that we sent."""
        return self._mux.goaway_code

    @property
    def ended(self) -> bool:
        """Whether nothing will ever come of this session again."""
        return self.phase is _ENDED

    @property
    def up(self) -> bool:
        """Whether a carrier is there, and nothing of the end was said."""
        return self.phase is _UP

    @property
    def live(self) -> bool:
        """7.7: a carrier is there on which a record of this session was received."""
        return self.phase is Phase.UP and self.carrier is not None and self.carrier.heard

    @property
    def leaving(self) -> bool:
        """Whether a GOAWAY was sent or received, or the session is being closed."""
        return (
            self.goaway_sent is not None
            or self.goaway_received is not None
            or self.phase in (Phase.CLOSING, Phase.ENDED)
        )

    @property
    def ready(self) -> bool:
        """Whether a stream can be opened now (ST2)."""
        return self.live and self.greeted and not self.leaving

    @property
    def wants_resume(self) -> bool:
        """RS11: only who dialled a session resumes it."""
        return self.initiator and self.phase is Phase.LOST

    @property
    def awaits_resumed(self) -> bool:
        """Whether RESUME was said on the carrier and not answered."""
        return self._awaited is Record.RESUMED

    @property
    def unacknowledged(self) -> int:
        """Bytes sent that the peer has not acknowledged."""
        return self._send.end - self._send.base

    @property
    def roots(self) -> dict[int, bytes]:
        """What RESUME may name now, by index (for invariant checks; never logged)."""
        return self._stepper.ratchet.roots

    # --- carriers -------------------------------------------------------------------------------------------

    def start(self, carrier: Carrier, dial: int, now: float) -> None:
        """RS2: the initiator's first record on a new session; HELLO may follow in the same flight."""
        carrier.queue(Record.START, START.pack(self._env.boot, dial))
        carrier.silent = False
        self.phase = Phase.STARTING
        self._awaited = Record.STARTED
        self._attach(carrier, now)

    def started(self, carrier: Carrier, peer_boot: bytes, now: float) -> None:
        """RS4: the responder's answer."""
        carrier.queue(Record.STARTED, STARTED.pack(self._env.boot))
        self.adopt(carrier, peer_boot, now)

    def adopt(self, carrier: Carrier, peer_boot: bytes, now: float) -> None:
        """RS4, RS10: the carrier is this session's from here on, as if START had come and been answered."""
        carrier.silent = False
        self.peer_boot = peer_boot
        self.phase = Phase.UP
        self._awaited = None
        self._attach(carrier, now)
        self._heard_on(carrier, now)

    def resume(self, carrier: Carrier, dial: int, now: float) -> None:
        """RS5: stop the old carrier, fix the received offset, and only then say RESUME."""
        self.drop_carrier("replaced", "a new carrier takes over", now)
        ((m, root),) = self.roots.items()
        offsets = (self._count.said(), self._send.base)
        self._said_resume = resume.say(root, carrier.established.th, self.sid, m, *offsets, self._env.boot, dial)
        carrier.queue(Record.RESUME, self._said_resume)
        self.phase = Phase.RESUMING
        self._awaited = Record.RESUMED
        self._attach(carrier, now)

    def accept_resume(self, carrier: Carrier, said: bytes, now: float) -> bool:
        """RS6: the responder's side. False: say status 0; the session is untouched, or over if offsets cannot fit."""
        m = RESUME.get_int(said, "m")
        root = self.roots.get(m)
        fresh = carrier.established
        if self.initiator or root is None or RESUME.get(said, "boot_I") != self.peer_boot:
            return False
        if not resume.proves(said, root, fresh.th):
            return False
        closing = self.phase is Phase.CLOSING
        self.drop_carrier("replaced", "the peer came back on a new carrier", now)
        received = RESUME.get_int(said, "received_offset")
        if not self._offsets_fit(received, RESUME.get_int(said, "send_base")):
            self.end(Code.PROTOCOL, "the peer resumed with offsets that cannot be", now)
            return False
        answer = resume.answer(root, fresh.th, said, self._env.boot, self._count.said(), self._send.base)
        self._stepper.ratchet.resume(m, fresh.root, fresh.th, fresh.d)
        self._stepper.exempt = True
        carrier.queue(Record.RESUMED, answer)
        carrier.silent = False
        self._send.rewind(received)
        self.phase = Phase.CLOSING if closing else Phase.UP
        self._attach(carrier, now)
        self._heard_on(carrier, now)
        self._count_resume(now)
        if closing:
            self._queue_close(carrier)  # CL3: the session was resumed only to hear it again
        return True

    def refused_resume(self, carrier: Carrier, peer_boot: bytes, now: float) -> bool:
        """RS10: status 0. True: the peer never knew this session, which goes on as a new one, from offset 0."""
        if self.heard:
            return False
        self.sid = carrier.established.sid
        self._stepper = Stepper(self._env, self._clock, self, carrier.established)
        self._send.rewind(0)
        self.adopt(carrier, peer_boot, now)
        return True

    def _offsets_fit(self, received: int, send_base: int) -> bool:
        """RS6, RS8: what the peer received lies within what we keep; what it still keeps reaches back to us."""
        return self._send.base <= received <= self._send.end and send_base <= self._count.offset

    def _attach(self, carrier: Carrier, now: float) -> None:
        self.carrier = carrier
        carrier.session = self
        self.grace_at = None
        self.asked_at = None
        self.answered = False
        self._clock.on_attached(now, waiting=self._awaited is not None)

    def _count_resume(self, now: float) -> None:
        self.resumed += 1
        self.cards.greet()
        self._env.events.append(SessionResumed(self))
        self._finish_if_drained(now)  # the offsets stand in for the last ACK

    def _heard_on(self, carrier: Carrier, now: float) -> None:
        """First record on a carrier: measure its round trip."""
        carrier.heard = True
        self.heard = True
        self.ping(now)

    def drop_carrier(self, code: str, text: str, now: float, *, fault: bool = False) -> None:
        """Our side is done with the carrier; the session waits for another."""
        carrier = self.carrier
        if carrier is not None:
            self._env.close_carrier(carrier, code, text, fault=fault)
            self.lost(carrier, code, now)

    def let_go(self, carrier: Carrier) -> None:
        """RS10: the carrier becomes another session's."""
        if carrier is self.carrier:
            self.carrier = None
            carrier.session = None

    def lost(self, carrier: Carrier, why: str, now: float) -> None:
        """RS13: the carrier is gone: its keys are forgotten, and a step in flight with them."""
        if carrier is not self.carrier:
            return
        carrier.forget_keys()
        self.carrier = None
        self._awaited = None
        self._stepper.drop()
        if self.phase is Phase.CLOSING and self.initiator:
            self.end(self._end_code, self._end_text, now)
        if self.phase is Phase.ENDED:
            return
        if self.phase is not Phase.CLOSING:
            self.phase = Phase.LOST
            if not self.initiator:
                self.grace_at = now + c.RESPONDER_DIAL_AFTER
        self._clock.on_lost(now)
        self._env.events.append(CarrierLost(self, why))

    # --- records in -----------------------------------------------------------------------------------------

    def record(self, carrier: Carrier, kind: Record, plaintext: bytes, now: float) -> None:
        """7.2: one record of the carrier. Raises `ProtocolError` where the carrier must end at once."""
        self._mux.now = now
        self._clock.on_record(now)
        if self._awaited is not None:
            self._first_answer(carrier, kind, plaintext[1:], now)
            return
        if self._stepper.ratchet.confirming:
            self._stepper.ratchet.confirmed()  # RS9
        if carrier.switched:
            self._stepper.turned(now)
        if kind is _DATA:
            if self.phase is not _CLOSING:
                self._data(plaintext, now)
        elif kind in _FIRST_RECORDS:
            raise ProtocolError(f"{kind.name} on a session that runs", "bad_record")
        elif kind is Record.CLOSE:
            self._close_received(carrier, plaintext[1], int.from_bytes(plaintext[2:], "big"), now)
        elif self.phase is not _CLOSING:
            if kind in _RATCHET_RECORDS:
                if self._stepper.record(carrier, kind, plaintext[1:], now):
                    self._env.events.append(Ratcheted(self, self.index))
            else:
                self._control_record(carrier, kind, plaintext[1:], now)
        elif kind in _RATCHET_RECORDS:
            self._stepper.record_while_closing(carrier, kind, plaintext[1:], now)
        self._check_epoch(carrier.receiving, now)

    def _first_answer(self, carrier: Carrier, kind: Record, data: bytes, now: float) -> None:
        """RS3: STARTED after START, RESUMED after RESUME, nothing else."""
        if kind is not self._awaited:
            raise ProtocolError(f"{kind.name} as the first answer", "bad_record")
        if kind is Record.RESUMED:
            self._resumed_received(carrier, data, now)
            return
        self._awaited = None
        self._clock.on_answered()
        self.peer_boot = STARTED.get(data, "boot_R")
        if self.phase is Phase.STARTING:
            self.phase = Phase.UP
        self._heard_on(carrier, now)

    def _resumed_received(self, carrier: Carrier, data: bytes, now: float) -> None:
        """RS8: the responder proved that it has the root. (Status 0 is the link's to rule on.)"""
        ((m, root),) = self.roots.items()
        fresh = carrier.established
        if RESUMED.get_int(data, "status") != 1:
            raise ProtocolError("RESUMED with an unknown status", "bad_record")
        if not resume.answers(data, root, fresh.th, self._said_resume):
            raise ProtocolError("RESUMED does not verify", "bad_proof")
        if self.peer_boot is not None and RESUMED.get(data, "boot_R") != self.peer_boot:
            raise ProtocolError("RESUMED by another process than the session's", "bad_proof")
        self._awaited = None
        self._clock.on_answered()
        self.peer_boot = RESUMED.get(data, "boot_R")
        self._stepper.ratchet.resume(m, fresh.root, fresh.th, fresh.d)
        self.phase = Phase.UP
        received = RESUMED.get_int(data, "received_offset")
        if not self._offsets_fit(received, RESUMED.get_int(data, "send_base")):
            self.fail(ProtocolError("RESUMED with offsets that cannot be"), now)
            return
        self._send.rewind(received)
        self._stepper.begin(carrier, now)  # RK1 before anything else: the carrier is silent until it is there
        self._heard_on(carrier, now)
        self._count_resume(now)

    def greeted_by(self, hello: frames.Hello) -> None:
        """FR5: the peer's HELLO came."""
        self.greeted = True
        self.peer_version = hello.version
        self._clock.on_hello(hello.ratchet_interval)

    def _data(self, plaintext: bytes, now: float) -> None:
        """BS2: count what was taken off the carrier, then read its frames."""
        self._count.took(len(plaintext) - 1, now)
        if not self._stepper.receives_old_epoch:
            self._clock.on_data(now)
        if self._count.due:
            self._acknowledge()
        try:
            self._dispatcher.receive(plaintext)
        except ProtocolError as exc:
            self.fail(exc, now)
            return
        self._finish_if_drained(now)

    def _acknowledge(self) -> None:
        if self.carrier is not None:
            self.carrier.ack = self._count.said()

    def _control_record(self, carrier: Carrier, kind: Record, data: bytes, now: float) -> None:
        if kind is Record.ACK:
            try:
                self._send.acknowledge(int.from_bytes(data, "big"))
            except ProtocolError as exc:
                self.fail(exc, now)
                return
            self._finish_if_drained(now)
        elif kind is Record.PING:
            carrier.queue_pong(data)
        elif kind is Record.PONG:
            self._pong(carrier, data, now)

    def _pong(self, carrier: Carrier, token: bytes, now: float) -> None:
        for answered, asked_at in carrier.pong_received(token, now):
            self._mux.rtt = carrier.rtt or 0.0
            if self.asked_at is not None and asked_at >= self.asked_at:
                self.answered = True
            self._env.events.append(Pong(answered, now - asked_at))

    # --- the ratchet ----------------------------------------------------------------------------------------

    def job_done(self, job: Job, result: object, now: float) -> None:
        """The result of a job, or the exception that it raised; stale ones are dropped."""
        carrier = self._stepper.take(job)
        if carrier is None:
            return
        self._mux.now = now
        try:
            if self._stepper.result(carrier, result):
                self._env.events.append(Ratcheted(self, self.index))
        except ProtocolError as exc:
            self.drop_carrier(exc.code, str(exc), now, fault=True)

    def rekey(self, now: float) -> bool:
        """Ask for a ratchet step now. False: the peer dialled this session, so steps are its to begin."""
        if not self.initiator or self.phase is not Phase.UP:
            return False
        self._clock.ask_ratchet(now)
        return True

    def _check_epoch(self, key: TrafficKey | None, now: float) -> None:
        """RT4, RT10: limits in records and bytes of one direction, which has just carried something."""
        if key is not None and self._clock.on_traffic(key.counter, key.bytes, now) is not None:
            self.drop_carrier(*CARRIER_ENDS[Due.EPOCH_OVER], now, fault=True)

    # --- DATA out -------------------------------------------------------------------------------------------

    def fill(self, carrier: Carrier, out: list[bytes], size: int, now: float) -> int:
        """BS5, BS6, RC7: seal DATA behind the `size` bytes in `out`, up to a piece that is worth a write."""
        if carrier is not self.carrier or not self.has_data:
            return 0
        send, mux = self._send, self._mux
        mux.now = now
        added = 0
        window = self._window()
        piece = min(SEAL_PIECE, carrier.record_room)
        while size + added < piece:
            if send.pending:
                chunk = send.again()
            elif mux.has_output and self.unacknowledged < window:
                chunk = mux.next_record(carrier.record_room)
                if chunk is not None:
                    send.keep(chunk)
            else:
                break
            if chunk is None:
                break
            added += carrier.seal(chunk, out)
        if added:
            self._clock.on_data(now)
            self._finish_if_drained(now)
            self._check_epoch(carrier.sending, now)
        return added

    def _window(self) -> int:
        return c.SEND_WINDOW_TIGHT if self._env.budget.tight else self._env.settings.send_window

    @property
    def has_data(self) -> bool:
        """Whether `fill` would seal something."""
        carrier = self.carrier
        if carrier is None or carrier.silent or self.phase not in _SENDS_DATA:
            return False
        return self._send.pending or (self._mux.has_output and self.unacknowledged < self._window())

    def ping(self, now: float) -> bytes | None:
        """Ask for a PONG; the token that it will carry, or None without a carrier."""
        if self.carrier is None or self.phase is not Phase.UP:
            return None
        self._clock.on_pinged(now)
        self._pinged_at = now
        return self.carrier.queue_ping(self._env.random(8), now)

    def measure(self, now: float) -> None:
        """Under load nobody asks for a sign of life, and the way may have become longer since somebody did."""
        if now - self._pinged_at >= _MEASURE_EVERY:
            self.ping(now)

    def ask(self, now: float) -> None:
        """RV1, RV3: ask whether the peer of this session lives; `answered` tells, until the next carrier."""
        if self.asked_at is None and self.ping(now) is not None:
            self.asked_at = now

    # --- the end --------------------------------------------------------------------------------------------

    def goaway(self, code: int, now: float) -> None:
        """GA2–GA5: take no new streams, and close when the last has ended."""
        if self.phase in (Phase.CLOSING, Phase.ENDED) or self.goaway_sent == code:
            return
        self._mux.send_goaway(code)
        self._finish_if_drained(now)

    def _finish_if_drained(self, now: float) -> None:
        """CL1: a graceful CLOSE: after GOAWAY, no stream open, everything acknowledged."""
        if self.goaway_sent is None or self.phase is not Phase.UP or self._mux.streams:
            return
        if self._mux.has_output or self._send.pending or self.unacknowledged:
            return
        self.close(self.goaway_sent, "drained", now)

    def fail(self, exc: ProtocolError, now: float) -> None:
        """FR1: what came in frames breaks the protocol: the session ends, with that code said to the peer."""
        self._env.events.append(Notice("protocol_error", str(exc)))
        name = exc.code.upper()
        self.close(Code[name] if name in Code.__members__ else Code.PROTOCOL, str(exc), now)

    def close(self, code: int, text: str, now: float) -> None:
        """CL1: end the session: streams are reset, CLOSE is said, its answer awaited for 60 s."""
        if self.phase in (Phase.CLOSING, Phase.ENDED):
            return
        carrier = self.carrier
        if carrier is None or self._awaited is Record.RESUMED:
            self.end(code, text, now)
            return
        carrier.silent = False  # RK1 that is still being made does not come any more
        self._end_code, self._end_text = code, text
        self._mux.reset_all(code)
        self._stepper.give_up_job()
        self.phase = Phase.CLOSING
        self._clock.on_closing(now)
        self._queue_close(carrier)

    def _queue_close(self, carrier: Carrier) -> None:
        """CL1: what was received is said before, since after CLOSE nothing more is sent."""
        if self._count.unsaid:
            carrier.queue(Record.ACK, u64(self._count.said()))
        carrier.queue(Record.CLOSE, bytes((self._end_code & 0xFF,)) + u64(self._send.end))
        carrier.hush()

    def _close_received(self, carrier: Carrier, code: int, final: int, now: float) -> None:
        """CL2, CL3: the peer ends the session, or answers our CLOSE."""
        ours = self.phase is Phase.CLOSING
        if not ours:
            self._end_code = code
            self._end_text = f"closed by the peer ({c.code_word(code)})"
            missing = final - self._count.offset
            if missing:
                self._end_text += f", {missing} bytes of what it sent are missing"
            self._queue_close(carrier)
        self.end(self._end_code, self._end_text, now, by_peer=not ours)

    def end(self, code: int, text: str, now: float, *, by_peer: bool = False) -> None:
        """The session is over: streams reset, roots and buffers gone, the carrier closed once it is flushed."""
        if self.phase is Phase.ENDED:
            return
        self.phase = Phase.ENDED
        self._mux.reset_all(code)
        self._send.clear()
        self._stepper.drop()
        self._stepper.ratchet.roots = {}
        self._clock.stop()
        self.grace_at = None
        carrier = self.carrier
        if carrier is not None:
            self._env.close_carrier(carrier, "session_closed", text, fault=False)
            self.carrier = None
        self._env.events.append(SessionEnded(self, code, text, by_peer))

    # --- time -----------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When `handle_deadline` has something to do."""
        at = self._clock.next_deadline()
        if self._count.ack_at is not None and self.carrier is not None:
            at = min(at, self._count.ack_at)
        return at if self.grace_at is None else min(at, self.grace_at)

    def handle_deadline(self, now: float) -> None:
        """Do what is due."""
        self._mux.now = now
        if self._count.ack_at is not None and self._count.ack_at <= now and self.phase is Phase.UP:
            self._acknowledge()
        if self.grace_at is not None and self.grace_at <= now:
            self.grace_at = None
        for due in self._clock.due(now):
            self._handle(due, now)

    def _handle(self, due: Due, now: float) -> None:
        if due is Due.RATCHET:
            if self.phase is Phase.UP and self.carrier is not None:
                self._stepper.begin(self.carrier, now)
            else:
                self._clock.ask_ratchet(now + c.FIRST_RECORD_TIMEOUT)
        elif due is Due.PING:
            self.ping(now)
        elif due is Due.LINGER_OVER:
            self.end(Code.TIMED_OUT, "no new carrier came in time", now)
        elif due is Due.CLOSE_OVER:
            self.end(self._end_code, f"{self._end_text}; the peer did not answer CLOSE", now)
        else:
            self.drop_carrier(*CARRIER_ENDS[due], now, fault=True)

    def shorten_linger(self, now: float) -> None:
        """RV5: another boot of the peer has answered; do not wait long for this one."""
        self._clock.shorten_linger(now, c.LINGER_AFTER_NEWCOMER)
