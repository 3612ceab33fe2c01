"""The clients and the mail server of the demo, joined directly, through the tap, and through a tap that does harm."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubtunnel.demo.letters import needles, write_letter
from hubtunnel.demo.post import PostOffice, greeting
from hubtunnel.demo.search import search
from hubtunnel.demo.sink import Sink
from hubtunnel.demo.tap import Harm, Tap, Way

Run = Callable[[Any], Any]
MARK = b"ABCDEFGHIJKLMNOP"
LIMIT_S = 40


def letters(sizes: list[int]) -> list[Any]:
    return [write_letter(n, "near.example", "far.example", size, MARK) for n, size in enumerate(sizes)]


def test_mail_arrives_as_it_was_sent(run_loop: Run) -> None:
    mail = letters([1_000] * 20 + [50_000] * 5 + [2_000_000])

    async def scene() -> None:
        sent: list[Any] = []
        async with asyncio.timeout(LIMIT_S), Sink("far.example", proxy=False) as sink:
            with PostOffice(clients=8) as office:
                sessions = [mail[:10], *([letter] for letter in mail[10:])]
                posted = await office.send(sink.port, sessions, helo="near.example", sent=sent.append)
            assert posted.errors == []
            assert (posted.sessions, posted.accepted) == (17, 26)
            assert sorted(map(id, sent)) == sorted(map(id, mail))
            verdict = sink.compare(mail)
            assert verdict.clean
            assert verdict.identical == 26
            assert sink.bytes == sum(letter.size for letter in mail)

    run_loop(scene())


def test_the_control_finds_every_needle_in_plain_smtp(run_loop: Run, tmp_path: Path) -> None:
    mail = letters([1_000, 300_000])

    async def scene() -> None:
        async with (
            asyncio.timeout(LIMIT_S),
            Sink("far.example", proxy=False) as sink,
            Tap(("127.0.0.1", sink.port), tmp_path) as tap,
        ):
            with PostOffice(clients=2) as office:
                await office.send(tap.port, [[letter] for letter in mail], helo="near.example")
            found = search(tap.recordings(), needles(MARK))
            assert found.found_all, found.hits
            assert found.hits["letters"] >= 300_000 // 64
            assert search(tap.recordings(), needles(b"QQQQQQQQQQQQQQQQ")).hits["letters"] == 0

    run_loop(scene())


def test_harm_on_a_plain_connection_shows_in_the_comparison(run_loop: Run, tmp_path: Path) -> None:
    mail = letters([400_000, 400_000])

    async def scene() -> None:
        async with (
            asyncio.timeout(LIMIT_S),
            Sink("far.example", proxy=False) as sink,
            Tap(("127.0.0.1", sink.port), tmp_path) as tap,
        ):
            with PostOffice(clients=1) as office:
                tap.arm(Harm.FLIP, Way.OUT, 200_000)
                assert (await office.send(tap.port, [mail[:1]], helo="near.example")).errors == []
                tap.arm(Harm.CUT, Way.OUT, 200_000)
                posted = await office.send(tap.port, [mail[1:]], helo="near.example")
            assert len(posted.errors) == 1
            assert "letter-1@far.example" in posted.errors[0]
            verdict = sink.compare(mail)
            assert verdict.altered == ["letter-0@far.example"]
            assert verdict.missing == ["letter-1@far.example"]
            assert not verdict.clean
            assert verdict.faults() == "1 missing (letter-1@far.example), 1 altered (letter-0@far.example)"

    run_loop(scene())


def test_a_sink_that_ends_lets_go_of_clients_that_stay(run_loop: Run) -> None:
    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S):
            async with Sink("far.example", proxy=False) as sink:
                reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
                assert (await reader.readline()).startswith(b"220 far.example")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run_loop(scene())


def test_a_letter_that_came_twice_is_noticed(run_loop: Run) -> None:
    mail = letters([1_000])

    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), Sink("far.example", proxy=False) as sink:
            with PostOffice(clients=1) as office:
                await office.send(sink.port, [[mail[0], mail[0]]], helo="near.example")
            assert sink.compare(mail).doubled == ["letter-0@far.example"]

    run_loop(scene())


def test_a_letter_under_another_sender_is_altered(run_loop: Run) -> None:
    mail = letters([1_000])
    forged = write_letter(0, "elsewhere.example", "far.example", 1_000, MARK)

    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), Sink("far.example", proxy=False) as sink:
            with PostOffice(clients=1) as office:
                await office.send(sink.port, [[forged]], helo="near.example")
            assert sink.compare(mail).altered == ["letter-0@far.example"]

    run_loop(scene())


def test_a_sink_behind_a_hub_wants_a_proxy_header(run_loop: Run) -> None:
    header = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([192, 0, 2, 7, 127, 0, 0, 1]) + b"\x10\x00\x00\x19"

    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S), Sink("far.example", proxy=True) as sink:
            reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
            writer.write(header)
            assert (await reader.readline()).startswith(b"220 far.example")
            writer.write(b"QUIT\r\n")
            assert (await reader.read()).startswith(b"221")
            writer.close()
            assert (sink.proxied, sink.sources) == (1, {"192.0.2.7"})
            reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
            writer.write(b"EHLO no.header.example\r\n" * 3)
            assert await reader.read() == b"", "no header: closed without a greeting"
            writer.close()
            assert sink.proxied == 1

    run_loop(scene())


def test_kept_mail_lies_in_files(run_loop: Run, tmp_path: Path) -> None:
    mail = letters([1_000, 2_000, 1_000])

    async def scene() -> list[str]:
        async with asyncio.timeout(LIMIT_S), Sink("far.example", proxy=False) as sink:
            with PostOffice(clients=1) as office:
                await office.send(sink.port, [mail[:1]], helo="near.example")
                sink.keep_in = tmp_path
                await office.send(sink.port, [mail[1:]], helo="near.example")
            return [sink.kept.get_nowait().name, sink.kept.get_nowait().name]

    assert run_loop(scene()) == ["0001.eml", "0002.eml"]
    head = b"Return-Path: <alice@near.example>\r\nDelivered-To: letter-1@far.example\r\n"
    assert (tmp_path / "0001.eml").read_bytes() == head + mail[1].content
    assert len(list(tmp_path.iterdir())) == 2


def test_an_error_of_the_server_is_reported_in_its_words(run_loop: Run) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"421 4.4.1 hubtunnel: far.example: refused\r\n")
        writer.close()

    async def scene() -> None:
        async with asyncio.timeout(LIMIT_S):
            server = await asyncio.start_server(refuse, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            with PostOffice(clients=1) as office:
                posted = await office.send(port, [letters([1_000])], helo="near.example")
            assert posted.accepted == 0
            assert "421" in posted.errors[0]
            assert "4.4.1 hubtunnel: far.example: refused" in posted.errors[0]
            assert await greeting(port) == "421 4.4.1 hubtunnel: far.example: refused"
            server.close()
            await server.wait_closed()

    run_loop(scene())


@pytest.mark.timeout(60)
def test_leaving_the_post_office_breaks_sessions_that_hang(run_loop: Run) -> None:
    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            with PostOffice(clients=2) as office:
                work = asyncio.ensure_future(
                    office.send(mute.getsockname()[1], [letters([1_000])] * 2, helo="near.example")
                )
                accepted = [await asyncio.to_thread(mute.accept) for _ in range(2)]
                work.cancel()
            for connection, _ in accepted:
                connection.close()
            await asyncio.gather(work, return_exceptions=True)

    run_loop(scene())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("smtp-client")]
