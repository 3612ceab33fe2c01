"""`hubtunnel init`: identity, first link keys, first card and configuration of a new hub."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hubtunnel.cli.common import DONE, USAGE, CommandError, command_for
from hubtunnel.config import DEFAULT_PATH, DEFAULT_STATE
from hubtunnel.config.checks import SOCKET_PATH_MAX
from hubtunnel.config.model import DEFAULT_SOCKET, PEERS_FOLDER, Config
from hubtunnel.config.values import Address, CarrierAddress, HostName
from hubtunnel.errors import KeyFileError
from hubtunnel.identity import files, fingerprint, keyfiles
from hubtunnel.identity.armour import armour
from hubtunnel.identity.card import FIRST_SERIAL, NO_CARD, Card, SignedCard, link_public
from hubtunnel.identity.state import State, StateError
from hubtunnel.identity.windows import CLOCK_MIN, ROTATE, WINDOW

BACKDATED = 3600  # a new key is good at once for peers whose clocks are behind

_Value = TypeVar("_Value")

_TEMPLATE = """\
# Configuration of this hub. A key that is not known is an error; `hubtunnel check` names all mistakes at once.
# Commented lines show the defaults. Peers stand in peers.d/, one file each.

name = "{name}"

# Where peers' carriers come in.
listen = [{listen}]

# Private keys and the peers' accepted cards.
state = "{state}"

[deliver]
# The local MTA's own listener for mail that came through the tunnel. A port below 1024, since any local user could
# bind a higher one while the MTA is down.
address = "{deliver}"
# proxy_protocol = "v2"      # v2, v1 or none: tells the MTA where a message came from
# source = ""                # a loopback address to come from, such as 127.0.0.25
# probe = true               # no mail goes there before it has answered PROXY header, greeting and QUIT as an MTA does

[session]
# ratchet_after = "2m"       # new session keys at the latest so long after the first byte under the old
# ratchet_bytes = "1GiB"     # or after so much
# linger = "150s"            # how long SMTP conversations wait for a new carrier
# hold = "5s"                # how long the MTA waits before it is told 421
# idle = "30m"               # of one conversation; above RFC 5321's ten minutes
# drain = "2m"               # how long a stopping daemon lets conversations end
# keepalive = "15s"          # a carrier is dead after three times that without a record

[limits]
# memory = "256MiB"          # of all buffers together
# streams_per_peer = 500
# handshakes = 256

[log]
# format = "text"            # text or json
# level = "info"             # debug, info, warning or error

