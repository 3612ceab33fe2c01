"""Cards as text that can be pasted into a mail: base64 between a begin and an end line.

Comment lines repeat name, serial and fingerprint for people and are never read for meaning. A text may hold several
cards, and anything before, between and after them (PROTOCOL.md 9.1).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path

from hubtunnel.errors import CardError
from hubtunnel.identity import files
from hubtunnel.identity.card import SignedCard
from hubtunnel.identity.fingerprint import to_text
from hubtunnel.protocol.constants import CARD_MAX, Code

BEGIN = "-----BEGIN HUBTUNNEL CARD-----"
END = "-----END HUBTUNNEL CARD-----"
TEXT_MAX = 16 * CARD_MAX  # characters of a text with cards
CARDS_MAX = 1024
_LINE = 64


def armour(signed: SignedCard) -> str:
    """One card as text, ending in a newline."""
    encoded = base64.b64encode(signed.data).decode("ascii")
    lines = [encoded[i : i + _LINE] for i in range(0, len(encoded), _LINE)]
    comments = [
        f"# name: {signed.card.shown_name}",
        f"# serial: {signed.card.serial}",
        f"# fingerprint: {to_text(signed.card.idfp)}",
    ]
    return "\n".join([BEGIN, *comments, "", *lines, END, ""])


def armour_all(cards: Iterable[SignedCard]) -> str:
    """Several cards as one text."""
    return "\n".join(armour(signed) for signed in cards)


def dearmour(text: str) -> list[SignedCard]:
    """The cards in `text`, one or more. Raises `CardError` when there is none or one of them is damaged."""
    if len(text) > TEXT_MAX:
        raise CardError(Code.CARD_LIMIT.word, f"{len(text)} characters are too many for a card")
    cards: list[SignedCard] = []
    block: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if block is not None and stripped and stripped[0] not in "-#":
            block.append(stripped)
        elif stripped == BEGIN:
            if block is not None:
                raise _damaged(f"line {number}: a card begins before the one before it ended")
            block = []
        elif stripped == END:
            if block is None:
                raise _damaged(f"line {number}: a card ends that did not begin")
            cards.append(SignedCard.parse(_decode(block)))
            block = None
            if len(cards) > CARDS_MAX:
                raise CardError(Code.CARD_LIMIT.word, f"more than {CARDS_MAX} cards in one text")
        elif block is not None and stripped.startswith("-"):
            block.append(stripped)
    if block is not None:
        raise _damaged(f"its last line, {END!r}, is missing: copied in part?")
    if not cards:
        raise _damaged(f"there is no line {BEGIN!r}; `hubtunnel card` on the hub prints its card")
    return cards


def read_cards(path: Path, likely: SignedCard | None = None) -> list[SignedCard]:
    """The cards in a file, one or more. Raises `CardError` or `OSError`.

    A file that is `likely`, letter for letter, is not taken apart: a start reads the cards of all peers.
    """
    text = files.read_at_most(path, TEXT_MAX + 1).decode(errors="replace")
    return [likely] if likely is not None and text == armour(likely) else dearmour(text)


def _decode(lines: list[str]) -> bytes:
    try:
        return binascii.a2b_base64("".join(lines), strict_mode=True)
    except (binascii.Error, ValueError) as exc:
        raise _damaged(f"the base64 text is damaged: {exc}") from None


def _damaged(text: str) -> CardError:
    return CardError(Code.CARD_LIMIT.word, f"not a card: {text}")
