"""A session with the SMTP sink through a way: what it takes to measure single round trips and whole deliveries."""

from __future__ import annotations

import smtplib
import socket
import ssl
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

_REPLY_MAX = 4096


class Dialogue:
    """One SMTP session that has been greeted, on a blocking socket that ends with it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        try:
            self._reply(b"220")
            self.command(b"EHLO bench.example\r\n")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Dialogue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def command(self, line: bytes, code: bytes = b"250") -> float:
        """Say it and wait for the whole reply; seconds that took."""
        began = time.perf_counter()
        self._socket.sendall(line)
        self._reply(code)
        return time.perf_counter() - began

    def noop(self) -> float:
        """The smallest round trip that SMTP has, seconds."""
        return self.command(b"NOOP\r\n")

    def _reply(self, code: bytes) -> None:
        reply = b""
        while not (reply.endswith(b"\n") and reply.rstrip(b"\r\n").rpartition(b"\n")[2][3:4] != b"-"):
            more = self._socket.recv(_REPLY_MAX)
            if not more:
                raise AssertionError(f"the connection was closed where {code!r} was due: {reply!r}")
            reply += more
        if not reply.startswith(code):
            raise AssertionError(f"{code!r} was due: {reply!r}")


class _Client(smtplib.SMTP):
    """smtplib, with sockets made where we want them."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        super().__init__("far.example", local_hostname="bench.example")

    def _get_socket(self, *_: Any) -> socket.socket:
        return self._connect()


def deliver(connect: Callable[[], socket.socket], length: int, tls: ssl.SSLContext | None = None) -> float:
    """One message on one new connection, by Python's smtplib, without pipelining; seconds until the last 250."""
    message = b"Subject: one message\r\n\r\n" + (b"x" * 76 + b"\r\n") * (length // 78)
    began = time.perf_counter()
    client = _Client(connect)
    try:
        if tls is not None:
            client.starttls(context=tls)
        client.sendmail("load@a.example", ["rcpt@b.example"], message)
        seconds = time.perf_counter() - began
        client.quit()
    finally:
        client.close()
    return seconds
