"""The handshake, hint-KK: M1 →, ← M2, M3 → (PROTOCOL.md 4).

One object per dial, used once; any error is final. Public-key work is handed out as a `Job`.

    Initiator   OFFERING --job--> WAITING --M2--> VERIFYING --job--> DONE
                                                       \\--> FAILED (auth)
    Responder   HINT --17 B--> GATE --M1--> WORKING --job--> CONFIRM --M3--> DONE
                  \\_____________\\___________\\____________\\--> DRAIN (one path, whatever the cause)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from hubtunnel import crypto
from hubtunnel.errors import CryptoError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import schedule
from hubtunnel.protocol.events import Job
from hubtunnel.protocol.pair import HintTable, LinkPublic, LinkSecret, PairContext, hour_of
from hubtunnel.protocol.schedule import Offer, Secrets, Seed
from hubtunnel.protocol.wire import M1


@dataclass(frozen=True, slots=True)
class Established:
    """What a finished handshake hands to the link: keys of one carrier, and who is at the other end."""

    initiator: bool
    peer: object
    own: LinkSecret = field(repr=False)
    theirs: LinkPublic = field(repr=False)
    d: bytes = field(repr=False)
    sid: bytes
    root: bytes = field(repr=False)
    th: bytes = field(repr=False)
    t_send: bytes = field(repr=False)
    t_receive: bytes = field(repr=False)
    leftover: bytes = field(default=b"", repr=False)  # bytes that came behind M2 or M3
    first_flight: bytes = field(default=b"", repr=False)  # M3: goes out in one write with the first records


def _established(
    initiator: bool, context: PairContext, d: bytes, secrets: Secrets, *, leftover: bytes, flight: bytes
) -> Established:
    return Established(
        initiator=initiator,
        peer=context.peer,
        own=context.own,
        theirs=context.theirs,
        d=d,
        sid=secrets.sid,
        root=secrets.root,
        th=secrets.transcript(),
        t_send=secrets.t_i if initiator else secrets.t_r,
        t_receive=secrets.t_r if initiator else secrets.t_i,
        leftover=leftover,
        first_flight=flight,
    )


class _Dial(Enum):
    OFFERING = auto()
    WAITING = auto()
    VERIFYING = auto()
    DONE = auto()
    FAILED = auto()


class Initiator:
    """One dial, up to M3.

    `seed` is 96 bytes of `pair.hedged_seed`. When `established` is set, M3 is in its `first_flight`: the link sends it
    together with the first record, in one write.
    """

    def __init__(self, context: PairContext, unix_time: float, seed: bytes) -> None:
        self.context = context
        self.established: Established | None = None
        self.failed: str | None = None
        self._hour = hour_of(unix_time)
        self._state = _Dial.OFFERING
        self._buffer = bytearray()
        self._out = b""
        self._m1 = b""
        self._offer: Offer | None = None
        self._job: Job | None = Job(self, lambda: schedule.make_offer(seed, context.theirs))

    def next_job(self) -> Job | None:
        """Work to be done before this can go on."""
        job, self._job = self._job, None
        return job

    def job_done(self, job: Job, result: object) -> None:
        """Give the result of a job back (or the exception that it raised)."""
        if self._state is _Dial.FAILED:
            return  # for a reason that stays the first one
        if isinstance(result, BaseException):
            # Our own key material or the peer's card is at fault in the first job, the peer's answer in the second.
            self._fail("auth" if self._state is _Dial.VERIFYING else "key")
        elif self._state is _Dial.OFFERING and isinstance(result, Offer):
            self._send_m1(result)
        elif self._state is _Dial.VERIFYING:
            self._finish(result)

    def _send_m1(self, offer: Offer) -> None:
        """HS1: M1 with the hint of this hour and the gate of this pair."""
        keys = self.context.dialling
        head = bytes((c.VERSION,)) + keys.hint(self._hour) + offer.public
        self._m1 = head + crypto.mac(keys.k_gate, head)[:16]
        self._offer = offer
        self._out = self._m1
        self._state = _Dial.WAITING
        self._read_m2()

    def data_to_send(self) -> bytes:
        """Bytes for the socket."""
        out, self._out = self._out, b""
        return out

    def receive_data(self, data: bytes) -> None:
        """Bytes from the socket. A responder sends nothing but M2 before our M3: more is kept for the link."""
        if self._state in (_Dial.DONE, _Dial.FAILED):
            return
        if len(self._buffer) + len(data) > c.M2_LEN + c.RECORD_BODY_MAX:
            self._fail("auth")
            return
        self._buffer += data
        self._read_m2()

    def _read_m2(self) -> None:
        """HS6: once M2 is whole, verify auth_R."""
        offer = self._offer
        if self._state is not _Dial.WAITING or offer is None or len(self._buffer) < c.M2_LEN:
            return
        self._state = _Dial.VERIFYING
        m2 = bytes(self._buffer[: c.M2_LEN])
        keys, context = self.context.dialling, self.context
        h1 = schedule.handshake_hash(keys.d, self._m1)
        self._offer = None
        self._job = Job(
            self,
            lambda: schedule.complete_offer(offer, context.own, context.theirs, keys.chain, h1, m2),
        )

    def _finish(self, secrets: object) -> None:
        """HS7: M3, and the carrier's keys."""
        if not isinstance(secrets, Secrets):
            self._fail("auth")
            return
        self._state = _Dial.DONE
        self._m1 = b""
        leftover = bytes(self._buffer[c.M2_LEN :])
        self._buffer.clear()
        self.established = _established(
            True, self.context, self.context.dialling.d, secrets, leftover=leftover, flight=secrets.auth_i()
        )

    def _fail(self, why: str) -> None:
        self._state = _Dial.FAILED
        self.failed = why
        self._offer = None
        self._job = None
        self._buffer.clear()


