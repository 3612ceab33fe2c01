"""What peers hold of us, across restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubtunnel.identity import acknowledged, operations
from hubtunnel.identity.acknowledged import Known
from hubtunnel.identity.pins import load_hub
from hubtunnel.identity.state import StateError
from tests.identity import making
from tests.identity.living import WHO, cards, hub, opened, operate
from tests.identity.making import NOW

PIN = making.identity("b").public.idfp


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return hub(tmp_path / "a")


def known(config: Path) -> Known:
    with opened(config, write=False) as (_, state):
        return acknowledged.read(state, PIN)


def test_peer_was_given_the_card_that_was_newest_when_it_was_pinned(config: Path) -> None:
    assert known(config) == Known()
    operate(config, "rotate")
    with opened(config) as (loaded, state):
        load_hub(loaded, state, by=WHO, now=NOW)
    assert known(config) == Known(given=2)
    operate(config, "rotate")
    with opened(config) as (loaded, state):
        load_hub(loaded, state, by=WHO, now=NOW)
    assert known(config).holds == 2, "pinned once"


def test_last_word_counts_even_if_it_is_less(config: Path) -> None:
    with opened(config) as (_, state):
        assert acknowledged.note_acknowledged(state, PIN, 3, NOW)
        assert not acknowledged.note_acknowledged(state, PIN, 3, NOW + 5)
        assert acknowledged.note_acknowledged(state, PIN, 2, NOW + 9)  # it was restored from a backup
    assert (known(config).serial, known(config).at, known(config).holds) == (2, NOW + 9, 2)


def test_used_key_only_moves_on(config: Path) -> None:
    one, two = making.link_key("a", 0), making.link_key("a", 1, begin=NOW)
    with opened(config) as (_, state):
        assert acknowledged.note_used(state, PIN, one, NOW)
        assert not acknowledged.note_used(state, PIN, one, NOW + 1)
        assert acknowledged.note_used(state, PIN, two, NOW + 2)
        assert not acknowledged.note_used(state, PIN, one, NOW + 3)
    assert (known(config).used, known(config).used_at) == (two.id.hex(), NOW + 2)


def test_keys_known_are_those_of_the_card_that_is_held(config: Path) -> None:
    operate(config, "rotate")
    own = cards(config)
    assert acknowledged.keys_known(own, Known(serial=1)) == own[0].card.link_keys
    assert acknowledged.keys_known(own, Known(given=1, serial=2)) == own[1].card.link_keys
    assert acknowledged.keys_known(own, Known()) == own[0].card.link_keys


def test_newest_claim_is_one_beyond_our_own(config: Path) -> None:
    with opened(config) as (loaded, state):
        assert acknowledged.newest_claim(acknowledged.on_disk(state), loaded.peers, 1) is None
        acknowledged.note_newer(state, PIN, 4)
        claim = acknowledged.newest_claim(acknowledged.on_disk(state), loaded.peers, 1)
        assert claim == (4, "mx.b.example")
        assert acknowledged.newest_claim(acknowledged.on_disk(state), loaded.peers, 4) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"serial": "x"}', '{"serial": []}', "\x00\xff", "[" * 4000])
def test_damaged_record_names_the_cure(config: Path, content: str) -> None:
    path = config.parent / "state/peers" / f"{PIN.hex()}.known"
    path.write_text(content)
    with pytest.raises(StateError, match="remove it"):
        known(config)


def test_record_of_a_later_release_is_read_as_far_as_it_is_known(config: Path) -> None:
    path = config.parent / "state/peers" / f"{PIN.hex()}.known"
    path.write_text('{"serial": 7, "mood": "good"}')
    assert known(config) == Known(serial=7)


def test_unknown_operation_and_what_may_not_be_recorded(config: Path) -> None:
    for name, arguments, says in (
        ("format", {}, "no operation"),
        ("record", {"what": "rotated", "details": {}}, "by itself"),
    ):
        with opened(config) as (loaded, state), pytest.raises(operations.UsageError, match=says):
            operations.run(operations.Context(state, loaded, NOW, WHO), name, arguments)
