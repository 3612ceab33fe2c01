"""Messages to systemd."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtunnel.daemon.notify import Notifier


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
