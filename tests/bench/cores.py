"""Two protocol cores in one process, and one part of them at a time that does nothing: what that part costs.

No sockets and no event loop: what a daemon does with its core for each frame, and CPU time of both ends together. Whole
and without the part take turns; of each the best time is kept, since everything else on the machine only adds to it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from hubtunnel import crypto
from hubtunnel.daemon.link import LOOK_EVERY
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.bytestream import Budget, ReceiveCount, SendBuffer
from hubtunnel.protocol.carrier import Carrier
from hubtunnel.protocol.clock import SessionClock
from hubtunnel.protocol.events import StreamData
from hubtunnel.protocol.link import Link, Settings
from hubtunnel.protocol.session import SEAL_PIECE
from hubtunnel.protocol.streams import Stream
from tests.protocol.support import connected

MEMORY = 1 << 40  # more than anything here takes, for what is kept without an acknowledgement too
BETWEEN_FRAMES = 0.0002  # seconds that pass for the cores with each frame: 5,000 a second, as 700 messages have


# --- parts that do nothing ------------------------------------------------------------------------------------


def _nothing(*_: object) -> None:
    """In the place of a method whose work is left out."""


def _sent(buffer: SendBuffer, chunk: bytes) -> None:
    """Count what was sent, keep nothing."""
    buffer.end += len(chunk) - 1
    buffer.next = buffer.end


def _sent_and_taken(buffer: SendBuffer, chunk: bytes) -> None:
    """As if the peer had taken it at once."""
    buffer.end += len(chunk) - 1
    buffer.next = buffer.base = buffer.end


def _counted(count: ReceiveCount, n: int, _now: float) -> None:
    """Count what was received, never say it."""
    count.offset += n


def _taken(stream: Stream, n: int) -> None:
    """What the local socket took is no longer held; the peer is told nothing."""
    stream.unconsumed -= n
    stream._mux.budget.give(n)


class _InClear:
    """Records that are neither encrypted nor authenticated. For this measurement alone."""

    def __init__(self, key: bytes) -> None:
        pass

    def seal(self, _nonce: bytes, plaintext: bytes, _header: bytes) -> bytes:
        return plaintext + bytes(crypto.TAG_LEN)

    def open(self, _nonce: bytes, sealed: bytes | memoryview, _header: bytes) -> bytes:
        return bytes(sealed[: -crypto.TAG_LEN])


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of the core, and what stands in its place: (owner, name, replacement)."""

    name: str
    text: str
    idle: tuple[tuple[Any, str, object], ...]

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """While it does nothing; in cores that are made and end meanwhile."""
        with ExitStack() as stack:
            for owner, name, replacement in self.idle:
                stack.enter_context(patch.object(owner, name, replacement))
            yield


PIECES = (
    Piece("resend buffer", "records are kept until they are acknowledged", ((SendBuffer, "keep", _sent),)),
    Piece(
        "resend buffer, ACK",
        "and the peer acknowledges them",
        ((SendBuffer, "keep", _sent_and_taken), (ReceiveCount, "took", _counted)),
    ),
    Piece(
        "resend buffer, ACK, offsets",
        "and both ends count: all that a session needs to outlive its carrier",
        ((SendBuffer, "keep", _nothing), (ReceiveCount, "took", _nothing)),
    ),
    Piece(
        "credit",
        "each stream's window, given back and growing",
        ((Stream, "consumed", _taken), (c, "INITIAL_CREDIT", 0x7FFFFFFF)),
    ),
    Piece(
        "memory's bound",
        "what all buffers of the hub hold together",
        ((Budget, "take", _nothing), (Budget, "give", _nothing)),
    ),
    Piece(
        "clock",
        "signs of life, age and size of an epoch",
        tuple((SessionClock, name, _nothing) for name in ("on_record", "on_data", "on_traffic")),
    ),
    Piece("key steps", "another key every 1,024 records", ((c, "KEY_STEP_RECORDS", 1 << 62),)),
    Piece("AEAD", "encryption and authentication: records in clear instead", ((crypto, "Aead", _InClear),)),
)


# --- what is carried ------------------------------------------------------------------------------------------


