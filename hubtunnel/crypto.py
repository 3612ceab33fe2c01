"""The primitives, exactly as docs/PROTOCOL.md composes them, and nothing else.

This is the only module that imports `cryptography` and `nacl`. It holds no state, does no I/O but for the system's
random generator, and raises `CryptoError` for every input that a primitive refuses.

Sources: RFC 7748 (X25519), FIPS 203 (ML-KEM-768), FIPS 204 (ML-DSA-65), RFC 8032 (Ed25519), RFC 5869 (HKDF),
NIST SP 800-38D (AES-256-GCM), RFC 9106 (Argon2id).
"""

from __future__ import annotations

import hashlib
import hmac
import os

import nacl.bindings
import nacl.exceptions
import nacl.pwhash
import nacl.secret
import nacl.signing
import nacl.utils
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hubtunnel.errors import CryptoError

PREFIX = b"hubtunnel/1 "
TAG_LEN = 16
X25519_LEN = 32
MLKEM_SEED_LEN = 64
MLKEM_PUBLIC_LEN = 1184
MLKEM_CIPHERTEXT_LEN = 1088
ED25519_PUBLIC_LEN = 32
ED25519_SIGNATURE_LEN = 64
MLDSA_PUBLIC_LEN = 1952
MLDSA_SIGNATURE_LEN = 3309

Buffer = bytes | bytearray | memoryview


# --- hashes and derivation (PROTOCOL.md 2) ------------------------------------------------------------------


def H(*parts: Buffer) -> bytes:  # noqa: N802 - the specification's own name
    """SHA-256 over the concatenation of `parts`, 32 bytes."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part)
    return h.digest()


def mac(key: bytes, *parts: Buffer) -> bytes:
    """HMAC-SHA-256 over the concatenation of `parts`, 32 bytes."""
    return hmac.digest(key, b"".join(parts), "sha256")


def extract(salt: bytes, ikm: bytes) -> bytes:
    """HKDF-Extract (RFC 5869, 2.2) with SHA-256, 32 bytes."""
    return hmac.digest(salt, ikm, "sha256")


def hkdf_expand(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand (RFC 5869, 2.3) with SHA-256; `length` is at most 255 * 32 bytes."""
    block = hmac.digest(key, info + b"\x01", "sha256")
    if length <= 32:
        return block[:length]
    out = block
    counter = 2
    while len(out) < length:
        block = hmac.digest(key, block + info + bytes((counter,)), "sha256")
        out += block
        counter += 1
    return out[:length]


def expand(key: bytes, label: str, context: bytes = b"", length: int = 32) -> bytes:
    """HKDF-Expand with info = "hubtunnel/1 " ‖ label ‖ 0x00 ‖ context."""
    return hkdf_expand(key, PREFIX + label.encode("ascii") + b"\0" + context, length)


def equal(a: bytes, b: bytes) -> bool:
    """Whether two secrets are the same, in constant time."""
    return hmac.compare_digest(a, b)


def random_bytes(n: int) -> bytes:
    """`n` bytes of the system's random generator."""
    return os.urandom(n)


# --- key agreement ------------------------------------------------------------------------------------------


def x25519_public(private: bytes) -> bytes:
    """The public point of a 32-byte X25519 private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def x25519(private: bytes, public: bytes) -> bytes:
    """The X25519 shared secret.

    Raises `CryptoError` for a low-order point, whose all-zero result RFC 7748 6.1 lets us refuse.
    """
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as exc:
        raise CryptoError("X25519 public key refused (low order or wrong length)") from exc


def mlkem_public(seed: bytes) -> bytes:
    """The 1184-byte ML-KEM-768 encapsulation key of a 64-byte seed (d ‖ z)."""
    return MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()


def mlkem_check_public(public: bytes) -> None:
    """Refuse an encapsulation key of wrong length or with a coefficient ≥ q (FIPS 203, 7.2)."""
    try:
        MLKEM768PublicKey.from_public_bytes(public)
    except ValueError as exc:
        raise CryptoError("ML-KEM-768 public key refused (length or modulus check)") from exc


def mlkem_encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """(shared secret 32, ciphertext 1088) for an ML-KEM-768 encapsulation key; coins are the library's own."""
    try:
        return MLKEM768PublicKey.from_public_bytes(public).encapsulate()
    except ValueError as exc:
        raise CryptoError("ML-KEM-768 public key refused (length or modulus check)") from exc


