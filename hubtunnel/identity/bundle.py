"""Link keys and cards in one file, to carry from the machine with the identity key to the hub.

    file = "hubtunnel key bundle\\n" ‖ u8 format ‖ msgpack map
    {cards: [signed card …], link_keys: [[id 8, x25519 32, mlkem768_seed 64, not_before, not_after] …]}
    under a passphrase: {opslimit, memlimit, sealed}    sealed: crypto.lock_with_passphrase over that map's msgpack,
                        magic and format authenticated with it

It never holds an identity key. Files are 0600 and never overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgpack

from hubtunnel import crypto
from hubtunnel.errors import CardError, CryptoError, KeyFileError
from hubtunnel.identity import files, keyfiles
from hubtunnel.identity.caller import Caller
from hubtunnel.identity.card import U64_MAX, SignedCard
from hubtunnel.identity.chain import accept_first, accept_successor
from hubtunnel.identity.incoming import take_back
from hubtunnel.identity.signing import newest
from hubtunnel.identity.state import State
from hubtunnel.protocol.constants import KEY_ID_LEN, Code
from hubtunnel.protocol.pair import LinkSecret

MAGIC = b"hubtunnel key bundle\n"
FORMAT = 1
BUNDLE_MAX = 3 << 20  # bytes of a file: the newest cards that fit; an import then goes through the control socket
_HEAD = MAGIC + bytes((FORMAT,))
_WHAT = "a key bundle"


@dataclass(frozen=True)
class Bundle:
    """Own cards, oldest first, and private link keys that the newest of them lists."""

    cards: tuple[SignedCard, ...]
    link_keys: tuple[LinkSecret, ...] = field(repr=False)

    def pack(self) -> bytes:
        """Everything as one msgpack map, in clear."""
        return cast(
            bytes,
            msgpack.packb(
                {
                    "cards": [signed.data for signed in self.cards],
                    "link_keys": [
                        [key.id, key.x25519_private, key.mlkem_seed, int(key.not_before), int(key.not_after)]
                        for key in self.link_keys
                    ],
                }
            ),
        )

    @classmethod
    def unpack(cls, data: bytes, where: str = "the bundle") -> Bundle:
        """The inverse of `pack`. Raises `KeyFileError` or, for a card, `CardError`."""
        fields = _unpack(data, where)
        if not isinstance(fields, dict) or fields.keys() != {"cards", "link_keys"}:
            raise _damaged(where)
        cards, keys = fields["cards"], fields["link_keys"]
        if not isinstance(cards, list) or not cards or not isinstance(keys, list):
            raise _damaged(where)
        if not all(isinstance(card, bytes) for card in cards):
            raise _damaged(where)
        return cls(tuple(SignedCard.parse(card) for card in cards), tuple(_link_key(key, where) for key in keys))


def collect(state: State, now: float) -> Bundle:
    """What a hub needs of this state: the newest cards, and the link keys of the newest whose window has not ended.

    Raises `KeyFileError` when a link key cannot be read.
    """
    cards = newest(state)
    latest = cards[-1].card
    keys = []
    for listed in latest.link_keys:
        if listed.not_after <= now or not state.link_key_path(listed.id).exists():
            continue
        keys.append(keyfiles.read_link_key(state.link_key_path(listed.id)))
    room = BUNDLE_MAX - 64 * 1024 - sum(len(key.public) for key in keys)
    taken: list[SignedCard] = []
    for signed in reversed(cards):
        room -= len(signed.data) + 8
        if room < 0 and taken:
            break
        taken.insert(0, signed)
    return Bundle(tuple(taken), tuple(keys))


def write(path: Path, bundle: Bundle, passphrase: bytes | None) -> None:
    """Write a bundle to a new file, under a passphrase if one is given. Raises `KeyFileError`."""
    plain = bundle.pack()
    if passphrase is None:
        data = plain
    else:
        sealed = crypto.lock_with_passphrase(
            plain, passphrase, _HEAD, opslimit=keyfiles.OPSLIMIT, memlimit=keyfiles.MEMLIMIT
        )
        fields = {"opslimit": keyfiles.OPSLIMIT, "memlimit": keyfiles.MEMLIMIT, "sealed": sealed}
        data = cast(bytes, msgpack.packb(fields))
    try:
        files.atomic_write(path, _HEAD + data, mode=files.PRIVATE_MODE, replace=False)
    except FileExistsError:
        raise KeyFileError(f"{path}: is there already; a key bundle is never overwritten") from None
    except OSError as exc:
        raise KeyFileError(f"{path}: cannot be written: {exc.strerror}") from exc


def is_locked(data: bytes, where: str) -> bool:
    """Whether the file with these bytes is under a passphrase. Raises `KeyFileError` for what is no bundle."""
    fields = _unpack(_body(data, where), where)
    return isinstance(fields, dict) and "sealed" in fields


def read_file(path: Path) -> bytes:
    """The bytes of a bundle's file, whose mode and owner must be right. Raises `KeyFileError`."""
    return files.read_private(path, _WHAT, BUNDLE_MAX)


