"""Ed25519 as `crypto` calls it: the 1024 vectors of the authors' `sign.input`, RFC 8032 7.1's TEST 1 to 3 first."""

from __future__ import annotations

import cryptography_vectors
import pytest

from hubtunnel import crypto
from tests.vectors.reading import Vector, flipped, unhex

# RFC 8032, 7.1: the public keys of TEST 1, 2 and 3, by which they are known again.
RFC_PUBLIC = (
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
)


def read() -> list[Vector]:
    """Lines of `seed ‖ public : public : message : signature ‖ message :`."""
    with cryptography_vectors.open_vector_file("asymmetric/Ed25519/sign.input", "r") as file:
        fields = [line.split(":") for line in file]
    return [{"seed": f[0][:64], "public": f[1], "message": f[2], "signature": f[3][:128]} for f in fields]


VECTORS = read()


def check(vector: Vector) -> None:
    seed, public, message, signature = (unhex(vector[name]) for name in ("seed", "public", "message", "signature"))
    assert crypto.ed25519_public(seed) == public
    assert crypto.ed25519_sign(seed, message) == signature
    assert crypto.ed25519_verify(public, message, signature)


def test_keys_signatures_verification() -> None:
    assert len(VECTORS) == 1024
    assert tuple(vector["public"] for vector in VECTORS[:3]) == RFC_PUBLIC
    for vector in VECTORS:
        check(vector)


def test_what_is_altered_does_not_verify() -> None:
    for number, vector in enumerate(VECTORS[1:257]):
        signature = bytearray(unhex(vector["signature"]))
        signature[number % 64] ^= 1 << number % 8
        public, message = unhex(vector["public"]), unhex(vector["message"])
        assert not crypto.ed25519_verify(public, message, bytes(signature))
        assert not crypto.ed25519_verify(public, message + b"\0", unhex(vector["signature"]))


def test_a_second_form_of_a_good_signature_is_refused() -> None:
    """RFC 8032, 5.1.7: S must be below the order of the group; S + L would pass the equation."""
    order = (1 << 252) + 27742317777372353535851937790883648493
    for vector in VECTORS[:64]:
        signature = unhex(vector["signature"])
        other = (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
        assert not crypto.ed25519_verify(unhex(vector["public"]), unhex(vector["message"]), signature[:32] + other)


@pytest.mark.parametrize("name", ["seed", "public", "message", "signature"])
def test_control_a_flipped_bit_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError):
        check(flipped(VECTORS[1], name))
