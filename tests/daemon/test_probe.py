"""The probe of the local MTA's listener: what passes, what fails and with which words, and what peers notice of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP

from hubtunnel.daemon import mtawatch, probe, sockets
from hubtunnel.daemon.hub import Hub
from hubtunnel.daemon.mtawatch import MtaWatch, MtaWatches
from hubtunnel.daemon.probe import MtaListener, ProbeError
from hubtunnel.daemon.status import hub_status
from tests.conftest import RunLoop
from tests.daemon.hubs import Pair, Place, connected, endpoint_of, free_port, link, mail_port, running, until, up

PRESENTED = ("198.51.100.7", 25)

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Handler:
    """Of aiosmtpd: takes every PROXY header and notes whom it named."""

    def __init__(self) -> None:
        self.sources: list[str] = []

    async def handle_PROXY(self, server: object, session: object, envelope: object, proxy_data: object) -> bool:
        self.sources.append(str(getattr(proxy_data, "src_addr", "")))
        return True


@contextlib.asynccontextmanager
async def smtp_server(*, proxy: bool, port: int = 0, handler: Handler | None = None) -> AsyncIterator[int]:
    """A real SMTP server, with or without a PROXY header to come first; its port."""
    loop = asyncio.get_running_loop()

    def session() -> SMTP:
        return SMTP(handler or Handler(), hostname="mta", proxy_protocol_timeout=1.0 if proxy else None, loop=loop)

    server = await loop.create_server(session, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def talker(talk: Talk) -> AsyncIterator[int]:
    """A server that behaves as `talk` does; its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError):
                await talk(reader, writer)
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(*said: bytes) -> Talk:
    """Each answer after one read, but the first, which comes by itself; then the end."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number, line in enumerate(said):
            if number:
                await reader.read(1000)
            writer.write(line)
            await writer.drain()

    return talk


def listener(port: int, proxy: str = "none") -> MtaListener:
    return MtaListener("127.0.0.1", port, proxy, "")


@pytest.mark.parametrize("kind", ["none", "v1", "v2"])
def test_real_server_that_is_configured_so_passes(run_loop: RunLoop, kind: str) -> None:
    async def scenario() -> None:
        handler = Handler()
        async with smtp_server(proxy=kind != "none", handler=handler) as port:
            await probe.probe(listener(port, kind), PRESENTED)
        assert handler.sources == ([] if kind == "none" else ["198.51.100.7"])

    run_loop(scenario())


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_real_server_that_expects_no_header(run_loop: RunLoop, kind: str) -> None:
    """What it answers would be taken for the answer to the sender's EHLO, and bounce."""

    async def scenario() -> None:
        async with smtp_server(proxy=False) as port:
            with pytest.raises(ProbeError, match=rf"to the PROXY header \({kind}\), which it seems not to expect"):
                await probe.probe(listener(port, kind), PRESENTED)

    run_loop(scenario())


def test_real_server_that_expects_a_header(run_loop: RunLoop) -> None:
    async def scenario() -> None:
        async with smtp_server(proxy=True) as port:
            with pytest.raises(ProbeError, match="without a greeting: does it expect a PROXY header"):
                await probe.probe(listener(port, "none"), PRESENTED)

    run_loop(scenario())


