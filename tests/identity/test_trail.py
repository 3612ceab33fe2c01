"""The trail: every line follows the one before, and whoever changes or takes out one is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.identity.caller import Caller
from hubtunnel.identity.state import State
from hubtunnel.identity.trail import BEFORE_FIRST, Trail, TrailError
from tests.identity.living import WHO
from tests.identity.making import DAY, NOW


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with State.create(tmp_path / "state") as state:
        for number in range(5):
            Trail(state).append("rotated", WHO, NOW + number, card=number)
    return tmp_path / "state"


def lines(folder: Path) -> list[bytes]:
    return (folder / "trail.jsonl").read_bytes().splitlines()


def verify(folder: Path) -> None:
    with State.open(folder) as state:
        Trail(state).verify()


def append(folder: Path, what: str = "rotated") -> None:
    with State.open(folder, write=True) as state:
        Trail(state).append(what, WHO, NOW + DAY, card=9)


def test_lines_say_what_when_and_who(folder: Path) -> None:
    with State.open(folder) as state:
        entries = list(Trail(state).entries())
        last = Trail(state).verify()
    assert [entry.n for entry in entries] == [1, 2, 3, 4, 5]
    first = entries[0]
    assert (first.at, first.what, first.uid, first.user) == ("2027-01-15T08:00:00Z", "rotated", 4711, "alice")
    assert first.details == {"card": 0}
    assert last == entries[-1]
    assert json.loads(lines(folder)[0])["prev"] == BEFORE_FIRST
    assert (folder / "trail.jsonl").stat().st_mode & 0o777 == 0o600


def test_several_lines_at_once_are_as_good_as_one_by_one(folder: Path) -> None:
    with State.open(folder, write=True) as state:
        Trail(state).append_each("card accepted", WHO, NOW, [{"peer": "b"}, {"peer": "c"}])
        Trail(state).append_each("card accepted", WHO, NOW, [])
        Trail(state).append("rotated", WHO, NOW, card=6)
        entries = list(Trail(state).entries())
    assert [(entry.n, entry.details) for entry in entries[5:]] == [
        (6, {"peer": "b"}),
        (7, {"peer": "c"}),
        (8, {"card": 6}),
    ]
    verify(folder)


def test_a_crash_among_several_lines_leaves_the_first_of_them(folder: Path) -> None:
    head = (folder / "trail.head").read_bytes()
    with State.open(folder, write=True) as state:
        Trail(state).append_each("card accepted", WHO, NOW, [{"peer": "b"}, {"peer": "c"}])
    (folder / "trail.head").write_bytes(head)
    path = folder / "trail.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    append(folder)
    with State.open(folder) as state:
        assert [entry.what for entry in Trail(state).entries()][5:] == ["card accepted", "repaired", "rotated"]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("change", ["removed", "altered", "swapped", "damaged", "put in"])
def test_changed_line_is_named(folder: Path, number: int, change: str) -> None:
    whole = lines(folder)
    if change == "removed":
        del whole[number]
    elif change == "altered":
        whole[number] = whole[number].replace(b'"rotated"', b'"Rotated"')
    elif change == "swapped":
        other = (number + 1) % 5
        whole[number], whole[other] = whole[other], whole[number]
    elif change == "damaged":
        whole[number] = whole[number][:-1]
    else:
        whole.insert(number, whole[number])
    (folder / "trail.jsonl").write_bytes(b"\n".join(whole) + b"\n")
    with pytest.raises(TrailError, match=r"trail\.jsonl: line \d"):
        verify(folder)
    with pytest.raises(TrailError):
        append(folder)


def test_first_broken_line_is_the_one_named(folder: Path) -> None:
    whole = lines(folder)
    whole[1] = whole[1].replace(b'"card": 1', b'"card": 7')
    (folder / "trail.jsonl").write_bytes(b"\n".join(whole) + b"\n")
    with pytest.raises(TrailError, match="line 3 does not follow"):
        verify(folder)


@pytest.mark.parametrize("left", range(5))
def test_lines_taken_off_the_end_are_missed(folder: Path, left: int) -> None:
    kept = lines(folder)[:left]
    (folder / "trail.jsonl").write_bytes(b"".join(line + b"\n" for line in kept))
    with pytest.raises(TrailError, match=rf"line {left + 1} is missing: there were 5 lines"):
        verify(folder)


@given(cut=st.integers(1, 60))
def test_line_torn_by_a_crash_is_repaired_with_a_note(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("torn") / "state"
    with State.create(folder) as state:
        Trail(state).append("rotated", WHO, NOW, card=1)
    with open(folder / "trail.jsonl", "ab") as file:
        file.write(lines(folder)[0][:cut])
    verify(folder)  # a line without its end was never written
    append(folder)
    with State.open(folder) as state:
        assert [entry.what for entry in Trail(state).entries()] == ["rotated", "repaired", "rotated"]
        assert f"{cut} bytes" in list(Trail(state).entries())[1].details["note"]
        Trail(state).verify()


def test_crash_between_line_and_head_is_no_fault(folder: Path) -> None:
    before = (folder / "trail.head").read_bytes()
    append(folder)
    (folder / "trail.head").write_bytes(before)
    verify(folder)
    append(folder)
    with State.open(folder) as state:
        last = Trail(state).verify()
    assert last is not None
    assert last.n == 7


def test_damaged_head_is_told(folder: Path) -> None:
    (folder / "trail.head").write_bytes(b"\x00\xff")
    with pytest.raises(TrailError, match=r"trail\.head: is damaged"):
        verify(folder)


def test_many_lines_are_verified_once_and_again_when_somebody_else_wrote(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub with a thousand peers adds a line for each of their cards: none of them costs a look at all others."""
    looked = 0
    parse = Trail._parse

    def counted(self: Trail, n: int, line: bytes) -> object:
        nonlocal looked
        looked += 1
        return parse(self, n, line)

    def replace(path: Path, data: bytes) -> None:
        """By another file: two writes within one tick of the kernel's clock have one ctime."""
        path.with_suffix(".new").write_bytes(data)
        path.with_suffix(".new").replace(path)

    monkeypatch.setattr(Trail, "_parse", counted)
    path = folder / "trail.jsonl"
    with State.open(folder, write=True) as state:
        before = len(lines(folder))
        for number in range(50):
            Trail(state).append("test", WHO, NOW, number=number)
        assert looked <= before
        replace(path, path.read_bytes())  # the same bytes, but who knows
        Trail(state).append("test", WHO, NOW, number=50)
        assert looked > 50
        replace(path, path.read_bytes().replace(b'"number": 20}', b'"number": 21}'))
        with pytest.raises(TrailError, match=r"line \d+ does not follow"):
            Trail(state).append("test", WHO, NOW, number=51)
    with State.open(folder, write=True) as state, pytest.raises(TrailError):
        Trail(state).append("test", WHO, NOW, number=52)


def test_peer_cannot_fill_the_trail(folder: Path) -> None:
    with State.open(folder, write=True) as state:
        trail = Trail(state)
        for number in range(50):
            trail.append_daily("card refused", WHO, NOW, ("peer", "code"), peer="b", code="card_fork", reason=number)
        trail.append_daily("card refused", WHO, NOW, ("peer", "code"), peer="c", code="card_fork", reason=0)
        trail.append_daily("card refused", WHO, NOW + DAY, ("peer", "code"), peer="b", code="card_fork", reason=0)
        assert [e.what for e in trail.entries()].count("card refused") == 3


def test_details_may_hold_anything_a_card_said(folder: Path) -> None:
    nasty = 'name"\n{"n": 7}\x1b[2J\u2028\ud800'
    with State.open(folder, write=True) as state:
        Trail(state).append("card refused", Caller(0, nasty), NOW, reason=nasty)
    assert len(lines(folder)) == 6
    assert b"\x1b" not in lines(folder)[-1]
    verify(folder)


def test_reading_needs_no_lock_and_writing_does(folder: Path) -> None:
    with State.open(folder) as state, pytest.raises(RuntimeError, match="for reading"):
        Trail(state).append("rotated", WHO, NOW)
