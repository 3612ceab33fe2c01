"""As much of msgpack as 2.4 of docs/PROTOCOL.md wants: text, bytes, integers from 0, arrays and maps."""

from __future__ import annotations

from typing import Any

_FIXED_LENGTHS = {0xC4: ("bin", 1), 0xC5: ("bin", 2), 0xC6: ("bin", 4)} | {
    0xD9: ("str", 1),
    0xDA: ("str", 2),
    0xDB: ("str", 4),
    0xDC: ("array", 2),
    0xDD: ("array", 4),
    0xDE: ("map", 2),
    0xDF: ("map", 4),
}
_UNSIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_SIGNED = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


class BadPack(ValueError):
    """No msgpack, or none that 2.4 allows."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            raise BadPack("ends too early")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def value(self) -> Any:
        first = self.take(1)[0]
        if first < 0x80:
            return first
        if first < 0x90:
            return self.map(first & 0x0F)
        if first < 0xA0:
            return self.array(first & 0x0F)
        if first < 0xC0:
            return self.text(first & 0x1F)
        if first in _UNSIGNED:
            return int.from_bytes(self.take(_UNSIGNED[first]), "big")
        if first in _SIGNED:
            signed = int.from_bytes(self.take(_SIGNED[first]), "big", signed=True)
            if signed < 0:
                raise BadPack("a negative integer")
            return signed
        if first not in _FIXED_LENGTHS:
            raise BadPack(f"a value of a kind that is not allowed: {first:#04x}")
        kind, width = _FIXED_LENGTHS[first]
        length = int.from_bytes(self.take(width), "big")
        return {"bin": self.take, "str": self.text, "array": self.array, "map": self.map}[kind](length)

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise BadPack("text that is not UTF-8") from error

    def array(self, length: int) -> list[Any]:
        return [self.value() for _ in range(length)]

    def map(self, length: int) -> dict[str, Any]:
        result = {}
        for _ in range(length):
            key = self.value()
            if not isinstance(key, str):
                raise BadPack("a key that is not text")
            result[key] = self.value()
        return result


def unpack(data: bytes) -> Any:
    """The one value in `data`; BadPack when it is something else, or when bytes follow."""
    reader = _Reader(data)
    value = reader.value()
    if reader.position != len(data):
        raise BadPack("bytes behind the value")
    return value


def _head(length: int, fixed: tuple[int, int] | None, codes: tuple[int | None, int, int]) -> bytes:
    """Kind and length: in one byte where `fixed` (base, number of lengths) reaches, else behind one of `codes`."""
    if fixed is not None and length < fixed[1]:
        return bytes([fixed[0] | length])
    for code, width in zip(codes, (1, 2, 4), strict=True):
        if code is not None and length < 1 << 8 * width:
            return bytes([code]) + length.to_bytes(width, "big")
    raise BadPack("too long")


def pack(value: Any) -> bytes:
    """The shortest encoding; maps keep the order that they have."""
    if isinstance(value, int):
        for code, width in ((None, 0), (0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
            if code is None and value < 0x80:
                return bytes([value])
            if code is not None and value < 1 << 8 * width:
                return bytes([code]) + value.to_bytes(width, "big")
    if isinstance(value, str):
        encoded = value.encode()
        return _head(len(encoded), (0xA0, 32), (0xD9, 0xDA, 0xDB)) + encoded
    if isinstance(value, bytes):
        return _head(len(value), None, (0xC4, 0xC5, 0xC6)) + value
    if isinstance(value, list):
        return _head(len(value), (0x90, 16), (None, 0xDC, 0xDD)) + b"".join(map(pack, value))
    if isinstance(value, dict):
        items = b"".join(pack(part) for item in value.items() for part in item)
        return _head(len(value), (0x80, 16), (None, 0xDE, 0xDF)) + items
    raise BadPack(f"nothing that 2.4 knows: {value!r}")
