"""Cards: their exact form (CD1 to CD3), and that nothing else is ever read as one."""

from __future__ import annotations

import base64
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubtunnel import crypto
from hubtunnel.errors import CardError
from hubtunnel.identity.armour import BEGIN, END, armour, armour_all, dearmour
from hubtunnel.identity.card import NO_CARD, Card, IdentitySecret, SignedCard, link_public
from hubtunnel.identity.chain import accept_first
from hubtunnel.protocol.pair import LinkPublic
from tests.identity.making import NOW, card, identity, link_key, signed, vectors

VECTOR = {key: bytes.fromhex(value) for key, value in vectors()["more"]["card"].items()}
SIGNED = signed("a").data
BODY = card("a").body


def _vector_identity() -> IdentitySecret:
    return IdentitySecret(VECTOR["ed25519_seed"], VECTOR["mldsa65_seed"])


# --- vectors --------------------------------------------------------------------------------------------------


def test_body_of_the_vector_comes_out_of_its_fields() -> None:
    hub = vectors()["A"]
    key = LinkPublic(
        id=bytes.fromhex("0001020304050607"),
        x25519=bytes.fromhex(hub["SX"]),
        mlkem768=bytes.fromhex(hub["SM"]),
        not_before=1_800_000_000,
        not_after=1_815_552_000,
    )
    built = Card.build(
        name="mx.a.example",
        serial=1,
        previous=NO_CARD,
        issued=1_800_000_000,
        identity=_vector_identity().public,
        link_keys=(key,),
    )

    assert built.body == VECTOR["body"]
    assert built.hash == VECTOR["hash"]
    assert built.idfp == bytes.fromhex(hub["idfp"])


def test_signed_card_of_the_vector_verifies() -> None:
    """Its ML-DSA signature is randomised, so it is verified and not compared; Ed25519 is compared."""
    pin = bytes.fromhex(vectors()["A"]["idfp"])
    from_vector = SignedCard.parse(VECTOR["signed"])
    ours = SignedCard.sign(from_vector.card, _vector_identity())

    accept_first(pin, from_vector)
    accept_first(pin, ours)
    assert from_vector.data == VECTOR["signed"]
    assert len(ours.data) == len(VECTOR["signed"])
    assert ours.signatures[0][0] == from_vector.signatures[0][0]


# --- what is read is what was written -------------------------------------------------------------------------


def test_every_field_comes_back() -> None:
    keys = (link_public(link_key("a", 1)), link_public(link_key("a", 2)))
    built = card(
        "a",
        serial=(1 << 64) - 1,
        previous=b"\1" * 32,
        link_keys=keys,
        revoked=(b"r" * 8,),
        next_identity=b"n" * 32,
        policy="tunnel only",
        extensions={"x": [1, None, 2.5, {"b": b"", "a": True}]},
        critical=("later",),
    )
    read = SignedCard.parse(SignedCard.sign(built, identity("a")).data).card

    assert read == built
    assert (read.serial, read.link_keys, read.revoked) == ((1 << 64) - 1, keys, (b"r" * 8,))
    assert (read.next_identity, read.policy, read.critical) == (b"n" * 32, "tunnel only", ("later",))
    assert dict(read.extensions) == {"x": [1, None, 2.5, {"b": b"", "a": True}]}


def test_keys_of_every_map_are_written_sorted() -> None:
    def check(value: object) -> None:
        if isinstance(value, dict):
            assert list(value) == sorted(value)
            for inner in value.values():
                check(inner)

    check(msgpack.unpackb(card("a", extensions={"b": {"z": 1, "a": 2}, "a": 0}, policy="p").body))


def test_private_halves_are_never_shown() -> None:
    secret, key = identity("a"), link_key("a")
    shown = f"{secret!r} {key!r} {signed('a')!r}"

    for private in (secret.ed25519_seed, secret.mldsa65_seed, key.x25519_private, key.mlkem_seed):
        assert private.hex() not in shown
        assert repr(private) not in shown


