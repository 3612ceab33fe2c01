"""`hubtunnel key rotate | issue | export | import | revoke | delete | passphrase` (`list`, `psk`: own files)."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from hubtunnel.cli import key_list, passphrases, psk
from hubtunnel.cli.changes import change_keys
from hubtunnel.cli.common import DONE, USAGE, CommandError, complain, load_readable, open_state, rfc3339
from hubtunnel.config import Config, load
from hubtunnel.config.values import Seconds
from hubtunnel.errors import HubtunnelError
from hubtunnel.identity import bundle, fingerprint
from hubtunnel.identity.credentials import IDENTITY_PASSPHRASE
from hubtunnel.identity.operations import Result
from hubtunnel.identity.windows import WARN_DAYS


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `key` and its subcommands."""
    parser = commands.add_parser("key", help="this hub's link keys and its identity key")
    sub = parser.add_subparsers(title="commands", metavar="COMMAND", dest="subcommand", required=True)
    key_list.register(sub)

    rotating = sub.add_parser(
        "rotate",
        help="make the next link key and a card that lists it",
        description="Makes the next link key and a card that lists it. A running daemon does so by itself while the "
        "identity key is here and opens without being asked; peers learn the card inside their sessions.",
    )
    rotating.add_argument("--now", action="store_true", help="the new key's window begins now, not a month ahead")
    rotating.add_argument(
        "--identity", action="store_true", help="make a new identity, its card signed by it and by the one before"
    )
    _add_force(rotating)
    rotating.set_defaults(run=_rotate)

    issuing = sub.add_parser(
        "issue",
        help="make a series of link keys ahead",
        description="Makes link keys whose windows follow each other, such as one for each day of a week, to be "
        "carried to the hub with `key export` and `key import`.",
    )
    issuing.add_argument("--every", required=True, metavar="TIME", help="from one key to the next, such as 1d")
    issuing.add_argument("--count", required=True, type=int, metavar="N", help="how many, at most 64 in a card")
    issuing.add_argument("--only", action="store_true", help="list no key that lasts longer than these")
    _add_force(issuing)
    issuing.set_defaults(run=_issue)

    exporting = sub.add_parser("export", help="write link keys and cards to a file, for the hub that uses them")
    exporting.add_argument("file", metavar="FILE")
    exporting.add_argument(
        "--passphrase", action="store_true", help="ask for a passphrase (on a terminal it is asked for anyway)"
    )
    exporting.set_defaults(run=_export)

    importing = sub.add_parser("import", help="take link keys and cards from such a file")
    importing.add_argument("file", metavar="FILE")
    importing.set_defaults(run=_import)

    revoking = sub.add_parser(
        "revoke",
        help="call a link key stolen: nobody may use it from now on",
        description="Makes a card that revokes a link key, and a new key where it was the one in use. Peers drop it "
        "with all that rests on it as soon as they have the card.",
    )
    revoking.add_argument("id", metavar="ID", help="as `key list` shows it, or its beginning")
    _add_force(revoking)
    revoking.set_defaults(run=_revoke)

    deleting = sub.add_parser(
        "delete",
        help="delete a private link key before its time",
        description="Deletes a private link key now; by itself it goes a day after its window. Refused while a peer "
        "depends on it.",
    )
    deleting.add_argument("id", metavar="ID")
    deleting.add_argument("--force", action="store_true", help="even if that cuts a peer off")
    deleting.set_defaults(run=_delete)

    locking = sub.add_parser("passphrase", help="put the identity key under a passphrase, another one, or none")
    locking.add_argument("--identity", action="store_true", help="the identity key; the only one that can have any")
    locking.set_defaults(run=_passphrase)

    psk.register(sub)


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force",
        action="store_true",
        help="sign even though a peer holds a newer card of this hub: this forks the chain of cards",
    )


def _with_identity(args: argparse.Namespace, operation: str, **arguments: Any) -> tuple[Config, Result]:
    """Carry out an operation that signs a card, its passphrase asked for where that is needed."""
    config = load(args.config)
    passphrase = passphrases.of_identity(config)
    return config, change_keys(config, operation, force=args.force, passphrase=passphrase, **arguments)