class _Answer(Enum):
    HINT = auto()
    GATE = auto()
    WORKING = auto()
    CONFIRM = auto()
    DONE = auto()
    DRAIN = auto()


class Responder:
    """One accepted connection, up to M3 (PROTOCOL.md 4.4, RD1–RD7).

    Every failure ends in the same state: `draining` is set and nothing is ever sent; the shell reads on and closes at
    the deadline that it chose when it accepted. `failed` says what happened, for our own log alone.
    """

    def __init__(self, table: HintTable, seed: Seed) -> None:
        self.established: Established | None = None
        self.failed: str | None = None
        self.context: PairContext | None = None
        self._table = table
        self._context_found: PairContext
        self._seed = seed
        self._hour = 0
        self._state = _Answer.HINT
        self._buffer = bytearray()
        self._out = b""
        self._secrets: Secrets | None = None
        self._job: Job | None = None

    @property
    def draining(self) -> bool:
        """Whether what comes is only to be read and discarded."""
        return self._state is _Answer.DRAIN

    @property
    def answered(self) -> bool:
        """Whether M2 was sent: what follows (a wrong auth_I) counts against the pin, not against strangers."""
        return self._state in (_Answer.CONFIRM, _Answer.DONE) or self.failed == "bad_auth"

    def next_job(self) -> Job | None:
        """Work to be done before this can go on."""
        job, self._job = self._job, None
        return job

    def data_to_send(self) -> bytes:
        """Bytes for the socket: M2, or nothing."""
        out, self._out = self._out, b""
        return out

    def receive_data(self, data: bytes) -> None:
        """Bytes from the socket."""
        if self._state in (_Answer.DRAIN, _Answer.DONE):
            return
        if self._state is _Answer.WORKING and len(self._buffer) + len(data) > c.M3_LEN:
            self._drain("early_data")  # nobody honest sends anything between M1 and our M2
            return
        self._buffer += data
        if self._state is _Answer.HINT and len(self._buffer) >= c.HELLO_PREFIX_LEN:
            self._read_hint()
        if self._state is _Answer.GATE and len(self._buffer) >= c.M1_LEN:
            self._read_m1()
            if len(self._buffer) > c.M3_LEN:
                self._drain("early_data")
        elif self._state is _Answer.CONFIRM:
            self._read_m3()

    def _read_hint(self) -> None:
        """RD2: version and hint, one look-up."""
        if self._buffer[0] != c.VERSION:
            self._drain("version")
            return
        found = self._table.find(bytes(self._buffer[1 : c.HELLO_PREFIX_LEN]))
        if found is None:
            self._drain("unknown_hint")
            return
        self._context_found, self._hour = found
        self._state = _Answer.GATE

    def _read_m1(self) -> None:
        """RD3–RD5: the gate, then the replay check, then work."""
        m1 = bytes(self._buffer[: c.M1_LEN])
        del self._buffer[: c.M1_LEN]
        context = self._context_found
        keys = context.listening
        gate = M1.get(m1, "gate")
        seen = self._table.seen
        del self._table  # a carrier may last for weeks, a table lasts for an hour
        if not crypto.equal(crypto.mac(keys.k_gate, M1.before(m1, "gate"))[:16], gate):
            self._drain("bad_gate")
            return
        if not seen.add(context.peer_idfp, self._hour, gate):
            self._drain("replay")
            return
        self.context = context
        self._state = _Answer.WORKING
        h1 = schedule.handshake_hash(keys.d, m1)
        offer = m1[c.HELLO_PREFIX_LEN : M1.offsets["gate"][0]]
        seed = self._seed(context.own)
        self._job = Job(
            self,
            lambda: schedule.answer_offer(seed, context.own, context.theirs, keys.chain, h1, offer),
        )

    def job_done(self, job: Job, result: object) -> None:
        """RD6: send M2; any exception is a reason for silence."""
        if self._state is not _Answer.WORKING:
            return
        if isinstance(result, BaseException):
            self._drain("exception" if not isinstance(result, CryptoError) else "bad_key")
            return
        assert isinstance(result, tuple)
        self._out, self._secrets = result
        self._state = _Answer.CONFIRM
        self._read_m3()

    def _read_m3(self) -> None:
        """RD7: auth_I, and the carrier's keys."""
        if len(self._buffer) < c.M3_LEN or self._secrets is None or self.context is None:
            return
        secrets, self._secrets = self._secrets, None
        if not crypto.equal(secrets.auth_i(), bytes(self._buffer[: c.M3_LEN])):
            self._drain("bad_auth")
            return
        leftover = bytes(self._buffer[c.M3_LEN :])
        self._buffer.clear()
        self._state = _Answer.DONE
        self.established = _established(
            False, self.context, self.context.listening.d, secrets, leftover=leftover, flight=b""
        )

    def _drain(self, cause: str) -> None:
        self._state = _Answer.DRAIN
        self.failed = cause
        self._secrets = None
        self._job = None
        self._buffer.clear()