# --- what is refused ------------------------------------------------------------------------------------------


def _with(**changes: Any) -> bytes:
    return bytes(msgpack.packb({**msgpack.unpackb(BODY), **changes}))


def _link(**changes: Any) -> bytes:
    fields = msgpack.unpackb(BODY)
    fields["link_keys"][0].update(changes)
    return bytes(msgpack.packb(fields))


def _keys(n: int) -> list[dict[str, Any]]:
    one = msgpack.unpackb(BODY)["link_keys"][0]
    return [{**one, "id": i.to_bytes(8, "big")} for i in range(n)]


def _twice(key: str) -> bytes:
    """The card with one top-level key written twice: a map of one entry more."""
    fields = msgpack.unpackb(BODY)
    entry = msgpack.packb(key) + msgpack.packb(fields[key])
    return bytes([BODY[0] + 1]) + BODY[1:] + entry


def _nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "not a map": msgpack.packb([1]),
    "trailing byte": BODY + b"\0",
    "cut short": BODY[:-1],
    "another version": _with(v=2),
    "version true": _with(v=True),
    "key twice": _twice("serial"),
    "unknown key": _with(domains=["b.example"]),
    "key not text": msgpack.packb({**msgpack.unpackb(BODY), b"v": 1}),
    "name empty": _with(name=""),
    "name bytes": _with(name=b"mx.a.example"),
    "name too long": _with(name="a" * 254),
    "name not UTF-8": BODY.replace(b"mx.a.example", b"mx.a.exampl\xff"),
    "serial zero": _with(serial=0, previous=NO_CARD),
    "serial negative": _with(serial=-1),
    "serial true": _with(serial=True),
    "serial float": _with(serial=1.0),
    "first with a previous": _with(previous=b"\1" * 32),
    "second without a previous": _with(serial=2),
    "previous short": _with(previous=b"\0" * 31),
    "previous nil": _with(previous=None),
    "issued text": _with(issued="now"),
    "identity list": _with(identity=[]),
    "identity with a third key": _with(identity={**msgpack.unpackb(BODY)["identity"], "slhdsa": b""}),
    "identity key short": _with(identity={**msgpack.unpackb(BODY)["identity"], "ed25519": b"x" * 31}),
    "link keys no list": _with(link_keys={}),
    "65 link keys": _with(link_keys=_keys(65)),
    "two link keys of one id": _with(link_keys=_keys(1) * 2),
    "link key with another key": _link(use="all"),
    "link key id short": _link(id=b"1234567"),
    "x25519 short": _link(x25519=b"1" * 31),
    "mlkem768 long": _link(mlkem768=b"1" * 1185),
    "window empty": _link(not_after=msgpack.unpackb(BODY)["link_keys"][0]["not_before"]),
    "window of 401 days": _link(not_after=msgpack.unpackb(BODY)["link_keys"][0]["not_before"] + 401 * 86400),
    "window of 200 years": _link(not_after=msgpack.unpackb(BODY)["link_keys"][0]["not_before"] + 200 * 365 * 86400),
    "window float": _link(not_before=0.5),
    "revoked no list": _with(revoked=b""),
    "revoked id long": _with(revoked=[b"123456789"]),
    "revoked twice": _with(revoked=[b"12345678"] * 2),
    "listed and revoked": _with(revoked=[msgpack.unpackb(BODY)["link_keys"][0]["id"]]),
    "next identity nil": _with(next_identity=None),
    "next identity short": _with(next_identity=b"x"),
    "policy map": _with(policy={}),
    "policy nil": _with(policy=None),
    "extensions list": _with(extensions=[]),
    "critical text": _with(critical="x"),
    "critical number": _with(critical=[1]),
    "a megabyte": _with(extensions={"x": b"\0" * (1 << 20)}),
    "one byte too many": _with(extensions={"x": b"\0" * (128 * 1024 - len(BODY) + 1)}),
    "nested deeply": _nested(100_000),
    "array that claims 4 G entries": b"\xdd\xff\xff\xff\xff",
    "map that claims 4 G entries": b"\xdf\xff\xff\xff\xff",
    "bytes that claim 4 G": b"\xc6\xff\xff\xff\xff",
    **{f"without {key}": msgpack.packb({k: v for k, v in msgpack.unpackb(BODY).items() if k != key})
       for key in msgpack.unpackb(BODY)},
}  # fmt: skip


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_exactly_a_card_is_refused(data: bytes) -> None:
    with pytest.raises(CardError) as caught:
        Card.parse(data)
    assert caught.value.code == "card_limit"


