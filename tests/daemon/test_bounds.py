"""Bounds under load: a local MTA that does not read, a peer that does not read, a thousand strangers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from pathlib import Path

import pytest

from hubtunnel.daemon.relay import LOCAL_HIGH
from hubtunnel.protocol import constants as c
from tests.conftest import RunLoop
from tests.daemon.hubs import Mta, connected, endpoint_of, link, mail_port, pair, talking, until
from tests.daemon.wire import Wire

MIB = 1 << 20
LIMIT = 8 * MIB  # the least that [limits] memory may be
SETTINGS = '[limits]\nmemory = "8MiB"\n'


class Source:
    """Our MTA, sending without end until told to stop; counts what the hub took."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.sent = 0
        self.digest = hashlib.sha256()
        self._writer = writer
        self._stop = False
        writer.transport.set_write_buffer_limits(high=0)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while not self._stop:
            block = os.urandom(64 * 1024)
            self._writer.write(block)
            await self._writer.drain()
            self.sent += len(block)
            self.digest.update(block)
        self._writer.write_eof()

    async def stuck(self) -> None:
        """Wait until nothing more is taken: half a second without a byte."""
        last = -1
        async with asyncio.timeout(20):
            while self.sent != last:
                last = self.sent
                await asyncio.sleep(0.5)

    async def end(self) -> None:
        """Stop after the block under way."""
        self._stop = True
        await self._task


async def digest_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Length and hash of everything that comes, to a clean end."""
    digest, total = hashlib.sha256(), 0
    async with asyncio.timeout(30):
        while block := await reader.read(1 << 16):
            digest.update(block)
            total += len(block)
    return total, digest.digest()


def resident() -> int:
    """Bytes of memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_local_mta_that_does_not_read(run_loop: RunLoop, tmp_path: Path) -> None:
    """It stops its own stream by credit, and no other; when it reads again everything arrives."""

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address, settings=SETTINGS) as hubs:
            async with connected(mail_port(hubs.a, "b")) as (_, writer):
                far_reader, far_writer = await mta.next()
                far_writer.transport.pause_reading()
                before = resident()
                source = Source(writer)
                await source.stuck()
                for hub in (hubs.a, hubs.b):
                    assert hub.services.budget.peak <= LIMIT
                assert resident() - before < 4 * LIMIT
                # another conversation of the same session is not held up
                async with talking(hubs.a, "b", mta) as talk:
                    await talk.there(b"EHLO\r\n")
                    await talk.back(b"250\r\n")
                far_writer.transport.resume_reading()
                _, received = await asyncio.gather(source.end(), digest_of(far_reader))
                assert received == (source.sent, source.digest.digest())
            await until(lambda: hubs.a.services.budget.used == hubs.b.services.budget.used == 0)

    run_loop(scenario())


def test_many_conversations_whose_mta_does_not_read(run_loop: RunLoop, tmp_path: Path) -> None:
    """Twenty at once hold more than the limit if each had its largest window: together they stay within it."""

    async def scenario() -> None:
        async with (
            Mta() as mta,
            pair(tmp_path, mta.address, settings=SETTINGS) as hubs,
            contextlib.AsyncExitStack() as stack,
        ):
            sources, readers = [], []
            for _ in range(20):
                _, writer = await stack.enter_async_context(connected(mail_port(hubs.a, "b")))
                far_reader, far_writer = await mta.next()
                far_writer.transport.pause_reading()
                sources.append(Source(writer))
                readers.append((far_reader, far_writer))
            await asyncio.gather(*(source.stuck() for source in sources))
            assert hubs.b.services.budget.peak <= LIMIT
            # what a hub holds of its own MTA: each stream's queue, over which one read of the socket may go
            assert hubs.a.services.budget.peak <= LIMIT + 20 * (c.STREAM_SEND_HIGH + 256 * 1024)
            for _, far_writer in readers:
                far_writer.transport.resume_reading()
            received = await asyncio.gather(
                *(digest_of(reader) for reader, _ in readers), *(source.end() for source in sources)
            )
            assert received[:20] == [(source.sent, source.digest.digest()) for source in sources]

    run_loop(scenario())


