"""Streams: one relayed TCP conversation each, with half-close, reset and credit (PROTOCOL.md 8.4, 8.5).

             END sent                 END received
OPEN ───────────────► LOCAL_ENDED ───────────────► CLOSED
  │                                                  ▲
  └── END received ─► REMOTE_ENDED ── END sent ──────┤
any ── RESET sent or received ───────────────────────┘
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames
from hubtunnel.protocol.constants import Code, Frame

if TYPE_CHECKING:
    from hubtunnel.protocol.mux import Mux
    from hubtunnel.protocol.session import Session


class State(StrEnum):
    """What may still come and go on a stream."""

    OPEN = "open"
    LOCAL_ENDED = "local_ended"
    REMOTE_ENDED = "remote_ended"
    CLOSED = "closed"


class Input(StrEnum):
    """What can happen to a stream."""

    DATA_RECEIVED = "data_received"
    END_RECEIVED = "end_received"
    RESET_RECEIVED = "reset_received"
    WRITE = "write"
    END = "end"
    RESET = "reset"


# The table of PROTOCOL.md 8.4: a pair that is missing is the peer's protocol error, or ours where the input is local.
TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.OPEN, Input.DATA_RECEIVED): State.OPEN,
    (State.OPEN, Input.END_RECEIVED): State.REMOTE_ENDED,
    (State.OPEN, Input.RESET_RECEIVED): State.CLOSED,
    (State.OPEN, Input.WRITE): State.OPEN,
    (State.OPEN, Input.END): State.LOCAL_ENDED,
    (State.OPEN, Input.RESET): State.CLOSED,
    (State.LOCAL_ENDED, Input.DATA_RECEIVED): State.LOCAL_ENDED,
    (State.LOCAL_ENDED, Input.END_RECEIVED): State.CLOSED,
    (State.LOCAL_ENDED, Input.RESET_RECEIVED): State.CLOSED,
    (State.LOCAL_ENDED, Input.RESET): State.CLOSED,
    (State.REMOTE_ENDED, Input.RESET_RECEIVED): State.CLOSED,
    (State.REMOTE_ENDED, Input.WRITE): State.REMOTE_ENDED,
    (State.REMOTE_ENDED, Input.END): State.CLOSED,
    (State.REMOTE_ENDED, Input.RESET): State.CLOSED,
}
# The same for mail that flows: looked at for every frame, and the name of a module is found in a fraction of the time
# that a member of an enumeration takes.
_CLOSED = State.CLOSED
_TAKES_NO_CREDIT = (State.CLOSED, State.REMOTE_ENDED)
_TAKES_DATA = tuple(state for state in State if TRANSITIONS.get((state, Input.DATA_RECEIVED)) is state)
_TAKES_WRITE = tuple(state for state in State if TRANSITIONS.get((state, Input.WRITE)) is state)


class Stream:
    """One stream. The shell writes, ends, resets and gives credit back; everything else comes as events.

    Local calls on a stream that is over do nothing: the shell need not know whose word came last.
    """

    __slots__ = (
        "_chunks",
        "_consumed",
        "_end_queued",
        "_granted_at",
        "_mux",
        "_opening",
        "_reading_paused",
        "_window",
        "app",
        "credit_due",
        "id",
        "listed",
        "queued",
        "receive_credit",
        "send_credit",
        "state",
        "unconsumed",
    )

    def __init__(self, mux: Mux, number: int, opening: bytes | None) -> None:
        self.id = number
        self.app: object = None
        self.state = State.OPEN
        self.listed = False  # whether the mux has it among those that wait for a turn
        self.queued = 0  # bytes waiting for their turn
        self.send_credit = c.INITIAL_CREDIT  # what the peer still allows us
        self.receive_credit = c.INITIAL_CREDIT  # what we still allow the peer
        self.unconsumed = 0  # bytes given to the shell that its socket has not taken
        self.credit_due = 0  # credit to be announced
        self._mux = mux
        self._opening = opening  # the OPEN frame, until it is sent
        self._chunks: deque[bytes | memoryview] = deque()
        self._end_queued = False
        self._reading_paused = False
        self._window = c.INITIAL_CREDIT
        self._consumed = 0
        self._granted_at = mux.now

    @property
    def session(self) -> Session:
        """The session that this stream belongs to now."""
        return self._mux.session

    @property
    def closed(self) -> bool:
        """Whether the stream is over in both directions."""
        return self.state is _CLOSED

    def _step(self, event: Input) -> None:
        try:
            self.state = TRANSITIONS[self.state, event]
        except KeyError:
            raise ProtocolError(f"{event.value} on a stream that is {self.state.value}") from None

    # --- what the shell does --------------------------------------------------------------------------------

    def write(self, data: bytes) -> bool:
        """Queue bytes for the peer. False: read no more from the local socket until `StreamWritable`."""
        if self._end_queued or self.state not in _TAKES_WRITE:
            return True
        if data:
            self._chunks.append(data)
            self.queued += len(data)
            self._mux.budget.take(len(data))
            self._mux.mark_ready(self)
        if self.queued >= c.STREAM_SEND_HIGH:
            self._reading_paused = True
        return not self._reading_paused

    def end(self) -> None:
        """ST5: nothing more comes from the local socket; END goes out behind what was written."""
        if self._end_queued or (self.state, Input.END) not in TRANSITIONS:
            return
        self._end_queued = True
        self._mux.mark_ready(self)

    def reset(self, code: int = Code.BROKEN) -> None:
        """ST6: end both directions. What was queued is discarded: the peer's MTA must not take half for a whole."""
        if self.closed:
            return
        self._step(Input.RESET)
        self._mux.send_reset(self, code, unannounced=self._opening is not None)

    def consumed(self, n: int) -> None:
        """ST11: the local socket took `n` bytes; give credit back, half a window at a time."""
        n = min(n, self.unconsumed)  # nothing is left of it once the stream is over
        self.unconsumed -= n
        self._mux.budget.give(n)
        if self.state in _TAKES_NO_CREDIT:
            return
        self._consumed += n
        if self._consumed * 2 < self._window:
            return
        grant, self._consumed = self._consumed, 0
        grown = self._mux.grown_window(self._window, self._granted_at)
        grant += grown - self._window
        self._window = grown
        self._granted_at = self._mux.now
        self.receive_credit += grant
        self.credit_due += grant
        self._mux.mark_ready(self)

    # --- what the peer does ---------------------------------------------------------------------------------

    def data_received(self, n: int) -> None:
        """ST9: payload bytes came; within credit, or the session ends."""
        if self.state not in _TAKES_DATA:
            self._step(Input.DATA_RECEIVED)  # which raises
        if n > self.receive_credit:
            raise ProtocolError(f"stream {self.id}: {n} bytes with a credit of {self.receive_credit}")
        self.receive_credit -= n
        self.unconsumed += n
        self._mux.budget.take(n)

    def end_received(self) -> None:
        """ST5: the peer's half-close."""
        self._step(Input.END_RECEIVED)
        self.credit_due = 0

    def reset_received(self) -> None:
        """ST6: the peer's reset."""
        self._step(Input.RESET_RECEIVED)

    def credit_received(self, n: int) -> None:
        """ST10: more may be sent."""
        if self.state is State.LOCAL_ENDED:
            return
        if self.send_credit + n > 0x7FFFFFFF:
            raise ProtocolError(f"stream {self.id}: credit beyond 2^31-1")
        self.send_credit += n
        if self._chunks:
            self._mux.mark_ready(self)

    # --- what the mux takes ---------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether something could be sent now."""
        return bool(
            self._opening is not None
            or self.credit_due
            or (self._chunks and self.send_credit > 0)
            or (self._end_queued and not self._chunks)
        )

    def emit_whole(self, parts: list[bytes | memoryview], room: int) -> int:
        """What most turns of `emit` are, in half its time: one read of the local socket waits, nothing else, and fits.

        Nothing is done, and 0 is returned, where it is not so.
        """
        take = self.queued
        if (
            len(self._chunks) != 1
            or take > self.send_credit
            or take > room - c.FRAME_HEADER_LEN
            or self.credit_due
            or self._opening is not None
            or self._end_queued
            or self._reading_paused
        ):
            return 0
        parts.append(frames.header(frames.DATA, self.id, take))
        parts.append(self._chunks.pop())
        self.queued = 0
        self.send_credit -= take
        self._mux.budget.give(take)
        return take + c.FRAME_HEADER_LEN

    def emit(self, parts: list[bytes | memoryview], room: int, quantum: int) -> int:
        """One turn: add frames of this stream to `parts`, at most `quantum` bytes of data and at most `room` bytes.

        `room` must be at least `mux.TURN_MIN`. Returns the bytes added.
        """
        size = 0
        if self._opening is not None:
            parts.append(self._opening)
            size += len(self._opening)
            self._opening = None
        if self.credit_due:
            parts.append(frames.encode_credit(self.id, self.credit_due))
            size += c.FRAME_HEADER_LEN + 4
            self.credit_due = 0
        if self._chunks and self.send_credit > 0:
            size += self._emit_data(parts, min(quantum, room - size - c.FRAME_HEADER_LEN))
        if self._end_queued and not self._chunks and room - size >= c.FRAME_HEADER_LEN:
            parts.append(frames.encode(Frame.END, self.id))
            size += c.FRAME_HEADER_LEN
            self._end_queued = False
            self._step(Input.END)
        return size

    def _emit_data(self, parts: list[bytes | memoryview], most: int) -> int:
        take = min(self.queued, self.send_credit, most)
        if take <= 0:
            return 0
        parts.append(frames.header(frames.DATA, self.id, take))
        chunks = self._chunks
        left = take
        while left:
            chunk = chunks[0]
            if len(chunk) <= left:
                parts.append(chunk)
                left -= len(chunk)
                chunks.popleft()
            else:
                view = memoryview(chunk)
                parts.append(view[:left])
                chunks[0] = view[left:]
                left = 0
        self.queued -= take
        self.send_credit -= take
        self._mux.budget.give(take)
        if self._reading_paused and self.queued <= c.STREAM_SEND_LOW:
            self._reading_paused = False
            self._mux.writable(self)
        return take + c.FRAME_HEADER_LEN

    def discard(self) -> None:
        """Let all buffers of a stream that is over go."""
        self._mux.budget.give(self.queued + self.unconsumed)
        self._mux.budget.take_back(self._window)
        self._window = 0
        self._chunks.clear()
        self.queued = 0
        self.unconsumed = 0
        self.credit_due = 0
        self._opening = None
        self._end_queued = False
