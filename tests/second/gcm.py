"""AES-256-GCM (FIPS 197, NIST SP 800-38D) in Python: slow, and not in constant time."""

from __future__ import annotations

import hmac
import struct

TAG = 16
"""Bytes of the tag behind the ciphertext."""


class Forged(ValueError):
    """The tag does not verify."""


def _double(value: int) -> int:
    """Multiply by x in the field of AES."""
    return (value << 1 ^ (0x11B if value & 0x80 else 0)) & 0xFF


def _make_sbox() -> list[int]:
    """FIPS 197, 5.1.1: the inverse in the field, found through powers of the generator 3, then the affine map."""
    powers, value = [], 1
    for _ in range(255):
        powers.append(value)
        value ^= _double(value)
    sbox = [0x63] * 256
    for exponent, element in enumerate(powers):
        inverse = powers[-exponent % 255]
        spread = inverse * 0x101
        sbox[element] = (inverse ^ spread >> 7 ^ spread >> 6 ^ spread >> 5 ^ spread >> 4 ^ 0x63) & 0xFF
    return sbox


_SBOX = _make_sbox()


def _make_round_tables() -> list[list[int]]:
    """SubBytes and MixColumns of one byte at each of the four rows, as a 32-bit column."""
    tables: list[list[int]] = [[], [], [], []]
    for s in _SBOX:
        column = _double(s) << 24 | s << 16 | s << 8 | (_double(s) ^ s)
        for row in range(4):
            tables[row].append((column >> 8 * row | column << 32 - 8 * row) & 0xFFFFFFFF)
    return tables


_T0, _T1, _T2, _T3 = _make_round_tables()


def _sub_word(word: int) -> int:
    return int.from_bytes(bytes(_SBOX[byte] for byte in word.to_bytes(4, "big")), "big")


def _expand_key(key: bytes) -> list[tuple[int, int, int, int]]:
    words = list(struct.unpack(">8I", key))
    constant = 1
    for position in range(8, 60):
        word = words[-1]
        if position % 8 == 0:
            word = _sub_word((word << 8 | word >> 24) & 0xFFFFFFFF) ^ constant << 24
            constant = _double(constant)
        elif position % 8 == 4:
            word = _sub_word(word)
        words.append(words[position - 8] ^ word)
    return [(words[i], words[i + 1], words[i + 2], words[i + 3]) for i in range(0, 60, 4)]


def _make_reduction() -> list[int]:
    """What the eight bits that a shift by a byte pushes out of GHASH's field come back as."""
    reduction = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0xE1 << 120 if value & 1 else 0)
        reduction.append(value)
    return reduction


_REDUCTION = _make_reduction()


class AesGcm:
    """One key of AES-256-GCM, for nonces of 12 bytes."""

    def __init__(self, key: bytes) -> None:
        self._round_keys = _expand_key(key)
        self._times_h = self._make_times_h(self._block(0, 0, 0, 0))

    @staticmethod
    def _make_times_h(h: int) -> list[int]:
        """The product of H and each value of one byte, which stands first in its block (bit 0 is the highest)."""
        table = [0] * 256
        bit = 0x80
        while bit:
            table[bit] = h
            h = h >> 1 ^ (0xE1 << 120 if h & 1 else 0)
            bit >>= 1
        for byte in range(1, 256):
            lowest = byte & -byte
            table[byte] = table[byte ^ lowest] ^ table[lowest]
        return table

    def _block(self, a: int, b: int, c: int, d: int) -> int:
        """AES of one block of four words, FIPS 197, 5.1."""
        (k0, k1, k2, k3), *middle, last = self._round_keys
        a, b, c, d = a ^ k0, b ^ k1, c ^ k2, d ^ k3
        for k0, k1, k2, k3 in middle:
            a, b, c, d = (
                _T0[a >> 24] ^ _T1[b >> 16 & 255] ^ _T2[c >> 8 & 255] ^ _T3[d & 255] ^ k0,
                _T0[b >> 24] ^ _T1[c >> 16 & 255] ^ _T2[d >> 8 & 255] ^ _T3[a & 255] ^ k1,
                _T0[c >> 24] ^ _T1[d >> 16 & 255] ^ _T2[a >> 8 & 255] ^ _T3[b & 255] ^ k2,
                _T0[d >> 24] ^ _T1[a >> 16 & 255] ^ _T2[b >> 8 & 255] ^ _T3[c & 255] ^ k3,
            )
        s = _SBOX
        out = 0
        for key, w, x, y, z in zip(last, (a, b, c, d), (b, c, d, a), (c, d, a, b), (d, a, b, c), strict=True):
            out = out << 32 | key ^ (s[w >> 24] << 24 | s[x >> 16 & 255] << 16 | s[y >> 8 & 255] << 8 | s[z & 255])
        return out

    def _counter_mode(self, nonce: bytes, data: bytes) -> bytes:
        a, b, c = struct.unpack(">3I", nonce)
        blocks = (len(data) + 15) // 16
        stream = b"".join(self._block(a, b, c, 2 + i).to_bytes(16, "big") for i in range(blocks))[: len(data)]
        return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")

    def _tag(self, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        padded = b"".join(part + bytes(-len(part) % 16) for part in (associated, sealed))
        padded += struct.pack(">QQ", 8 * len(associated), 8 * len(sealed))
        table, state = self._times_h, 0
        for position in range(0, len(padded), 16):
            state ^= int.from_bytes(padded[position : position + 16], "big")
            product = 0
            for _ in range(16):
                product = product >> 8 ^ _REDUCTION[product & 255] ^ table[state & 255]
                state >>= 8
            state = product
        a, b, c = struct.unpack(">3I", nonce)
        mask = self._block(a, b, c, 1)
        return (state ^ mask).to_bytes(TAG, "big")

    def seal(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Ciphertext and tag."""
        sealed = self._counter_mode(nonce, data)
        return sealed + self._tag(nonce, sealed, associated)

    def open(self, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """What was sealed; Forged when the tag does not verify."""
        body, tag = sealed[:-TAG], sealed[-TAG:]
        if not hmac.compare_digest(tag, self._tag(nonce, body, associated)):
            raise Forged
        return self._counter_mode(nonce, body)
