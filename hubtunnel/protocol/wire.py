"""Codecs of the fixed-length messages: one table of fields each, the same for handshake, ratchet and resume."""

from __future__ import annotations

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c

Fields = tuple[tuple[str, int], ...]


class Layout:
    """A message of fixed-length fields in a fixed order.

    Since every field has one length, the concatenation of fields is injective: hashing the whole message binds each.
    """

    __slots__ = ("name", "offsets", "size")

    def __init__(self, name: str, fields: Fields) -> None:
        self.name = name
        self.size = c.size_of(fields)
        self.offsets: dict[str, tuple[int, int]] = {}
        at = 0
        for field, length in fields:
            self.offsets[field] = (at, at + length)
            at += length

    def get(self, message: bytes, field: str) -> bytes:
        """One field of a message."""
        start, end = self.offsets[field]
        return message[start:end]

    def get_int(self, message: bytes, field: str) -> int:
        """One field of a message, as a big-endian number."""
        return int.from_bytes(self.get(message, field), "big")

    def before(self, message: bytes, field: str) -> bytes:
        """Everything that stands before a field: what a MAC or proof in that field covers."""
        return message[: self.offsets[field][0]]

    def pack(self, *values: bytes | int) -> bytes:
        """Join the leading fields in order (all, or those up to a MAC that is still to be computed)."""
        parts = []
        for value, (field, (start, end)) in zip(values, self.offsets.items(), strict=False):
            raw = value.to_bytes(end - start, "big") if isinstance(value, int) else value
            if len(raw) != end - start:
                raise ProtocolError(f"{self.name}.{field}: {len(raw)} bytes instead of {end - start}")
            parts.append(raw)
        return b"".join(parts)


M1 = Layout("M1", c.M1_FIELDS)
M2 = Layout("M2", c.M2_FIELDS)
M3 = Layout("M3", c.M3_FIELDS)
RK1 = Layout("RK1", c.RK1_FIELDS)
RK2 = Layout("RK2", c.RK2_FIELDS)
RK3 = Layout("RK3", c.RK3_FIELDS)
START = Layout("START", c.START_FIELDS)
STARTED = Layout("STARTED", c.STARTED_FIELDS)
RESUME = Layout("RESUME", c.RESUME_FIELDS)
RESUMED = Layout("RESUMED", c.RESUMED_FIELDS)


def u64(value: int) -> bytes:
    """A 64-bit big-endian number."""
    return value.to_bytes(8, "big")
