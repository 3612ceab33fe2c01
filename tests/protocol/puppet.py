"""One real hub, and at the other end a puppet that says whatever a test wants it to say.

Carriers begin where the handshake has ended: their keys are drawn at random, as a handshake would have left them at
both ends. The puppet seals and opens records with the core's own `TrafficKey`, which the vectors pin down.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgpack

from hubtunnel.protocol import constants as c
from hubtunnel.protocol import events as ev
from hubtunnel.protocol import frames, resume
from hubtunnel.protocol.carrier import Carrier
from hubtunnel.protocol.constants import Frame, Record
from hubtunnel.protocol.handshake import Established
from hubtunnel.protocol.link import Settings
from hubtunnel.protocol.ratchet import Ratchet
from hubtunnel.protocol.records import Reader, TrafficKey
from hubtunnel.protocol.schedule import Offer, Secrets
from hubtunnel.protocol.session import Session
from hubtunnel.protocol.wire import START, STARTED
from tests.protocol.support import Hub, public_of

HELLO = frames.encode_hello(frames.Hello("puppet", (), ()))

Said = tuple[Record, bytes]  # a record's type, and its data without the type


def hello(**keys: object) -> bytes:
    """A HELLO frame with other keys than the usual ones."""
    return frames.encode(Frame.HELLO, 0, msgpack.packb(keys))


@dataclass(eq=False)
class Line:
    """One carrier between the hub and the puppet."""

    puppet: Puppet
    established: Established  # the puppet's end
    key: TrafficKey
    reader: Reader
    carrier: Carrier = field(init=False)
    closed: ev.CarrierClosing | None = None
    pings: list[bytes] = field(default_factory=list)  # read and not answered

    @property
    def hub_dialled(self) -> bool:
        """Whether the hub is the initiator of this carrier."""
        return not self.established.initiator

    def raw(self, data: bytes) -> None:
        """Any bytes at all."""
        self.puppet.hub.link.receive_data(self.carrier, data, self.puppet.now)
        self.puppet.pump()

    def sealed(self, kind: int, data: bytes = b"") -> bytes:
        """One record, not sent."""
        return bytes(self.key.seal(bytes((kind,)) + data))

    def send(self, kind: int, data: bytes = b"") -> None:
        """One record."""
        self.raw(self.sealed(kind, data))

    def frames(self, *encoded: bytes) -> None:
        """Frames in one DATA record."""
        self.send(Record.DATA, b"".join(encoded))

    def take(self) -> list[Said]:
        """Records that the hub sent since the last call."""
        self.puppet.pump()
        said = []
        while (record := self.reader.next()) is not None:
            said.append((record[0], record[1][1:]))
            if record[0] is Record.PING:
                self.pings.append(record[1][1:])
        return said

    def answer_pings(self) -> None:
        """PONG to every PING so far."""
        self.take()
        waiting, self.pings = self.pings, []
        for token in waiting:
            if self.closed is None:
                self.send(Record.PONG, token)

    def kinds(self) -> list[Record]:
        """The types of those records, PINGs and ACKs left out (they come by the clock)."""
        return [kind for kind, _ in self.take() if kind not in (Record.PING, Record.ACK)]

    def take_frames(self) -> list[tuple[int, int, bytes]]:
        """Frames that the hub sent since the last call (of whole DATA records, none of them in parts)."""
        parser = frames.FrameParser()
        found = []
        for kind, data in self.take():
            if kind is Record.DATA:
                found += list(parser.feed(bytes((kind,)) + data))
        return found

    @property
    def dropped(self) -> bool:
        """Whether the hub dropped the carrier without a word."""
        return self.closed is not None and self.closed.fault

    @property
    def session(self) -> Session:
        """The hub's session on this line."""
        session = self.carrier.session
        assert session is not None
        return session

    def switch(self, secrets: Secrets) -> None:
        """The puppet's keys of the next epoch, both directions."""
        mine, theirs = (secrets.t_i, secrets.t_r) if self.established.initiator else (secrets.t_r, secrets.t_i)
        epoch = self.key.epoch + 1
        self.key = TrafficKey(mine, epoch)
        self.reader.switch(TrafficKey(theirs, epoch))


