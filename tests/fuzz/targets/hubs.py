"""Two real hubs: bytes delivered in part, carriers cut, time, altered bytes, crossing dials, restarts.

Whatever happens on the way, what a stream delivers is a beginning of what was written into it, and once carriers hold
the hubs come to rest with sessions that agree.
"""

from __future__ import annotations

import functools
import pickle

from hubtunnel.protocol import events as ev
from hubtunnel.protocol.bytestream import Budget
from hubtunnel.protocol.constants import Code
from hubtunnel.protocol.handshake import Established
from hubtunnel.protocol.link import NotReady, Settings
from hubtunnel.protocol.session import Session
from hubtunnel.protocol.streams import Stream
from tests.fuzz.choices import Choices
from tests.fuzz.state import check_bounds
from tests.protocol.support import CorePair, Hub, Wire, public_of

SECONDS = (0.0, 0.2, 1.0, 5.0, 15.0, 20.0, 45.0, 150.0)
ACTIONS_MAX = 120
ACTIONS = ("dial", "write", "deliver", "settle", "time", "cut", "alter", "rekey", "restart", "drain")


LABEL_LEN = 8


class Pair(CorePair):
    """Carriers begin where the handshake has ended, with keys drawn at random."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.arrived: dict[Stream, bytearray] = {}

    def _apply(self, hub: Hub, event: ev.Event) -> None:
        if isinstance(event, ev.StreamData):
            self.arrived.setdefault(event.stream, bytearray()).extend(event.data)
        super()._apply(hub, event)

    def dial(self, hub: Hub) -> Wire:
        peer = self.other(hub)
        root, th, t_i, t_r = (hub.rng.bytes(32) for _ in range(4))
        sid = hub.rng.bytes(16)
        wire = Wire()
        self.wires.append(wire)
        for end, other in ((hub, peer), (peer, hub)):
            dialled = end is hub
            established = Established(
                initiator=dialled,
                peer=other.name,
                own=end.secret,
                theirs=public_of(other.secret),
                d=hub.context.dialling.d,
                sid=sid,
                root=root,
                th=th,
                t_send=t_i if dialled else t_r,
                t_receive=t_r if dialled else t_i,
            )
            wire.ends[end.name] = end.link.attach(established, self.now)
        for end in (hub, peer):
            self.flush(end)
        return wire


@functools.cache
def blank() -> bytes:
    """Two hubs before the first carrier, whose keys take long to make. Pickled, to be copied fast."""
    return pickle.dumps(Pair(Settings(version="fuzz", ratchet_after=30.0, streams_per_peer=20, send_window=1 << 16)))


class Play:
    """One run over an input."""

    def __init__(self, data: bytes) -> None:
        self.choices = Choices(data)
        self.pair: Pair = pickle.loads(blank())
        self.labels: dict[Stream, bytes] = {}  # what is written into a stream begins with a label of its own
        self.seen: set[type] = set()  # kinds of events
        self.written: dict[bytes, bytearray] = {}  # by label

    def hub(self) -> Hub:
        return self.pair.b if self.choices.below(2) else self.pair.a

    def wire(self) -> Wire | None:
        live = [wire for wire in self.pair.wires if not wire.cut]
        return self.choices.pick(live) if live else None

    def step(self) -> None:
        pair, choices = self.pair, self.choices
        action, hub, wire = choices.pick(ACTIONS), self.hub(), self.wire()
        if action == "dial" and (hub.link.wants_carrier(pair.now) or hub.link.replaceable() is not None):
            pair.dial(hub)
        elif action == "write":
            self.write(hub)
        elif action == "deliver" and wire is not None:
            pair.deliver(wire, hub, 1 + choices.below(1 << 12))
        elif action == "settle":
            pair.settle()
        elif action == "time":
            pair.advance(choices.pick(SECONDS))
        elif action == "cut" and wire is not None:
            pair.cut(wire, lose=bool(choices.below(2)))
        elif action == "alter" and wire is not None and wire.to[hub.name]:
            place = choices.below(len(wire.to[hub.name]))
            wire.to[hub.name][place] ^= 1 << choices.below(8)
        elif action == "rekey":
            hub.link.rekey(pair.now)
            pair.flush(hub)
        elif action == "restart" and not choices.below(4):
            self.restart(hub)
        elif action == "drain" and not choices.below(4):
            hub.link.drain(Code.RESTART, pair.now)
            pair.flush(hub)

    def write(self, hub: Hub) -> None:
        streams = [s for session in hub.link.sessions for s in session.mux.streams.values()]
        if not streams or not self.choices.below(3):
            try:
                streams = [hub.link.open_stream(None, self.pair.now)]
            except NotReady:
                return
        stream = self.choices.pick(streams)
        if stream.state.value in ("open", "remote_ended") and not stream._end_queued:
            data = hub.rng.bytes(1 + self.choices.below(1 << 15))
            if stream not in self.labels:
                self.labels[stream] = (len(self.labels) + 1).to_bytes(LABEL_LEN, "big")
                data = self.labels[stream] + data
            self.written.setdefault(self.labels[stream], bytearray()).extend(data)
            stream.write(data)
            if not self.choices.below(4):
                stream.end()
        self.pair.flush(hub)

    def restart(self, hub: Hub) -> None:
        """A new process: no session, another boot, every connection reset."""
        pair = self.pair
        for wire in pair.wires:
            pair.cut(wire)
        hub.budget = Budget(hub.budget.limit)
        hub.boot(pair.other(hub))
        hub.received.clear()

    def run(self) -> None:
        for _ in range(ACTIONS_MAX):
            if not self.choices.more:
                break
            self.step()
            self.check()
        self.rest()

    def check(self) -> None:
        for hub in (self.pair.a, self.pair.b):
            check_bounds(hub.link)
            self.seen |= {type(event) for event in hub.events}
            del hub.events[:-20]
        for came in self.pair.arrived.values():
            if len(came) >= LABEL_LEN:
                assert self.written[bytes(came[:LABEL_LEN])].startswith(came)

    def rest(self) -> None:
        """With carriers that hold, and time, every session that both still have is the same at both ends."""
        pair = self.pair
        for _ in range(4):
            for hub in (pair.a, pair.b):
                if hub.link.wants_carrier(pair.now):
                    pair.dial(hub)
                    pair.settle()
            pair.advance(20.0)
        self.check()
        ends = [{s.sid: s for s in hub.link.sessions if s.live} for hub in (pair.a, pair.b)]
        for sid in ends[0].keys() & ends[1].keys():
            assert agree(ends[0][sid], ends[1][sid]), sid.hex()


def agree(one: Session, two: Session) -> bool:
    """The same root in force, and all bytes of each direction received."""
    return (
        one.index == two.index
        and one.roots[one.index] == two.roots[two.index]
        and one._send.end == two._count.offset
        and two._send.end == one._count.offset
    )


def hubs(data: bytes) -> None:
    """A row of actions."""
    Play(data).run()
