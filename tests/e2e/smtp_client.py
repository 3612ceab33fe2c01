"""A small SMTP client that can do what smtplib cannot: pipeline, send chunks (BDAT), and stop in the middle."""

from __future__ import annotations

import re
import socket

from tests.e2e.letters import Letter
from tests.e2e.namespaces import Namespace

CHUNK = 16 * 1024
"""Bytes of one BDAT command."""


class UnexpectedReplyError(AssertionError):
    """The server said something else than the dialogue needs; the text is the reply."""


class SmtpClient:
    """One SMTP session, greeted and introduced when the constructor returns."""

    def __init__(self, namespace: Namespace, address: tuple[str, int], *, timeout: float = 60.0) -> None:
        self._socket = namespace.connect(*address, timeout=timeout)
        self._replies = self._socket.makefile("rb")
        try:
            self.expect("220")
            self.send(b"EHLO client.laboratory.example\r\n")
            self.extensions = set(re.split(r"[\s-]+", self.expect("250").upper()))
        except BaseException:
            self.abort()
            raise

    def __enter__(self) -> SmtpClient:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if failed is None:
            self.quit()
        self.abort()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def expect(self, code: str) -> str:
        """Read one whole reply; its text. Raises UnexpectedReplyError, and OSError on a reset."""
        lines: list[str] = []
        while not lines or lines[-1][3:4] == "-":
            line = self._replies.readline()
            if not line:
                raise UnexpectedReplyError(f"the server closed the connection after {lines}, {code} was expected")
            lines.append(line.decode(errors="replace").rstrip("\r\n"))
        reply = "\n".join(lines)
        if not reply.startswith(code):
            raise UnexpectedReplyError(f"{code} was expected: {reply}")
        return reply

    def _envelope(self, letter: Letter) -> list[tuple[bytes, str]]:
        mail = f"MAIL FROM:<{letter.sender}>{letter.parameters}\r\n"
        return [
            (mail.encode(), "250"),
            *((f"RCPT TO:<{recipient}>\r\n".encode(), "250") for recipient in letter.recipients),
        ]

    def deliver(self, letter: Letter) -> None:
        """One command at a time."""
        for command, code in [*self._envelope(letter), (b"DATA\r\n", "354")]:
            self.send(command)
            self.expect(code)
        self.send(_dot_stuffed(letter.content))
        self.expect("250")

    def deliver_pipelined(self, letter: Letter) -> None:
        """The envelope and DATA in one write (RFC 2920)."""
        steps = [*self._envelope(letter), (b"DATA\r\n", "354")]
        self.send(b"".join(command for command, _ in steps))
        for _, code in steps:
            self.expect(code)
        self.send(_dot_stuffed(letter.content))
        self.expect("250")

    def deliver_chunked(self, letter: Letter) -> None:
        """The envelope and all chunks in one write, replies afterwards (RFC 3030); the last chunk is empty."""
        content = letter.content
        chunks = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
        bdat = [(b"BDAT %d\r\n" % len(chunk) + chunk, "250") for chunk in chunks]
        steps = [*self._envelope(letter), *bdat, (b"BDAT 0 LAST\r\n", "250")]
        self.send(b"".join(command for command, _ in steps))
        for _, code in steps:
            self.expect(code)

    def begin(self, letter: Letter) -> bytes:
        """Send the envelope and the first half of the content; return the rest for `finish`."""
        for command, code in [*self._envelope(letter), (b"DATA\r\n", "354")]:
            self.send(command)
            self.expect(code)
        wire = _dot_stuffed(letter.content)
        half = len(wire) // 2
        self.send(wire[:half])
        return wire[half:]

    def finish(self, rest: bytes) -> None:
        self.send(rest)
        self.expect("250")

    def refused(self, letter: Letter) -> str:
        """Offer the envelope; the reply with which the server refuses a recipient of it."""
        (mail, code), *recipients = self._envelope(letter)
        self.send(mail)
        self.expect(code)
        for command, _ in recipients:
            self.send(command)
            return self.expect("5")
        raise ValueError("a letter without recipients")

    def quit(self) -> None:
        """QUIT, and the connection must end cleanly after the 221."""
        self.send(b"QUIT\r\n")
        self.expect("221")
        if self._replies.read() != b"":
            raise UnexpectedReplyError("bytes after the 221")

    def abort(self) -> None:
        self._replies.close()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()


def _dot_stuffed(content: bytes) -> bytes:
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    if stuffed.startswith(b"."):
        stuffed = b"." + stuffed
    return stuffed + b".\r\n"
