"""A peer that falls silent is noticed, idle or under traffic; the first message after a quiet night is not held up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hubtunnel.daemon import sockets
from tests.conftest import RunLoop
from tests.daemon.hubs import Mta, link, pair
from tests.daemon.hubs import until as seen
from tests.daemon.test_carriers import wired
from tests.faults.stage import HANDOVER, Bench, Side, bench
from tests.faults.test_short import need_what_it_takes

KEEPALIVE = 1.0


def count(side: Side, event: str) -> int:
    return side.hub.log.count(f" info {event} ")


async def until(fact: object, seconds: float) -> float:
    """Seconds until it is so; fails when it takes longer than that."""
    began = time.monotonic()
    while not fact():  # type: ignore[operator]
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def connected(side: Side) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection as the hub's own MTA makes it."""
    sock = side.namespace.open_socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, HANDOVER)
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def greeted(side: Side) -> float:
    """Seconds from a connection of the MTA to the far MTA's greeting."""
    began = time.monotonic()
    async with connected(side) as (reader, _), asyncio.timeout(20):
        assert (await reader.readline()).startswith(b"220")
    return time.monotonic() - began


@pytest.mark.e2e
@pytest.mark.root
@pytest.mark.slow
def test_a_quiet_night() -> None:
    """The line is dark for a while and no mail comes: both ends notice by themselves, and the morning's mail flows."""
    need_what_it_takes()

    async def night(made: Bench) -> None:
        made.line.dark(True)
        for side in (made.a, made.b):
            took = await until(lambda side=side: count(side, "carrier_down") >= 1, 4 * KEEPALIVE + 1)
            assert took < 4 * KEEPALIVE
        await asyncio.sleep(1.5 * KEEPALIVE)
        made.line.dark(False)
        assert await greeted(made.a) < 5.0  # mail makes it dial at once: within `hold`
        assert await greeted(made.a) < 1.0
        assert await greeted(made.b) < 1.0

    async def forgetful(made: Bench) -> None:
        """A NAT that forgets the connection and answers RST: noticed with the next keepalive, before mail comes."""
        before = count(made.a, "carrier_down")
        made.line.kill()
        await until(lambda: count(made.a, "carrier_down") > before, 2 * KEEPALIVE + 1)
        await until(lambda: count(made.a, "session_resumed") >= 1, 5.0)
        assert await greeted(made.a) < 1.0

    async def scenario() -> None:
        options = {"keepalive": f"{KEEPALIVE:g}s", "linger": "60s"}
        async with bench(loop_name="asyncio", dials=(True, False), **options) as made:
            await made.until_up()
            await night(made)
            await forgetful(made)

    asyncio.run(scenario())


@pytest.mark.e2e
@pytest.mark.root
@pytest.mark.slow
def test_under_traffic_it_takes_seconds() -> None:
    """At the default keepalive, which alone would take 45 s: bytes that nobody acknowledges say it sooner."""
    need_what_it_takes()

    async def scenario() -> None:
        async with bench(dials=(True, False)) as made:
            await made.until_up()
            async with connected(made.a) as (reader, writer):
                assert (await reader.readline()).startswith(b"220")
                made.line.dark(True)
                writer.write(b"NOOP\r\n")
                took = await until(lambda: count(made.a, "carrier_down") == 1, 15.0)
                assert took > 5.0  # a blackout of a few seconds costs no carrier
                made.line.dark(False)
                async with asyncio.timeout(20):
                    assert (await reader.readline()).startswith(b"250")  # the conversation goes on, on the next one

    asyncio.run(scenario())


def test_a_peer_that_is_stopped_is_noticed_and_comes_back(run_loop: RunLoop, tmp_path: Path) -> None:
    """Its kernel still answers for it, as with SIGSTOP: only records tell."""

    async def scenario() -> None:
        times = 'keepalive = "200ms"\nlinger = "20s"\n'
        async with wired(tmp_path, times=times) as (wire, hubs, _):
            near = link(hubs.a, "b")
            session = near.core.sessions[0]
            (carrier,) = near.core.carriers
            for event in wire.frozen.values():
                event.clear()
            began = time.monotonic()
            await seen(lambda: carrier not in near.core.carriers)
            assert 0.4 <= time.monotonic() - began < 3.0
            for event in wire.frozen.values():
                event.set()
            await seen(lambda: session.resumed == 1 and session.ready)

    run_loop(scenario())


def test_options_of_sockets(run_loop: RunLoop, tmp_path: Path) -> None:
    """On both ends of a carrier, whichever loop made it."""

    def option(sock: socket.socket, name: str) -> int:
        level = socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP
        return int(sock.getsockopt(level, getattr(socket, name)))

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            for hub, who in ((hubs.a, "b"), (hubs.b, "a")):
                (connection,) = link(hub, who).connections
                sock = connection.transport.get_extra_info("socket")
                assert option(sock, "SO_KEEPALIVE") == 1
                assert option(sock, "TCP_USER_TIMEOUT") == sockets.USER_TIMEOUT_MS
                noticed = option(sock, "TCP_KEEPIDLE") + option(sock, "TCP_KEEPINTVL") * option(sock, "TCP_KEEPCNT")
                assert noticed <= 60

    run_loop(scenario())


@pytest.mark.parametrize(("host", "asks"), [("127.0.0.1", 0), ("0.0.0.0", 1)])
def test_connections_from_elsewhere_inherit_it_from_their_listener(run_loop: RunLoop, host: str, asks: int) -> None:
    accepted: asyncio.Queue[int] = asyncio.Queue()

    def made(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        accepted.put_nowait(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        writer.close()

    async def scenario() -> None:
        listener = sockets.listen(host, 0, "test")
        server = await asyncio.start_server(made, sock=listener)
        async with asyncio.timeout(10):
            _, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
            assert await accepted.get() == asks
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run_loop(scenario())


@pytest.mark.parametrize("host", ["127.0.0.1", "elsewhere"])
def test_only_an_mta_elsewhere_is_asked_whether_it_is_there(run_loop: RunLoop, host: str) -> None:
    """A smarthost may vanish without a word; this host does not."""

    class Far:
        """A connected socket that says that its other end is on another host."""

        def __init__(self, sock: socket.socket) -> None:
            self.setsockopt, self.getsockopt = sock.setsockopt, sock.getsockopt
            self.getpeername = lambda: ("192.0.2.1" if host == "elsewhere" else host, 25)

    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            return Far(sock) if name == "socket" else default

    async def scenario() -> None:
        sockets.tune_local(Transport())
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == (host == "elsewhere")
        assert os.fstat(sock.fileno())

    with socket.socket() as sock:
        run_loop(scenario())
