"""Rotation, series, revocation and deletion of link keys, over days that go by at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hubtunnel.errors import CardError, UsageError
from hubtunnel.identity import acknowledged, lifecycle, operations, windows
from hubtunnel.identity.acknowledged import Claim
from hubtunnel.identity.card import SignedCard
from hubtunnel.identity.chain import accept_chain, accept_successor
from hubtunnel.identity.signing import SigningError
from tests.identity import making
from tests.identity.living import HOUR, WHO, cards, check, hub, newest, opened, operate
from tests.identity.making import DAY, NOW

PIN_B = making.identity("b").public.idfp


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return hub(tmp_path / "a")


def used(config: Path, now: float) -> str:
    found = windows.current(newest(config).link_keys, now)
    assert found is not None
    return found.id.hex()


# --- rotation ---------------------------------------------------------------------------------------------------


def test_rotation_makes_the_key_after_the_next(config: Path) -> None:
    result = operate(config, "rotate")
    (made,) = result["made"]
    assert made["not_before"] == NOW + 2 * windows.ROTATE
    assert made["not_after"] - made["not_before"] == windows.WINDOW
    assert (result["card"], result["retired"], result["cut_off"]) == (2, [], [])
    assert len(check(config).link_keys) == 3


def test_rotation_now_is_in_use_at_once(config: Path) -> None:
    before = used(config, NOW)
    result = operate(config, "rotate", at_once=True)
    assert [used(config, NOW)] == [key["id"] for key in result["made"]] != [before]


def test_automatic_rotation_over_two_years_never_leaves_a_gap(config: Path) -> None:
    """As a daemon does it: a look every other day, a rotation when it is due, and what is due is deleted."""
    rotations = 0
    for day in range(0, 2 * 365, 2):
        now = NOW + day * DAY + 1
        with opened(config) as (loaded, state):
            if lifecycle.rotation_due(state.cards()[-1], now) <= now:
                operations.run(operations.Context(state, loaded, now, WHO), "rotate", {})
                rotations += 1
            assert not lifecycle.warnings(state, [], now, acknowledged.on_disk(state))
            lifecycle.delete_due(state, now)
            card = state.cards()[-1].card
            assert windows.current(card.link_keys, now) is not None
            assert any(key.not_before > now for key in card.link_keys), "no key is pinned ahead"
            assert len(card.link_keys) <= windows.BEGUN_MAX + 1
            assert len(state.link_key_files()) <= 8
    assert rotations == 24
    check(config, now)


def test_twenty_rotations_at_once_stay_a_card(config: Path) -> None:
    for _ in range(20):
        operate(config, "rotate", at_once=True)
    card = check(config)
    assert card.serial == 21
    assert len([key for key in card.link_keys if key.not_before <= NOW]) == windows.BEGUN_MAX
    with opened(config, write=False) as (_, state):
        assert len(state.link_key_files()) == 22, "retired keys are kept for peers that know no other"


def test_card_that_is_full_says_what_to_do(config: Path) -> None:
    operate(config, "issue", every=DAY, count=61)
    before = newest(config)
    with pytest.raises(SigningError, match="at most 64"):
        operate(config, "issue", every=DAY, count=10)
    assert check(config).hash == before.hash


@pytest.mark.parametrize("off", [-DAY, DAY])
def test_clock_a_day_off_leaves_a_chain_that_peers_take(config: Path, off: int) -> None:
    chain = cards(config)
    operate(config, "rotate", NOW + off)
    operate(config, "rotate", NOW)  # and it was set right
    for signed in cards(config)[1:]:
        assert accept_successor(chain[-1], signed)
        chain.append(signed)
    card = check(config)
    assert card.issued >= chain[1].card.issued
    assert windows.current(card.link_keys, NOW) is not None


@pytest.mark.parametrize(("now", "says"), [(0, "never set"), (NOW - 40 * DAY, "40 days behind")])
def test_clock_that_is_plainly_wrong_signs_nothing(config: Path, now: float, says: str) -> None:
    with pytest.raises(SigningError, match=says):
        operate(config, "rotate", now)
    assert newest(config).serial == 1


def test_key_without_its_private_half_is_dropped_from_the_next_card(config: Path) -> None:
    lost = newest(config).link_keys[1].id
    (config.parent / "state/keys" / f"{lost.hex()}.key").unlink()
    result = operate(config, "rotate")
    assert result["lost"] == [lost.hex()]
    assert lost not in {key.id for key in check(config).link_keys}


# --- a week of daily keys -----------------------------------------------------------------------------------------


def test_a_week_of_daily_keys(config: Path) -> None:
    """Each is the one in use during its own day, and its private half goes a day after its window."""
    made = operate(config, "issue", every=DAY, count=7, only=True)["made"]
    assert {key.id.hex() for key in newest(config).link_keys} == {key["id"] for key in made}
    for hour in range(7 * 24):
        now = NOW + hour * HOUR + 1
        assert used(config, now) == made[hour // 24]["id"]
        with opened(config) as (_, state):
            lifecycle.delete_due(state, now)
            left = {path.stem for path in state.link_key_files()}
        for number, key in enumerate(made):
            assert (key["id"] in left) == (now < key["not_after"] + DAY), number
    end = made[-1]["not_after"]
    with opened(config) as (_, state):
        assert windows.covered_until(newest(config).link_keys, NOW) == end
        assert [each.days for each in lifecycle.warnings(state, [], end - HOUR, acknowledged.on_disk(state))] == [1]
        assert not lifecycle.warnings(state, [], end - 2 * DAY, acknowledged.on_disk(state))


def test_the_next_week_follows_the_first_without_a_gap(config: Path) -> None:
    operate(config, "issue", every=DAY, count=7, only=True)
    operate(config, "issue", NOW + 6 * DAY, every=DAY, count=7, only=True)
    card = check(config, NOW + 6 * DAY)
    assert windows.covered_until(card.link_keys, NOW + 6 * DAY) == NOW + 14 * DAY + HOUR


def test_daily_keys_beside_the_long_ones_are_preferred(config: Path) -> None:
    made = operate(config, "issue", every=DAY, count=2)["made"]
    assert len(newest(config).link_keys) == 4
    assert used(config, NOW + DAY + 5) == made[1]["id"]
    assert used(config, NOW + 3 * DAY) == making.link_key("a", 0).id.hex(), "and the long one serves afterwards"


# --- revocation ---------------------------------------------------------------------------------------------------


def test_revoking_the_key_in_use_makes_its_replacement(config: Path) -> None:
    stolen = used(config, NOW)
    result = operate(config, "revoke", key=stolen[:8])
    assert result["revoked"] == stolen
    card = check(config)
    assert [key_id.hex() for key_id in card.revoked] == [stolen]
    assert used(config, NOW) == result["made"][0]["id"]
    assert {"key": stolen, "why": lifecycle.REVOKED} in result["deleted"]
    assert not (config.parent / "state/keys" / f"{stolen}.key").exists()
    assert result["cut_off"] == ["mx.b.example"], "b knows only the revoked key and one that has not begun"


def test_revoking_a_key_ahead_leaves_none_missing(config: Path) -> None:
    stolen = newest(config).link_keys[1].id.hex()
    result = operate(config, "revoke", key=stolen)
    card = check(config)
    assert windows.covered_until(card.link_keys, NOW) > NOW + windows.WINDOW
    assert any(key.not_before > NOW for key in card.link_keys)
    assert result["cut_off"] == []


def test_revoked_key_in_the_middle_of_a_series_leaves_no_gap(config: Path) -> None:
    made = operate(config, "issue", every=DAY, count=5, only=True)["made"]
    operate(config, "revoke", key=made[2]["id"])
    card = check(config)
    assert windows.covered_until(card.link_keys, NOW) >= made[-1]["not_after"]


def test_what_is_revoked_is_said_until_its_window_has_ended(config: Path) -> None:
    stolen = newest(config).link_keys[0]
    operate(config, "revoke", key=stolen.id.hex())
    operate(config, "rotate", NOW + 100 * DAY)
    assert stolen.id in newest(config).revoked
    operate(config, "rotate", stolen.not_after + 1)
    assert newest(config).revoked == ()


@pytest.mark.parametrize(
    ("key", "says"),
    [("ffffffff", "no link key"), ("", "no link key"), ("abc", "no link key"), ("' || rm -rf", "no link key")],
)
def test_revoking_what_is_no_key(config: Path, key: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        operate(config, "revoke", key=key)
    assert newest(config).serial == 1


def test_revoking_twice(config: Path) -> None:
    stolen = used(config, NOW)
    operate(config, "revoke", key=stolen)
    with pytest.raises(UsageError, match="revoked before"):
        operate(config, "revoke", key=stolen)


def test_thief_of_a_link_key_cannot_make_himself_permanent(config: Path) -> None:
    """Only the identity key signs cards: one made with everything a link key's thief has is refused."""
    chain = cards(config)
    thief = making.identity("mallory")
    own = chain[-1].card
    for card in (
        making.card("a", chain[-1], link_keys=own.link_keys[:1]),
        making.card("a", chain[-1], identity=thief.public, link_keys=own.link_keys[:1]),
    ):
        with pytest.raises(CardError) as caught:
            accept_successor(chain[-1], SignedCard.sign(card, thief))
        assert caught.value.code == "card_signature"


