"""Argon2id and XChaCha20-Poly1305, which lock private keys: each by itself, and as `crypto` puts them together.

XChaCha20-Poly1305: draft-irtf-cfrg-xchacha-03, A.3.1. Argon2id: the vectors of libsodium, which can be asked for one
lane and 16 bytes of salt only, so that those of RFC 9106 (four lanes, secret and associated data) are out of its reach.
"""

from __future__ import annotations

import base64
import re

import nacl.bindings
import nacl.pwhash
import pytest

from hubtunnel import crypto
from hubtunnel.errors import CryptoError
from tests.vectors.reading import Vector, flipped, published, unhex

(SEALED,) = published("xchacha20poly1305.txt")


def hashes() -> list[Vector]:
    """The strings of Argon2's reference, `$argon2id$v=19$m=KiB,t=passes,p=lanes$salt$hash`, taken apart."""
    found = []
    for vector in published("argon2id.txt"):
        parts = re.fullmatch(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=1\$([^$]+)\$([^$]+)", vector["hash"])
        assert parts
        memory, passes, salt, result = parts.groups()
        salt, result = (base64.b64decode(text + "=" * (-len(text) % 4)).hex() for text in (salt, result))
        found.append({"password": vector["password"], "salt": salt, "hash": result, "memory": memory, "passes": passes})
    return found


HASHES = hashes()


def cost(vector: Vector) -> dict[str, int]:
    """libsodium's words for Argon2's parameters: passes, and memory in bytes."""
    return {"opslimit": int(vector["passes"]), "memlimit": int(vector["memory"]) << 10}


def check_unlocking(vector: Vector) -> None:
    """A blob that is sealed under the *published* hash opens with the passphrase."""
    nonce, aad, secret = bytes(range(24)), b"hubtunnel", b"seeds"
    sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(secret, aad, nonce, unhex(vector["hash"]))
    blob = unhex(vector["salt"]) + nonce + sealed
    assert crypto.unlock_with_passphrase(blob, unhex(vector["password"]), aad, **cost(vector)) == secret


def check_sealed(vector: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft's message opens when the passphrase gives the draft's key, and only with its associated data."""
    monkeypatch.setattr(nacl.pwhash.argon2id, "kdf", lambda *_args, **_limits: unhex(vector["key"]))
    blob = bytes(16) + unhex(vector["nonce"] + vector["ciphertext"] + vector["tag"])
    opened = crypto.unlock_with_passphrase(blob, b"", unhex(vector["aad"]), opslimit=1, memlimit=8192)
    assert opened == unhex(vector["plaintext"])


@pytest.mark.parametrize("vector", HASHES, ids=lambda v: f"m={v['memory']},t={v['passes']}")
def test_argon2id(vector: Vector) -> None:
    check_unlocking(vector)


def test_xchacha20poly1305(monkeypatch: pytest.MonkeyPatch) -> None:
    check_sealed(SEALED, monkeypatch)


def test_what_we_lock_we_unlock() -> None:
    limits = {"opslimit": 1, "memlimit": 8192}
    blob = crypto.lock_with_passphrase(b"seeds", b"a passphrase", b"aad", **limits)
    assert crypto.unlock_with_passphrase(blob, b"a passphrase", b"aad", **limits) == b"seeds"
    assert crypto.lock_with_passphrase(b"seeds", b"a passphrase", b"aad", **limits) != blob
    for passphrase, aad in ((b"another", b"aad"), (b"a passphrase", b"other")):
        with pytest.raises(CryptoError, match="wrong passphrase, or the file was altered"):
            crypto.unlock_with_passphrase(blob, passphrase, aad, **limits)


@pytest.mark.parametrize("name", ["salt", "hash", "password"])
def test_control_a_flipped_bit_of_a_hash_is_noticed(name: str) -> None:
    with pytest.raises(CryptoError):
        check_unlocking(flipped(HASHES[-1], name))


@pytest.mark.parametrize("name", ["key", "nonce", "aad", "ciphertext", "tag"])
def test_control_a_flipped_bit_of_a_message_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CryptoError):
        check_sealed(flipped(SEALED, name), monkeypatch)


def test_control_another_plaintext_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        check_sealed(flipped(SEALED, "plaintext"), monkeypatch)