def test_the_card_that_these_are_made_from_is_read() -> None:
    """The control of the test above: re-encoded without a change it is a card."""
    assert Card.parse(_with()).body == BODY
    assert Card.parse(_link()).body == BODY
    assert len(Card.parse(_with(link_keys=_keys(64))).link_keys) == 64


def test_longer_forms_and_other_orders_are_read_and_kept() -> None:
    """Receivers accept any msgpack format of a value (2.4) and do not check the order of keys (CD1)."""
    fields = msgpack.unpackb(BODY)
    reversed_body = msgpack.packb(dict(reversed(fields.items())))
    long_version = BODY[:-1] + b"\xcd\x00\x01"
    assert BODY.endswith(msgpack.packb("v") + b"\x01")

    for body in (reversed_body, long_version):
        read = Card.parse(body)
        assert read.body == body
        assert read.hash != card("a").hash


SIGNED_REFUSED: dict[str, Callable[[bytes, list[list[bytes]]], object]] = {
    "no signatures": lambda body, pairs: [body, []],
    "three pairs": lambda body, pairs: [body, pairs * 3],
    "a third entry": lambda body, pairs: [body, pairs, b""],
    "body text": lambda body, pairs: ["body", pairs],
    "a map": lambda body, pairs: {"card": body},
    "one signature": lambda body, pairs: [body, [pairs[0][:1]]],
    "three signatures": lambda body, pairs: [body, [[*pairs[0], b""]]],
    "Ed25519 short": lambda body, pairs: [body, [[pairs[0][0][:-1], pairs[0][1]]]],
    "ML-DSA long": lambda body, pairs: [body, [[pairs[0][0], pairs[0][1] + b"\0"]]],
    "swapped": lambda body, pairs: [body, [pairs[0][::-1]]],
    "signature text": lambda body, pairs: [body, [["a" * 64, pairs[0][1]]]],
    "pairs bytes": lambda body, pairs: [body, b""],
}