# --- deletion -----------------------------------------------------------------------------------------------------


def test_deletion_is_a_day_after_the_window(config: Path) -> None:
    first = newest(config).link_keys[0]
    with opened(config) as (_, state):
        assert lifecycle.due_deletions(state, first.not_after + windows.GRACE - 1) == []
        (due,) = lifecycle.due_deletions(state, first.not_after + windows.GRACE)
        assert (due.id, due.why) == (first.id, lifecycle.ENDED)
        assert lifecycle.delete_due(state, first.not_after + windows.GRACE) == [due]
        assert lifecycle.delete_due(state, first.not_after + windows.GRACE) == []


def test_early_deletion_waits_for_a_handshake_with_a_later_key(config: Path) -> None:
    """An acknowledgement is not enough: it could come from a thief of the peer's link key (LK4)."""
    first = newest(config).link_keys[0]
    operate(config, "rotate", at_once=True)
    later = windows.current(newest(config).link_keys, NOW)
    assert later is not None
    with opened(config) as (_, state):
        acknowledged.note_acknowledged(state, PIN_B, 2, NOW)
        acknowledged.note_used(state, PIN_B, first, NOW)
    with pytest.raises(UsageError, match=r"mx\.b\.example never completed a handshake with a later one"):
        operate(config, "delete", key=first.id.hex())
    with opened(config) as (_, state):
        acknowledged.note_used(state, PIN_B, later, NOW)
    operate(config, "delete", key=first.id.hex())
    assert not (config.parent / "state/keys" / f"{first.id.hex()}.key").exists()
    assert first.id not in {key.id for key in check(config).link_keys}