def _rotate(args: argparse.Namespace) -> int:
    if args.identity and args.now:
        raise CommandError("--identity and --now do not go together", status=USAGE)
    config, result = _with_identity(args, "rotate", identity=args.identity, at_once=args.now)
    if args.identity:
        idfp = bytes.fromhex(result["fingerprint"])
        print(f"This hub has a new identity: {fingerprint.to_text(idfp)}")
        print(f"In words: {fingerprint.to_words(idfp)}")
        print("Peers take it from its card by themselves; the key of the old one stays until all of them have.")
    _tell(config, result)
    return DONE


def _issue(args: argparse.Namespace) -> int:
    try:
        every = float(Seconds.read(args.every))
    except ValueError as exc:
        raise CommandError(f"--every: {exc}", status=USAGE) from None
    config, result = _with_identity(args, "issue", every=every, count=args.count, only=args.only)
    _tell(config, result)
    return DONE


def _revoke(args: argparse.Namespace) -> int:
    config, result = _with_identity(args, "revoke", key=args.id)
    print(f"Link key {result['revoked']} is revoked")
    _tell(config, result)
    return DONE


def _delete(args: argparse.Namespace) -> int:
    _tell(*_with_identity(args, "delete", key=args.id))
    return DONE


def _export(args: argparse.Namespace) -> int:
    config = load_readable(args)
    with open_state(config) as state:
        collected = bundle.collect(state, time.time())
    passphrase = passphrases.ask_new("Passphrase of the bundle") if args.passphrase or sys.stdin.isatty() else None
    path = Path(args.file)
    bundle.write(path, collected, passphrase)
    latest = collected.cards[-1].card
    try:
        change_keys(config, "record", what="exported", details={"serial": latest.serial, "file": str(path.absolute())})
    except HubtunnelError as exc:
        complain(f"this is done but not on the trail: {exc}")
    print(f"{path}: {len(collected.link_keys)} link keys and the cards up to {latest.serial}")
    if passphrase is None:
        print("It is under no passphrase: whoever has this file can pose as the hub until those keys end.")
    print(f"On the hub: `hubtunnel key import {path.name}`, then delete the file on both machines.")
    return DONE


def _import(args: argparse.Namespace) -> int:
    path = Path(args.file)
    data = bundle.read_file(path)
    passphrase = passphrases.ask("Passphrase of the bundle") if bundle.is_locked(data, str(path)) else None
    opened = bundle.opened(data, str(path), passphrase)
    config = load(args.config)
    result = change_keys(config, "import", data=opened.pack())
    if not result["cards"] and not result["made"]:
        print(f"All of it was here before, nothing changed; card {result['card']} is in force")
    else:
        _tell(config, result)
    return DONE


def _passphrase(args: argparse.Namespace) -> int:
    if not args.identity:
        raise CommandError(
            "link keys stand under no passphrase: a daemon reads them when it starts, with nobody there to type it",
            "`key passphrase --identity` is for the identity key; `key export` puts a bundle under one",
            status=USAGE,
        )
    config = load(args.config)
    old = passphrases.of_locked_identity(config)
    new = passphrases.ask_new("New passphrase of the identity key")
    change_keys(config, "passphrase", old=old, new=new)
    if new is None:
        print("The identity key is under no passphrase; the daemon can rotate link keys by itself")
    else:
        print("The identity key is under a passphrase now, so the daemon does not rotate by itself, unless systemd")
        print(f"gives it the passphrase as the credential {IDENTITY_PASSPHRASE}. It warns")
        print(f"{', '.join(map(str, WARN_DAYS))} days before the last link key ends.")
        print("What the disk held before may remain there until it is written over.")
    return DONE


def _tell(config: Config, result: Result) -> None:
    """What a change did, and who has to be looked after."""
    if "card" in result:
        print(f"Card {result['card']} is in force")
    for key in result.get("made", []):
        print(f"  new      {key['id']}  {rfc3339(key['not_before'])} to {rfc3339(key['not_after'])}")
    for key_id in result.get("retired", []):
        print(f"  retired  {key_id}")
    for key_id in result.get("lost", []):
        print(f"  dropped  {key_id}  its private key is not here")
    for deleted in result.get("deleted", []):
        print(f"  deleted  {deleted['key']}  {deleted['why']}")
    cut_off = result.get("cut_off", [])
    if cut_off:
        complain(
            f"{', '.join(cut_off)}: knows no link key of ours that can be used now, so mail waits on both sides",
            ["give its admin the output of `hubtunnel card`, for `hubtunnel peer update`: it is signed"],
        )
