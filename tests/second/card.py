"""Section 9 of docs/PROTOCOL.md: cards, their signatures and their text for people."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from tests.second.kdf import CARD, CARD_HASH, sha256
from tests.second.keys import Identity, LinkKey, LinkPublic, Verifier
from tests.second.pack import pack, unpack

_BEGIN, _END = "-----BEGIN HUBTUNNEL CARD-----", "-----END HUBTUNNEL CARD-----"
_TOP = ["critical", "extensions", "identity", "issued", "link_keys", "name", "previous", "revoked", "serial", "v"]
_OPTIONAL = ("next_identity", "policy")
_LINK_KEY = ["id", "mlkem768", "not_after", "not_before", "x25519"]


class BadCard(ValueError):
    """A card that the specification refuses."""


def _demand(fact: bool, what: str) -> None:
    if not fact:
        raise BadCard(what)


@dataclass(frozen=True)
class Listed:
    """One link key of a card."""

    id: bytes
    public: LinkPublic
    not_before: int
    not_after: int


@dataclass(frozen=True)
class Card:
    """A card as received, with its signatures."""

    signed: bytes
    body: bytes
    fields: dict[str, Any]

    @property
    def hash(self) -> bytes:
        """CD2."""
        return sha256(CARD_HASH + b"\0" + self.body)

    @property
    def serial(self) -> int:
        serial: int = self.fields["serial"]
        return serial

    @property
    def identity(self) -> Verifier:
        return Verifier(self.fields["identity"]["ed25519"], self.fields["identity"]["mldsa65"])

    @property
    def link_keys(self) -> list[Listed]:
        return [
            Listed(key["id"], LinkPublic(key["x25519"], key["mlkem768"]), key["not_before"], key["not_after"])
            for key in self.fields["link_keys"]
        ]

    def newest(self, now: int) -> Listed:
        """LK2, of the peer's keys: the greatest `not_before` that has begun; the later one among equals."""
        begun = [key for key in self.link_keys if key.not_before <= now < key.not_after]
        return max(reversed(begun), key=lambda key: key.not_before)

    def followed_by(self, signed: bytes) -> Card:
        """CD5 and CD6 for a card of the same identity; BadCard where it does not follow this one."""
        card = read(signed)
        _demand(card.identity == self.identity, "another identity")
        _demand(card.serial == self.serial + 1 and card.fields["previous"] == self.hash, "the chain")
        _demand(card.fields["issued"] >= self.fields["issued"], "issued before the card before it")
        return card


def _check_form(fields: dict[str, Any]) -> None:
    """CD1, as a first card of one identity has it; also the order of keys, which binds whoever makes a card."""
    known = [key for key in fields if key not in _OPTIONAL]
    _demand(known == _TOP, f"keys of the card: {list(fields)}")
    _demand(list(fields) == sorted(fields), "keys of the card are not in order")
    identity, links = fields["identity"], fields["link_keys"]
    _demand([(k, len(v)) for k, v in identity.items()] == [("ed25519", 32), ("mldsa65", 1952)], "identity")
    for link in links:
        _demand(list(link) == _LINK_KEY, f"keys of a link key: {list(link)}")
        sizes = len(link["id"]), len(link["mlkem768"]), len(link["x25519"])
        _demand(sizes == (8, 1184, 32), f"sizes in a link key: {sizes}")
        _demand(0 < link["not_after"] - link["not_before"] <= 34560000, "window of a link key")
    ids = [link["id"] for link in links]
    _demand(len(ids) <= 64 and len(set(ids + fields["revoked"])) == len(ids + fields["revoked"]), "identifiers")
    _demand(1 <= len(fields["name"].encode()) <= 253, "name")
    _demand(fields["v"] == 1 and fields["serial"] >= 1, "version or serial")
    _demand(len(fields["previous"]) == 32, "previous")
    _demand((fields["previous"] == bytes(32)) == (fields["serial"] == 1), "previous and serial")


def read(signed: bytes) -> Card:
    """A card with one pair of signatures, both verified; BadCard says what is wrong."""
    outer = unpack(signed)
    _demand(isinstance(outer, list) and len(outer) == 2 and isinstance(outer[0], bytes), "the signed card")
    body, signatures = outer
    fields = unpack(body)
    _check_form(fields)
    _demand(pack(fields) == body, "the card is not in the shortest form")
    _demand(len(signatures) == 1 and [len(part) for part in signatures[0]] == [64, 3309], "signatures")
    card = Card(signed, body, fields)
    _demand(card.identity.verify(CARD + b"\0" + body, *signatures[0]), "signature")
    return card


def issue(
    identity: Identity,
    name: str,
    keys: dict[bytes, LinkKey],
    *,
    issued: int,
    not_after: int,
    before: Card | None = None,
) -> Card:
    """The first card of a hub, or the one after `before`: link keys by identifier, from `issued` to `not_after`."""
    fields = {
        "critical": [],
        "extensions": {},
        "identity": {"ed25519": identity.public.ed25519, "mldsa65": identity.public.mldsa65},
        "issued": issued,
        "link_keys": [
            {
                "id": key_id,
                "mlkem768": key.public.mlkem768,
                "not_after": not_after,
                "not_before": issued,
                "x25519": key.public.x25519,
            }
            for key_id, key in keys.items()
        ],
        "name": name,
        "previous": bytes(32) if before is None else before.hash,
        "revoked": [],
        "serial": 1 if before is None else before.serial + 1,
        "v": 1,
    }
    body = pack(fields)
    return Card(pack([body, [identity.sign(CARD + b"\0" + body)]]), body, fields)


def to_text(card: Card) -> str:
    encoded = base64.b64encode(card.signed).decode()
    lines = [encoded[start : start + 64] for start in range(0, len(encoded), 64)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def from_text(text: str) -> Card:
    lines = [line.rstrip() for line in text.splitlines()]
    inside = lines[lines.index(_BEGIN) + 1 : lines.index(_END)]
    encoded = "".join(line for line in inside if not line.startswith("#"))
    return read(base64.b64decode(encoded, validate=True))