def mlkem_decapsulate(seed: bytes, ciphertext: bytes) -> bytes:
    """The shared secret of a ciphertext; a forged one of right length gives a wrong secret, never an error."""
    try:
        return MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)
    except ValueError as exc:
        raise CryptoError("ML-KEM-768 ciphertext refused (length)") from exc


# --- records ------------------------------------------------------------------------------------------------


class Aead:
    """AES-256-GCM under one key. Its `repr` shows nothing of the key."""

    __slots__ = ("_aead", "seal")

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        # (nonce, plaintext, aad): the ciphertext with its tag. (`encrypt_into` would want a buffer, which Python fills
        # with zeros first, and a view of it: two microseconds of a small record's five.)
        self.seal = self._aead.encrypt

    def open(self, nonce: bytes, ciphertext: Buffer, aad: Buffer) -> bytes:
        """The plaintext; `CryptoError` when the tag is wrong.

        `decrypt_into` is not used on purpose: it leaves unauthenticated plaintext in the buffer when it raises.
        """
        try:
            return self._aead.decrypt(nonce, ciphertext, aad)
        except InvalidTag:
            raise CryptoError("record does not authenticate") from None


# --- signatures (cards only, never sessions) ------------------------------------------------------------------


def ed25519_public(seed: bytes) -> bytes:
    """The Ed25519 public key of a 32-byte seed."""
    return bytes(nacl.signing.SigningKey(seed).verify_key)


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    """A 64-byte Ed25519 signature (RFC 8032, pure)."""
    return nacl.signing.SigningKey(seed).sign(message).signature


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature is good; False for any malformed input as well."""
    try:
        nacl.signing.VerifyKey(public).verify(message, signature)
    except (nacl.exceptions.CryptoError, ValueError):
        return False
    return True


def mldsa_public(seed: bytes) -> bytes:
    """The 1952-byte ML-DSA-65 public key of a 32-byte seed."""
    return MLDSA65PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()


def mldsa_sign(seed: bytes, message: bytes) -> bytes:
    """A 3309-byte ML-DSA-65 signature (FIPS 204, pure, empty context, hedged)."""
    return MLDSA65PrivateKey.from_seed_bytes(seed).sign(message)


def mldsa_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an ML-DSA-65 signature is good; False for any malformed input as well."""
    try:
        MLDSA65PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


# --- private keys under a passphrase --------------------------------------------------------------------------

PASSPHRASE_SALT_LEN = 16


def lock_with_passphrase(plaintext: bytes, passphrase: bytes, aad: bytes, *, opslimit: int, memlimit: int) -> bytes:
    """salt 16 ‖ nonce 24 ‖ XChaCha20-Poly1305(Argon2id(passphrase, salt), plaintext, aad)."""
    salt = os.urandom(PASSPHRASE_SALT_LEN)
    key = nacl.pwhash.argon2id.kdf(32, passphrase, salt, opslimit=opslimit, memlimit=memlimit)
    nonce = os.urandom(24)
    return salt + nonce + nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, aad, nonce, key)


def unlock_with_passphrase(blob: bytes, passphrase: bytes, aad: bytes, *, opslimit: int, memlimit: int) -> bytes:
    """The inverse of `lock_with_passphrase`; `CryptoError` when the passphrase or the file is wrong."""
    if len(blob) < PASSPHRASE_SALT_LEN + 24 + 16:
        raise CryptoError("too short to be a locked key")
    salt, nonce, sealed = blob[:16], blob[16:40], blob[40:]
    key = nacl.pwhash.argon2id.kdf(32, passphrase, salt, opslimit=opslimit, memlimit=memlimit)
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, aad, nonce, key)
    except nacl.exceptions.CryptoError:
        raise CryptoError("wrong passphrase, or the file was altered") from None
