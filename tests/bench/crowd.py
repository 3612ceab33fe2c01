"""The folders and addresses of one hub and its many peers, in two namespaces.

The hub lives in the near one. In the far one each peer has an address of its own, which it listens at and dials from:
a hub bounds the pending connections of each source. Peers of even numbers are dialled by the hub, the others dial it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.daemon.hubs import Place, signed_card
from tests.e2e.namespaces import Namespace
from tests.e2e.processes import run

CROWD_HUB = "hub"
HOUR, DAY = 3600, 86400
_SINK = ("127.0.0.1", 2526)
_PORT = 2625


@dataclass
class Crowd:
    """All of them; `folder` is the same in the benchmark and in the process that runs the peers."""

    folder: Path
    _window: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        # One window for all cards, also in the other process: cards made twice are the same.
        path = self.folder / "window"
        if not path.exists():
            now = int(time.time())
            path.write_text(f"{now - 2 * HOUR} {now + 100 * DAY}")
        begin, end = map(int, path.read_text().split())
        self._window = (begin, end)

    def hub(self, name: str) -> Place:
        """The hub's own folder; one for each constellation."""
        return Place(self.folder / name, CROWD_HUB, *self._window)

    def peer(self, number: int) -> Place:
        """A peer's folder."""
        return Place(self.folder / f"peer-{number}", _who(number), *self._window)

    def make_peers(self, count: int) -> None:
        """So many, with the hub as their only peer. Those of odd numbers have its address."""
        hub = self.hub("any")
        for number in range(count):
            place = self.peer(number).make(listen=f"{address(number)}:{_PORT}", times="")
            endpoints = [f"{_hub_seen_by(number)}:{_PORT}"] if number % 2 else []
            place.add_peer(hub, endpoints=endpoints, deliver=_SINK)

    def make_hub(self, name: str, configured: int, connected: int) -> Place:
        """The hub with so many peers. Of those beyond `connected`, half are dialled in vain, half never dial."""
        place = self.hub(name).make(listen=f"0.0.0.0:{_PORT}", times="")
        for number in range(configured):
            who = _who(number)
            # Nobody listens at the addresses of those that are not connected.
            endpoints = [] if number % 2 else [f"{address(number)}:{_PORT if number < connected else 1}"]
            card = signed_card(who, *self._window)
            path = place.add_peer(who, card=card, endpoints=endpoints, deliver=_SINK)
            path.write_text(path.read_text().replace('"127.0.0.1:0"', f'"{handover(number)}"'))
        return place


def address(number: int) -> str:
    """Of a peer, in the far namespace."""
    return f"10.99.{number // 250}.{1 + number % 250}"


def handover(number: int) -> str:
    """Where the hub takes mail for a peer."""
    return f"127.1.{number // 250}.{1 + number % 250}:24"


def _hub_seen_by(number: int) -> str:
    return f"10.98.{number // 250}.{1 + number % 250}"


def _who(number: int) -> str:
    return f"p{number:04}"


def lay_addresses(folder: Path, near: Namespace, far: Namespace, count: int) -> None:
    """Each peer's address, and for each an address of the hub whose route says that it is reached from that one."""
    run("ip", "-n", near.name, "route", "add", "local", "10.98.0.0/16", "dev", "lo")
    run("ip", "-n", near.name, "route", "add", "10.99.0.0/16", "via", far.address)
    batch = folder / "addresses"
    lines = []
    for number in range(count):
        own = address(number)
        lines.append(f"address add {own}/32 dev {far.interface}")
        lines.append(f"route add {_hub_seen_by(number)}/32 via {near.address} src {own}")
    batch.write_text("\n".join(lines) + "\n")
    run("ip", "-n", far.name, "-batch", str(batch))