[hooks]
# on_up = ""                 # a program and its arguments, the peer's name in its environment
# on_down = ""
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `init`."""
    parser = commands.add_parser(
        "init",
        help="make identity, first link keys, card and configuration of a new hub",
        description="Makes identity, first link keys, card and configuration. Never overwrites anything.",
    )
    parser.add_argument("--name", required=True, metavar="NAME", help="the hub's name, such as mx.a.example")
    parser.add_argument(
        "--dir", metavar="DIR", help=f"put everything there (default {DEFAULT_PATH.parent} and {DEFAULT_STATE})"
    )
    parser.add_argument(
        "--listen", action="append", metavar="ADDR", help="address for peers' carriers; may be given several times"
    )
    parser.add_argument("--deliver", metavar="ADDR", help="the local MTA's listener for mail from the tunnel")
    parser.set_defaults(run=_init)


def _init(args: argparse.Namespace) -> int:
    if args.config is not None:
        raise CommandError("init takes no --config", "--dir DIR puts everything into one folder", status=USAGE)
    name = _read(HostName.read, args.name, "--name")
    config = Config(
        name=name,
        listen=tuple(_read(CarrierAddress.read, text, "--listen") for text in args.listen)
        if args.listen
        else Config(name=name).listen,
    )
    deliver = _read(Address.read, args.deliver, "--deliver") if args.deliver else config.deliver.address
    config_file, state_folder, state_text = _places(args.dir)
    card_file = config_file.parent / f"{name}.card"
    now = int(time.time())
    _refuse_leftovers(config_file, card_file, state_folder)
    if now < CLOCK_MIN:
        raise CommandError("the clock was never set, and keys are made for a time", "set it, then run this again")
    text = _TEMPLATE.format(
        name=name,
        listen=", ".join(f'"{address}"' for address in config.listen),
        state=state_text,
        deliver=deliver,
    )
    try:
        files.make_folder(config_file.parent, 0o755)
        files.make_folder(config_file.parent / PEERS_FOLDER, 0o755)
        signed = _make_state(state_folder, name, now)
        files.atomic_write(card_file, armour(signed).encode(), replace=False)
        files.atomic_write(config_file, text.encode(), replace=False)
    except FileExistsError as exc:
        raise CommandError(f"{exc.filename}: is there already; nothing is ever overwritten", status=USAGE) from exc
    except (KeyFileError, StateError):
        raise
    except OSError as exc:
        raise CommandError(f"{exc.filename or config_file}: cannot be made: {exc.strerror}", status=USAGE) from exc
    _say_what_next(config_file, card_file, state_folder, signed)
    return DONE


def _places(given: str | None) -> tuple[Path, Path, str]:
    """Configuration file, state folder, and the folder as the file names it."""
    if given is not None:
        folder = Path(os.path.abspath(given))
        socket = folder / DEFAULT_SOCKET.name
        if len(os.fsencode(socket)) > SOCKET_PATH_MAX:
            raise CommandError(f"{socket}: too long for a socket's path", "choose a shorter --dir", status=USAGE)
        return folder / DEFAULT_PATH.name, folder / "state", "state"
    if os.geteuid() != 0:
        raise CommandError(
            f"{DEFAULT_PATH.parent} and {DEFAULT_STATE} are root's to write",
            "run this as root, or give --dir DIR to put everything into a folder of yours",
            status=USAGE,
        )
    return DEFAULT_PATH, DEFAULT_STATE, str(DEFAULT_STATE)


def _refuse_leftovers(config_file: Path, card_file: Path, state_folder: Path) -> None:
    for file in (config_file, card_file):
        if os.path.lexists(file):
            raise CommandError(f"{file}: is there already; nothing is ever overwritten", status=USAGE)
    if os.path.lexists(state_folder) and (not state_folder.is_dir() or any(state_folder.iterdir())):
        raise CommandError(
            f"{state_folder}: is not empty; nothing is ever overwritten",
            "it may hold the keys of a hub: move it away if you are sure that it does not",
            status=USAGE,
        )


def _make_state(folder: Path, name: str, now: int) -> SignedCard:
    """The state folder with identity, two link keys and card 1; nothing of it stays when something fails."""
    existed = folder.is_dir()
    try:
        with State.create(folder) as state:
            identity = keyfiles.new_identity()
            current = keyfiles.new_link_key(now - BACKDATED, now + WINDOW)
            following = keyfiles.new_link_key(now + ROTATE, now + ROTATE + WINDOW)
            card = Card.build(
                name=name,
                serial=FIRST_SERIAL,
                previous=NO_CARD,
                issued=now,
                identity=identity.public,
                link_keys=(link_public(current), link_public(following)),
            )
            signed = SignedCard.sign(card, identity)
            state.add_identity(identity)
            state.add_link_key(current)
            state.add_link_key(following)
            state.add_card(signed)
            return signed
    except BaseException:
        for made in list(folder.iterdir()) if folder.is_dir() else []:
            shutil.rmtree(made, ignore_errors=True) if made.is_dir() else made.unlink(missing_ok=True)
        if not existed:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _say_what_next(config_file: Path, card_file: Path, state_folder: Path, signed: SignedCard) -> None:
    idfp = signed.card.idfp
    print(f"Made the hub {signed.card.name}: configuration {config_file}, keys and state {state_folder}")
    print(f"Fingerprint: {fingerprint.to_text(idfp)}")
    print(f"In words:    {fingerprint.to_words(idfp)}")
    print(f"Card:        {card_file}")
    print()
    print("Next: send the card to the other hub's admin (it is public, mail will do), and with theirs:")
    print(f"  {command_for(config_file, 'peer add')} THEIR.card --endpoint THEIR.HOST --domain THEIR.DOMAIN")
    if os.geteuid() == 0 and config_file == DEFAULT_PATH and files.service_owner() is None:
        print()
        print(f"There is no user {files.SERVICE_USER} yet, so everything belongs to root. For the service:")
        print(f"  useradd --system --home-dir {DEFAULT_STATE} --shell /usr/sbin/nologin {files.SERVICE_USER}")
        print(f"  chown -R {files.SERVICE_USER}: {state_folder}")


def _read(reader: Callable[[str], _Value], text: str, option: str) -> _Value:
    try:
        return reader(text)
    except ValueError as exc:
        raise CommandError(f"{option}: {exc}", status=USAGE) from None
