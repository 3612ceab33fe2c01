"""Cards: a hub's public, signed, numbered statement of its name, identity and link keys (PROTOCOL.md, cards).

`Card.parse` takes only the one canonical encoding of a card, so that two readers cannot see different things in the
same bytes; the exact bytes are kept, hashed, verified and passed on, never encoded again. Whether a card is *accepted*
is `chain.accept_first` and `chain.accept_successor`. Everything refused is a `CardError` with the code that a peer is
told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any, cast

import msgpack

from hubtunnel import crypto
from hubtunnel.errors import CardError, CryptoError
from hubtunnel.identity.names import is_host_name
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Code, Domain
from hubtunnel.protocol.pair import LinkPublic, LinkSecret, identity_fingerprint

FIRST_SERIAL = 1
NO_CARD = bytes(c.HASH_LEN)  # `previous` of a first card
POLICY_MAX = 255
U64_MAX = (1 << 64) - 1
KNOWN_EXTENSIONS: frozenset[str] = frozenset()  # names that `critical` may hold

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


@dataclass(frozen=True)
class Card:
    """A card as parsed from `body`, its exact bytes. Times are unix seconds."""

    name: str
    serial: int
    previous: bytes
    issued: int
    identity: Identity = field(repr=False)
    link_keys: tuple[LinkPublic, ...] = field(repr=False)
    revoked: tuple[bytes, ...]
    next_identity: bytes | None
    policy: str | None
    extensions: Mapping[str, Any]
    critical: tuple[str, ...]
    body: bytes = field(repr=False)

    @cached_property
    def hash(self) -> bytes:
        """What the next card names as `previous`; never over signatures, which have many valid forms."""
        return crypto.H(Domain.CARD_HASH, b"\0", self.body)

    @cached_property
    def idfp(self) -> bytes:
        """The fingerprint of the identity that the card states."""
        return self.identity.idfp

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
        fields = _decode(body)
        if not isinstance(fields, dict):
            raise _malformed("not a map")
        version = fields.get("v")
        if version != c.CARD_VERSION or isinstance(version, bool):
            raise _malformed(f"version {version!r:.40}, this release reads version {c.CARD_VERSION}")
        _exact_keys(fields, _REQUIRED, _OPTIONAL, "the card")
        serial = _u64(fields["serial"], "serial")
        previous = _bytes(fields["previous"], c.HASH_LEN, "previous")
        if serial < FIRST_SERIAL or (serial == FIRST_SERIAL) != (previous == NO_CARD):
            raise _malformed("`previous` is zeros in card 1 and in no other")
        critical = tuple(_text(name, c.CARD_NAME_MAX, "critical") for name in _list(fields["critical"], "critical"))
        unknown = sorted(set(critical) - KNOWN_EXTENSIONS)
        if unknown:
            raise CardError(
                Code.CARD_CRITICAL.word, f"the card demands {unknown[0]!a:.80}, which this release does not know"
            )
        link_keys = _parse_link_keys(fields["link_keys"])
        revoked = _parse_revoked(fields["revoked"], link_keys)
        extensions = fields["extensions"]
        if not isinstance(extensions, dict):
            raise _malformed("extensions: not a map")
        return cls(
            name=_parse_name(fields["name"]),
            serial=serial,
            previous=previous,
            issued=_u64(fields["issued"], "issued"),
            identity=_parse_identity(fields["identity"]),
            link_keys=link_keys,
            revoked=revoked,
            next_identity=(
                _bytes(fields["next_identity"], c.IDFP_LEN, "next_identity") if "next_identity" in fields else None
            ),
            policy=_text(fields["policy"], POLICY_MAX, "policy") if "policy" in fields else None,
            extensions=MappingProxyType(extensions),
            critical=critical,
            body=bytes(body),
        )


@dataclass(frozen=True)
class SignedCard:
    """A card with its signatures; `data` is what is stored and passed on, byte for byte."""

    card: Card
    signatures: tuple[Signature, ...] = field(repr=False)
    data: bytes = field(repr=False)

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
        outer = _decode(data)
        if not isinstance(outer, list) or len(outer) != 2:
            raise _malformed("a signed card is a card and its signatures, nothing else")
        body, pairs = outer
        if not isinstance(body, bytes):
            raise _malformed("the card within is not bytes")
        if not isinstance(pairs, list) or len(pairs) not in (1, 2):
            raise CardError(Code.CARD_SIGNATURE.word, "a card has one pair of signatures, or two")
        return cls(Card.parse(body), tuple(_parse_pair(pair) for pair in pairs), bytes(data))


def link_public(key: LinkSecret) -> LinkPublic:
    """An own link key as it stands in a card."""
    x25519, mlkem768 = key.public[: crypto.X25519_LEN], key.public[crypto.X25519_LEN :]
    return LinkPublic(key.id, x25519, mlkem768, key.not_before, key.not_after)


def check_link_public(x25519: bytes, mlkem768: bytes, where: str) -> None:
    """Refuse a link key's public halves that no handshake could use (PROTOCOL.md, what is refused of keys)."""
    try:
        crypto.x25519(_PROBE, x25519)
        crypto.mlkem_check_public(mlkem768)
    except CryptoError as exc:
        raise CardError(Code.REFUSED.word, f"{where}: {exc}") from None


