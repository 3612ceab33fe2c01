"""Cards that peers send in a session: what is taken is stored and noted first, what is refused changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgpack
import pytest

from hubtunnel.errors import CardError
from hubtunnel.identity import acknowledged, incoming
from hubtunnel.identity.card import NO_CARD, SignedCard, link_public
from hubtunnel.identity.incoming import Received
from hubtunnel.identity.pins import HubKeys, load_hub
from hubtunnel.identity.signing import SigningError
from hubtunnel.identity.trail import Trail
from hubtunnel.protocol.pair import HintTable, LinkPublic, PairContext
from tests.identity import making
from tests.identity.living import WHO, cards, check, hub, newest, opened, operate
from tests.identity.making import DAY, NOW, add_peer, link_key, signed, tree

FIRST = signed("b")
SECOND = signed("b", FIRST, link_keys=(link_public(link_key("b", 1)),))
THIRD = signed("b", SECOND)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = hub(tmp_path / "a", peers=("c",))
    add_peer(path, "b", FIRST)
    with opened(path) as (loaded, state):
        load_hub(loaded, state, by=WHO, now=NOW)
    return path


def receive(config: Path, data: bytes, peer: str = "mx.b.example", now: float = NOW) -> Received:
    with opened(config) as (loaded, state):
        keys: HubKeys = load_hub(loaded, state, by=WHO, now=now)
        found = keys.peer(peer)
        assert found is not None
        return incoming.receive(state, keys, found, data, WHO, now)


def in_force(config: Path, peer: str = "b") -> SignedCard:
    with opened(config, write=False) as (_, state):
        held = state.peer(making.identity(peer).public.idfp)
        assert held is not None
        return held.latest


def trail(config: Path) -> list[tuple[str, str | None]]:
    with opened(config, write=False) as (_, state):
        return [(entry.what, entry.details.get("code")) for entry in Trail(state).entries()]


def test_newer_card_is_stored_and_noted(config: Path) -> None:
    received = receive(config, SECOND.data)
    assert (received.kind, received.problem) == ("accepted", None)
    assert in_force(config).data == SECOND.data
    assert trail(config)[-1][0] == "card accepted"
    with opened(config, write=False) as (_, state):
        held = state.peer(making.identity("b").public.idfp)
        assert held is not None
        assert held.first.data == FIRST.data


def test_same_card_again_changes_nothing(config: Path) -> None:
    before = tree(config.parent / "state")
    assert receive(config, FIRST.data).kind == "again"
    assert tree(config.parent / "state") == before


def test_new_identity_signed_by_both_is_taken(config: Path) -> None:
    card = making.card("b", FIRST, identity=making.identity("b2").public)
    both = SignedCard.sign(card, making.identity("b2"), making.identity("b"))
    assert receive(config, both.data).kind == "accepted"
    assert in_force(config).card.idfp == making.identity("b2").public.idfp


def _altered_signature(which: int) -> bytes:
    body, ((ed25519, mldsa65),) = msgpack.unpackb(SECOND.data)
    pair = [ed25519, mldsa65]
    pair[which] = pair[which][:-1] + bytes((pair[which][-1] ^ 1,))
    return bytes(msgpack.packb([body, [pair]]))


def _window(begin: int, end: int) -> bytes:
    """A card with that window, as a peer that keeps no rule would make it: by hand, past our own builder."""
    body = msgpack.unpackb(SECOND.card.body)
    body["link_keys"][0] |= {"not_before": begin, "not_after": end}
    raw = msgpack.packb(body)
    ed25519, mldsa65 = making.identity("b").sign(raw)
    return bytes(msgpack.packb([raw, [[ed25519, mldsa65]]]))


def _half_signed() -> bytes:
    """A new identity that only itself has signed."""
    card = making.card("b", FIRST, identity=making.identity("b2").public)
    return SignedCard.sign(card, making.identity("b2")).data


REFUSED: dict[str, tuple[bytes, str]] = {
    "older": (signed("b", policy="another first one").data, "card_fork"),
    "forked": (signed("b", policy="x").data, "card_fork"),
    "with cards missing": (THIRD.data, "card_chain"),
    "rewritten": (signed("b", signed("b", policy="x")).data, "card_chain"),
    "another hub's": (signed("c", signed("c")).data, "card_signature"),
    "of a stranger": (signed("mallory").data, "card_signature"),
    "signed by another": (SignedCard.sign(SECOND.card, making.identity("mallory")).data, "card_signature"),
    "Ed25519 signature wrong": (_altered_signature(0), "card_signature"),
    "ML-DSA signature wrong": (_altered_signature(1), "card_signature"),
    "new identity not signed by the old": (_half_signed(), "card_signature"),
    "window of 200 years": (_window(NOW, NOW + 200 * 365 * DAY), "card_limit"),
    "window that ends before it begins": (_window(NOW, NOW - 1), "card_limit"),
    "unknown critical extension": (
        signed("b", FIRST, extensions={"x": 1}, critical=("x",)).data,
        "card_critical",
    ),
    "a megabyte": (b"\x92\xc6" + (1 << 20).to_bytes(4, "big") + bytes(1 << 20), "card_limit"),
    "nothing": (b"", "card_limit"),
    "another hub's link key": (
        signed("b", FIRST, link_keys=(link_public(link_key("c")),)).data,
        "refused",
    ),
    "our link key": (signed("b", FIRST, link_keys=(link_public(link_key("a", 0)),)).data, "refused"),
    "another hub's X25519 half": (
        signed(
            "b",
            FIRST,
            link_keys=(
                LinkPublic(
                    b"\x01" * 8,
                    link_public(link_key("c")).x25519,
                    link_public(link_key("b", 7)).mlkem768,
                    NOW,
                    NOW + DAY,
                ),
            ),
        ).data,
        "refused",
    ),
}


@pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_card_is_noted_and_the_accepted_one_stays(config: Path, data: bytes, code: str) -> None:
    for _ in range(3):
        with pytest.raises(CardError) as caught:
            receive(config, data)
        assert caught.value.code == code
    assert in_force(config).data == FIRST.data
    assert trail(config).count(("card refused", code)) == 1


def test_older_card_replayed(config: Path) -> None:
    receive(config, SECOND.data)
    with pytest.raises(CardError) as caught:
        receive(config, FIRST.data)
    assert caught.value.code == "card_older"
    assert in_force(config).data == SECOND.data


def test_window_in_the_past_is_a_card_whose_key_serves_nobody(config: Path) -> None:
    assert receive(config, _window(NOW - 100 * DAY, NOW - 99 * DAY)).kind == "accepted"
    (key,) = in_force(config).card.link_keys
    assert key.not_after < NOW


def test_domains_and_endpoints_in_a_card_change_nothing(config: Path) -> None:
    before = {path: path.read_bytes() for path in config.parent.rglob("*.toml")}
    wishes = {"domains": ["bank.example"], "endpoints": ["evil.example:25"], "listen": "0.0.0.0:25"}
    receive(config, signed("b", FIRST, name="mx.bank.example", extensions=wishes).data)
    assert {path: path.read_bytes() for path in config.parent.rglob("*.toml")} == before
    with opened(config, write=False) as (loaded, state):
        assert [peer.name for peer in load_hub(loaded, state).peers] == ["mx.b.example", "mx.c.example"]


def test_another_hubs_link_key_in_a_pinned_card_leads_to_silence() -> None:
    """Even where it was taken: the identity is inside the fingerprint, so c finds no hint of such a context (PC2)."""
    ours, theirs = link_key("a", 0), link_key("c", 0)
    idfps = {who: making.identity(who).public.idfp for who in "abc"}

    def context(own: str, own_key: object, peer: str, their_key: object) -> PairContext:
        return PairContext.make(
            peer=peer,
            own_idfp=idfps[own],
            own=own_key,  # type: ignore[arg-type]
            peer_idfp=idfps[peer],
            theirs=link_public(their_key),  # type: ignore[arg-type]
            psk=None,
        )

    listening = HintTable([context("c", theirs, "a", ours), context("c", theirs, "b", link_key("b"))], NOW)
    misbound = context("a", ours, "b", theirs)  # a believes that c's key is b's
    honest = context("a", ours, "c", theirs)
    assert listening.find(honest.dialling.hint(NOW // 3600)) is not None
    assert listening.find(misbound.dialling.hint(NOW // 3600)) is None


# --- our own cards come back ----------------------------------------------------------------------------------------


def test_restored_backup_takes_its_card_back_and_signs_on(config: Path) -> None:
    """Backed up at card 1, card 2 and 3 were signed and announced, the backup restored: b gives 3 back."""
    backup = shutil.copytree(config.parent, config.parent.parent / "backup")
    operate(config, "rotate")
    operate(config, "rotate", at_once=True)
    announced = cards(config)
    shutil.rmtree(config.parent)
    shutil.copytree(backup, config.parent)
    pin = making.identity("b").public.idfp
    with opened(config) as (_, state):
        acknowledged.note_newer(state, pin, 3)
    with pytest.raises(SigningError, match="our card 3"):
        operate(config, "rotate")

    received = receive(config, announced[-1].data)
    assert received.kind == "own"
    assert newest(config).hash == announced[-1].card.hash
    result = operate(config, "rotate")
    assert result["card"] == 4
    assert newest(config).previous == announced[-1].card.hash, "no fork"
    assert len(result["lost"]) == 2, "keys that only the lost state had are no longer listed"


def test_own_card_that_is_not_newer_or_not_ours(config: Path) -> None:
    first = cards(config)[0]
    operate(config, "rotate")
    forked = signed("a", first, policy="signed by a second copy")
    for data, code in (
        (first.data, "card_older"),
        (forked.data, "card_fork"),
        (SignedCard.sign(making.card("a", forked), making.identity("mallory")).data, "card_signature"),
        (signed("a", forked).data, "card_chain"),
    ):
        with pytest.raises(CardError) as caught:
            receive(config, data)
        assert caught.value.code == code
    assert newest(config).serial == 2
    check(config)


def test_own_card_again_is_no_news(config: Path) -> None:
    assert receive(config, cards(config)[0].data).kind == "again"


def test_first_card_that_claims_to_be_the_next(config: Path) -> None:
    with pytest.raises(CardError):
        receive(config, making.signed("b", None, previous=NO_CARD, issued=NOW + 5).data)
    assert in_force(config).data == FIRST.data