class Puppet:
    """The hub (`hub`), a clock, and everything that the hub's core told its shell."""

    def __init__(
        self, settings: Settings | None = None, *, seed: int = 7, name: str = "B", budget: int = 1 << 30
    ) -> None:
        self.hub = Hub("A", seed * 2, settings or Settings(version="test"), budget)
        self.me = Hub(name, seed * 2 + 1, self.hub.settings)
        self.hub.boot(self.me)
        self.rng = self.me.rng
        self.boot = self.rng.bytes(16)
        self.dials = 0
        self.now = 1000.0
        self.lines: list[Line] = []
        self.events: list[ev.Event] = []
        self.jobs: list[ev.Job] = []
        self.hold_jobs = False
        self.detach = True  # whether the shell closes a TCP connection that the core is done with

    # --- the hub's shell --------------------------------------------------------------------------------------

    def pump(self) -> None:
        """What a shell does after every call: events, jobs, flush."""
        link = self.hub.link
        while True:
            while (event := link.next_event()) is not None:
                self.events.append(event)
                if isinstance(event, ev.CarrierClosing):
                    self._close(event)
            moved = False
            while (job := link.next_job()) is not None:
                self.jobs.append(job)
            if not self.hold_jobs:
                moved = self.run_jobs()
            for line in self.lines:
                if line.closed is None:
                    moved |= self._flush(line)
            if not moved:
                return

    def _flush(self, line: Line) -> bool:
        moved = False
        while (out := self.hub.link.data_to_send(line.carrier, self.now)) != b"":
            line.reader.feed(bytes(out))
            moved = True
        return moved

    def _close(self, event: ev.CarrierClosing) -> None:
        for line in self.lines:
            if line.carrier is event.carrier:
                self._flush(line)
                line.closed = event
                if self.detach:
                    self.hub.link.detach(event.carrier, "closed", self.now)

    def run_jobs(self) -> bool:
        """Do the work that waits; whether there was any."""
        waiting, self.jobs = self.jobs, []
        for job in waiting:
            try:
                result = job.run()
            except Exception as exc:
                result = exc
            self.hub.link.job_done(job, result, self.now)
        return bool(waiting)

    def seen(self, kind: type) -> list[ev.Event]:
        """Events of one kind so far."""
        self.pump()
        return [event for event in self.events if isinstance(event, kind)]

    def advance(self, seconds: float) -> None:
        """Let time pass, deadline by deadline."""
        end = self.now + seconds
        while True:
            due = self.hub.link.next_deadline()
            at = end if due is None else min(end, due)
            self.now = max(self.now, at)
            self.hub.link.handle_deadline(self.now)
            self.pump()
            left = self.hub.link.next_deadline()
            assert left is None or left > self.now, "a deadline that is over and stays is a busy loop"
            if at >= end:
                return

    def cut(self, line: Line) -> None:
        """The TCP connection is gone, as the hub sees it."""
        self.hub.link.detach(line.carrier, "reset", self.now)
        self.pump()

    # --- carriers ---------------------------------------------------------------------------------------------

    def line(self, *, hub_dials: bool) -> Line:
        """A carrier right after its handshake. What the hub says first is in `take()`."""
        root, th, t_i, t_r = (self.rng.bytes(32) for _ in range(4))
        sid = self.rng.bytes(16)
        keys = self.hub.context.dialling if hub_dials else self.hub.context.listening
        ends = {
            initiator: Established(
                initiator=initiator,
                peer="the other",
                own=self.hub.secret if initiator is hub_dials else self.me.secret,
                theirs=public_of((self.me if initiator is hub_dials else self.hub).secret),
                d=keys.d,
                sid=sid,
                root=root,
                th=th,
                t_send=t_i if initiator else t_r,
                t_receive=t_r if initiator else t_i,
            )
            for initiator in (True, False)
        }
        mine = ends[not hub_dials]
        line = Line(self, mine, TrafficKey(mine.t_send, 0), Reader(TrafficKey(mine.t_receive, 0)))
        self.lines.append(line)
        line.carrier = self.hub.link.attach(ends[hub_dials], self.now)
        self.pump()
        return line

    def start_record(self, boot: bytes | None = None) -> bytes:
        """The data of a START of the next dial."""
        self.dials += 1
        return START.pack(boot or self.boot, self.dials)

    def started_record(self) -> bytes:
        """The data of a STARTED."""
        return STARTED.pack(self.boot)

    def up(self, *, hub_dials: bool, boot: bytes | None = None) -> Line:
        """A new session in state UP on a new carrier, HELLOs exchanged, nothing left to be read."""
        line = self.line(hub_dials=hub_dials)
        if hub_dials:
            assert line.take()[0][0] is Record.START
            line.send(Record.STARTED, STARTED.pack(boot or self.boot))
        else:
            line.send(Record.START, self.start_record(boot))
            assert line.take()[0][0] is Record.STARTED
        line.frames(HELLO)
        line.take()
        assert line.session.ready
        return line

    def roots(self, line: Line) -> Ratchet:
        """The puppet's own roots of the session that begins on a line."""
        fresh = line.established
        return Ratchet(initiator=fresh.initiator, root=fresh.root, th=fresh.th, d=fresh.d)

    # --- resume -----------------------------------------------------------------------------------------------

    def resume_record(
        self,
        line: Line,
        sid: bytes,
        m: int,
        root: bytes,
        received: int,
        base: int,
        *,
        boot: bytes | None = None,
        dial: int | None = None,
    ) -> bytes:
        """The data of a RESUME with a good proof on this line."""
        self.dials += 1
        dial = self.dials if dial is None else dial
        return resume.say(root, line.established.th, sid, m, received, base, boot or self.boot, dial)

    def resumed_record(
        self, line: Line, said: bytes, root: bytes, received: int, base: int, *, boot: bytes | None = None
    ) -> bytes:
        """The data of a RESUMED with a good proof on this line."""
        return resume.answer(root, line.established.th, said, boot or self.boot, received, base)

    # --- ratchet ----------------------------------------------------------------------------------------------

    def offer(self, line: Line, roots: Ratchet) -> bytes:
        """RK1 of the puppet, which dialled."""
        offer = roots.begin(line.established.theirs, self.rng.bytes(c.EPHEMERAL_SEED_LEN)).run()
        assert isinstance(offer, Offer)
        return roots.offer_ready(offer)

    def confirm(self, line: Line, roots: Ratchet, rk2: bytes) -> tuple[bytes, Secrets]:
        """RK3 of the puppet, which dialled, and the keys of the next epoch."""
        fresh = line.established
        secrets = roots.read_rk2(rk2, fresh.own, fresh.theirs).run()
        assert isinstance(secrets, Secrets)
        return roots.verified(secrets)

    def answer(self, line: Line, roots: Ratchet, rk1: bytes) -> bytes:
        """RK2 of the puppet, which was dialled."""
        fresh = line.established
        job = roots.read_rk1(rk1, fresh.own, fresh.theirs, self.rng.bytes(c.EPHEMERAL_SEED_LEN))
        result = job.run()
        assert isinstance(result, tuple)
        return roots.answer_ready(*result)
