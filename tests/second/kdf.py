"""Section 2 of docs/PROTOCOL.md: hashes, derivation, integers, and the labels of 2.3."""

from __future__ import annotations

import hashlib
import hmac

IDENTITY = b"hubtunnel/1 identity"
LINK_KEY = b"hubtunnel/1 link key"
PAIR = b"hubtunnel/1 pair"
HANDSHAKE = b"hubtunnel/1 handshake"
RATCHET = b"hubtunnel/1 ratchet"
CARD = b"hubtunnel/1 card"
CARD_HASH = b"hubtunnel/1 card hash"


def u8(value: int) -> bytes:
    return value.to_bytes(1, "big")


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def number(encoded: bytes | bytearray) -> int:
    return int.from_bytes(encoded, "big")


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def extract(salt: bytes, secret: bytes) -> bytes:
    """`Ext`: HKDF-Extract, RFC 5869, 2.2."""
    return mac(salt, secret)


def expand(key: bytes, label: str, context: bytes = b"", length: int = 32) -> bytes:
    """`X`: HKDF-Expand, RFC 5869, 2.3, with the info of 2.2."""
    info = b"hubtunnel/1 " + label.encode() + b"\0" + context
    output = block = b""
    counter = 1
    while len(output) < length:
        block = mac(key, block + info + u8(counter))
        output += block
        counter += 1
    return output[:length]


def same(a: bytes, b: bytes) -> bool:
    return hmac.compare_digest(a, b)
