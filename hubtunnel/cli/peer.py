"""`hubtunnel peer add | list | show | update | repin | remove`."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any

from hubtunnel.cli.card import card_facts
from hubtunnel.cli.changes import peers_lock, put_in_force
from hubtunnel.cli.common import (
    DONE,
    USAGE,
    CommandError,
    add_json,
    load_readable,
    open_state,
    print_json,
    print_table,
    rfc3339,
)
from hubtunnel.cli.peer_add import add
from hubtunnel.cli.peer_repin import repin
from hubtunnel.config import Config, Peer, load
from hubtunnel.errors import CardError
from hubtunnel.identity import fingerprint
from hubtunnel.identity.armour import TEXT_MAX, armour_all, dearmour
from hubtunnel.identity.card import SignedCard
from hubtunnel.identity.chain import accept_chain
from hubtunnel.identity.pins import read_card_file
from hubtunnel.identity.state import PeerCards, State
from hubtunnel.protocol.constants import Code


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `peer` and its subcommands."""
    parser = commands.add_parser("peer", help="the hubs that this one exchanges mail with")
    sub = parser.add_subparsers(title="commands", metavar="COMMAND", dest="subcommand", required=True)
    adding = sub.add_parser(
        "add",
        help="pin a hub by its card",
        description="Pins the hub whose card is given. Its fingerprint must be compared with its admin by another way "
        "than the card came: by telephone, in words. The same again changes nothing.",
    )
    _add_card(adding)
    adding.add_argument(
        "--endpoint",
        action="append",
        metavar="HOST:PORT",
        help="where it listens; several are tried in order; without any it must dial us",
    )
    adding.add_argument("--domain", action="append", metavar="DOMAIN", help="a mail domain that goes to it")
    adding.add_argument(
        "--listen", metavar="ADDR", help="where our MTA hands over mail for it (default: a free 127.0.1.N:24)"
    )
    adding.add_argument(
        "--present-as",
        metavar="IP",
        help="address for the PROXY header, where that of its connections would mislead our MTA: NAT, one machine",
    )
    _add_fingerprint(adding)
    adding.set_defaults(run=lambda args: add(args, read_cards(args.card)))

    listing = sub.add_parser("list", help="all peers, one a line")
    add_json(listing)
    listing.set_defaults(run=_list)

    showing = sub.add_parser("show", help="what is configured and accepted of one peer")
    showing.add_argument("name", metavar="NAME")
    add_json(showing)
    showing.set_defaults(run=_show)

    updating = sub.add_parser(
        "update",
        help="take a newer card of a peer by hand",
        description="Takes a newer card of a peer. It is signed by the identity pinned, so it may come by any way.",
    )
    updating.add_argument("card", metavar="CARD", help="a file with the newer card (and those before it), or -")
    updating.set_defaults(run=_update)

    repinning = sub.add_parser(
        "repin",
        help="trust another card of a peer, whatever was accepted before",
        description="For when all else fails: a peer that was set up anew, or whose chain of cards was forked. Nothing "
        "vouches for the card but the fingerprint, which must be compared with its admin by telephone, in words.",
    )
    repinning.add_argument("name", metavar="NAME")
    _add_card(repinning)
    _add_fingerprint(repinning)
    repinning.set_defaults(run=_repin)

    removing = sub.add_parser("remove", help="exchange no more mail with a peer")
    removing.add_argument("name", metavar="NAME")
    removing.set_defaults(run=_remove)


def _add_card(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("card", metavar="CARD", help="a file with the hub's card, or - for standard input")


def _add_fingerprint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fingerprint", metavar="FP", help="the fingerprint that its admin told you, as text or as twelve words"
    )


def read_cards(source: str) -> list[SignedCard]:
    """The cards in a file, or on standard input for `-`, oldest first."""
    try:
        if source == "-":
            text = sys.stdin.read(TEXT_MAX + 1)
        else:
            with open(source, encoding="utf-8", errors="replace") as file:
                text = file.read(TEXT_MAX + 1)
    except OSError as exc:
        raise CommandError(f"{source}: cannot be read: {exc.strerror}", status=USAGE) from exc
    return sorted(dearmour(text), key=lambda signed: signed.card.serial)


# --- reading --------------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> int:
    config = load_readable(args)
    with open_state(config) as state:
        facts = [_facts(peer, state.peer(peer.pin)) for peer in config.peers]
    if args.json:
        print_json(facts)
        return DONE
    if not facts:
        print("no peers; `hubtunnel peer add CARD` pins one")
        return DONE
    print_table(
        ["NAME", "LISTEN", "ENDPOINTS", "DOMAINS", "MODE", "CARD", "KEYS UNTIL", "PIN"],
        [
            [
                fact["name"],
                fact["listen"] or "-",
                " ".join(fact["endpoints"]) or "it dials us",
                " ".join(fact["domains"]) or "-",
                fact["mode"],
                str(fact["card"]["accepted"]["serial"]) if fact["card"]["accepted"] else "none",
                max((key["not_after"] for key in fact["card"]["accepted"]["link_keys"]), default="-")
                if fact["card"]["accepted"]
                else "-",
                fact["pin"][:11] + "…",
            ]
            for fact in facts
        ],
    )
    return DONE