def test_early_deletion_by_force_names_who_is_cut_off(config: Path) -> None:
    first = newest(config).link_keys[0].id.hex()
    result = operate(config, "delete", key=first, force=True)
    assert result["cut_off"] == ["mx.b.example"]
    assert {"key": first, "why": "by hand"} in result["deleted"]
    check(config)


def test_who_will_be_cut_off_is_named_days_ahead(config: Path) -> None:
    """b was given card 1 and never came back: it knows keys that end, though newer ones are there."""
    end = NOW + windows.ROTATE + windows.WINDOW
    for month in range(1, 7):
        operate(config, "rotate", NOW + month * windows.ROTATE)
    named = {}
    with opened(config) as (loaded, state):
        for days in (31, 30, 14, 7, 1, 0):
            found = lifecycle.warnings(state, loaded.peers, end - days * DAY, acknowledged.on_disk(state))
            named[days] = [(each.peer, each.days) for each in found]
            assert all("card 1 only" in each.text and "peer update" in each.text for each in found)
        assert lifecycle.cut_off(state, loaded.peers, end) == ["mx.b.example"]
        acknowledged.note_acknowledged(state, PIN_B, 7, end - 2 * DAY)
        assert lifecycle.warnings(state, loaded.peers, end - DAY, acknowledged.on_disk(state)) == []
    assert named == {31: [], **{days: [("mx.b.example", days)] for days in (30, 14, 7, 1)}, 0: [("mx.b.example", 1)]}


