"""Streams between two real hubs: bytes both ways, half-close each way, breaks that stay breaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import RunLoop
from tests.daemon.hubs import (
    TIMES,
    Mta,
    Pair,
    Talk,
    connected,
    drop,
    link,
    mail_port,
    pair,
    read_all,
    read_exactly,
    talking,
    until,
)


def test_bytes_both_ways_whoever_dialled(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            for hub, who in ((hubs.a, "b"), (hubs.b, "a")):
                async with connected(mail_port(hub, who)) as (reader, writer):
                    far_reader, far_writer = await mta.next()
                    far_writer.write(b"220 far\r\n")
                    assert await read_exactly(reader, 9) == b"220 far\r\n"
                    writer.write(b"EHLO near\r\n")
                    assert await read_exactly(far_reader, 11) == b"EHLO near\r\n"

    run_loop(scenario())


def test_large_both_ways_at_once(run_loop: RunLoop, tmp_path: Path) -> None:
    there, back = os.urandom(6 << 20), os.urandom(5 << 20)

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            async with connected(mail_port(hubs.a, "b")) as (reader, writer):
                far_reader, far_writer = await mta.next()
                writer.write(there)
                writer.write_eof()
                far_writer.write(back)
                far_writer.write_eof()
                got_back, got_there = await asyncio.gather(read_all(reader), read_all(far_reader))
                assert got_back == back
                assert got_there == there
            await until(lambda: not link(hubs.a, "b").local.relays and not link(hubs.b, "a").local.relays)
            await until(lambda: hubs.a.services.budget.used == 0 and hubs.b.services.budget.used == 0)
            assert link(hubs.a, "b").local.mail_out == len(there)
            assert link(hubs.a, "b").local.mail_in == len(back)
            assert link(hubs.a, "b").local.reset == 0

    run_loop(scenario())


def test_half_close_by_the_near_mta(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            Mta() as mta,
            pair(tmp_path, mta.address) as hubs,
            connected(mail_port(hubs.a, "b")) as (reader, writer),
        ):
            far_reader, far_writer = await mta.next()
            writer.write(b"QUIT\r\n")
            writer.write_eof()
            assert await read_all(far_reader) == b"QUIT\r\n"
            far_writer.write(b"221 bye\r\n")  # after the other side has ended
            far_writer.write_eof()
            assert await read_all(reader) == b"221 bye\r\n"

    run_loop(scenario())


def test_half_close_by_the_far_mta(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            Mta() as mta,
            pair(tmp_path, mta.address) as hubs,
            connected(mail_port(hubs.a, "b")) as (reader, writer),
        ):
            far_reader, far_writer = await mta.next()
            far_writer.write(b"421 closing\r\n")
            far_writer.write_eof()
            assert await read_all(reader) == b"421 closing\r\n"
            writer.write(b"still here\r\n")
            writer.write_eof()
            assert await read_all(far_reader) == b"still here\r\n"

    run_loop(scenario())


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def _greeted(folder: Path, times: str = TIMES) -> AsyncIterator[tuple[Pair, Talk]]:
    """Two hubs, and a conversation between their mail servers that has begun."""
    async with Mta() as mta, pair(folder, mta.address, times=times) as hubs, talking(hubs.a, "b", mta) as talk:
        await talk.back(b"220\r\n")
        yield hubs, talk


async def _reset_at_both_ends(talk: Talk) -> None:
    for reader in (talk.reader, talk.far_reader):
        with pytest.raises(ConnectionResetError):
            await read_all(reader)


def test_reset_by_the_near_mta_is_a_reset_at_the_far_one(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _greeted(tmp_path) as (_, talk):
            _reset(talk.writer)
            with pytest.raises(ConnectionResetError):
                await read_all(talk.far_reader)

    run_loop(scenario())


def test_reset_by_the_far_mta_is_a_reset_at_the_near_one(run_loop: RunLoop, tmp_path: Path) -> None:
    """After a byte was relayed it must not become a clean end, nor a 421 that looks like the far MTA's word."""

    async def scenario() -> None:
        async with _greeted(tmp_path) as (_, talk):
            _reset(talk.far_writer)
            with pytest.raises(ConnectionResetError):
                await read_all(talk.reader)

    run_loop(scenario())


def test_session_that_ends_resets_its_streams(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _greeted(tmp_path) as (hubs, talk):
            drop(hubs.b, "a")
            await _reset_at_both_ends(talk)

    run_loop(scenario())


def test_idle_stream_is_reset_on_both_sides(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _greeted(tmp_path, 'idle = "300ms"\n') as (_, talk):
            await _reset_at_both_ends(talk)

    run_loop(scenario())


def test_stream_that_is_used_outlives_idle(run_loop: RunLoop, tmp_path: Path) -> None:
    """The control of the test above: traffic in one direction alone keeps a stream alive."""

    async def scenario() -> None:
        async with _greeted(tmp_path, 'idle = "1s"\n') as (_, talk):
            for _ in range(12):
                await talk.there(b"x")
                await asyncio.sleep(0.1)
            talk.writer.write_eof()
            assert await read_all(talk.far_reader) == b""

    run_loop(scenario())