def _show(args: argparse.Namespace) -> int:
    config = load_readable(args)
    peer = find(config, args.name)
    with open_state(config) as state:
        cards = state.peer(peer.pin)
    if args.json:
        print_json(_facts(peer, cards))
        return DONE
    lines = [
        ("name", peer.name),
        ("pin", fingerprint.to_text(peer.pin)),
        ("in words", fingerprint.to_words(peer.pin)),
        ("endpoints", ", ".join(map(str, peer.endpoints)) or "none: it dials us"),
        ("our MTA hands over at", str(peer.listen or "nowhere: it only sends to us")),
        ("domains", ", ".join(peer.domains) or "none"),
        ("mode", peer.mode),
        ("delivered to", f"{peer.deliver.address} (PROXY {peer.deliver.proxy_protocol})"),
        ("pre-shared key", str(peer.psk_file) if peer.psk_file else "none"),
        ("file", str(peer.path)),
    ]
    if cards is None:
        lines.append(("card", f"none accepted yet; {peer.card_path} is looked at when the daemon starts or reloads"))
    else:
        latest = cards.latest.card
        lines.append(("cards accepted", f"{cards.first.card.serial} first, {latest.serial} latest"))
        lines.append(("latest card", f"hash {latest.hash.hex()}, issued {rfc3339(latest.issued)}"))
        if latest.idfp != peer.pin:
            lines.append(("identity now", fingerprint.to_text(latest.idfp)))
        lines.extend(
            ("link key", f"{key.id.hex()}  {rfc3339(key.not_before)} to {rfc3339(key.not_after)}")
            for key in latest.link_keys
        )
    width = max(len(label) for label, _ in lines) + 2
    for label, text in lines:
        print(f"{label + ':':{width}}{text}")
    return DONE


def _facts(peer: Peer, cards: PeerCards | None) -> dict[str, Any]:
    return {
        "name": peer.name,
        "pin": fingerprint.to_text(peer.pin),
        "words": fingerprint.to_words(peer.pin),
        "endpoints": [str(endpoint) for endpoint in peer.endpoints],
        "listen": str(peer.listen) if peer.listen else None,
        "domains": list(peer.domains),
        "mode": peer.mode,
        "deliver": str(peer.deliver.address),
        "psk": peer.psk_file is not None,
        "file": str(peer.path),
        "card": {
            "first": card_facts(cards.first.card) if cards else None,
            "accepted": card_facts(cards.latest.card) if cards else None,
        },
    }


# --- changing -------------------------------------------------------------------------------------------------


def _update(args: argparse.Namespace) -> int:
    offered = read_cards(args.card)
    config = load(args.config)
    with peers_lock(config):
        with open_state(config) as state:
            peer, cards = _whose(config, state, offered)
        taken = _taken(peer, cards, offered)
        if not taken:
            print(f"{peer.name}: card {cards.latest.card.serial} was accepted before, nothing changed")
            return DONE
        # A chain that changed the identity starts at the pin, so that the file alone is enough on a new machine.
        kept = read_card_file(peer) if any(signed.card.idfp != peer.pin for signed in taken) else []
        changes: dict[Path, bytes | None] = {peer.card_path: armour_all([*kept, *taken]).encode()}
        put_in_force(config, changes, "updated", {"peer": peer.name, "serial": taken[-1].card.serial})
    print(f"{peer.name}: card {taken[-1].card.serial} is in force (before: {cards.latest.card.serial})")
    return DONE


def _taken(peer: Peer, cards: PeerCards, offered: list[SignedCard]) -> list[SignedCard]:
    try:
        return accept_chain(peer.pin, cards.latest, offered)
    except CardError as exc:
        if exc.code != Code.CARD_CHAIN.word:
            raise
        serial = cards.latest.card.serial
        raise CommandError(
            f"the card is refused ({exc.code}): {exc}",
            f"card {serial} is in force here: let its admin run `hubtunnel card --since {serial + 1}`, and take that",
        ) from None


def _whose(config: Config, state: State, offered: list[SignedCard]) -> tuple[Peer, PeerCards]:
    """The peer that these cards are of: by the identity in force of it, which they state or are signed by."""
    identities = {signed.card.idfp for signed in offered}
    for peer in config.peers:
        cards = state.peer(peer.pin)
        if cards is None:
            continue
        before = cards.latest.card
        if before.idfp in identities or any(
            len(signed.signatures) == 2 and before.identity.verifies(signed.card.body, signed.signatures[1])
            for signed in offered
        ):
            return peer, cards
    card = offered[-1].card
    raise CommandError(
        f"no peer has the identity {fingerprint.to_text(card.idfp)} (its card says {card.shown_name})",
        "a hub that is not a peer yet is added with `hubtunnel peer add`, and its fingerprint compared",
    )


def _repin(args: argparse.Namespace) -> int:
    config = load(args.config)
    return repin(args, config, find(config, args.name), read_cards(args.card))


def _remove(args: argparse.Namespace) -> int:
    config = load(args.config)
    peer = find(config, args.name)
    with peers_lock(config):
        changes: dict[Path, bytes | None] = {peer.path: None, peer.card_path: None}
        put_in_force(config, changes, "removed", {"peer": peer.name, "pin": peer.pin.hex()})
    print(f"{peer.name}: removed; no more mail is taken for it, and it is not answered any more")
    if peer.domains:
        print(f"Take {', '.join(peer.domains)} out of the MTA's routing, or that mail waits there.")
    if peer.psk_file is not None:
        print(f"Its pre-shared key {peer.psk_file} was left where it is.")
    return DONE


def find(config: Config, name: str) -> Peer:
    """The peer of that name. Raises `CommandError` with a guess at what was meant."""
    peer = config.peer(name)
    if peer is None:
        near = difflib.get_close_matches(name.lower(), [p.name for p in config.peers], n=1)
        hint = f"did you mean {near[0]}?" if near else "`hubtunnel peer list` shows all"
        raise CommandError(f"{name!a}: there is no such peer", hint)
    return peer
