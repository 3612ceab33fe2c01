"""Private key files: a magic of our own, a format number, and a map of seeds. Nothing else reads or writes them.

    file = "hubtunnel private key\\n" ‖ u8 format ‖ msgpack map
    link      {kind: "link", id 8, x25519 32, mlkem768_seed 64, not_before, not_after}
    identity  {kind: "identity", ed25519_seed 32, mldsa65_seed 32}
    identity under a passphrase
              {kind: "identity", opslimit, memlimit, sealed}    sealed: crypto.lock_with_passphrase over the msgpack
              [ed25519_seed, mldsa65_seed]; magic, format and kind are authenticated with it

Files are 0600, never overwritten but for a changed passphrase, and read only when owner and mode are right
(`files.read_private`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgpack

from hubtunnel import crypto
from hubtunnel.errors import CryptoError, KeyFileError
from hubtunnel.identity import files
from hubtunnel.identity.card import U64_MAX, IdentitySecret
from hubtunnel.protocol.constants import KEY_ID_LEN
from hubtunnel.protocol.pair import LinkSecret

MAGIC = b"hubtunnel private key\n"
FORMAT = 1
SEED_LEN = 32  # of Ed25519 and of ML-DSA-65

# Argon2id (RFC 9106): libsodium's "moderate", about a second; and the most that a file may ask of us.
OPSLIMIT = 3
MEMLIMIT = 256 << 20
OPSLIMIT_MAX = 16
MEMLIMIT_MAX = 1 << 30
MEMLIMIT_MIN = 8 << 10  # libsodium's own least

Passphrase = Callable[[], bytes]  # asked only when a file needs it


def new_link_key(not_before: int, not_after: int) -> LinkSecret:
    """A fresh link key for a window in unix seconds."""
    return LinkSecret(
        id=crypto.random_bytes(KEY_ID_LEN),
        x25519_private=crypto.random_bytes(crypto.X25519_LEN),
        mlkem_seed=crypto.random_bytes(crypto.MLKEM_SEED_LEN),
        not_before=not_before,
        not_after=not_after,
    )


def new_identity() -> IdentitySecret:
    """A fresh identity key."""
    return IdentitySecret(crypto.random_bytes(SEED_LEN), crypto.random_bytes(SEED_LEN))


def write_link_key(path: Path, key: LinkSecret) -> None:
    """Write a link key to a new file; `KeyFileError` when there is one already."""
    _write(
        path,
        {
            "kind": "link",
            "id": key.id,
            "x25519": key.x25519_private,
            "mlkem768_seed": key.mlkem_seed,
            "not_before": int(key.not_before),
            "not_after": int(key.not_after),
        },
    )


def read_link_key(path: Path) -> LinkSecret:
    """The link key in `path`. Raises `KeyFileError` with the cure."""
    fields = _read(path, "link", "a link key")
    keys = {"kind", "id", "x25519", "mlkem768_seed", "not_before", "not_after"}
    if fields.keys() != keys:
        raise _damaged(path)
    key = LinkSecret(
        id=_bytes(path, fields["id"], KEY_ID_LEN),
        x25519_private=_bytes(path, fields["x25519"], crypto.X25519_LEN),
        mlkem_seed=_bytes(path, fields["mlkem768_seed"], crypto.MLKEM_SEED_LEN),
        not_before=_number(path, fields["not_before"], U64_MAX),
        not_after=_number(path, fields["not_after"], U64_MAX),
    )
    if key.not_after <= key.not_before:
        raise _damaged(path)
    return key


def write_identity(path: Path, key: IdentitySecret, passphrase: bytes | None = None, *, replace: bool = False) -> None:
    """Write an identity key, under a passphrase if one is given; to a new file unless `replace` says otherwise."""
    if passphrase is None:
        fields: dict[str, Any] = {
            "kind": "identity",
            "ed25519_seed": key.ed25519_seed,
            "mldsa65_seed": key.mldsa65_seed,
        }
    else:
        plain = cast(bytes, msgpack.packb([key.ed25519_seed, key.mldsa65_seed]))
        sealed = crypto.lock_with_passphrase(
            plain, passphrase, _authenticated("identity"), opslimit=OPSLIMIT, memlimit=MEMLIMIT
        )
        fields = {"kind": "identity", "opslimit": OPSLIMIT, "memlimit": MEMLIMIT, "sealed": sealed}
    _write(path, fields, replace=replace)


def read_identity(path: Path, passphrase: Passphrase | None = None) -> IdentitySecret:
    """The identity key in `path`; `passphrase` is asked when the file is locked.

    Raises `KeyFileError` with the cure.
    """
    fields = _read(path, "identity", "an identity key")
    if fields.keys() == {"kind", "ed25519_seed", "mldsa65_seed"}:
        seeds = [fields["ed25519_seed"], fields["mldsa65_seed"]]
    elif fields.keys() == {"kind", "opslimit", "memlimit", "sealed"}:
        seeds = _unlock(path, fields, passphrase)
    else:
        raise _damaged(path)
    return IdentitySecret(_bytes(path, seeds[0], SEED_LEN), _bytes(path, seeds[1], SEED_LEN))


def is_locked(path: Path) -> bool:
    """Whether the identity key in `path` is under a passphrase."""
    return "sealed" in _read(path, "identity", "an identity key")


def _unlock(path: Path, fields: dict[str, Any], passphrase: Passphrase | None) -> list[object]:
    if passphrase is None:
        raise KeyFileError(f"{path}: is under a passphrase, and nobody is there to be asked for it")
    opslimit = _number(path, fields["opslimit"], OPSLIMIT_MAX)
    memlimit = _number(path, fields["memlimit"], MEMLIMIT_MAX)
    if opslimit < 1 or memlimit < MEMLIMIT_MIN or not isinstance(fields["sealed"], bytes):
        raise _damaged(path)
    try:
        plain = crypto.unlock_with_passphrase(
            fields["sealed"], passphrase(), _authenticated("identity"), opslimit=opslimit, memlimit=memlimit
        )
    except CryptoError as exc:
        raise KeyFileError(f"{path}: {exc}") from None
    seeds = _unpack(path, plain)
    if not isinstance(seeds, list) or len(seeds) != 2:
        raise _damaged(path)
    return seeds


def _authenticated(kind: str) -> bytes:
    return MAGIC + bytes((FORMAT,)) + kind.encode("ascii")


def _write(path: Path, fields: dict[str, Any], *, replace: bool = False) -> None:
    data = MAGIC + bytes((FORMAT,)) + cast(bytes, msgpack.packb(fields, use_bin_type=True))
    try:
        files.atomic_write(path, data, mode=files.PRIVATE_MODE, owner=files.state_owner(), replace=replace)
    except FileExistsError:
        raise KeyFileError(f"{path}: there is a key already; private keys are never overwritten") from None
    except OSError as exc:
        raise KeyFileError(f"{path}: cannot be written: {exc.strerror}") from exc


def _read(path: Path, kind: str, what: str) -> dict[str, Any]:
    data = files.read_private(path, what)
    if not data.startswith(MAGIC) or len(data) <= len(MAGIC):
        raise KeyFileError(f"{path}: is not a private key of hubtunnel")
    found = data[len(MAGIC)]
    if found != FORMAT:
        raise KeyFileError(f"{path}: has key format {found}, this release reads format {FORMAT}")
    fields = _unpack(path, data[len(MAGIC) + 1 :])
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise _damaged(path)
    if fields["kind"] != kind:
        raise KeyFileError(f"{path}: holds a key of kind {fields['kind']!a:.20}, {what} was expected")
    return fields


def _unpack(path: Path, data: bytes) -> object:
    try:
        return cast(object, msgpack.unpackb(data, raw=False, strict_map_key=True))
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException):
        # Not chained: the decoder's own error could carry bytes of the key into a traceback.
        raise _damaged(path) from None


def _bytes(path: Path, value: object, length: int) -> bytes:
    if not isinstance(value, bytes) or len(value) != length:
        raise _damaged(path)
    return value


def _number(path: Path, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise _damaged(path)
    return value


def _damaged(path: Path) -> KeyFileError:
    return KeyFileError(f"{path}: the key file is damaged; restore it from a backup")
