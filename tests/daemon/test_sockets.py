"""Options and ends of our sockets, on both loops."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
import uvloop

from hubtunnel.daemon import sockets
from tests.conftest import RunLoop
from tests.daemon.hubs import Mta, connected, link, mail_port, pair, read_exactly

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


def test_half_close_of_a_closed_transport_raises_nothing(run_loop: RunLoop) -> None:
    """uvloop lets nothing be done with a handle that is closed, and `connection_lost` comes a turn later."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with reset_pair() as near:
            transport, protocol = await loop.connect_accepted_socket(Stopped, near.dup())
            transport.abort()
            assert transport.is_closing()
            sockets.half_close(transport)
            await protocol.lost

    run_loop(scenario())


class Broken(asyncio.Transport):
    """As uvloop's transport is between the failure of its socket and `connection_lost`."""

    def is_closing(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise RuntimeError("the handler is closed")

    resume_reading = write_eof = pause_reading = lambda self: self.write(b"")  # type: ignore[assignment]


def test_bytes_for_a_local_socket_that_just_broke_harm_no_carrier(run_loop: RunLoop, tmp_path: Path) -> None:
    """They are dropped; nothing is raised into the carrier on which they came, and its other streams go on."""

    async def scenario() -> None:
        async with (
            Mta() as mta,
            pair(tmp_path, mta.address) as hubs,
            connected(mail_port(hubs.a, "b")),
            connected(mail_port(hubs.a, "b")) as (reader, _),
        ):
            _, far_writer = await mta.next()
            _, far_writer_2 = await mta.next()
            carriers = list(link(hubs.a, "b").core.carriers)
            relay = min(link(hubs.a, "b").local.relays, key=lambda r: r.stream_id)
            real, relay.transport = relay.transport, Broken()
            far_writer.write(b"lost")
            far_writer.write_eof()
            far_writer_2.write(b"220\r\n")
            assert await read_exactly(reader, 5) == b"220\r\n"
            assert link(hubs.a, "b").core.carriers == carriers
            relay.transport = real

    run_loop(scenario())


# --- the end of a listener ------------------------------------------------------------------------------------------


class Greets(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        mta = cast(asyncio.Transport, transport)  # uvloop's is none by its type
        mta.write(b"220")
        mta.close()


@pytest.mark.parametrize("turns", range(6))
def test_whoever_was_accepted_is_served_although_the_listener_closes(run_loop: RunLoop, turns: int) -> None:
    """A supervisor keeps the socket, as systemd does. In whichever turn we close ours, nobody meets a wordless end."""
    said: list[bytes] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Greets, sock=ours.dup())
        for client in clients:
            client.connect(ours.getsockname())
            client.setblocking(False)
        for _ in range(turns):
            await asyncio.sleep(0)
        sockets.stop_accepting(loop, server)
        await sockets.accepted()
        server.close()
        following = await loop.create_server(Greets, sock=ours.dup())
        async with asyncio.timeout(5):
            said.extend([await loop.sock_recv(client, 99) for client in clients])
        following.close()

    with ExitStack() as opened:
        ours = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        ours.setblocking(False)
        # Their descriptors stay theirs to the end: uvloop still knows them by number when they are closed between.
        clients = [opened.enter_context(socket.socket()) for _ in range(20)]
        run_loop(scenario())
    assert said == [b"220"] * 20
