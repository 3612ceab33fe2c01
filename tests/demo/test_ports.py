"""A reserved port can be listened on by whom it was given to, and by nobody who was not told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from hubtunnel.demo.ports import Ports


def test_a_server_can_listen_on_it_again_and_again(run_loop: Callable[[Any], Any]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        writer.close()

    async def scene(port: int) -> None:
        for _ in range(3):
            server = await asyncio.start_server(serve, "127.0.0.1", port)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b"here"
            writer.close()
            server.close()
            await server.wait_closed()

    with Ports() as ports:
        run_loop(scene(ports.reserve()))


def test_nobody_listens_until_then() -> None:
    with Ports() as ports, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports.reserve()), timeout=5)


def test_the_kernel_gives_it_to_nobody_else() -> None:
    with Ports() as ports, Ports() as others:
        mine = {ports.reserve() for _ in range(200)}
        theirs = {others.reserve() for _ in range(200)}
        assert len(mine) == len(theirs) == 200
        assert not mine & theirs


def test_it_is_free_afterwards() -> None:
    with Ports() as ports:
        port = ports.reserve()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))
