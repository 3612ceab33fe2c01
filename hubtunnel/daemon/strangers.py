"""Who may knock: slots for connections that have not authenticated (PROTOCOL.md 4.4), and what was seen of them.

A stranger costs one slot, one small buffer and one look-up, and gets no byte. Slots are bounded in all and per source
network; half of them are kept for addresses that a pin lists or that authenticated lately, so that strangers who hold
their connections open cannot lock a peer out.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hubtunnel.protocol import constants as c

PER_SOURCE = 16
KNOWN_FOR = 7 * 86400.0  # seconds that an address counts as known after it authenticated
KNOWN_MAX = 4096
SOURCES_MAX = 1024  # networks whose knocks are counted one by one; older ones make room
PIN_BURST = 20  # token bucket per pin, drained by a wrong auth_I alone
PIN_PER_SECOND = 10 / 60


def network_of(address: str) -> str:
    """The network that an address is counted under: itself for IPv4, its /56 for IPv6."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 56), strict=False))
    return str(ip)


def deadline_of(now: float, random: Callable[[], float]) -> float:
    """When a connection accepted now is closed if it has not authenticated: drawn at accept, before anything is known.

    One law for every cause, so that the time of the close tells a prober nothing.
    """
    return now + c.HANDSHAKE_TIMEOUT + random() * c.HANDSHAKE_JITTER


@dataclass(slots=True)
class Slot:
    """One pending connection's place; give it back exactly once."""

    network: str
    known: bool
    open: bool = True


class Admission:
    """Slots for pending handshakes."""

    def __init__(self, pending: int, per_source: int = PER_SOURCE) -> None:
        self._limit = pending
        self._per_source = per_source
        self._by_network: Counter[str] = Counter()
        self._pending = 0
        self._pending_unknown = 0
        self._listed: dict[str, frozenset[str]] = {}
        self._listed_by: Counter[str] = Counter()  # how many peers list a network
        self._authenticated: OrderedDict[str, float] = OrderedDict()
        self.refused = 0
        self.refused_unknown = 0  # of them, those from addresses that no peer is known by

    @property
    def limit(self) -> int:
        """How many may hold a slot."""
        return self._limit

    @property
    def limit_unknown(self) -> int:
        """How many of them may come from addresses that no peer is known by."""
        return self._limit // 2

    @property
    def pending_unknown(self) -> int:
        """Connections from addresses that no peer is known by."""
        return self._pending_unknown

    @property
    def pending(self) -> int:
        """Connections that hold a slot."""
        return self._pending

    def resize(self, pending: int) -> None:
        """Take a new limit; slots already given stay."""
        self._limit = pending

    def list_addresses(self, peer: str, addresses: Iterable[str]) -> None:
        """Replace the addresses that a peer lists (its endpoints, as resolved last); none when it is removed."""
        networks = frozenset(network_of(a) for a in addresses)
        for network in self._listed.pop(peer, ()):
            self._listed_by[network] -= 1
            if not self._listed_by[network]:
                del self._listed_by[network]
        self._listed_by.update(networks)
        if networks:
            self._listed[peer] = networks

    def authenticated(self, address: str, now: float) -> None:
        """An address showed that a peer is there."""
        network = network_of(address)
        self._authenticated[network] = now
        self._authenticated.move_to_end(network)
        if len(self._authenticated) > KNOWN_MAX:
            self._authenticated.popitem(last=False)

    def _known(self, network: str, now: float) -> bool:
        if network in self._listed_by:
            return True
        since = self._authenticated.get(network)
        return since is not None and now - since <= KNOWN_FOR

    def admit(self, address: str, now: float) -> Slot | None:
        """A slot, or None: close the connection at once."""
        network = network_of(address)
        known = self._known(network, now)
        full = self._pending >= self._limit or (not known and self._pending_unknown >= self.limit_unknown)
        if full or self._by_network[network] >= self._per_source:
            if not self._by_network[network]:
                del self._by_network[network]
            self.refused += 1
            self.refused_unknown += not known
            return None
        self._by_network[network] += 1
        self._pending += 1
        self._pending_unknown += not known
        return Slot(network, known)

    def release(self, slot: Slot) -> None:
        """The connection authenticated or is gone."""
        if not slot.open:
            return
        slot.open = False
        self._pending -= 1
        self._pending_unknown -= not slot.known
        self._by_network[slot.network] -= 1
        if not self._by_network[slot.network]:
            del self._by_network[slot.network]


class PinBucket:
    """Ten wrong auth_I a minute and pin, twenty in a burst: then that pin's M1 are drained unanswered for a while.

    Whoever gets so far holds a pair key, or a recording from before a restart; the bucket keeps the public-key work
    small that he can cause. An end of the connection before auth_I costs nothing: a peer that redials must not lock
    itself out.
    """

    __slots__ = ("_at", "_tokens")

    def __init__(self, now: float) -> None:
        self._tokens = float(PIN_BURST)
        self._at = now

    def _refill(self, now: float) -> None:
        self._tokens = min(float(PIN_BURST), self._tokens + max(0.0, now - self._at) * PIN_PER_SECOND)
        self._at = now

    def allows(self, now: float) -> bool:
        """Whether public-key work for this pin may start."""
        self._refill(now)
        return self._tokens >= 1.0

    def wrong_auth(self, now: float) -> None:
        """Count one wrong auth_I."""
        self._refill(now)
        self._tokens = max(0.0, self._tokens - 1.0)


@dataclass(slots=True)
class Knock:
    """What was seen from one network."""

    causes: Counter[str]
    first: float
    last: float


class Knocks:
    """Counts, per source network, why strangers were left without an answer: for the log and `status` alone."""

    def __init__(self) -> None:
        self._by_network: OrderedDict[str, Knock] = OrderedDict()
        self.total: Counter[str] = Counter()

    def count(self, address: str, cause: str, unix_time: float) -> int:
        """Add one; the number of this cause from this network so far."""
        network = network_of(address)
        knock = self._by_network.get(network)
        if knock is None:
            knock = self._by_network[network] = Knock(Counter(), unix_time, unix_time)
            if len(self._by_network) > SOURCES_MAX:
                self._by_network.popitem(last=False)
        knock.causes[cause] += 1
        knock.last = unix_time
        self._by_network.move_to_end(network)
        self.total[cause] += 1
        return knock.causes[cause]

    def latest(self, n: int) -> list[tuple[str, Knock]]:
        """The networks heard of last, newest first."""
        return list(reversed(self._by_network.items()))[:n]
