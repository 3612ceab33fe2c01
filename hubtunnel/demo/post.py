"""Sending the demo's letters with the standard library's SMTP client, many sessions at once."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from hubtunnel.demo.letters import Letter

TIMEOUT_S = 30.0
ROUND_S = 0.01


@dataclass
class Posted:
    """What the clients saw: sessions, messages that got a 250, and every error, in words."""

    sessions: int = 0
    accepted: int = 0
    errors: list[str] = field(default_factory=list)

    def add(self, other: Posted) -> None:
        """Take the counts of another batch into this one."""
        self.sessions += other.sessions
        self.accepted += other.accepted
        self.errors += other.errors


class PostOffice:
    """At most `clients` SMTP sessions at once; smtplib blocks, so each has a thread while it lasts.

    As a context manager: leaving it, also by an exception, breaks what is still under way and waits for the threads.
    """

    def __init__(self, clients: int) -> None:
        self.clients = clients
        self._pool = ThreadPoolExecutor(clients, thread_name_prefix="smtp-client")
        self._open: set[smtplib.SMTP] = set()

    def __enter__(self) -> PostOffice:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        while clients := list(self._open):
            for client in clients:
                if client.sock is not None:  # None: it connects just now, and is met in the next round
                    with contextlib.suppress(OSError):
                        client.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it; close() would not
            time.sleep(ROUND_S)
        self._pool.shutdown(wait=True)

    async def send(
        self,
        port: int,
        sessions: Sequence[Sequence[Letter]],
        *,
        helo: str,
        sent: Callable[[Letter], None] = lambda letter: None,
    ) -> Posted:
        """Send `sessions`, each a list of letters over one connection, to `port` on loopback.

        `sent` is called in the event loop for each letter that got its 250. Errors are collected, not raised: a
        session ends at its first.
        """
        loop = asyncio.get_running_loop()
        posted = Posted()

        def accepted(letter: Letter) -> None:
            posted.accepted += 1
            sent(letter)

        async def one(letters: Sequence[Letter]) -> None:
            def report(letter: Letter) -> None:
                loop.call_soon_threadsafe(accepted, letter)

            try:
                await loop.run_in_executor(self._pool, self._session, port, letters, helo, report)
            except (smtplib.SMTPException, OSError) as error:
                posted.errors.append(f"{letters[0].recipient}: {type(error).__name__}: {error}")
            posted.sessions += 1

        await asyncio.gather(*map(one, sessions))
        return posted

    def _session(self, port: int, letters: Sequence[Letter], helo: str, report: Callable[[Letter], None]) -> None:
        """One SMTP session, in a thread: connect, EHLO, the letters one after the other, QUIT."""
        with smtplib.SMTP(local_hostname=helo, timeout=TIMEOUT_S) as client:
            self._open.add(client)
            try:
                code, greeting = client.connect("127.0.0.1", port)
                if code != 220:
                    raise smtplib.SMTPConnectError(code, greeting)
                for letter in letters:
                    client.sendmail(letter.sender, [letter.recipient], letter.content, ["BODY=8BITMIME"])
                    report(letter)
            finally:
                self._open.discard(client)


async def greeting(port: int) -> str:
    """The first line that an SMTP client sees on `port`; empty when the connection ends without one.

    Raises TimeoutError when neither comes, OSError when nobody listens.
    """
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            return (await reader.readline()).decode(errors="replace").strip()
