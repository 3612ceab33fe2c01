"""Cards: a hub's public, signed, numbered statement of its name, identity and link keys (PROTOCOL.md 9.1).

`parse` reads the form (CD1, CD3) and refuses everything else. The exact bytes are kept, hashed, verified and passed on,
never encoded again. Whether a card is *accepted* is for `chain` to say. Everything refused is a `CardError` with the
code that a peer is told.

A hub holds two cards of every peer for as long as it runs, of seven kilobytes each, so those bytes are held once: what
is large and seldom asked for is read out of them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

import msgpack

from hubtunnel import crypto
from hubtunnel.errors import CardError
from hubtunnel.identity.names import is_host_name
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Code, Domain
from hubtunnel.protocol.pair import LinkPublic, LinkSecret, identity_fingerprint

FIRST_SERIAL = 1
NO_CARD = bytes(c.HASH_LEN)  # `previous` of a first card
POLICY_MAX = 255
U64_MAX = (1 << 64) - 1

_REQUIRED = frozenset(
    {"critical", "extensions", "identity", "issued", "link_keys", "name", "previous", "revoked", "serial", "v"}
)
_OPTIONAL = frozenset({"next_identity", "policy"})
_IDENTITY_KEYS = frozenset({"ed25519", "mldsa65"})
_LINK_KEYS = frozenset({"id", "mlkem768", "not_after", "not_before", "x25519"})


@dataclass(frozen=True, slots=True)
class Identity:
    """The public halves of an identity key."""

    ed25519: bytes
    mldsa65: bytes

    @property
    def idfp(self) -> bytes:
        """Its fingerprint, which is what a pin holds."""
        return identity_fingerprint(self.ed25519, self.mldsa65)

    def verifies(self, body: bytes, signature: Signature) -> bool:
        """Whether *both* signatures of a pair are good for a card's bytes."""
        message = _message(body)
        ed25519, mldsa65 = signature
        return crypto.ed25519_verify(self.ed25519, message, ed25519) and crypto.mldsa_verify(
            self.mldsa65, message, mldsa65
        )


Signature = tuple[bytes, bytes]  # Ed25519 64 bytes, ML-DSA-65 3309 bytes


@dataclass(frozen=True)
class IdentitySecret:
    """An identity key with its private halves, in seed form; its `repr` shows nothing of them."""

    ed25519_seed: bytes = field(repr=False)
    mldsa65_seed: bytes = field(repr=False)

    @cached_property
    def public(self) -> Identity:
        return Identity(crypto.ed25519_public(self.ed25519_seed), crypto.mldsa_public(self.mldsa65_seed))

    def sign(self, body: bytes) -> Signature:
        """A pair of signatures over a card's bytes."""
        message = _message(body)
        return crypto.ed25519_sign(self.ed25519_seed, message), crypto.mldsa_sign(self.mldsa65_seed, message)


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where a card's bytes stand within those of the signed card. Compared and hashed by their content."""

    data: bytes
    begin: int
    end: int

    @property
    def content(self) -> bytes:
        return self.data[self.begin : self.end]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Place) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)


