"""Every error that hubtunnel raises on purpose, and the reasons that a mail administrator reads.

An error message names the place and the cure. Anything that escapes and is not a `HubtunnelError` is a bug.
"""

from __future__ import annotations

from enum import StrEnum


class HubtunnelError(Exception):
    """Base of all errors raised on purpose; its text is fit to be shown to an operator."""


class UsageError(HubtunnelError):
    """What was typed cannot be done as typed (exit status 2)."""


class ConfigError(HubtunnelError):
    """One or more mistakes in configuration files, all of them together.

    `problems` holds one line per mistake, each naming file, key and cure.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ListenConfigError(ConfigError):
    """Addresses that cannot be listened on now: perhaps a mistake in the files, perhaps something that passes."""


class KeyFileError(HubtunnelError):
    """A private key file is missing, unreadable, has the wrong form, owner or mode."""


class CardError(HubtunnelError):
    """A card was refused. `code` is the word of `protocol.constants.Code` that says why."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class CryptoError(HubtunnelError):
    """A primitive refused its input: wrong length, low-order point, bad tag, bad signature."""


class ProtocolError(HubtunnelError):
    """What the peer sent breaks the protocol. The one error inside `hubtunnel.protocol`.

    `code` is a word of `protocol.constants.Code`.
    """

    def __init__(self, text: str, code: str = "protocol") -> None:
        super().__init__(text)
        self.code = code


class Reason(StrEnum):
    """Why mail for a peer cannot cross now: what a dialler can know (see docs/OPERATING.md).

    The value is the code that stands in `status`, the log and the `421` text.
    """

    DNS = "dns"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    SILENT = "silent"
    AUTH = "auth"
    TOLD = "told"
    NEVER = "never"
