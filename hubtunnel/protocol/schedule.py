"""The key schedule (PROTOCOL.md 4.2): from the six secrets of SHARE and EXCH to a session's keys.

The handshake and every ratchet step go through the same functions: there is one schedule, not two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hubtunnel import crypto
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Domain, Label
from hubtunnel.protocol.pair import LinkPublic, LinkSecret
from hubtunnel.protocol.wire import M2, RK1, u64


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """One pair of ephemeral keys, made of a 96-byte seed (HS2)."""

    x25519_private: bytes = field(repr=False)
    mlkem_seed: bytes = field(repr=False)
    x25519_public: bytes
    mlkem_public: bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> Ephemeral:
        """Expand a seed of `hedged_seed`."""
        x, m = seed[: crypto.X25519_LEN], seed[crypto.X25519_LEN :]
        return cls(x, m, crypto.x25519_public(x), crypto.mlkem_public(m))


@dataclass(frozen=True, slots=True)
class Secrets:
    """KS2: what one exchange leaves both sides with. Nothing here is derived from anything else here."""

    auth_r_key: bytes = field(repr=False)
    auth_i_key: bytes = field(repr=False)
    t_i: bytes = field(repr=False)
    t_r: bytes = field(repr=False)
    root: bytes = field(repr=False)
    sid: bytes
    h2: bytes

    def auth_r(self) -> bytes:
        """KS3: the responder's proof."""
        return crypto.mac(self.auth_r_key, self.h2)

    def auth_i(self) -> bytes:
        """KS4: the initiator's proof, which covers the responder's."""
        return crypto.mac(self.auth_i_key, self.h2, self.auth_r())

    def transcript(self) -> bytes:
        """KS5: th, the channel binding, which the next ratchet step starts from."""
        return crypto.H(self.h2, self.auth_r(), self.auth_i())


def handshake_hash(d: bytes, m1: bytes) -> bytes:
    """KS1: h1 of a handshake."""
    return crypto.H(Domain.HANDSHAKE, b"\0", d, m1)


def ratchet_hash(th: bytes, index: int, rk1: bytes) -> bytes:
    """RT2: h1 of the ratchet step that leads to root `index`."""
    return crypto.H(Domain.RATCHET, b"\0", th, u64(index), rk1)


def ratchet_chain(root: bytes, d: bytes, index: int) -> bytes:
    """RT1: C0 of the ratchet step that leads to root `index`."""
    return crypto.expand(root, Label.CHAIN, d + u64(index))


def derive(chain: bytes, secrets: tuple[bytes, ...], h2: bytes) -> Secrets:
    """KS2: chain the six secrets and expand.

    Each Extract is a PRF in either argument, so one unknown secret of the six, or an unknown chain value, makes
    everything after it unknown; h2 in every Expand binds all public values.
    """
    ck = chain
    for secret in secrets:
        ck = crypto.extract(ck, secret)
    return Secrets(
        auth_r_key=crypto.expand(ck, Label.AUTH_R, h2),
        auth_i_key=crypto.expand(ck, Label.AUTH_I, h2),
        t_i=crypto.expand(ck, Label.DATA_I, h2),
        t_r=crypto.expand(ck, Label.DATA_R, h2),
        root=crypto.expand(ck, Label.ROOT, h2),
        sid=crypto.expand(ck, Label.SESSION_ID, h2, c.SID_LEN),
        h2=h2,
    )


def resumed_root(root: bytes, root_new: bytes) -> bytes:
    """RS7: the root after a resume: the session's own, made fresh by the new handshake's."""
    return crypto.extract(root, root_new)


# --- the exchange itself: SHARE and EXCH, the same for handshake and ratchet -----------------------------------


@dataclass(frozen=True, slots=True)
class Offer:
    """HS1: what the initiator sends (eX_I ‖ eM_I ‖ ct_R) and keeps (the ephemeral and kR) until the answer."""

    public: bytes
    ephemeral: Ephemeral = field(repr=False)
    k_r: bytes = field(repr=False)


def make_offer(seed: bytes, theirs: LinkPublic) -> Offer:
    """HS1: fresh ephemerals (EXCH) and a half-key under the responder's link key (SHARE)."""
    ephemeral = Ephemeral.from_seed(seed)
    k_r, ct_r = crypto.mlkem_encapsulate(theirs.mlkem768)
    return Offer(RK1.pack(ephemeral.x25519_public, ephemeral.mlkem_public, ct_r), ephemeral, k_r)


def answer_offer(
    seed: bytes, own: LinkSecret, theirs: LinkPublic, chain: bytes, h1: bytes, offer: bytes
) -> tuple[bytes, Secrets]:
    """HS4: the responder's whole public-key work. Returns (M2 or RK2, secrets).

    Raises `CryptoError` for a bad ephemeral key of the initiator.
    """
    e_x, e_m, ct_r = (RK1.get(offer, name) for name in ("eX_I", "eM_I", "ct_R"))
    crypto.mlkem_check_public(e_m)
    x_private = seed[: crypto.X25519_LEN]
    k_e, ct_e = crypto.mlkem_encapsulate(e_m)
    k_i, ct_i = crypto.mlkem_encapsulate(theirs.mlkem768)
    head = M2.pack(crypto.x25519_public(x_private), ct_e, ct_i)
    secrets = derive(
        chain,
        (
            crypto.x25519(own.x25519_private, e_x),
            crypto.mlkem_decapsulate(own.mlkem_seed, ct_r),
            crypto.x25519(x_private, e_x),
            k_e,
            crypto.x25519(x_private, theirs.x25519),
            k_i,
        ),
        crypto.H(h1, head),
    )
    return head + secrets.auth_r(), secrets


def complete_offer(
    offer: Offer, own: LinkSecret, theirs: LinkPublic, chain: bytes, h1: bytes, answer: bytes
) -> Secrets | None:
    """HS6: the initiator's public-key work on M2 or RK2. None: auth_R does not verify.

    Raises `CryptoError` for a bad ephemeral key of the responder. Implicit rejection makes every forged ciphertext
    end at the MAC, so nothing is branched on before it.
    """
    e_x, ct_e, ct_i = (M2.get(answer, name) for name in ("eX_R", "ct_e", "ct_I"))
    mine = offer.ephemeral
    secrets = derive(
        chain,
        (
            crypto.x25519(mine.x25519_private, theirs.x25519),
            offer.k_r,
            crypto.x25519(mine.x25519_private, e_x),
            crypto.mlkem_decapsulate(mine.mlkem_seed, ct_e),
            crypto.x25519(own.x25519_private, e_x),
            crypto.mlkem_decapsulate(own.mlkem_seed, ct_i),
        ),
        crypto.H(h1, M2.before(answer, "auth_R")),
    )
    return secrets if crypto.equal(secrets.auth_r(), M2.get(answer, "auth_R")) else None


Seed = Callable[[LinkSecret], bytes]  # draws the 96 bytes of `hedged_seed`; the shell brings randomness and time
