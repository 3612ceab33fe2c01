"""`hubtunnel card`: this hub's card and fingerprint."""

from __future__ import annotations

import argparse
from typing import Any

from hubtunnel.cli.common import DONE, CommandError, add_json, load_readable, open_state, print_json, rfc3339
from hubtunnel.identity import fingerprint
from hubtunnel.identity.armour import armour, armour_all
from hubtunnel.identity.card import Card
from hubtunnel.identity.state import StateError


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `card`."""
    parser = commands.add_parser(
        "card",
        help="print this hub's card, for the admin of a peer",
        description="Prints this hub's newest card. It holds nothing secret; what must be compared is the fingerprint.",
    )
    parser.add_argument(
        "--fingerprint", action="store_true", help="print the fingerprint instead, as text and as words to read aloud"
    )
    parser.add_argument(
        "--since",
        type=int,
        metavar="N",
        help="print all cards from number N on, for `peer update` of a hub that missed some",
    )
    parser.add_argument("--qr", action="store_true", help="print the fingerprint as a QR code on the terminal")
    add_json(parser)
    parser.set_defaults(run=_card)


def _card(args: argparse.Namespace) -> int:
    config = load_readable(args)
    with open_state(config) as state:
        cards = state.cards()
    if not cards:
        raise StateError(f"{config.state / 'cards'}: there is no card of this hub; restore the folder from a backup")
    signed = cards[-1]
    if args.since is not None:
        print(armour_all(each for each in cards if each.card.serial >= args.since), end="")
    elif args.qr:
        _show_qr(fingerprint.to_text(signed.card.idfp))
    elif args.json:
        print_json({**card_facts(signed.card), "card": armour(signed)})
    elif args.fingerprint:
        print(fingerprint.to_text(signed.card.idfp))
        print(fingerprint.to_words(signed.card.idfp))
    else:
        print(armour(signed), end="")
    return DONE


def _show_qr(text: str) -> None:
    """The fingerprint in letters that make the smallest code, black on white whatever the terminal's colours are."""
    try:
        import segno
    except ImportError:
        raise CommandError(
            "a QR code needs the package segno", "install hubtunnel with its extra qr: pip install 'hubtunnel[qr]'"
        ) from None
    # Upper case is QR's alphanumeric mode, two thirds of the size; `--fingerprint` takes any case.
    segno.make(text.upper(), error="m", micro=False).terminal(compact=True)
    print(text)


def card_facts(card: Card) -> dict[str, Any]:
    """A card's contents for `--json`."""
    return {
        "name": card.name,
        "serial": card.serial,
        "issued": rfc3339(card.issued),
        "hash": card.hash.hex(),
        "fingerprint": fingerprint.to_text(card.idfp),
        "words": fingerprint.to_words(card.idfp),
        "link_keys": [
            {"id": key.id.hex(), "not_before": rfc3339(key.not_before), "not_after": rfc3339(key.not_after)}
            for key in card.link_keys
        ],
    }
