"""What the hub lends to all its links: loop, clock, workers, limits, and what the hub knows about itself."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hubtunnel.daemon.backoff import Pace
from hubtunnel.daemon.limits import Descriptors
from hubtunnel.daemon.logs import Throttle
from hubtunnel.daemon.mtawatch import MtaWatches
from hubtunnel.daemon.resolver import Resolver
from hubtunnel.daemon.strangers import Admission, Knocks
from hubtunnel.daemon.workers import Workers
from hubtunnel.protocol.events import CardAcknowledged, CardReceived, CardRefused, OwnCardsBehind
from hubtunnel.protocol.link import Budget
from hubtunnel.protocol.pair import LinkSecret, hedged_seed

if TYPE_CHECKING:
    from hubtunnel.daemon.link import PeerLink

CardEvent = CardReceived | CardAcknowledged | CardRefused | OwnCardsBehind

TICK = 20.0  # seconds between looks at the wall clock: hour, key windows
MOVE_SPREAD = 5.0  # seconds over which hubs spread what one new key makes them all do
LOG_EVERY = 60.0  # seconds between log lines that a stranger, or a fault that lasts, could otherwise cause at will


class Seeds:
    """Seeds for ephemerals: system randomness, hedged with the link key, time and a counter."""

    def __init__(self) -> None:
        self._counter = itertools.count()

    def __call__(self, secret: LinkSecret) -> bytes:
        return hedged_seed(secret, os.urandom(64), time.time_ns(), next(self._counter))


@dataclass(slots=True)
class Services:
    """One per daemon."""

    loop: asyncio.AbstractEventLoop
    workers: Workers
    budget: Budget
    admission: Admission
    peer_changed: Callable[[str, bool], None]  # (peer's name, whether it is up now)
    card_event: Callable[[PeerLink, CardEvent], None]  # cards that came or were answered in a session
    key_used: Callable[[PeerLink, LinkSecret], None]  # a handshake was completed with a later own link key than before
    unix_time: Callable[[], float] = time.time
    random: Callable[[], float] = random.random  # back-off and deadlines; never keys
    knocks: Knocks = field(default_factory=Knocks)
    seeds: Seeds = field(default_factory=Seeds)
    entropy: Callable[[int], bytes] = os.urandom
    pace: Pace = field(default_factory=Pace)
    boot: bytes = field(default_factory=lambda: os.urandom(16))
    resolver: Resolver = field(init=False)
    resolve: Callable[[str, int], Awaitable[list[str]]] = field(init=False)  # (host, port) to addresses, best first
    started_at: float = field(default_factory=time.time)
    draining: bool = False
    tick: float = TICK
    move_spread: float = MOVE_SPREAD
    progress: asyncio.Event = field(default_factory=asyncio.Event)  # a stream, session or carrier ended
    descriptors: Descriptors = field(default_factory=Descriptors)
    refused: Counter[str] = field(default_factory=Counter)  # for want of what, by the names in `limits.shown`
    throttle: Throttle = field(init=False)
    mta: MtaWatches = field(init=False)

    def __post_init__(self) -> None:
        self.throttle = Throttle(LOG_EVERY, self.loop.time)
        self.mta = MtaWatches(self.loop, self.unix_time)
        self.resolver = Resolver(self.loop)
        self.resolve = self.resolver
