"""The kinds of values that stand in configuration files, and how each is read from its text.

Every reader raises `ValueError` with a text that says what is wrong and what right looks like; the loader adds file
and key.
"""

from __future__ import annotations

import binascii
import ipaddress
import pwd
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

import msgspec

from hubtunnel.errors import KeyFileError
from hubtunnel.identity import credentials, fingerprint
from hubtunnel.identity.files import read_private
from hubtunnel.identity.names import is_host_name
from hubtunnel.protocol.constants import DEFAULT_PORT, PSK_LEN

_QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]+)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class Seconds(float):
    """A length of time, written with a unit: ``150s``, ``2m``, ``30d``, ``100ms``."""

    @classmethod
    def read(cls, text: str) -> Self:
        return cls(_quantity(text, _SECONDS, 'a time such as "150s", "2m" or "30d"'))


class ByteCount(int):
    """A number of bytes, written with a unit: ``256MiB``, ``1GiB``."""

    @classmethod
    def read(cls, text: str) -> Self:
        return cls(_quantity(text, _BYTES, 'a size such as "256MiB" or "1GiB"'))


class HostName(str):
    """The name of a hub or a mail domain, in lower case without a final dot."""

    __slots__ = ()

    @classmethod
    def read(cls, text: str) -> Self:
        name = text.lower().removesuffix(".")
        if not is_host_name(name):
            raise ValueError(f'{text!r} is not a host name; write one such as "mx.a.example"')
        return cls(name)


class IpAddress(str):
    """An IPv4 or IPv6 address in its usual form."""

    __slots__ = ()

    @classmethod
    def read(cls, text: str) -> Self:
        try:
            return cls(ipaddress.ip_address(text))
        except ValueError:
            raise ValueError(f"{text!r} is not an IP address") from None

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self).is_loopback


class Address(tuple[str, int]):
    """A host and a TCP port: ``mx.b.example:2625``, ``127.0.0.1:26``, ``[::1]:26``."""

    __slots__ = ()
    default_port: int | None = None
    names_allowed = True

    def __new__(cls, host: str, port: int) -> Self:
        return super().__new__(cls, (host, port))

    @classmethod
    def read(cls, text: str) -> Self:
        host, port = _split_port(text, cls.default_port)
        try:
            return cls(str(ipaddress.ip_address(host)), port)
        except ValueError:
            pass
        if not cls.names_allowed:
            raise ValueError(f"{text!r}: {host!r} is not an IP address, and a name does not do here")
        if not is_host_name(host.lower()) or host.replace(".", "").isdigit():
            raise ValueError(f"{text!r}: {host!r} is neither a host name nor an IP address")
        return cls(host.lower(), port)

    @property
    def host(self) -> str:
        return self[0]

    @property
    def port(self) -> int:
        return self[1]

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address, None when it is a name."""
        try:
            return ipaddress.ip_address(self[0])
        except ValueError:
            return None

    @property
    def is_loopback(self) -> bool:
        return self.ip is not None and self.ip.is_loopback

    def __str__(self) -> str:
        return f"[{self[0]}]:{self[1]}" if ":" in self[0] else f"{self[0]}:{self[1]}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class LocalAddress(Address):
    """Where we listen for an MTA: an IP address and a port."""

    __slots__ = ()
    names_allowed = False


class CarrierAddress(Address):
    """Where we listen for carriers; the port may be left out."""

    __slots__ = ()
    names_allowed = False
    default_port = DEFAULT_PORT


class Endpoint(Address):
    """Where a peer listens for carriers; the port may be left out."""

    __slots__ = ()
    default_port = DEFAULT_PORT


class Pin(bytes):
    """The fingerprint of a peer's identity, 32 bytes."""

    @classmethod
    def read(cls, text: str) -> Self:
        try:
            return cls(fingerprint.from_text(text))
        except fingerprint.FingerprintError as exc:
            raise ValueError(str(exc)) from None


class Secret(bytes):
    """Secret bytes whose `repr` and `str` show their number only."""

    def __repr__(self) -> str:
        return f"Secret({len(self)} bytes)"

    __str__ = __repr__


class SecretFile(str):
    """Where a secret stands: the path of a private file, or `credential:NAME` for what systemd gives to the service."""

    __slots__ = ()
    _CREDENTIAL = "credential:"

    @classmethod
    def read(cls, text: str, folder: Path) -> Self:
        if not text.startswith(cls._CREDENTIAL):
            return cls(_path(text, folder))
        if not credentials.is_name(text.removeprefix(cls._CREDENTIAL)):
            raise ValueError(f'{text!r} names no systemd credential; write one such as "credential:mx.b.example.psk"')
        return cls(text)

    @property
    def credential(self) -> str | None:
        """The name of the credential, None for a file."""
        return self.removeprefix(self._CREDENTIAL) if self.startswith(self._CREDENTIAL) else None

    @property
    def path(self) -> Path | None:
        """The path of the file, None for a credential."""
        return None if self.startswith(self._CREDENTIAL) else Path(self)


