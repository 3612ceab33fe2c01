"""Reads decisions out of a fuzzer's bytes. At the end of the bytes every decision is the least one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """One input. Small values take one byte, so that a mutation changes one decision."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether bytes are left."""
        return self._at < len(self._data)

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1; of one byte up to 256, else of as many as it takes."""
        return int.from_bytes(self.take((max(limit - 1, 1).bit_length() + 7) // 8), "big") % limit

    def number(self, length: int) -> int:
        """A big-endian number of `length` bytes."""
        return int.from_bytes(self.take(length).ljust(length, b"\0"), "big")

    def pick(self, options: Sequence[T]) -> T:
        """One of some options."""
        return options[self.below(len(options))]

    def take(self, length: int) -> bytes:
        """Up to `length` bytes."""
        taken = self._data[self._at : self._at + length]
        self._at += len(taken)
        return taken

    def some(self) -> bytes:
        """Up to 255 bytes, as many as the byte before them says."""
        return self.take(self.below(256))

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(len(self._data))


def pieces(data: bytes, choices: Choices) -> list[bytes]:
    """`data` cut in up to nine pieces, where the choices say."""
    cuts = sorted({0, len(data), *(choices.below(len(data) + 1) for _ in range(choices.below(9)))})
    return [data[start:end] for start, end in pairwise(cuts)] or [b""]


def require(condition: object, broken: object) -> None:
    """Raise for what must not be."""
    if not condition:
        raise AssertionError(broken)
