"""X25519 as `crypto` calls it: RFC 7748, sections 5.2 and 6.1."""

from __future__ import annotations

import pytest

from hubtunnel import crypto
from hubtunnel.errors import CryptoError
from tests.vectors.reading import Vector, flipped, packaged, published, unhex

RFC_5_2 = packaged("asymmetric/X25519/rfc7748.txt")
OWN = published("x25519.txt")
(EXCHANGE,) = [vector for vector in OWN if "shared" in vector]
LOW_ORDER = [vector["low_order"] for vector in OWN if "low_order" in vector]


def check_multiplication(vector: Vector) -> None:
    shared = crypto.x25519(unhex(vector["input_scalar"]), unhex(vector["input_u"]))
    assert shared == unhex(vector["output_u"])


def check_exchange(vector: Vector) -> None:
    for own, other in ("AB", "BA"):
        private, public = unhex(vector[f"private_{own}".lower()]), unhex(vector[f"public_{own}".lower()])
        assert crypto.x25519_public(private) == public
        assert crypto.x25519(private, unhex(vector[f"public_{other}".lower()])) == unhex(vector["shared"])


@pytest.mark.parametrize("vector", RFC_5_2, ids=lambda v: v["count"])
def test_scalar_multiplication(vector: Vector) -> None:
    check_multiplication(vector)


@pytest.mark.parametrize("vector", [v for v in OWN if "iterations" in v], ids=lambda v: v["iterations"])
def test_iterated(vector: Vector) -> None:
    k = u = b"\x09" + bytes(31)
    for _ in range(int(vector["iterations"])):
        k, u = crypto.x25519(k, u), k
    assert k == unhex(vector["result"])


def test_exchange() -> None:
    check_exchange(EXCHANGE)


@pytest.mark.parametrize("point", LOW_ORDER)
@pytest.mark.parametrize("top_bit", [0x00, 0x80])
def test_the_all_zero_result_is_refused(point: str, top_bit: int) -> None:
    """RFC 7748, 6.1 lets us refuse it; 5 says that the topmost bit of a public key is not looked at."""
    public = unhex(point)
    public = public[:31] + bytes((public[31] | top_bit,))
    with pytest.raises(CryptoError, match="low order"):
        crypto.x25519(unhex(EXCHANGE["private_a"]), public)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_public_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(CryptoError, match="length"):
        crypto.x25519(unhex(EXCHANGE["private_a"]), unhex(EXCHANGE["public_b"] + "00")[:length])


@pytest.mark.parametrize("name", ["input_scalar", "input_u", "output_u"])
def test_control_a_flipped_bit_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError):
        check_multiplication(flipped(RFC_5_2[0], name))


@pytest.mark.parametrize("name", ["private_a", "public_a", "private_b", "public_b", "shared"])
def test_control_a_flipped_bit_of_an_exchange_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError):
        check_exchange(flipped(EXCHANGE, name))
