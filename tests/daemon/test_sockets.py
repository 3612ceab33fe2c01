"""Options and ends of our sockets, on both loops."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest
import uvloop

from hubtunnel.daemon import sockets

LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]


def reset_pair() -> socket.socket:
    """The near end of a connection whose far end was reset; nothing of that has been read yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as far:
        near, _ = listener.accept()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    near.setblocking(False)
    return near


class Stopped(asyncio.Protocol):
    """Reads nothing, so that the reset stays unnoticed; notes what it is told."""

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_half_close_after_a_reset_raises_nothing(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A local connection that broke a moment ago must not take along whoever ends its stream."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with reset_pair() as near:
            transport, protocol = await loop.connect_accepted_socket(Stopped, near.dup())
            sockets.half_close(transport)
            transport.abort()
            await protocol.lost

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())
