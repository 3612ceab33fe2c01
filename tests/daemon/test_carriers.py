"""Carriers that break, are cut, altered or frozen while mail is under way: no stream may notice."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hubtunnel.daemon import backoff
from hubtunnel.protocol.session import Session
from tests.conftest import RunLoop
from tests.daemon.hubs import TIMES, Mta, Pair, connected, link, mail_port, pair, read_all, read_exactly, talking, until
from tests.daemon.wire import Mangle, Wire

SIZE = 3 << 20
# The carrier's handshake and first records are over by this offset of what the dialler sends.
BEHIND_HANDSHAKE = 8000


@contextlib.asynccontextmanager
async def wired(
    folder: Path, *, times: str = TIMES, mangle: Mangle | None = None
) -> AsyncIterator[tuple[Wire, Pair, Mta]]:
    """A pair of hubs whose carriers pass over a wire."""
    async with Mta() as mta, Wire(("", 0)) as wire:
        if mangle is not None:
            wire.mangle = mangle

        def through(endpoint: str) -> str:
            host, _, port = endpoint.rpartition(":")
            wire.target = (host, int(port))
            return wire.address

        async with pair(folder, mta.address, a_endpoint=through, times=times) as hubs:
            yield wire, hubs, mta


async def cut_and_resumed(cut: Callable[[], None], session: Session) -> None:
    """Cut, and wait until the session goes on over another carrier."""
    before = session.resumed
    cut()
    await until(lambda: session.resumed > before and session.ready)


async def transfer(hubs: Pair, mta: Mta, cut: Callable[[], None] | None = None, times: int = 0) -> None:
    """Bytes both ways over one stream, cut off `times` times while they are under way; then compared."""
    there, back = os.urandom(SIZE), os.urandom(SIZE)
    step = SIZE // (times + 1) + 1

    async def send_in_pieces(out: asyncio.StreamWriter) -> None:
        for start in range(0, SIZE, step):
            out.write(there[start : start + step])
            await out.drain()
            if cut is not None and start + step < SIZE:
                await cut_and_resumed(cut, link(hubs.a, "b").core.sessions[0])
        out.write_eof()

    async with connected(mail_port(hubs.a, "b")) as (reader, writer):
        far_reader, far_writer = await mta.next()
        far_writer.write(back)
        far_writer.write_eof()
        got_there, got_back, _ = await asyncio.gather(read_all(far_reader), read_all(reader), send_in_pieces(writer))
    assert got_there == there
    assert got_back == back


def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carriers are cut here every few milliseconds, so back-off would make minutes of it."""
    monkeypatch.setattr(backoff, "FIRST_CEILING", 0.05)
    monkeypatch.setattr(backoff, "CEILING", 0.05)


def test_cut_ten_times_in_a_transfer(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _at_once(monkeypatch)

    async def scenario() -> None:
        async with wired(tmp_path) as (wire, hubs, mta):
            await transfer(hubs, mta, wire.cut, times=10)
            session = link(hubs.a, "b").core.sessions[0]
            assert session.resumed == 10
            assert wire.connections >= 11
            assert link(hubs.a, "b").local.reset == link(hubs.b, "a").local.reset == 0

    run_loop(scenario())


@pytest.mark.parametrize("direction", ["there", "back"])
@pytest.mark.parametrize("kind", ["flip", "drop", "insert", "swap", "length", "repeat"])
def test_altered_bytes_end_the_carrier_and_nothing_else(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str, kind: str
) -> None:
    """Once, in the middle of the first carrier: it ends, the session resumes, every byte arrives as sent."""
    _at_once(monkeypatch)
    done: list[int] = []

    def mangle(which: str, number: int, offset: int, data: bytes) -> bytes:
        if which != direction or number or offset < BEHIND_HANDSHAKE or len(data) < 1000 or done:
            return data
        done.append(offset)
        return {
            "flip": data[:500] + bytes((data[500] ^ 0x10,)) + data[501:],
            "drop": data[:400] + data[401:],
            "insert": data[:400] + b"\0" + data[400:],
            "swap": data[300:600] + data[:300] + data[600:],
            "length": b"\0\xff\xff" + data,
            "repeat": data[:700] + data,
        }[kind]

    async def scenario() -> None:
        async with wired(tmp_path, mangle=mangle) as (_, hubs, mta):
            await transfer(hubs, mta)
            assert done
            assert link(hubs.a, "b").core.sessions[0].resumed >= 1
            assert link(hubs.a, "b").local.reset == 0

    run_loop(scenario())


def test_carrier_that_is_truncated_is_no_clean_end(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FIN in the middle of a record: the stream waits and goes on; its reader must not see an end."""
    _at_once(monkeypatch)

    async def scenario() -> None:
        async with wired(tmp_path) as (_, hubs, mta), talking(hubs.a, "b", mta) as talk:
            await talk.back(b"220\r\n")
            link(hubs.b, "a").connections[0].transport.write_eof()
            await until(lambda: link(hubs.a, "b").core.sessions[0].resumed == 1)
            await talk.there(b"EHLO\r\n")

    run_loop(scenario())


def test_streams_wait_for_a_carrier_and_end_when_none_comes(run_loop: RunLoop, tmp_path: Path) -> None:
    """`linger` without a carrier: reset on both sides, memory given back."""

    async def scenario() -> None:
        times = 'linger = "500ms"\nhold = "100ms"\n'
        async with wired(tmp_path, times=times) as (wire, hubs, mta):
            async with connected(mail_port(hubs.a, "b")) as (reader, writer):
                far_reader, far_writer = await mta.next()
                far_writer.write(b"220\r\n")
                await read_exactly(reader, 5)
                wire.target = ("127.0.0.1", 1)  # nobody
                wire.cut()
                writer.write(b"into the void")
                with pytest.raises(ConnectionResetError):
                    await read_all(reader)
                with pytest.raises(ConnectionResetError):
                    await read_all(far_reader)
            await until(lambda: hubs.a.services.budget.used == hubs.b.services.budget.used == 0)

    run_loop(scenario())


def test_two_peers_do_not_disturb_each_other(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one link's carriers are cut again and again, the carrier of another stays the same one."""
    _at_once(monkeypatch)

    async def scenario() -> None:
        async with (
            wired(tmp_path / "cut") as (wire, hubs, mta),
            pair(tmp_path / "whole", mta.address) as others,
        ):
            carrier = link(others.a, "b").core.carriers[0]
            await transfer(hubs, mta, wire.cut, times=3)
            assert link(others.a, "b").core.carriers == [carrier]

    run_loop(scenario())


def test_ratchet_step_on_request(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            assert link(hubs.a, "b").rekey()
            assert not link(hubs.b, "a").rekey()  # steps are the initiator's
            await until(lambda: link(hubs.a, "b").core.sessions[0].index == 1)
            await until(lambda: link(hubs.b, "a").core.sessions[0].index == 1)
            await transfer(hubs, mta)

    run_loop(scenario())


def test_ping(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            for hub, who in ((hubs.a, "b"), (hubs.b, "a")):
                assert 0 < await link(hub, who).ping() < 5

    run_loop(scenario())
