"""What a stranger sees (nothing, for a while, then FIN), what we see of him, and that nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hubtunnel.daemon import dialler
from hubtunnel.daemon.carrier import AcceptedConnection
from hubtunnel.daemon.hub import Hub
from hubtunnel.daemon.workers import Workers
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.handshake import Initiator, Responder
from hubtunnel.protocol.pair import HintTable
from tests.conftest import RunLoop
from tests.daemon.hubs import (
    HOUR,
    Mta,
    Pair,
    Place,
    connected,
    endpoint_of,
    link,
    mail_port,
    pair,
    read_exactly,
    running,
    signed_card,
    talking,
    until,
)

LEAST, JITTER = 0.4, 0.2  # seconds of the handshake's deadline and its jitter in these tests


@pytest.fixture(autouse=True)
def _short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "HANDSHAKE_TIMEOUT", LEAST)
    monkeypatch.setattr(c, "HANDSHAKE_JITTER", JITTER)


def causes(hub: Hub) -> dict[str, int]:
    """What the hub counted, but for who merely left or said too little."""
    return {cause: n for cause, n in hub.services.knocks.total.items() if cause not in ("left", "timeout")}


async def knock(hub: Hub, data: bytes) -> tuple[bytes, float]:
    """Send `data` and read to the end: what came, and after how many seconds. A reset would raise."""
    host, _, port = endpoint_of(hub).rpartition(":")
    began = time.monotonic()
    async with connected((host, int(port))) as (reader, writer):
        writer.write(data)
        async with asyncio.timeout(10):
            said = await reader.read(-1)
    return said, time.monotonic() - began


def assert_silent(seen: tuple[bytes, float]) -> None:
    """Not one byte, FIN and no RST, and not before the deadline."""
    said, seconds = seen
    assert said == b""
    assert LEAST <= seconds < LEAST + JITTER + 1.5


def first_message(hub: Hub) -> bytes:
    """A genuine M1 of hub a for b."""
    context = link(hub, "b").contexts[0]
    initiator = Initiator(context, time.time(), hub.services.seeds(context.own))
    job = initiator.next_job()
    assert job is not None
    initiator.job_done(job, job.run())
    return initiator.data_to_send()


@contextlib.asynccontextmanager
async def conversation(hubs: Pair, mta: Mta) -> AsyncIterator[None]:
    """An SMTP conversation of a and b that goes on before and after; their carrier must be the same one."""
    carriers = list(link(hubs.a, "b").core.carriers)
    async with talking(hubs.a, "b", mta) as talk:
        await talk.back(b"220\r\n")
        yield
        await talk.there(b"QUIT\r\n")
    assert link(hubs.a, "b").core.carriers == carriers


JUNK = {
    "nothing": (b"", None),
    "one byte": (b"\x01", None),
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "version"),
    "wrong version": (b"\x02" + bytes(5000), "version"),
    "unknown hint": (b"\x01" + bytes(16), "unknown_hint"),
    "much": (b"\x01" + bytes(1 << 20), "unknown_hint"),
}


@pytest.mark.parametrize("kind", JUNK)
def test_stranger(run_loop: RunLoop, tmp_path: Path, kind: str) -> None:
    data, cause = JUNK[kind]

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs, conversation(hubs, mta):
            assert_silent(await knock(hubs.b, data))
            if cause is None:
                assert hubs.b.services.knocks.total["timeout"] == 1
            assert causes(hubs.b) == ({} if cause is None else {cause: 1})
            await until(lambda: hubs.b.services.admission.pending == 0)

    run_loop(scenario())


def _flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda m1: m1[:at] + bytes((m1[at] ^ 1,)) + m1[at + 1 :]


M1_MISTAKES: dict[str, tuple[Callable[[bytes], bytes], str | None]] = {
    "version": (_flipped(0), "version"),
    "hint": (_flipped(9), "unknown_hint"),
    "x25519": (_flipped(20), "bad_gate"),
    "mlkem": (_flipped(700), "bad_gate"),
    "ciphertext": (_flipped(1800), "bad_gate"),
    "gate": (_flipped(2336), "bad_gate"),
    "truncated": (lambda m1: m1[:-1], None),
    "hint alone": (lambda m1: m1[:17], None),
}


@pytest.mark.parametrize("kind", M1_MISTAKES)
def test_first_message_with_a_mistake(run_loop: RunLoop, tmp_path: Path, kind: str) -> None:
    spoil, cause = M1_MISTAKES[kind]

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs, conversation(hubs, mta):
            assert_silent(await knock(hubs.b, spoil(first_message(hubs.a))))
            assert causes(hubs.b) == ({} if cause is None else {cause: 1})

    run_loop(scenario())


def test_genuine_first_message_is_answered_and_its_replay_is_not(run_loop: RunLoop, tmp_path: Path) -> None:
    """The control of the tests above: the same bytes unspoilt get M2, once."""

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs, conversation(hubs, mta):
            m1 = first_message(hubs.a)
            said, _ = await knock(hubs.b, m1)
            assert len(said) == c.M2_LEN
            assert_silent(await knock(hubs.b, m1))
            assert causes(hubs.b) == {"replay": 1}

    run_loop(scenario())


def test_reflected_first_message(run_loop: RunLoop, tmp_path: Path) -> None:
    """Our own M1, sent back to us."""

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs, conversation(hubs, mta):
            assert_silent(await knock(hubs.a, first_message(hubs.a)))
            assert causes(hubs.a) == {"unknown_hint": 1}

    run_loop(scenario())


def test_wrong_auth_i_drains_and_empties_the_pins_bucket(run_loop: RunLoop, tmp_path: Path) -> None:
    """Whoever holds a pair key but no private key gets M2; after twenty wrong auth_I not even that, for a while."""

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs, conversation(hubs, mta):
            host, _, port = endpoint_of(hubs.b).rpartition(":")
            for number in range(21):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(first_message(hubs.a))
                if number < 20:
                    await read_exactly(reader, c.M2_LEN)
                    writer.write(bytes(32))
                    await until(lambda n=number: causes(hubs.b).get("bad_auth", 0) == n + 1)  # type: ignore[misc]
                else:
                    async with asyncio.timeout(10):
                        assert await reader.read(-1) == b""
                writer.close()
            assert causes(hubs.b) == {"bad_auth": 20, "bucket": 1}

    run_loop(scenario())


# --- hubs that do not fit together ---------------------------------------------------------------------------------


async def _never_meet(a: Place, b: Place, cause: str | None) -> None:
    """a dials b and hears nothing; b stays up, says nothing, and counts `cause`."""
    async with running(b) as hub_b:
        path = a.folder / "peers.d" / "mx.b.example.toml"
        path.write_text(path.read_text().replace("endpoints = []", f'endpoints = ["{endpoint_of(hub_b)}"]'))
        async with running(a) as hub_a:
            await until(lambda: link(hub_a, "b").last_error is not None)
            error = link(hub_a, "b").last_error
            assert error is not None
            assert error.reason.value == "silent"
            if cause is None:
                assert "not dialled" in error.text
                assert not hub_b.services.knocks.total
            else:
                await until(lambda: causes(hub_b).get(cause))
            assert not link(hub_b, "a").core.sessions


@pytest.fixture
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialler, "HANDSHAKE_TIMEOUT", 0.3)


@pytest.mark.usefixtures("_patience")
def test_peer_that_does_not_know_us(run_loop: RunLoop, tmp_path: Path) -> None:
    """Wrong pin: b has pinned another hub in our place."""

    async def scenario() -> None:
        a, b = Place(tmp_path / "a", "a").make(), Place(tmp_path / "b", "b").make()
        a.add_peer(b)
        b.add_peer(Place(tmp_path / "c", "c"))
        b_with_a = b.folder / "peers.d"
        assert not (b_with_a / "mx.a.example.toml").exists()
        async with running(b) as hub_b:
            path = a.folder / "peers.d" / "mx.b.example.toml"
            path.write_text(path.read_text().replace("endpoints = []", f'endpoints = ["{endpoint_of(hub_b)}"]'))
            async with running(a) as hub_a:
                await until(lambda: link(hub_a, "b").last_error is not None)
                await until(lambda: causes(hub_b).get("unknown_hint"))

    run_loop(scenario())


@pytest.mark.usefixtures("_patience")
def test_psk_on_one_side(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        a, b = Place(tmp_path / "a", "a").make(), Place(tmp_path / "b", "b").make()
        psk = tmp_path / "psk"
        psk.write_text(bytes(range(32)).hex())
        psk.chmod(0o600)
        a.add_peer(b, extra=f'psk_file = "{psk}"')
        b.add_peer(a)
        await _never_meet(a, b, "unknown_hint")

    run_loop(scenario())


@pytest.mark.usefixtures("_patience")
def test_psk_that_differs(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        a, b = Place(tmp_path / "a", "a").make(), Place(tmp_path / "b", "b").make()
        for place, other, start in ((a, b, 0), (b, a, 1)):
            psk = place.folder / "psk"
            psk.write_text(bytes(range(start, start + 32)).hex())
            psk.chmod(0o600)
            place.add_peer(other, extra=f'psk_file = "{psk}"')
        await _never_meet(a, b, "unknown_hint")

    run_loop(scenario())


@pytest.mark.usefixtures("_patience")
def test_psk_on_both_sides(run_loop: RunLoop, tmp_path: Path) -> None:
    """The control: with the same psk they meet."""

    async def scenario() -> None:
        psk = tmp_path / "psk"
        psk.write_text(bytes(range(32)).hex())
        psk.chmod(0o600)
        async with (
            Mta() as mta,
            pair(tmp_path / "hubs", mta.address, extra=f'psk_file = "{psk}"') as hubs,
            connected(mail_port(hubs.a, "b")),
        ):
            await mta.next()

    run_loop(scenario())


@pytest.mark.usefixtures("_patience")
def test_expired_link_key_of_the_peer(run_loop: RunLoop, tmp_path: Path) -> None:
    """Its window ended more than the slack of an hour ago: not dialled, and the text says why."""

    async def scenario() -> None:
        now = int(time.time())
        a = Place(tmp_path / "a", "a").make()
        b = Place(tmp_path / "b", "b", begin=now - 9 * HOUR, end=now - 2 * HOUR).make()
        a.add_peer(b)
        b.add_peer(a)
        await _never_meet(a, b, None)

    run_loop(scenario())


@pytest.mark.usefixtures("_patience")
def test_link_key_that_has_expired_for_the_responder(run_loop: RunLoop, tmp_path: Path) -> None:
    """a believes b's key to be good, b knows that it has expired (a later card of b that a does not have)."""

    async def scenario() -> None:
        now = int(time.time())
        a = Place(tmp_path / "a", "a").make()
        b = Place(tmp_path / "b", "b", begin=now - 9 * HOUR, end=now - 2 * HOUR).make()
        a.add_peer(b, card=signed_card("b", now - 9 * HOUR, now + 9 * HOUR))
        b.add_peer(a)
        await _never_meet(a, b, "unknown_hint")

    run_loop(scenario())


