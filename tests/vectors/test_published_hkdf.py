"""HKDF-SHA256 as `crypto` calls it: RFC 5869, A.1 to A.3, and a longer output of `cryptography-vectors`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtunnel import crypto
from tests.vectors.reading import Vector, flipped, packaged, unhex

RFC = packaged("KDF/rfc-5869-HKDF-SHA256.txt")
GENERATED = packaged("KDF/hkdf-generated.txt")


def check(vector: Vector) -> None:
    prk = crypto.extract(unhex(vector["salt"]), unhex(vector["ikm"]))
    if "prk" in vector:
        assert prk == unhex(vector["prk"])
    assert crypto.hkdf_expand(prk, unhex(vector["info"]), int(vector["l"])) == unhex(vector["okm"])


@pytest.mark.parametrize("vector", RFC + GENERATED, ids=lambda v: f"L={v['l']}")
def test_extract_and_expand(vector: Vector) -> None:
    assert vector["hash"] == "SHA-256"
    check(vector)


@given(
    key=st.binary(min_size=32, max_size=32),
    label=st.text("abcdefghijklmnopqrstuvwxyz IR", max_size=20),
    context=st.binary(max_size=100),
    length=st.integers(1, 200),
)
def test_our_expand_is_that_of_the_rfc_under_our_info(key: bytes, label: str, context: bytes, length: int) -> None:
    info = b"hubtunnel/1 " + label.encode() + b"\0" + context
    assert crypto.expand(key, label, context, length) == crypto.hkdf_expand(key, info, length)


@pytest.mark.parametrize("name", ["ikm", "salt", "info", "prk", "okm"])
def test_control_a_flipped_bit_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError):
        check(flipped(RFC[0], name))
