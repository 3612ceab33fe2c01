"""What the MTA is told while a peer cannot be reached: one line, the fixed codes, and only before the first byte."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from hubtunnel.daemon import dialler
from hubtunnel.daemon.hub import Hub
from hubtunnel.protocol.constants import RESTART_CEILING
from tests.conftest import RunLoop
from tests.daemon.hubs import (
    PATIENCE,
    Mta,
    Place,
    connected,
    endpoint_of,
    free_port,
    link,
    mail_port,
    pair,
    read_all,
    read_exactly,
    running,
    talking,
    until,
    up,
)

HOLD = 'hold = "200ms"\n'


async def told(hub: Hub) -> str:
    """What our MTA reads when it connects for peer b: all of it, up to a clean end."""
    async with connected(mail_port(hub, "b")) as (reader, _writer):
        said = (await read_all(reader)).decode("ascii")
    assert said.startswith("421 4.4.1 hubtunnel: mx.b.example: ")
    assert said.endswith("\r\n")
    assert said.count("\n") == 1
    assert len(said) <= 512
    return said.removeprefix("421 4.4.1 hubtunnel: mx.b.example: ")


def lone(folder: Path, endpoints: list[str]) -> Place:
    """Hub a, which knows b, which is not there."""
    place = Place(folder / "a", "a").make(times=HOLD)
    place.add_peer(Place(folder / "b", "b"), endpoints=endpoints)
    return place


def code_of(hub: Hub) -> str:
    error = link(hub, "b").last_error
    return "" if error is None else error.reason.value


def test_refused(run_loop: RunLoop, tmp_path: Path) -> None:
    endpoint = f"127.0.0.1:{free_port()}"

    async def scenario() -> None:
        async with running(lone(tmp_path, [endpoint])) as hub:
            assert (await told(hub)).startswith(f"refused: {endpoint}: Connection refused")
            assert code_of(hub) == "refused"

    run_loop(scenario())


def test_unreachable(run_loop: RunLoop, tmp_path: Path) -> None:
    """255.255.255.255 is an address to which no system opens a TCP connection."""

    async def scenario() -> None:
        async with running(lone(tmp_path, ["255.255.255.255:2625"])) as hub:
            assert (await told(hub)).startswith("unreachable: 255.255.255.255:2625: Network is unreachable")

    run_loop(scenario())


def test_dns(run_loop: RunLoop, tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    async def no_such_name(host: str, port: int) -> list[str]:
        asked.append((host, port))
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def scenario() -> None:
        async with running(lone(tmp_path, ["mx.b.invalid:2625"])) as hub:
            hub.services.resolve = no_such_name
            link(hub, "b").dialler.promising()
            await until(lambda: code_of(hub) == "dns")
            assert (await told(hub)).startswith("dns: mx.b.invalid:2625: name does not resolve: Name or service")
            await until(lambda: len(asked) > 1)  # anew on every dial
            assert set(asked) == {("mx.b.invalid", 2625)}

    run_loop(scenario())


def test_name_is_resolved_and_endpoints_are_tried_in_order(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        a, b = Place(tmp_path / "a", "a").make(), Place(tmp_path / "b", "b").make()
        b.add_peer(a)
        async with running(b) as hub_b:
            port = endpoint_of(hub_b).rpartition(":")[2]
            a.add_peer(b, endpoints=[f"127.0.0.1:{free_port()}", f"mx.b.example:{port}"])
            async with running(a) as hub_a:

                async def resolve(host: str, port: int) -> list[str]:
                    assert host == "mx.b.example"
                    return ["255.255.255.255", "127.0.0.1"]

                hub_a.services.resolve = resolve
                link(hub_a, "b").dialler.promising()
                await up(hub_a, "b")

    run_loop(scenario())


def test_timeout(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full drops SYNs, as a firewall does."""
    monkeypatch.setattr(dialler, "CONNECT_TIMEOUT", 0.2)

    async def scenario() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            name = full.getsockname()
            fillers = [socket.socket() for _ in range(8)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(name)
            async with running(lone(tmp_path, [f"127.0.0.1:{name[1]}"])) as hub:
                await until(lambda: code_of(hub) == "timeout")
                assert (await told(hub)).startswith(f"timeout: 127.0.0.1:{name[1]}: no TCP connection")
            for filler in fillers:
                filler.close()

    run_loop(scenario())


def test_timeout_before_the_first_dial_ended(run_loop: RunLoop, tmp_path: Path) -> None:
    """`hold` is shorter than a dial: what is known by then is said."""

    async def scenario() -> None:
        never: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

        async def resolve(host: str, port: int) -> list[str]:
            return await never

        async with running(lone(tmp_path, ["mx.b.invalid:2625"])) as hub:
            hub.services.resolve = resolve
            link(hub, "b").dialler.failure = None
            link(hub, "b").dialler.promising()
            await until(lambda: link(hub, "b").dialler.phase == "dialing")
            link(hub, "b").dialler.failure = None
            assert (await told(hub)).startswith("timeout: mx.b.invalid:2625: no TCP connection yet")
            never.cancel()

    run_loop(scenario())


@pytest.mark.parametrize("says", [b"", b"220 not a hub\r\n"], ids=["nothing", "greeting"])
def test_silent(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: bytes) -> None:
    """What listens there is no hub: it says nothing that helps, for the whole time."""
    monkeypatch.setattr(dialler, "HANDSHAKE_TIMEOUT", 0.2)

    async def scenario() -> None:
        async with Mta() as other, running(lone(tmp_path, [f"127.0.0.1:{other.address[1]}"])) as hub:
            (await other.next())[1].write(says)
            await until(lambda: code_of(hub) == "silent")
            text = await told(hub)
            assert text.startswith(f"silent: 127.0.0.1:{other.address[1]} accepted the connection")
            for cause in ("may not hold our card 1", "a clock may be off", "a PSK on one side", "may be no hub"):
                assert cause in text

    run_loop(scenario())


def test_auth(run_loop: RunLoop, tmp_path: Path) -> None:
    """An answer of the right length that does not verify is a security event."""

    async def scenario() -> None:
        async with Mta() as other, running(lone(tmp_path, [f"127.0.0.1:{other.address[1]}"])) as hub:
            reader, writer = await other.next()
            await read_exactly(reader, 2337)
            writer.write(bytes(2240))
            await until(lambda: code_of(hub) == "auth")
            assert (await told(hub)).startswith("auth: 127.0.0.1:")

    run_loop(scenario())


def test_never(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(lone(tmp_path, [])) as hub:
            text = await told(hub)
            assert text.startswith(
                "never: it dials us (no endpoints here) and has not dialled since this daemon started"
            )

    run_loop(scenario())


def test_told_that_the_far_mta_is_down(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pair(tmp_path, ("127.0.0.1", free_port())) as hubs:
            assert (await told(hubs.a)).startswith("told: mta_unreachable: the tunnel is up")
            assert link(hubs.a, "b").core.ready

    run_loop(scenario())


def test_told_that_the_carrier_comes_from_loopback(run_loop: RunLoop, tmp_path: Path) -> None:
    """A PROXY header with a loopback address would make the MTA trust the peer as its own user."""

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address, proxy="v2") as hubs:
            assert (await told(hubs.a)).startswith("told: mta_unreachable")
            assert mta.connections.empty()

    run_loop(scenario())


def test_told_that_the_peer_is_draining(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            Mta() as mta,
            pair(tmp_path, mta.address, times=HOLD + 'drain = "10s"\n') as hubs,
            connected(mail_port(hubs.a, "b")) as (reader, writer),
        ):
            _far_reader, far_writer = await mta.next()
            draining = asyncio.get_running_loop().create_task(hubs.b.drain())
            await until(lambda: not link(hubs.a, "b").core.ready)
            assert (await told(hubs.a)).startswith("told: restart: the peer is restarting")
            far_writer.write(b"250 taken\r\n")  # what runs goes on
            far_writer.write_eof()
            writer.write_eof()
            assert await read_all(reader) == b"250 taken\r\n"
            async with asyncio.timeout(PATIENCE):
                await draining

    run_loop(scenario())


def test_told_the_peers_limit(run_loop: RunLoop, tmp_path: Path) -> None:
    """b allows one stream at a time; a, which would allow more, passes on what b says."""

    async def scenario() -> None:
        async with (
            Mta() as mta,
            pair(tmp_path, mta.address, b_settings="[limits]\nstreams_per_peer = 1\n") as hubs,
            talking(hubs.a, "b", mta),
        ):
            assert (await told(hubs.a)).startswith("told: limit: the peer is at its limit")

    run_loop(scenario())


def test_told_our_own_limit(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = "[limits]\nstreams_per_peer = 1\n"
        async with (
            Mta() as mta,
            pair(tmp_path, mta.address, settings=settings) as hubs,
            connected(mail_port(hubs.a, "b")),
        ):
            await mta.next()
            assert (await told(hubs.a)).startswith("told: limit: 2 connections for this peer")

    run_loop(scenario())


def test_peer_that_comes_up_within_hold_is_not_told_of(run_loop: RunLoop, tmp_path: Path) -> None:
    """The MTA connects while the peer is down; the peer comes up; the MTA's connection is carried."""

    async def scenario() -> None:
        a, b = Place(tmp_path / "a", "a").make(), Place(tmp_path / "b", "b")
        b.make(listen=f"127.0.0.1:{free_port()}")
        async with Mta() as mta:
            b.add_peer(a, deliver=mta.address)
            a.add_peer(b, endpoints=[b.config.read_text().split('listen = ["')[1].split('"')[0]])
            async with running(a) as hub_a:
                await until(lambda: code_of(hub_a) == "refused")
                async with connected(mail_port(hub_a, "b")) as (reader, writer):
                    writer.write(b"early")
                    async with running(b):
                        link(hub_a, "b").dialler.promising()
                        far_reader, far_writer = await mta.next()
                        assert await read_exactly(far_reader, 5) == b"early"
                        far_writer.write(b"220 b\r\n")
                        assert await read_exactly(reader, 7) == b"220 b\r\n"

    run_loop(scenario())


def test_down_then_up_again(run_loop: RunLoop, tmp_path: Path) -> None:
    """The peer's daemon stops and a new one comes: told in between, carried afterwards."""

    async def scenario() -> None:
        port = free_port()
        a, b = Place(tmp_path / "a", "a").make(times=HOLD), Place(tmp_path / "b", "b").make(listen=f"127.0.0.1:{port}")
        async with Mta() as mta:
            b.add_peer(a, deliver=mta.address)
            a.add_peer(b, endpoints=[f"127.0.0.1:{port}"])
            async with running(a) as hub_a:
                for _ in range(2):
                    async with running(b):
                        link(hub_a, "b").dialler.promising()
                        await up(hub_a, "b")
                        async with connected(mail_port(hub_a, "b")):
                            await mta.next()
                    await until(lambda: not link(hub_a, "b").core.ready)
                    assert (await told(hub_a)).startswith(("told: restart", "refused: "))

    run_loop(scenario())


def test_a_peer_that_said_that_it_restarts_is_dialled_soon(run_loop: RunLoop, tmp_path: Path) -> None:
    """However long it was dialled in vain before: who cannot be dialled back would be without it for half a minute."""

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            near = link(hubs.a, "b")
            near.dialler._backoff._random = lambda: 0.9999
            near.dialler._backoff.attempts = 100
            await hubs.b.end()
            await until(lambda: near.dialler.phase == "backoff" and near.dialler.failure is not None)
            assert near.dialler._next_at is not None
            assert near.dialler._next_at <= near.now() + RESTART_CEILING

    run_loop(scenario())


def test_a_hub_that_says_goodbye_accepts_nobody(run_loop: RunLoop, tmp_path: Path) -> None:
    """Whoever dials as soon as he hears it is refused. A dial that is accepted then could only end in silence."""
    dials: list[type[OSError] | None] = []

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            carriers = hubs.b.gate.addresses[0]

            def dial_at_once(name: str, up: bool) -> None:
                try:
                    socket.create_connection(carriers, timeout=5).close()
                except OSError as exc:
                    dials.append(type(exc))
                else:
                    dials.append(None)

            dial_at_once("", False)
            hubs.a.services.peer_changed = dial_at_once
            await hubs.b.end()
            await until(lambda: len(dials) > 1)

    run_loop(scenario())
    assert dials == [None, ConnectionRefusedError]


def test_client_that_gives_up_while_it_waits(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(lone(tmp_path, [])) as hub:
            local = link(hub, "b").local
            async with connected(mail_port(hub, "b")):
                await until(lambda: local.relays)
            await until(lambda: not local.relays)
            assert local.refused == 0

    run_loop(scenario())
