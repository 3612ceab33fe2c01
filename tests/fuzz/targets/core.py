"""One hub's whole core against a peer that has all the keys (`tests.protocol.puppet`).

An input is a row of actions: records and frames of any kind, well sealed, so that they get past the AEAD; the same with
a bit flipped; ratchet steps and resumes that are good; carriers that come, are cut, overlap; time; and what the local
shell does. Nothing may be raised, nothing grow beyond its bound, and a record that does not authenticate may change
nothing but its carrier.
"""

from __future__ import annotations

import functools
import pickle

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import events as ev
from hubtunnel.protocol import frames
from hubtunnel.protocol.cards import HeldCard
from hubtunnel.protocol.constants import RECORD_DATA_LEN, RECORD_DATA_MAX, Code, Frame, Record
from hubtunnel.protocol.link import Link, NotReady, Settings
from hubtunnel.protocol.ratchet import Ratchet
from hubtunnel.protocol.schedule import Secrets
from hubtunnel.protocol.streams import Stream
from tests.fuzz.choices import Choices
from tests.fuzz.state import check_bounds, of_link
from tests.protocol.puppet import HELLO, Line, Puppet

SECONDS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 10.0, 15.0, 30.0, 45.0, 60.0, 120.0, 150.0, 600.0)
LENGTHS = (0, 1, 7, 300, 4096, 16384, 65511, 65518)
CODES = tuple(Code)
KINDS = tuple(Record)
FRAMES = tuple(Frame)
CARDS_MAX = 64
ACTIONS_MAX = 200
ACTIONS = (
    "new_line",
    "good_first",
    "sealed_record",
    "any_frames",
    "local",
    "time",
    "good_step",
    "good_resume",
    "flipped_record",
    "raw",
    "cut",
    "shell",
)
LOCAL = ("open", "write", "end", "reset", "consume all", "consume some")
SHELL = ("drain", "close", "ping", "rekey", "hold jobs", "keep connections", "own card", "answer card")


@functools.cache
def blank() -> bytes:
    """A hub and its puppet before the first carrier, whose keys take long to make. Pickled, to be copied fast."""
    return pickle.dumps(Puppet(Settings(version="fuzz", streams_per_peer=20, send_window=1 << 18), budget=1 << 20))


