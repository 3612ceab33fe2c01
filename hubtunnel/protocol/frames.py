"""Frames: what the DATA byte stream carries (PROTOCOL.md 8)."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

import msgpack

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Frame

_HEADER = Struct(">BIH")
_U16 = Struct(">H")
_U32 = Struct(">I")
_GOAWAY = Struct(">HI")

# Frames about the whole session stand on stream 0; all others name a stream.
SESSION_FRAMES = frozenset(
    (
        Frame.HELLO,
        Frame.GOAWAY,
        Frame.CARD_HAVE,
        Frame.CARD_PART,
        Frame.CARD_ACK,
        Frame.CARD_NAK,
        Frame.CARD_GET,
        Frame.RECEIPT,
        Frame.RECEIPT_ACK,
    )
)
# FR3: least and greatest length of the payload, where the type bounds it.
_LENGTHS = {
    Frame.END: (0, 0),
    Frame.RESET: (2, 2),
    Frame.CREDIT: (4, 4),
    Frame.GOAWAY: (6, 6),
    Frame.CARD_HAVE: (40, 40),
    Frame.CARD_PART: (17, 16 + c.CARD_PART_MAX),
    Frame.CARD_ACK: (40, 40),
    Frame.CARD_NAK: (10, 10),
    Frame.CARD_GET: (8, 8),
    Frame.RECEIPT_ACK: (8, 8),
}
_KNOWN = frozenset(Frame)
# Of every frame and record: a plain number compares in a fifth of the time that a member of an enumeration takes.
DATA, OPEN, CREDIT, END, RESET = (int(kind) for kind in (Frame.DATA, Frame.OPEN, Frame.CREDIT, Frame.END, Frame.RESET))
_INTERVAL_ASSUMED = round(c.RATCHET_INTERVAL_REFUSED * 1000)  # milliseconds; RT9, where HELLO does not say
Payload = bytes | memoryview
_COPY_BELOW = 4096  # bytes: a copy costs less than a view
_SHOWN_MAX = 64  # characters of a text from outside that are kept for people
# `msgpack.packb` would take a buffer of 256 KiB for each OPEN and give it back: page faults, a conversation each.
_PACKER = msgpack.Packer(buf_size=1024)


def encode(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    return _HEADER.pack(kind, stream, len(payload)) + payload


def header(kind: int, stream: int, length: int) -> bytes:
    """A frame's header alone, for payloads that are joined elsewhere."""
    return _HEADER.pack(kind, stream, length)


class FrameParser:
    """Stream bytes to frames. Holds at most one frame that is not yet whole."""

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, plaintext: bytes) -> Iterator[tuple[int, int, Payload]]:
        """Frames of a DATA record's plaintext, whose first byte is the record's type.

        A payload that is most of the record is not copied out of it: whoever keeps it keeps little else.

        Raises `ProtocolError` for a frame of a known type with a length or stream that it cannot have (FR3), and for an
        unknown required type (FR2).
        """
        at = 1
        if self._partial:
            plaintext = self._partial + plaintext[1:]
            at = 0
        end = len(plaintext)
        last = end - c.FRAME_HEADER_LEN
        while at <= last:
            kind, stream, length = _HEADER.unpack_from(plaintext, at)
            payload = at + c.FRAME_HEADER_LEN
            behind = payload + length
            if behind > end:
                break
            if kind != DATA or not stream:
                check_frame(kind, stream, length)
            if length >= _COPY_BELOW and length * 2 > end and kind == DATA:
                yield kind, stream, memoryview(plaintext)[payload:behind]
            else:
                yield kind, stream, plaintext[payload:behind]
            at = behind
        self._partial = plaintext[at:] if at < end else b""


def check_frame(kind: int, stream: int, length: int) -> None:
    """FR2 and FR3: a known type, of a length and on a stream that it can have; or one that may be ignored."""
    if kind not in _KNOWN:
        if kind < c.OPTIONAL_FRAME_FROM:
            raise ProtocolError(f"unknown required frame 0x{kind:02x}")
        return
    least, greatest = _LENGTHS.get(Frame(kind), (0, c.FRAME_PAYLOAD_MAX))
    if not least <= length <= greatest:
        raise ProtocolError(f"{Frame(kind).name} frame with {length} bytes")
    if (stream == 0) != (kind in SESSION_FRAMES):
        raise ProtocolError(f"{Frame(kind).name} frame on stream {stream}")


# --- payloads -----------------------------------------------------------------------------------------------------


