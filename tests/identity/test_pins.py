"""From files to trust: what configuration and state together let a daemon use, and what they never do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hubtunnel.config import load
from hubtunnel.errors import ConfigError
from hubtunnel.identity.card import SignedCard, link_public
from hubtunnel.identity.pins import HubKeys, load_hub
from hubtunnel.identity.state import PeerCards, State
from hubtunnel.identity.trail import Trail
from tests.identity.making import ROOT, add_peer, hub, identity, link_key, signed, tree, vectors

FIRST = signed("b")
SECOND = signed("b", FIRST)
THIRD = signed("b", SECOND)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return hub(tmp_path / "a", "a")


def _load(config: Path, *, write: bool = True, allow_published: bool = False) -> HubKeys:
    with State.open(config.parent / "state", write=write) as state:
        return load_hub(load(config), state, allow_published=allow_published)


def _problems(config: Path) -> list[str]:
    before = tree(config.parent / "state")
    with pytest.raises(ConfigError) as caught:
        _load(config)
    assert tree(config.parent / "state") == {**before, "lock": b""}, "what is refused must store nothing"
    return caught.value.problems


def test_own_keys_and_a_peers(config: Path) -> None:
    add_peer(config, "b", FIRST)
    loaded = _load(config)

    assert loaded.idfp == identity("a").public.idfp
    assert [key.id for key in loaded.links] == [link_key("a").id]
    (peer,) = loaded.peers
    assert (peer.name, peer.idfp, peer.psk) == ("mx.b.example", FIRST.card.idfp, None)
    assert peer.links == (link_public(link_key("b")),)
    assert loaded.notices == ()
    assert loaded.peer("mx.b.example") is peer
    assert loaded.peer("mx.c.example") is None


def test_first_card_is_kept_when_its_file_goes(config: Path) -> None:
    path = add_peer(config, "b", FIRST)
    _load(config)
    path.with_suffix(".card").unlink()

    assert _load(config).peers[0].cards.latest == FIRST


def test_reading_stores_nothing(config: Path) -> None:
    add_peer(config, "b", FIRST)
    before = tree(config.parent / "state")

    assert _load(config, write=False).peers[0].cards.latest == FIRST
    assert tree(config.parent / "state") == before


def test_card_file_that_says_what_is_held_is_not_taken_apart(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start with hundreds of peers reads each card once; a file that was edited is read like any other."""
    file = add_peer(config, "b", FIRST).with_suffix(".card")
    _load(config)
    parsed: list[bytes] = []
    parse = SignedCard.parse

    def counted(data: bytes) -> SignedCard:
        parsed.append(data)
        return parse(data)

    monkeypatch.setattr(SignedCard, "parse", counted)
    assert _load(config).peers[0].cards.latest == FIRST
    assert parsed.count(FIRST.data) == 1
    file.write_text("From her mail of Monday:\n" + file.read_text())
    parsed.clear()
    assert _load(config).peers[0].cards.latest == FIRST
    assert parsed.count(FIRST.data) == 2


def test_successor_in_the_file_is_taken_and_the_first_kept(config: Path) -> None:
    path = add_peer(config, "b", FIRST)
    _load(config)
    for cards in ([SECOND], [FIRST, SECOND, THIRD]):
        add_peer(config, "b", *cards)
        loaded = _load(config).peers[0].cards
        assert (loaded.first.hash, loaded.latest) == (FIRST.card.hash, cards[-1])
        with State.open(config.parent / "state") as state:
            assert state.peer(FIRST.card.idfp) == PeerCards(FIRST, cards[-1])
    path.with_suffix(".card").unlink()

    assert _load(config).peers[0].cards.latest == THIRD


def test_older_card_is_ignored_with_a_notice(config: Path) -> None:
    add_peer(config, "b", FIRST, SECOND)
    _load(config)
    add_peer(config, "b", FIRST)
    loaded = _load(config)

    assert loaded.peers[0].cards.latest == SECOND
    (notice,) = loaded.notices
    assert not notice.alarm
    assert "card 1 is older than the accepted card 2" in notice.text
    assert notice.why is not None
    assert (notice.why.code, str(notice.why)) == ("card_older", "card 1 is older than the accepted card 2")
    assert (notice.why.__traceback__, notice.why.__context__) == (None, None), "what was read would stay with it"