@dataclass(frozen=True)
class Card:
    """A card as parsed from `body`, its exact bytes. Times are unix seconds. Equal is what has the same bytes."""

    name: str = field(compare=False)
    serial: int = field(compare=False)
    previous: bytes = field(compare=False)
    issued: int = field(compare=False)
    idfp: bytes = field(compare=False)  # the fingerprint of the identity that the card states
    revoked: tuple[bytes, ...] = field(compare=False)
    next_identity: bytes | None = field(compare=False)
    policy: str | None = field(compare=False)
    extensions: Mapping[str, Any] = field(compare=False)
    critical: tuple[str, ...] = field(compare=False)
    _place: _Place = field(repr=False)

    @property
    def body(self) -> bytes:
        """The exact bytes that are hashed and signed."""
        return self._place.content

    @property
    def identity(self) -> Identity:
        """The identity that the card states."""
        return _parse_identity(self._fields()["identity"])

    @cached_property
    def link_keys(self) -> tuple[LinkPublic, ...]:
        """The link keys that the card lists."""
        return _parse_link_keys(self._fields()["link_keys"])

    def _fields(self) -> dict[str, object]:
        """What `parse` has looked at before."""
        return cast(dict[str, object], _decode(self.body))

    @property
    def shown_name(self) -> str:
        """The name for people: as it stands if it is a host name, else with everything unusual escaped."""
        return self.name if is_host_name(self.name) else ascii(self.name)

    @cached_property
    def hash(self) -> bytes:
        """What the next card names as `previous`; never over signatures, which have many valid forms."""
        return crypto.H(Domain.CARD_HASH, b"\0", self.body)

    @classmethod
    def build(
        cls,
        *,
        name: str,
        serial: int,
        previous: bytes,
        issued: int,
        identity: Identity,
        link_keys: tuple[LinkPublic, ...],
        revoked: tuple[bytes, ...] = (),
        next_identity: bytes | None = None,
        policy: str | None = None,
        extensions: Mapping[str, Any] | None = None,
        critical: tuple[str, ...] = (),
    ) -> Card:
        """A card with these fields, not signed yet. Raises `CardError` for what `parse` would refuse."""
        fields: dict[str, Any] = {
            "v": c.CARD_VERSION,
            "name": name,
            "serial": serial,
            "previous": previous,
            "issued": issued,
            "identity": {"ed25519": identity.ed25519, "mldsa65": identity.mldsa65},
            "link_keys": [_link_fields(key) for key in link_keys],
            "revoked": list(revoked),
            "extensions": dict(extensions or {}),
            "critical": list(critical),
        }
        if next_identity is not None:
            fields["next_identity"] = next_identity
        if policy is not None:
            fields["policy"] = policy
        return cls.parse(_encode(fields))

    @classmethod
    def parse(cls, body: bytes) -> Card:
        """The card in `body`. Raises `CardError` for everything that is not exactly a card; checks no signature."""
        return cls._parse(_Place(bytes(body), 0, len(body)))

    @classmethod
    def _parse(cls, place: _Place) -> Card:
        fields = _decode(place.content)
        if not isinstance(fields, dict):
            raise _malformed("not a map")
        version = fields.get("v")
        if not isinstance(version, int) or isinstance(version, bool):
            raise _malformed("v: not a number")
        if version != c.CARD_VERSION:
            raise _malformed(f"version {version}, this release reads version {c.CARD_VERSION}")
        _exact_keys(fields, _REQUIRED, _OPTIONAL, "the card")
        serial = _u64(fields["serial"], "serial")
        previous = _bytes(fields["previous"], c.HASH_LEN, "previous")
        if serial < FIRST_SERIAL or (serial == FIRST_SERIAL) != (previous == NO_CARD):
            raise _malformed("`previous` is zeros in card 1 and in no other")
        critical = tuple(_text(name, c.CARD_NAME_MAX, "critical") for name in _list(fields["critical"], "critical"))
        link_keys = _parse_link_keys(fields["link_keys"])
        revoked = _parse_revoked(fields["revoked"], link_keys)
        extensions = fields["extensions"]
        if not isinstance(extensions, dict):
            raise _malformed("extensions: not a map")
        return cls(
            name=_text(fields["name"], c.CARD_NAME_MAX, "name"),
            serial=serial,
            previous=previous,
            issued=_u64(fields["issued"], "issued"),
            idfp=_parse_identity(fields["identity"]).idfp,
            revoked=revoked,
            next_identity=(
                _bytes(fields["next_identity"], c.IDFP_LEN, "next_identity") if "next_identity" in fields else None
            ),
            policy=_text(fields["policy"], POLICY_MAX, "policy") if "policy" in fields else None,
            extensions=MappingProxyType(extensions),
            critical=critical,
            _place=place,
        )


