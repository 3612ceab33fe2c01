"""The state folder: what is put there comes back, one process writes, a crash leaves old or new."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from hubtunnel.identity.state import PeerCards, State, StateError, StateLockedError
from tests.identity.making import identity, link_key, signed

FIRST = signed("b")
SECOND = signed("b", FIRST)
PIN = FIRST.card.idfp


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    State.create(tmp_path / "state").close()
    return tmp_path / "state"


def test_what_is_stored_comes_back(folder: Path) -> None:
    own = signed("a")
    with State.open(folder, write=True) as state:
        state.add_identity(identity("a"))
        state.add_link_key(link_key("a", 0))
        state.add_link_key(link_key("a", 1))
        state.add_card(own)
        state.add_card(signed("a", own))
        state.set_peer(PIN, PeerCards(FIRST, SECOND))
    with State.open(folder) as state:
        assert state.identity() == identity("a")
        assert {key.id for key in state.link_keys()[0]} == {link_key("a", 0).id, link_key("a", 1).id}
        assert [each.card.serial for each in state.cards()] == [1, 2]
        assert state.cards()[0].data == own.data
        assert state.peer(PIN) == PeerCards(FIRST, SECOND)
        assert state.peer(bytes(32)) is None


def test_everything_in_it_is_private(folder: Path) -> None:
    with State.open(folder, write=True) as state:
        state.add_identity(identity("a"))
        state.add_card(signed("a"))
        state.set_peer(PIN, PeerCards(FIRST, FIRST))
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_one_process_writes(folder: Path) -> None:
    with State.open(folder, write=True) as first:
        assert first.writable
        with pytest.raises(StateLockedError):
            State.open(folder, write=True)
        with State.open(folder) as reader:
            assert not reader.writable
            with pytest.raises(RuntimeError):
                reader.set_peer(PIN, PeerCards(FIRST, FIRST))
    State.open(folder, write=True).close()


def _hold(folder: Path, ready: object) -> None:
    state = State.open(folder, write=True)
    ready.set()  # type: ignore[attr-defined]
    signal.pause()
    state.close()


def test_lock_goes_with_a_process_that_is_killed(folder: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    holder = spawn.Process(target=_hold, args=(folder, ready))
    holder.start()
    try:
        assert ready.wait(30)
        with pytest.raises(StateLockedError):
            State.open(folder, write=True)
    finally:
        holder.kill()
        holder.join()
    State.open(folder, write=True).close()


def test_nothing_is_overwritten(folder: Path) -> None:
    with State.open(folder, write=True) as state:
        state.add_card(signed("a"))
        with pytest.raises(StateError, match="never overwritten"):
            state.add_card(signed("a", policy="other"))
    with pytest.raises(StateError, match="is not empty"):
        State.create(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("hubtunnel state 2\n", "state format 2, this release knows 1: run a newer release"),
        ("hubtunnel state 0\n", "state format 0, which no release used"),
        ("hubtunnel state one\n", "damaged"),
        ("", "damaged"),
        ("\udcff", "damaged"),
    ],
)
def test_other_formats_are_told_apart(folder: Path, content: str, says: str) -> None:
    (folder / "format").write_bytes(content.encode(errors="surrogateescape"))

    with pytest.raises(StateError, match=says):
        State.open(folder)


def test_a_folder_that_is_no_state_is_said_to_be_none(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StateError, match="hubtunnel init"):
            State.open(place)


def test_damaged_cards_are_named(folder: Path) -> None:
    with State.open(folder, write=True) as state:
        state.add_card(signed("a"))
        state.set_peer(PIN, PeerCards(FIRST, FIRST))
        for path, read in (
            (folder / "cards" / "00000001.card", state.cards),
            (state.peer_path(PIN), lambda: state.peer(PIN)),
        ):
            path.write_text(path.read_text()[:-200])
            with pytest.raises(StateError, match=f"{path.name}.*restore it from a backup"):
                read()


def test_a_foreign_card_among_our_own_is_noticed(folder: Path) -> None:
    with State.open(folder, write=True) as state:
        state.add_card(signed("a"))
        state.add_card(signed("a", signed("a", policy="another first card")))
        with pytest.raises(StateError, match="card 2 does not follow card 1"):
            state.cards()


def test_own_cards_may_have_gaps(folder: Path) -> None:
    """After a restored backup only the newest may come back from peers."""
    with State.open(folder, write=True) as state:
        state.add_card(signed("a"))
        state.add_card(signed("a", serial=5, previous=b"\5" * 32))
        assert [each.card.serial for each in state.cards()] == [1, 5]


def test_link_keys_that_cannot_be_read_are_named_and_the_others_read(folder: Path) -> None:
    with State.open(folder, write=True) as state:
        for number in range(3):
            state.add_link_key(link_key("a", number))
        state.link_key_path(link_key("a", 1).id).chmod(0o644)
        os.rename(state.link_key_path(link_key("a", 2).id), folder / "keys" / "0000000000000000.key")
        keys, problems = state.link_keys()

    assert [key.id for key in keys] == [link_key("a", 0).id]
    assert len(problems) == 2
    assert any("chmod 0600" in problem for problem in problems)
    assert any("rename it back" in problem for problem in problems)


def test_what_a_crash_left_is_swept_by_the_next_writer(folder: Path) -> None:
    leftover = folder / "keys" / ".0011223344556677.key.0123456789ab.new"
    leftover.write_bytes(b"half a key")

    with State.open(folder) as state:
        assert state.link_keys() == ([], [])
    assert leftover.exists()
    State.open(folder, write=True).close()
    assert not leftover.exists()
