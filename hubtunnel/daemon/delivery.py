"""Handing a peer's mail to the local MTA: connect, header first, then splice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hubtunnel.daemon import reasons, sockets
from hubtunnel.daemon.relay import Relay
from hubtunnel.protocol.constants import Code

if TYPE_CHECKING:
    from hubtunnel.daemon.local import LocalSide
    from hubtunnel.daemon.mtawatch import MtaWatch
    from hubtunnel.daemon.target import Target
    from hubtunnel.protocol.streams import Stream

CONNECT_TIMEOUT = 10.0


class DeliveredRelay(Relay):
    """The peer opened a stream: connect to the local MTA, then splice. Bytes that come before wait, within credit."""

    ours = False

    __slots__ = ("_header", "_task", "_waiting")

    def __init__(self, side: LocalSide, stream: Stream, header: bytes, now: float) -> None:
        super().__init__(side, now)
        self.stream = stream
        self.stream_id = stream.id
        self.session_id = stream.session.sid
        self._header = header
        self._waiting: list[bytes | memoryview] = []
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop, target: Target, watch: MtaWatch | None) -> None:
        """Connect; the outcome is a splice or a reset with `mta_unreachable`, or `limit` where it is ours."""
        self._task = loop.create_task(self._connect(loop, target, watch))

    async def _connect(self, loop: asyncio.AbstractEventLoop, target: Target, watch: MtaWatch | None) -> None:
        if watch is not None and not watch.passed and (failure := await watch.verdict()) is not None:
            self._fail(failure, Code.MTA_UNREACHABLE)
            return
        to = target.listener
        local = (to.source, 0) if to.source else None
        try:
            await loop.create_connection(lambda: sockets.as_protocol(self), to.host, to.port, local_addr=local)
        except OSError as exc:
            if exc.errno in sockets.EXHAUSTED:
                self.side.no_descriptor()
                self._fail(reasons.system_text(exc), Code.LIMIT)
            else:
                self._fail(reasons.system_text(exc), Code.MTA_UNREACHABLE)
                if watch is not None:
                    watch.unreachable(reasons.system_text(exc))
        else:
            if self.side.short_of_descriptors(self):
                self.side.no_descriptor()
                self._fail("too few descriptors are left (LimitNOFILE=)", Code.LIMIT)
            elif not target.loopback:
                sockets.tune_local(self.transport)

    def _fail(self, text: str, code: Code) -> None:
        self._task = None
        self.side.mta_unreachable(text)
        self._end(code.word, code)

    @property
    def connecting(self) -> bool:
        """Whether the local MTA has not taken the connection yet."""
        return self.transport is None and not self._over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Header first, then what waited, in one write."""
        super().connection_made(transport)
        self._task = None
        if self._over or self.transport is None:
            transport.close()
            return
        name = transport.get_extra_info("sockname")
        self.source = (name[0], name[1]) if name else None
        waiting, self._waiting = b"".join(self._waiting), []
        if self._header or waiting:
            self.transport.write(self._header + waiting)
        if waiting and self.stream is not None:
            if self._paused:
                self._owed += len(waiting)
            else:
                self.stream.consumed(len(waiting))
            self.side.touch()
        if self._peer_ended:
            sockets.half_close(self.transport)

    def _without_socket(self, data: bytes | memoryview) -> None:
        """What comes before the MTA took the connection waits for it."""
        if self.connecting:
            self._waiting.append(data)
            self.bytes_from_peer += len(data)

    def _break_local(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        super()._break_local()
