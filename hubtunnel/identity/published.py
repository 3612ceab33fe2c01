"""The test identities that are published in `keys/`: everybody has their private halves, so no hub may use them.

Only tests pass `allow` to what calls this; no setting and no environment variable can.
"""

from __future__ import annotations

from collections.abc import Iterable

from hubtunnel import crypto

IDENTITIES = frozenset(
    bytes.fromhex(text)
    for text in (
        "a367567f0b704e8f2e4ce9ff8daf3c9c14b4a850036d0691fbeb1584e8f0b8c4",
        "8433211582f8cb04a8639f07e294c5e0b3f14451f5f86ca1e924b3c49308aa56",
    )
)
LINK_KEYS = frozenset(  # SHA-256 of the public link key
    bytes.fromhex(text)
    for text in (
        "727e90317352acfd28b26d60e5c1e8b781f616908235acb5e505bbcdc2d72547",
        "1d6b2121da82e608d215bdd5b4864c6d603f83d94e2059f6f4089bbf4bf84a03",
    )
)
PSKS = frozenset(  # SHA-256
    (bytes.fromhex("da1ec998d69cc4d2643cec007ecda2b1686746a10b32a417363690f5bbe1d46b"),)
)


def is_published_identity(idfp: bytes) -> bool:
    """Whether this identity's private key is published."""
    return idfp in IDENTITIES


def is_published_link_key(public: bytes) -> bool:
    """Whether this link key's (SX ‖ SM) private halves are published."""
    return crypto.H(public) in LINK_KEYS


def is_published_psk(psk: bytes) -> bool:
    """Whether this pre-shared key is published."""
    return crypto.H(psk) in PSKS


def refuse_published(owner: str, idfp: bytes, link_keys: Iterable[bytes], psk: bytes | None = None) -> list[str]:
    """A line for each key of `owner` ("this hub", or a peer's file) that is published; none when all are its own."""
    problems = []
    if is_published_identity(idfp):
        problems.append(f"{owner}: the identity is a published test identity, everybody has its private key")
    if any(is_published_link_key(public) for public in link_keys):
        problems.append(f"{owner}: a link key is a published test key, everybody has its private half")
    if psk is not None and is_published_psk(psk):
        problems.append(f"{owner}: the pre-shared key is a published test key")
    return problems