@dataclass(frozen=True)
class SignedCard:
    """A card with its signatures; `data` is what is stored and passed on, byte for byte."""

    card: Card
    data: bytes = field(repr=False)

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """Pairs of signatures: of the card's own identity, and of the one before it where it changes."""
        return _parse_pairs(_outer(self.data)[1])

    @classmethod
    def sign(cls, card: Card, identity: IdentitySecret, before: IdentitySecret | None = None) -> SignedCard:
        """Sign as the card's own identity, and as the one before it where the identity changes with this card."""
        signatures = [identity.sign(card.body)]
        if before is not None:
            signatures.append(before.sign(card.body))
        return cls.parse(_encode([card.body, [list(pair) for pair in signatures]]))

    @classmethod
    def parse(cls, data: bytes) -> SignedCard:
        """The signed card in `data`. Raises `CardError` for anything else; verifies no signature (see `chain`)."""
        data = bytes(data)
        body, pairs = _outer(data)
        begin = data.index(body)
        card = Card._parse(_Place(data, begin, begin + len(body)))
        _parse_pairs(pairs)
        return cls(card, data)


def link_public(key: LinkSecret) -> LinkPublic:
    """An own link key as it stands in a card."""
    x25519, mlkem768 = key.public[: crypto.X25519_LEN], key.public[crypto.X25519_LEN :]
    return LinkPublic(key.id, x25519, mlkem768, key.not_before, key.not_after)


# --- parts ------------------------------------------------------------------------------------------------------


def _parse_identity(value: object) -> Identity:
    if not isinstance(value, dict):
        raise _malformed("identity: not a map")
    _exact_keys(value, _IDENTITY_KEYS, frozenset(), "identity")
    return Identity(
        _bytes(value["ed25519"], crypto.ED25519_PUBLIC_LEN, "identity ed25519"),
        _bytes(value["mldsa65"], crypto.MLDSA_PUBLIC_LEN, "identity mldsa65"),
    )


def _parse_link_keys(value: object) -> tuple[LinkPublic, ...]:
    entries = _list(value, "link_keys")
    if len(entries) > c.CARD_LINK_KEYS_MAX:
        raise _malformed(f"{len(entries)} link keys, at most {c.CARD_LINK_KEYS_MAX}")
    keys = tuple(_parse_link_key(entry, f"link key {n}") for n, entry in enumerate(entries, 1))
    if len({key.id for key in keys}) != len(keys):
        raise _malformed("two link keys have the same id")
    return keys


def _parse_link_key(value: object, where: str) -> LinkPublic:
    if not isinstance(value, dict):
        raise _malformed(f"{where}: not a map")
    _exact_keys(value, _LINK_KEYS, frozenset(), where)
    key = LinkPublic(
        id=_bytes(value["id"], c.KEY_ID_LEN, f"{where} id"),
        x25519=_bytes(value["x25519"], crypto.X25519_LEN, f"{where} x25519"),
        mlkem768=_bytes(value["mlkem768"], crypto.MLKEM_PUBLIC_LEN, f"{where} mlkem768"),
        not_before=_u64(value["not_before"], f"{where} not_before"),
        not_after=_u64(value["not_after"], f"{where} not_after"),
    )
    if key.not_after <= key.not_before:
        raise _malformed(f"{where}: its window ends before it begins")
    if key.not_after - key.not_before > c.CARD_WINDOW_MAX:
        raise _malformed(f"{where}: its window is longer than {c.CARD_WINDOW_MAX // 86400} days")
    return key


def _parse_revoked(value: object, link_keys: tuple[LinkPublic, ...]) -> tuple[bytes, ...]:
    revoked = tuple(_bytes(entry, c.KEY_ID_LEN, "revoked") for entry in _list(value, "revoked"))
    if len(set(revoked)) != len(revoked):
        raise _malformed("revoked: an id stands there twice")
    if set(revoked) & {key.id for key in link_keys}:
        raise _malformed("a link key is listed and revoked at once")
    return revoked


