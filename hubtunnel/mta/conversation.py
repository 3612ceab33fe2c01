"""An SMTP session for `doctor`: smtplib's, which can come from another source and begin with a PROXY header."""

from __future__ import annotations

import smtplib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hubtunnel.daemon import proxy
from hubtunnel.errors import HubtunnelError

TIMEOUT = 40.0  # seconds for each reply: some servers let clients wait that made mistakes
SMTP_PORT = 25
# Somebody else's, and sure to exist, so that a server cannot refuse it for not existing (RFC 2606).
FOREIGN = "example.com"
_SHOWN = 160  # characters of a reply that are quoted; of our own 421, which is the reason itself, all


class ConversationError(HubtunnelError):
    """No SMTP session could be had; the text says how it failed."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where to connect, from where, and with which PROXY header in front (`presented` is its source)."""

    host: str
    port: int
    source: str = ""
    proxy_protocol: str = "none"
    presented: tuple[str, int] = ("", 0)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Client(smtplib.SMTP):
    """smtplib's client, with a header in front of everything."""

    def __init__(self, door: Door) -> None:
        source = (door.source, 0) if door.source else None
        super().__init__(local_hostname="doctor.hubtunnel.invalid", timeout=TIMEOUT, source_address=source)
        self._door = door

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = socket.create_connection((host, port), timeout, self.source_address)
        header = proxy.header(self._door.proxy_protocol, self._door.presented, sock.getpeername()[:2])
        if header:
            sock.sendall(header)
        return sock


class Conversation:
    """One session, greeted and introduced."""

    def __init__(self, client: _Client, name: str) -> None:
        self._client = client
        self.name = name
        """What the server calls itself in its reply to EHLO."""

    def offers(self, extension: str) -> bool:
        """Whether its reply to EHLO named the extension."""
        return self._client.has_extn(extension)

    def asked(self, sender: str, recipient: str) -> tuple[int, str]:
        """Offer an envelope and take it back: the code and text for the recipient, or for the sender where that was
        refused already."""
        code, text = self._client.docmd(f"MAIL FROM:<{sender}>")
        if code // 100 == 2:
            code, text = self._client.docmd(f"RCPT TO:<{recipient}>")
        shown = _shown(text)
        self._client.docmd("RSET")
        return code, shown


@contextmanager
def conversation(door: Door) -> Iterator[Conversation]:
    """A session at `door`. Raises `ConversationError` when there is none to be had, or when it breaks."""
    client = _Client(door)
    try:
        code, text = client.connect(door.host, door.port)
        if code != 220:
            raise ConversationError(f"{code} {_shown(text)}")
        code, text = client.ehlo()
        if code != 250:
            raise ConversationError(f"EHLO: {code} {_shown(text)}")
        yield Conversation(client, text.split(maxsplit=1)[0].decode("ascii", "replace").lower())
        client.docmd("QUIT")
    except (OSError, smtplib.SMTPException, IndexError) as exc:
        raise ConversationError(_why(exc)) from exc
    finally:
        client.close()


def _why(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return f"no answer within {TIMEOUT:.0f} s"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__


def _shown(text: bytes) -> str:
    shown = "".join(ch if " " <= ch <= "~" else " " for ch in text.decode("ascii", "replace"))
    return shown if shown.startswith("4.4.1 hubtunnel: ") else shown[:_SHOWN]
