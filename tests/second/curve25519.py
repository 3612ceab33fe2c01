"""X25519 (RFC 7748) and Ed25519 (RFC 8032) on Python's integers: slow, and not in constant time."""

from __future__ import annotations

import hashlib

P = 2**255 - 19
"""The prime of the field that both curves are over."""

_A24 = 121665
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, P) % P
_ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)

Point = tuple[int, int, int, int]
"""Extended coordinates X, Y, Z, T of RFC 8032, 5.1.4."""


class LowOrder(ValueError):
    """The public key gives an all-zero result, whatever the private one."""


def x25519(private: bytes, public: bytes) -> bytes:
    """The Montgomery ladder of RFC 7748, section 5; LowOrder for an all-zero result (6.1)."""
    scalar = int.from_bytes(private, "little")
    scalar = scalar & ~7 & (2**254 - 1) | 2**254
    x1 = int.from_bytes(public, "little") % 2**255
    x2, z2, x3, z3, swapped = 1, 0, x1, 1, 0
    for position in reversed(range(255)):
        bit = scalar >> position & 1
        if swapped ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swapped = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a % P, c * b % P, a * a % P, b * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + _A24 * e) % P
    if swapped:
        x2, z2 = x3, z3
    result = x2 * pow(z2, P - 2, P) % P
    if result == 0:
        raise LowOrder
    return result.to_bytes(32, "little")


def x25519_public(private: bytes) -> bytes:
    return x25519(private, (9).to_bytes(32, "little"))


def _add(p: Point, q: Point) -> Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * _D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _multiply(scalar: int, point: Point) -> Point:
    result: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


def _same(p: Point, q: Point) -> bool:
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def _compress(point: Point) -> bytes:
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decompress(encoded: bytes) -> Point:
    """RFC 8032, 5.1.3; ValueError for bytes that are no point."""
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y % 2**255
    if y >= P:
        raise ValueError("y is not below the prime")
    square = (y * y - 1) * pow(_D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * _ROOT_OF_MINUS_ONE % P
    if x * x % P != square or (x == 0 and sign):
        raise ValueError("no point of the curve")
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


_BASE = _decompress((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def _secret(seed: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & ~7 & (2**254 - 1) | 2**254
    return scalar, digest[32:]


def _hash_to_scalar(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % _ORDER


def ed25519_public(seed: bytes) -> bytes:
    return _compress(_multiply(_secret(seed)[0], _BASE))


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    scalar, prefix = _secret(seed)
    public = _compress(_multiply(scalar, _BASE))
    nonce = _hash_to_scalar(prefix, message)
    commitment = _compress(_multiply(nonce, _BASE))
    answer = (nonce + _hash_to_scalar(commitment, public, message) * scalar) % _ORDER
    return commitment + answer.to_bytes(32, "little")


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        key, commitment = _decompress(public), _decompress(signature[:32])
    except ValueError:
        return False
    answer = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or answer >= _ORDER:
        return False
    challenge = _hash_to_scalar(signature[:32], public, message)
    return _same(_multiply(answer, _BASE), _add(commitment, _multiply(challenge, key)))