@pytest.mark.usefixtures("_patience")
@pytest.mark.parametrize(("minutes", "meets"), [(59, True), (-59, True), (121, False), (-121, False)])
def test_clocks_apart(run_loop: RunLoop, tmp_path: Path, minutes: int, meets: bool) -> None:
    """A dialler whose clock is off by less than an hour is known; by more than two it is a stranger."""

    async def scenario() -> None:
        begin = int(time.time()) - 9 * HOUR
        a, b = Place(tmp_path / "a", "a", begin=begin).make(), Place(tmp_path / "b", "b", begin=begin).make()
        b.add_peer(a)
        async with running(b) as hub_b:
            a.add_peer(b)
            async with running(a) as hub_a:
                hub_a.services.unix_time = lambda: time.time() + 60 * minutes
                path = a.folder / "peers.d" / "mx.b.example.toml"
                path.write_text(path.read_text().replace("endpoints = []", f'endpoints = ["{endpoint_of(hub_b)}"]'))
                await hub_a.reload()
                if meets:
                    await until(lambda: link(hub_a, "b").core.ready)
                else:
                    await until(lambda: causes(hub_b).get("unknown_hint"))
                    await until(lambda: link(hub_a, "b").last_error is not None)

    run_loop(scenario())


def test_connection_that_is_let_go_before_it_is_made(run_loop: RunLoop) -> None:
    """A hub that ends while the loop still makes a transport: nothing is raised, and the transport does not stay."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        closed: list[AcceptedConnection] = []
        connection = AcceptedConnection(
            Workers(loop),
            Responder(HintTable([], time.time()), lambda _: bytes(96)),
            loop.time() + 60,
            may_work=lambda _: True,
            on_established=lambda _connection, _established: None,
            on_failed=lambda _connection, _cause: None,
            on_closed=closed.append,
        )
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
            accepted, _ = server.accept()
            accepted.setblocking(False)
            connection.abort()
            await loop.connect_accepted_socket(lambda: connection, accepted)
            await until(lambda: closed == [connection])

    run_loop(scenario())
