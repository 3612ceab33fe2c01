"""What stands between two hubs in tests: a TCP relay that can flip, cut, freeze and reorder what passes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

# (direction "there" or "back", number of the connection, offset of the bytes in it, the bytes) to what passes instead
Mangle = Callable[[str, int, int, bytes], bytes]


class Wire:
    """Relays every connection made to `address` to `target`; `mangle` sees all bytes."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.mangle: Mangle = lambda direction, number, offset, data: data
        self.connections = 0
        self.bytes = 0
        self.frozen = {"there": asyncio.Event(), "back": asyncio.Event()}
        for event in self.frozen.values():
            event.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    def cut(self) -> None:
        """RST on both sides of every connection."""
        for writer in tuple(self._writers):
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()
            return
        ours = {writer, far_writer}
        self._writers |= ours
        try:
            await asyncio.gather(
                self._pump("there", number, reader, far_writer), self._pump("back", number, far_reader, writer)
            )
        finally:
            self._writers -= ours
            for each in ours:
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    async def _pump(
        self, direction: str, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        offset = 0
        with contextlib.suppress(OSError, RuntimeError):  # uvloop's word for a transport that is closed
            while data := await reader.read(1 << 16):
                await self.frozen[direction].wait()
                self.bytes += len(data)
                writer.write(self.mangle(direction, number, offset, data))
                offset += len(data)
                await writer.drain()
            writer.write_eof()