def _unpack_map(payload: bytes, name: str) -> dict[str, Any]:
    """2.4: one map of text keys. Nothing in it can be longer than the payload, so that no other bound is needed."""
    try:
        value = msgpack.unpackb(payload, raw=False, strict_map_key=True)
    except Exception as exc:  # msgpack raises half a dozen kinds
        raise ProtocolError(f"{name} payload is not msgpack: {type(exc).__name__}") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ProtocolError(f"{name} payload is not a map of text keys")
    return value


def _names(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ProtocolError(f"{name} is not a list of names")
    return tuple(value)


def printable(text: str) -> str:
    """The beginning of a text that a peer sent, fit for a log line."""
    return "".join(ch if ch.isprintable() and ch.isascii() else "?" for ch in text[:_SHOWN_MAX])


class Hello(NamedTuple):
    """What a HELLO says (8.3). `ratchet_interval` is in seconds: how soon after one step the sender takes the next."""

    version: str
    capabilities: tuple[str, ...]
    requires: tuple[str, ...]
    ratchet_interval: float = c.RATCHET_INTERVAL_REFUSED


def encode_hello(hello: Hello) -> bytes:
    """FR5: the HELLO frame. `ratchet_interval` is said only where it is not what a peer assumes."""
    payload: dict[str, object] = {
        "version": hello.version,
        "capabilities": list(hello.capabilities),
        "requires": list(hello.requires),
    }
    if hello.ratchet_interval < c.RATCHET_INTERVAL_REFUSED:
        payload["ratchet_interval"] = math.ceil(hello.ratchet_interval * 1000)
    return encode(Frame.HELLO, 0, _PACKER.pack(payload))


def decode_hello(payload: bytes) -> Hello:
    """FR5: a HELLO payload. Raises `ProtocolError`."""
    value = _unpack_map(payload, "HELLO")
    version = value.get("version")
    if not isinstance(version, str):
        raise ProtocolError("HELLO without a version")
    return Hello(
        printable(version),
        _names(value.get("capabilities"), "HELLO capabilities"),
        _names(value.get("requires"), "HELLO requires"),
        _interval(value.get("ratchet_interval", _INTERVAL_ASSUMED)),
    )


def _interval(milliseconds: object) -> float:
    """The seconds of a HELLO's `ratchet_interval`: a peer may shorten what is assumed, never put steps off."""
    if type(milliseconds) is not int or not 0 <= milliseconds <= _INTERVAL_ASSUMED:
        raise ProtocolError("HELLO with a ratchet_interval that cannot be")
    return milliseconds / 1000


def encode_open(source: tuple[str, int] | None) -> bytes:
    """ST3: the payload of an OPEN for SMTP."""
    payload: dict[str, object] = {"service": "smtp"}
    if source is not None:
        payload["source"] = [source[0], source[1]]
    return bytes(_PACKER.pack(payload))


def decode_open(payload: bytes) -> tuple[str, tuple[str, int] | None]:
    """ST3: (service, source) of an OPEN payload. A source whose text is no address is left out: it is for logs."""
    value = _unpack_map(payload, "OPEN")
    service = value.get("service")
    if not isinstance(service, str):
        raise ProtocolError("OPEN without a service")
    if "source" not in value:
        return service, None
    match value["source"]:
        case [str(address), port] if type(port) is int and 0 <= port <= 65535:
            return service, (address, port) if _is_address(address) else None
    raise ProtocolError("OPEN with a source that is no address and port")


@lru_cache(maxsize=256)  # what comes are the few addresses from which an MTA speaks to its hub
def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def encode_reset(stream: int, code: int) -> bytes:
    """A RESET frame (ST6)."""
    return encode(Frame.RESET, stream, _U16.pack(code))


def decode_u16(payload: bytes) -> int:
    """The code of a RESET."""
    return int(_U16.unpack(payload)[0])


def encode_credit(stream: int, n: int) -> bytes:
    """A CREDIT frame (ST10)."""
    return encode(Frame.CREDIT, stream, _U32.pack(n))


def decode_u32(payload: bytes) -> int:
    """The bytes of a CREDIT."""
    return int(_U32.unpack(payload)[0])


def encode_goaway(code: int, last: int) -> bytes:
    """A GOAWAY frame (GA1)."""
    return encode(Frame.GOAWAY, 0, _GOAWAY.pack(code, last))


def decode_goaway(payload: bytes) -> tuple[int, int]:
    """GA1: (code, last stream) of a GOAWAY."""
    code, last = _GOAWAY.unpack(payload)
    return code, last
