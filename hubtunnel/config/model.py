"""The structures that configuration files become, with every default (docs/OPERATING.md explains each setting)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from hubtunnel.config.values import (
    Address,
    ByteCount,
    CarrierAddress,
    Command,
    Endpoint,
    HostName,
    IpAddress,
    LocalAddress,
    LocalUser,
    Pin,
    Seconds,
    Secret,
    SecretFile,
)

DEFAULT_PATH = Path("/etc/hubtunnel/hubtunnel.toml")
DEFAULT_STATE = Path("/var/lib/hubtunnel")
DEFAULT_SOCKET = Path("/run/hubtunnel/control.sock")
PEERS_FOLDER = "peers.d"

ProxyProtocol = Literal["v2", "v1", "none"]


class Deliver(Struct, frozen=True, kw_only=True):
    """Where mail from peers is handed to."""

    address: Address = Address("127.0.0.1", 26)
    proxy_protocol: ProxyProtocol = "v2"
    source: IpAddress | None = None
    probe: bool = True


class SessionSettings(Struct, frozen=True, kw_only=True):
    """Times in seconds and sizes in bytes of sessions and streams."""

    ratchet_after: Seconds = Seconds(120)
    ratchet_bytes: ByteCount = ByteCount(1 << 30)
    linger: Seconds = Seconds(150)
    hold: Seconds = Seconds(5)
    idle: Seconds = Seconds(30 * 60)
    drain: Seconds = Seconds(120)
    keepalive: Seconds = Seconds(15)


class KeySettings(Struct, frozen=True, kw_only=True):
    """Life of link keys."""

    rotate: Seconds = Seconds(30 * 86400)


class Limits(Struct, frozen=True, kw_only=True):
    """What the hub holds at most."""

    memory: ByteCount = ByteCount(256 << 20)
    streams_per_peer: Annotated[int, Meta(ge=1, le=100_000)] = 500
    handshakes: Annotated[int, Meta(ge=4, le=65_536)] = 256


class Log(Struct, frozen=True, kw_only=True):
    """How and how much is logged."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Control(Struct, frozen=True, kw_only=True):
    """The control socket; `Config.control_socket` is the path in force."""

    socket: Path | None = None


class Metrics(Struct, frozen=True, kw_only=True):
    """Reserved."""

    listen: LocalAddress | None = None


class Reports(Struct, frozen=True, kw_only=True):
    """Reserved."""

    keep: Seconds = Seconds(90 * 86400)


class Hooks(Struct, frozen=True, kw_only=True):
    """Programs run when a peer comes up or goes down, its name in the environment."""

    on_up: Command = Command()
    on_down: Command = Command()


class Peer(Struct, frozen=True, kw_only=True):
    """One `peers.d/NAME.toml`. `deliver` is the hub's with the peer's own keys over it."""

    name: HostName
    pin: Pin
    endpoints: tuple[Endpoint, ...] = ()
    listen: LocalAddress | None = None
    unsafe_listen: bool = False
    listen_users: tuple[LocalUser, ...] = ()
    domains: tuple[HostName, ...] = ()
    mode: Literal["enforce", "testing"] = "enforce"
    present_as: IpAddress | None = None
    receipts: bool = False
    psk_file: SecretFile | None = None
    deliver: Deliver = Deliver()
    psk: Secret | None = None  # from psk_file, unless that is a credential that only the service has
    path: Path = Path()  # the file it was read from; never a key of the file

    @property
    def card_path(self) -> Path:
        """`NAME.card` beside the peer's file."""
        return self.path.with_suffix(".card") if self.path.name.endswith(".toml") else self.path

    def __repr__(self) -> str:
        return f"Peer({self.name!r})"


class Config(Struct, frozen=True, kw_only=True):
    """A hub's whole configuration, `peers.d` included."""

    name: HostName
    listen: tuple[CarrierAddress, ...] = (CarrierAddress("::", 2625), CarrierAddress("0.0.0.0", 2625))  # noqa: S104
    state: Path = DEFAULT_STATE
    deliver: Deliver = Deliver()
    session: SessionSettings = SessionSettings()
    keys: KeySettings = KeySettings()
    limits: Limits = Limits()
    log: Log = Log()
    control: Control = Control()
    metrics: Metrics = Metrics()
    reports: Reports = Reports()
    hooks: Hooks = Hooks()
    path: Path = DEFAULT_PATH  # the file it was read from; never a key of the file
    peers: tuple[Peer, ...] = ()  # from peers.d; never a key of the file

    @property
    def peers_folder(self) -> Path:
        """The folder with one `NAME.toml` and `NAME.card` a peer."""
        return self.path.parent / PEERS_FOLDER

    @property
    def control_socket(self) -> Path:
        """The control socket: as configured, else `/run/hubtunnel/control.sock` for the hub of `/etc/hubtunnel`
        and `control.sock` beside the file for any other, so that several hubs on one machine keep apart."""
        if self.control.socket is not None:
            return self.control.socket
        if self.path.parent == DEFAULT_PATH.parent:
            return DEFAULT_SOCKET
        return self.path.parent / DEFAULT_SOCKET.name

    def peer(self, name: str) -> Peer | None:
        """The peer of that name, None when there is none."""
        wanted = name.lower().removesuffix(".")
        return next((peer for peer in self.peers if peer.name == wanted), None)


# Fields that the loader sets itself: a file that holds such a key has an unknown key.
DERIVED_FIELDS = frozenset({"path", "peers", "psk"})


@cache
def file_keys(kind: type[Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    """The keys that a file may hold for `kind`."""
    return {f.name: f for f in msgspec.structs.fields(kind) if f.name not in DERIVED_FIELDS}
