"""The table of a session's streams, and whose turn it is to send (PROTOCOL.md 8.4)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames
from hubtunnel.protocol.bytestream import Budget
from hubtunnel.protocol.constants import Code, Frame, Record
from hubtunnel.protocol.events import (
    Event,
    StreamData,
    StreamEnd,
    StreamOpened,
    StreamReset,
    StreamWritable,
)
from hubtunnel.protocol.streams import State, Stream

if TYPE_CHECKING:
    from hubtunnel.protocol.session import Session

_DATA_TYPE = bytes((Record.DATA,))
_NUMBER_MAX = 0xFFFFFFFF
# Room that a stream's turn needs at least: OPEN, CREDIT and END frames, and a data frame that is worth its header.
TURN_MIN = 1024
# A window grows when half of it was taken within this many round trips.
GROW_WITHIN_RTTS = 2.0
GROW_WITHIN_MIN = 0.01
GROW_AT_ONCE_MAX = 1 << 20  # bytes of a window that a stream is given because another one came to it


class Mux:
    """Streams of one session. Frames in, events out; bytes for records when a carrier has room."""

    __slots__ = (
        "_control",
        "_control_bytes",
        "_events",
        "_fresh",
        "_highest_opened",
        "_next_own",
        "_overtaken",
        "_peer_odd",
        "_reached",
        "_ready",
        "budget",
        "goaway_code",
        "now",
        "opened",
        "refused",
        "reset",
        "rtt",
        "session",
        "streams",
        "streams_max",
    )

    def __init__(self, session: Session, events: deque[Event], budget: Budget, streams_max: int, now: float) -> None:
        self.session = session
        self.budget = budget
        self.streams: dict[int, Stream] = {}
        self.streams_max = streams_max
        self.now = now  # the time of the last call into the core
        self.rtt = 0.0  # round trip in seconds, 0 while unknown
        self.opened = 0
        self.refused = 0
        self.reset = 0
        self.goaway_code: int | None = None  # what we sent
        self._events = events
        self._next_own = 1 if session.initiator else 2
        self._peer_odd = 0 if session.initiator else 1
        self._highest_opened = 0
        self._control: list[bytes] = []  # frames of stream 0, and RESETs: always first
        self._control_bytes = 0
        self._ready: list[Stream] = []  # few: at most as many as there are streams
        self._fresh: list[Stream] = []  # those with little to say: before the others
        self._overtaken = 0  # bytes of such since one of the others had its turn
        self._reached = 0  # the largest window that one of these streams has grown to

    # --- sending --------------------------------------------------------------------------------------------

    def open(self, source: tuple[str, int] | None) -> Stream:
        """ST1: a new stream of ours; its OPEN goes out with the next record. The caller has had its credit promised."""
        number = self._next_own
        self._next_own += 2
        stream = Stream(self, number, frames.encode(Frame.OPEN, number, frames.encode_open(source)))
        self.streams[number] = stream
        self.opened += 1
        stream.listed = True
        self._fresh.append(stream)  # all OPENs in one queue: their numbers rise
        return stream

    @property
    def numbers_left(self) -> bool:
        """ST1: whether there is a number for another stream of ours."""
        return self._next_own <= _NUMBER_MAX

    def send_control(self, frame: bytes) -> None:
        """Queue a frame that goes before all stream data. RC9: a peer that makes them pile up loses the session."""
        self._control.append(frame)
        self._control_bytes += len(frame)
        if self._control_bytes > c.CONTROL_QUEUE_MAX:
            self.session.fail(ProtocolError("more than 1 MiB of control frames wait", "limit"), self.now)

    def send_reset(self, stream: Stream, code: int, *, unannounced: bool) -> None:
        """ST6: RESET for a stream of the table; one whose OPEN never left needs no word."""
        self._forget(stream)
        if not unannounced:
            self.send_control(frames.encode_reset(stream.id, code))

    def send_goaway(self, code: int) -> None:
        """GA1: take no new streams (but those in flight, when superseded)."""
        self.goaway_code = code
        self.send_control(frames.encode_goaway(code, self._highest_opened))

    def mark_ready(self, stream: Stream) -> None:
        """A stream may have something to send: give it a turn, sooner where that is little while others wait.

        Of those no more go ahead than a quantum for each turn of the others, so that these are never forgotten.
        """
        if stream.listed:
            return
        stream.listed = True
        little = stream.queued + c.FRAME_HEADER_LEN
        if self._ready and little <= TURN_MIN and self._overtaken < c.STREAM_QUANTUM:
            self._overtaken += little
            self._fresh.append(stream)
        else:
            self._ready.append(stream)

    @property
    def has_output(self) -> bool:
        """Whether `next_record` has something, window aside."""
        return bool(self._control or self._fresh or self._ready)

    def next_record(self, room: int) -> bytes | None:
        """ST8: the plaintext of one DATA record, type byte first: as many whole frames as are ready and fit.

        Frames of stream 0 first, then streams that have little to say, then the others in turn, a quantum each, so that
        a large mail never stands before another session's reply. A stream that waits alone has the rest of the record,
        up to `room` bytes: nobody is held up by that.
        """
        parts: list[bytes | memoryview] = [_DATA_TYPE]
        size = 0
        control = self._control
        if control:
            for frame in control:
                if size + len(frame) > c.RECORD_DATA_MAX:
                    break
                size += len(frame)
                parts.append(frame)
            del control[: len(parts) - 1]
            self._control_bytes -= size
        ready, fresh = self._ready, self._fresh
        if not control:
            while (fresh or ready) and room - size >= TURN_MIN:
                stream = fresh.pop(0) if fresh else ready.pop(0)
                stream.listed = False
                if stream.closed:
                    continue
                quantum = c.STREAM_QUANTUM if ready or fresh else room
                left = room - size
                size += stream.emit_whole(parts, min(quantum, left)) or self._turn(stream, parts, left, quantum)
            if not ready:
                self._overtaken = 0
        return b"".join(parts) if size else None

    def _turn(self, stream: Stream, parts: list[bytes | memoryview], room: int, quantum: int) -> int:
        size = stream.emit(parts, room, quantum)
        if stream.closed:
            self._forget(stream)
        elif stream.ready:
            stream.listed = True
            self._ready.append(stream)
            self._overtaken = 0
        return size

    def writable(self, stream: Stream) -> None:
        """The shell may read the stream's local socket again."""
        self._events.append(StreamWritable(stream))

    def grown_window(self, window: int, granted_at: float) -> int:
        """ST11: the receive window of a stream that keeps up: doubled, while there is memory.

        Or at once what a stream of this session came to before, up to `GROW_AT_ONCE_MAX`: else each large mail would
        pay the round trips again that the first one took to fill the way.
        """
        self.session.measure(self.now)
        fast = self.now - granted_at <= max(GROW_WITHIN_RTTS * self.rtt, GROW_WITHIN_MIN)
        if not fast or window >= c.CREDIT_MAX:
            return window
        doubled = min(window * 2, c.CREDIT_MAX)
        for grown in (max(doubled, self._reached), doubled):
            if self.budget.promise_more(grown - window):
                self._reached = min(max(grown, self._reached), GROW_AT_ONCE_MAX)
                return grown
        return window

    # --- receiving ------------------------------------------------------------------------------------------

    def receive(self, kind: int, number: int, payload: frames.Payload) -> None:
        """A frame of a stream. Raises `ProtocolError`, which ends the session."""
        if kind == frames.OPEN:
            self._open_received(number, bytes(payload))
            return
        stream = self.streams.get(number)
        if stream is None:
            self._check_was_opened(number)
            return
        if kind == frames.DATA:
            stream.data_received(len(payload))
            if payload:
                self._events.append(StreamData(stream, payload))
        elif kind == frames.CREDIT:
            stream.credit_received(frames.decode_u32(bytes(payload)))
        elif kind == frames.END:
            stream.end_received()
            self._events.append(StreamEnd(stream))
            if stream.closed:
                self._forget(stream)
        elif kind == frames.RESET:
            stream.reset_received()
            self.reset += 1
            self._events.append(StreamReset(stream, frames.decode_u16(bytes(payload))))
            self._forget(stream)

    def check_last(self, last: int) -> None:
        """GA1: the last stream that a GOAWAY names is one of ours, or 0."""
        if last and (last % 2 == self._peer_odd or last >= self._next_own):
            raise ProtocolError(f"GOAWAY with last stream {last}")

    def _check_was_opened(self, number: int) -> None:
        """ST7: late frames of a stream that is over are ignored; of one that never was they end the session."""
        own = number % 2 != self._peer_odd
        if (own and number >= self._next_own) or (not own and number > self._highest_opened):
            raise ProtocolError(f"frame for stream {number}, which was never opened")

    def _open_received(self, number: int, payload: bytes) -> None:
        """ST1: the peer opens a stream; numbers of its own parity, rising."""
        if number % 2 != self._peer_odd or number <= self._highest_opened:
            raise ProtocolError(f"OPEN of stream {number}")
        service, source = frames.decode_open(payload)
        code = self._refusal(service)
        self._highest_opened = number
        if code is not None:
            self.refused += 1
            self.send_control(frames.encode_reset(number, code))
            return
        stream = Stream(self, number, None)
        self.streams[number] = stream
        self.opened += 1
        self._events.append(StreamOpened(stream, service, source))

    def _refusal(self, service: str) -> int | None:
        if self.goaway_code is not None and self.goaway_code != Code.SUPERSEDED:
            return self.goaway_code
        if service != "smtp":
            return Code.REFUSED
        if len(self.streams) >= self.streams_max or self.budget.full or not self.budget.promise(c.INITIAL_CREDIT):
            return Code.LIMIT
        return None

    # --- ending ---------------------------------------------------------------------------------------------

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        stream.discard()

    def reset_all(self, code: int) -> None:
        """The session is over: every stream with it."""
        for stream in list(self.streams.values()):
            stream.state = State.CLOSED
            self.reset += 1
            self._events.append(StreamReset(stream, code))
            self._forget(stream)
        self._control.clear()
        self._control_bytes = 0
        self._ready.clear()
        self._fresh.clear()