def _outer(data: bytes) -> tuple[bytes, list[object]]:
    """The bytes of the card within a signed card, and what stands for one pair of signatures or two."""
    outer = _decode(data)
    if not isinstance(outer, list) or len(outer) != 2:
        raise _malformed("a signed card is a card and its signatures, nothing else")
    body, pairs = outer
    if not isinstance(body, bytes):
        raise _malformed("the card within is not bytes")
    if not isinstance(pairs, list) or len(pairs) not in (1, 2):
        raise CardError(Code.CARD_SIGNATURE.word, "a card has one pair of signatures, or two")
    return body, pairs


def _parse_pairs(pairs: list[object]) -> tuple[Signature, ...]:
    return tuple(_parse_pair(pair) for pair in pairs)


def _parse_pair(value: object) -> Signature:
    if not isinstance(value, list) or len(value) != 2:
        raise CardError(Code.CARD_SIGNATURE.word, "a pair of signatures is Ed25519 and ML-DSA-65, nothing else")
    ed25519, mldsa65 = value
    if not isinstance(ed25519, bytes) or len(ed25519) != crypto.ED25519_SIGNATURE_LEN:
        raise CardError(Code.CARD_SIGNATURE.word, "the Ed25519 signature has the wrong length")
    if not isinstance(mldsa65, bytes) or len(mldsa65) != crypto.MLDSA_SIGNATURE_LEN:
        raise CardError(Code.CARD_SIGNATURE.word, "the ML-DSA-65 signature has the wrong length")
    return ed25519, mldsa65


def _link_fields(key: LinkPublic) -> dict[str, Any]:
    return {
        "id": key.id,
        "x25519": key.x25519,
        "mlkem768": key.mlkem768,
        "not_before": int(key.not_before),
        "not_after": int(key.not_after),
    }


def _message(body: bytes) -> bytes:
    return Domain.CARD + b"\0" + body


# --- encoding -----------------------------------------------------------------------------------------------------


def _encode(value: object) -> bytes:
    """The msgpack of `value`: shortest forms, keys of every map sorted by their bytes."""
    try:
        return cast(bytes, msgpack.packb(_sorted(value), use_bin_type=True))
    except (ValueError, TypeError, OverflowError) as exc:
        raise _malformed(f"cannot be encoded: {exc}") from None


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(entry) for entry in value]
    return value


def _decode(data: bytes) -> object:
    """The one msgpack value that `data` is, no key of a map twice. Raises `CardError` for anything else."""
    if len(data) > c.CARD_MAX:
        raise _malformed(f"{len(data)} bytes, a card has at most {c.CARD_MAX}")
    try:
        return cast(object, msgpack.unpackb(data, raw=False, strict_map_key=True, object_pairs_hook=_map))
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException) as exc:
        raise _malformed(str(exc)[:120] or type(exc).__name__) from None


def _map(pairs: list[tuple[object, object]]) -> dict[object, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key stands there twice")
    if not all(isinstance(key, str) for key in fields):
        raise ValueError("a key that is no text")
    return fields


def _exact_keys(fields: Mapping[str, object], required: frozenset[str], optional: frozenset[str], where: str) -> None:
    for key in sorted(required - fields.keys()):
        raise _malformed(f"{where}: {key} is missing")
    for key in sorted(fields.keys() - required - optional):
        raise _malformed(f"{where}: unknown key {key!a:.40}")


def _u64(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= U64_MAX:
        raise _malformed(f"{where}: not a number from 0 to 2^64 - 1")
    return value


def _bytes(value: object, length: int, where: str) -> bytes:
    if not isinstance(value, bytes) or len(value) != length:
        raise _malformed(f"{where}: not {length} bytes")
    return value


def _text(value: object, most: int, where: str) -> str:
    if not isinstance(value, str):
        raise _malformed(f"{where}: not a text")
    if not 0 < len(value.encode()) <= most:
        raise _malformed(f"{where}: not 1 to {most} bytes")
    return value


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise _malformed(f"{where}: not a list")
    return value


def _malformed(text: str) -> CardError:
    return CardError(Code.CARD_LIMIT.word, f"not a card: {text}")
