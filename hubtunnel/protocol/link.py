"""Our lasting relation to one peer: its sessions and carriers, and which of them counts (PROTOCOL.md 7).

The first record of a carrier says what it is (RS1–RS10); `rivals` decides between sessions.
"""

from __future__ import annotations

from collections.abc import Callable

from hubtunnel.errors import HubtunnelError, ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.bytestream import Budget
from hubtunnel.protocol.cards import HeldCard
from hubtunnel.protocol.carrier import Carrier
from hubtunnel.protocol.constants import Code, Record
from hubtunnel.protocol.environment import Environment, Settings
from hubtunnel.protocol.events import Alarm, Event, Job
from hubtunnel.protocol.handshake import Established
from hubtunnel.protocol.rivals import Rivals
from hubtunnel.protocol.schedule import Seed
from hubtunnel.protocol.session import Phase, Session
from hubtunnel.protocol.streams import Stream
from hubtunnel.protocol.wire import RESUME, RESUMED, START

_RESUMED = Record.RESUMED  # a module's name is found in a fraction of the time that an enumeration's member takes

__all__ = ["Budget", "Link", "NotReady", "Settings"]


class NotReady(HubtunnelError):
    """No session can take a stream now. `code` is a `Code`, or None when there is simply no carrier."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class Link:
    """One peer. Bytes and times in; bytes, events, jobs and a deadline out.

    Nothing here raises for what a peer sends. After any call drain `next_event` and `next_job`, flush `data_to_send` of
    the carriers in `carriers`, and arm one timer for `next_deadline`.
    """

    def __init__(
        self,
        *,
        own_idfp: bytes,
        peer_idfp: bytes,
        boot: bytes,
        settings: Settings,
        budget: Budget,
        seed: Seed,
        random: Callable[[int], bytes],
    ) -> None:
        self.sessions: list[Session] = []
        self.carriers: list[Carrier] = []
        self._env = Environment(own_idfp, peer_idfp, boot, settings, budget, seed, random)
        self._rivals = Rivals(self._env)
        self._numbers = 0
        self._dial = 0
        self._dials: dict[bytes, int] = {}  # RS1: the highest dial accepted of each boot of the peer
        self._first: dict[Carrier, float] = {}  # accepted carriers whose first record is awaited, and until when

    @property
    def settings(self) -> Settings:
        """What sessions made from now on are given."""
        return self._env.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._env.settings = settings

    # --- carriers -------------------------------------------------------------------------------------------

    def attach(self, established: Established, now: float) -> Carrier:
        """A TCP connection's handshake is done: start a session on it, resume one, or wait for what the peer says."""
        self._numbers += 1
        carrier = Carrier(self._numbers, established, now)
        self.carriers.append(carrier)
        if established.initiator:
            self._dial += 1
            session = next((s for s in self.sessions if s.wants_resume), None) or self.replaceable()
            if session is not None:
                session.resume(carrier, self._dial, now)
            else:
                session = Session(self._env, established, now)
                session.start(carrier, self._dial, now)
                self._admit(session, now)
        elif len(self._first) >= c.CARRIERS_PENDING_PER_LINK:
            self._env.close_carrier(carrier, "limit", "too many carriers wait for their first record", fault=True)
        else:
            self._first[carrier] = now + c.FIRST_RECORD_TIMEOUT
        if established.leftover:
            self.receive_data(carrier, established.leftover, now)
        return carrier

    def replaceable(self) -> Session | None:
        """RS5: our own session that has a carrier and would go on over the next one that we dial: make before break."""
        return next((s for s in self.sessions if s.initiator and s.phase is Phase.UP and not s.leaving), None)

    def receive_data(self, carrier: Carrier, data: bytes, now: float) -> None:
        """Bytes of a carrier's socket. Bytes of a carrier that was given up are ignored."""
        if carrier.closed:
            return
        try:
            for kind, plaintext in carrier.records(data):
                self._record(carrier, kind, plaintext, now)
        except ProtocolError as exc:
            self._carrier_failed(carrier, exc, now)
        self._settle(now)

    def _record(self, carrier: Carrier, kind: Record, plaintext: bytes, now: float) -> None:
        session = carrier.session
        if session is None:
            self._first_record(carrier, kind, plaintext[1:], now)
        elif kind is _RESUMED and plaintext[1] == 0 and session.awaits_resumed:
            self._refused(carrier, session, plaintext[1:], now)
        else:
            session.record(carrier, kind, plaintext, now)

    def _carrier_failed(self, carrier: Carrier, exc: ProtocolError, now: float) -> None:
        """RC4, RS13: at once and without a word; the session goes on."""
        self._first.pop(carrier, None)
        if carrier.session is not None and carrier.session.carrier is carrier:
            if exc.code == "bad_proof":
                text = "whoever answered RESUME does not hold this session: not the process that it was begun with"
                self._env.events.append(Alarm("resume_proof", text))
            carrier.session.drop_carrier(exc.code, str(exc), now, fault=True)
        else:
            self._env.close_carrier(carrier, exc.code, str(exc), fault=True)

    def detach(self, carrier: Carrier, why: str, now: float) -> None:
        """The TCP connection is gone."""
        if carrier not in self.carriers:
            return
        self.carriers.remove(carrier)
        self._first.pop(carrier, None)
        session = carrier.session
        carrier.stop()
        if session is not None and session.carrier is carrier:
            session.lost(carrier, why, now)
        carrier.forget_keys()
        self._settle(now)

    def data_to_send(self, carrier: Carrier, now: float) -> bytes:
        """What the socket should be given next; empty when there is nothing.

        At least `SEAL_PIECE` bytes, or on a slow way the carrier's `record_room`, if there is so much, and at most a
        record more: call it again while the socket takes them, until some are left over (RC7).
        """
        out: list[bytes] = []
        size = carrier.seal_control(out)
        session = carrier.session
        if session is not None:
            size += session.fill(carrier, out, size, now)
        carrier.bytes_out += size
        return out[0] if len(out) == 1 else b"".join(out)

    def has_output(self, carrier: Carrier) -> bool:
        """Whether `data_to_send` would give something."""
        session = carrier.session
        return carrier.has_control or (session is not None and session.carrier is carrier and session.has_data)

    # --- the first record of an accepted carrier --------------------------------------------------------------

    def _first_record(self, carrier: Carrier, kind: Record, data: bytes, now: float) -> None:
        """RS1, RS3: START or RESUME, of a dial that is newer than any accepted of that boot."""
        del self._first[carrier]
        if kind is Record.START:
            boot, dial = START.get(data, "boot_I"), START.get_int(data, "dial")
        elif kind is Record.RESUME:
            boot, dial = RESUME.get(data, "boot_I"), RESUME.get_int(data, "dial")
        else:
            raise ProtocolError(f"{kind.name} as the first record", "bad_record")
        if dial <= self._dials.get(boot, -1):
            raise ProtocolError("a dial that is older than one accepted", "old_dial")
        self._dials.pop(boot, None)
        self._dials[boot] = dial  # behind all others
        while len(self._dials) > c.BOOTS_REMEMBERED:
            del self._dials[next(iter(self._dials))]
        if kind is Record.RESUME:
            sid = RESUME.get(data, "sid")
            for session in self.sessions:
                if session.sid == sid and session.accept_resume(carrier, data, now):
                    self._rivals.on_resumed(session)
                    return
            carrier.queue(Record.RESUMED, RESUMED.pack(0, self._env.boot, 0, 0, bytes(c.HASH_LEN)))
        session = Session(self._env, carrier.established, now)
        if kind is Record.START:
            session.started(carrier, boot, now)
        else:
            session.adopt(carrier, boot, now)
        self._admit(session, now)

    def _admit(self, session: Session, now: float) -> None:
        """RV9: take up a new session; when there are too many it is the newest that is closed.

        Those that wait for the answer to CLOSE are bounded too: a peer may begin sessions faster than they time out.
        """
        crowded = sum(not s.ended for s in self.sessions) >= c.SESSIONS_PER_LINK
        self.sessions.append(session)
        if not crowded:
            return
        session.close(Code.LIMIT, "too many sessions with this peer", now)
        closing = [s for s in self.sessions if s.phase is Phase.CLOSING]
        if len(closing) > c.SESSIONS_PER_LINK:
            closing[0].end(Code.LIMIT, "too many sessions of which this peer does not answer CLOSE", now)

    def _refused(self, carrier: Carrier, session: Session, data: bytes, now: float) -> None:
        """RS10: status 0: the peer has no such session; this carrier is a new one."""
        boot = RESUMED.get(data, "boot_R")
        if session.refused_resume(carrier, boot, now):
            return
        session.let_go(carrier)
        session.end(Code.BROKEN, "the peer no longer has this session", now)
        fresh = Session(self._env, carrier.established, now)
        self.sessions.append(fresh)
        fresh.adopt(carrier, boot, now)

    # --- dialling -------------------------------------------------------------------------------------------

    def wants_carrier(self, now: float) -> bool:
        """RS11: whether to dial now: a session of ours to resume, or nothing that lives and nobody to wait for."""
        if self.wants_resume:
            return True
        if self._first or any(
            s.carrier is not None
            and s.goaway_sent != Code.SUPERSEDED != s.goaway_received
            and s.phase is not Phase.CLOSING
            for s in self.sessions
        ):
            return False
        return not any(s.grace_at is not None and now < s.grace_at for s in self.sessions)

    @property
    def wants_resume(self) -> bool:
        """RS11: whether a session of ours waits for a carrier to go on."""
        return any(s.wants_resume for s in self.sessions)

    # --- streams --------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a stream can be opened now."""
        return self._rivals.preferred(self.sessions) is not None

    def open_stream(self, source: tuple[str, int] | None, now: float) -> Stream:
        """ST1: a stream on the session that takes new ones. Raises `NotReady`."""
        session = self._rivals.preferred(self.sessions)
        if session is None:
            leaving = next((s for s in self.sessions if s.live and s.leaving), None)
            code = None if leaving is None else leaving.goaway_received
            raise NotReady("no session with this peer", code)
        budget = self._env.budget
        crowded = len(session.mux.streams) >= self._env.settings.streams_per_peer
        if crowded or budget.full or not budget.promise(c.INITIAL_CREDIT):
            raise NotReady("our own limit of streams or memory is reached", Code.LIMIT)
        session.mux.now = now
        stream = session.mux.open(source)
        if not session.mux.numbers_left:
            session.goaway(Code.DONE, now)  # ST1
        return stream

    # --- control --------------------------------------------------------------------------------------------

    def ping(self, now: float) -> bytes | None:
        """Ask for a `Pong` event; its token, or None without a live carrier."""
        session = self._rivals.preferred(self.sessions) or next((s for s in self.sessions if s.live), None)
        return None if session is None else session.ping(now)

    def rekey(self, now: float) -> bool:
        """Ask for a ratchet step. False: there is no session that we dialled."""
        return sum(s.rekey(now) for s in self.sessions) > 0

    # --- cards ----------------------------------------------------------------------------------------------

    def set_cards(self, own: tuple[HeldCard, ...], peers: HeldCard | None, now: float) -> None:
        """What this hub holds now: all its own cards, oldest first, and the latest accepted of the peer.

        A new own card is announced in every live session at once.
        """
        self._env.cards.own = own
        self._env.cards.peers = peers
        for session in list(self.sessions):
            session.mux.now = now
            session.cards.offer()
        self._settle(now)

    def card_accepted(self, session: Session, serial: int, card_hash: bytes) -> None:
        """The card of a `CardReceived` is stored, durably."""
        if not session.ended:
            session.cards.accepted(serial, card_hash)

    def card_refused(self, session: Session, serial: int, code: int) -> None:
        """The card of a `CardReceived` is not taken."""
        if not session.ended:
            session.cards.refused(serial, code)

    def card_misnamed(self, session: Session, serial: int, now: float) -> None:
        """The card of a `CardReceived` has another serial inside than its parts said."""
        if not session.ended:
            session.cards.misnamed(serial, now)
            self._settle(now)

    def set_identities(self, own_idfp: bytes, peer_idfp: bytes) -> None:
        """One of the two hubs has changed its identity; sessions go on."""
        self._env.own_idfp, self._env.peer_idfp = own_idfp, peer_idfp

    def cut(self, session: Session, text: str, now: float) -> None:
        """LK6: end a session at once and without a word: a link key that it rests on was revoked."""
        session.drop_carrier("revoked", text, now, fault=True)
        session.end(Code.REFUSED, text, now)
        self._settle(now)

    def drain(self, code: int, now: float) -> None:
        """No new streams; each session is closed when its last stream has ended."""
        for session in list(self.sessions):
            if session.carrier is None or not session.greeted:
                session.close(code, "drained without a carrier", now)
            else:
                session.goaway(code, now)
        self._settle(now)

    def close(self, code: int, now: float) -> None:
        """End all sessions now: streams are reset, the peer is told."""
        for session in list(self.sessions):
            session.close(code, "closed by us", now)
        self._settle(now)

    # --- work and time ----------------------------------------------------------------------------------------

    def next_job(self) -> Job | None:
        """Public-key work for a thread."""
        return self._env.jobs.pop(0) if self._env.jobs else None

    def job_done(self, job: Job, result: object, now: float) -> None:
        """The result of a job, or the exception that it raised."""
        if isinstance(job.owner, Session):
            job.owner.job_done(job, result, now)
            self._settle(now)

    def next_event(self) -> Event | None:
        """What happened, oldest first."""
        return self._env.events.popleft() if self._env.events else None

    def next_deadline(self) -> float | None:
        """When `handle_deadline` is to be called, in the caller's monotonic seconds."""
        at = min((s.next_deadline() for s in self.sessions), default=float("inf"))
        at = min(at, min(self._first.values(), default=float("inf")), self._rivals.next_deadline())
        return None if at == float("inf") else at

    def handle_deadline(self, now: float) -> None:
        """Do what is due at `now`."""
        for session in list(self.sessions):
            session.handle_deadline(now)
        for carrier in [carrier for carrier, at in self._first.items() if at <= now]:
            del self._first[carrier]
            self._env.close_carrier(carrier, "silent", "no first record in time", fault=True)
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Drop what has ended, and let rivals be decided."""
        if len(self.sessions) == 1 and not self.sessions[0].ended:  # fast path: it has no rival
            self._rivals.alone(self.sessions[0])
            return
        if any(s.ended for s in self.sessions):
            self.sessions = [s for s in self.sessions if not s.ended]
        self._rivals.settle(self.sessions, now)
