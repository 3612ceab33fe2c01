"""`hubtunnel peer repin`: compare, then trust another card of a peer, whatever was accepted before."""

from __future__ import annotations

import argparse
from pathlib import Path

from hubtunnel.cli.changes import applied, change_keys, peers_lock
from hubtunnel.cli.common import DONE, CommandError, open_state
from hubtunnel.cli.peer_add import compare, refuse_other_than
from hubtunnel.cli.toml_edit import with_value
from hubtunnel.config import Config, Peer
from hubtunnel.identity import fingerprint
from hubtunnel.identity.armour import armour_all
from hubtunnel.identity.card import SignedCard
from hubtunnel.identity.chain import accept_chain


def repin(args: argparse.Namespace, config: Config, peer: Peer, cards: list[SignedCard]) -> int:
    """Run `peer repin` with the cards that were read (oldest first)."""
    pin = cards[0].card.idfp
    accept_chain(pin, None, cards)
    latest = cards[-1].card
    with open_state(config) as state:
        own, before = state.cards()[-1].card, state.peer(peer.pin)
    _refuse_others(config, peer, own.idfp, {pin, latest.idfp})
    if peer.pin == pin and before is not None and before.latest.card.hash == latest.hash:
        print(f"{peer.name}: this card is in force already, nothing was changed")
        return DONE
    refuse_other_than(args.fingerprint, pin)
    if args.fingerprint is None:
        _show_difference(peer, pin)
        compare(args, own, cards[0].card)
    with peers_lock(config):
        text = with_value(peer.path.read_text(encoding="utf-8"), "pin", fingerprint.to_text(pin), str(peer.path))
        armoured = armour_all(cards)
        changes: dict[Path, bytes | None] = {peer.card_path: armoured.encode(), peer.path: text.encode()}
        with applied(changes):
            change_keys(config, "repin", peer=peer.name, pin=pin, card=armoured)
    print(f"{peer.name}: pinned anew, card {latest.serial} is in force")
    print(f"Pin: {fingerprint.to_text(pin)}")
    return DONE


def _refuse_others(config: Config, peer: Peer, own: bytes, identities: set[bytes]) -> None:
    if own in identities:
        raise CommandError("this is our own card; a hub is not its own peer", "ask the other hub's admin for theirs")
    other = next((each for each in config.peers if each.name != peer.name and each.pin in identities), None)
    if other is not None:
        raise CommandError(f"this card is that of {other.name}, which is a peer already; nothing was changed")


def _show_difference(peer: Peer, pin: bytes) -> None:
    if peer.pin == pin:
        print(f"The identity of {peer.name} stays the same; its chain of cards begins anew with this card.")
    else:
        print(f"{peer.name} was pinned as   {fingerprint.to_text(peer.pin)}")
        print(f"                 in words {fingerprint.to_words(peer.pin)}")
        print(f"this card's is           {fingerprint.to_text(pin)}")
    print("Ask its admin why: whoever stole a hub's place would offer you such a card.\n")
