"""A mail server that keeps what it is given: the MTA behind each hub of the demo."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from hubtunnel.demo.letters import Letter

MAX_MESSAGE = 64 * 1024 * 1024
PROXY_TIMEOUT_S = 5.0


@dataclass
class Arrived:
    """What the sink saw under one recipient address."""

    sha256: bytes
    size: int
    sender: str
    times: int = 1


@dataclass
class Verdict:
    """A comparison of what was sent with what a sink holds."""

    identical: int = 0
    missing: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Every letter arrived once, and as it was sent."""
        return not (self.missing or self.altered or self.doubled)

    def add(self, other: Verdict) -> None:
        """Take the counts of another comparison into this one."""
        self.identical += other.identical
        self.missing += other.missing
        self.altered += other.altered
        self.doubled += other.doubled

    def faults(self) -> str:
        """What is wrong, with the first few names; empty when nothing is."""
        parts = []
        for word in ("missing", "altered", "doubled"):
            names: list[str] = getattr(self, word)
            if names:
                parts.append(f"{len(names)} {word} ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})")
        return ", ".join(parts)


class _Session(SMTP):
    """One client's connection; the sink knows of it as long as it stands."""

    def __init__(self, sink: Sink, **settings: Any) -> None:
        super().__init__(sink, **settings)
        self._sink = sink
        self._connection: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection = cast(asyncio.WriteTransport, transport)
        self._sink.begins(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._sink.ended(self)

    def abort(self) -> None:
        """Let go of the client, whatever it still says."""
        self._connection.abort()


class Sink:
    """An SMTP server on loopback, as an async context manager; `port` is its own choice.

    With `proxy`, every connection has to begin with a PROXY header, as a daemon sends it, and `proxied` counts them.
    Once `keep_in` names a folder, messages are written there too, and `kept` tells where each one is.
    """

    def __init__(self, name: str, *, proxy: bool) -> None:
        self.name = name
        self.port = 0
        self.arrived: dict[str, Arrived] = {}
        self.bytes = 0
        self.proxied = 0
        self.sources: set[str] = set()
        self.keep_in: Path | None = None
        self.kept: asyncio.Queue[Path] = asyncio.Queue()
        self._proxy = proxy
        self._server: asyncio.Server | None = None
        self._sessions: set[_Session] = set()
        self._session_over = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._session, "127.0.0.1", 0, backlog=256)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for session in self._sessions:
            session.abort()
        while self._sessions:  # Python 3.11's `wait_closed` does not wait for them
            self._session_over.clear()
            await self._session_over.wait()
        await self._server.wait_closed()

    def begins(self, session: _Session) -> None:
        """A client has connected."""
        self._sessions.add(session)

    def ended(self, session: _Session) -> None:
        """A client's connection is gone."""
        self._sessions.discard(session)
        self._session_over.set()

    def _session(self) -> SMTP:
        return _Session(
            self,
            hostname=self.name,
            data_size_limit=MAX_MESSAGE,
            enable_SMTPUTF8=True,
            proxy_protocol_timeout=PROXY_TIMEOUT_S if self._proxy else None,
            loop=asyncio.get_running_loop(),
        )

    async def handle_PROXY(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, proxy_data: object
    ) -> bool:
        """Take the PROXY header of a connection; aiosmtpd closes one whose header is missing or broken."""
        self.proxied += 1
        self.sources.add(str(getattr(proxy_data, "src_addr", "")))
        return True

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep the hash of a message; the answer is the 250 that hands responsibility over."""
        content = envelope.content
        assert isinstance(content, bytes)
        if self.keep_in is not None:
            await self.kept.put(await asyncio.to_thread(_write, self.keep_in, envelope, content))
        digest = await asyncio.to_thread(_sha256, content)
        for recipient in envelope.rcpt_tos:
            self._note(recipient, Arrived(digest, len(content), envelope.mail_from or ""))
        self.bytes += len(content)
        return "250 2.0.0 kept"

    def _note(self, recipient: str, arrived: Arrived) -> None:
        known = self.arrived.setdefault(recipient, arrived)
        if known is not arrived:
            known.times += 1

    def compare(self, letters: Sequence[Letter]) -> Verdict:
        """Compare `letters`, which were sent here, with what arrived."""
        verdict = Verdict()
        for letter in letters:
            arrived = self.arrived.get(letter.recipient)
            if arrived is None:
                verdict.missing.append(letter.recipient)
            elif arrived.times > 1:
                verdict.doubled.append(letter.recipient)
            elif arrived.sha256 != letter.sha256 or arrived.sender != letter.sender:
                verdict.altered.append(letter.recipient)
            else:
                verdict.identical += 1
        return verdict


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _write(folder: Path, envelope: Envelope, content: bytes) -> Path:
    """Write a message with its envelope as the headers that a final delivery adds (RFC 5321, 4.4)."""
    head = f"Return-Path: <{envelope.mail_from or ''}>\r\n"
    head += "".join(f"Delivered-To: {recipient}\r\n" for recipient in envelope.rcpt_tos)
    number = sum(1 for _ in folder.iterdir()) + 1
    path = folder / f"{number:04}.eml"
    with path.open("xb") as file:
        file.write(head.encode("utf-8", "surrogateescape") + content)
    return path
