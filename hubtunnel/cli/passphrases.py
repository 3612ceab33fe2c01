"""Passphrases: asked on the terminal, or taken from standard input, a line each, where it is none.

They never stand on a command line, in the environment or in a log.
"""

from __future__ import annotations

import getpass
import sys

from hubtunnel.cli.changes import change_keys
from hubtunnel.cli.common import USAGE, CommandError, open_state
from hubtunnel.config import Config
from hubtunnel.identity import keyfiles

PASSPHRASE_MAX = 1024


def ask(what: str) -> bytes:
    """A passphrase, perhaps empty. Raises `CommandError` when there is nobody to ask."""
    if sys.stdin.isatty():
        text = getpass.getpass(f"{what}: ")
    else:
        text = sys.stdin.readline(PASSPHRASE_MAX + 2)
        if not text:
            raise CommandError(
                f"{what}: there is no terminal to ask for it",
                "run this at a terminal, or give it as a line on standard input",
                status=USAGE,
            )
        text = text.removesuffix("\n")
    if len(text) > PASSPHRASE_MAX:
        raise CommandError(f"{what}: longer than {PASSPHRASE_MAX} characters", status=USAGE)
    return text.encode()


def ask_new(what: str) -> bytes | None:
    """A new passphrase, asked twice on a terminal; None for an empty one."""
    first = ask(f"{what} (empty for none)")
    if first and sys.stdin.isatty() and ask("The same again") != first:
        raise CommandError("the two were not the same; nothing was changed")
    return first or None


def of_identity(config: Config) -> bytes | None:
    """The passphrase of the identity key, to sign with; None where nobody has to type it.

    That is so where it has none, is on another machine, or was given to the running daemon by systemd.
    """
    return of_locked_identity(config) if change_keys(config, "signer")["asks"] else None


def of_locked_identity(config: Config) -> bytes | None:
    """The passphrase of the identity key, asked whoever else knows it; None where the key is under none."""
    with open_state(config) as state:
        if not state.has_identity() or not keyfiles.is_locked(state.identity_path):
            return None
    return ask("Passphrase of the identity key")
