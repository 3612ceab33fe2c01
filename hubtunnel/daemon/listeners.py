"""Accepting carriers: admission before anything is spent on a connection, and no spinning when descriptors run out."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from hubtunnel.daemon import sockets
from hubtunnel.daemon.logs import Throttle, event, log

_ACCEPTS_PER_TURN = 64
_BACK_OFF = 0.5  # seconds without accepting after descriptors or memory ran out


class CarrierListener:
    """Accepts on one socket and hands each connection to `accepted(sock, (host, port))`.

    When the process has no descriptor left, a reserved one is given up to accept the first in the queue and close it (a
    peer that is told at once tries later; one that hangs in the backlog waits), and accepting rests for half a second.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        accepted: Callable[[socket.socket, tuple[str, int]], None],
        throttle: Throttle,
        refused: Counter[str],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._accepted = accepted
        self._throttle = throttle
        self._refused = refused
        self._reserve = _spare()
        self._timer: asyncio.TimerHandle | None = None
        name = sock.getsockname()
        self.address: tuple[str, int] = (name[0], name[1])
        loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, name = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._refuse_one(exc)
                return
            sock.setblocking(False)
            self._accepted(sock, (name[0], name[1]))

    def _refuse_one(self, exc: OSError) -> None:
        held = self._throttle.allow("accept")
        if held is not None:
            event(log.error, "accept_failed", error=os.strerror(exc.errno or 0), repeated=held)
        if exc.errno in sockets.EXHAUSTED:
            self._refused["descriptors"] += 1
        if exc.errno in sockets.EXHAUSTED and self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
            with suppress(OSError):
                self._sock.accept()[0].close()
            self._reserve = _spare()
        self._loop.remove_reader(self._sock.fileno())
        self._timer = self._loop.call_later(_BACK_OFF, self._resume)

    def _resume(self) -> None:
        self._timer = None
        if self._reserve is None:
            self._reserve = _spare()
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def close(self) -> None:
        """Stop listening."""
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None


def _spare() -> int | None:
    try:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
