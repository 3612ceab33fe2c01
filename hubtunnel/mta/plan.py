"""What every recipe begins with: which peers' domains go where, and where peers' mail comes in.

All of it is read from the hub's configuration, whose values are checked already: names are made of letters, digits,
hyphens and underscores, addresses are IP addresses. `quotable` looks once more, since a recipe becomes another
program's configuration.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hubtunnel.config import Config, Deliver, Peer
from hubtunnel.config.values import HostName
from hubtunnel.errors import UsageError

_HARMLESS = re.compile(r"[A-Za-z0-9._:-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Route:
    """Mail for `domains` is handed to the tunnel at `host` port `port`."""

    peer: str
    domains: tuple[str, ...]
    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether the address is this host's alone."""
        return self.host == "::1" or self.host.startswith("127.")


@dataclass(frozen=True, slots=True)
class Inlet:
    """A listener of the mail server for mail that comes out of the tunnel. One peer alone can be told by name."""

    host: str
    port: int
    proxy_protocol: str
    source: str
    peers: tuple[str, ...]

    @property
    def peer(self) -> str | None:
        """The peer whose mail comes in here, when it is that of one only."""
        return self.peers[0] if len(self.peers) == 1 else None


@dataclass(frozen=True, slots=True)
class Plan:
    """`left_out` are remarks on peers that get no mail through the tunnel, for the recipe's head."""

    hub: str
    routes: tuple[Route, ...]
    inlets: tuple[Inlet, ...]
    left_out: tuple[str, ...]
    smarthost: Route | None = None
    local_domains: tuple[str, ...] = ()

    @property
    def domains(self) -> tuple[str, ...]:
        """Every domain that goes through the tunnel, sorted."""
        return tuple(sorted(domain for route in self.routes for domain in route.domains))


def make_plan(config: Config, *, smarthost: str | None = None, local_domains: Sequence[str] = ()) -> Plan:
    """The plan for a hub; `smarthost` is the peer that takes all mail for elsewhere (a branch office's head office).

    `local_domains` are the hub's own, for mail servers whose rules have to name them.

    Raises `UsageError` when the configuration cannot be turned into one.
    """
    routes, left_out = [], []
    for peer in config.peers:
        reason = _reason_to_leave_out(peer)
        if reason is not None:
            left_out.append(f"{quotable(peer.name)} is left out: {reason}")
            continue
        routes.append(_route(peer))
    return Plan(
        hub=quotable(config.name),
        routes=tuple(routes),
        inlets=_inlets(config),
        left_out=tuple(left_out),
        smarthost=_smarthost(config, smarthost),
        local_domains=tuple(quotable(HostName.read(domain)) for domain in local_domains),
    )


def quotable(text: str) -> str:
    """`text`, which is a name or an address and nothing that any configuration language reads as more.

    Raises `UsageError` otherwise.
    """
    if not _HARMLESS.fullmatch(text):
        raise UsageError(f"{text!r} cannot stand in a mail server's configuration")
    return text


def brackets(host: str) -> str:
    """An address literal as RFC 5321 writes hosts: ``[127.0.1.2]``, ``[IPv6:::1]``."""
    return f"[IPv6:{host}]" if ":" in host else f"[{host}]"


def _reason_to_leave_out(peer: Peer) -> str | None:
    if peer.mode == "testing":
        return 'its mode is "testing"'
    if peer.listen is None:
        return "it has no listen address here"
    if not peer.domains:
        return "it has no domains here"
    return None


def _route(peer: Peer) -> Route:
    if peer.listen is None:
        raise UsageError(f"{peer.name} has no listen address here, so no mail can be handed to it")
    domains = tuple(sorted(quotable(domain) for domain in peer.domains))
    return Route(quotable(peer.name), domains, quotable(peer.listen.host), peer.listen.port)


def _smarthost(config: Config, name: str | None) -> Route | None:
    if name is None:
        return None
    peer = config.peer(name)
    if peer is None:
        raise UsageError(f"{name!r} is no peer of this hub; `hubtunnel peer list` shows them")
    if peer.mode == "testing":
        raise UsageError(f'the mode of {name} is "testing": it gets no mail yet')
    return _route(peer)


def _inlets(config: Config) -> tuple[Inlet, ...]:
    """One a distinct address, in the order of the peers; that of [deliver] also while there are no peers."""
    found: dict[tuple[str, int], Deliver] = {}
    peers: dict[tuple[str, int], list[str]] = {}
    for name, deliver in [("", config.deliver)] * (not config.peers) + [(p.name, p.deliver) for p in config.peers]:
        key = (deliver.address.host, deliver.address.port)
        first = found.setdefault(key, deliver)
        if (first.proxy_protocol, first.source) != (deliver.proxy_protocol, deliver.source):
            raise UsageError(
                f"{deliver.address}: peers differ in proxy_protocol or source there; one listener takes one kind"
            )
        if name:
            peers.setdefault(key, []).append(quotable(name))
    return tuple(
        Inlet(
            host=quotable(host),
            port=port,
            proxy_protocol=found[host, port].proxy_protocol,
            source=quotable(found[host, port].source or "") if found[host, port].source else "",
            peers=tuple(peers.get((host, port), ())),
        )
        for host, port in found
    )
