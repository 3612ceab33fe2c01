"""ML-DSA-65 (FIPS 204) as `crypto` calls it, pure and with an empty context.

Keys from seeds: known answers of `cryptography-vectors`. Its signatures were made under other contexts, so that each of
them must be refused here; signatures with an empty context, and forgeries, are from Wycheproof. Our own signatures
are hedged, hence never the known answer; they are verified under the published public key.
"""

from __future__ import annotations

import pytest

from hubtunnel import crypto
from tests.vectors.reading import Vector, flipped, packaged, published_json, unhex

KNOWN = packaged("asymmetric/MLDSA/kat_MLDSA_65_det_pure.rsp")
WYCHEPROOF = published_json("mldsa65.json")


def check_signature(vector: Vector) -> None:
    seed, public, message = unhex(vector["seed"]), unhex(vector["publicKey"]), unhex(vector["msg"])
    assert crypto.mldsa_public(seed) == public
    assert crypto.mldsa_verify(public, message, unhex(vector["sig"]))
    assert crypto.mldsa_verify(public, message, crypto.mldsa_sign(seed, message))


def check_verification(vector: Vector) -> None:
    good = vector["result"] == "valid" and not vector.get("ctx")
    assert crypto.mldsa_verify(unhex(vector["publicKey"]), unhex(vector["msg"]), unhex(vector["sig"])) == good


def test_keys_from_seeds() -> None:
    assert len(KNOWN) == 100
    for vector in KNOWN:
        assert crypto.mldsa_public(unhex(vector["xi"])) == unhex(vector["pk"])


def test_a_signature_under_another_context_is_refused() -> None:
    for vector in KNOWN:
        assert vector["ctx"]
        signature = unhex(vector["sm"])[: crypto.MLDSA_SIGNATURE_LEN]
        assert not crypto.mldsa_verify(unhex(vector["pk"]), unhex(vector["msg"]), signature)


@pytest.mark.parametrize("vector", WYCHEPROOF["sign_seed"], ids=lambda v: v["comment"])
def test_known_signatures(vector: Vector) -> None:
    check_signature(vector)


@pytest.mark.parametrize("vector", WYCHEPROOF["verify"], ids=lambda v: v["comment"])
def test_forgeries_and_other_contexts(vector: Vector) -> None:
    check_verification(vector)


def test_signatures_are_hedged() -> None:
    seed = unhex(KNOWN[0]["xi"])
    assert crypto.mldsa_sign(seed, b"twice") != crypto.mldsa_sign(seed, b"twice")


@pytest.mark.parametrize("name", ["seed", "publicKey", "msg", "sig"])
def test_control_a_flipped_bit_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError):
        check_signature(flipped(WYCHEPROOF["sign_seed"][0], name))


def test_control_a_forgery_that_is_called_good_is_noticed() -> None:
    forgery = next(vector for vector in WYCHEPROOF["verify"] if vector["result"] == "invalid")
    with pytest.raises(AssertionError):
        check_verification(forgery | {"result": "valid"})
