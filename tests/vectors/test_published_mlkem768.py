"""ML-KEM-768 (FIPS 203) as `crypto` calls it: known answers of `cryptography-vectors`, key checks of NIST's ACVP.

Encapsulation draws its own coins in the library and cannot be given those of a known answer; what it makes under the
published keys is opened instead with the published private keys, whose decapsulation the known answers have checked.
"""

from __future__ import annotations

import pytest

from hubtunnel import crypto
from hubtunnel.errors import CryptoError
from tests.vectors.reading import Vector, flipped, packaged, published_json, unhex

KNOWN = packaged("asymmetric/MLKEM/kat_MLKEM_768.rsp")
KEY_CHECKS = published_json("mlkem768_key_check.json")["tests"]


def check_answer(vector: Vector) -> None:
    seed = unhex(vector["d"] + vector["z"])
    assert crypto.mlkem_public(seed) == unhex(vector["pk"])
    assert crypto.mlkem_decapsulate(seed, unhex(vector["ct"])) == unhex(vector["ss"])
    # ct_n is no encapsulation under this key: implicit rejection has one right answer, too (FIPS 203, 6.3).
    assert crypto.mlkem_decapsulate(seed, unhex(vector["ct_n"])) == unhex(vector["ss_n"])


def test_keys_from_seeds_and_decapsulation() -> None:
    assert len(KNOWN) == 1000
    for vector in KNOWN:
        check_answer(vector)


def test_encapsulation_is_opened_by_the_published_keys() -> None:
    for vector in KNOWN[:100]:
        secret, ciphertext = crypto.mlkem_encapsulate(unhex(vector["pk"]))
        assert len(ciphertext) == crypto.MLKEM_CIPHERTEXT_LEN
        assert crypto.mlkem_decapsulate(unhex(vector["d"] + vector["z"]), ciphertext) == secret
        assert crypto.mlkem_encapsulate(unhex(vector["pk"]))[1] != ciphertext


@pytest.mark.parametrize("vector", KEY_CHECKS, ids=lambda v: str(v["tcId"]))
def test_modulus_check(vector: dict[str, str]) -> None:
    """FIPS 203, 7.2, wherever a key comes in."""
    public = unhex(vector["ek"])
    for uses_key in (crypto.mlkem_check_public, crypto.mlkem_encapsulate):
        if vector["testPassed"]:
            uses_key(public)
        else:
            with pytest.raises(CryptoError, match="modulus"):
                uses_key(public)


def test_modulus_check_at_every_coefficient() -> None:
    """Each of the 768 coefficients set to q = 3329, the least that is refused, and to q - 1, which is not."""
    good = unhex(KNOWN[0]["pk"])
    for place in range(768):
        crypto.mlkem_check_public(with_coefficient(good, place, 3328))
        with pytest.raises(CryptoError, match="modulus"):
            crypto.mlkem_check_public(with_coefficient(good, place, 3329))


def with_coefficient(public: bytes, place: int, value: int) -> bytes:
    """The key with one 12-bit coefficient replaced (FIPS 203, 4.2.1: ByteEncode, least significant bit first)."""
    number = int.from_bytes(public, "little")
    number &= ~(0xFFF << 12 * place)
    return (number | value << 12 * place).to_bytes(len(public), "little")


@pytest.mark.parametrize("change", [-1, 1])
def test_other_lengths_are_refused(change: int) -> None:
    seed = unhex(KNOWN[0]["d"] + KNOWN[0]["z"])
    with pytest.raises(CryptoError, match="length"):
        crypto.mlkem_check_public((unhex(KNOWN[0]["pk"]) + b"\0")[: crypto.MLKEM_PUBLIC_LEN + change])
    with pytest.raises(CryptoError, match="length"):
        crypto.mlkem_decapsulate(seed, (unhex(KNOWN[0]["ct"]) + b"\0")[: crypto.MLKEM_CIPHERTEXT_LEN + change])


@pytest.mark.parametrize("name", ["d", "z", "pk", "ct", "ss", "ct_n", "ss_n"])
def test_control_a_flipped_bit_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError):
        check_answer(flipped(KNOWN[0], name))


def test_control_a_good_key_that_is_called_bad_is_noticed() -> None:
    good = next(vector for vector in KEY_CHECKS if vector["testPassed"])
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_modulus_check(good | {"testPassed": False})
