"""The letters can be found wherever a piece of them stands in clear."""

from __future__ import annotations

import hashlib

import pytest

from hubtunnel.demo.letters import BLOCK, MARKER, Letter, body, needles, new_marker, write_letter

MARK = b"ABCDEFGHIJKLMNOP"


def a_letter(size: int, number: int = 1) -> Letter:
    return write_letter(number, "near.example", "far.example", size, MARK)


@pytest.mark.parametrize("size", [1, 64, 1_000, 1_024, 65_536, 1_000_000])
def test_size_is_what_was_asked_for_and_a_little(size: int) -> None:
    letter = a_letter(size)
    assert size <= letter.size <= size * 1.01 + 600
    assert letter.sha256 == hashlib.sha256(letter.content).digest()


def test_no_line_is_longer_than_smtp_allows() -> None:
    lines = a_letter(300_000).content.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    assert not any(b"\n" in line or b"\r" in line for line in lines)
    assert lines[-1] == b"", "the letter ends with CRLF"


def test_every_stretch_of_the_body_holds_the_marker() -> None:
    # CRLF and a leading full stop stand between two blocks at a line's end: three bytes more.
    text = body(20_000, MARK)
    reach = BLOCK + MARKER - 1 + 3
    assert all(MARK in text[start : start + reach] for start in range(len(text) - reach - BLOCK))


def test_it_has_lines_that_smtp_must_stuff_and_bytes_beyond_ascii() -> None:
    content = a_letter(10_000).content
    assert b"\r\n.\r\n" in content
    assert b"\r\n." + MARK in content
    assert any(byte > 127 for byte in content)


def test_two_letters_never_share_text_but_the_marker() -> None:
    first, second = a_letter(5_000).content, a_letter(5_000).content
    assert first != second


def test_markers_are_new_each_time_and_as_long_as_promised() -> None:
    markers = {new_marker() for _ in range(100)}
    assert len(markers) == 100
    assert {len(marker) for marker in markers} == {MARKER}


def test_needles_are_long_enough_to_mean_something() -> None:
    assert all(len(needle) >= 8 for needle in needles(MARK).values())


def test_a_letter_does_not_print_its_content() -> None:
    assert "ABCDEFGH" not in repr(a_letter(2_000))
