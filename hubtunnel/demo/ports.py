"""Ports on loopback that nobody takes between choosing and using them."""

from __future__ import annotations

import socket
from typing import Self


class Ports:
    """Reserved TCP ports of 127.0.0.1, as a context manager.

    A daemon is told its ports before it binds them. A port that was only looked up could meanwhile go to any program
    that asks the kernel for one, so each stays bound here, without listening. Linux lets a second socket bind and
    listen on it as long as both have SO_REUSEADDR, which servers of asyncio and uvloop set, and gives it to nobody who
    has not named it.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for sock in self._held:
            sock.close()
        self._held.clear()

    def reserve(self) -> int:
        """A port of its own, held until the context ends."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._held.append(sock)
        # Without the option while the kernel chooses, so that it does not choose a port that somebody else holds alike.
        sock.bind(("127.0.0.1", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port: int = sock.getsockname()[1]
        return port