FORKED = signed("b", FIRST, policy="forked")
IGNORED = {
    "forked": [FORKED],
    "of a forked chain": [signed("b", FORKED)],
    "with cards missing": [signed("b", THIRD)],
    "not signed by the pin": [SignedCard.sign(signed("b", SECOND).card, identity("mallory"))],
    "another hub's": [signed("c")],
}


@pytest.mark.parametrize("cards", IGNORED.values(), ids=IGNORED.keys())
def test_card_that_does_not_follow_raises_an_alarm_and_changes_nothing(config: Path, cards: list[SignedCard]) -> None:
    add_peer(config, "b", FIRST, SECOND)
    _load(config)
    before = _without_trail(config)
    add_peer(config, "b", *cards)
    loaded = _load(config)

    assert loaded.peers[0].cards.latest == SECOND
    assert [notice.alarm for notice in loaded.notices] == [True]
    assert "stays in force" in loaded.notices[0].text
    assert _without_trail(config) == before
    with State.open(config.parent / "state") as state:
        *_, entry = Trail(state).entries()
    assert (entry.what, entry.details["peer"]) == ("card refused", "mx.b.example")


def _without_trail(config: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(config.parent / "state").items() if not name.startswith("trail.")}


def test_damaged_card_file_is_no_reason_to_drop_an_accepted_peer(config: Path) -> None:
    path = add_peer(config, "b", FIRST)
    _load(config)
    path.with_suffix(".card").write_text("torn")

    assert _load(config).peers[0].cards.latest == FIRST


def test_psk_comes_with_the_peer(config: Path) -> None:
    add_peer(config, "b", FIRST, extra='psk_file = "b.psk"\n')
    psk = config.parent / "peers.d" / "b.psk"
    psk.write_text(bytes(range(32)).hex())
    psk.chmod(0o600)
    loaded = _load(config)

    assert loaded.peers[0].psk == bytes(range(32))
    assert bytes(range(32)).hex() not in repr(loaded)
    assert repr(bytes(range(32)))[2:20] not in repr(loaded)


# --- refused --------------------------------------------------------------------------------------------------


def test_peer_without_any_card(config: Path) -> None:
    add_peer(config, "b")
    (problem,) = _problems(config)
    assert "mx.b.example.card: there is no such file" in problem


def test_card_of_another_than_the_pin(config: Path) -> None:
    add_peer(config, "b", FIRST, pin=signed("c").card.idfp)
    (problem,) = _problems(config)
    assert "not the hub that was pinned" in problem


def test_own_identity_as_a_peer(config: Path) -> None:
    add_peer(config, "b", signed("a", name="mx.b.example"), pin=identity("a").public.idfp)
    (problem,) = _problems(config)
    assert "this hub's own identity" in problem


def test_own_link_key_as_a_peers(config: Path) -> None:
    add_peer(config, "b", signed("b", link_keys=(link_public(link_key("a")),)))
    (problem,) = _problems(config)
    assert "another hub's already" in problem


def test_link_key_of_an_accepted_peer_in_a_newcomers_card(config: Path) -> None:
    """The newcomer is refused, whatever its name sorts before, and never what was accepted."""
    add_peer(config, "c", signed("c"))
    _load(config)
    add_peer(config, "b", signed("b", link_keys=(link_public(link_key("c")),)))
    (problem,) = _problems(config)

    assert "mx.b.example.card" in problem
    assert "mx.c.example" in problem


def test_link_key_of_another_peer_in_a_successor(config: Path) -> None:
    add_peer(config, "b", FIRST)
    add_peer(config, "c", signed("c"))
    _load(config)
    add_peer(config, "b", signed("b", FIRST, link_keys=(link_public(link_key("c")),)))
    loaded = _load(config)

    assert loaded.peers[0].cards.latest == FIRST
    assert [notice.alarm for notice in loaded.notices] == [True]


def test_new_identity_with_the_old_link_keys_is_no_clash(config: Path) -> None:
    add_peer(config, "b", FIRST)
    _load(config)
    renewed = signed("b", FIRST, identity=identity("b2").public).card
    add_peer(config, "b", SignedCard.sign(renewed, identity("b2"), identity("b")))
    loaded = _load(config)

    assert loaded.notices == ()
    assert loaded.peers[0].idfp == identity("b2").public.idfp
    assert loaded.peers[0].config.pin == identity("b").public.idfp


