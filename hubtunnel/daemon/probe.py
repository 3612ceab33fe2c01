"""Is the local MTA's listener what it should be? Asked before mail is handed to it, and again after failures.

A PROXY header that a listener does not expect is answered with 500, which the peer's MTA takes for the answer to its
EHLO: mail bounces that should have waited. The same becomes of mail for a port on which something else listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass

from hubtunnel.daemon import proxy
from hubtunnel.errors import HubtunnelError

TIMEOUT = 30.0  # seconds for the whole conversation; a greeting may be held back against early talkers
LAST_WORD = 2.0  # seconds after 221 in which the listener may close, or betray that it had more to answer
LINE_MAX = 2048  # bytes of one line of a reply (RFC 5321 knows 512)
LINES_MAX = 64  # of one reply
SHOWN = 80  # characters of a line that is quoted
# The PROXY header's source while no peer's address is known: TEST-NET-1 (RFC 5737) is nobody, and no MTA trusts it.
NOBODY = ("192.0.2.1", 25)

_REPLY = re.compile(rb"([2-5][0-9]{2})([ -].*)?")


class ProbeError(HubtunnelError):
    """The listener is not what it should be; the text says how it shows."""


class _NoReplyError(Exception):
    """The listener closed the connection where a reply was due."""


@dataclass(frozen=True, slots=True)
class MtaListener:
    """Where mail of one or more peers is handed to, and how."""

    host: str
    port: int
    proxy_protocol: str
    source: str  # loopback address to come from; "" for any


async def probe(listener: MtaListener, presented: tuple[str, int]) -> None:
    """One conversation: PROXY header as configured, greeting, QUIT. `presented` is the header's source.

    Raises `ProbeError` when the listener is not an SMTP server that takes that header, and `OSError` when it could not
    be connected to (`TimeoutError` when something took too long).
    """
    local = (listener.source, 0) if listener.source else None
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection(listener.host, listener.port, limit=LINE_MAX, local_addr=local)
        try:
            header = proxy.header(listener.proxy_protocol, presented, writer.get_extra_info("peername")[:2])
            if header:
                writer.write(header)
            await _converse(reader, writer, listener)
        except ConnectionError:
            raise ProbeError(_no_greeting(listener, "broke")) from None
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener: MtaListener) -> None:
    try:
        greeting = await _read_reply(reader)
    except _NoReplyError:
        raise ProbeError(_no_greeting(listener, "closed")) from None
    if not greeting.startswith("220"):
        raise ProbeError(f"it greets with {greeting!r}, not with 220")
    writer.write(b"QUIT\r\n")
    try:
        answer = await _read_reply(reader)
    except _NoReplyError:
        raise ProbeError("it greets, and then closes the connection without an answer to QUIT") from None
    if not answer.startswith("221"):
        raise ProbeError(_surplus(listener, answer))
    more = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORD):
            more = await reader.read(LINE_MAX)
    if more:
        raise ProbeError(_surplus(listener, _shown(more.partition(b"\n")[0])))


async def _read_reply(reader: asyncio.StreamReader) -> str:
    """One reply of one or more lines (RFC 5321, 4.2.1); its first line, fit to be shown."""
    first = ""
    for _ in range(LINES_MAX):
        try:
            line = await reader.readline()
        except ValueError:  # longer than the reader's limit
            raise ProbeError(f"it sends a line of more than {LINE_MAX} bytes, which is not SMTP") from None
        if not line:
            raise _NoReplyError
        found = _REPLY.fullmatch(line.rstrip(b"\r\n"))
        if found is None:
            raise ProbeError(f"it says {_shown(line)!r}, which is not SMTP")
        first = first or _shown(line)
        if not (found[2] or b"").startswith(b"-"):
            return first
    raise ProbeError(f"it sends a reply of more than {LINES_MAX} lines")


def _shown(line: bytes) -> str:
    text = line.strip()[:SHOWN].decode("ascii", "replace")
    return "".join(ch if " " <= ch <= "~" else "?" for ch in text)


def _no_greeting(listener: MtaListener, how: str) -> str:
    cause = (
        "does it expect a PROXY header, and proxy_protocol is none?"
        if listener.proxy_protocol == "none"
        else f"does it take no PROXY header of {listener.proxy_protocol}?"
    )
    return f"it {how} the connection without a greeting: {cause}"


def _surplus(listener: MtaListener, answer: str) -> str:
    """More than one reply to one command: the header was taken for commands."""
    if listener.proxy_protocol == "none":
        return f"it says {answer!r} where only QUIT was to be answered"
    return (
        f"it says {answer!r} to the PROXY header ({listener.proxy_protocol}), which it seems not to expect: "
        "mail handed to it so would bounce"
    )
