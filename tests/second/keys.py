"""Section 3 of docs/PROTOCOL.md: link keys, identities, fingerprints, pair contexts and hints."""

from __future__ import annotations

import functools
import secrets
from dataclasses import dataclass

from dilithium_py.ml_dsa import ML_DSA_65
from kyber_py.ml_kem import ML_KEM_768

from tests.second import curve25519
from tests.second.kdf import IDENTITY, LINK_KEY, PAIR, expand, extract, sha256, u64

NO_PSK = bytes(32)
HOUR = 3600


@dataclass(frozen=True)
class LinkPublic:
    """`LK`, its halves apart."""

    x25519: bytes
    mlkem768: bytes

    def fingerprint(self, idfp: bytes) -> bytes:
        """PC2."""
        return sha256(LINK_KEY + b"\0" + idfp + self.x25519 + self.mlkem768)


@dataclass(frozen=True)
class LinkKey:
    """A private link key: an X25519 private key and an ML-KEM-768 seed `d ‖ z`."""

    x_seed: bytes
    m_seed: bytes

    @classmethod
    def new(cls) -> LinkKey:
        return cls(secrets.token_bytes(32), secrets.token_bytes(64))

    @functools.cached_property
    def _mlkem768(self) -> tuple[bytes, bytes]:
        """Public and private key, expanded from the seed."""
        public, private = ML_KEM_768.key_derive(self.m_seed)
        return bytes(public), bytes(private)

    @functools.cached_property
    def public(self) -> LinkPublic:
        return LinkPublic(curve25519.x25519_public(self.x_seed), self._mlkem768[0])

    def dh(self, public: bytes) -> bytes:
        return curve25519.x25519(self.x_seed, public)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return bytes(ML_KEM_768.decaps(self._mlkem768[1], ciphertext))


def encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """Shared secret and ciphertext; ValueError for a key that fails the modulus check."""
    secret, ciphertext = ML_KEM_768.encaps(public)
    return bytes(secret), bytes(ciphertext)


@dataclass(frozen=True)
class Verifier:
    """The public half of an identity."""

    ed25519: bytes
    mldsa65: bytes

    @property
    def idfp(self) -> bytes:
        """PC1."""
        return sha256(IDENTITY + b"\0" + self.ed25519 + self.mldsa65)

    def verify(self, message: bytes, ed25519: bytes, mldsa65: bytes) -> bool:
        classical = curve25519.ed25519_verify(self.ed25519, message, ed25519)
        return classical and ML_DSA_65.verify(self.mldsa65, message, mldsa65)


@dataclass(frozen=True)
class Identity:
    """The private half: two seeds of 32 bytes."""

    ed_seed: bytes
    ml_seed: bytes

    @classmethod
    def new(cls) -> Identity:
        return cls(secrets.token_bytes(32), secrets.token_bytes(32))

    @functools.cached_property
    def public(self) -> Verifier:
        return Verifier(curve25519.ed25519_public(self.ed_seed), ML_DSA_65.key_derive(self.ml_seed)[0])

    def sign(self, message: bytes) -> list[bytes]:
        private = ML_DSA_65.key_derive(self.ml_seed)[1]
        return [curve25519.ed25519_sign(self.ed_seed, message), ML_DSA_65.sign(private, message)]


@dataclass(frozen=True)
class Pair:
    """A pair context (PC4) in one direction (PC5): `own` is the private link key of the hub that holds it."""

    own: LinkKey
    peer: LinkPublic
    direction: bytes
    """D: the initiator's fingerprint first."""
    k_pair: bytes

    @classmethod
    def make(cls, own: LinkKey, own_fp: bytes, peer: LinkPublic, peer_fp: bytes, psk: bytes, *, dials: bool) -> Pair:
        direction = own_fp + peer_fp if dials else peer_fp + own_fp
        return cls(own, peer, direction, extract(PAIR, own.dh(peer.x25519) + psk))

    @property
    def k_gate(self) -> bytes:
        return expand(self.k_pair, "gate", self.direction)

    @property
    def chain(self) -> bytes:
        """C0."""
        return expand(self.k_pair, "chain", self.direction)

    def hint(self, hour: int) -> bytes:
        """PC6."""
        return expand(self.k_pair, "hint", self.direction + u64(hour), 16)


_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def _polymod(values: list[int]) -> int:
    """The checksum of BIP 173, which BIP 350 took over."""
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            if top >> bit & 1:
                checksum ^= generator
    return checksum


def fingerprint_text(idfp: bytes) -> str:
    """An `idfp` for people (3.1): bech32m with the prefix `h`, in groups of five."""
    bits = int.from_bytes(idfp, "big") << 4
    digits = [bits >> 5 * place & 31 for place in reversed(range(52))]
    prefix = [ord("h") >> 5, 0, ord("h") & 31]
    checksum = _polymod([*prefix, *digits, *bytes(6)]) ^ 0x2BC830A3
    digits += [checksum >> 5 * place & 31 for place in reversed(range(6))]
    text = "h1" + "".join(_BECH32[digit] for digit in digits)
    return "-".join(text[start : start + 5] for start in range(0, 60, 5))
