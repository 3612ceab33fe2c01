"""Identities, link keys, cards and whole hubs for tests, fast and the same every time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubtunnel.identity.armour import armour_all
from hubtunnel.identity.card import NO_CARD, Card, IdentitySecret, SignedCard, link_public
from hubtunnel.identity.fingerprint import to_text
from hubtunnel.identity.state import State
from hubtunnel.protocol.pair import LinkSecret

NOW = 1_800_000_000
DAY = 86400
ROOT = Path(__file__).parents[2]


def vectors() -> dict[str, Any]:
    """The project's own test vectors."""
    values: dict[str, Any] = json.loads((ROOT / "tests/vectors/vectors.json").read_text())
    return values


def _seed(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def identity(who: str) -> IdentitySecret:
    return IdentitySecret(_seed(who, "ed25519"), _seed(who, "mldsa"))


def link_key(who: str, number: int = 0, begin: int = NOW - DAY, end: int = NOW + 100 * DAY) -> LinkSecret:
    return LinkSecret(
        id=_seed(who, number, "id")[:8],
        x25519_private=_seed(who, number, "x"),
        mlkem_seed=_seed(who, number, "d") + _seed(who, number, "z"),
        not_before=begin,
        not_after=end,
    )


def card(who: str, after: SignedCard | None = None, **changes: Any) -> Card:
    """The card of `who` that follows `after`, with one link key unless told otherwise."""
    fields: dict[str, Any] = {
        "name": f"mx.{who}.example",
        "serial": after.card.serial + 1 if after else 1,
        "previous": after.card.hash if after else NO_CARD,
        "issued": NOW,
        "identity": identity(who).public,
        "link_keys": (link_public(link_key(who)),),
    }
    return Card.build(**{**fields, **changes})


def signed(who: str, after: SignedCard | None = None, **changes: Any) -> SignedCard:
    return SignedCard.sign(card(who, after, **changes), identity(who))


def hub(folder: Path, who: str, *, settings: str = "", end: int = NOW + 100 * DAY) -> Path:
    """A hub of the name mx.WHO.example in `folder`: state and configuration. Returns the configuration file."""
    folder.mkdir(parents=True, exist_ok=True)
    key = link_key(who, end=end)
    with State.create(folder / "state") as state:
        state.add_identity(identity(who))
        state.add_link_key(key)
        state.add_card(signed(who, link_keys=(link_public(key),)))
    path = folder / "hubtunnel.toml"
    path.write_text(f'name = "mx.{who}.example"\nstate = "state"\nlisten = ["127.0.0.1:2625"]\n{settings}')
    return path


def add_peer(config: Path, who: str, *cards: SignedCard, pin: bytes | None = None, extra: str = "") -> Path:
    """`peers.d/mx.WHO.example.toml` beside `config`, with a card file unless `cards` is empty."""
    folder = config.parent / "peers.d"
    folder.mkdir(exist_ok=True)
    path = folder / f"mx.{who}.example.toml"
    text = to_text(pin if pin is not None else identity(who).public.idfp)
    path.write_text(f'name = "mx.{who}.example"\npin = "{text}"\nendpoints = ["127.0.0.1:2626"]\n{extra}')
    if cards:
        path.with_suffix(".card").write_text(armour_all(cards))
    return path


def tree(folder: Path) -> Mapping[str, bytes]:
    """Every file below `folder` and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
