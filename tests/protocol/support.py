"""Two hubs in one process, joined by byte queues under a clock that only tests move."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hubtunnel import crypto
from hubtunnel.protocol import events as ev
from hubtunnel.protocol.bytestream import Budget
from hubtunnel.protocol.carrier import Carrier
from hubtunnel.protocol.handshake import Initiator, Responder
from hubtunnel.protocol.link import Link, Settings
from hubtunnel.protocol.pair import HintTable, LinkPublic, LinkSecret, PairContext
from hubtunnel.protocol.streams import Stream

UNIX_TIME = 1_800_000_000.0


class Randomness:
    """A seeded generator in the place of the system's."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def bytes(self, n: int) -> bytes:
        """`n` bytes."""
        return self._random.randbytes(n)

    def seed(self, _secret: LinkSecret) -> bytes:
        """96 bytes for a pair of ephemerals."""
        return self._random.randbytes(96)


def make_secret(rng: Randomness, key_id: bytes = b"linkkey1") -> LinkSecret:
    """A link key that is always valid."""
    return LinkSecret(key_id, rng.bytes(32), rng.bytes(64), 0.0, 4e9)


def public_of(secret: LinkSecret) -> LinkPublic:
    """The public half, as a card holds it."""
    public = secret.public
    return LinkPublic(secret.id, public[:32], public[32:], secret.not_before, secret.not_after)


@dataclass(eq=False)
class Wire:
    """One TCP connection of the model: bytes on their way in each direction, and the carriers at its ends."""

    ends: dict[str, Carrier] = field(default_factory=dict)
    to: dict[str, bytearray] = field(default_factory=lambda: {"A": bytearray(), "B": bytearray()})
    log: dict[str, bytearray] = field(default_factory=lambda: {"A": bytearray(), "B": bytearray()})
    cut: bool = False


