"""Mail on the fault bench: senders that keep to a timetable and note every delay, and sinks that note every arrival."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from aiosmtpd.smtp import SMTP, Envelope, Session

from hubtunnel.demo.letters import Letter, new_marker, write_letter
from hubtunnel.demo.sink import Arrived, Sink
from tests.e2e.forward import Address
from tests.e2e.namespaces import Namespace

MEDIAN = 10 * 1024
LARGE = 5 * 1024 * 1024
ANSWER_WITHIN = 600.0  # seconds that an SMTP client waits for the answer to a final dot (RFC 5321, 4.5.3.2.6)
PER_SESSION = 10
SESSIONS = 60  # of one sender at once, at most
RETRY_AFTER = 0.5
_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class Task:
    """A letter to be: its number, size in bytes, and when it is due, in seconds after the start."""

    number: int
    size: int
    due: float


def timetable(count: int, large: int, seconds: float, *, seed: int, first: int = 0) -> list[Task]:
    """`count` letters spread over `seconds`: sizes around a median of 10 KiB, `large` of them 5 MiB."""
    rng = random.Random(seed)
    sizes = [max(1024, min(1 << 20, round(MEDIAN * rng.lognormvariate(0.0, 1.0)))) for _ in range(count - large)]
    sizes += [LARGE] * large
    rng.shuffle(sizes)
    return [Task(first + n, size, seconds * n / count) for n, size in enumerate(sizes)]


class Outcome(StrEnum):
    """How one attempt to hand over a letter ended."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # an answer other than was expected
    BROKEN_BEFORE = "broken before the final dot was written"
    BROKEN_AFTER = "broken after the final dot was written"


class _RefusedError(Exception):
    """The server's answer."""


