"""`hubtunnel key list`: own link keys, what each peer holds of us, and the trail."""

from __future__ import annotations

import argparse
import time
from typing import Any

from hubtunnel.cli.common import DONE, add_json, complain, load_readable, open_state, print_json, print_table, rfc3339
from hubtunnel.config import Config
from hubtunnel.daemon.control import request
from hubtunnel.errors import HubtunnelError, KeyFileError
from hubtunnel.identity import fingerprint, keyfiles
from hubtunnel.identity.overview import KeyLine, Overview, PeerLine, look
from hubtunnel.identity.state import State
from hubtunnel.identity.trail import Trail


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `list` to the subcommands of `key`."""
    parser = sub.add_parser("list", help="own link keys, and which peer has acknowledged what")
    parser.add_argument("--trail", action="store_true", help="instead: who did what to keys, cards and pins, checked")
    add_json(parser)
    parser.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> int:
    config = load_readable(args)
    with open_state(config) as state:
        if args.trail:
            return _trail(state, args.json)
        seen = overview(config, state, time.time())
    live = in_use(config)
    if args.json:
        print_json({**facts(seen), "in_use": live})
    else:
        _show(seen, live)
    return DONE


def in_use(config: Config) -> list[dict[str, str]] | None:
    """Which link keys each connection rests on now, as the running daemon says; None where none runs."""
    try:
        peers = request(config.control_socket, "status")["status"]["peers"]
    except HubtunnelError:
        return None
    return [
        {"peer": peer["name"], "our_key": carrier["our_key"], "their_key": carrier["their_key"]}
        for peer in peers
        for carrier in peer["carriers"]
    ]


def overview(config: Config, state: State, now: float) -> Overview:
    """What `key list` shows."""
    where = "elsewhere"
    if state.has_identity():
        try:
            where = "locked" if keyfiles.is_locked(state.identity_path) else "here"
        except KeyFileError:
            where = "unreadable"
    return look(config, state, now, identity=where)


def facts(seen: Overview) -> dict[str, Any]:
    """The overview for `--json`."""
    card = seen.own.card
    return {
        "schema": 1,
        "card": card.serial,
        "fingerprint": fingerprint.to_text(card.idfp),
        "identity": seen.identity,
        "rotation_due": rfc3339(seen.rotation_due),
        "warnings": list(seen.warnings),
        "keys": [_key_facts(line) for line in seen.keys],
        "peers": [_peer_facts(line) for line in seen.peers],
    }


def _key_facts(line: KeyLine) -> dict[str, Any]:
    return {
        "id": line.key.id.hex(),
        "state": line.state,
        "not_before": rfc3339(line.key.not_before),
        "not_after": rfc3339(line.key.not_after),
        "listed": line.listed,
        "private": line.private,
        "deleted_at": rfc3339(line.deleted_at) if line.deleted_at is not None else None,
        "known_to": list(line.known_to),
        "used_by": list(line.used_by),
    }


def _peer_facts(line: PeerLine) -> dict[str, Any]:
    known = line.known
    return {
        "name": line.name,
        "given": known.given or None,
        "acknowledged": known.serial or None,
        "at": rfc3339(known.at) if known.at else None,
        "used": known.used or None,
        "used_at": rfc3339(known.used_at) if known.used_at else None,
        "newer": known.newer or None,
        "until": rfc3339(line.until),
    }


def _show(seen: Overview, live: list[dict[str, str]] | None) -> None:
    card = seen.own.card
    where = {
        "here": f"its key is here, and the next rotation is due {rfc3339(seen.rotation_due)}",
        "locked": "its key is here under a passphrase: `key rotate` or `issue` by hand, unless the daemon was given it",
        "elsewhere": "its key is on another machine: `key import` brings what is signed there",
    }
    print(f"Card {card.serial} of {card.shown_name}, issued {rfc3339(card.issued)}")
    print(f"Identity {fingerprint.to_text(card.idfp)}")
    print(f"  {where.get(seen.identity, 'its key cannot be read: see `hubtunnel check`')}\n")
    print_table(
        ["LINK KEY", "STATE", "FROM", "UNTIL", "KNOWN TO", "LAST HANDSHAKE OF"],
        [
            [
                line.key.id.hex(),
                line.state,
                rfc3339(line.key.not_before),
                rfc3339(line.key.not_after),
                " ".join(line.known_to) or "-",
                " ".join(line.used_by) or "-",
            ]
            for line in seen.keys
        ],
    )
    if seen.peers:
        print()
        print_table(
            ["PEER", "HOLDS OUR CARD", "SINCE", "CAN REACH US UNTIL"],
            [
                [
                    line.name,
                    str(line.known.serial) if line.known.serial else f"{line.known.given or '?'} (given, not heard)",
                    rfc3339(line.known.at) if line.known.at else "-",
                    rfc3339(line.until),
                ]
                for line in seen.peers
            ],
        )
    if live:
        print()
        print_table(
            ["CONNECTED NOW", "ON OUR KEY", "ON THEIR KEY"],
            [[carrier["peer"], carrier["our_key"], carrier["their_key"]] for carrier in live],
        )
    for warning in seen.warnings:
        complain(warning)


def _trail(state: State, as_json: bool) -> int:
    trail = Trail(state)
    lines = [
        {"n": e.n, "at": e.at, "what": e.what, "uid": e.uid, "user": e.user, "details": e.details, "hash": e.hash}
        for e in trail.entries()
    ]
    last = trail.verify()
    if as_json:
        print_json(lines)
        return DONE
    for e in lines:
        details = " ".join(f"{name}={_text(value)}" for name, value in e["details"].items())  # type: ignore[attr-defined]
        print(f"{e['n']:>4}  {e['at']}  {e['user']}  {e['what']}: {details}")
    print(f"{len(lines)} lines, each follows the one before" + (f"; the last hashes to {last.hash}" if last else ""))
    return DONE


def _text(value: object) -> str:
    return ",".join(map(str, value)) or "-" if isinstance(value, list) else ascii(value).strip("'")