@dataclass(eq=False)
class End:
    """One core with its carrier and its ends of the streams."""

    link: Link
    carrier: Carrier
    streams: list[Stream]
    octets: int = 0
    """That came out of it."""
    records: int = 0
    """That it sent."""

    def turn(self, other: End, now: float) -> bool:
        """A daemon's turn with its core, its local sockets taking all at once. True: it said something."""
        link = self.link
        while (event := link.next_event()) is not None:
            if type(event) is StreamData:
                self.octets += len(event.data)
                event.stream.consumed(len(event.data))
        while (job := link.next_job()) is not None:
            link.job_done(job, job.run(), now)
        said = False
        while data := link.data_to_send(self.carrier, now):
            said = True
            self.records += 1
            other.link.receive_data(other.carrier, bytes(data), now)  # a copy, as through a socket
            if len(data) < SEAL_PIECE:
                break
        return said


class Cores:
    """Two ends whose session is up, with streams open between them."""

    def __init__(self, streams: int) -> None:
        pair, wire = connected(Settings(version="bench"))
        for hub in (pair.a, pair.b):
            hub.budget.limit = MEMORY
        ours = [pair.a.link.open_stream(None, pair.now) for _ in range(streams)]
        pair.settle()
        theirs = [pair.b.streams[stream.id] for stream in ours]
        self.near = End(pair.a.link, wire.ends[pair.a.name], ours)
        self.far = End(pair.b.link, wire.ends[pair.b.name], theirs)
        self._now = pair.now
        self._look_at = pair.now

    @property
    def came_out(self) -> int:
        """Bytes, at both ends together."""
        return self.near.octets + self.far.octets

    def carry(self, stream: int, data: bytes, *, back: bool = False) -> None:
        """Bytes that a local socket gave to the near end (or the far one), until they came out at the other."""
        self._now = now = self._now + BETWEEN_FRAMES
        active, other = (self.far, self.near) if back else (self.near, self.far)
        active.streams[stream].write(data)
        while active.turn(other, now):
            active, other = other, active
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            for end in (self.near, self.far):
                end.link.handle_deadline(now)


@dataclass(frozen=True, slots=True)
class Carried:
    """What is carried, over how many streams in turn, how often in each direction; `unit` in bytes or frames."""

    name: str
    text: str
    streams: int
    data: bytes
    times: int
    both_ways: bool
    per: float
    """Microseconds are given for so many bytes; 0: for each frame."""

    def measure(self, share: float) -> float:
        """Microseconds of CPU, of both ends together."""
        cores = Cores(self.streams)
        times = 2 * max(1, round(self.times * share / 2))
        self._carry(cores, times // 2)  # the interpreter looks at code anew after a part was put in or out
        gc.collect()
        gc.disable()
        try:
            began = time.process_time()
            self._carry(cores, times)
            seconds = time.process_time() - began
        finally:
            gc.enable()
        frames = times * (2 if self.both_ways else 1)
        if cores.came_out != (frames + frames // 2) * len(self.data):
            raise AssertionError(f"of {frames} frames not all came out")
        return seconds * 1e6 / (frames * len(self.data) / self.per if self.per else frames)

    def _carry(self, cores: Cores, times: int) -> None:
        for number in range(times):
            cores.carry(number % self.streams, self.data)
            if self.both_ways:
                cores.carry(number % self.streams, self.data, back=True)


FRAMES = Carried("frame", "frames of 60 bytes over 20 streams, one a record, both ways", 20, b"x" * 60, 300, True, 0)
BULK = Carried("megabyte", "pieces of 64 KiB over one stream", 1, bytes(64 * 1024), 32, False, 1e6)


def compare(carried: Carried, piece: Piece, repetitions: int, share: float) -> tuple[float, float]:
    """Best of whole, best without the piece, in turns."""
    whole, without = [], []
    for _ in range(repetitions):
        whole.append(carried.measure(share))
        with piece.left_out():
            without.append(carried.measure(share))
    return min(whole), min(without)


def ratchet_step(repetitions: int) -> float:
    """Microseconds of CPU that a step of the ratchet takes, both ends together, from asking for it to its end."""
    best = float("inf")
    for _ in range(repetitions):
        pair, _ = connected(Settings(version="bench"))
        pair.now += pair.a.link.settings.ratchet_interval_refused
        began = time.process_time()
        pair.a.link.rekey(pair.now)
        pair.a.link.handle_deadline(pair.now)
        pair.settle()
        best = min(best, time.process_time() - began)
        if any(hub.link.sessions[0].index != 1 for hub in (pair.a, pair.b)):
            raise AssertionError("no step was taken")
    return best * 1e6