@dataclass
class Sender:
    """Hands letters to one hub when they are due, over SMTP sessions in one namespace.

    With `retry` it does what an MTA does with a session that breaks: the letter is tried again. Without, a session that
    breaks is a failure of the run.
    """

    namespace: Namespace
    address: Address
    name: str
    recipient: str
    tasks: Sequence[Task]
    retry: bool = False
    letters: dict[int, Letter] = field(default_factory=dict)  # by number; without their content
    accepted: set[int] = field(default_factory=set)
    delays: list[float] = field(default_factory=list)  # from when a letter was due to its 250
    attempts: dict[int, list[Outcome]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    under_way: int = 0  # letters between MAIL and 250
    sent_octets: int = 0

    def __post_init__(self) -> None:
        self._waiting: asyncio.Queue[Task | None] = asyncio.Queue()
        self._idle = 0
        self._marker = new_marker()
        self._open = len(self.tasks)
        self._dots: set[int] = set()  # letters whose final dot was written and that have no answer
        self._contents: dict[int, Letter] = {}  # only where letters may have to be sent again

    async def run(self) -> None:
        """All of the timetable, to its end."""
        self._began = time.monotonic()
        workers: set[asyncio.Task[None]] = set()
        try:
            for task in self.tasks:
                await asyncio.sleep(max(0.0, self._began + task.due - time.monotonic()))
                self._waiting.put_nowait(task)
                if self._waiting.qsize() > self._idle and len(workers) < SESSIONS:
                    workers.add(asyncio.create_task(self._worker()))
                for broken in [each for each in workers if each.done()]:
                    broken.result()
            while self._open:
                await asyncio.sleep(0.05)
                for broken in [each for each in workers if each.done()]:
                    broken.result()
        finally:
            for _ in workers:
                self._waiting.put_nowait(None)
            try:
                async with asyncio.timeout(ANSWER_WITHIN):
                    await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _next(self) -> Task | None:
        self._idle += 1
        try:
            return await self._waiting.get()
        finally:
            self._idle -= 1

    async def _worker(self) -> None:
        while (task := await self._next()) is not None:
            if not await self._session(task):
                return

    async def _session(self, task: Task | None) -> bool:
        """One SMTP session, until it has carried enough. False: no more is to come."""
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await self._connect()
            await _expect(reader, b"220")
            await _command(reader, writer, f"EHLO {self.name}\r\n".encode(), b"250")
            for left in reversed(range(PER_SESSION)):
                if task is not None:
                    await self._hand_over(reader, writer, task)
                task = await self._next() if left else None
                if left and task is None:
                    return False
            await _command(reader, writer, b"QUIT\r\n", b"221")
            if await reader.read(1):
                raise _RefusedError("bytes after 221")
        except (OSError, EOFError, TimeoutError, _RefusedError) as exc:
            self._trouble(task, exc)
        finally:
            if writer is not None:
                writer.transport.abort()
        return True

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = self.namespace.open_socket()
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, self.address)
            return await asyncio.open_connection(sock=sock, limit=_READ)
        except BaseException:
            sock.close()
            raise

    def _trouble(self, task: Task | None, exc: BaseException) -> None:
        number = "-" if task is None else task.number
        self.troubles.append(f"{time.monotonic() - self._began:.2f} s, letter {number}: {type(exc).__name__}: {exc}")
        if task is None or task.number in self.accepted:
            return
        tries = self.attempts.setdefault(task.number, [])
        if isinstance(exc, _RefusedError):
            tries.append(Outcome.REFUSED)
        elif not tries or tries[-1] is not Outcome.BROKEN_AFTER or not self._dotted(task):
            tries.append(Outcome.BROKEN_AFTER if self._dotted(task) else Outcome.BROKEN_BEFORE)
        self._dots.discard(task.number)
        if self.retry:
            asyncio.get_running_loop().call_later(RETRY_AFTER, self._waiting.put_nowait, task)
        else:
            self._open -= 1

    def _dotted(self, task: Task) -> bool:
        """Whether the final dot of the attempt under way was written."""
        return task.number in self._dots

    async def _hand_over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: Task) -> None:
        letter = self._letter(task)
        self.under_way += 1
        try:
            await _command(reader, writer, f"MAIL FROM:<{letter.sender}> BODY=8BITMIME\r\n".encode(), b"250")
            await _command(reader, writer, f"RCPT TO:<{letter.recipient}>\r\n".encode(), b"250")
            await _command(reader, writer, b"DATA\r\n", b"354")
            stuffed = letter.content.replace(b"\r\n.", b"\r\n..")
            async with asyncio.timeout(ANSWER_WITHIN):
                for at in range(0, len(stuffed), _READ):
                    _write(writer, stuffed[at : at + _READ])
                    await writer.drain()
            self._dots.add(task.number)
            await _command(reader, writer, b".\r\n", b"250")
        finally:
            self.under_way -= 1
        self._dots.discard(task.number)
        self.attempts.setdefault(task.number, []).append(Outcome.ACCEPTED)
        self.accepted.add(task.number)
        self.sent_octets += letter.size
        self.delays.append(time.monotonic() - self._began - task.due)
        self._open -= 1

    def _letter(self, task: Task) -> Letter:
        """The letter, the same at each attempt: what is kept of it is all but the content."""
        if task.number in self._contents:
            return self._contents[task.number]
        letter = write_letter(task.number, self.name, self.recipient, task.size, self._marker)
        self.letters[task.number] = Letter(letter.sender, letter.recipient, b"", letter.sha256)
        if self.retry:
            self._contents[task.number] = letter
        return letter


