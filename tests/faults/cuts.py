"""A carrier cut at every byte of what two hubs say to each other on it: handshake, START or RESUME, ratchet step, DATA.

Over the protocol core, with stand-ins for the primitives: ends that are given so many bytes of a conversation, in the
order in which they were said, and then lose the carrier. After each cut the next dial must bring everything back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hubtunnel.protocol import events as ev
from hubtunnel.protocol.handshake import Initiator, Responder
from hubtunnel.protocol.link import Settings
from tests.protocol.standins import Coins, in_place
from tests.protocol.support import UNIX_TIME, CorePair, Hub, Wire

SETTINGS = Settings(version="x", ratchet_interval_min=0.0, ratchet_interval_refused=0.0)
THERE, BACK = bytes(range(256)) * 3, bytes(reversed(range(256))) * 2
KINDS = ("start", "resume", "ratchet")


@dataclass
class Conversation:
    """One carrier from the first byte of its handshake on, as far as it is let."""

    pair: CorePair
    allowed: int
    delivered: int = 0
    wire: Wire = field(default_factory=Wire)

    def dial(self) -> None:
        """From M1 to where nothing moves any more, or the allowance is used up."""
        a, b = self.pair.a, self.pair.b
        self._initiator = Initiator(a.context, UNIX_TIME, a.rng.bytes(96))
        self._responder = Responder(b.table, b.rng.seed)
        self.pair.wires.append(self.wire)
        self._work_initiator()
        self._run()

    def go_on(self, wire: Wire) -> None:
        """The same on a carrier that is up."""
        self.wire = wire
        self._run()

    def _run(self) -> None:
        moved = True
        while moved and self.delivered < self.allowed:
            moved = False
            for hub in (self.pair.b, self.pair.a):
                self.pair.flush(self.pair.a)
                self.pair.flush(self.pair.b)
                count = min(len(self.wire.to[hub.name]), self.allowed - self.delivered)
                if count:
                    self._deliver(hub, count)
                    self.delivered += count
                    moved = True

    def _deliver(self, hub: Hub, count: int) -> None:
        if hub.name in self.wire.ends:
            self.pair.deliver(self.wire, hub, count)
            return
        data = bytes(self.wire.to[hub.name][:count])
        del self.wire.to[hub.name][:count]
        if hub is self.pair.a:
            self._initiator.receive_data(data)
            self._work_initiator()
        else:
            self._responder.receive_data(data)
            self._work_responder()

    def _work_initiator(self) -> None:
        CorePair._work(self._initiator)
        self.wire.to["B"] += self._initiator.data_to_send()
        if self._initiator.established is not None:
            self.wire.ends["A"] = self.pair.a.link.attach(self._initiator.established, self.pair.now)

    def _work_responder(self) -> None:
        CorePair._work(self._responder)
        self.wire.to["A"] += self._responder.data_to_send()
        if self._responder.established is not None:
            self.wire.ends["B"] = self.pair.b.link.attach(self._responder.established, self.pair.now)


@dataclass
class Streams:
    """A stream that A opened, with what was written at both ends."""

    pair: CorePair
    there: bytes = b""
    back: bytes = b""

    def begin(self) -> None:
        """Open it, and let a word pass in each direction."""
        stream = self.pair.a.link.open_stream(None, self.pair.now)
        self.number = stream.id
        self._near = stream
        self.write(b"220 here", b"")
        self.pair.settle()
        self.write(b"", b"EHLO there")
        self.pair.settle()

    def write(self, there: bytes, back: bytes) -> None:
        """More, at each end."""
        self.there += there
        self.back += back
        if there:
            self._near.write(there)
        if back:
            self.pair.b.streams[self.number].write(back)

    def check(self) -> None:
        """Everything came, once and in order, and nothing was reset."""
        assert bytes(self.pair.b.received[self.number]) == self.there
        assert bytes(self.pair.a.received[self.number]) == self.back
        assert self.pair.a.resets == self.pair.b.resets == {}


def conversation(kind: str, allowed: int) -> int:
    """One conversation of a kind, cut after so many bytes, and everything after it; how many bytes there were."""
    pair = CorePair(SETTINGS, seed=71)
    streams = Streams(pair)
    talk = Conversation(pair, allowed)
    if kind == "start":
        talk.dial()
    else:
        wire = pair.dial(pair.a)
        pair.settle()
        streams.begin()
        if kind == "resume":
            pair.cut(wire)
            streams.write(THERE, BACK)
            talk.dial()
        else:
            assert pair.a.link.rekey(pair.now)
            pair.a.link.handle_deadline(pair.now)
            streams.write(THERE, BACK)
            talk.go_on(wire)
    pair.cut(talk.wire)
    _come_back(pair, streams, begun=kind != "start")
    return talk.delivered


def _come_back(pair: CorePair, streams: Streams, *, begun: bool) -> None:
    """The next dial: whatever was cut, the hubs agree, and what was written arrives."""
    sids = [hub.link.sessions[0].sid for hub in (pair.a, pair.b)] if begun else []
    assert pair.a.link.wants_carrier(pair.now)
    pair.dial(pair.a)
    pair.settle()
    pair.advance(1.0)
    assert pair.a.link.ready
    assert pair.b.link.ready
    if not begun:
        streams.begin()
        streams.write(THERE, BACK)
        pair.flush(pair.a)
        pair.flush(pair.b)
        pair.settle()
        pair.advance(1.0)
    streams.check()
    for hub in (pair.a, pair.b):
        assert not [event for event in hub.events if isinstance(event, ev.Alarm)]
        assert not [event for event in hub.seen(ev.CarrierClosing) if getattr(event, "fault", False)]
        assert hub.budget.used == 0
    (ours,), (theirs,) = ([s for s in hub.link.sessions if s.ready] for hub in (pair.a, pair.b))
    assert ours.sid == theirs.sid
    assert ours.roots == theirs.roots
    if sids:
        assert [ours.sid, theirs.sid] == sids  # the session is the one that it was


def run(kinds: Iterable[str] = KINDS, *, every: int = 1) -> dict[str, Any]:
    """Cuts at every byte, or at every so-manieth. Raises at the first after which something is wrong."""
    found: dict[str, Any] = {}
    for kind in kinds:
        with in_place(Coins().encapsulate, lambda key, nonce: None):
            whole = conversation(kind, 1 << 30)
            cuts = range(0, whole + 1, every)
            for allowed in cuts:
                try:
                    conversation(kind, allowed)
                except Exception as exc:
                    raise AssertionError(f"{kind}, cut after {allowed} of {whole} bytes: {exc!r}") from exc
        found[kind] = {"bytes": whole, "cuts": len(cuts)}
    return {"ok": True, **found}