def test_two_pins_of_one_hub(config: Path) -> None:
    renewed = SignedCard.sign(signed("b", FIRST, identity=identity("b2").public).card, identity("b2"), identity("b"))
    add_peer(config, "b", FIRST, renewed)
    _load(config)
    add_peer(config, "c", renewed, pin=identity("b2").public.idfp)
    (problem,) = _problems(config)

    assert "is the same hub as another peer" in problem


def test_all_that_is_wrong_is_said_at_once(config: Path) -> None:
    add_peer(config, "b")
    add_peer(config, "c", signed("d"))
    key = config.parent / "state/keys" / f"{link_key('a').id.hex()}.key"
    key.chmod(0o644)

    assert len(_problems(config)) == 3


# --- own keys ---------------------------------------------------------------------------------------------------


def _with_state(config: Path) -> State:
    return State.open(config.parent / "state", write=True)


def test_link_key_that_no_card_lists_is_not_used(config: Path) -> None:
    with _with_state(config) as state:
        state.add_link_key(link_key("a", 5))
    loaded = _load(config)

    assert [key.id for key in loaded.links] == [link_key("a").id]
    assert "is in no card of this hub" in loaded.notices[0].text


def test_link_key_of_an_older_card_is_used_and_a_revoked_one_is_not(config: Path) -> None:
    """Peers that have not seen the newest card still use the older key."""
    with _with_state(config) as state:
        state.add_link_key(link_key("a", 1))
        second = signed("a", state.cards()[0], link_keys=(link_public(link_key("a", 1)),))
        state.add_card(second)
        assert {key.id for key in load_hub(load(config), state).links} == {link_key("a").id, link_key("a", 1).id}
        state.add_card(signed("a", second, link_keys=(link_public(link_key("a", 1)),), revoked=(link_key("a").id,)))
        loaded = load_hub(load(config), state)

    assert [key.id for key in loaded.links] == [link_key("a", 1).id]
    assert "is revoked" in loaded.notices[0].text


def test_key_file_that_is_not_the_cards(config: Path) -> None:
    path = config.parent / "state/keys" / f"{link_key('a').id.hex()}.key"
    path.unlink()
    other = link_key("x")
    with _with_state(config) as state:
        state.add_link_key(type(other)(link_key("a").id, other.x25519_private, other.mlkem_seed, 0, 1))

    assert any("is not the link key" in problem for problem in _problems(config))


def test_no_link_key_at_all(config: Path) -> None:
    (config.parent / "state/keys" / f"{link_key('a').id.hex()}.key").unlink()

    assert any("holds no link key" in problem for problem in _problems(config))


# --- published keys ---------------------------------------------------------------------------------------------


def test_published_identity_is_refused_as_our_own(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with State.create(folder / "state") as state:
        for name in ("identity.key", "keys/0001020304050607.key"):
            shutil.copyfile(ROOT / "keys/a" / Path(name).name, folder / "state" / name)
            (folder / "state" / name).chmod(0o600)
        state.add_card(SignedCard.parse(bytes.fromhex(vectors()["more"]["card"]["signed"])))
    config = folder / "hubtunnel.toml"
    config.write_text('name = "mx.a.example"\nstate = "state"\n')
    problems = _problems(config)

    assert any("identity is a published test identity" in problem for problem in problems)
    assert any("link key is a published test key" in problem for problem in problems)
    assert _load(config, allow_published=True).idfp.hex() == vectors()["A"]["idfp"]


def test_published_identity_and_psk_are_refused_as_a_peers(config: Path) -> None:
    published = SignedCard.parse(bytes.fromhex(vectors()["more"]["card"]["signed"]))
    add_peer(config, "b", published, pin=published.card.idfp, extra='psk_file = "b.psk"\n')
    psk = config.parent / "peers.d" / "b.psk"
    psk.write_text(vectors()["psk"])
    psk.chmod(0o600)

    assert len(_problems(config)) == 3
    assert len(_load(config, allow_published=True).peers) == 1
