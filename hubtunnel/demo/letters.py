"""The mail of the demo: letters that can be told apart, checked byte for byte, and found again in a recording.

Every 64 bytes of a body stand for themselves: 16 bytes of a marker that is new in every run, then 48 random ones. So
any stretch of 79 bytes of any letter, in clear, holds the marker whole, and a search for it misses none; and since the
rest is random, two stretches that changed places, or came twice, change the letter's hash.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from dataclasses import dataclass, field

BLOCK = 64
MARKER = 16
BLOCKS_A_LINE = 15  # 960 bytes: RFC 5321, 4.5.3.1.6 allows 998 before CRLF

# What clear text on the wire would show even where no letter is: words that every SMTP session here speaks, in the
# parts that all versions of smtplib and aiosmtpd spell alike (the control run fails where they do not). Each is long
# enough that random bytes do not hold it: eight given bytes stand in 100 MB of noise once in 180 billion runs.
SMTP_WORDS = (b":<alice@", b":<letter-", b"354 End data", b"Subject: letter")


def new_marker() -> bytes:
    """A marker for one run: 16 letters and digits that no other run has."""
    return base64.b32encode(secrets.token_bytes(10))


@dataclass(frozen=True)
class Letter:
    """One message: its envelope, its bytes as they go over the wire before dot-stuffing, and their SHA-256."""

    sender: str
    recipient: str
    content: bytes = field(repr=False)
    sha256: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """Length of the content in bytes."""
        return len(self.content)


def body(size: int, marker: bytes) -> bytes:
    """At least `size` bytes of marked lines, each ended by CRLF.

    Every third line begins with a full stop and one is nothing but a full stop: SMTP doubles them on the way, so a
    relay that lost or added one would show.
    """
    blocks = -(-size // BLOCK)
    noise = base64.b64encode(os.urandom(blocks * 36))
    lines: list[bytes] = []
    for start in range(0, blocks, BLOCKS_A_LINE):
        end = min(start + BLOCKS_A_LINE, blocks)
        line = b"".join(marker + noise[i * 48 : i * 48 + 48] for i in range(start, end))
        lines.append(b"." + line if len(lines) % 3 == 1 else line)
    lines.append(b".")
    return b"\r\n".join(lines) + b"\r\n"


def write_letter(number: int, sender_hub: str, recipient_hub: str, size: int, marker: bytes) -> Letter:
    """A letter of about `size` bytes; `number` makes its recipient, and so its place in the sink, its own."""
    sender = f"alice@{sender_hub}"
    recipient = f"letter-{number}@{recipient_hub}"
    head = (
        f"From: Alice <{sender}>\r\nTo: <{recipient}>\r\nSubject: letter {number}, {marker.decode()}\r\n"
        f"Message-ID: <{number}.{marker.decode()}@{sender_hub}>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße, 你好\r\n"
    ).encode()
    content = head + body(max(size - len(head), BLOCK), marker)
    return Letter(sender, recipient, content, hashlib.sha256(content).digest())


def needles(marker: bytes) -> dict[str, bytes]:
    """What to look for in a recording, by the name under which a finding is reported."""
    return {"letters": marker} | {word.decode(): word for word in SMTP_WORDS}
