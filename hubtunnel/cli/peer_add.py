"""`hubtunnel peer add`: compare, pin, find an address, and put it in force."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from hubtunnel.cli.changes import peers_lock, put_in_force
from hubtunnel.cli.common import DONE, USAGE, CommandError, command_for, open_state
from hubtunnel.config import DEFAULT_PATH, Config, Endpoint, Peer, load
from hubtunnel.config.checks import peer_problems
from hubtunnel.config.values import HostName, IpAddress, LocalAddress, Pin
from hubtunnel.errors import ConfigError
from hubtunnel.identity import fingerprint
from hubtunnel.identity.armour import armour_all
from hubtunnel.identity.card import Card, SignedCard
from hubtunnel.identity.chain import accept_chain
from hubtunnel.identity.names import is_host_name

HAND_OVER_PORT = 24  # "any private mail system" (IANA); below 1024, so no local user can take it while we are down
_FIRST_ADDRESS = 2  # 127.0.1.1 is the host's own name on Debian
_TERMINAL = "/dev/tty"  # of the process, where standard input is the card
_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")

_Value = TypeVar("_Value")


def add(args: argparse.Namespace, cards: list[SignedCard]) -> int:
    """Run `peer add` with the cards that were read (oldest first)."""
    wanted = _Wanted(args)
    config = load(args.config)
    pin = cards[0].card.idfp
    accept_chain(pin, None, cards)  # every signature, before anybody is asked to compare anything
    card = cards[-1].card
    with open_state(config) as state:
        own = state.cards()[-1].card
    if pin == own.idfp or card.idfp == own.idfp:
        raise CommandError("this is our own card; a hub is not its own peer", "ask the other hub's admin for theirs")
    refuse_other_than(args.fingerprint, pin)
    known = next((peer for peer in config.peers if peer.pin == pin), None)
    if known is not None:
        return _same_again(known, wanted)
    name = _name(config, card)
    if args.fingerprint is None:
        compare(args, own, cards[0].card)
    with peers_lock(config):
        config = load(args.config)  # what another command changed while we asked
        listen = wanted.listen or _free_address(config)
        peer = Peer(
            name=name,
            pin=Pin(pin),
            endpoints=wanted.endpoints or (),
            listen=listen,
            domains=wanted.domains or (),
            present_as=wanted.present_as,
            deliver=config.deliver,
            path=config.peers_folder / f"{name}.toml",
        )
        _refuse_clashes(config, peer)
        changes: dict[Path, bytes | None] = {
            peer.card_path: armour_all(cards).encode(),
            peer.path: _toml(peer).encode(),
        }
        put_in_force(config, changes, "pinned", {"peer": name, "pin": pin.hex(), "serial": card.serial})
    _say_what_next(config, peer, card)
    return DONE


class _Wanted:
    """The options that were given, None for each that was not."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.endpoints = _read_all(Endpoint.read, args.endpoint, "--endpoint")
        self.domains = _read_all(HostName.read, args.domain, "--domain")
        listen = _read_all(LocalAddress.read, [args.listen] if args.listen else None, "--listen")
        self.listen = listen[0] if listen else None
        present_as = _read_all(IpAddress.read, [args.present_as] if args.present_as else None, "--present-as")
        self.present_as = present_as[0] if present_as else None

    def differences(self, peer: Peer) -> list[str]:
        """Options that say something else than the peer's file."""
        return [
            option
            for option, given, there in (
                ("--endpoint", self.endpoints, peer.endpoints),
                ("--domain", self.domains, peer.domains),
                ("--listen", self.listen, peer.listen),
                ("--present-as", self.present_as, peer.present_as),
            )
            if given is not None and given != there
        ]


def _read_all(reader: Callable[[str], _Value], texts: list[str] | None, option: str) -> tuple[_Value, ...] | None:
    if texts is None:
        return None
    try:
        return tuple(reader(text) for text in texts)
    except ValueError as exc:
        raise CommandError(f"{option}: {exc}", status=USAGE) from None


def _same_again(peer: Peer, wanted: _Wanted) -> int:
    differences = wanted.differences(peer)
    if differences:
        raise CommandError(
            f"{peer.name} is a peer already, with another {' and '.join(differences)}; nothing was changed",
            f"edit {peer.path}, then `hubtunnel check` and `hubtunnel reload`",
        )
    print(f"{peer.name} is a peer already, with this pin; nothing was changed")
    return DONE


def _name(config: Config, card: Card) -> HostName:
    if not is_host_name(card.name):
        raise CommandError(f"the card's name {card.name!a} is not a host name, so it cannot name a file of ours")
    name = HostName.read(card.name)
    other = config.peer(name)
    if other is not None:
        raise CommandError(
            f"{name} is a peer already, pinned with another identity: {fingerprint.to_text(other.pin)}",
            "a hub keeps its identity: if it was really set up anew, compare fingerprints on the telephone, "
            f"then `hubtunnel peer remove {name}` and add it again",
        )
    return name


# --- comparing ------------------------------------------------------------------------------------------------


def refuse_other_than(given: str | None, pin: bytes) -> None:
    """Raise `CommandError` when a fingerprint was given and the card's is another."""
    if given is not None and not fingerprint.matches(pin, given):
        raise CommandError(
            f"the card is not that of the hub with this fingerprint: the card's is {fingerprint.to_text(pin)}",
            "do not take it: ask the admin of that hub for the card again",
        )