@pytest.mark.parametrize("change", SIGNED_REFUSED.values(), ids=SIGNED_REFUSED.keys())
def test_what_is_not_exactly_a_signed_card_is_refused(change: Callable[..., object]) -> None:
    body, pairs = msgpack.unpackb(SIGNED)
    with pytest.raises(CardError):
        SignedCard.parse(msgpack.packb(change(body, pairs)))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_mutation_raises_anything_but_card_error(data: st.DataObject) -> None:
    """Flip, cut, insert, repeat: a card or a `CardError`, and what parses keeps its exact bytes."""
    mutated = bytearray(SIGNED)
    # Most of a card are opaque keys: aim half of the blows at the structure, which is near these places.
    structure = [
        i for i in range(len(SIGNED)) if SIGNED[i : i + 1] in b"\x80\x8a\x82\x85\xa2\xa4\xc4\xc5\xce\x90\x91\x92"
    ]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.one_of(st.sampled_from(structure), st.integers(0, len(mutated) - 1))) % len(mutated)
        blow = data.draw(st.sampled_from(["set", "cut", "insert", "drop"]))
        if blow == "set":
            mutated[place] = data.draw(st.integers(0, 255))
        elif blow == "cut":
            del mutated[place + 1 :]
        elif blow == "drop":
            del mutated[place]
        else:
            mutated[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        if not mutated:
            break
    try:
        read = SignedCard.parse(bytes(mutated))
    except CardError:
        return
    assert read.data == bytes(mutated)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_card_error(data: bytes) -> None:
    for parse in (Card.parse, SignedCard.parse):
        with pytest.raises(CardError):
            parse(data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.sampled_from(sorted(msgpack.unpackb(BODY))), VALUES)
def test_no_value_in_a_field_raises_anything_but_card_error(key: str, value: object) -> None:
    try:
        Card.parse(_with(**{key: value}))
    except CardError:
        pass


# --- text -----------------------------------------------------------------------------------------------------


def test_armour_gives_the_exact_bytes_back() -> None:
    one, two = signed("a"), signed("b")
    text = f"Dear colleague,\n\n{armour_all([one, two])}\n-- \nregards"

    assert [each.data for each in dearmour(text)] == [one.data, two.data]
    assert dearmour(text.replace("\n", "\r\n"))[0].data == one.data
    assert dearmour(text.replace("\n", "  \n"))[0].data == one.data


def test_armour_lines_are_64_wide_and_comments_are_for_people() -> None:
    lines = armour(signed("a")).splitlines()
    assert lines[0] == BEGIN
    assert lines[-1] == END
    assert "# name: mx.a.example" in lines
    assert "# serial: 1" in lines
    assert max(len(line) for line in lines if not line.startswith(("#", "-"))) == 64
    assert dearmour(armour(signed("a")).replace("mx.a.example", "mx.evil.example"))[0].card.name == "mx.a.example"


def test_a_name_cannot_write_lines_of_its_own() -> None:
    """A card's name may be any text; what is stored and shown must not be steered by it."""
    nasty = signed("a", name=f"x\n{END}\n\x1b[31m")

    assert nasty.card.shown_name.isascii()
    assert "\n" not in nasty.card.shown_name
    assert [each.data for each in dearmour(armour(nasty))] == [nasty.data]


ONE = armour(signed("a"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no line"),
        ("hello", "there is no line"),
        (ONE.replace(END, ""), "copied in part"),
        (ONE.replace(BEGIN, ""), "ends that did not begin"),
        (ONE.replace(END, BEGIN), "begins before"),
        (ONE.replace("\n# serial", "\n!!\n# serial"), "base64"),
        (f"{BEGIN}\n{base64.b64encode(b'x' * 99).decode()}\n{END}\n", "not a card"),
        (ONE[: len(ONE) // 2] + ONE[len(ONE) // 2 + 70 :], "not a card"),
        ("x" * (17 * 128 * 1024), "too many"),
    ],
    ids=["empty", "other text", "no end", "no begin", "two begins", "not base64", "not a card", "line lost", "huge"],
)
def test_damaged_text_is_refused(text: str, says: str) -> None:
    with pytest.raises(CardError, match=says):
        dearmour(text)


def test_issued_is_kept_whatever_the_calendar_says() -> None:
    assert card("a", issued=(1 << 64) - 1).issued == (1 << 64) - 1
    assert card("a", issued=0).issued == 0 != NOW


def test_large_parts_of_a_card_are_not_held_twice() -> None:
    """A hub holds two cards of every peer: one takes its bytes and little more, until its keys are asked for."""
    data = signed("a").data
    cards = [SignedCard.parse(data)]  # with what is made once and for all
    count = 50
    tracemalloc.start()
    try:
        began = tracemalloc.get_traced_memory()[0]
        cards += [SignedCard.parse(data) for _ in range(count)]
        parsed = tracemalloc.get_traced_memory()[0]
        assert all(signed_card.card.link_keys for signed_card in cards[1:])
        asked = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert (parsed - began) / count < len(data) / 4
    assert (asked - parsed) / count > crypto.MLKEM_PUBLIC_LEN, "or nothing was measured"
