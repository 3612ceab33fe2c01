"""Letters over a `CorePair`: streams whose bytes are followed through sessions, resumes and restarts."""

from __future__ import annotations

from dataclasses import dataclass, field

from hubtunnel.protocol import events as ev
from hubtunnel.protocol.bytestream import Budget
from hubtunnel.protocol.link import Settings
from hubtunnel.protocol.streams import Stream
from tests.protocol.support import CorePair, Hub, Wire

HEAD = 4  # bytes of a letter that number it


@dataclass(eq=False)
class Letter:
    """One direction of a stream."""

    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: bool = False

    @property
    def number(self) -> int | None:
        """Which letter it is, once that much has come."""
        return int.from_bytes(self.data[:HEAD], "big") if len(self.data) >= HEAD else None


class Post(CorePair):
    """Two hubs between which letters go, in both directions, whatever happens to the carriers."""

    def __init__(self, settings: Settings | None = None, *, seed: int = 1) -> None:
        self.sent: dict[str, dict[int, tuple[Letter, Stream]]] = {"A": {}, "B": {}}
        self.received: dict[str, list[Letter]] = {"A": [], "B": []}
        self.alarms: list[str] = []
        self.faults: list[str] = []
        self.numbers = 0
        super().__init__(settings, seed=seed)

    def _apply(self, hub: Hub, event: ev.Event) -> None:
        match event:
            case ev.StreamOpened(stream=stream):
                letter = Letter()
                stream.app = letter
                self.received[hub.name].append(letter)
            case ev.StreamData(stream=stream, data=data):
                if isinstance(stream.app, Letter):
                    stream.app.data += data
                stream.consumed(len(data))
            case ev.StreamEnd(stream=stream):
                if isinstance(stream.app, Letter):
                    stream.app.ended = True
                stream.end()
            case ev.StreamReset(stream=stream):
                for letter in [stream.app] if isinstance(stream.app, Letter) else []:
                    letter.reset = True
                for letter, own in self.sent[hub.name].values():
                    letter.reset |= own is stream
            case ev.Alarm(code=code):
                self.alarms.append(code)
            case ev.Notice(code="protocol_error", text=text):
                self.faults.append(text)
            case ev.CarrierClosing(carrier=carrier):
                self._close(hub, carrier)

    def post(self, hub: Hub, size: int) -> int | None:
        """Begin a letter, if the link takes one. Its number."""
        if not hub.link.ready:
            return None
        self.numbers += 1
        number = self.numbers
        stream = hub.link.open_stream(None, self.now)
        self.sent[hub.name][number] = (Letter(), stream)
        self.write(hub, number, number.to_bytes(HEAD, "big") + bytes(size))
        return number

    def write(self, hub: Hub, number: int, data: bytes) -> None:
        """More of a letter. What a stream that is over does not take is not part of it."""
        letter, stream = self.sent[hub.name][number]
        if not (stream.closed or letter.ended):
            letter.data += data
            stream.write(data)
            self.flush(hub)

    def end(self, hub: Hub, number: int) -> None:
        """The end of a letter."""
        letter, stream = self.sent[hub.name][number]
        letter.ended = True
        stream.end()
        self.flush(hub)

    def restart(self, hub: Hub) -> None:
        """The process is gone, and with it its ends of all wires; a new one begins."""
        for wire in self.wires:
            if wire.ends.pop(hub.name, None) is not None:
                wire.to[hub.name].clear()
        for letter, _ in self.sent[hub.name].values():
            letter.reset = True
        self.sent[hub.name] = {}
        for letter in self.received[hub.name]:
            letter.reset |= not letter.ended  # one that was whole had been handed on
        hub.budget = Budget(hub.budget.limit)
        hub.boot(self.other(hub))

    def dial_where_wanted(self) -> None:
        """What a daemon does when its link asks for a carrier."""
        for hub in (self.a, self.b):
            if hub.link.wants_carrier(self.now):
                self.dial(hub)

    def dial(self, hub: Hub) -> Wire:
        """A dial; wires that nobody holds any more are forgotten."""
        self.wires = [wire for wire in self.wires if wire.ends]
        return super().dial(hub)

    def live_on(self, seconds: float, step: float = 5.0) -> None:
        """Time without further faults, in which hubs dial as daemons do."""
        end = self.now + seconds
        while self.now < end:
            self.dial_where_wanted()
            self.settle()
            self.advance(min(step, end - self.now))

    # --- what must hold ---------------------------------------------------------------------------------------

    def check(self) -> None:
        """Each letter arrives in order and once, or a beginning of it; nobody finds fault with an honest peer."""
        assert self.faults == []
        self._check_roots()
        for hub in (self.a, self.b):
            letters = {number: letter for number, (letter, _) in self.sent[self.other(hub).name].items()}
            seen = set()
            for got in self.received[hub.name]:
                sent = None if got.number is None else letters.get(got.number)
                if sent is None:
                    continue
                assert got.number not in seen, "a letter came twice"
                seen.add(got.number)
                assert sent.data.startswith(got.data)
                if got.ended and not got.reset:
                    assert got.data == sent.data, "a clean end before the end"
            assert hub.budget.used >= 0

    def _check_roots(self) -> None:
        """Of each session that both hubs have, the responder holds the initiator's one root."""
        for hub in (self.a, self.b):
            theirs = {s.sid: s for s in self.other(hub).link.sessions if not s.initiator and not s.ended}
            for session in hub.link.sessions:
                if session.initiator and session.heard and not session.ended and session.sid in theirs:
                    assert theirs[session.sid].roots.get(session.index) == session.roots[session.index]

    def check_arrived(self) -> None:
        """Every letter that was not reset is there, whole, and both hubs are ready for the next."""
        for hub in (self.a, self.b):
            got = {letter.number: letter for letter in self.received[self.other(hub).name]}
            for number, (letter, _) in self.sent[hub.name].items():
                if not letter.reset:
                    assert got[number].data == letter.data
                    assert got[number].ended
            assert hub.link.ready
        (ours,), (theirs,) = ([s for s in hub.link.sessions if s.ready] for hub in (self.a, self.b))
        assert ours.sid == theirs.sid
