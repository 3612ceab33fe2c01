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

from hubtunnel import crypto
from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames
from hubtunnel.protocol.bytestream import ReceiveCount, SendBuffer
from hubtunnel.protocol.carrier import Carrier
from hubtunnel.protocol.clock import Due, SessionClock
from hubtunnel.protocol.constants import Code, Frame, Record
from hubtunnel.protocol.environment import Environment
from hubtunnel.protocol.events import (
    Alarm,
    CarrierLost,
    Job,
    Notice,
    PeerGoingAway,
    Pong,
    Ratcheted,
    SessionEnded,
    SessionFrame,
    SessionResumed,
    SessionUp,
)
from hubtunnel.protocol.handshake import Established
from hubtunnel.protocol.mux import Mux
from hubtunnel.protocol.ratchet import Ratchet, Step
from hubtunnel.protocol.records import TrafficKey
from hubtunnel.protocol.schedule import Offer, Secrets
from hubtunnel.protocol.wire import RESUME, RESUMED, START, STARTED


class Phase(Enum):
    """Where a session is with its carrier."""

    STARTING = "starting"
    UP = "up"
    LOST = "lost"
    RESUMING = "resuming"
    CLOSING = "closing"
    ENDED = "ended"


# Record types that need no more than a running session; the others have a phase of their own.
_ALWAYS = frozenset((Record.PAD, Record.DATA, Record.ACK, Record.CLOSE, Record.PING, Record.PONG))


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
        self.end_code: int | None = None
        self.asked_at: float | None = None  # RV2: when this session was asked whether its peer lives
        self.answered = False
        self.grace_at: float | None = None  # DL2: until then the peer, which dialled, is left to come back by itself
        self._env = env
        self._ratchet = Ratchet(initiator=self.initiator, root=established.root, th=established.th, d=established.d)
        self._clock = SessionClock(env.settings, initiator=self.initiator)
        self._mux = Mux(self, env.events, env.budget, env.settings.streams_per_peer, now)
        self._send = SendBuffer(env.budget)
        self._count = ReceiveCount()
        self._parser = frames.FrameParser()
        self._job: tuple[Job, Carrier] | None = None
        self._after_resume = False  # RT5: the step right after RESUMED is exempt from the shortest interval
        self._awaited: Record | None = None  # the answer that our first record on this carrier still needs
        self._said_resume = b""
        self._end_text = ""
        self._mux.send_control(frames.encode_hello(env.settings.version, env.settings.capabilities, ()))

    # --- what others ask ------------------------------------------------------------------------------------

    @property
    def index(self) -> int:
        """The index of the root in force: how many steps and resumes this session has seen."""
        return self._ratchet.index

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
        return self.phase is Phase.ENDED

    @property
    def live(self) -> bool:
        """RV1: a carrier is there on which a record of this session was received."""
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
        """Whether a stream can be opened now."""
        return self.live and self.greeted and not self.leaving

    @property
    def wants_resume(self) -> bool:
        """RS: only who dialled a session resumes it."""
        return self.initiator and self.carrier is None and self.phase in (Phase.LOST, Phase.CLOSING)

    @property
    def awaits_resumed(self) -> bool:
        """Whether RESUME was said on the carrier and not answered."""
        return self._awaited is Record.RESUMED

    @property
    def unacknowledged(self) -> int:
        """Bytes sent that the peer has not acknowledged."""
        return self._send.end - self._send.base

    @property
    def roots(self) -> tuple[tuple[int, bytes], ...]:
        """What RESUME may name now (for invariant checks; never logged)."""
        return tuple(self._ratchet.roots.items())

    # --- carriers -------------------------------------------------------------------------------------------

    def start(self, carrier: Carrier, dial: int, now: float) -> None:
        """RS1: the initiator's first record on a new session; DATA may follow in the same flight."""
        carrier.queue(Record.START, START.pack(self._env.boot, dial))
        carrier.silent = False
        self.phase = Phase.STARTING
        self._awaited = Record.STARTED
        self._attach(carrier, now)

    def started(self, carrier: Carrier, peer_boot: bytes, now: float) -> None:
        """RS2: the responder's answer."""
        carrier.queue(Record.STARTED, STARTED.pack(self._env.boot))
        self._begin(carrier, peer_boot, now)

    def adopt(self, carrier: Carrier, peer_boot: bytes, now: float) -> None:
        """RS9: status 0: the initiator's carrier goes on as a new session."""
        self._begin(carrier, peer_boot, now)

    def _begin(self, carrier: Carrier, peer_boot: bytes, now: float) -> None:
        carrier.silent = False
        self.peer_boot = peer_boot
        self.phase = Phase.UP
        self._awaited = None
        self._attach(carrier, now)
        self._heard_on(carrier, now)

    def resume(self, carrier: Carrier, dial: int, now: float) -> None:
        """RS3: stop the old carrier, fix the received offset, and only then say RESUME."""
        self.drop_carrier("replaced", "a new carrier takes over", now)
        ((m, root),) = self._ratchet.roots.items()
        head = RESUME.pack(self.sid, m, self._count.said(), self._send.base, self._env.boot, dial)
        self._said_resume = head
        carrier.queue(Record.RESUME, head + Ratchet.proof_i(root, carrier.established.th, head))
        if self.phase is not Phase.CLOSING:
            self.phase = Phase.RESUMING
        self._awaited = Record.RESUMED
        self._attach(carrier, now)

    def accept_resume(self, carrier: Carrier, resume: bytes, now: float) -> bool:
        """RS5–RS7: the responder's side. False: status 0 must be said, and nothing here was touched."""
        m = RESUME.get_int(resume, "m")
        root = self._ratchet.roots.get(m)
        fresh = carrier.established
        if self.initiator or root is None:
            return False
        if not crypto.equal(Ratchet.proof_i(root, fresh.th, resume), RESUME.get(resume, "proof_I")):
            return False
        received = RESUME.get_int(resume, "received_offset")
        if not self._offsets_fit(received, RESUME.get_int(resume, "send_base")):
            return False
        closing = self.phase is Phase.CLOSING
        self.drop_carrier("replaced", "the peer came back on a new carrier", now)
        head = RESUMED.pack(1, self._env.boot, self._count.said(), self._send.base)
        proof_i = RESUME.get(resume, "proof_I")
        proof_r = Ratchet.proof_r(root, fresh.th, proof_i, head)
        self._ratchet.resume(m, fresh.root, fresh.th, fresh.d)
        carrier.queue(Record.RESUMED, head + proof_r)
        carrier.silent = False
        self._send.rewind(received)
        self._after_resume = True
        self.phase = Phase.CLOSING if closing else Phase.UP
        self._awaited = None
        self._attach(carrier, now)
        self._heard_on(carrier, now)
        self._resumed()
        if closing:
            self._queue_close(carrier)
        return True

    def refused_resume(self, carrier: Carrier, peer_boot: bytes, now: float) -> bool:
        """RS9: the peer said status 0. True: it never knew this session, which goes on as a new one from offset 0."""
        if self.heard or self.phase is Phase.CLOSING:
            return False
        fresh = carrier.established
        self.sid = fresh.sid
        self._ratchet = Ratchet(initiator=True, root=fresh.root, th=fresh.th, d=fresh.d)
        self._send.rewind(0)
        self._begin(carrier, peer_boot, now)
        return True

    def _offsets_fit(self, received: int, send_base: int) -> bool:
        """RS5: what the peer received lies within what we keep; what it still keeps reaches back to what we took."""
        return self._send.base <= received <= self._send.end and send_base <= self._count.offset

    def _attach(self, carrier: Carrier, now: float) -> None:
        self.carrier = carrier
        carrier.session = self
        self.grace_at = None
        self.asked_at = None
        self.answered = False
        self._clock.on_attached(now, waiting=self._awaited is not None)

    def _resumed(self) -> None:
        self.resumed += 1
        self._env.events.append(SessionResumed(self))

    def _heard_on(self, carrier: Carrier, now: float) -> None:
        """First record on a carrier: measure its round trip."""
        carrier.heard = True
        self.heard = True
        carrier.queue_ping(self._env.random(8), now)
        self._clock.on_pinged(now)

    def drop_carrier(self, code: str, text: str, now: float, *, fault: bool = False) -> None:
        """Our side is done with the carrier; the session waits for another."""
        carrier = self.carrier
        if carrier is not None:
            self._env.close_carrier(carrier, code, text, fault=fault)
            carrier.forget_keys()
            self.lost(carrier, code, now)

    def let_go(self, carrier: Carrier) -> None:
        """RS9: the carrier becomes another session's."""
        if carrier is self.carrier:
            self.carrier = None
            carrier.session = None

    def lost(self, carrier: Carrier, why: str, now: float) -> None:
        """The carrier is gone: its keys are forgotten, a step in flight with them."""
        if carrier is not self.carrier:
            return
        carrier.forget_keys()
        self.carrier = None
        self._job = None
        self._ratchet.carrier_lost()
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
        """RC6: one record of the carrier. Raises `ProtocolError` where the carrier must end at once."""
        self._mux.now = now
        self._clock.on_record(now)
        carrier.heard_at = now
        if self._awaited is not None:
            if kind is not self._awaited:
                raise ProtocolError(f"{kind.name} before {self._awaited.name}", "bad_record")
            self._awaited = None
            self._clock.on_answered()
            if kind is Record.STARTED:
                self._started_received(carrier, plaintext[1:], now)
            else:
                self._resumed_received(carrier, plaintext[1:], now)
            return
        if self._ratchet.confirming:
            self._ratchet.confirmed()  # RS8
        if kind is Record.DATA:
            self._data(plaintext, now)
        elif kind in _ALWAYS:
            self._control_record(carrier, kind, plaintext[1:], now)
        elif kind in (Record.RK1, Record.RK2, Record.RK3):
            self._ratchet_record(carrier, kind, plaintext[1:], now)
        else:
            raise ProtocolError(f"{kind.name} on a session that runs", "bad_record")
        if self._clock.on_traffic(carrier.epoch_records, now) is Due.EPOCH_OVER:
            raise ProtocolError("an epoch went on for too long", "epoch_over")

    def _started_received(self, carrier: Carrier, data: bytes, now: float) -> None:
        """RS2: the new session runs."""
        self.peer_boot = STARTED.get(data, "boot_R")
        if self.phase is Phase.STARTING:
            self.phase = Phase.UP
        self._heard_on(carrier, now)

    def _resumed_received(self, carrier: Carrier, data: bytes, now: float) -> None:
        """RS6–RS8: the responder proved that it has the root. (Status 0 is ruled on by the link.)"""
        ((m, root),) = self._ratchet.roots.items()
        fresh = carrier.established
        proof_i = Ratchet.proof_i(root, fresh.th, self._said_resume)
        if not crypto.equal(Ratchet.proof_r(root, fresh.th, proof_i, data), RESUMED.get(data, "proof_R")):
            self._env.events.append(
                Alarm("resume_proof", "an answer to RESUME does not verify: whoever answered lacks this session's root")
            )
            raise ProtocolError("RESUMED does not verify", "bad_proof")
        received = RESUMED.get_int(data, "received_offset")
        if not self._offsets_fit(received, RESUMED.get_int(data, "send_base")):
            self.fail(ProtocolError("RESUMED with offsets that cannot be"), now)
            return
        self.peer_boot = RESUMED.get(data, "boot_R")
        self._ratchet.resume(m, fresh.root, fresh.th, fresh.d)
        self._send.rewind(received)
        if self.phase is not Phase.CLOSING:
            self.phase = Phase.UP
        self._begin_step(now)  # RS8: RK1 before anything else; the carrier stays silent until it is there
        self._heard_on(carrier, now)
        self._resumed()

    def _data(self, plaintext: bytes, now: float) -> None:
        """BS2: count what was taken off the carrier, then read its frames."""
        n = len(plaintext) - 1
        self._count.took(n, now)
        self._clock.on_data(n, now)
        if self._count.due:
            self._acknowledge()
        if self.phase is Phase.CLOSING:
            return
        try:
            for kind, stream, payload in self._parser.feed(plaintext):
                self._frame(kind, stream, payload)
        except ProtocolError as exc:
            self.fail(exc, now)
            return
        self._finish_if_drained(now)

    def _acknowledge(self) -> None:
        if self.carrier is not None:
            self.carrier.ack = self._count.said()

    def _control_record(self, carrier: Carrier, kind: Record, data: bytes, now: float) -> None:
        if kind is Record.ACK:
            self._send.acknowledge(int.from_bytes(data, "big"))
            self._finish_if_drained(now)
        elif kind is Record.PING:
            carrier.queue_pong(data)
        elif kind is Record.PONG:
            self._pong(carrier, data, now)
        elif kind is Record.CLOSE:
            self._close_received(carrier, data[0], int.from_bytes(data[1:], "big"), now)

    def _pong(self, carrier: Carrier, token: bytes, now: float) -> None:
        for answered, rtt in carrier.pong_received(token, now):
            self._mux.rtt = carrier.rtt or rtt
            if self.asked_at is not None and now - rtt >= self.asked_at:
                self.answered = True
            self._env.events.append(Pong(answered, rtt))

    # --- frames in ------------------------------------------------------------------------------------------

    def _frame(self, kind: int, stream: int, payload: bytes) -> None:
        if not self.greeted:
            if kind != Frame.HELLO:
                raise ProtocolError("a frame before HELLO")
            self._hello(payload)
        elif stream:
            if kind < c.OPTIONAL_FRAME_FROM:
                self._mux.receive(kind, stream, payload)
        elif kind == Frame.GOAWAY:
            self._goaway(*frames.decode_goaway(payload))
        elif kind == Frame.HELLO:
            raise ProtocolError("a second HELLO")
        elif kind in frames.SESSION_FRAMES:
            self._env.events.append(SessionFrame(self, kind, payload))
        elif kind < c.OPTIONAL_FRAME_FROM:
            raise ProtocolError(f"frame 0x{kind:02x} on stream 0")

    def _hello(self, payload: bytes) -> None:
        """FR4: what the peer cannot do without, we must have."""
        version, _, requires = frames.decode_hello(payload)
        missing = sorted(set(requires) - set(self._env.settings.capabilities))
        if missing:
            raise ProtocolError(
                f"the peer (hubtunnel {version}) requires what this version lacks: {', '.join(missing)}",
                "required_capability",
            )
        self.greeted = True
        self.peer_version = version
        self._env.events.append(SessionUp(self, version))

    def _goaway(self, code: int, _last: int) -> None:
        """FR9: our streams above `last` are answered one by one with RESET; there is nothing to be done here."""
        if self.goaway_received is None:
            self.goaway_received = code
            self._env.events.append(PeerGoingAway(self, code))

    # --- the ratchet ----------------------------------------------------------------------------------------

    def _begin_step(self, now: float) -> None:
        carrier = self.carrier
        if carrier is None or self._ratchet.step is not Step.IDLE:
            return
        fresh = carrier.established
        work = self._ratchet.begin(fresh.theirs, self._env.seed(fresh.own))
        self._clock.on_step_begun(now)
        self._issue(work, carrier)

    def _issue(self, job: Job, carrier: Carrier) -> None:
        job.owner = self
        self._job = (job, carrier)
        self._env.jobs.append(job)

    def _ratchet_record(self, carrier: Carrier, kind: Record, data: bytes, now: float) -> None:
        fresh = carrier.established
        if kind is Record.RK1:
            if self._clock.too_soon(now) and not self._after_resume:
                raise ProtocolError("a ratchet step right after the last one", "bad_record")
            self._after_resume = False
            self._issue(self._ratchet.read_rk1(data, fresh.own, fresh.theirs, self._env.seed(fresh.own)), carrier)
            self._clock.on_step_begun(now)
        elif kind is Record.RK2:
            self._issue(self._ratchet.read_rk2(data, fresh.own, fresh.theirs), carrier)
        else:
            secrets = self._ratchet.read_rk3(data)
            epoch = self.epoch_byte + 1
            carrier.switch_reading(TrafficKey(secrets.t_i, epoch))
            carrier.switch_now(TrafficKey(secrets.t_r, epoch))
            carrier.queue(Record.PAD, b"")  # RT9: one record at once, so that the initiator drops the old T_R
            self._step_done(epoch, now)

    def job_done(self, job: Job, result: object, now: float) -> None:
        """The result of a job, or the exception that it raised; stale ones are dropped."""
        if self._job is None or self._job[0] is not job:
            return
        carrier = self._job[1]
        self._job = None
        self._mux.now = now
        try:
            if isinstance(result, BaseException):
                raise ProtocolError(f"a ratchet step failed: {type(result).__name__}", "bad_ratchet")
            self._step_result(carrier, result, now)
        except ProtocolError as exc:
            self.drop_carrier(exc.code, str(exc), now, fault=True)

    def _step_result(self, carrier: Carrier, result: object, now: float) -> None:
        if isinstance(result, Offer):
            carrier.queue(Record.RK1, self._ratchet.offer_ready(result))
            carrier.silent = False
            if self.phase is Phase.CLOSING:
                self._queue_close(carrier)  # the session was resumed only to be closed
        elif isinstance(result, tuple):
            carrier.queue(Record.RK2, self._ratchet.answer_ready(*result))
        else:
            assert result is None or isinstance(result, Secrets)
            rk3, secrets = self._ratchet.verified(result)
            epoch = self.epoch_byte + 1
            carrier.queue(Record.RK3, rk3)
            carrier.queue_switch(TrafficKey(secrets.t_i, epoch))
            carrier.expect_epoch(TrafficKey(secrets.t_r, epoch))
            self._step_done(epoch, now)

    def _step_done(self, epoch: int, now: float) -> None:
        if self.carrier is not None:
            self.carrier.epoch = epoch
        self._clock.on_step_done(now)
        self._env.events.append(Ratcheted(self, self.index))

    @property
    def epoch_byte(self) -> int:
        """Ratchet steps on this carrier."""
        return self.carrier.epoch if self.carrier is not None else 0

    def rekey(self, now: float) -> bool:
        """Ask for a ratchet step now. False: the peer dialled this session, so steps are its to begin."""
        if not self.initiator or self.phase is not Phase.UP:
            return False
        self._clock.ask_ratchet(now)
        return True

    # --- DATA out -------------------------------------------------------------------------------------------

    def fill(self, carrier: Carrier, out: list[bytes | bytearray], size: int, now: float) -> int:
        """BS1, BS4, BS5: seal DATA behind what is in `out` (`size` bytes), as far ahead of the socket as is allowed."""
        added = 0
        if carrier is not self.carrier or carrier.silent or self.phase not in (Phase.STARTING, Phase.UP):
            return 0
        send, mux = self._send, self._mux
        mux.now = now
        while size + added + c.RECORD_HEADER_LEN + c.RECORD_BODY_MAX <= c.SEAL_AHEAD + c.RECORD_BODY_MAX // 2:
            if send.pending:
                chunk = send.again()
            elif mux.has_output and self.unacknowledged < self._window():
                chunk = mux.next_record()
                if chunk is not None:
                    send.keep(chunk)
            else:
                break
            if chunk is None:
                break
            added += carrier.seal(chunk, out)
            self._clock.on_data(len(chunk) - 1, now)
        if added:
            self._finish_if_drained(now)
            if self._clock.on_traffic(carrier.epoch_records, now) is Due.EPOCH_OVER:
                self.drop_carrier("epoch_over", "an epoch went on for too long", now)
        return added

    def _window(self) -> int:
        return c.SEND_WINDOW_TIGHT if self._env.budget.tight else self._env.settings.send_window

    @property
    def has_data(self) -> bool:
        """Whether `fill` would seal something."""
        carrier = self.carrier
        if carrier is None or carrier.silent or self.phase not in (Phase.STARTING, Phase.UP):
            return False
        return self._send.pending or (self._mux.has_output and self.unacknowledged < self._window())

    def ping(self, now: float) -> bytes | None:
        """Ask for a PONG; the token that it will carry, or None without a carrier."""
        if self.carrier is None or self.phase is not Phase.UP:
            return None
        self._clock.on_pinged(now)
        return self.carrier.queue_ping(self._env.random(8), now)

    def ask(self, now: float) -> None:
        """RV2: ask whether the peer of this session lives; `answered` tells, until the next carrier."""
        if self.asked_at is None and self.ping(now) is not None:
            self.asked_at = now

    # --- the end --------------------------------------------------------------------------------------------

    def goaway(self, code: int, now: float) -> None:
        """ST9: take no new streams, and close when the last has ended."""
        if self.phase in (Phase.CLOSING, Phase.ENDED) or self.goaway_sent is not None:
            return
        self._mux.send_goaway(code)
        self._finish_if_drained(now)

    def _finish_if_drained(self, now: float) -> None:
        """CL2: a graceful CLOSE: after GOAWAY, no stream open, everything acknowledged."""
        if self.goaway_sent is None or self.phase is not Phase.UP or self._mux.streams:
            return
        if self._mux.has_output or self._send.pending or self.unacknowledged:
            return
        self.close(self.goaway_sent, "drained", now)

    def fail(self, exc: ProtocolError, now: float) -> None:
        """FR1: what came in frames breaks the protocol: the session ends, with that code said to the peer."""
        try:
            code = Code[exc.code.upper()]
        except KeyError:
            code = Code.PROTOCOL
        self._env.events.append(Notice("protocol_error", str(exc)))
        self.close(code, str(exc), now)

    def close(self, code: int, text: str, now: float) -> None:
        """CL1: end the session: streams are reset, CLOSE is said, its answer awaited for 60 s."""
        if self.phase in (Phase.CLOSING, Phase.ENDED):
            return
        self.end_code = code
        self._mux.reset_all(code)
        carrier = self.carrier
        if carrier is None or carrier.silent:
            self.end(code, text, now)
            return
        self.phase = Phase.CLOSING
        self._end_text = text
        self._clock.on_closing(now)
        self._queue_close(carrier)

    def _queue_close(self, carrier: Carrier) -> None:
        code = self.end_code if self.end_code is not None else Code.DONE
        carrier.queue(Record.CLOSE, bytes((code & 0xFF,)) + self._send.end.to_bytes(8, "big"))

    def _close_received(self, carrier: Carrier, code: int, final: int, now: float) -> None:
        """CL3: the peer ends the session, or answers our CLOSE."""
        missing = final - self._count.offset
        text = f"closed by the peer ({c.code_word(code)})"
        if missing > 0:
            text += f", {missing} bytes before the end of what it sent"
        ours = self.phase is Phase.CLOSING
        if not ours:
            self.end_code = code
            self._queue_close(carrier)
        else:
            text = self._end_text
        self.end(code, text, now, by_peer=not ours)

    def end(self, code: int, text: str, now: float, *, by_peer: bool = False) -> None:
        """The session is over: streams reset, roots and buffers gone, the carrier closed once it is flushed."""
        if self.phase is Phase.ENDED:
            return
        self.phase = Phase.ENDED
        self.end_code = code
        self._mux.reset_all(code)
        self._send.clear()
        self._ratchet.roots = {}
        self._ratchet.carrier_lost()
        self._clock.stop()
        self._job = None
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
        if self._count.ack_at is not None and self._count.ack_at <= now and self.carrier is not None:
            self._acknowledge()
        if self.grace_at is not None and self.grace_at <= now:
            self.grace_at = None
        for due in self._clock.due(now):
            self._handle(due, now)

    def _handle(self, due: Due, now: float) -> None:
        if due is Due.RATCHET:
            if self.phase is Phase.UP:
                self._begin_step(now)
        elif due is Due.PING:
            self.ping(now)
        elif due is Due.DEAD:
            self.drop_carrier("dead", "no record for three keepalive intervals", now, fault=True)
        elif due is Due.STALLED:
            self.drop_carrier("ratchet_stalled", "a ratchet step made no progress", now, fault=True)
        elif due is Due.EPOCH_OVER:
            self.drop_carrier("epoch_over", "an epoch went on for too long", now, fault=True)
        elif due is Due.UNANSWERED:
            self.drop_carrier("silent", "no answer to the first record", now, fault=True)
        elif due is Due.LINGER_OVER:
            self.end(Code.TIMED_OUT, "no new carrier came in time", now)
        elif due is Due.CLOSE_OVER:
            self.end(self.end_code or 0, "the peer did not answer CLOSE", now)

    def shorten_linger(self, now: float) -> None:
        """RV6: another boot of the peer has answered; do not wait long for this one."""
        self._clock.shorten_linger(now, c.LINGER_AFTER_NEWCOMER)
