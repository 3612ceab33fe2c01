"""Sections 4.2, 6 and 7.1 of docs/PROTOCOL.md: the exchange, its key schedule, and the proofs of a resume."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from tests.second.kdf import HANDSHAKE, RATCHET, expand, extract, mac, same, sha256, u64
from tests.second.keys import LinkKey, LinkPublic, Pair, encapsulate

M1_LEN, M2_LEN, M3_LEN = 2337, 2240, 32
_VERSION = b"\x01"
_SHARES = slice(17, 2321)
"""Where `eX_I ‖ eM_I ‖ ct_R` stands in M1: what RK1 is made of."""


class WrongAuth(ValueError):
    """`auth_R`, `auth_I`, a gate or a proof does not verify."""


@dataclass(frozen=True)
class Keys:
    """What an exchange gives (KS2 to KS5)."""

    th: bytes
    t_i: bytes
    t_r: bytes
    root: bytes
    sid: bytes
    auth_r: bytes
    auth_i: bytes
    master: bytes


def key_schedule(chain: bytes, all_six: list[bytes], h2: bytes) -> Keys:
    """KS2 to KS5; the secrets in the order es, kR, ee, ke, se, kI."""
    for secret in all_six:
        chain = extract(chain, secret)
    auth_r = mac(expand(chain, "auth R", h2), h2)
    auth_i = mac(expand(chain, "auth I", h2), h2 + auth_r)
    return Keys(
        th=sha256(h2 + auth_r + auth_i),
        t_i=expand(chain, "data I", h2),
        t_r=expand(chain, "data R", h2),
        root=expand(chain, "root", h2),
        sid=expand(chain, "session id", h2, 16),
        auth_r=auth_r,
        auth_i=auth_i,
        master=chain,
    )


@dataclass(frozen=True)
class Chain:
    """What an exchange hangs on: the hash of all before its first message, and the key that takes the place of C0."""

    prefix: bytes
    key: bytes

    @classmethod
    def handshake(cls, pair: Pair) -> Chain:
        """KS1, PC5."""
        return cls(HANDSHAKE + b"\0" + pair.direction, pair.chain)

    @classmethod
    def step(cls, root: bytes, reached: int, th: bytes, direction: bytes) -> Chain:
        """RT1, RT2; `reached` is the index of the root that the step leads to."""
        return cls(RATCHET + b"\0" + th + u64(reached), expand(root, "chain", direction + u64(reached)))

    def h1(self, first: bytes) -> bytes:
        return sha256(self.prefix + first)


def _fresh_ephemeral() -> LinkKey:
    return LinkKey(secrets.token_bytes(32), secrets.token_bytes(64))


@dataclass
class Offer:
    """The initiator's half of an exchange."""

    own: LinkKey
    peer: LinkPublic
    ephemeral: LinkKey = field(default_factory=_fresh_ephemeral)
    k_r: bytes = b""
    ct_r: bytes = b""

    def __post_init__(self) -> None:
        if not self.ct_r:
            self.k_r, self.ct_r = encapsulate(self.peer.mlkem768)

    @property
    def shares(self) -> bytes:
        """RK1, and the middle of M1."""
        public = self.ephemeral.public
        return public.x25519 + public.mlkem768 + self.ct_r

    def secrets(self, answer: bytes) -> list[bytes]:
        e_x_r, ct_e, ct_i = answer[:32], answer[32:1120], answer[1120:2208]
        return [
            self.ephemeral.dh(self.peer.x25519),
            self.k_r,
            self.ephemeral.dh(e_x_r),
            self.ephemeral.decapsulate(ct_e),
            self.own.dh(e_x_r),
            self.own.decapsulate(ct_i),
        ]

    def finish(self, chain: Chain, first: bytes, answer: bytes) -> Keys:
        """From M2 or RK2 to the keys; WrongAuth when it is not the peer's."""
        h2 = sha256(chain.h1(first) + answer[:2208])
        keys = key_schedule(chain.key, self.secrets(answer), h2)
        if not same(keys.auth_r, answer[2208:]):
            raise WrongAuth("auth_R")
        return keys


def answer(own: LinkKey, peer: LinkPublic, chain: Chain, first: bytes, shares: bytes) -> tuple[bytes, Keys]:
    """The responder's half: M2 or RK2, and the keys that its `auth_I` will confirm. `first` is the whole M1 or RK1."""
    e_x_i, e_m_i, ct_r = shares[:32], shares[32:1216], shares[1216:]
    ephemeral_x = LinkKey(secrets.token_bytes(32), b"")
    k_e, ct_e = encapsulate(e_m_i)
    k_i, ct_i = encapsulate(peer.mlkem768)
    e_x_r = ephemeral_x.dh((9).to_bytes(32, "little"))
    all_six = [
        own.dh(e_x_i),
        own.decapsulate(ct_r),
        ephemeral_x.dh(e_x_i),
        k_e,
        ephemeral_x.dh(peer.x25519),
        k_i,
    ]
    unsigned = e_x_r + ct_e + ct_i
    keys = key_schedule(chain.key, all_six, sha256(chain.h1(first) + unsigned))
    return unsigned + keys.auth_r, keys


def make_m1(pair: Pair, hour: int, shares: bytes) -> bytes:
    """Table `M1`."""
    head = _VERSION + pair.hint(hour) + shares
    return head + mac(pair.k_gate, head)[:16]


def open_m1(pair: Pair, hours: range, m1: bytes) -> bytes:
    """RD2 to RD4 for the one context that is known: the shares of M1; WrongAuth says what does not fit."""
    if m1[:1] != _VERSION or m1[1:17] not in [pair.hint(hour) for hour in hours]:
        raise WrongAuth("version or hint")
    if not same(mac(pair.k_gate, m1[:2321])[:16], m1[2321:]):
        raise WrongAuth("gate")
    return m1[_SHARES]


def proof_i(root: bytes, th_new: bytes, resume_head: bytes) -> bytes:
    """RS5; `resume_head` is RESUME[0:64]."""
    return expand(root, "resume I", th_new + resume_head)


def proof_r(root: bytes, th_new: bytes, proof: bytes, resumed_head: bytes) -> bytes:
    """RS6; `resumed_head` is RESUMED[0:33]."""
    return expand(root, "resume R", th_new + proof + resumed_head)


def root_after_resume(root: bytes, root_new: bytes) -> bytes:
    """RS7."""
    return extract(root, root_new)


def ephemeral_of(seed: bytes) -> LinkKey:
    """From the 96 bytes of HS2."""
    return LinkKey(seed[:32], seed[32:])