class Play:
    """One run over an input."""

    def __init__(self, data: bytes) -> None:
        self.choices = Choices(data)
        self.puppet: Puppet = pickle.loads(blank())
        self.lines: list[Line] = []
        self.rounds: dict[Line, Ratchet] = {}  # the puppet's own roots
        self.said: dict[Line, list[tuple[Record, bytes]]] = {}
        self.own_cards: tuple[HeldCard, ...] = ()
        self.seen: set[type] = set()  # kinds of events

    @property
    def link(self) -> Link:
        """The hub's."""
        return self.puppet.hub.link

    def line(self) -> Line | None:
        """One of the lines."""
        return self.choices.pick(self.lines) if self.lines else None

    def stream(self) -> Stream | None:
        """One of the hub's streams."""
        streams = [stream for session in self.link.sessions for stream in session.mux.streams.values()]
        return self.choices.pick(streams) if streams else None

    # --- the puppet -------------------------------------------------------------------------------------------

    def new_line(self) -> None:
        hub_dials = bool(self.choices.below(2))
        if hub_dials and not self.link.wants_carrier(self.puppet.now) and self.link.replaceable() is None:
            return  # the shell would not have dialled
        line = self.puppet.line(hub_dials=hub_dials)
        self.lines = [*self.lines[-7:], line]
        self.rounds[line] = self.puppet.roots(line)
        self.said[line] = []

    def good_first(self) -> None:
        """START, STARTED, RESUME or RESUMED as they should be, and HELLO."""
        line = self.line()
        if line is None:
            return
        if line.hub_dialled:
            line.send(Record.STARTED, self.puppet.started_record())
        else:
            line.send(Record.START, self.puppet.start_record())
        if self.choices.below(4):
            line.frames(HELLO)

    def good_resume(self) -> None:
        """RESUME, or RESUMED of either status, for a session that the hub has, with offsets that may be good."""
        line, sessions = self.line(), self.link.sessions
        if line is None or not sessions:
            return
        session = self.choices.pick(sessions)
        m, root = self.choices.pick(sorted(session.roots.items()))
        received = session._send.base + self.choices.below(3)
        base = max(0, session._count.offset - self.choices.below(3))
        boot = session.peer_boot
        if not line.hub_dialled:
            record = self.puppet.resume_record(line, session.sid, m, root, received, base, boot=boot)
            line.send(Record.RESUME, record)
            roots, fresh = self.rounds[line], line.established
            roots.roots = {m: root}
            roots.resume(m, fresh.root, fresh.th, fresh.d)
            return
        said = next((data for kind, data in self.heard(line) if kind is Record.RESUME), None)
        if said is None or not self.choices.below(4):
            line.send(Record.RESUMED, bytes(RECORD_DATA_LEN[Record.RESUMED] or 0))
        else:
            line.send(Record.RESUMED, self.puppet.resumed_record(line, said, root, received, base, boot=boot))

    def good_step(self) -> None:
        """The next message of a ratchet step, as far as the puppet can make it."""
        line = self.line()
        if line is None:
            return
        roots = self.rounds[line]
        heard = dict(self.heard(line))
        fresh = line.established
        try:
            if fresh.initiator and Record.RK2 in heard:
                self.good_rk3(line, roots, heard[Record.RK2])
            elif fresh.initiator:
                line.send(Record.RK1, self.puppet.offer(line, roots))
            elif Record.RK1 in heard:
                line.send(Record.RK2, self.puppet.answer(line, roots, heard[Record.RK1]))
        except ProtocolError:
            return  # the puppet's own machine, not the hub's: it is not the time for a step

    def good_rk3(self, line: Line, roots: Ratchet, rk2: bytes) -> None:
        fresh = line.established
        secrets = roots.read_rk2(rk2, fresh.own, fresh.theirs).run()
        if isinstance(secrets, Secrets):  # else the puppet's roots are those of another session
            line.send(Record.RK3, roots.verified(secrets)[0])
            line.switch(secrets)

    def heard(self, line: Line) -> list[tuple[Record, bytes]]:
        """What the hub has said on a line, as far as the puppet has the keys for it."""
        try:
            self.said[line] = [*self.said[line], *line.take()][-8:]
        except ProtocolError:
            line.reader._partial.clear()
            line.reader._all_read()
        return self.said[line]

    def record(self) -> bytes:
        """The data of any record: of a length that its type can have, or of any."""
        choices = self.choices
        kind = choices.pick(KINDS) if choices.below(8) else choices.below(256)
        length = RECORD_DATA_LEN.get(Record(kind)) if kind in KINDS and choices.below(8) else None
        data = choices.some() if length is None else choices.take(min(length, 16)).ljust(length, b"\0")
        return bytes((kind,)) + data

    def sealed_record(self) -> None:
        line, record = self.line(), self.record()
        if line is not None:
            line.raw(bytes(line.key.seal(record)))

    def flipped_record(self) -> None:
        """A record with one bit changed: the hub's sessions are what they were."""
        line, record = self.line(), self.record()
        if line is None or line.closed is not None:
            return
        record = bytearray(line.key.seal(record))
        place = self.choices.below(len(record))
        record[place] ^= 1 << self.choices.below(8)
        whole = line.carrier._reader is not None and not line.carrier._reader.held
        self.unauthenticated(line, bytes(record))
        # A record that is longer now is waited for; so is what stands behind bytes that look like a long record.
        assert line.dropped or not whole or place in (1, 2)

    def raw(self) -> None:
        """Bytes that nobody sealed."""
        line, data = self.line(), self.choices.some()
        if line is not None and line.closed is None:
            self.unauthenticated(line, data)

    def unauthenticated(self, line: Line, data: bytes) -> None:
        """Give the hub bytes that must not change what it holds. (A session that is being closed may be over.)"""
        before = of_link(self.link)
        line.raw(data)
        after = of_link(self.link)
        assert before == after, [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]

    def any_frames(self) -> None:
        """Frames, some as they should be, in one record."""
        line, out = self.line(), b""
        for _ in range(1 + self.choices.below(4)):
            kind = self.choices.pick(FRAMES) if self.choices.below(8) else self.choices.below(256)
            out += frames.encode(kind, self.choices.below(16), self.payload(kind))
        cut = self.choices.below(len(out) + 1) if not self.choices.below(4) else len(out)
        if line is not None:
            for part in (out[:cut], out[cut:]):
                for at in range(0, len(part), RECORD_DATA_MAX):
                    line.frames(part[at : at + RECORD_DATA_MAX])

    def payload(self, kind: int) -> bytes:
        choices = self.choices
        if not choices.below(8):
            return choices.some()
        if kind == Frame.OPEN:
            return frames.encode_open(("192.0.2.1", 25) if choices.below(2) else None)
        if kind == Frame.HELLO:
            return HELLO[7:]
        if kind == Frame.DATA:
            return bytes(choices.pick(LENGTHS))
        if kind == Frame.CARD_PART:
            part = choices.some() or b"\0"
            return choices.number(1).to_bytes(8, "big") + len(part).to_bytes(4, "big") + bytes(4) + part
        length = {Frame.RESET: 2, Frame.CREDIT: 4, Frame.GOAWAY: 6, Frame.CARD_NAK: 10, Frame.CARD_GET: 8}
        size = length.get(Frame(kind), 0 if kind == Frame.END else 40) if kind in FRAMES else 3
        return choices.take(min(size, 9)).ljust(size, b"\0")  # of a card: its number, and a byte of its hash

    # --- the shell --------------------------------------------------------------------------------------------

    def time(self) -> None:
        self.puppet.advance(self.choices.pick(SECONDS))

    def cut(self) -> None:
        line = self.line()
        if line is not None:
            self.puppet.cut(line)

    def local(self) -> None:
        """What a local client does."""
        action, stream, now = self.choices.pick(LOCAL), self.stream(), self.puppet.now
        if action == "open":
            try:
                self.link.open_stream(("127.0.0.1", 2525) if self.choices.below(2) else None, now)
            except NotReady:
                return
        elif stream is not None:
            if action == "write":
                stream.write(bytes(self.choices.pick(LENGTHS)))
            elif action == "end":
                stream.end()
            elif action == "reset":
                stream.reset(self.choices.pick(CODES))
            else:
                stream.consumed(stream.unconsumed if action == "consume all" else self.choices.below(300))

    def shell(self) -> None:
        """What the daemon does."""
        action, now = self.choices.pick(SHELL), self.puppet.now
        if action == "drain":
            self.link.drain(self.choices.pick(CODES), now)
        elif action == "close":
            self.link.close(self.choices.pick(CODES), now)
        elif action == "ping":
            self.link.ping(now)
        elif action == "rekey":
            self.link.rekey(now)
        elif action == "hold jobs":
            self.puppet.hold_jobs = not self.puppet.hold_jobs
        elif action == "keep connections":
            self.puppet.detach = not self.puppet.detach
        elif action == "own card" and len(self.own_cards) < CARDS_MAX:
            serial = len(self.own_cards) + 1
            self.own_cards += (HeldCard(serial, bytes(32), bytes(self.choices.pick(LENGTHS) + 1)),)
            self.link.set_cards(self.own_cards, self.own_cards[0], now)
        else:
            self.answer_card()

    def answer_card(self) -> None:
        came = [event for event in self.puppet.events if isinstance(event, ev.CardReceived)]
        if came:
            answer = self.choices.below(3)
            if answer == 0:
                self.link.card_accepted(came[-1].session, came[-1].serial, bytes(32))
            elif answer == 1:
                self.link.card_refused(came[-1].session, came[-1].serial, Code.CARD_FORK)
            else:
                self.link.card_misnamed(came[-1].session, came[-1].serial, self.puppet.now)

    # --- the run ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        for _ in range(ACTIONS_MAX):
            if not self.choices.more:
                break
            getattr(self, self.choices.pick(ACTIONS))()
            self.puppet.pump()
            check_bounds(self.link)
            for line in self.lines:
                self.heard(line)
            self.seen |= {type(event) for event in self.puppet.events}
            del self.puppet.events[:-20]
        self.end()

    def end(self) -> None:
        """Everything is let go in the end."""
        self.puppet.hold_jobs, self.puppet.detach = False, True
        self.link.close(Code.DONE, self.puppet.now)
        self.puppet.pump()
        for carrier in list(self.link.carriers):
            self.link.detach(carrier, "over", self.puppet.now)
        self.puppet.advance(1000.0)
        assert self.link.sessions == []
        assert self.link.carriers == []
        assert self.puppet.hub.budget.used == 0
        assert self.link.wants_carrier(self.puppet.now)


def core(data: bytes) -> None:
    """A row of actions."""
    Play(data).run()