class Command(tuple[str, ...]):
    """The argv of a program: an absolute path and its arguments, split as a shell would; no shell runs it."""

    __slots__ = ()

    @classmethod
    def read(cls, text: str) -> Self:
        words = shlex.split(text)  # its own ValueError says what is wrong with the quotes
        if words and not words[0].startswith("/"):
            raise ValueError(f"{words[0]!r} must be the absolute path of a program")
        return cls(words)


class LocalUser(tuple[str, int]):
    """A user of this machine, by name or by number: as it is written, and the number."""

    __slots__ = ()
    _NOBODY = 65534  # what the kernel shows of every user for whom a user namespace has no number

    @classmethod
    def read(cls, text: str) -> Self:
        if re.fullmatch(r"\d{1,10}", text, re.ASCII):
            uid = int(text)
        else:
            try:
                uid = pwd.getpwnam(text).pw_uid
            except (KeyError, ValueError):
                raise ValueError(
                    f'{text!r} is no user of this machine; "postfix" would be one, or a number such as "101"'
                ) from None
        if uid == cls._NOBODY or uid >= 2**32 - 1:
            raise ValueError(f"{text!r} has the number {uid}, which the kernel shows for nobody in particular")
        return cls((text, uid))

    @property
    def uid(self) -> int:
        return self[1]


_READERS: tuple[type[Any], ...] = (
    Seconds, ByteCount, HostName, IpAddress, Address, LocalAddress, CarrierAddress, Endpoint, Pin, Command, LocalUser,
)  # fmt: skip


def decode_value(kind: Any, value: object, folder: Path) -> Any:
    """`value` as it stands in a file, as a `kind`; relative paths are relative to `folder`.

    Raises `ValueError` with what is wrong.
    """

    def read(wanted: type, found: object) -> object:
        if not isinstance(found, str):
            raise ValueError(f"must be a text in quotes, not {found!r}")
        if wanted is Path:
            return _path(found, folder)
        if wanted is SecretFile:
            return SecretFile.read(found, folder)
        if wanted in _READERS:
            reader: Callable[[str], object] = wanted.read
            return reader(found)
        raise TypeError(f"no reader for {wanted}")

    if get_origin(kind) is Literal and value not in get_args(kind):
        raise ValueError(f"must be one of {', '.join(map(repr, get_args(kind)))}, not {value!r}")
    try:
        return msgspec.convert(value, kind, dec_hook=read)
    except msgspec.ValidationError as exc:
        cause = exc.__cause__
        text = str(cause) if isinstance(cause, ValueError) else str(exc)
        raise ValueError(text[:1].lower() + text[1:]) from None


def _path(text: str, folder: Path) -> Path:
    if "\0" in text:
        raise ValueError("a path cannot hold a NUL")
    return folder / text


def read_psk(place: SecretFile) -> Secret | None:
    """The pre-shared key there: exactly 32 bytes as hexadecimal or base64 text; None for a credential that is not
    this process'.

    Raises `KeyFileError` with the cure.
    """
    what = "a pre-shared key"
    text = read_private(place.path, what) if place.path is not None else credentials.read(str(place.credential), what)
    if text is None:
        return None
    try:
        return Secret(parse_psk(text.strip()))
    except ValueError as exc:
        raise KeyFileError(f"{place}: {exc}; `hubtunnel key psk PEER` makes one") from None


def parse_psk(text: bytes) -> bytes:
    """The 32 bytes of a pre-shared key written as hexadecimal or base64. Raises `ValueError`, never with the text."""
    key = _from_hex_or_base64(text)
    if key is None or len(key) != PSK_LEN:
        raise ValueError(
            f"must hold {PSK_LEN} random bytes as 64 hexadecimal digits or 44 characters of base64, never a passphrase"
        )
    if len(set(key)) < 8:
        raise ValueError("these bytes are not random")
    return key


def _from_hex_or_base64(text: bytes) -> bytes | None:
    try:
        if len(text) == 2 * PSK_LEN:
            return binascii.unhexlify(text)
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        return None


def _quantity(text: str, units: dict[str, Any], example: str) -> Any:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not {example}")
    number, unit = match.groups()
    if unit not in units:
        raise ValueError(f"{text!r}: unknown unit {unit!r}; known are {', '.join(units)}")
    return float(number) * units[unit]


def _split_port(text: str, default: int | None) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+))(?::(\d{1,5}))?", text)
    if match is None:
        if text.count(":") > 1 and "[" not in text:
            raise ValueError(f'{text!r}: an IPv6 address with a port needs brackets, such as "[::1]:26"')
        raise ValueError(f'{text!r} is not an address such as "127.0.0.1:26" or "[::1]:26"')
    if match[3] is None and default is None:
        raise ValueError(f'{text!r} lacks a port, as in "{text}:26"')
    port = int(match[3]) if match[3] is not None else default
    if port is None or port > 65535:
        raise ValueError(f"{text!r}: ports end at 65535")
    return match[1] or match[2], port
