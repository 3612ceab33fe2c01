"""Messages to systemd (sd_notify(3)); silently nothing where there is no systemd."""

from __future__ import annotations

import os
import socket
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_WATCHDOG_PARTS = 3  # signs of life in the time after which systemd gives the daemon up


class Notifier:
    """Sends to the datagram socket that `$NOTIFY_SOCKET` names (a path, or an abstract name after ``@``)."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self.alive_every = _watchdog_seconds(environ) / _WATCHDOG_PARTS if self._address else 0.0  # seconds; 0: never

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), address)
        except OSError:
            # A supervisor that went away is no reason to stop carrying mail.
            return

    def ready(self, status: str) -> None:
        """Start-up, or a reload, is complete."""
        self._send("READY=1", f"STATUS={_line(status)}")

    def reloading(self) -> None:
        """A reload begins; the clock is what systemd ≥ 253 demands for Type=notify-reload."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, seconds: float) -> None:
        """Draining begins and may take so long; systemd is asked for that much patience."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int((seconds + 10) * 1_000_000)}", "STATUS=draining")

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        self._send(f"STATUS={_line(text)}")

    @contextmanager
    def alive(self, loop: AbstractEventLoop) -> Iterator[None]:
        """While inside, the loop itself says that it turns; one that hangs is ended by systemd and started anew."""
        timer: TimerHandle | None = None

        def tell() -> None:
            nonlocal timer
            self._send("WATCHDOG=1")
            timer = loop.call_later(self.alive_every, tell)

        if self.alive_every:
            tell()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    """`WatchdogSec` of the unit, as sd_watchdog_enabled(3) reads it; 0 without, and where another process is meant."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return max(0, int(environ.get("WATCHDOG_USEC", "0"))) / 1_000_000
    except ValueError:
        return 0.0


def _line(text: str) -> str:
    return " ".join(text.split())