class Hub:
    """One end: a `Link`, and what its shell has seen."""

    def __init__(self, name: str, seed: int, settings: Settings, budget: int = 1 << 30) -> None:
        self.name = name
        self.rng = Randomness(seed)
        self.secret = make_secret(self.rng)
        self.idfp = crypto.H(name.encode())
        self.settings = settings
        self.budget = Budget(budget)
        self.events: list[ev.Event] = []
        self.received: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.streams: dict[int, Stream] = {}
        self.autoconsume = True
        self.link: Link
        self.context: PairContext

    def boot(self, peer: Hub, boot: bytes | None = None) -> None:
        """Start (again): a new process with a new boot and no sessions."""
        self.link = Link(
            own_idfp=self.idfp,
            peer_idfp=peer.idfp,
            boot=boot or self.rng.bytes(16),
            settings=self.settings,
            budget=self.budget,
            seed=self.rng.seed,
            random=self.rng.bytes,
        )
        self.context = PairContext.make(
            peer=peer.name,
            own_idfp=self.idfp,
            own=self.secret,
            peer_idfp=peer.idfp,
            theirs=public_of(peer.secret),
            psk=None,
        )
        self.table = HintTable([self.context], UNIX_TIME)

    def seen(self, kind: type) -> list[ev.Event]:
        """Events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]


class CorePair:
    """Two hubs, A and B, and every wire between them."""

    def __init__(self, settings: Settings | None = None, *, settings_b: Settings | None = None, seed: int = 1) -> None:
        settings = settings or Settings(version="test")
        self.a = Hub("A", seed * 2, settings)
        self.b = Hub("B", seed * 2 + 1, settings_b or settings)
        self.a.boot(self.b)
        self.b.boot(self.a)
        self.now = 1000.0
        self.wires: list[Wire] = []
        self.run_jobs = True
        self.held_jobs: list[tuple[Hub, ev.Job]] = []
        self.record_log: Callable[[str, bytes], None] | None = None

    def other(self, hub: Hub) -> Hub:
        """The hub at the other end."""
        return self.b if hub is self.a else self.a

    # --- handshake --------------------------------------------------------------------------------------------

    def dial(self, hub: Hub) -> Wire:
        """A handshake from `hub` to the other, and the carrier attached at both ends; nothing delivered yet."""
        peer = self.other(hub)
        initiator = Initiator(hub.context, UNIX_TIME, hub.rng.bytes(96))
        responder = Responder(peer.table, peer.rng.seed)
        self._work(initiator)
        responder.receive_data(initiator.data_to_send())
        self._work(responder)
        initiator.receive_data(responder.data_to_send())
        self._work(initiator)
        assert initiator.established is not None, initiator.failed
        wire = Wire()
        self.wires.append(wire)
        wire.ends[hub.name] = hub.link.attach(initiator.established, self.now)
        out = bytes(hub.link.data_to_send(wire.ends[hub.name], self.now))
        responder.receive_data(out[:32])
        assert responder.established is not None, responder.failed
        wire.ends[peer.name] = peer.link.attach(responder.established, self.now)
        wire.to[peer.name] += out[32:]
        wire.log[peer.name] += out
        self._after(hub)
        self._after(peer)
        return wire

    @staticmethod
    def _work(handshake: Initiator | Responder) -> None:
        while (job := handshake.next_job()) is not None:
            handshake.job_done(job, job.run())

    # --- moving bytes -----------------------------------------------------------------------------------------

    def _after(self, hub: Hub) -> None:
        """What a shell does after every call: events, jobs, flush."""
        while True:
            while (event := hub.link.next_event()) is not None:
                hub.events.append(event)
                self._apply(hub, event)
            job = hub.link.next_job()
            if job is None:
                break
            if self.run_jobs:
                hub.link.job_done(job, job.run(), self.now)
            else:
                self.held_jobs.append((hub, job))
        for wire in self.wires:
            carrier = wire.ends.get(hub.name)
            if carrier is None or wire.cut:
                continue
            while (out := hub.link.data_to_send(carrier, self.now)) != b"":
                peer = self.other(hub).name
                wire.to[peer] += out
                wire.log[peer] += out

    def _apply(self, hub: Hub, event: ev.Event) -> None:
        if isinstance(event, ev.StreamOpened):
            hub.streams[event.stream.id] = event.stream
        elif isinstance(event, ev.StreamData):
            hub.received.setdefault(event.stream.id, bytearray()).extend(event.data)
            if hub.autoconsume:
                event.stream.consumed(len(event.data))
        elif isinstance(event, ev.StreamEnd):
            hub.ended.add(event.stream.id)
        elif isinstance(event, ev.StreamReset):
            hub.resets[event.stream.id] = event.code
        elif isinstance(event, ev.CarrierClosing):
            self._close(hub, event.carrier)

    def _close(self, hub: Hub, carrier: Carrier) -> None:
        for wire in self.wires:
            if wire.ends.get(hub.name) is carrier:
                while (out := hub.link.data_to_send(carrier, self.now)) != b"":
                    wire.to[self.other(hub).name] += out
                del wire.ends[hub.name]
                hub.link.detach(carrier, "closed", self.now)

    def deliver(self, wire: Wire, to: Hub, n: int | None = None) -> int:
        """Deliver up to `n` bytes (all) that are on their way to a hub; returns how many."""
        data = bytes(wire.to[to.name][:n])
        del wire.to[to.name][: len(data)]
        carrier = wire.ends.get(to.name)
        if carrier is not None and data:
            to.link.receive_data(carrier, data, self.now)
            self._after(to)
        elif carrier is not None and self.other(to).name not in wire.ends:
            to.link.detach(carrier, "eof", self.now)
            wire.ends.pop(to.name, None)
            self._after(to)
        return len(data)

    def settle(self, rounds: int = 200) -> None:
        """Deliver everything until nothing moves."""
        for hub in (self.a, self.b):
            self._after(hub)
        for _ in range(rounds):
            moved = 0
            for wire in self.wires:
                if not wire.cut:
                    for hub in (self.a, self.b):
                        moved += self.deliver(wire, hub)
            if not moved:
                return
        raise AssertionError("does not settle")

    def cut(self, wire: Wire, *, lose: bool = True) -> None:
        """The TCP connection breaks; with `lose`, what was on its way is lost."""
        wire.cut = True
        if not lose:
            for hub in (self.a, self.b):
                self.deliver(wire, hub)
        for hub in (self.a, self.b):
            carrier = wire.ends.pop(hub.name, None)
            if carrier is not None:
                hub.link.detach(carrier, "reset", self.now)
                self._after(hub)

    def advance(self, seconds: float) -> None:
        """Let time pass, deadline by deadline, delivering in between."""
        end = self.now + seconds
        self.settle()
        while True:
            due = [d for hub in (self.a, self.b) if (d := hub.link.next_deadline()) is not None]
            at = min([end, *due])
            self.now = max(self.now, at)
            for hub in (self.a, self.b):
                hub.link.handle_deadline(self.now)
                self._after(hub)
            self.settle()
            if at >= end:
                return

    def flush(self, hub: Hub) -> None:
        """The shell's turn after local calls."""
        self._after(hub)


def connected(settings: Settings | None = None, **kwargs: object) -> tuple[CorePair, Wire]:
    """A pair with one session, dialled by A, up on both sides."""
    pair = CorePair(settings, **kwargs)  # type: ignore[arg-type]
    wire = pair.dial(pair.a)
    pair.settle()
    assert pair.a.link.ready
    assert pair.b.link.ready
    return pair, wire
