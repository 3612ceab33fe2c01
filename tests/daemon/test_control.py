"""The control socket: who is served, what is refused, what is left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest

from hubtunnel.daemon import control
from hubtunnel.daemon.control import ControlRefused, ControlServer, ControlUnavailable, request
from hubtunnel.errors import ConfigError, HubtunnelError
from tests.conftest import RunLoop


async def echo(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"asked": dict(asked)}


async def fail(asked: Mapping[str, Any]) -> dict[str, Any]:
    raise HubtunnelError("no such peer")


async def mistakes(asked: Mapping[str, Any]) -> dict[str, Any]:
    raise ConfigError(["a: one", "b: two"])


async def bug(asked: Mapping[str, Any]) -> dict[str, Any]:
    raise KeyError("secret detail")


HANDLERS = {"echo": echo, "fail": fail, "mistakes": mistakes, "bug": bug}


def served(run_loop: RunLoop, path: Path, ask: Callable[[], Any]) -> Any:
    """Run `ask` in a thread while a server answers at `path`."""

    async def scenario() -> Any:
        server = ControlServer(path, HANDLERS)
        await server.start()
        try:
            return await asyncio.get_running_loop().run_in_executor(None, ask)
        finally:
            await server.stop()

    return run_loop(scenario())


def test_request(run_loop: RunLoop, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    answer = served(run_loop, path, lambda: request(path, "echo", peer="b", count=3, raw=b"\0"))
    assert answer == {
        "ok": True,
        "asked": {"command": "echo", "peer": "b", "count": 3, "raw": b"\0", control.CALLER: os.geteuid()},
    }
    assert not path.exists()


def test_who_asks_is_the_kernels_word(run_loop: RunLoop, tmp_path: Path) -> None:
    """Whatever a request claims."""
    path = tmp_path / "control.sock"
    answer = served(run_loop, path, lambda: request(path, "echo", **{control.CALLER: 4_000_000}))
    assert answer["asked"][control.CALLER] == os.geteuid()


def test_mode(run_loop: RunLoop, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    mode = served(run_loop, path, lambda: path.stat().st_mode)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


def test_refusals(run_loop: RunLoop, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    def ask() -> None:
        with pytest.raises(ControlRefused, match="no such peer"):
            request(path, "fail")
        with pytest.raises(ControlRefused) as caught:
            request(path, "mistakes")
        assert caught.value.problems == ["a: one", "b: two"]
        with pytest.raises(ControlRefused, match="knows no command 'nothing'"):
            request(path, "nothing")
        with pytest.raises(ControlRefused) as caught:
            request(path, "bug")
        assert "secret" not in str(caught.value)

    served(run_loop, path, ask)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        struct.pack(">I", 1 << 30) + b"x",
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        struct.pack(">I", 1) + msgpack.packb(7),
        struct.pack(">I", 2) + msgpack.packb({7: 7})[:2],
    ],
)
def test_junk_is_answered_no_and_harms_nobody(run_loop: RunLoop, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "control.sock"

    def ask() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(path))
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(9999)
        if answer:
            assert msgpack.unpackb(answer[4:])["ok"] is False
        assert request(path, "echo")["ok"]

    served(run_loop, path, ask)


def test_other_users_are_not_served(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's word counts, not the socket's mode: here the one who asks is made to be neither root nor us."""
    path = tmp_path / "control.sock"
    monkeypatch.setattr(control, "_UCRED", _OtherUser())

    def ask() -> None:
        with pytest.raises(ControlUnavailable, match="went away"):
            request(path, "echo")

    served(run_loop, path, ask)


class _OtherUser:
    size = struct.calcsize("3i")

    def unpack(self, data: bytes) -> tuple[int, int, int]:
        pid, uid, gid = struct.unpack("3i", data)
        assert (pid, uid) == (os.getpid(), os.geteuid())
        return pid, 4_000_000, gid


def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(ControlUnavailable, match="no daemon runs here"):
        request(tmp_path / "control.sock", "status")


def test_path_that_no_socket_can_have(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 108)
    with pytest.raises(ControlUnavailable, match="at most 107"):
        request(path, "status")
    with pytest.raises(ControlUnavailable, match="at most 107"):
        control.bind(path)


def test_file_of_a_daemon_that_died_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    control.bind(path).close()
    assert path.exists()
    with pytest.raises(ControlUnavailable, match="no daemon runs here"):
        request(path, "status")
    control.bind(path).close()


def test_living_daemon_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with control.bind(path), pytest.raises(ControlUnavailable, match="another daemon runs"):
        control.bind(path)


def test_what_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(ControlUnavailable, match="not a socket"):
        control.bind(path)
    assert path.read_text() == "precious"


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ControlUnavailable, match="its folder must exist"):
        control.bind(tmp_path / "none" / "control.sock")


def test_daemon_that_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with control.bind(path), pytest.raises(ControlUnavailable, match="did not answer within"):
        request(path, "status", timeout=0.1)


def test_something_else_that_answers(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with control.bind(path) as sock:
        sock.setblocking(True)
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        near, _ = sock.accept()
        near.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with client, near, pytest.raises(ControlUnavailable, match="not this version"):
            control._read_message(client, time.monotonic() + 5)