_PROBE = bytes(range(c.HASH_LEN))  # any scalar does: a low-order point gives zeros with every one


# --- parts ------------------------------------------------------------------------------------------------------


def _parse_name(value: object) -> str:
    name = _text(value, c.CARD_NAME_MAX, "name")
    if not is_host_name(name):
        raise _malformed(f"name: {name!a:.80} is not a host name")
    return name


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
        raise CardError(Code.CARD_LIMIT.word, f"{len(entries)} link keys, at most {c.CARD_LINK_KEYS_MAX}")
    keys = tuple(_parse_link_key(entry, f"link key {n}") for n, entry in enumerate(entries, 1))
    for what, values in (
        ("id", [key.id for key in keys]),
        ("X25519 key", [key.x25519 for key in keys]),
        ("ML-KEM-768 key", [key.mlkem768 for key in keys]),
    ):
        if len(set(values)) != len(values):
            raise CardError(Code.REFUSED.word, f"two link keys of the card have the same {what}")
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
        raise CardError(Code.CARD_LIMIT.word, f"{where}: its window ends before it begins")
    if key.not_after - key.not_before > c.CARD_WINDOW_MAX:
        raise CardError(Code.CARD_LIMIT.word, f"{where}: its window is longer than {c.CARD_WINDOW_MAX // 86400} days")
    check_link_public(key.x25519, key.mlkem768, where)
    return key


def _parse_revoked(value: object, link_keys: tuple[LinkPublic, ...]) -> tuple[bytes, ...]:
    revoked = tuple(_bytes(entry, c.KEY_ID_LEN, "revoked") for entry in _list(value, "revoked"))
    if len(set(revoked)) != len(revoked):
        raise _malformed("revoked: an id stands there twice")
    if set(revoked) & {key.id for key in link_keys}:
        raise CardError(Code.REFUSED.word, "a link key is listed and revoked in the same card")
    return revoked


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
    """The canonical msgpack of `value`: shortest forms, keys of every map sorted."""
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
    """The value whose one canonical encoding `data` is. Raises `CardError` for anything else."""
    if len(data) > c.CARD_MAX:
        raise CardError(Code.CARD_LIMIT.word, f"{len(data)} bytes, a card has at most {c.CARD_MAX}")
    try:
        value: object = msgpack.unpackb(
            data, raw=False, use_list=True, strict_map_key=True, object_pairs_hook=_map, ext_hook=_no_extension_type
        )
        _check_types(value)
        again = msgpack.packb(value, use_bin_type=True)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException) as exc:
        raise _malformed(str(exc)[:120] or type(exc).__name__) from None
    if again != data:
        raise _malformed("not in the one encoding that a card has (shortest forms)")
    return value


def _map(pairs: list[tuple[object, object]]) -> dict[object, object]:
    keys = [key for key, _ in pairs]
    if not all(isinstance(key, str) for key in keys):
        raise ValueError("a key that is no text")
    names = cast(list[str], keys)
    for one, other in pairwise(names):
        if one == other:
            raise ValueError(f"the key {one!a:.40} stands there twice")
        if one > other:
            raise ValueError("keys are not sorted")
    return dict(pairs)


def _no_extension_type(code: int, _data: bytes) -> object:
    raise ValueError(f"msgpack extension type {code} has no place in a card")


def _check_types(value: object) -> None:
    """Refuse floats and timestamps, which have several encodings or none elsewhere. Depth is bounded by msgpack."""
    pending = [value]
    while pending:
        entry = pending.pop()
        if isinstance(entry, dict):
            pending.extend(entry.values())
        elif isinstance(entry, list):
            pending.extend(entry)
        elif not (entry is None or isinstance(entry, bool | int | str | bytes)):
            raise ValueError(f"a value of type {type(entry).__name__} has no place in a card")


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
        raise CardError(Code.CARD_LIMIT.word, f"{where}: not 1 to {most} bytes")
    return value


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise _malformed(f"{where}: not a list")
    return value


def _malformed(text: str) -> CardError:
    return CardError(Code.PROTOCOL.word, f"not a card: {text}")
