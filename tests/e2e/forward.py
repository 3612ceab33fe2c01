"""TCP forwarders of our own: a plain carrier as the control of every search, and a wire that can be stopped and cut.

They run on one event loop in a thread of the test process; their sockets belong to the hubs' namespaces.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, TypeVar

from tests.e2e.namespaces import Namespace

T = TypeVar("T")
Address = tuple[str, int]

_End = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_READ = 64 * 1024
_PROXY_V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY_COMMAND_V2 = 0x21
_PROXY_TCP4 = 0x11


def proxy_v2(source: Address, destination: Address) -> bytes:
    """The PROXY v2 header for a TCP connection over IPv4 (HAProxy's proxy-protocol.txt, 2.2)."""
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    body = addresses + struct.pack("!HH", source[1], destination[1])
    return _PROXY_V2_SIGNATURE + struct.pack("!BBH", _PROXY_COMMAND_V2, _PROXY_TCP4, len(body)) + body


class LoopThread:
    """An event loop in a thread; leaving ends everything that runs on it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._work: list[Future[Any]] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="forwarders", daemon=True)

    def __enter__(self) -> LoopThread:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for work in self._work:
            work.cancel()
        self.run(self._ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._work = [*(other for other in self._work if not other.done()), future]
        return future

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 20.0) -> T:
        return self.submit(work).result(timeout)

    async def _ended(self) -> None:
        """Until what was cancelled is over, and what it began: each task is cancelled once, and closes in peace."""
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*others, return_exceptions=True)
        # Transports close in the next turns of the loop.
        await asyncio.sleep(0)


class Direction(Enum):
    OUTWARD = "from the side that dialled"
    INWARD = "towards the side that dialled"


@dataclass(slots=True)
class _Cut:
    direction: Direction
    remaining: int
    before: Callable[[], None]


class Forwarder:
    """Accepts at one address and connects to another for each connection; `preface` is said first to the target."""

    def __init__(
        self,
        loop: LoopThread,
        *,
        inside: Namespace,
        listen: Address,
        target: Address,
        preface: Callable[[Address, Address], bytes] | None = None,
    ) -> None:
        self._inside = inside
        self._target = target
        self._preface = preface
        self._listener = inside.listen(*listen)
        self._listener.setblocking(False)
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._cut: _Cut | None = None
        self._loop = loop
        self.cuts = 0
        self.connections = 0
        self.serving = loop.submit(self._serve())

    # Called from the test's thread.

    def freeze(self) -> None:
        """Forward nothing more until `cut_after` or `thaw`; connections stay."""
        self._loop.run(self._set_flowing(False))

    def thaw(self) -> None:
        self._loop.run(self._set_flowing(True))

    def cut_after(self, direction: Direction, octets: int, before: Callable[[], None]) -> None:
        """Forward exactly `octets` more in `direction`, call `before`, then reset every connection on both sides.

        Thaws. `cuts` says when it has happened; until then nothing behind that octet is forwarded.
        """
        self._loop.run(self._arm(_Cut(direction, octets, before)))

    # On the loop.

    async def _set_flowing(self, flowing: bool) -> None:
        (self._flowing.set if flowing else self._flowing.clear)()

    async def _arm(self, cut: _Cut) -> None:
        self._cut = cut
        self._flowing.set()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        with self._listener:
            async with asyncio.TaskGroup() as connections:
                # Not `sock_accept`: cancelled in the turn in which it has accepted, it gives the socket to nobody.
                loop.add_reader(self._listener, self._accept, connections)
                try:
                    await asyncio.Event().wait()
                finally:
                    loop.remove_reader(self._listener)

    def _accept(self, connections: asyncio.TaskGroup) -> None:
        accepted, _ = self._listener.accept()
        accepted.setblocking(False)
        task = connections.create_task(self._relay(accepted))
        # A task that is cancelled before its first step never gets to close what it was given.
        task.add_done_callback(lambda _: accepted.close())

    async def _relay(self, accepted: socket.socket) -> None:
        with accepted, self._inside.open_socket() as outward:
            outward.setblocking(False)
            try:
                preface = (
                    self._preface(accepted.getpeername()[:2], accepted.getsockname()[:2]) if self._preface else b""
                )
                await asyncio.get_running_loop().sock_connect(outward, self._target)
            except OSError:  # the target is away, or who connected has left with a reset and has no address any more
                _linger_zero(accepted)
                return
            near = await asyncio.open_connection(sock=accepted)
            try:
                far = await asyncio.open_connection(sock=outward)
            except asyncio.CancelledError:
                near[1].close()
                raise
            far[1].write(preface)
            await self._splice(near, far)

    async def _splice(self, near: _End, far: _End) -> None:
        """Until both directions have ended, or one side was reset: then so is the other."""
        ends = {near[1], far[1]}
        self.connections += 1
        self._writers |= ends
        try:
            await asyncio.gather(
                self._pump(near[0], far[1], Direction.OUTWARD), self._pump(far[0], near[1], Direction.INWARD)
            )
        except (OSError, asyncio.CancelledError):
            for writer in ends:
                _reset(writer)
        finally:
            self._writers -= ends
            for writer in ends:
                writer.close()
            # What was written last is still on its way: the sockets are closed only after it.
            await asyncio.gather(*(writer.wait_closed() for writer in ends), return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        while data := await reader.read(_READ):
            await self._flowing.wait()
            cut = self._cut
            if cut is None or cut.direction is not direction:
                writer.write(data)
                await writer.drain()
            elif len(data) < cut.remaining:
                cut.remaining -= len(data)
                writer.write(data)
                await writer.drain()
            else:
                writer.write(data[: cut.remaining])
                self._cut = None
                await writer.drain()
                cut.before()
                self._reset_all()
                self.cuts += 1
                raise ConnectionResetError("cut")
        writer.write_eof()

    def _reset_all(self) -> None:
        for writer in self._writers:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        _linger_zero(raw)
    writer.transport.abort()


def _linger_zero(raw: Any) -> None:
    """A close sends RST, not FIN."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
