"""Cards, signed and as text, and fingerprints as people type them (PROTOCOL.md 3.1 and 9)."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import msgpack

from hubtunnel.errors import CardError
from hubtunnel.identity import armour, chain
from hubtunnel.identity import fingerprint as texts
from hubtunnel.identity.card import SignedCard
from hubtunnel.protocol.constants import Code
from tests.fuzz.choices import Choices, require

VECTORS = Path(__file__).parents[2] / "vectors" / "vectors.json"
CODES = {code.word for code in Code}


@functools.cache
def published() -> bytes:
    """The signed card of the test vectors."""
    return bytes.fromhex(json.loads(VECTORS.read_text())["more"]["card"]["signed"])


def card(data: bytes) -> None:
    """A signed card: refused with a code that a peer can be told, or taken byte for byte."""
    try:
        signed = SignedCard.parse(data)
    except CardError as error:
        require(error.code in CODES, error.code)
        return
    assert signed.data == data
    assert signed.card.shown_name.isprintable()
    texts.to_text(signed.card.idfp)
    original = SignedCard.parse(published())
    for accept in (
        lambda: chain.accept_first(signed.card.idfp, signed),
        lambda: chain.accept_successor(original, signed),
    ):
        try:
            accept()
        except CardError as error:
            require(error.code in CODES, error.code)
        else:
            assert signed.card.body == original.card.body, "a card was accepted that nobody signed"


def fields(data: bytes) -> None:
    """The published card with fields replaced, removed and added: the encoding is good, the rest is not."""
    choices = Choices(data)
    body, signatures = msgpack.unpackb(published())
    content: dict[Any, Any] = msgpack.unpackb(body)
    while choices.more:
        place: Any = content
        for _ in range(choices.below(4)):
            inner = [value for value in inside(place) if isinstance(value, dict | list)]
            if inner:
                place = choices.pick(inner)
        alter(place, choices)
    card(msgpack.packb([msgpack.packb(content), signatures]))


def inside(place: Any) -> list[Any]:
    return list(place.values() if isinstance(place, dict) else place)


def alter(place: Any, choices: Choices) -> None:
    keys = sorted(place, key=repr) if isinstance(place, dict) else list(range(len(place)))
    action = choices.below(3)
    if action == 0 and keys:
        del place[choices.pick(keys)]
    elif action == 1 and keys:
        place[choices.pick(keys)] = some_value(choices)
    elif isinstance(place, dict):
        place[choices.some().decode("utf-8", "ignore")] = some_value(choices)
    else:
        place.append(some_value(choices))


def some_value(choices: Choices) -> Any:
    kind = choices.below(8)
    if kind < 5:
        return (None, choices.number(8), choices.some(), choices.some().decode("utf-8", "ignore"), -choices.number(7))[
            kind
        ]
    return (bool(choices.below(2)), [choices.some()], {"k": choices.number(1)})[kind - 5]


def armoured(data: bytes) -> None:
    """Text with cards in it: what is taken is the card that was put in."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        cards = armour.dearmour(text)
    except CardError as error:
        require(error.code in CODES, error.code)
        return
    assert cards
    assert [found.data for found in armour.dearmour(armour.armour_all(cards))] == [found.data for found in cards]


def fingerprint(data: bytes) -> None:
    """A fingerprint or its twelve words: never corrected, never another one."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        idfp = texts.from_text(text)
    except texts.FingerprintError as error:
        require(str(error), "an error without a text")
    else:
        assert texts.matches(idfp, texts.to_text(idfp))
        assert texts.from_text(texts.to_text(idfp)) == idfp
    padded = data.ljust(32, b"\0")[:32]
    assert texts.from_text(texts.to_text(padded)) == padded
    try:
        if texts.matches(padded, text):
            assert text.split() == texts.to_words(padded).split() or texts.from_text(text) == padded
    except texts.FingerprintError as error:
        require(str(error), "an error without a text")
