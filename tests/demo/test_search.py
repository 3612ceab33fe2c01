"""The search finds what is there, and only that."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.demo.search import search

NEEDLES = {"one": b"needle-one", "two": b"two needles"}


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_it_finds_each_needle_with_its_count_and_place(tmp_path: Path) -> None:
    files = [
        write(tmp_path, "a", b"x" * 70_000 + b"needle-one" + b"needle-one" + b"y"),
        write(tmp_path, "b", b"two needles"),
    ]
    found = search(files, NEEDLES)
    assert found.hits == {"one": 2, "two": 1}
    assert found.total == 3
    assert found.found_all
    assert found.where == ["one in a", "two in b"]
    assert found.searched == 70_000 + 21 + 11
    assert found.files == 2


def test_half_of_the_needles_is_not_all(tmp_path: Path) -> None:
    found = search([write(tmp_path, "a", b"needle-one")], NEEDLES)
    assert found.total == 1
    assert not found.found_all


def test_an_empty_recording_and_none_at_all(tmp_path: Path) -> None:
    assert search([write(tmp_path, "empty", b"")], NEEDLES).total == 0
    assert search([], NEEDLES).searched == 0


def test_random_bytes_hold_nothing(tmp_path: Path) -> None:
    found = search([write(tmp_path, "noise", os.urandom(1 << 20))], NEEDLES)
    assert found.total == 0
    assert found.searched == 1 << 20


@given(before=st.binary(max_size=300), after=st.binary(max_size=300))
def test_it_finds_a_needle_wherever_it_stands(tmp_path_factory: object, before: bytes, after: bytes) -> None:
    folder = tmp_path_factory.mktemp("search")  # type: ignore[attr-defined]
    found = search([write(folder, "a", before + b"needle-one" + after)], NEEDLES)
    assert found.hits["one"] >= 1
