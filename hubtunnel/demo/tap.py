"""A TCP forwarder of our own: it records what crosses it and does harm to it at a byte that the caller chose.

Put between two hubs it is the network that one cannot trust; put before a mail server it is the control, in which the
same search over the same kind of recording has to find what it looks for.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

CHUNK = 256 * 1024
CONNECT_TIMEOUT_S = 5.0


class Harm(enum.Enum):
    """What a fault does."""

    FLIP = "flip"  # one bit of one byte is turned; the connection goes on
    CUT = "cut"  # both connections are reset; what the kernels still held is lost


class Way(enum.Enum):
    """A direction through the tap, seen from whoever dialled it."""

    OUT = "out"
    BACK = "back"


@dataclass(eq=False)
class Fault:
    """Harm that strikes once `after` more bytes went `way` through any passage.

    `struck` is set when it happened; `passage` is then where, and `at` the offset in that passage's direction.
    """

    harm: Harm
    way: Way
    after: int
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    passage: Passage | None = None
    at: int = 0


@dataclass(eq=False)
class Passage:
    """One connection through the tap: how much went each way, where it is recorded, and who ended it."""

    number: int
    count: dict[Way, int] = field(default_factory=lambda: {Way.OUT: 0, Way.BACK: 0})
    files: dict[Way, Path] = field(default_factory=dict)
    ended_by: str = ""  # "dialler", "far end", "cut"; empty while it lasts
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Tap:
    """Forwards connections from `port` on loopback to `upstream`, as an async context manager.

    Everything that is forwarded is recorded in `folder`, a file for each passage and way. What is recorded is what left
    the tap: after a flip, the flipped byte.
    """

    def __init__(self, upstream: tuple[str, int], folder: Path, *, port: int = 0) -> None:
        self.upstream = upstream
        self.port = port
        self.passages: list[Passage] = []
        self._folder = folder
        self._faults: list[Fault] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=CHUNK, backlog=256)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def arm(self, harm: Harm, way: Way, after: int) -> Fault:
        """Order harm after `after` more bytes; the caller waits for `Fault.struck`."""
        fault = Fault(harm, way, after)
        self._faults.append(fault)
        return fault

    def recordings(self) -> list[Path]:
        """All files recorded so far."""
        return [path for passage in self.passages for path in passage.files.values()]

    def total(self, way: Way) -> int:
        """Bytes forwarded `way`, over all passages."""
        return sum(passage.count[way] for passage in self.passages)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._pass(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side, or a cut, ends it."""
        passage = Passage(len(self.passages) + 1)
        self.passages.append(passage)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                far_reader, far_writer = await asyncio.open_connection(*self.upstream, limit=CHUNK)
        except (OSError, TimeoutError):
            passage.ended_by = "far end"
            passage.ended.set()
            writer.transport.abort()
            return
        writers = (writer, far_writer)
        try:
            await asyncio.gather(
                self._pump(passage, Way.OUT, reader, far_writer, writers),
                self._pump(passage, Way.BACK, far_reader, writer, writers),
            )
        finally:
            for each in writers:
                each.transport.abort()
            passage.ended.set()

    async def _pump(
        self,
        passage: Passage,
        way: Way,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        """Forward one way. An end is passed on as it came: a half-close as one, a reset as one."""
        source, sink = ("dialler", "far end") if way is Way.OUT else ("far end", "dialler")
        with self._record(passage, way) as file:
            while True:
                try:
                    data = await reader.read(CHUNK)
                except ConnectionError:
                    return self._broken(passage, source, writers)
                if not data:
                    break
                if writer.is_closing():  # the other way found its end first
                    return self._broken(passage, sink, writers)
                data, cut = self._harmed(passage, way, data)
                file.write(data)
                passage.count[way] += len(data)
                writer.write(data)
                if cut:
                    passage.ended_by = "cut"  # whoever may have half-closed before
                    return self._broken(passage, "cut", writers)
                try:
                    await writer.drain()
                except ConnectionError:
                    return self._broken(passage, sink, writers)
        passage.ended_by = passage.ended_by or source
        if not writer.is_closing():
            try:
                writer.write_eof()
            except OSError:  # reset before we noticed
                return self._broken(passage, sink, writers)
        return None

    def _broken(self, passage: Passage, by: str, writers: tuple[asyncio.StreamWriter, ...]) -> None:
        """Pass on a reset as one: to both sides, so that neither can take it for a clean end."""
        passage.ended_by = passage.ended_by or by
        for writer in writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and not writer.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def _record(self, passage: Passage, way: Way) -> BinaryIO:
        path = self._folder / f"{passage.number:03}-{way.value}.bin"
        passage.files[way] = path
        return path.open("wb", buffering=0)

    def _harmed(self, passage: Passage, way: Way, data: bytes) -> tuple[bytes, bool]:
        """`data` as it leaves the tap, and whether the connections are cut behind it."""
        faults = [fault for fault in self._faults if fault.way is way]
        for fault in sorted((f for f in faults if f.after < len(data)), key=lambda f: f.after):
            at = fault.after
            self._faults.remove(fault)
            faults.remove(fault)
            fault.passage, fault.at = passage, passage.count[way] + at
            fault.struck.set()
            if fault.harm is Harm.CUT:
                for later in faults:
                    later.after -= at
                return data[:at], True
            data = data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :]
        for later in faults:
            later.after -= len(data)
        return data, False