RIGHT: dict[str, tuple[bytes, ...]] = {
    "plain": (b"220 mta\r\n", b"221 bye\r\n"),
    "many lines": (b"220-mta\r\n220-no spam\r\n220 go on\r\n", b"221-bye\r\n221 bye\r\n"),
    "code alone": (b"220\r\n", b"221\r\n"),
    "bare line feeds": (b"220 mta\n", b"221 bye\n"),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_forms_of_replies_that_pass(run_loop: RunLoop, kind: str) -> None:
    async def scenario() -> None:
        async with talker(says(*RIGHT[kind])) as port:
            await probe.probe(listener(port), PRESENTED)

    run_loop(scenario())


WRONG: dict[str, tuple[tuple[bytes, ...], str]] = {
    "nothing": ((b"",), "closed the connection without a greeting"),
    "ssh": ((b"SSH-2.0-OpenSSH_9.2\r\n",), "says 'SSH-2.0-OpenSSH_9.2', which is not SMTP"),
    "imap": ((b"* OK ready\r\n",), "which is not SMTP"),
    "refusal": ((b"554 no service\r\n",), "greets with '554 no service', not with 220"),
    "busy": ((b"421 too many\r\n",), "greets with '421 too many', not with 220"),
    "half a reply": ((b"220-mta\r\n",), "without a greeting"),
    "no answer to QUIT": ((b"220 mta\r\n", b""), "without an answer to QUIT"),
    "another answer": ((b"220 mta\r\n", b"500 what\r\n"), "says '500 what' where only QUIT was to be answered"),
    "answers too often": ((b"220 mta\r\n", b"221 bye\r\n502 what\r\n"), "says '502 what'"),
    "endless line": ((b"220 " + bytes(9000),), "line of more than 2048 bytes"),
    "endless reply": ((b"220-mta\r\n" * 100,), "more than 64 lines"),
    "control characters": ((b"554 \x1b[31m\r\n",), r"greets with '554 \?\[31m'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_mta_fails(run_loop: RunLoop, kind: str) -> None:
    said, text = WRONG[kind]

    async def scenario() -> None:
        async with talker(says(*said)) as port:
            with pytest.raises(ProbeError, match=text):
                await probe.probe(listener(port), PRESENTED)

    run_loop(scenario())


def test_silent_listener_is_left_in_time(run_loop: RunLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT", 0.2)

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        async with talker(never) as port:
            with pytest.raises(TimeoutError):
                await probe.probe(listener(port), PRESENTED)

    run_loop(scenario())


# --- when it is asked ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def watching(what: MtaListener) -> AsyncIterator[MtaWatch]:
    loop = asyncio.get_running_loop()
    watches = MtaWatches(loop, lambda: 1_700_000_000.0)
    try:
        yield watches.of(what)
    finally:
        await watches.close()


def test_failing_listener_is_asked_ever_later(run_loop: RunLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded, whatever asks: mail for it brings the next probe forward, and not below the first wait."""
    monkeypatch.setattr(mtawatch, "FIRST_WAIT", 0.1)
    asked: list[float] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        async def refuse(what: MtaListener, presented: tuple[str, int]) -> None:
            asked.append(loop.time())
            raise ProbeError("no")

        monkeypatch.setattr(probe, "probe", refuse)
        async with watching(listener(25)) as watch:
            assert await watch.verdict() == "no"
            await until(lambda: len(asked) == 4)
            gaps = [later - sooner for sooner, later in itertools.pairwise(asked)]
            assert gaps[0] >= 0.09
            assert gaps[1] >= 0.19
            assert gaps[2] >= 0.39
            del asked[:-1]
            for _ in range(50):
                watch.ask()
                await asyncio.sleep(0.01)
            assert 3 <= len(asked) <= 7  # of half a second: neither 1, as it would be without mail, nor 50

    run_loop(scenario())


def test_another_peers_address_is_presented_after_a_failure(run_loop: RunLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An MTA that shuts out one peer's address must not stop the mail of all."""
    monkeypatch.setattr(mtawatch, "FIRST_WAIT", 0.01)

    async def scenario() -> None:
        async def refuse_one(what: MtaListener, presented: tuple[str, int]) -> None:
            if presented[0] in ("198.51.100.7", probe.NOBODY[0]):
                raise ProbeError("it greets with '554 not you', not with 220")

        monkeypatch.setattr(probe, "probe", refuse_one)
        async with watching(listener(25, "v2")) as watch:
            watch.presented("198.51.100.7")
            assert "554 not you" in (await watch.verdict() or "")
            watch.presented("198.51.100.8")
            await until(lambda: watch.passed)

    run_loop(scenario())


def test_lack_of_descriptors_says_nothing_about_the_mta(run_loop: RunLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtawatch, "FIRST_WAIT", 0.01)
    failures: list[OSError] = [OSError(24, "Too many open files")] * 3

    async def scenario() -> None:
        async def short_of_descriptors(what: MtaListener, presented: tuple[str, int]) -> None:
            if failures:
                raise failures.pop()

        monkeypatch.setattr(probe, "probe", short_of_descriptors)
        async with watching(listener(25)) as watch:
            assert await watch.verdict() is None
            assert watch.shown()["probes"] == 4

    run_loop(scenario())


# --- what peers notice -----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def hubs_before(folder: Path, port: int, *, probed: bool = True, proxy: str = "none") -> AsyncIterator[Pair]:
    """Hubs a and b, of which b hands mail to `port`."""
    a, b = Place(folder / "a", "a").make(), Place(folder / "b", "b").make()
    extra = 'present_as = "198.51.100.7"' if proxy != "none" else ""
    b.add_peer(a, deliver=("127.0.0.1", port), probe=probed, proxy=proxy, extra=extra)
    async with running(b) as hub_b:
        a.add_peer(b, endpoints=[endpoint_of(hub_b)])
        async with running(a) as hub_a:
            await up(hub_a, "b")
            yield Pair(hub_a, hub_b, a, b)


async def first_line(hub: Hub) -> str:
    """What an MTA behind the hub is greeted with when it connects for b."""
    async with connected(mail_port(hub, "b")) as (reader, writer), asyncio.timeout(10):
        line = await reader.readline()
        if line.startswith(b"220"):
            writer.write(b"QUIT\r\n")
            await reader.readline()
        return line.decode()


def state_of(hub: Hub) -> str:
    (shown,) = hub.services.mta.shown()
    return str(shown["state"])


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_mail_is_kept_from_a_listener_that_would_bounce_it(run_loop: RunLoop, tmp_path: Path, kind: str) -> None:
    """A plain SMTP listener and a PROXY header: 421 to the peer's MTA. The control: unprobed, 500 to its EHLO."""

    async def greeted(hub: Hub) -> list[str]:
        async with connected(mail_port(hub, "b")) as (reader, writer), asyncio.timeout(10):
            lines = [(await reader.readline()).decode()]
            if lines[0].startswith("220"):
                writer.write(b"EHLO a\r\n")
                lines.append((await reader.readline()).decode())
            return lines

    async def scenario() -> None:
        async with smtp_server(proxy=False) as port:
            async with hubs_before(tmp_path / "probed", port, proxy=kind) as hubs:
                (line,) = await greeted(hubs.a)
                assert line.startswith("421 4.4.1 hubtunnel: mx.b.example: told: mta_unreachable")
                assert state_of(hubs.b) == "failing"
                assert link(hubs.b, "a").local.refused == 1
            async with hubs_before(tmp_path / "control", port, probed=False, proxy=kind) as hubs:
                lines = await greeted(hubs.a)
                assert lines[0].startswith("220")
                assert lines[1].startswith("500")

    run_loop(scenario())


def test_mta_that_comes_back_is_used_at_once(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent at start: 421. There: 220. Gone again: noticed by the first stream. There again: 220."""
    monkeypatch.setattr(mtawatch, "FIRST_WAIT", 0.05)
    port = free_port()

    async def scenario() -> None:
        async with hubs_before(tmp_path, port) as hubs:
            for _ in range(2):
                assert (await first_line(hubs.a)).startswith("421 4.4.1 hubtunnel: mx.b.example: told: mta_unreachable")
                assert state_of(hubs.b) == "failing"
                assert last_error(hubs.a)["over"] is False
                async with smtp_server(proxy=False, port=port):
                    await until(lambda: state_of(hubs.b) == "passed")
                    assert (await first_line(hubs.a)).startswith("220 ")
                    await until(lambda: last_error(hubs.a)["over"])

    run_loop(scenario())


def last_error(hub: Hub) -> dict[str, Any]:
    """Of the hub's one peer, as `status` has it."""
    error: dict[str, Any] = hub_status(hub)["peers"][0]["last_error"]
    return error


def test_streams_wait_for_the_first_verdict(run_loop: RunLoop, tmp_path: Path) -> None:
    """While nothing is known yet no mail is risked; those who came meanwhile are served when the probe has passed."""

    async def scenario() -> None:
        greet = asyncio.Event()
        seen: list[bytes] = []

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await greet.wait()
            writer.write(b"220 mta\r\n")
            seen.append(await reader.readline())
            writer.write(b"221 bye\r\n")

        async with talker(slow) as port, hubs_before(tmp_path, port) as hubs:
            async with connected(mail_port(hubs.a, "b")) as (reader, writer), asyncio.timeout(10):
                await until(lambda: link(hubs.b, "a").local.relays)
                assert state_of(hubs.b) == "unknown"
                writer.write(b"EHLO early\r\n")
                greet.set()
                assert await reader.readline() == b"220 mta\r\n"
                assert await reader.readline() == b"221 bye\r\n"
            assert seen == [b"QUIT\r\n", b"EHLO early\r\n"]

    run_loop(scenario())


@pytest.mark.parametrize("with_reset", [True, False], ids=["reset", "end"])
def test_listener_that_ends_conversations_before_it_greets_is_probed(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_reset: bool
) -> None:
    """It passed once, and is something else now: the first conversation that it ends so is the last one it gets."""
    monkeypatch.setattr(mtawatch, "FIRST_WAIT", 0.01)

    async def scenario() -> None:
        broken = False

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not broken:
                await says(b"220 mta\r\n", b"221 bye\r\n")(reader, writer)
            elif with_reset:
                sockets.reset(writer.transport)

        async with talker(talk) as port, hubs_before(tmp_path, port) as hubs:
            await until(lambda: state_of(hubs.b) == "passed")
            broken = True
            line = await first_line(hubs.a)
            assert line.startswith("421 ") if with_reset else line == ""
            await until(lambda: state_of(hubs.b) == "failing")
            assert "mta_unreachable" in await first_line(hubs.a)
            broken = False
            await until(lambda: state_of(hubs.b) == "passed")

    run_loop(scenario())


def test_reload_probes_again_and_takes_another_listener(run_loop: RunLoop, tmp_path: Path) -> None:
    """From a port where nobody listens to one where an MTA does, and back: what was learned of the old one is gone."""

    async def scenario() -> None:
        async with smtp_server(proxy=False) as port:
            nobody = free_port()
            async with hubs_before(tmp_path, nobody) as hubs:
                assert (await first_line(hubs.a)).startswith("421")
                hubs.b_place.add_peer(hubs.a_place, deliver=("127.0.0.1", port), probe=True)
                await hubs.b.reload()
                assert (await first_line(hubs.a)).startswith("220 ")
                (shown,) = hubs.b.services.mta.shown()
                assert shown["address"] == f"127.0.0.1:{port}"
                assert shown["state"] == "passed"
                before = shown["probes"]
                await hubs.b.reload()
                await until(lambda: hubs.b.services.mta.shown()[0]["probes"] == before + 1)

    run_loop(scenario())


def test_source_address_is_the_probes_too(run_loop: RunLoop) -> None:
    """Where the MTA knows us by it, a probe from elsewhere would say nothing."""

    async def scenario() -> None:
        seen: list[str] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(writer.get_extra_info("peername")[0])
            await says(b"220 mta\r\n", b"221 bye\r\n")(reader, writer)

        async with talker(talk) as port:
            await probe.probe(MtaListener("127.0.0.1", port, "none", "127.0.0.25"), PRESENTED)
        assert seen == ["127.0.0.25"]

    run_loop(scenario())


def test_nobody_listens(run_loop: RunLoop) -> None:
    async def scenario() -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectionRefusedError):
                await probe.probe(listener(sock.getsockname()[1]), PRESENTED)

    run_loop(scenario())
