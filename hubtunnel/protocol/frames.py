"""Frames: what the DATA byte stream carries (PROTOCOL.md 8, FR1–FR9)."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any

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
_EXACT_LEN = {
    Frame.END: 0,
    Frame.RESET: 2,
    Frame.CREDIT: 4,
    Frame.GOAWAY: 6,
    Frame.CARD_HAVE: 40,
    Frame.CARD_ACK: 40,
    Frame.CARD_NAK: 10,
    Frame.CARD_GET: 8,
    Frame.RECEIPT_ACK: 8,
}
_KNOWN = frozenset(Frame)


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

    def feed(self, plaintext: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Frames of a DATA record's plaintext, whose first byte is the record's type.

        Raises `ProtocolError` for a frame of a known type with a length or stream that it cannot have (FR2), and for an
        unknown required type (FR3).
        """
        at = 1
        if self._partial:
            plaintext = self._partial + plaintext[1:]
            at = 0
        end = len(plaintext)
        while end - at >= c.FRAME_HEADER_LEN:
            kind, stream, length = _HEADER.unpack_from(plaintext, at)
            behind = at + c.FRAME_HEADER_LEN + length
            if behind > end:
                break
            if kind != Frame.DATA:
                check_frame(kind, stream, length)
            yield kind, stream, plaintext[at + c.FRAME_HEADER_LEN : behind]
            at = behind
        self._partial = plaintext[at:] if at < end else b""


def check_frame(kind: int, stream: int, length: int) -> None:
    """FR2 and FR3."""
    if kind not in _KNOWN:
        if kind < c.OPTIONAL_FRAME_FROM:
            raise ProtocolError(f"unknown required frame 0x{kind:02x}")
        return
    expected = _EXACT_LEN.get(Frame(kind))
    if expected is not None and length != expected:
        raise ProtocolError(f"{Frame(kind).name} frame with {length} bytes")
    if (stream == 0) != (kind in SESSION_FRAMES):
        raise ProtocolError(f"{Frame(kind).name} frame on stream {stream}")


# --- payloads -----------------------------------------------------------------------------------------------------


def _unpack_map(payload: bytes, name: str) -> dict[str, Any]:
    try:
        value = msgpack.unpackb(
            payload, raw=False, strict_map_key=True, max_map_len=64, max_array_len=256, max_ext_len=0
        )
    except Exception as exc:  # msgpack raises half a dozen kinds
        raise ProtocolError(f"{name} payload is not msgpack: {type(exc).__name__}") from None
    if not isinstance(value, dict):
        raise ProtocolError(f"{name} payload is not a map")
    return value


def _names(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and len(item) <= 64 for item in value):
        raise ProtocolError(f"{name} is not a list of short names")
    return tuple(value)


def encode_hello(version: str, capabilities: tuple[str, ...], requires: tuple[str, ...]) -> bytes:
    """FR4: the HELLO frame."""
    payload = {"version": version, "capabilities": list(capabilities), "requires": list(requires)}
    return encode(Frame.HELLO, 0, msgpack.packb(payload))


def decode_hello(payload: bytes) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """FR4: (version, capabilities, requires) of a HELLO payload."""
    value = _unpack_map(payload, "HELLO")
    version = value.get("version")
    if not isinstance(version, str) or len(version) > 64:
        raise ProtocolError("HELLO without a version")
    printable = "".join(ch if ch.isprintable() and ch.isascii() else "?" for ch in version)
    return (
        printable,
        _names(value.get("capabilities", []), "HELLO capabilities"),
        _names(value.get("requires", []), "HELLO requires"),
    )


def encode_open(source: tuple[str, int] | None) -> bytes:
    """FR5: the payload of an OPEN for SMTP."""
    payload: dict[str, object] = {"service": "smtp"}
    if source is not None:
        payload["source"] = [source[0], source[1]]
    return bytes(msgpack.packb(payload))


def decode_open(payload: bytes) -> tuple[str, tuple[str, int] | None]:
    """FR5: (service, source) of an OPEN payload. A source that makes no sense is left out: it is only for logs."""
    value = _unpack_map(payload, "OPEN")
    service = value.get("service")
    if not isinstance(service, str) or len(service) > 64:
        raise ProtocolError("OPEN without a service")
    source = value.get("source")
    if (
        isinstance(source, list)
        and len(source) == 2
        and isinstance(source[0], str)
        and len(source[0]) <= 64
        and source[0].isascii()
        and source[0].isprintable()
        and type(source[1]) is int
        and 0 <= source[1] <= 65535
    ):
        return service, (source[0], source[1])
    return service, None


def encode_reset(stream: int, code: int) -> bytes:
    """FR7: a RESET frame."""
    return encode(Frame.RESET, stream, _U16.pack(code))


def decode_u16(payload: bytes) -> int:
    """The code of a RESET."""
    return int(_U16.unpack(payload)[0])


def encode_credit(stream: int, n: int) -> bytes:
    """FR8: a CREDIT frame."""
    return encode(Frame.CREDIT, stream, _U32.pack(n))


def decode_u32(payload: bytes) -> int:
    """The bytes of a CREDIT."""
    return int(_U32.unpack(payload)[0])


def encode_goaway(code: int, last: int) -> bytes:
    """FR9: a GOAWAY frame."""
    return encode(Frame.GOAWAY, 0, _GOAWAY.pack(code, last))


def decode_goaway(payload: bytes) -> tuple[int, int]:
    """FR9: (code, last stream) of a GOAWAY."""
    code, last = _GOAWAY.unpack(payload)
    return code, last
