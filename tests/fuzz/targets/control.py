"""The control socket: what anybody who may connect can write there, and what a command takes for an answer."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack

from hubtunnel.daemon import control
from tests.fuzz.choices import Choices, pieces, require
from tests.fuzz.targets.files import folder


async def _echo(asked: Mapping[str, Any]) -> control.Answer:
    assert asked[control.CALLER] == os.geteuid()
    return {"asked": dict(asked)}


@functools.cache
def loop() -> asyncio.AbstractEventLoop:
    """One event loop for all inputs."""
    return asyncio.new_event_loop()


def request(data: bytes) -> None:
    """A request, in pieces, with the right length before it or a length of its own: answered, or nobody is there."""
    choices = Choices(data)
    honest = choices.below(4) != 0
    cuts = Choices(choices.take(4))
    body = choices.rest()
    stream = len(body).to_bytes(4, "big") + body if honest else body
    try:
        answer = loop().run_until_complete(_answer(pieces(stream, cuts)))
    except EOFError:
        assert not honest
        return
    assert isinstance(answer["ok"], bool)
    assert "log says" not in answer.get("error", ""), "an error that nobody foresaw"
    msgpack.packb(answer)


async def _answer(parts: list[bytes]) -> control.Answer:
    reader = asyncio.StreamReader()
    server = control.ControlServer(Path("/nonexistent"), {"echo": _echo})
    answer = asyncio.ensure_future(server._answer(reader, os.geteuid()))
    for part in parts:
        if part:
            reader.feed_data(part)
        await asyncio.sleep(0)
    reader.feed_eof()
    return await answer


class Impostor:
    """Something that listens where the daemon should and answers every request with the same bytes."""

    def __init__(self) -> None:
        self.path = folder() / "control.sock"
        self.says = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self.path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._socket.accept()[0] as connection, suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(self.says)


@functools.cache
def impostor() -> Impostor:
    """One for all inputs."""
    return Impostor()


def answer(data: bytes) -> None:
    """What stands at the socket need not be our daemon: a command says so, and does not believe everything."""
    impostor().says = data if data[:1] >= b"\xf0" else len(data).to_bytes(4, "big") + data
    try:
        found = control.request(impostor().path, "status", timeout=5.0)
    except (control.ControlUnavailable, control.ControlRefused) as error:
        require(str(error) or isinstance(error, control.ControlRefused), "an error without a text")
        return
    assert found["ok"]
