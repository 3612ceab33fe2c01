"""Two and three real hubs whose keys live: a clock that can be set, peers that learn, and what may be asked of both."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubtunnel.config import load
from hubtunnel.daemon.hub import Hub
from hubtunnel.daemon.notify import Notifier
from hubtunnel.identity.caller import Caller
from hubtunnel.identity.pins import load_hub
from hubtunnel.identity.state import State
from hubtunnel.identity.trail import Entry, Trail
from tests.daemon.hubs import DAY, Place, endpoint_of, link, until, up
from tests.identity.making import link_key

WHO = Caller(0, "root")


@dataclass
class Clock:
    """The wall clock of every hub of a test: real seconds, `speed` times as fast, from `start` on."""

    start: float = 0.0
    speed: float = 1.0
    ahead: float = 0.0

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self.start = self.start or time.time()

    def __call__(self) -> float:
        return self.start + self.ahead + (time.monotonic() - self._began) * self.speed


@contextlib.asynccontextmanager
async def living(place: Place, clock: Clock | None = None, *, grace: float = 600.0) -> AsyncIterator[Hub]:
    """A daemon on this place by that clock, which moves sessions without waiting for others."""
    config = load(place.config)
    clock = clock or Clock()
    with State.open(config.state, write=True) as state:
        hub = Hub(config, load_hub(config, state, now=clock()), state, notifier=Notifier({}))
        hub.services.unix_time = clock
        hub.services.move_spread = 0.0
        hub.keeper.told_grace = grace
        try:
            await hub.start()
            yield hub
        finally:
            await hub.end()


def settled(folder: Path, who: str, *, now: float | None = None) -> Place:
    """A hub whose next rotation is far: one link key in its window, and one that begins in a month."""
    now = time.time() if now is None else now
    place = Place(folder / who, who, begin=int(now) - 7200, end=int(now) + 180 * DAY)
    place.ahead = (link_key(who, 99, begin=int(now) + 30 * DAY, end=int(now) + 210 * DAY),)
    return place.make()


@dataclass
class Two:
    """Two hubs that are up; `a` dialled `b`."""

    a: Hub
    b: Hub
    a_place: Place
    b_place: Place


@contextlib.asynccontextmanager
async def two(folder: Path, deliver: tuple[str, int], clock: Clock | None = None) -> AsyncIterator[Two]:
    """Hubs a and b, introduced, with a session between them."""
    clock = clock or Clock()
    a, b = settled(folder, "a", now=clock()), settled(folder, "b", now=clock())
    b.add_peer(a, deliver=deliver)
    async with living(b, clock) as hub_b:
        a.add_peer(b, deliver=deliver, endpoints=[endpoint_of(hub_b)])
        async with living(a, clock) as hub_a:
            await up(hub_a, "b")
            await up(hub_b, "a")
            for hub, who in ((hub_a, "b"), (hub_b, "a")):  # what each holds of the other is on record, nothing is due
                await until(
                    lambda hub=hub, who=who: link(hub, who).keys.known.serial and link(hub, who).keys.known.used
                )
            yield Two(hub_a, hub_b, a, b)


async def ask(hub: Hub, operation: str, **arguments: Any) -> dict[str, Any]:
    """What a command asks of the running daemon."""
    async with asyncio.timeout(40):
        return await hub.operations.run(operation, arguments, WHO)


async def advance(clock: Clock, seconds: float, *hubs: Hub) -> None:
    """Set the clock of all hubs ahead; they look at it at once, as they would at each tick."""
    clock.ahead += seconds
    for hub in hubs:
        await hub.time_passed()
        hub.keeper.wake()


def serial(hub: Hub) -> int:
    """Of the hub's newest card."""
    return hub.keys.card.card.serial


def accepted(hub: Hub, who: str) -> int:
    """Of the card of a peer that is in force."""
    return link(hub, who).keys.cards.latest.card.serial


def acknowledged(hub: Hub, who: str) -> int:
    """Of our card that a peer holds, as it said."""
    return link(hub, who).keys.known.serial


def keys_in_use(hub: Hub, who: str) -> tuple[bytes, bytes]:
    """Ids of our and of their link key under the carrier that is there; empty without one."""
    carriers = [c for c in link(hub, who).core.carriers if not c.closed]
    if not carriers:
        return b"", b""
    return carriers[-1].established.own.id, carriers[-1].established.theirs.id


def trail(place: Place) -> list[Entry]:
    """The whole trail, checked."""
    with State.open(place.folder / "state") as state:
        found = Trail(state)
        found.verify()
        return list(found.entries())
