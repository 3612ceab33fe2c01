"""What every session of a link is given: settings, memory, randomness, and where events and jobs go."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.bytestream import Budget
from hubtunnel.protocol.cards import CardBook
from hubtunnel.protocol.events import CarrierClosing, Event, Job
from hubtunnel.protocol.frames import Hello
from hubtunnel.protocol.schedule import Seed

if TYPE_CHECKING:
    from hubtunnel.protocol.carrier import Carrier


@dataclass(frozen=True, slots=True)
class Settings:
    """What two hubs may set differently. Times in seconds, sizes in bytes; defaults are those of `constants`."""

    version: str = "0"
    capabilities: tuple[str, ...] = ()
    ratchet_after: float = c.RATCHET_AFTER
    ratchet_bytes: int = c.RATCHET_BYTES
    ratchet_records: int = c.RATCHET_RECORDS
    ratchet_interval_min: float = c.RATCHET_INTERVAL_MIN
    ratchet_interval_refused: float = c.RATCHET_INTERVAL_REFUSED
    linger: float = c.LINGER
    keepalive: float = 15.0
    send_window: int = c.SEND_WINDOW
    streams_per_peer: int = 500

    @property
    def hello(self) -> Hello:
        """FR5: what the peer is told of these settings."""
        return Hello(self.version, self.capabilities, (), self.ratchet_interval_refused)


@dataclass(slots=True)
class Environment:
    """One per link; sessions share it."""

    own_idfp: bytes
    peer_idfp: bytes
    boot: bytes  # 16 random bytes of this process
    settings: Settings
    budget: Budget
    seed: Seed
    random: Callable[[int], bytes]
    cards: CardBook = field(default_factory=CardBook)
    events: deque[Event] = field(default_factory=deque)
    jobs: list[Job] = field(default_factory=list)  # few and seldom any

    def close_carrier(self, carrier: Carrier, code: str, text: str, *, fault: bool) -> None:
        """No more of this carrier. After a fault nothing that waits on it leaves any more."""
        if carrier.closed:
            return
        if fault:
            carrier.forget_keys()
        else:
            carrier.stop()
        self.events.append(CarrierClosing(carrier, code, text, fault))
