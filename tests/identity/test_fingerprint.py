"""A fingerprint that was mistyped is noticed, and one that was typed in another style is not refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.identity import fingerprint
from hubtunnel.identity.fingerprint import FingerprintError, from_text, matches, to_text, to_words
from tests.identity.making import vectors

FINGERPRINTS = st.binary(min_size=32, max_size=32)
ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def _compact(idfp: bytes) -> str:
    return to_text(idfp).replace("-", "")


@pytest.mark.parametrize(
    "text",
    [
        "a1lqfn3a",
        "an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11sg7hg6",
        "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx",
        "split1checkupstagehandshakeupstreamerranterredcaperredlc445v",
        "?1v759aa",
    ],
)
def test_checksum_is_that_of_bip_350(text: str) -> None:
    """The valid strings of BIP 350 leave the remainder that makes them valid."""
    prefix, _, data = text.rpartition("1")
    values = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix] + [ALPHABET.index(c) for c in data]

    assert fingerprint._polymod(values) == 0x2BC830A3


@pytest.mark.parametrize("hub", ["A", "B"])
def test_text_of_the_published_identities(hub: str) -> None:
    """The texts that docs and keys/ show stay what they are."""
    expected = {
        "A": "h15dn-4vlct-wp8g7-tjva8-lcmte-uns2t-f2zsq-dksdy-0mav2-cf68s-hrzqx-8fn8n",
        "B": "h1sse-jz9vz-lr9sf-2rrnu-r799x-9uzel-z3z37-huxeg-0fyje-ufycg-4ftqy-nvagq",
    }

    assert to_text(bytes.fromhex(vectors()[hub]["idfp"])) == expected[hub]


@given(FINGERPRINTS)
def test_what_is_written_is_read(idfp: bytes) -> None:
    assert from_text(to_text(idfp)) == idfp


@given(FINGERPRINTS, st.sampled_from([" ", "", "-", "  ", "\n", " - "]), st.booleans())
def test_style_does_not_matter(idfp: bytes, separator: str, upper: bool) -> None:
    text = separator.join(to_text(idfp).split("-"))

    assert from_text(text.upper() if upper else text) == idfp


@given(FINGERPRINTS, st.integers(2, 59), st.sampled_from(ALPHABET))
def test_every_single_mistake_is_noticed_and_its_group_named(idfp: bytes, place: int, char: str) -> None:
    text = _compact(idfp)
    if text[place] == char:
        return

    with pytest.raises(FingerprintError, match=rf"group {place // 5 + 1}\b"):
        from_text(text[:place] + char + text[place + 1 :])


@given(FINGERPRINTS, st.integers(0, 59), st.integers(0, 59))
def test_every_transposition_is_noticed(idfp: bytes, one: int, other: int) -> None:
    chars = list(_compact(idfp))
    if chars[one] == chars[other]:
        return
    chars[one], chars[other] = chars[other], chars[one]

    with pytest.raises(FingerprintError):
        from_text("".join(chars))


@given(FINGERPRINTS, st.lists(st.tuples(st.integers(2, 59), st.sampled_from(ALPHABET)), min_size=1, max_size=4))
def test_up_to_four_mistakes_are_noticed(idfp: bytes, mistakes: list[tuple[int, str]]) -> None:
    chars = list(_compact(idfp))
    for place, char in mistakes:
        chars[place] = char
    if "".join(chars) == _compact(idfp):
        return

    with pytest.raises(FingerprintError):
        from_text("".join(chars))


@given(FINGERPRINTS, st.integers(0, 59))
def test_a_character_that_is_missing_or_doubled_is_noticed(idfp: bytes, place: int) -> None:
    text = _compact(idfp)
    for wrong in (text[:place] + text[place + 1 :], text[:place] + text[place] + text[place:]):
        with pytest.raises(FingerprintError):
            from_text(wrong)


def test_the_group_of_wrong_length_is_named() -> None:
    groups = to_text(bytes(32)).split("-")
    groups[6] = groups[6][:-1]

    with pytest.raises(FingerprintError, match="group 7 has 4 characters"):
        from_text("-".join(groups))


@pytest.mark.parametrize("char", ["1", "b", "i", "o", "é", "*"])
def test_a_character_of_no_fingerprint_is_named_with_its_group(char: str) -> None:
    text = _compact(bytes(32))

    with pytest.raises(FingerprintError, match="group 3"):
        from_text(text[:12] + char + text[13:])


@pytest.mark.parametrize("text", ["", " ", "-", "xyz", "a367567f" * 8, "h1"])
def test_what_is_no_fingerprint_at_all_is_refused(text: str) -> None:
    with pytest.raises(FingerprintError):
        from_text(text)


@given(st.text(max_size=200))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        assert len(from_text(text)) == 32
    except FingerprintError:
        pass


@given(FINGERPRINTS)
def test_words_stand_for_the_first_128_bits(idfp: bytes) -> None:
    words = to_words(idfp)

    assert len(words.split()) == 12
    assert matches(idfp, words)
    assert matches(idfp, words.upper().replace(" ", ", "))
    assert matches(idfp[:16] + bytes(16), words)
    assert not matches(bytes([idfp[0] ^ 1]) + idfp[1:], words)


def test_words_of_bip_39() -> None:
    """Two of that standard's own examples."""
    assert to_words(bytes(32)) == " ".join(["abandon"] * 11 + ["about"])
    assert to_words(b"\x7f" * 32) == "legal winner thank year wave sausage worth useful legal winner thank yellow"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("abandon " * 11 + "abuot", "word 12"),
        ("abandon " * 12, "do not fit together"),
        ("abandon " * 10 + "about", "11 words"),
        ("abandon " * 12 + "about", "13 words"),
    ],
)
def test_wrong_words_are_told_apart(words: str, says: str) -> None:
    with pytest.raises(FingerprintError, match=says):
        matches(bytes(32), words)


def test_text_matches_only_its_own_fingerprint() -> None:
    assert matches(bytes(32), to_text(bytes(32)))
    assert not matches(bytes(31) + b"\1", to_text(bytes(32)))
