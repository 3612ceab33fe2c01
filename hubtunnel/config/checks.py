"""What single values cannot show: ranges that protect a promise, and mistakes across sections and files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hubtunnel.config.model import Config, Deliver, Metrics, Peer, Reports
from hubtunnel.config.values import Address
from hubtunnel.identity.fingerprint import to_text
from hubtunnel.protocol import constants

SOCKET_PATH_MAX = 107  # bytes of a Unix socket's path, after which the kernel's field ends (unix(7))
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - how an unspecified address is written, not one to bind
DAY = 86400.0
MEMORY_MIN = 8 << 20

# section, key, least, most, in the unit of the value; least is what makes sense, not what is wise.
_RANGES: tuple[tuple[str, str, float, float, str], ...] = (
    ("session", "ratchet_after", 0.05, constants.RATCHET_AFTER, "50ms to 2m"),
    ("session", "ratchet_bytes", 64 * 1024, constants.RATCHET_BYTES, "64KiB to 1GiB"),
    ("session", "linger", 0.1, 3600, "100ms to 1h"),
    ("session", "hold", 0, 60, "0s to 1m"),
    ("session", "idle", 0.1, DAY, "100ms to 1d"),
    ("session", "drain", 0, 3600, "0s to 1h"),
    ("session", "keepalive", 0.05, 300, "50ms to 5m"),
    ("keys", "rotate", 1, 150 * DAY, "1s to 150d, for a key's window is 180 days"),
    ("limits", "memory", MEMORY_MIN, 1 << 40, "8MiB to 1024GiB"),
)


def problem(file: Path, key: str, text: str) -> str:
    """One line of `ConfigError.problems`."""
    return f"{file}: {key}: {text}"


def hub_problems(config: Config) -> Iterator[str]:
    """What is wrong with `hubtunnel.toml` beyond single values."""
    for section, key, least, most, text in _RANGES:
        if not least <= getattr(getattr(config, section), key) <= most:
            yield problem(config.path, f"[{section}] {key}", f"must be within {text}")
    yield from _deliver_problems(config.path, config.deliver)
    socket = str(config.control_socket).encode()
    if len(socket) > SOCKET_PATH_MAX:
        yield problem(
            config.path,
            "[control] socket",
            f"{config.control_socket} has {len(socket)} bytes, a socket's path at most {SOCKET_PATH_MAX}: shorten it",
        )
    if config.metrics != Metrics():
        yield problem(config.path, "[metrics] listen", "this release has no metrics; leave it out")
    if config.reports != Reports():
        yield problem(config.path, "[reports] keep", "this release keeps no reports; leave it out")


def peer_problems(config: Config) -> Iterator[str]:
    """What is wrong with the peers, one by one and with one another."""
    for peer in config.peers:
        yield from _one_peer(config, peer)
    yield from _clashing_pins(config)
    yield from _clashing_domains(config)
    yield from _clashing_addresses(config)


def _one_peer(config: Config, peer: Peer) -> Iterator[str]:
    if peer.name != peer.path.stem:
        yield problem(peer.path, "name", f"is {peer.name!r}, so the file must be named {peer.name}.toml")
    if peer.name == config.name:
        yield problem(peer.path, "name", "is this hub's own name; a hub is not its own peer")
    if peer.listen is not None and not peer.listen.is_loopback and not peer.unsafe_listen:
        yield problem(
            peer.path,
            "listen",
            f"{peer.listen} can be reached from other hosts, and whoever reaches it can send mail to this peer as us: "
            "use an address of 127.0.0.0/8, or `unsafe_listen = true` where a firewall shuts it",
        )
    if peer.listen_users and (peer.listen is None or not peer.listen.is_loopback):
        yield problem(
            peer.path, "listen_users", "needs a `listen` on loopback: of another host's connections no user is known"
        )
    if not peer.endpoints and not config.listen:
        yield problem(peer.path, "endpoints", "is empty while this hub listens nowhere, so neither can dial the other")
    if len(set(peer.endpoints)) != len(peer.endpoints):
        yield problem(peer.path, "endpoints", "names one endpoint twice")
    if peer.receipts:
        yield problem(peer.path, "receipts", "this release has no receipts; leave it out")
    if peer.deliver != config.deliver:
        yield from _deliver_problems(peer.path, peer.deliver)


def _deliver_problems(file: Path, deliver: Deliver) -> Iterator[str]:
    if deliver.address.port == 0:
        yield problem(file, "[deliver] address", "port 0 cannot be connected to")
    if deliver.source is None:
        return
    target = deliver.address.ip
    if not deliver.source.is_loopback:
        yield problem(file, "[deliver] source", f"{deliver.source} is not a loopback address")
    elif target is None or not target.is_loopback or (":" in deliver.source) != (target.version == 6):
        yield problem(
            file,
            "[deliver] source",
            f"{deliver.source} cannot reach {deliver.address}: both must be loopback, of one family",
        )


def _clashing_pins(config: Config) -> Iterator[str]:
    owners: dict[bytes, Peer] = {}
    for peer in config.peers:
        if not peer.pin:
            continue
        other = owners.setdefault(peer.pin, peer)
        if other is not peer:
            yield problem(
                peer.path,
                "pin",
                f"{to_text(peer.pin)[:17]}… is the pin of {other.path.name} too: one hub, one peer file",
            )


def _clashing_domains(config: Config) -> Iterator[str]:
    owners: dict[str, Peer] = {}
    for peer in config.peers:
        for domain in peer.domains:
            other = owners.setdefault(domain, peer)
            if other is not peer:
                yield problem(peer.path, "domains", f"{domain} stands in {other.path.name} too: mail goes one way only")
            elif peer.domains.count(domain) > 1:
                yield problem(peer.path, "domains", f"{domain} stands there twice")
                break


def _clashing_addresses(config: Config) -> Iterator[str]:
    taken = _Taken()
    listeners: list[tuple[Address, Path]] = [(address, config.path) for address in config.listen]
    listeners += [(peer.listen, peer.path) for peer in config.peers if peer.listen is not None]
    for address, file in listeners:
        for other, where in taken.beside(address):
            yield problem(file, "listen", f"{address} cannot be bound beside {other} ({where.name}, listen)")
            break
        taken.add(address, file)
    for file, deliver in [(config.path, config.deliver), *((p.path, p.deliver) for p in config.peers)]:
        if file != config.path and deliver.address == config.deliver.address:
            continue  # said once
        for _, where in taken.beside(deliver.address):
            yield problem(
                file,
                "[deliver] address",
                f"{deliver.address} is where we listen ourselves ({where.name}), mail would go in a circle",
            )


class _Taken:
    """Addresses and the files that name them. A hub may have a thousand peers, so not all are looked at for each."""

    def __init__(self) -> None:
        self._by_port: dict[int, dict[str, tuple[Address, Path]]] = {}

    def add(self, address: Address, file: Path) -> None:
        self._by_port.setdefault(address.port, {}).setdefault(address.host, (address, file))

    def beside(self, address: Address) -> Iterator[tuple[Address, Path]]:
        """Those that cannot be bound beside the address."""
        hosts = self._by_port.get(address.port, {})
        everywhere = address.ip is not None and address.ip.is_unspecified
        candidates = hosts if everywhere else dict.fromkeys((address.host, *_EVERYWHERE))
        for host in candidates:
            if host in hosts and _same_place(address, hosts[host][0]):
                yield hosts[host]


def _same_place(one: Address, other: Address) -> bool:
    """Whether both cannot be bound, or one reaches the other; port 0 is any free port."""
    if one.port != other.port or one.port == 0:
        return False
    if one.host == other.host:
        return True
    a, b = one.ip, other.ip
    if a is None or b is None or a.version != b.version:
        return False
    return a.is_unspecified or b.is_unspecified
