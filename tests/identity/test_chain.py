"""Which cards are accepted (CD4 to CD8), and with which code the others are refused."""

from __future__ import annotations

from collections.abc import Callable

import msgpack
import pytest

from hubtunnel.errors import CardError
from hubtunnel.identity.card import Card, IdentitySecret, SignedCard, link_public
from hubtunnel.identity.chain import accept_chain, accept_first, accept_successor, shared_key
from hubtunnel.protocol.pair import LinkPublic
from tests.identity.making import NOW, card, identity, link_key, signed

FIRST = signed("a")
PIN = FIRST.card.idfp
SECOND = signed("a", FIRST)

# Points of small order on Curve25519 and its twist (RFC 7748, 6.1; the list of cr.yp.to/ecdh.html).
LOW_ORDER = [
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def _forged(signed_card: SignedCard, which: int) -> SignedCard:
    """The same card with one bit of one signature of its first pair flipped."""
    body, pairs = msgpack.unpackb(signed_card.data)
    broken = bytearray(pairs[0][which])
    broken[5] ^= 1
    pairs[0][which] = bytes(broken)
    return SignedCard.parse(msgpack.packb([body, pairs]))


def _by(the_card: Card, *signers: IdentitySecret) -> SignedCard:
    return SignedCard.parse(msgpack.packb([the_card.body, [list(each.sign(the_card.body)) for each in signers]]))


def _refused(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(CardError) as caught:
        call(*arguments)
    return caught.value.code


# --- the first card -------------------------------------------------------------------------------------------


def test_first_card_of_the_pin_is_accepted_with_any_serial() -> None:
    accept_first(PIN, FIRST)
    accept_first(PIN, signed("a", serial=7, previous=b"\7" * 32))


def test_first_card_of_another_hub_is_refused() -> None:
    assert _refused(accept_first, PIN, signed("b")) == "card_signature"


@pytest.mark.parametrize("which", [0, 1], ids=["Ed25519", "ML-DSA-65"])
def test_both_signatures_must_verify(which: int) -> None:
    assert _refused(accept_first, PIN, _forged(FIRST, which)) == "card_signature"
    assert _refused(accept_successor, FIRST, _forged(SECOND, which)) == "card_signature"


def test_signatures_are_over_this_card() -> None:
    body, _ = msgpack.unpackb(SECOND.data)
    _, pairs = msgpack.unpackb(FIRST.data)

    assert _refused(accept_first, PIN, SignedCard.parse(msgpack.packb([body, pairs]))) == "card_signature"


def test_signature_without_the_domain_is_refused() -> None:
    """A signature over the bare card, as another protocol might make it, is none."""
    from hubtunnel import crypto

    secret = identity("a")
    body = FIRST.card.body
    bare = [crypto.ed25519_sign(secret.ed25519_seed, body), crypto.mldsa_sign(secret.mldsa65_seed, body)]

    assert _refused(accept_first, PIN, SignedCard.parse(msgpack.packb([body, [bare]]))) == "card_signature"


def test_second_pair_of_a_first_card_is_not_checked() -> None:
    """The identity before is not known to who sees the hub for the first time (CD4)."""
    accept_first(PIN, _by(FIRST.card, identity("a"), identity("whoever")))


# --- the chain ------------------------------------------------------------------------------------------------


def test_successor_is_accepted_and_the_accepted_one_is_nothing_new() -> None:
    assert accept_successor(FIRST, SECOND) is True
    assert accept_successor(FIRST, FIRST) is False
    assert accept_successor(FIRST, _by(FIRST.card, identity("a"))) is False


CHAIN: dict[str, tuple[SignedCard, str]] = {
    "older": (FIRST, "card_older"),
    "forked": (signed("a", FIRST, policy="other"), "card_fork"),
    "one left out": (signed("a", signed("a", SECOND)), "card_chain"),
    "rewritten past": (signed("a", signed("a", FIRST, policy="other")), "card_chain"),
    "issued before": (signed("a", SECOND, issued=NOW - 1), "card_chain"),
    "another hub's": (signed("b", SECOND), "card_signature"),
    "another hub's, signed by itself twice": (
        _by(card("b", SECOND), identity("b"), identity("b")),
        "card_signature",
    ),
    "two pairs without a new identity": (_by(card("a", SECOND), identity("a"), identity("a")), "card_signature"),
    "unknown critical extension": (signed("a", SECOND, critical=("x",), extensions={"x": 1}), "card_critical"),
}


@pytest.mark.parametrize(("offered", "code"), CHAIN.values(), ids=CHAIN.keys())
def test_what_does_not_follow_is_refused_with_its_code(offered: SignedCard, code: str) -> None:
    assert _refused(accept_successor, SECOND, offered) == code


def test_equal_time_of_issue_is_accepted() -> None:
    assert accept_successor(SECOND, signed("a", SECOND, issued=NOW))


# --- a new identity -------------------------------------------------------------------------------------------


def _renewed(before: SignedCard, **changes: object) -> Card:
    return card("a", before, identity=identity("a2").public, **changes)


def test_new_identity_signed_by_both_is_accepted() -> None:
    assert accept_successor(SECOND, _by(_renewed(SECOND), identity("a2"), identity("a")))


@pytest.mark.parametrize(
    "signers",
    [("a2",), ("a",), ("a", "a2"), ("a2", "b"), ("b", "a")],
    ids=["new alone", "old alone", "wrong order", "a stranger for the old", "a stranger for the new"],
)
def test_new_identity_not_signed_by_both_is_refused(signers: tuple[str, ...]) -> None:
    offered = _by(_renewed(SECOND), *(identity(who) for who in signers))

    assert _refused(accept_successor, SECOND, offered) == "card_signature"


def test_next_identity_is_binding_once_stated() -> None:
    promised = signed("a", FIRST, next_identity=identity("a2").public.idfp)
    other = _by(card("a", promised, identity=identity("a3").public), identity("a3"), identity("a"))

    assert accept_successor(promised, _by(_renewed(promised), identity("a2"), identity("a")))
    assert accept_successor(promised, signed("a", promised, next_identity=identity("a2").public.idfp))
    assert _refused(accept_successor, promised, other) == "card_chain"
    assert _refused(accept_successor, promised, signed("a", promised)) == "card_chain"
    assert _refused(accept_successor, promised, signed("a", promised, next_identity=b"\5" * 32)) == "card_chain"


# --- keys -----------------------------------------------------------------------------------------------------


def _key(**changes: bytes) -> LinkPublic:
    public = link_public(link_key("a"))
    fields = {"id": public.id, "x25519": public.x25519, "mlkem768": public.mlkem768, **changes}
    return LinkPublic(not_before=public.not_before, not_after=public.not_after, **fields)


@pytest.mark.parametrize("point", LOW_ORDER, ids=[point.hex()[:8] for point in LOW_ORDER])
def test_low_order_points_are_refused(point: bytes) -> None:
    assert _refused(accept_first, PIN, signed("a", link_keys=(_key(x25519=point),))) == "card_limit"


def test_mlkem_key_that_fails_the_modulus_check_is_refused() -> None:
    """The first two coefficients set to 4095, which is not below q = 3329 (FIPS 203, 7.2)."""
    good = link_public(link_key("a")).mlkem768
    assert _refused(accept_first, PIN, signed("a", link_keys=(_key(mlkem768=b"\xff" * 3 + good[3:]),))) == "card_limit"


@pytest.mark.parametrize("half", ["x25519", "mlkem768"])
def test_a_half_that_stands_twice_in_a_card_is_refused(half: str) -> None:
    one, other = link_public(link_key("a", 0)), link_public(link_key("a", 1))
    halves = {"x25519": other.x25519, "mlkem768": other.mlkem768, "id": other.id, half: getattr(one, half)}

    assert _refused(accept_first, PIN, signed("a", link_keys=(one, _key(**halves)))) == "card_limit"
    accept_first(PIN, signed("a", link_keys=(one, other)))


@pytest.mark.parametrize("half", ["x25519", "mlkem768"])
def test_a_half_of_another_hub_is_found(half: str) -> None:
    theirs = link_public(link_key("b"))
    thief = card("a", link_keys=(_key(**{half: getattr(theirs, half)}),))

    assert shared_key(thief, [card("c"), card("b")]) == f"link key {theirs.id.hex()} of mx.b.example"
    assert shared_key(card("a"), [card("c"), card("b")]) is None
    assert shared_key(card("b", policy="newer"), [card("b")]) is None


# --- several at once ------------------------------------------------------------------------------------------


def test_a_chain_is_taken_in_order_whatever_the_order_given() -> None:
    third = signed("a", SECOND)

    assert accept_chain(PIN, FIRST, [third, FIRST, SECOND]) == [SECOND, third]
    assert accept_chain(PIN, None, [third, SECOND]) == [SECOND, third]
    assert accept_chain(PIN, SECOND, [FIRST, SECOND, third]) == [third]
    assert accept_chain(PIN, SECOND, [SECOND]) == []


def test_older_cards_alone_are_refused_as_older() -> None:
    assert _refused(accept_chain, PIN, SECOND, [FIRST]) == "card_older"


def test_one_bad_card_spoils_the_chain() -> None:
    third = signed("a", SECOND)

    assert _refused(accept_chain, PIN, FIRST, [SECOND, _forged(third, 0)]) == "card_signature"
    assert _refused(accept_chain, PIN, FIRST, [third]) == "card_chain"
    assert accept_chain(PIN, None, []) == []