def test_peer_that_does_not_read(run_loop: RunLoop, tmp_path: Path) -> None:
    """Its TCP window is shut: what our MTA sends stays in our MTA, and what the peer sends still arrives."""

    async def scenario() -> None:
        async with Mta() as mta, Wire(("", 0)) as wire:

            def through(endpoint: str) -> str:
                host, _, port = endpoint.rpartition(":")
                wire.target = (host, int(port))
                return wire.address

            async with (
                pair(tmp_path, mta.address, settings=SETTINGS, a_endpoint=through) as hubs,
                talking(hubs.b, "a", mta) as talk,
            ):
                wire.frozen["back"].clear()  # a reads nothing of b any more
                source = Source(talk.writer)
                await source.stuck()
                assert hubs.b.services.budget.peak <= LIMIT
                connection = link(hubs.b, "a").connections[0]
                assert connection.transport.get_write_buffer_size() <= c.SEAL_AHEAD
                await talk.back(b"354 go on\r\n")
                wire.frozen["back"].set()
                _, received = await asyncio.gather(source.end(), digest_of(talk.far_reader))
                assert received == (source.sent, source.digest.digest())

    run_loop(scenario())


def test_our_mta_that_does_not_read_its_replies(run_loop: RunLoop, tmp_path: Path) -> None:
    """The other direction of the first test: a client that sends commands and reads no reply."""

    async def scenario() -> None:
        async with (
            Mta() as mta,
            pair(tmp_path, mta.address, settings=SETTINGS) as hubs,
            connected(mail_port(hubs.a, "b")) as (reader, writer),
        ):
            _, far_writer = await mta.next()
            writer.transport.pause_reading()
            source = Source(far_writer)
            await source.stuck()
            assert hubs.a.services.budget.peak <= LIMIT
            (relay,) = link(hubs.a, "b").local.relays
            assert relay.transport is not None
            assert relay.transport.get_write_buffer_size() <= LIMIT
            assert relay.transport.get_write_buffer_size() > LOCAL_HIGH  # it is really stuck
            writer.transport.resume_reading()
            _, received = await asyncio.gather(source.end(), digest_of(reader))
            assert received == (source.sent, source.digest.digest())

    run_loop(scenario())


STRANGERS = 1000


@pytest.mark.timeout(240)
def test_a_thousand_strangers(run_loop: RunLoop, tmp_path: Path) -> None:
    """They hold what they may, the rest is closed at once; a peer whose carrier breaks now comes back all the same."""

    async def scenario() -> None:
        async with Mta() as mta, Wire(("", 0)) as wire:

            def through(endpoint: str) -> str:
                host, _, port = endpoint.rpartition(":")
                wire.target = (host, int(port))
                return wire.address

            async with pair(tmp_path, mta.address, a_endpoint=through) as hubs:
                host, _, port = endpoint_of(hubs.b).rpartition(":")
                before, descriptors = resident(), len(os.listdir("/proc/self/fd"))
                strangers = []
                for number in range(STRANGERS):
                    stranger = socket.socket()
                    stranger.setblocking(False)
                    # each from an address of its own, or the bound per address would be all that is seen
                    stranger.bind((f"127.1.{number // 250}.{number % 250 + 1}", 0))
                    with contextlib.suppress(BlockingIOError):
                        stranger.connect((host, int(port)))
                    strangers.append(stranger)
                    if number % 50 == 0:
                        await asyncio.sleep(0)
                admission = hubs.b.services.admission
                await until(lambda: admission.pending + admission.refused == STRANGERS)
                assert admission.pending == 128  # half of 256: the other half is kept for known addresses
                assert resident() - before < 32 * MIB
                assert len(os.listdir("/proc/self/fd")) - descriptors <= STRANGERS + 128 + 16
                assert len(hubs.b.services.knocks.latest(5000)) <= 1024
                session = link(hubs.a, "b").core.sessions[0]
                wire.cut()
                await until(lambda: session.resumed == 1 and session.ready)
                async with connected(mail_port(hubs.a, "b")):
                    await mta.next()
                for stranger in strangers:
                    stranger.close()
                await until(lambda: admission.pending == 0)

    run_loop(scenario())


def test_one_address_gets_sixteen_slots(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            host, _, port = endpoint_of(hubs.b).rpartition(":")
            admission = hubs.b.services.admission
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(20):
                    await stack.enter_async_context(connected((host, int(port))))
                await until(lambda: admission.pending + admission.refused == 20)
                assert admission.pending == 16

    run_loop(scenario())
