"""AES-256-GCM as `crypto.Aead` calls it, 96-bit nonces and 128-bit tags: NIST's CAVP vectors (SP 800-38D)."""

from __future__ import annotations

import pytest

from hubtunnel import crypto
from hubtunnel.errors import CryptoError
from tests.vectors.reading import Vector, flipped, packaged, unhex


def ours(name: str) -> list[Vector]:
    """Those of the lengths that the protocol uses."""
    return [v for v in packaged(f"ciphers/AES/GCM/{name}256.rsp") if (v["ivlen"], v["taglen"]) == ("96", "128")]


ENCRYPT = ours("gcmEncryptExtIV")
DECRYPT = ours("gcmDecrypt")


def seal(vector: Vector) -> bytes:
    return crypto.Aead(unhex(vector["key"])).seal(unhex(vector["iv"]), unhex(vector["pt"]), unhex(vector["aad"]))


def unseal(vector: Vector) -> bytes:
    sealed = unhex(vector["ct"] + vector["tag"])
    return crypto.Aead(unhex(vector["key"])).open(unhex(vector["iv"]), sealed, unhex(vector["aad"]))


def check_sealing(vector: Vector) -> None:
    assert seal(vector) == unhex(vector["ct"] + vector["tag"])
    assert unseal(vector) == unhex(vector["pt"])


def test_sealing() -> None:
    assert len(ENCRYPT) == 375
    for vector in ENCRYPT:
        check_sealing(vector)


def test_opening() -> None:
    good = [vector for vector in DECRYPT if "fail" not in vector]
    assert len(DECRYPT) == 375
    assert 0 < len(good) < len(DECRYPT)
    for vector in good:
        assert unseal(vector) == unhex(vector["pt"])


def test_what_nist_forged_does_not_open() -> None:
    for vector in DECRYPT:
        if "fail" in vector:
            with pytest.raises(CryptoError, match="does not authenticate"):
                unseal(vector)


@pytest.mark.parametrize("name", ["key", "iv", "pt", "aad", "ct", "tag"])
def test_control_a_flipped_bit_is_noticed(name: str) -> None:
    vector = next(v for v in ENCRYPT if v["pt"] and v["aad"])
    with pytest.raises(AssertionError):
        check_sealing(flipped(vector, name))
