"""The letters that the laboratory sends: every shape of message that SMTP treats specially, each with its own name.

All of them carry one word that occurs nowhere else, in subject, addresses and body, in clear, in base64 and in
quoted-printable, so that a search of recorded bytes can say whether anything of them was readable.
"""

from __future__ import annotations

import base64
import hashlib
import quopri
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

WORD = "Quokkamole"
"""In every letter, and in no program, log or protocol."""

UMLAUT_WORD = f"Größtes-{WORD}"
"""The same behind characters that need 8 bits, or quoted-printable."""

_LETTER_ID = re.compile(rb"^X-Letter: (\S+)$", re.MULTILINE)
_TRACE_HEADERS = (b"return-path:", b"x-original-to:", b"delivered-to:", b"received:")


@dataclass(frozen=True, slots=True)
class Letter:
    """A message and its envelope. `content` has CRLF line ends and is not dot-stuffed."""

    id: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes = field(repr=False)

    @property
    def parameters(self) -> str:
        """What MAIL FROM must say about it."""
        parameters = [] if self.content.isascii() else [" BODY=8BITMIME"]
        if not (self.sender + "".join(self.recipients)).isascii():
            parameters = [" BODY=8BITMIME SMTPUTF8"]
        return "".join(parameters)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content.replace(b"\r\n", b"\n")).hexdigest()


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the last Postfix put into the maildir for one recipient."""

    id: str
    sender: str
    recipient: str
    digest: str


class NotALetterError(AssertionError):
    """A file in the maildir that nobody sent: a bounce, or an altered message."""


def read_arrival(delivered: bytes) -> Arrival:
    """Take the headers that MTAs put in front away again: the rest must be the letter, to the last byte."""
    trace: dict[bytes, str] = {}
    rest = delivered
    while rest.lower().startswith(_TRACE_HEADERS):
        header, rest = _split_header(rest)
        name, _, value = header.partition(b":")
        trace.setdefault(name.lower(), value.strip().decode())
    found = _LETTER_ID.match(rest)
    if found is None:
        raise NotALetterError(delivered[:2000].decode(errors="replace"))
    return Arrival(
        id=found[1].decode(),
        sender=trace[b"return-path"].strip("<>"),
        recipient=trace[b"delivered-to"],
        digest=hashlib.sha256(rest).hexdigest(),
    )


def _split_header(message: bytes) -> tuple[bytes, bytes]:
    end = message.index(b"\n") + 1
    while message[end : end + 1] in (b" ", b"\t"):
        end = message.index(b"\n", end) + 1
    return message[:end], message[end:]


def expected_arrivals(letters: Iterable[Letter]) -> Counter[Arrival]:
    """One a recipient, and each exactly once."""
    return Counter(
        Arrival(letter.id, letter.sender, recipient, letter.digest)
        for letter in letters
        for recipient in letter.recipients
    )


# The shapes. Each returns the lines after the common headers: more headers, an empty line, the body.


def _plain(rng: random.Random) -> list[str]:
    return ["", f"{WORD}: {rng.randbytes(20).hex()}"]


def _dots(rng: random.Random) -> list[str]:
    return ["", ".", "..", f".{WORD}", "...", ". ", f"a.{rng.random()}", ".", ""]


def _eight_bit(rng: random.Random) -> list[str]:
    lines = [f"{UMLAUT_WORD} – Ærøskøbing, 東京, {rng.random()}" for _ in range(40)]
    return [
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        *lines,
    ]


def _quoted_printable(rng: random.Random) -> list[str]:
    body = quopri.encodestring(f"{UMLAUT_WORD} {rng.random()}\n".encode() * 20).decode()
    return [
        *("MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8"),
        *("Content-Transfer-Encoding: quoted-printable", "", *body.split("\n")),
    ]


def _attachment(rng: random.Random, size: int = 40_000) -> list[str]:
    secret = b"".join(f"{WORD} {number} ".encode() + rng.randbytes(rng.randint(1, 60)) for number in range(size // 45))
    encoded = base64.encodebytes(secret).decode()
    return [
        *("MIME-Version: 1.0", "Content-Type: application/octet-stream"),
        *("Content-Transfer-Encoding: base64", "", *encoded.split("\n")),
    ]


def _large(rng: random.Random) -> list[str]:
    return _attachment(rng, rng.randint(100_000, 600_000))


def _long_lines(rng: random.Random) -> list[str]:
    # 998 characters, the longest that RFC 5321 allows; more would be folded by the MTA itself.
    return ["", *((WORD + rng.randbytes(600).hex())[:998] for _ in range(10))]


def _no_body(_: random.Random) -> list[str]:
    return ["", ""]


_SHAPES: tuple[Callable[[random.Random], list[str]], ...] = (
    _plain,
    _dots,
    _eight_bit,
    _quoted_printable,
    _attachment,
    _long_lines,
    _no_body,
    _large,
)


def make_letter(
    name: str, *, shape: int, sender_domain: str, domain: str, recipients: int = 1, smtputf8: bool = False
) -> Letter:
    """The same arguments make the same letter. Every eighth `shape` is a large one."""
    rng = random.Random(name)
    shape_function = _SHAPES[shape % len(_SHAPES)]
    local = f"größte.{WORD}" if smtputf8 else WORD
    sender = f"{local}.{name}@{sender_domain}"
    to = tuple(f"{local}.{number}.{name}@{domain}" for number in range(recipients))
    lines = [
        f"X-Letter: {name}",
        f"Message-ID: <{name}@{sender_domain}>",
        f"From: {sender}",
        f"To: {to[0]}",
        f"Subject: {WORD} {name} {shape_function.__name__.strip('_')}",
        "Date: Mon, 06 Jul 2026 08:00:00 +0000",
        *shape_function(rng),
    ]
    return Letter(name, sender, to, "".join(f"{line}\r\n" for line in lines).encode())


def make_letters(count: int, *, prefix: str, sender_domain: str, domains: tuple[str, ...]) -> list[Letter]:
    """`count` letters over all shapes; every fifth to several recipients, every seventh with SMTPUTF8 addresses."""
    return [
        make_letter(
            f"{prefix}{number}",
            shape=number,
            sender_domain=sender_domain,
            domain=domains[number % len(domains)],
            recipients=2 + number % 7 if number % 5 == 0 else 1,
            smtputf8=number % 7 == 3,
        )
        for number in range(count)
    ]


# What must not be found in a recording, and must be found when the carrier is plain.


def _base64_cores(secret: bytes) -> list[bytes]:
    """The characters that base64 of any text around `secret` holds, for each of the three alignments."""
    cores = []
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret).rstrip(b"=")
        # The first characters mix with what stands before, the last one with what stands behind.
        cores.append(encoded[(0, 2, 3)[before] : -1])
    return cores


NEEDLES: dict[str, bytes] = {
    "word": WORD.encode(),
    "subject": f"Subject: {WORD}".encode(),
    "message id": b"Message-ID: <",
    "sender": f"MAIL FROM:<{WORD}.".encode(),
    "recipient": f"RCPT TO:<{WORD}.".encode(),
    "8-bit body": UMLAUT_WORD.encode(),
    "8-bit address": f"größte.{WORD}".encode(),
    "quoted-printable": quopri.encodestring(UMLAUT_WORD.encode()),
    **{f"base64, alignment {n}": core for n, core in enumerate(_base64_cores(WORD.encode()))},
    "SMTP greeting": b"220 mx.",
    "SMTP EHLO": b"EHLO ",
    "SMTP end": b"221 2.0.0 Bye",
}


def readable_in(recording: Iterable[bytes]) -> set[str]:
    """The names of all needles that occur in the recorded streams."""
    streams = list(recording)
    return {name for name, needle in NEEDLES.items() if any(needle in stream for stream in streams)}


def letters_readable_in(recording: Iterable[bytes]) -> set[str]:
    """The ids of all letters whose header can be read in the recorded streams."""
    pattern = re.compile(rb"X-Letter: (\S+)\r\n")
    return {found.decode() for stream in recording for found in pattern.findall(stream)}