# --- never a fork -------------------------------------------------------------------------------------------------


def test_restored_backup_signs_nothing_until_it_has_its_own_newer_card(config: Path) -> None:
    backup = config.parent.parent / "backup"
    shutil.copytree(config.parent, backup)
    operate(config, "rotate")
    restored = backup / config.name
    with opened(restored) as (_, state):
        acknowledged.note_newer(state, PIN_B, 2)  # b says so in its CARD_HAVE
    for operation, arguments in (
        ("rotate", {}),
        ("rotate", {"identity": True}),
        ("issue", {"every": DAY, "count": 7}),
        ("revoke", {"key": newest(config).link_keys[0].id.hex()}),
    ):
        with pytest.raises(SigningError, match=r"mx\.b\.example holds our card 2.*restored backup"):
            operate(restored, operation, **arguments)
    assert newest(restored).serial == 1
    assert not list((restored.parent / "state").glob("identity-*"))
    operate(restored, "rotate", force=True)
    assert newest(restored).hash != newest(config).hash, "that was the fork that was asked for"


def test_claim_of_a_peer_that_is_no_longer_configured_stops_nobody(config: Path) -> None:
    with opened(config) as (_, state):
        acknowledged.note_newer(state, PIN_B, 1 << 60)
    (config.parent / "peers.d/mx.b.example.toml").unlink()
    assert operate(config, "rotate")["card"] == 2


def test_caller_that_knows_of_a_newer_card_stops_it_too(config: Path) -> None:
    with opened(config) as (loaded, state):
        context = operations.Context(state, loaded, NOW, WHO, known_newer=5)
        with pytest.raises(SigningError, match="our card 5"):
            operations.run(context, "rotate", {})
        assert context.claim(force=False) == Claim(5, "a peer")


# --- identity -----------------------------------------------------------------------------------------------------


def test_new_identity_is_taken_by_whoever_pinned_the_old(config: Path) -> None:
    before = cards(config)
    result = operate(config, "rotate", identity=True)
    after = check(config)
    assert after.idfp != before[-1].card.idfp
    assert result["fingerprint"] == after.idfp.hex()
    assert after.link_keys == before[-1].card.link_keys
    taken = accept_chain(before[0].card.idfp, before[-1], cards(config))
    assert taken[-1].card.idfp == after.idfp
    assert len(taken[-1].signatures) == 2
    operate(config, "rotate")
    assert check(config).idfp == after.idfp


def test_old_identity_key_goes_when_every_peer_has_the_new_card(config: Path) -> None:
    old = newest(config).idfp
    operate(config, "rotate", identity=True)
    path = config.parent / "state" / f"identity-{old.hex()}.key"
    assert operate(config, "tidy")["deleted"] == []
    assert path.exists()
    with opened(config) as (_, state):
        acknowledged.note_acknowledged(state, PIN_B, 2, NOW)
    (deleted,) = operate(config, "tidy")["deleted"]
    assert deleted["key"] == path.name
    assert not path.exists()
    check(config)


def test_wrong_identity_key_signs_nothing(config: Path) -> None:
    path = config.parent / "state/identity.key"
    path.unlink()
    with opened(config) as (_, state):
        state.add_identity(making.identity("c"))
    with pytest.raises(SigningError, match="is not the identity of card 1"):
        operate(config, "rotate")


def test_identity_elsewhere_says_where_to_sign(config: Path) -> None:
    (config.parent / "state/identity.key").unlink()
    for operation, arguments in (
        ("rotate", {}),
        ("issue", {"every": DAY, "count": 1}),
        ("revoke", {"key": newest(config).link_keys[0].id.hex()}),
        ("passphrase", {}),
    ):
        with pytest.raises(SigningError, match="key export"):
            operate(config, operation, **arguments)
