"""The tap forwards everything, records what left it, and does harm exactly where it was told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hubtunnel.demo.tap import Harm, Tap, Way

Run = Callable[[Any], Any]
LIMIT_S = 20


@asynccontextmanager
async def echo_server() -> AsyncIterator[tuple[str, int]]:
    """Sends back what it gets, with a half-close after the other's."""

    handlers: set[asyncio.Task[None] | None] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except OSError:
            pass  # it was reset
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.gather(*(handler for handler in handlers if handler))


async def exchange(port: int, data: bytes) -> bytes:
    """Send all, half-close, read until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    sending = asyncio.ensure_future(send())
    try:
        return await reader.read()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


def test_everything_passes_both_ways_and_is_recorded(run_loop: Run, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)

    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), echo_server() as upstream, Tap(upstream, tmp_path) as tap:
            assert await exchange(tap.port, data) == data
            await tap.passages[0].ended.wait()
            assert tap.total(Way.OUT) == tap.total(Way.BACK) == len(data)
            assert tap.passages[0].ended_by == "dialler", "who half-closed first"
            assert {path.read_bytes() == data for path in tap.recordings()} == {True}
            assert len(tap.recordings()) == 2

    run_loop(scene())


def test_every_connection_has_its_own_recording(run_loop: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), echo_server() as upstream, Tap(upstream, tmp_path) as tap:
            answers = await asyncio.gather(*(exchange(tap.port, bytes([n]) * 1000) for n in range(5)))
            assert sorted(answers) == [bytes([n]) * 1000 for n in range(5)]
            assert len(tap.passages) == 5
            assert len({path.read_bytes() for path in tap.recordings()}) == 5

    run_loop(scene())


@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize("after", [0, 1, 99_999, 700_000, 999_999])
def test_a_flip_turns_one_bit_of_that_byte(run_loop: Run, tmp_path: Path, way: Way, after: int) -> None:
    data = os.urandom(1_000_000)

    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), echo_server() as upstream, Tap(upstream, tmp_path) as tap:
            fault = tap.arm(Harm.FLIP, way, after)
            answer = await exchange(tap.port, data)
            assert fault.struck.is_set()
            assert fault.at == after
            assert answer == data[:after] + bytes([data[after] ^ 1]) + data[after + 1 :]
            assert fault.passage is tap.passages[0]

    run_loop(scene())


@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize("after", [0, 1, 500_000])
def test_a_cut_resets_both_sides_after_that_byte(run_loop: Run, tmp_path: Path, way: Way, after: int) -> None:
    data = os.urandom(1_000_000)

    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), echo_server() as upstream, Tap(upstream, tmp_path) as tap:
            fault = tap.arm(Harm.CUT, way, after)
            with pytest.raises(ConnectionResetError):
                await exchange(tap.port, data)
            assert fault.struck.is_set()
            passage = tap.passages[0]
            await passage.ended.wait()
            assert passage.ended_by == "cut"
            assert passage.count[way] == after
            assert passage.files[way].read_bytes() == data[:after]
            assert await exchange(tap.port, b"again") == b"again", "the next connection is untouched"

    run_loop(scene())


def test_faults_count_over_passages_from_when_they_were_armed(run_loop: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), echo_server() as upstream, Tap(upstream, tmp_path) as tap:
            assert await exchange(tap.port, b"a" * 100) == b"a" * 100
            fault = tap.arm(Harm.FLIP, Way.OUT, 150)
            assert await exchange(tap.port, b"a" * 100) == b"a" * 100
            assert not fault.struck.is_set()
            assert await exchange(tap.port, b"a" * 100) == b"a" * 50 + b"`" + b"a" * 49
            assert fault.passage is tap.passages[2]

    run_loop(scene())


def test_several_faults_in_one_chunk_strike_in_their_order(run_loop: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), echo_server() as upstream, Tap(upstream, tmp_path) as tap:
            cut = tap.arm(Harm.CUT, Way.OUT, 30)
            later = tap.arm(Harm.FLIP, Way.OUT, 40)
            second, first = tap.arm(Harm.FLIP, Way.OUT, 20), tap.arm(Harm.FLIP, Way.OUT, 10)
            with pytest.raises(ConnectionResetError):
                await exchange(tap.port, b"a" * 100)
            assert tap.passages[0].files[Way.OUT].read_bytes() == b"a" * 10 + b"`" + b"a" * 9 + b"`" + b"a" * 9
            assert [first.at, second.at, cut.at] == [10, 20, 30]
            assert not later.struck.is_set(), "what lay behind the cut is still to come"
            assert (await exchange(tap.port, b"a" * 11))[10:] == b"`"

    run_loop(scene())


def test_an_upstream_that_is_not_there_ends_the_connection(run_loop: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with echo_server() as gone:
            pass
        async with asyncio.timeout(LIMIT_S), Tap(gone, tmp_path) as tap:
            reader, writer = await asyncio.open_connection("127.0.0.1", tap.port)
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                pass
            writer.close()
            assert tap.passages[0].ended_by == "far end"

    run_loop(scene())


def test_leaving_it_ends_connections_that_are_open(run_loop: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), echo_server() as upstream:
            async with Tap(upstream, tmp_path) as tap:
                reader, writer = await asyncio.open_connection("127.0.0.1", tap.port)
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                pass
            writer.close()

    run_loop(scene())
