"""`hubtunnel key psk`: a pre-shared key for one peer, made here and shown once, or taken from the other side."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from hubtunnel.cli.changes import PSK_SUFFIX, peers_lock, put_in_force
from hubtunnel.cli.common import DONE, USAGE, CommandError, open_state
from hubtunnel.cli.peer import find
from hubtunnel.cli.toml_edit import with_value
from hubtunnel.config import Config, Peer, load
from hubtunnel.config.values import parse_psk
from hubtunnel.crypto import random_bytes
from hubtunnel.protocol.constants import PSK_LEN

_INPUT_MAX = 1024


def register(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `psk` to the subcommands of `key`."""
    parser = sub.add_parser(
        "psk",
        help="make or take a pre-shared key for one peer",
        description="Makes 32 random bytes, keeps them in a private file beside the peer's, and shows them once for "
        "the other hub's admin, who takes them with --set. Mail waits from when one hub has the key until both have.",
    )
    parser.add_argument("peer", metavar="PEER")
    parser.add_argument(
        "--set", action="store_true", help="take the key that the other side made: asked for, or on standard input"
    )
    parser.add_argument("--replace", action="store_true", help="in place of the one that is there")
    parser.add_argument("--remove", action="store_true", help="use none any more, on both hubs")
    parser.set_defaults(run=_psk)


def _psk(args: argparse.Namespace) -> int:
    config = load(args.config)
    peer = find(config, args.peer)
    if args.remove:
        return _remove(config, peer)
    if peer.psk_file is not None and peer.psk_file.credential is not None:
        raise CommandError(
            f"the pre-shared key of {peer.name} is the systemd credential {peer.psk_file.credential}, which only "
            "systemd can replace; nothing was changed",
            "encrypt another with `systemd-creds encrypt` in its place, and restart the service; "
            "`key psk --remove`, then `key psk` goes back to a file",
        )
    if peer.psk_file is not None and not args.replace:
        raise CommandError(
            f"{peer.name} has a pre-shared key already, in {peer.psk_file}; nothing was changed",
            "--replace puts another in its place; mail waits until the other hub has it too",
        )
    key = _ask() if args.set else random_bytes(PSK_LEN)
    path = peer.path.with_suffix(PSK_SUFFIX)
    with peers_lock(config):
        text = with_value(peer.path.read_text(encoding="utf-8"), "psk_file", path.name, str(peer.path))
        changes: dict[Path, bytes | None] = {path: f"{key.hex()}\n".encode(), peer.path: text.encode()}
        put_in_force(config, changes, "psk set", {"peer": peer.name, "made_here": not args.set})
    if args.set:
        print(f"{peer.name}: the pre-shared key is in force, in {path}")
        return DONE
    print(f"{peer.name}: a pre-shared key is in force, in {path}. This is shown once, for the other hub's admin,")
    print(f"by a way that is secret (not by mail):\n\n    {key.hex()}\n")
    with open_state(config) as state:
        own = state.cards()[-1].card.shown_name
    print(f"There: `hubtunnel key psk {own} --set`. Until then mail for both hubs waits.")
    return DONE


def _remove(config: Config, peer: Peer) -> int:
    if peer.psk_file is None:
        print(f"{peer.name} has no pre-shared key, nothing was changed")
        return DONE
    with peers_lock(config):
        text = with_value(peer.path.read_text(encoding="utf-8"), "psk_file", None, str(peer.path))
        changes: dict[Path, bytes | None] = {peer.path: text.encode()}
        if peer.psk_file.path == peer.path.with_suffix(PSK_SUFFIX):
            changes[peer.psk_file.path] = None
        put_in_force(config, changes, "psk set", {"peer": peer.name, "removed": True})
    print(f"{peer.name}: no pre-shared key is used any more; mail waits until the other hub does the same")
    return DONE


def _ask() -> bytes:
    if sys.stdin.isatty():
        text = getpass.getpass("The key that the other hub's `key psk` showed (64 digits): ")
    else:
        text = sys.stdin.read(_INPUT_MAX)
    try:
        return parse_psk(text.strip().encode())
    except ValueError as exc:
        raise CommandError(f"this is no pre-shared key: {exc}; nothing was changed", status=USAGE) from None
