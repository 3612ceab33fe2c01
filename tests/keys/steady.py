"""A steady load of mail: so many messages a second over SMTP sessions that stay, each counted by its own recipient."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from hubtunnel.demo.letters import Letter, new_marker, write_letter

PER_SESSION = 200  # messages over one SMTP session, so that most see several changes of keys
ANSWER_WITHIN = 60.0
SIZE = 2048


@dataclass
class Steady:
    """Sends `rate` messages a second to one hub over `sessions` SMTP sessions until it is told to stop."""

    port: int
    sender: str
    recipient: str
    rate: float
    sessions: int
    first: int  # number of the first letter
    accepted: list[Letter] = field(default_factory=list)  # those with a 250
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0  # seconds from the first command of a message to its 250

    def __post_init__(self) -> None:
        self._stop = asyncio.Event()
        self._next = self.first
        self._marker = new_marker()

    def stop(self) -> None:
        """No new messages; those under way are finished."""
        self._stop.set()

    async def run(self) -> None:
        """Send. Never raises: what goes wrong is in `failures`."""
        await asyncio.gather(*(self._sender(n) for n in range(self.sessions)))

    async def _sender(self, number: int) -> None:
        step = self.sessions / self.rate
        due = time.monotonic() + step * number / self.sessions
        while not self._stop.is_set():
            try:
                due = await self._session(due, step)
            except (OSError, EOFError, ValueError, TimeoutError) as exc:
                self.failures.append(f"{type(exc).__name__}: {exc}")
                await asyncio.sleep(0.2)

    async def _session(self, due: float, step: float) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await _expect(reader, b"220")
            writer.write(f"EHLO {self.sender}\r\n".encode())
            await _expect(reader, b"250")
            for _ in range(PER_SESSION):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due - time.monotonic())):
                        await self._stop.wait()
                if self._stop.is_set():
                    break
                await self._message(reader, writer)
                due += step
            writer.write(b"QUIT\r\n")
            await _expect(reader, b"221")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return due

    async def _message(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._next += 1
        letter = write_letter(self._next, self.sender, self.recipient, SIZE, self._marker)
        began = time.monotonic()
        for command, code in (
            (f"MAIL FROM:<{letter.sender}> BODY=8BITMIME\r\n".encode(), b"250"),
            (f"RCPT TO:<{letter.recipient}>\r\n".encode(), b"250"),
            (b"DATA\r\n", b"354"),
            (letter.content.replace(b"\r\n.", b"\r\n..") + b".\r\n", b"250"),
        ):
            writer.write(command)
            await _expect(reader, code)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.accepted.append(letter)


async def _expect(reader: asyncio.StreamReader, code: bytes) -> None:
    async with asyncio.timeout(ANSWER_WITHIN):
        while True:
            line = await reader.readline()
            if not line.startswith(code):
                raise ValueError(f"{code.decode()} was expected: {line!r}")
            if line[3:4] != b"-":
                return
