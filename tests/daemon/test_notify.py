"""Messages to systemd."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtunnel.daemon.notify import Notifier
from tests.conftest import RunLoop


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@hubtunnel-test-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        sock.settimeout(5)
        yield sock, name


def test_messages(supervisor: tuple[socket.socket, str]) -> None:
    sock, name = supervisor
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("1 of 2\npeers up")
    assert sock.recv(999) == b"READY=1\nSTATUS=1 of 2 peers up"
    notifier.status("x")
    assert sock.recv(999) == b"STATUS=x"
    notifier.stopping(120)
    assert sock.recv(999) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=130000000\nSTATUS=draining"


def test_reloading_carries_the_clock(supervisor: tuple[socket.socket, str]) -> None:
    """Without MONOTONIC_USEC systemd waits for five minutes."""
    sock, name = supervisor
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Notifier({"NOTIFY_SOCKET": name}).reloading()
    first, second = sock.recv(999).decode().splitlines()
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_nobody_there(tmp_path: Path) -> None:
    Notifier({}).ready("x")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "60000000"}, 20.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getppid())}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
    ],
)
def test_how_often_life_is_shown(environ: dict[str, str], seconds: float) -> None:
    assert Notifier({"NOTIFY_SOCKET": "@x", **environ}).alive_every == pytest.approx(seconds)
    assert Notifier(environ).alive_every == 0.0, "nobody to tell"


def test_the_loop_itself_shows_that_it_turns(run_loop: RunLoop, supervisor: tuple[socket.socket, str]) -> None:
    """Signs of life come while it turns, none while something holds it up, and none after the end."""
    sock, name = supervisor
    sock.setblocking(False)
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "60000"})

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with notifier.alive(loop):
            for _ in range(4):
                assert await loop.sock_recv(sock, 999) == b"WATCHDOG=1"
            time.sleep(5 * notifier.alive_every)  # noqa: ASYNC251 - the fault that is looked for
            assert arrived(sock) <= 1
            assert await loop.sock_recv(sock, 999) == b"WATCHDOG=1"
        arrived(sock)
        await asyncio.sleep(3 * notifier.alive_every)
        assert arrived(sock) == 0

    run_loop(scenario())


def test_no_watchdog_asked_for(run_loop: RunLoop, supervisor: tuple[socket.socket, str]) -> None:
    sock, name = supervisor
    sock.setblocking(False)

    async def scenario() -> None:
        with Notifier({"NOTIFY_SOCKET": name}).alive(asyncio.get_running_loop()):
            await asyncio.sleep(0.02)

    run_loop(scenario())
    assert arrived(sock) == 0


def arrived(sock: socket.socket) -> int:
    """How many messages wait; they are taken."""
    count = 0
    while True:
        try:
            sock.recv(999)
        except BlockingIOError:
            return count
        count += 1
