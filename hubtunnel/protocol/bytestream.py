"""The DATA byte stream under the frames: offsets that outlive carriers (PROTOCOL.md 7.3)."""

from __future__ import annotations

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c


class Budget:
    """Memory of the whole hub: bytes in all queues and resend buffers together.

    Shared by every link. Half used: windows stop growing and shrink to their tight value; fully used: no new streams.

    `promised` is the credit that peers hold, used or not: what may have to be kept should all local servers stand still
    at once. New streams count up to the whole limit, windows grow up to half of it.
    """

    __slots__ = ("limit", "peak", "promised", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.peak = 0
        self.promised = 0

    def promise(self, n: int) -> bool:
        """ST4: a stream begins, whose peer may send `n` bytes. False: there is no memory for that."""
        if self.promised + n > self.limit:
            return False
        self.promised += n
        return True

    def promise_more(self, n: int) -> bool:
        """ST11: a stream's window grows by `n` bytes. False: it may not."""
        if self.tight or (self.promised + n) * 2 > self.limit:
            return False
        self.promised += n
        return True

    def take_back(self, n: int) -> None:
        """A stream is over: its peer can send no more of `n` bytes."""
        self.promised -= n

    def take(self, n: int) -> None:
        """`n` bytes more are held."""
        self.used += n
        if self.used > self.peak:
            self.peak = self.used

    def give(self, n: int) -> None:
        """`n` bytes were let go."""
        self.used -= n

    @property
    def tight(self) -> bool:
        """Whether half of the limit is used: nothing grows any more."""
        return self.used * 2 >= self.limit

    @property
    def full(self) -> bool:
        """Whether the limit is reached: nothing new is taken on."""
        return self.used >= self.limit


class SendBuffer:
    """What was sent and is not acknowledged, in the records in which it was first sent.

    A chunk is a record's plaintext: a type byte, then stream bytes. `base` is the first byte not acknowledged, `next`
    the next one to be sent on this carrier, `end` the number of bytes ever sent.
    """

    __slots__ = ("_again", "_budget", "_kept", "base", "end", "next")

    def __init__(self, budget: Budget) -> None:
        self.base = 0
        self.next = 0
        self.end = 0
        self._budget = budget
        # Lists: an empty deque takes ten times as much, and most sessions are idle.
        self._kept: list[tuple[int, bytes]] = []  # (offset behind the chunk, chunk)
        self._again: list[tuple[int, bytes]] = []  # the last one first

    @property
    def pending(self) -> bool:
        """Whether something is to be sent again before anything new (BS6)."""
        return bool(self._again)

    def keep(self, chunk: bytes) -> None:
        """BS5: a new record's plaintext goes out; keep it until it is acknowledged."""
        self.end += len(chunk) - 1
        self.next = self.end
        self._kept.append((self.end, chunk))
        self._budget.take(len(chunk))

    def acknowledge(self, offset: int) -> None:
        """BS4: the peer took everything below `offset`. Raises `ProtocolError` for what cannot be."""
        if not self.base <= offset <= self.next:
            raise ProtocolError(f"{offset} bytes acknowledged, of {self.base} to {self.next} that could be")
        self.base = offset
        gone = size = 0
        for end, chunk in self._kept:
            if end > offset:
                break
            gone += 1
            size += len(chunk)
        if gone:
            del self._kept[:gone]
            self._budget.give(size)

    def rewind(self, offset: int) -> None:
        """BS6: on a new carrier, send again from `offset`, which the peer has named; nothing below is needed."""
        self.next = self.end  # so that what an earlier carrier had sent counts as sent
        self.acknowledge(offset)
        self.next = self.base
        self._again = self._kept[::-1]

    def again(self) -> bytes | None:
        """The next record to be sent again."""
        if not self._again:
            return None
        end, chunk = self._again.pop()
        start = end - (len(chunk) - 1)
        if start < self.next:  # the peer has a part of it
            chunk = chunk[:1] + chunk[1 + self.next - start :]
        self.next = end
        return chunk

    def clear(self) -> None:
        """Let everything go: the session is over."""
        self._budget.give(sum(len(chunk) for _, chunk in self._kept))
        self._kept.clear()
        self._again.clear()


class ReceiveCount:
    """BS3: how much of the peer's stream was taken off carriers, and when that is to be said."""

    __slots__ = ("_unacked", "ack_at", "due", "offset")

    def __init__(self) -> None:
        self.offset = 0
        self.due = False
        self.ack_at: float | None = None
        self._unacked = 0

    def took(self, n: int, now: float) -> None:
        """`n` bytes were taken off the carrier."""
        self.offset += n
        self._unacked += n
        if self._unacked >= c.ACK_BYTES:
            self.due = True
        elif self.ack_at is None and n:
            self.ack_at = now + c.ACK_DELAY

    @property
    def unsaid(self) -> bool:
        """Whether the peer does not know yet how far we are."""
        return self._unacked > 0

    def said(self) -> int:
        """An ACK (or RESUME, RESUMED) goes out now: the offset that it carries."""
        self.due = False
        self.ack_at = None
        self._unacked = 0
        return self.offset

    def handle_deadline(self, now: float) -> None:
        """Make an ACK due when its delay is over."""
        if self.ack_at is not None and now >= self.ack_at:
            self.due = True
            self.ack_at = None
