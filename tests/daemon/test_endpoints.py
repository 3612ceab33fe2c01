"""Dialling real hubs: dead and silent endpoints, no DNS, the way back to the preferred one, mail that waits."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hubtunnel.daemon import backoff, dialler, moves, race, sockets
from hubtunnel.daemon.hub import Hub
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Code
from tests.conftest import RunLoop
from tests.daemon.hubs import (
    Mta,
    Place,
    connected,
    endpoint_of,
    free_port,
    link,
    mail_port,
    read_all,
    read_exactly,
    running,
    talking,
    until,
    up,
)
from tests.daemon.wire import Wire


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """An endpoint that drops every SYN, as a firewall does: a listener whose queue is full."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield f"127.0.0.1:{full.getsockname()[1]}"


@contextlib.asynccontextmanager
async def target(folder: Path, mta: Mta) -> AsyncIterator[tuple[Place, Hub]]:
    """Hub b, which waits to be dialled; and hub a's place, which does not know b yet."""
    a, b = Place(folder / "a", "a").make(), Place(folder / "b", "b").make()
    b.add_peer(a, deliver=mta.address)
    async with running(b) as hub_b:
        yield a, hub_b


def add_b(a: Place, hub_b: Hub, *endpoints: str) -> None:
    a.add_peer(Place(a.folder.parent / "b", "b"), endpoints=list(endpoints))


def dialled(hub: Hub) -> str:
    """The endpoint of the carrier that hub a dialled."""
    (carrier,) = link(hub, "b").core.carriers
    return str(carrier.app.endpoint)


def test_dead_endpoint_costs_a_fraction_of_a_second(run_loop: RunLoop, tmp_path: Path) -> None:
    """Its timeout would be ten seconds; all clocks are the real ones here."""

    async def scenario() -> None:
        async with Mta() as mta, target(tmp_path, mta) as (a, hub_b):
            with black_hole() as dead:
                add_b(a, hub_b, dead, endpoint_of(hub_b))
                began = time.monotonic()
                async with running(a) as hub_a:
                    await up(hub_a, "b")
                    took = time.monotonic() - began
                    assert dialled(hub_a) == endpoint_of(hub_b)
                assert race.STAGGER * 0.9 <= took < dialler.CONNECT_TIMEOUT / 2

    run_loop(scenario())


def test_silent_endpoint_is_overtaken(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "STAGGER_CONNECTED", 0.3)

    async def scenario() -> None:
        async with Mta() as mta, Mta() as silent, target(tmp_path, mta) as (a, hub_b):
            add_b(a, hub_b, f"127.0.0.1:{silent.address[1]}", endpoint_of(hub_b))
            async with running(a) as hub_a:
                reader, _ = await silent.next()
                await up(hub_a, "b")
                assert dialled(hub_a) == endpoint_of(hub_b)
                assert len(await read_all_or_reset(reader)) == c.M1_LEN  # it was tried, and let go

    run_loop(scenario())