def opened(data: bytes, where: str, passphrase: bytes | None) -> Bundle:
    """The bundle in a file's bytes. Raises `KeyFileError` or `CardError`."""
    body = _body(data, where)
    if not is_locked(data, where):
        return Bundle.unpack(body, where)
    if passphrase is None:
        raise KeyFileError(f"{where}: is under a passphrase, and nobody is there to be asked for it")
    fields = cast("dict[str, Any]", _unpack(body, where))
    if fields.keys() != {"opslimit", "memlimit", "sealed"} or not isinstance(fields["sealed"], bytes):
        raise _damaged(where)
    opslimit, memlimit = fields["opslimit"], fields["memlimit"]
    if not _number(opslimit, 1, keyfiles.OPSLIMIT_MAX) or not _number(
        memlimit, keyfiles.MEMLIMIT_MIN, keyfiles.MEMLIMIT_MAX
    ):
        raise _damaged(where)
    try:
        plain = crypto.unlock_with_passphrase(fields["sealed"], passphrase, _HEAD, opslimit=opslimit, memlimit=memlimit)
    except CryptoError as exc:
        raise KeyFileError(f"{where}: {exc}") from None
    return Bundle.unpack(plain, where)


# --- taking one in ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Imported:
    """What an import added; both empty when it was all there."""

    cards: tuple[int, ...]
    link_keys: tuple[bytes, ...]


def take_in(state: State, bundle: Bundle, by: Caller, now: float) -> Imported:
    """Store what is new in `bundle`: the link keys first, then the cards, so that a crash leaves old or new.

    Raises `CardError` for another hub's bundle or a fork of our chain, and `KeyFileError` for a key that its newest
    card does not list; then nothing was stored. The same again changes nothing.
    """
    own = {signed.card.serial: signed for signed in newest(state)}
    ahead = _verified(own, bundle)
    latest = bundle.cards[-1].card
    listed = {key.id: key for key in latest.link_keys}
    fresh = []
    for key in bundle.link_keys:
        public = listed.get(key.id)
        if public is None or public.public != key.public:
            raise KeyFileError(
                f"the bundle holds a link key {key.id.hex()} that its card {latest.serial} does not list"
            )
        if state.link_key_path(key.id).exists():
            if keyfiles.read_link_key(state.link_key_path(key.id)).public != key.public:
                raise KeyFileError(f"{state.link_key_path(key.id)}: is another key than that of the bundle")
        elif key.not_after > now and key.id not in max(own.items())[1].card.revoked:
            fresh.append(key)
    for key in fresh:
        state.add_link_key(key)
    for signed in ahead:
        take_back(state, signed, by, now, source="a key bundle")
    return Imported(tuple(signed.card.serial for signed in ahead), tuple(key.id for key in fresh))


def _verified(own: dict[int, SignedCard], bundle: Bundle) -> list[SignedCard]:
    """The cards of the bundle that are newer than ours, each verified; those we have must be the same."""
    latest = own[max(own)]
    identities = {signed.card.idfp for signed in own.values()}
    if not any(signed.card.idfp in identities for signed in bundle.cards):
        raise CardError(Code.REFUSED.word, "the bundle is another hub's: none of its cards has our identity")
    before = latest
    ahead = []
    for signed in sorted(bundle.cards, key=lambda signed: signed.card.serial):
        card = signed.card
        if card.serial <= latest.card.serial:
            held = own.get(card.serial)
            if held is not None and held.card.hash != card.hash:
                raise CardError(
                    Code.CARD_FORK.word,
                    f"the bundle has another card {card.serial} than this hub: the identity key signs in two places",
                )
            continue
        if card.serial == before.card.serial + 1:
            accept_successor(before, signed)
        else:
            accept_first(before.card.idfp, signed)
        before = signed
        ahead.append(signed)
    return ahead


# --- parts ------------------------------------------------------------------------------------------------------


def _body(data: bytes, where: str) -> bytes:
    if not data.startswith(MAGIC) or len(data) <= len(_HEAD):
        raise KeyFileError(f"{where}: is not a key bundle; `hubtunnel key export FILE` makes one")
    if data[len(MAGIC)] != FORMAT:
        raise KeyFileError(f"{where}: has bundle format {data[len(MAGIC)]}, this release reads format {FORMAT}")
    return data[len(_HEAD) :]


def _unpack(data: bytes, where: str) -> object:
    try:
        return cast(object, msgpack.unpackb(data, raw=False, strict_map_key=True))
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException):
        raise _damaged(where) from None  # not chained: the decoder's own error could carry bytes of a key


def _link_key(value: object, where: str) -> LinkSecret:
    if not isinstance(value, list) or len(value) != 5:
        raise _damaged(where)
    key_id, x25519, seed, begin, end = value
    lengths = ((key_id, KEY_ID_LEN), (x25519, crypto.X25519_LEN), (seed, crypto.MLKEM_SEED_LEN))
    if not all(isinstance(part, bytes) and len(part) == length for part, length in lengths):
        raise _damaged(where)
    if not (_number(begin, 0, U64_MAX) and _number(end, 0, U64_MAX)) or end <= begin:
        raise _damaged(where)
    return LinkSecret(key_id, x25519, seed, begin, end)


def _number(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _damaged(where: str) -> KeyFileError:
    return KeyFileError(f"{where}: the key bundle is damaged; export it again")