async def _command(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes, code: bytes) -> None:
    _write(writer, line)
    await _expect(reader, code)


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Raises `ConnectionResetError` where the transport is gone, of which uvloop makes a RuntimeError."""
    if writer.transport.is_closing():
        raise ConnectionResetError("the connection is gone")
    writer.write(data)


async def _expect(reader: asyncio.StreamReader, code: bytes) -> None:
    async with asyncio.timeout(ANSWER_WITHIN):
        while True:
            line = await reader.readline()
            if not line:
                raise EOFError("the server closed the connection")
            if not line.startswith(code):
                raise _RefusedError(f"{code.decode()} was expected: {line.decode(errors='replace').strip()}")
            if line[3:4] != b"-":
                return


class Harm(StrEnum):
    """What a dishonest sink does to a letter: the control, which shows that the comparison finds it."""

    LOSE = "lose"
    DOUBLE = "double"
    ALTER = "alter"


class NamespacedSink(Sink):
    """The demo's sink at an address inside a namespace; `harmed` names recipients whose letters it treats badly."""

    def __init__(self, name: str, namespace: Namespace, address: Address) -> None:
        super().__init__(name, proxy=True)
        self.harmed: dict[str, Harm] = {}
        self.answered: Counter[str] = Counter()  # letters that this server said 250 to, by recipient
        self._namespace = namespace
        self._address = address

    async def __aenter__(self) -> Self:
        sock = self._namespace.listen(*self._address)
        sock.setblocking(False)
        self._server = await asyncio.get_running_loop().create_server(self._session, sock=sock, backlog=256)
        self.port = self._address[1]
        return self

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """As the demo's, with the harm that was ordered."""
        self.answered.update(envelope.rcpt_tos)
        harm = next((self.harmed[recipient] for recipient in envelope.rcpt_tos if recipient in self.harmed), None)
        if harm is Harm.LOSE:
            return "250 2.0.0 kept"
        if harm is Harm.ALTER:
            assert isinstance(envelope.content, bytes)
            middle = len(envelope.content) // 2
            flipped = bytes((envelope.content[middle] ^ 1,))
            envelope.content = envelope.content[:middle] + flipped + envelope.content[middle + 1 :]
        answer = await super().handle_DATA(server, session, envelope)
        if harm is Harm.DOUBLE:
            await super().handle_DATA(server, session, envelope)
        return answer

    def times(self, recipient: str) -> int:
        """How often a letter is here."""
        return self.arrived.get(recipient, Arrived(b"", 0, "", 0)).times


@dataclass
class Account:
    """What became of the letters of some senders."""

    asked: int = 0
    accepted: int = 0
    identical: int = 0
    lost: int = 0
    altered: int = 0
    doubled: int = 0
    doubled_explained: int = 0  # each further copy stands against a 250 that its sender never saw
    troubles: list[str] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    octets: int = 0
    delays: list[float] = field(default_factory=list)

    def add(self, sender: Sender, sink: NamespacedSink) -> None:
        """Compare one sender's letters with the sink that should have them."""
        letters = [sender.letters[number] for number in sorted(sender.accepted)]
        verdict = sink.compare(letters)
        self.asked += len(sender.tasks)
        self.accepted += len(letters)
        self.lost += len(verdict.missing)
        self.altered += len(verdict.altered)
        for number in sorted(sender.letters):
            letter = sender.letters[number]
            tries = sender.attempts.get(number, [])
            copies = sink.times(letter.recipient)
            unseen = tries.count(Outcome.BROKEN_AFTER)
            if copies > 1:
                self.doubled += 1
                self.doubled_explained += copies - 1 <= unseen
            if copies and sink.arrived[letter.recipient].sha256 != letter.sha256 and number not in sender.accepted:
                self.altered += 1
            self.attempts.update(str(outcome) for outcome in tries)
        strangers = set(sink.arrived) - {letter.recipient for letter in sender.letters.values()}
        self.altered += len(strangers)  # letters under an address that nobody wrote to
        self.identical += verdict.identical
        self.troubles += sender.troubles
        self.octets += sender.sent_octets
        self.delays += sender.delays

    @property
    def exactly_once(self) -> bool:
        """Every letter of the timetable got its 250, and stands in the sink once, as it was sent."""
        return self.accepted == self.asked == self.identical and not (self.lost or self.altered or self.doubled)

    def figures(self) -> dict[str, Any]:
        """For the report."""
        return {
            "letters": self.asked,
            "accepted": self.accepted,
            "identical": self.identical,
            "lost": self.lost,
            "altered": self.altered,
            "doubled": self.doubled,
            "doubled_explained": self.doubled_explained,
            "sessions_broken": len(self.troubles),
            "broken": self.troubles[:10],
            "attempts": dict(self.attempts),
            "mail_bytes": self.octets,
            "delay_s": spread(self.delays),
        }


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, 99th percentile and worst."""
    ordered = sorted(values)
    if not ordered:
        return {}
    at = min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))
    return {
        "median": round(statistics.median(ordered), 4),
        "p99": round(ordered[at], 4),
        "worst": round(ordered[-1], 4),
    }


async def finished(*tasks: asyncio.Task[None]) -> None:
    """Wait for tasks; the first that fails takes the others with it."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(BaseException):
            await asyncio.gather(*tasks, return_exceptions=True)