def test_a_dial_with_what_is_no_longer_in_force_is_given_up(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reload the peer is there at once, and not when the silence of its former endpoint is over."""
    monkeypatch.setattr(dialler, "HANDSHAKE_TIMEOUT", 3600.0)

    async def scenario() -> None:
        async with Mta() as mta, Mta() as silent, target(tmp_path, mta) as (a, hub_b):
            add_b(a, hub_b, f"127.0.0.1:{silent.address[1]}")
            async with running(a) as hub_a:
                await until(lambda: link(hub_a, "b").dialler.phase == "handshaking")
                add_b(a, hub_b, endpoint_of(hub_b))
                await hub_a.reload()
                await up(hub_a, "b")

    run_loop(scenario())


async def read_all_or_reset(reader: asyncio.StreamReader) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while block := await reader.read(1 << 16):
            data += block
    return data


@pytest.mark.interpreted
def test_two_ways_to_one_hub_make_one_carrier(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them at once, and all work: one wins, and of the others the peer has no carrier for a moment even."""
    monkeypatch.setattr(race, "STAGGER", 0.0)
    monkeypatch.setattr(race, "STAGGER_CONNECTED", 0.0)
    monkeypatch.setattr(c, "HANDSHAKE_TIMEOUT", 2.0)  # for which b keeps those that were let go
    monkeypatch.setattr(c, "HANDSHAKE_JITTER", 0.0)

    async def scenario() -> None:
        async with Mta() as mta, contextlib.AsyncExitStack() as stack, target(tmp_path, mta) as (a, hub_b):
            host, _, port = endpoint_of(hub_b).rpartition(":")
            wires = [await stack.enter_async_context(Wire((host, int(port)))) for _ in range(5)]
            add_b(a, hub_b, *(wire.address for wire in wires))
            seen: list[object] = []
            far = link(hub_b, "a")
            attach = far.attach
            far.attach = lambda *args: seen.append(args) or attach(*args)  # type: ignore[assignment, func-returns-value]
            async with running(a) as hub_a:
                await up(hub_a, "b")
                assert sum(wire.connections for wire in wires) > 1  # there was a race
                await until(lambda: hub_b.services.admission.pending == 0)
                assert len(seen) == 1
                assert len(link(hub_a, "b").core.carriers) == len(far.core.carriers) == 1

    run_loop(scenario())


def test_start_without_dns(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver hangs: the daemon is ready at once, a peer with an address comes up, and the other one later."""
    monkeypatch.setattr(dialler, "CONNECT_TIMEOUT", 0.5)

    async def scenario() -> None:
        answered = asyncio.Event()
        async with Mta() as mta, target(tmp_path, mta) as (a, hub_b):
            host, _, port = endpoint_of(hub_b).rpartition(":")

            async def resolve(name: str, port: int) -> list[str]:
                await answered.wait()
                return [host]

            add_b(a, hub_b, f"mx.b.example:{port}")
            began = time.monotonic()
            async with running(a) as hub_a:
                hub_a.services.resolve = resolve
                assert time.monotonic() - began < 2
                link(hub_a, "b").dialler.promising()
                await until(lambda: link(hub_a, "b").last_error is not None)
                error = link(hub_a, "b").last_error
                assert error is not None
                assert error.reason.value == "dns"
                answered.set()
                async with talking(hub_a, "b", mta) as talk:  # mail makes it dial now
                    await talk.back(b"220\r\n")

    run_loop(scenario())


def test_addresses_of_last_time_when_the_resolver_is_away(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys decide who answers there, so an old address harms nobody. A name that does not exist is not dialled."""
    monkeypatch.setattr(backoff, "CEILING", 0.1)
    errors: list[OSError] = []

    async def scenario() -> None:
        async with Mta() as mta, target(tmp_path, mta) as (a, hub_b):
            host, _, port = endpoint_of(hub_b).rpartition(":")

            async def resolve(name: str, port: int) -> list[str]:
                if errors:
                    raise errors[0]
                return [host]

            add_b(a, hub_b, f"mx.b.example:{port}")
            async with running(a) as hub_a:
                hub_a.services.resolve = resolve
                near = link(hub_a, "b")
                near.dialler.promising()
                await up(hub_a, "b")
                errors.append(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
                (before,) = near.core.carriers
                near.connections[0].abort()
                await until(lambda: near.core.ready and before not in near.core.carriers)
                errors[0] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
                near.connections[0].abort()
                await until(lambda: near.last_error is not None and near.last_error.reason.value == "dns")
                assert not near.core.ready

    run_loop(scenario())


def test_session_returns_to_the_preferred_endpoint(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made before the old one is given up: bytes flow all the time, and the session stays the same."""
    monkeypatch.setattr(moves, "RETURN_AFTER", 0.3)

    async def scenario() -> None:
        preferred = free_port()
        async with Mta() as mta, target(tmp_path, mta) as (a, hub_b):
            add_b(a, hub_b, f"127.0.0.1:{preferred}", endpoint_of(hub_b))
            async with running(a) as hub_a:
                await up(hub_a, "b")
                near = link(hub_a, "b")
                session = near.core.sessions[0].sid
                assert dialled(hub_a) == endpoint_of(hub_b)
                async with connected(mail_port(hub_a, "b")) as (_, writer):
                    far_reader, _ = await mta.next()
                    sent, stop = bytearray(), asyncio.Event()

                    async def send() -> None:
                        while not stop.is_set():
                            block = os.urandom(8192)
                            sent.extend(block)
                            writer.write(block)
                            await writer.drain()
                            await asyncio.sleep(0.002)
                        writer.write_eof()

                    sending = asyncio.get_running_loop().create_task(send())
                    receiving = asyncio.get_running_loop().create_task(read_all(far_reader))
                    await until(lambda: near.dialler.moves._returns > 1)  # tried, and nobody is there yet
                    assert dialled(hub_a) == endpoint_of(hub_b)
                    listening = (tmp_path / "b" / "hubtunnel.toml").read_text()
                    both = listening.replace('["127.0.0.1:0"]', f'["127.0.0.1:0", "127.0.0.1:{preferred}"]')
                    (tmp_path / "b" / "hubtunnel.toml").write_text(both)
                    await hub_b.reload()
                    await until(lambda: len(near.core.carriers) == 1 and dialled(hub_a) == f"127.0.0.1:{preferred}")
                    stop.set()
                    await sending
                    assert await receiving == bytes(sent)
                assert near.core.sessions[0].sid == session
                assert near.local.reset == 0
                await until(lambda: near.dialler.moves.at == float("inf"))  # nothing is better than this

    run_loop(scenario())


def test_a_return_that_hangs_does_not_hold_up_a_dial_that_is_needed(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preferred endpoint drops SYNs; while it is tried the carrier breaks: the other one is dialled at once."""
    monkeypatch.setattr(moves, "RETURN_AFTER", 0.05)

    async def scenario() -> None:
        async with Mta() as mta, target(tmp_path, mta) as (a, hub_b):
            with black_hole() as dead:
                add_b(a, hub_b, dead, endpoint_of(hub_b))
                async with running(a) as hub_a:
                    near = link(hub_a, "b")
                    await up(hub_a, "b")
                    await until(lambda: near.dialler.phase == "dialing")
                    (before,) = near.core.carriers
                    near.dialler._backoff.reset()
                    near.connections[0].abort()
                    await until(
                        lambda: near.core.ready and before not in near.core.carriers, dialler.CONNECT_TIMEOUT / 2
                    )
                    assert near.core.sessions[0].resumed == 1

    run_loop(scenario())


def test_returns_are_tried_ever_later(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "RETURN_AFTER", 0.05)
    tried: list[float] = []

    async def scenario() -> None:
        async with Mta() as mta, target(tmp_path, mta) as (a, hub_b):
            add_b(a, hub_b, f"127.0.0.1:{free_port()}", endpoint_of(hub_b))
            async with running(a) as hub_a:
                near = link(hub_a, "b")
                hub_a.services.random = lambda: 1.0
                await up(hub_a, "b")
                done = near.dialler.moves.done
                near.dialler.moves.done = lambda *args: tried.append(time.monotonic()) or done(*args)  # type: ignore[assignment, func-returns-value]
                await until(lambda: len(tried) == 4)
                gaps = [later - sooner for sooner, later in itertools.pairwise(tried)]
                assert gaps[0] >= 0.1
                assert gaps[1] >= 0.2
                assert gaps[2] >= 0.4
                assert near.core.ready

    run_loop(scenario())


def test_mail_that_waits_makes_back_off_shorter(run_loop: RunLoop, tmp_path: Path) -> None:
    """A peer that is back after a long absence is dialled within the time for which the MTA is held, not after 30 s."""

    async def scenario() -> None:
        port = free_port()
        a, b = Place(tmp_path / "a", "a").make(), Place(tmp_path / "b", "b").make(listen=f"127.0.0.1:{port}")
        async with Mta() as mta:
            b.add_peer(a, deliver=mta.address)
            a.add_peer(b, endpoints=[f"127.0.0.1:{port}"])
            async with running(a) as hub_a:
                near = link(hub_a, "b")
                await until(lambda: near.last_error is not None)
                hub_a.services.random = lambda: 0.9999
                near.dialler._backoff._random = lambda: 0.9999
                near.dialler._backoff.attempts = 100
                near.dialler._next_at = None
                near.dialler.wake()
                await until(lambda: near.dialler.phase == "backoff" and (near.dialler._next_at or 0) > near.now() + 20)
                async with running(b), talking(hub_a, "b", mta) as talk:
                    await talk.back(b"220\r\n")

    run_loop(scenario())


def test_dials_to_absent_peers_wait_for_one_another_and_mail_does_not(run_loop: RunLoop, tmp_path: Path) -> None:
    """Thousands of dials to others are due before: this one comes behind them, unless somebody waits for it."""

    async def scenario() -> None:
        a = Place(tmp_path / "a", "a").make()
        a.add_peer("b", card=Place(tmp_path / "b", "b").card, endpoints=[f"127.0.0.1:{free_port()}"])
        async with running(a) as hub_a:
            near = link(hub_a, "b")
            await until(lambda: near.last_error is not None)
            near.dialler._backoff._random = lambda: 0.0
            near.dialler._backoff.attempts = 100
            for _ in range(2000):
                hub_a.services.pace.slot(near.now())
            near.dialler._next_at = None
            near.dialler.wake()
            await until(lambda: near.dialler.phase == "backoff" and (near.dialler._next_at or 0) > near.now() + 90)
            dials = near.dialler._backoff.attempts
            near.dialler.demand()
            await until(lambda: near.dialler._backoff.attempts > dials, 4.0)

    run_loop(scenario())


def test_an_idle_dialler_sleeps_and_still_misses_nothing(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No polling: while all is well it asks for nothing. A session that ends in whatever way is replaced at once."""

    async def scenario() -> None:
        async with Mta() as mta, target(tmp_path, mta) as (a, hub_b):
            add_b(a, hub_b, endpoint_of(hub_b))
            async with running(a) as hub_a:
                await up(hub_a, "b")
                near, far = link(hub_a, "b"), link(hub_b, "a")
                slept: list[float] = []
                sleep = near.dialler._sleep

                def noted(seconds: float) -> None:
                    slept.append(seconds)
                    sleep(seconds)

                near.dialler._sleep = noted  # type: ignore[method-assign]
                near.dialler.wake()
                await until(lambda: slept)
                assert slept == [float("inf")]
                for end in (near, far):
                    before = near.core.sessions[0].sid
                    end.core.sessions[0].close(Code.PROTOCOL, "test", end.now())
                    end.touch()
                    await until(lambda before=before: near.core.ready and near.core.sessions[-1].sid != before, 4.0)
                    near.dialler._backoff.reset()
                # Of this end nothing is heard for a minute: the peer reads nothing, and does not answer CLOSE.
                far.connections[0].transport.pause_reading()
                dials = near.dialler._backoff.attempts
                near.core.sessions[-1].close(Code.PROTOCOL, "test", near.now())
                near.touch()
                await until(lambda: near.dialler._backoff.attempts > dials, 4.0)

    run_loop(scenario())


def test_a_responder_dials_by_itself_when_nobody_comes_back(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RS11: after its grace, which goes by without anything happening."""
    monkeypatch.setattr(c, "RESPONDER_DIAL_AFTER", 0.4)

    async def scenario() -> None:
        async with Mta() as mta, target(tmp_path, mta) as (a, hub_b), Mta() as seen:
            add_b(a, hub_b, endpoint_of(hub_b))
            async with running(a) as hub_a:
                await up(hub_a, "b")
                hub_b_place = Place(tmp_path / "b", "b")
                hub_b_place.add_peer(a, deliver=mta.address, endpoints=[f"127.0.0.1:{seen.address[1]}"])
                await hub_b.reload()
                await link(hub_a, "b").dialler.stop()
                link(hub_a, "b").connections[0].abort()
                began = time.monotonic()
                await seen.next()
                assert 0.3 < time.monotonic() - began < 10.0  # at `linger`, 20 s, it would look anyway

    run_loop(scenario())


@pytest.mark.parametrize("how", ["reset", "end"])
def test_a_handshake_that_is_broken_off_is_not_called_silence(run_loop: RunLoop, tmp_path: Path, how: str) -> None:
    """What a hub that stops, or is at its limit, does to a dial. Silence would make its admin look for wrong keys."""

    async def scenario() -> None:
        async with Mta() as rude, Mta() as mta, target(tmp_path, mta) as (a, hub_b):
            add_b(a, hub_b, f"127.0.0.1:{rude.address[1]}")
            async with running(a) as hub_a:
                near = link(hub_a, "b")
                reader, writer = await rude.next()
                if how == "reset":
                    sockets.reset(writer.transport)
                else:
                    await read_exactly(reader, c.M1_LEN)
                    writer.close()
                await until(lambda: near.last_error is not None)
                assert near.last_error is not None
                line = near.last_error.line
                said = "Connection reset by peer" if how == "reset" else "closed by the other side"
                assert line.startswith(
                    f"refused: 127.0.0.1:{rude.address[1]}: broken off during the handshake ({said})"
                )

    run_loop(scenario())


def test_a_hub_without_endpoints_only_accepts(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta, target(tmp_path, mta) as (_, hub_b):
            async with connected(mail_port(hub_b, "a")):
                await until(lambda: link(hub_b, "a").local.relays)
            link(hub_b, "a").dialler.promising()
            await asyncio.sleep(0.05)
            assert link(hub_b, "a").dialler.phase == "idle"
            assert link(hub_b, "a").dialler._backoff.attempts == 0

    run_loop(scenario())
