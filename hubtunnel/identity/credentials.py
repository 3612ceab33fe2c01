"""Secrets that systemd hands to the service: files in `$CREDENTIALS_DIRECTORY` (systemd.exec(5), "Credentials").

Only the service's own processes have them, and they stay as they are until it is restarted. So nothing that lives by
itself is read from here, link keys least of all: what is, opens other secrets (docs/KEYS.md).
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from hubtunnel.errors import KeyFileError
from hubtunnel.identity.files import read_checked

FOLDER = "CREDENTIALS_DIRECTORY"  # in the environment of a service that was given any
IDENTITY_PASSPHRASE = "identity.passphrase"  # noqa: S105  (a name)
_SIZE_MAX = 2048
_NAME = re.compile(r"[A-Za-z0-9_@:-][A-Za-z0-9_.@:-]{0,254}", re.ASCII)


def is_name(text: str) -> bool:
    """Whether a credential can have this name."""
    return _NAME.fullmatch(text) is not None


def read(name: str, what: str) -> bytes | None:
    """The bytes of a credential, None where this process was given none of that name.

    Raises `KeyFileError`, with the cure, for one that others can read or that cannot be read.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        return None
    path = Path(folder) / name
    try:
        if not path.exists():
            return None
    except PermissionError:
        return None  # ExecReload= is told of the folder and may not look into it: only the service itself was given it
    return read_checked(path, what, _problem, _SIZE_MAX)


def identity_passphrase() -> bytes | None:
    """The passphrase of the identity key, a line of text; None where this process was given none."""
    text = read(IDENTITY_PASSPHRASE, "the passphrase of the identity key")
    if text is None:
        return None
    text = text.removesuffix(b"\n")
    if not text:
        raise KeyFileError(f"the systemd credential {IDENTITY_PASSPHRASE} is empty; put the passphrase into it")
    return text


def _problem(path: Path, found: os.stat_result, what: str) -> str | None:
    """systemd owns the files and lets the service read them by an access list, whose mask looks like a group's."""
    if not stat.S_ISREG(found.st_mode):
        return f"{path}: {what} must be a plain file"
    if found.st_mode & stat.S_IRWXO:
        return f"{path}: {what} can be read by anybody; leave it to systemd (LoadCredential=) to put it there"
    return None