def compare(args: argparse.Namespace, own: Card, theirs: Card) -> None:
    """Show both hubs' words and ask whether they were compared. Raises `CommandError` unless the answer is yes."""
    if not _somebody_is_there(args.card):
        raise CommandError(
            "nobody is at a terminal to compare fingerprints",
            "give --fingerprint FP with what the other admin told you; there `hubtunnel card --fingerprint` prints it",
            status=USAGE,
        )
    print(f"Call the admin of {theirs.shown_name}, at a number that you did not get with the card.")
    print("Let them read you the words that their `hubtunnel init` showed, or `hubtunnel card --fingerprint` shows.")
    print(f"This card's are:\n\n{_block(theirs)}")
    print(f"Then read them ours, from {own.shown_name}, which their `peer add` shows too:\n\n{_block(own)}")
    print(f"Did the words that you heard match those of {theirs.shown_name}, all twelve? Type yes or no: ", end="")
    sys.stdout.flush()
    if _answer(args.card).strip().lower() != "yes":
        raise CommandError("not compared, so nothing was changed")


def _block(card: Card) -> str:
    words = fingerprint.to_words(card.idfp).split()
    lines = ["    " + "  ".join(f"{word:<8}" for word in words[i : i + 4]).rstrip() for i in range(0, len(words), 4)]
    return "\n".join([*lines, "    " + fingerprint.to_text(card.idfp), ""])


def _answer(card_source: str) -> str:
    """A line from the terminal, wherever the card came from."""
    if card_source != "-":
        return sys.stdin.readline()
    with open(_TERMINAL, encoding="utf-8") as terminal:
        return terminal.readline()


def _somebody_is_there(card_source: str) -> bool:
    if card_source != "-":
        return sys.stdin.isatty()
    try:
        with open(_TERMINAL, encoding="utf-8"):
            return True
    except OSError:
        return False


# --- the peer's file ------------------------------------------------------------------------------------------


def _free_address(config: Config) -> LocalAddress:
    """The first 127.0.N.M:24 that no peer has and where nobody listens."""
    taken = {peer.listen.host for peer in config.peers if peer.listen is not None}
    for number in range(256 + _FIRST_ADDRESS, 1 << 16):
        high, low = divmod(number, 256)
        address = LocalAddress(f"127.0.{high}.{low}", HAND_OVER_PORT)
        if low not in (0, 255) and address.host not in taken and not _somebody_listens(address):
            return address
    raise CommandError("no loopback address is free", "give one with --listen")


def _somebody_listens(address: LocalAddress) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(address) == 0


def _refuse_clashes(config: Config, peer: Peer) -> None:
    before = set(peer_problems(config))
    grown = msgspec.structs.replace(config, peers=(*config.peers, peer))
    problems = [problem for problem in peer_problems(grown) if problem not in before]
    if problems:
        raise ConfigError(problems)


def _toml(peer: Peer) -> str:
    """A peer's file. Every value is a host name, an address or a fingerprint: none needs escaping."""

    def array(values: tuple[object, ...]) -> str:
        return "[" + ", ".join(f'"{value}"' for value in values) + "]"

    return f"""\
# A peer of this hub; its card stands beside this file. `hubtunnel reload` puts changes in force.

name = "{peer.name}"
pin = "{fingerprint.to_text(peer.pin)}"

# Where it listens for carriers, tried in order; with none it must dial us.
endpoints = {array(peer.endpoints)}

# Where our MTA hands over mail for it.
listen = "{peer.listen}"

# Its mail domains, for the generated routing tables.
domains = {array(peer.domains)}

# IP address for the PROXY header, where the carrier's own would mislead SPF.
{"" if peer.present_as else "# "}present_as = "{peer.present_as or ""}"

# mode = "enforce"           # testing: carrier up and reported on, left out of routing tables
# psk_file = ""              # `hubtunnel key psk` makes one, for both hubs; or "credential:NAME", given by systemd
"""


def _say_what_next(config: Config, peer: Peer, card: Card) -> None:
    print(f"{peer.name} is a peer now (card {card.serial}), in {peer.path}")
    print(f"Our MTA hands over mail for it at {peer.listen}")
    if not peer.endpoints:
        print("It has no endpoint, so it must dial us; --endpoint HOST names one")
    if not peer.domains:
        print("It has no domain yet, so no routing table will name it")
    print("\nNext, unless it is done:")
    if config.path == DEFAULT_PATH:
        print("  systemctl enable --now hubtunnel   # or in the foreground: hubtunnel run")
    else:
        print(f"  {command_for(config.path, 'run')}")
    print(f"  {command_for(config.path, 'mta postfix')}   # what the mail server needs; `mta --help` names the others")
    print(f"  {command_for(config.path, f'ping {peer.name}')}   # once the other hub has added this one and runs")
    if peer.listen is not None and os.geteuid() != 0 and peer.listen.port < _first_free_port():
        print(
            f"hint: port {peer.listen.port} needs root or CAP_NET_BIND_SERVICE, which the systemd unit gives; "
            f"elsewhere use --listen {peer.listen.host}:2424",
            file=sys.stderr,
        )


def _first_free_port() -> int:
    try:
        return int(_UNPRIVILEGED.read_text())
    except (OSError, ValueError):
        return 1024
