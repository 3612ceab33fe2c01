"""Cheap stand-ins for the primitives, for searches that make a hundred thousand ratchet steps.

They keep what the protocol rests on: a Diffie-Hellman value that two key pairs have in common and no other two, KEM
secrets that only the owner of the seed finds, tags that fit one key, nonce, header and plaintext. Each is a SHA-256 of
all its inputs, so that different inputs give different outputs. They hide nothing: plaintexts stand in the records,
which lets a search tell two states apart. Everything above key agreement and AEAD is the real code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hubtunnel import crypto
from hubtunnel.errors import CryptoError

_EMPTY = bytes(crypto.MLKEM_PUBLIC_LEN)


def digest(*parts: bytes | bytearray | memoryview) -> bytes:
    """SHA-256 of parts that are told apart by their lengths."""
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(4, "big"))
        h.update(part)
    return h.digest()


def x25519_public(private: bytes) -> bytes:
    """A public key that belongs to one private key."""
    return digest(b"X", private)


def x25519(private: bytes, public: bytes) -> bytes:
    """The same for (a, B) as for (b, A)."""
    return digest(b"DH", *sorted((x25519_public(private), public)))


def mlkem_public(seed: bytes) -> bytes:
    """A public key that belongs to one seed."""
    return digest(b"M", seed) + _EMPTY[32:]


def mlkem_decapsulate(seed: bytes, ciphertext: bytes) -> bytes:
    """The secret of whoever encapsulated to this seed's public key with the coins in the ciphertext."""
    return digest(b"KEM", mlkem_public(seed), ciphertext)


class Coins:
    """Coins of encapsulations: the nth to a public key are the same in every run, and no two are."""

    def __init__(self) -> None:
        self.used: dict[bytes, int] = {}

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """(secret, ciphertext)."""
        n = self.used.get(public[:32], 0)
        self.used[public[:32]] = n + 1
        ciphertext = digest(b"coins", public, n.to_bytes(4, "big")) + _EMPTY[: crypto.MLKEM_CIPHERTEXT_LEN - 32]
        return digest(b"KEM", public, ciphertext), ciphertext


class Aead:
    """A tag, and no encryption. `sealed` is told of every key and nonce."""

    __slots__ = ("_key",)
    sealed: Callable[[bytes, bytes], None] = staticmethod(lambda key, nonce: None)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Plaintext and tag."""
        Aead.sealed(self._key, nonce)
        return plaintext + digest(self._key, nonce, plaintext, aad)[:16]

    def open(self, nonce: bytes, ciphertext: memoryview, aad: bytes) -> bytes:
        """The plaintext, if the tag is its."""
        plaintext = bytes(ciphertext[:-16])
        if digest(self._key, nonce, plaintext, aad)[:16] != ciphertext[-16:]:
            raise CryptoError("record does not authenticate")
        return plaintext


@contextmanager
def in_place(
    encapsulate: Callable[[bytes], tuple[bytes, bytes]], sealed: Callable[[bytes, bytes], None]
) -> Iterator[None]:
    """Put the stand-ins where the primitives are."""
    told = Aead.sealed
    try:
        Aead.sealed = staticmethod(sealed)
        with _replaced(
            x25519_public=x25519_public,
            x25519=x25519,
            mlkem_public=mlkem_public,
            mlkem_check_public=lambda public: None,
            mlkem_encapsulate=encapsulate,
            mlkem_decapsulate=mlkem_decapsulate,
            Aead=Aead,
        ):
            yield
    finally:
        Aead.sealed = staticmethod(told)


@contextmanager
def kem_in_place() -> Iterator[None]:
    """Put a stand-in where the KEM is, whose coins are its own: with it, the same seed gives the same run."""
    with _replaced(
        mlkem_public=mlkem_public,
        mlkem_check_public=lambda public: None,
        mlkem_encapsulate=Coins().encapsulate,
        mlkem_decapsulate=mlkem_decapsulate,
    ):
        yield


@contextmanager
def _replaced(**fakes: object) -> Iterator[None]:
    originals = {name: getattr(crypto, name) for name in fakes}
    try:
        for name, fake in fakes.items():
            setattr(crypto, name, fake)
        yield
    finally:
        for name, original in originals.items():
            setattr(crypto, name, original)
