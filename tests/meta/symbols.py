"""Cryptography made of symbols: runs the product's own handshake and says what each value is made of.

Every function of `hubtunnel.crypto` that the handshake calls is replaced by one that returns bytes without meaning, of
the right length, and remembers the term that they stand for. Bytes that the product joins are taken apart again by
these terms, so that what it hashes and sends can be read as terms, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from hubtunnel import crypto

Term = Any  # an atom's name, or a tuple of a function's name and its arguments

_TRUNCATED = 16  # gates are cut to this length


class Symbols:
    """Terms, by the bytes that stand for them."""

    def __init__(self) -> None:
        self._terms: dict[bytes, Term] = {}
        self._lengths: set[int] = set()

    def new(self, term: Term, length: int = 32) -> bytes:
        """Bytes that stand for a term, always the same."""
        token = hashlib.shake_256(repr(term).encode()).digest(length)
        self._terms[token] = term
        self._lengths.add(length)
        return token

    def name(self, token: bytes, term: Term) -> bytes:
        """Let bytes that are there already stand for a term."""
        self._terms[token] = term
        self._lengths.add(len(token))
        return token

    def term(self, data: bytes) -> Term:
        """The one term that these bytes stand for."""
        (found,) = self.parts(data)
        return found

    def parts(self, data: bytes) -> list[Term]:
        """The terms that were joined; what is none is left as bytes."""
        return list(self._split(bytes(data)))

    def _split(self, data: bytes) -> Iterator[Term]:
        literal, at = b"", 0
        while at < len(data):
            token = next(
                (t for n in sorted(self._lengths, reverse=True) if (t := data[at : at + n]) in self._terms), b""
            )
            if not token:
                literal += data[at : at + 1]
                at += 1
                continue
            if literal:
                yield literal
                literal = b""
            yield self._terms[token]
            at += len(token)
        if literal:
            yield literal

    # --- what stands in the place of hubtunnel.crypto ---------------------------------------------------------

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the symbols in the place of the primitives."""
        for function in (
            self.H,
            self.mac,
            self.extract,
            self.expand,
            self.x25519_public,
            self.x25519,
            self.mlkem_public,
            self.mlkem_check_public,
            self.mlkem_encapsulate,
            self.mlkem_decapsulate,
        ):
            monkeypatch.setattr(crypto, function.__name__, function)

    def H(self, *parts: bytes) -> bytes:
        return self.new(("H", *self.parts(b"".join(parts))))

    def mac(self, key: bytes, *parts: bytes) -> bytes:
        term = ("HMAC", self.term(key), *self.parts(b"".join(parts)))
        token = self.new(term)
        self.name(token[:_TRUNCATED], term)
        return token

    def extract(self, salt: bytes, ikm: bytes) -> bytes:
        return self.new(("extract", *self.parts(salt), *self.parts(ikm)))

    def expand(self, key: bytes, label: str, context: bytes = b"", length: int = 32) -> bytes:
        return self.new(("expand", self.term(key), str(label), *self.parts(context)), length)

    def x25519_public(self, private: bytes) -> bytes:
        return self.new(("pub", self.term(private)))

    def x25519(self, private: bytes, public: bytes) -> bytes:
        return self.new(dh(("pub", self.term(private)), self.term(public)))

    def mlkem_public(self, seed: bytes) -> bytes:
        return self.new(("kpk", self.term(seed)), crypto.MLKEM_PUBLIC_LEN)

    def mlkem_check_public(self, public: bytes) -> None:
        assert self.term(public)[0] == "kpk"

    def mlkem_encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        key = self.term(public)
        coins = f"coins for {key[1]}"
        return self.new(coins), self.new(("kenc", key, coins), crypto.MLKEM_CIPHERTEXT_LEN)

    def mlkem_decapsulate(self, seed: bytes, ciphertext: bytes) -> bytes:
        function, key, coins = self.term(ciphertext)
        assert (function, key) == ("kenc", ("kpk", self.term(seed)))
        return self.new(coins)


def dh(a: Term, b: Term) -> Term:
    """A Diffie-Hellman value of two public keys, whichever side computes it."""
    assert a[0] == b[0] == "pub"
    return ("dh", *sorted((a[1], b[1])))
