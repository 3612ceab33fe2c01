"""Fingerprints of identities: 256 bits as text that survives typing, and as twelve words for the telephone.

The text is the fingerprint in bech32m (BIP 350) under the prefix ``h``: 60 characters in twelve groups of five, such
as ``h1qpz-ry9x8-…``. Its checksum is sure to catch any four wrong characters, hence every single typing mistake and
every transposition of two. Case, spaces and dashes do not matter. The words are the first 128 bits in the English list
of BIP 39.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from hubtunnel.errors import HubtunnelError
from hubtunnel.protocol.constants import IDFP_LEN

if TYPE_CHECKING:
    from mnemonic import Mnemonic

GROUP_LEN = 5
WORDS_BITS = 128  # how much of a fingerprint the words carry: a second preimage costs 2^128

_PREFIX = "h1"  # bech32's human readable part "h" and its separator
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"  # BIP 173: no 1, b, i, o
_VALUE = {char: value for value, char in enumerate(_ALPHABET)}
_CHECKSUM_LEN = 6
_DATA_LEN = 52  # 256 bits and four zero bits, five to a character
_TEXT_LEN = len(_PREFIX) + _DATA_LEN + _CHECKSUM_LEN
_GROUPS = _TEXT_LEN // GROUP_LEN
_BECH32M = 0x2BC830A3  # BIP 350
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)  # BIP 173
_IGNORED = str.maketrans("", "", " \t\r\n-\u2010\u2011\u2012\u2013\u2014\u00a0")


class FingerprintError(HubtunnelError):
    """What was typed is not a fingerprint; the text says where, if it can be told."""


def to_text(idfp: bytes) -> str:
    """The fingerprint as twelve groups of five characters joined by dashes."""
    data = _to_fives(idfp)
    text = _PREFIX + "".join(_ALPHABET[v] for v in data + _checksum(data))
    return "-".join(text[i : i + GROUP_LEN] for i in range(0, _TEXT_LEN, GROUP_LEN))


def from_text(text: str) -> bytes:
    """The 32 bytes of a fingerprint as `to_text` writes it; case, spaces and dashes do not matter.

    Raises `FingerprintError`, which names the group that is wrong where one can be told. It never corrects.
    """
    compact = text.translate(_IGNORED).lower()
    if not compact:
        raise FingerprintError("the fingerprint is empty; `hubtunnel card --fingerprint` on the peer prints it")
    if not compact.startswith(_PREFIX):
        raise FingerprintError(
            f"not a fingerprint: it must begin with {_PREFIX!r}; `hubtunnel card --fingerprint` on the peer prints it"
        )
    for place, char in enumerate(compact[len(_PREFIX) :], len(_PREFIX)):
        if char not in _VALUE:
            raise FingerprintError(
                f"group {place // GROUP_LEN + 1} is wrong: {char!r} never stands in a fingerprint "
                "(nor do 1, b, i and o after the first two characters)"
            )
    if len(compact) != _TEXT_LEN:
        raise FingerprintError(_wrong_length(text, len(compact)))
    values = [_VALUE[char] for char in compact[len(_PREFIX) :]]
    if not _checks(values):
        raise FingerprintError(_wrong_checksum(values))
    return _from_fives(values[:_DATA_LEN])


def to_words(idfp: bytes) -> str:
    """The first 128 bits of a fingerprint as twelve English words, to be read aloud."""
    return str(_word_list().to_mnemonic(idfp[: WORDS_BITS // 8]))


def matches(idfp: bytes, typed: str) -> bool:
    """Whether what was typed, a fingerprint's text or its twelve words, is that of `idfp`.

    Raises `FingerprintError` when it is neither.
    """
    words = typed.lower().replace(",", " ").split()
    if len(words) >= _GROUPS - 1 and all(word.isalpha() for word in words):
        return _words_to_bits(words) == idfp[: WORDS_BITS // 8]
    return from_text(typed) == idfp


def _words_to_bits(words: list[str]) -> bytes:
    listed = _word_list()
    if len(words) != 12:
        raise FingerprintError(f"{len(words)} words, a fingerprint has 12")
    for number, word in enumerate(words, 1):
        if word not in listed.wordlist:
            raise FingerprintError(f"word {number} ({word!r}) is not in the list; ask for it again")
    if not listed.check(" ".join(words)):
        raise FingerprintError(
            "the twelve words do not fit together: one is wrong or two are swapped; ask for them again"
        )
    return bytes(listed.to_entropy(words))


@cache
def _word_list() -> Mnemonic:
    from mnemonic import Mnemonic  # for people alone: a daemon reads no words aloud

    return Mnemonic("english")


# --- bech32m (BIP 173, BIP 350) -------------------------------------------------------------------------------


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                check ^= generator
    return check


def _expanded_prefix() -> list[int]:
    part = _PREFIX[:-1]
    return [ord(c) >> 5 for c in part] + [0] + [ord(c) & 31 for c in part]


def _checksum(data: list[int]) -> list[int]:
    remainder = _polymod(_expanded_prefix() + data + [0] * _CHECKSUM_LEN) ^ _BECH32M
    return [remainder >> 5 * (_CHECKSUM_LEN - 1 - i) & 31 for i in range(_CHECKSUM_LEN)]


def _checks(values: list[int]) -> bool:
    """Whether the checksum holds and the four bits that pad the last data character are zero."""
    return _polymod(_expanded_prefix() + values) == _BECH32M and not values[_DATA_LEN - 1] & 0xF


def _to_fives(data: bytes) -> list[int]:
    number = int.from_bytes(data, "big") << (5 * _DATA_LEN - 8 * IDFP_LEN)
    return [number >> 5 * (_DATA_LEN - 1 - i) & 31 for i in range(_DATA_LEN)]


def _from_fives(values: list[int]) -> bytes:
    number = 0
    for value in values:
        number = number << 5 | value
    return (number >> (5 * _DATA_LEN - 8 * IDFP_LEN)).to_bytes(IDFP_LEN, "big")


# --- where the mistake is -------------------------------------------------------------------------------------


def _wrong_length(text: str, length: int) -> str:
    groups = [g for g in text.replace("-", " ").split() if g]
    for number, group in enumerate(groups, 1):
        if len(groups) == _GROUPS and len(group) != GROUP_LEN:
            return f"group {number} has {len(group)} characters, it must have {GROUP_LEN}"
    more = "too few" if length < _TEXT_LEN else "too many"
    return f"{length} characters are {more}: a fingerprint has {_TEXT_LEN}, in {_GROUPS} groups of {GROUP_LEN}"


def _wrong_checksum(values: list[int]) -> str:
    """Name the group, if one wrong character or one swap of neighbours explains the checksum."""
    groups = _groups_by_remainder().get(_polymod(_expanded_prefix() + values) ^ _BECH32M, set())
    if len(groups) == 1:
        return f"a typing mistake, most likely in group {min(groups)}: compare it again"
    return "the checksum does not hold: there is a typing mistake in it; compare every group again"


@cache
def _groups_by_remainder() -> dict[int, set[int]]:
    """By what a mistake adds to the remainder, the groups in which one such mistake may be.

    The code is linear: what a mistake adds depends on its place and on the bits that differ, not on the fingerprint.
    """
    length = _DATA_LEN + _CHECKSUM_LEN
    nothing = _polymod([0] * length)
    found: dict[int, set[int]] = {}

    def added(place: int, difference: int) -> int:
        values = [0] * length
        values[place] = difference
        return _polymod(values) ^ nothing

    for difference in range(1, 32):
        each = [added(place, difference) for place in range(length)]
        for place, remainder in enumerate(each):
            found.setdefault(remainder, set()).add(_group_of(place))
        for place in range(length - 1):
            found.setdefault(each[place] ^ each[place + 1], set()).add(_group_of(place))
    return found


def _group_of(place: int) -> int:
    return (place + len(_PREFIX)) // GROUP_LEN + 1
