"""What is sent through the ways. A load measures itself on one way, once, and gives named values."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from tests.bench.bulk import Carried, Order, carry
from tests.bench.smtp import Dialogue, deliver
from tests.bench.ways import NEVER, Way
from tests.e2e.processes import ENVIRONMENT, run

PROGRAMS = ("smtp-source", "smtp-sink")

Values = dict[str, float]
"""Names end in their unit: `_per_s`, `_us`, `_ms`, `_s`, `_mb` (10^6 bytes)."""

_MB = 1e6
_ADDRESSES = ("-f", "load@a.example", "-t", "rcpt@b.example")
_WARM_UP_MESSAGES = 100


class Load(Protocol):
    """`sink` is the kind of sink it needs; `warm_up` is run once on each way before anything counts."""

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def sink(self) -> str: ...

    def warm_up(self, way: Way) -> None: ...
    def measure(self, way: Way, share: float) -> Values: ...


@dataclass(frozen=True, slots=True)
class Mail:
    """`messages` of `length` bytes by `sessions` at once, over a connection each or over connections kept."""

    name: str
    text: str
    sessions: int
    messages: int
    length: int
    kept: bool = False
    sink: str = "smtp"

    def warm_up(self, way: Way) -> None:
        """So that no pair pays for its start."""
        self._send(way, max(self.sessions, round(_WARM_UP_MESSAGES * way.pair.share)))

    def measure(self, way: Way, share: float) -> Values:
        """`share` of the messages. smtp-source fails when a single one is not taken, and that fails the run."""
        messages = max(self.sessions, round(self.messages * share * way.pair.share))
        cpu, began = way.cpu_seconds, time.perf_counter()
        self._send(way, messages)
        seconds = time.perf_counter() - began
        values = {"messages_per_s": messages / seconds}
        if way.pids:
            values["cpu_per_message_us"] = (way.cpu_seconds - cpu) * 1e6 / messages
        return values

    def _send(self, way: Way, messages: int) -> None:
        argv = ["smtp-source", "-s", str(self.sessions), "-m", str(messages), "-l", str(self.length)]
        argv += ["-d"] if self.kept else []
        run(*way.argv([*argv, *_ADDRESSES, way.running.entrance]), deadline=NEVER)


@dataclass(frozen=True, slots=True)
class Bulk:
    """Random bytes for some seconds, over one or more streams at once."""

    name: str
    text: str
    streams: int
    order: Order
    sink: str = "bulk"

    def warm_up(self, way: Way) -> None:
        """A megabyte."""
        carry(way, Order(1 << 20, 30.0), 1)

    def measure(self, way: Way, share: float) -> Values:
        """`share` of the seconds."""
        order = Order(self.order.octets, self.order.seconds * share, self.order.warm_up * share)
        cpu = way.cpu_seconds
        streams = carry(way, order, self.streams)
        values = {"mb_per_s": sum(map(_rate, streams)) / _MB}
        if way.pids:
            values["cpu_per_gb_s"] = (way.cpu_seconds - cpu) * 1e9 / sum(stream.sent for stream in streams)
        return values


def _rate(carried: Carried) -> float:
    return carried.counted / max(carried.seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """NOOP after NOOP on one idle session."""

    name: str = "noop"
    text: str = "NOOPs one after the other on one session, nothing else under way"
    count: int = 2000
    sink: str = "smtp"

    def warm_up(self, way: Way) -> None:
        """A few."""
        with Dialogue(way.connect()) as dialogue:
            _spread_us(dialogue.noop() for _ in range(100))

    def measure(self, way: Way, share: float) -> Values:
        """Median and 99th percentile."""
        with Dialogue(way.connect()) as dialogue:
            return _spread_us(dialogue.noop() for _ in range(max(100, round(self.count * share))))


def _spread_us(seconds: Iterator[float]) -> Values:
    p50, p99 = percentiles(list(seconds))
    return {"p50_us": p50 * 1e6, "p99_us": p99 * 1e6}


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The 50th and the 99th, of what was really seen."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]


@dataclass(frozen=True, slots=True)
class Crowded:
    """NOOPs at a steady pace while `senders` mails of `length` bytes pass, after the same pace on an idle way."""

    name: str = "crowded"
    text: str = "a NOOP every 10 ms, first alone, then while 2 mails of 25 MB at a time pass"
    senders: int = 2
    length: int = 25_000_000
    pace: float = 0.01  # seconds between the beginnings of two NOOPs
    idle_seconds: float = 2.0
    busy_seconds: float = 5.0
    settle_seconds: float = 1.0  # until the mails fill what there is to fill, and until others' have drained
    sink: str = "smtp"

    def warm_up(self, way: Way) -> None:
        """The mails, so that a way which keeps its connections has seen what the line takes."""
        with self._mails(way):
            time.sleep(3 * self.settle_seconds)

    def measure(self, way: Way, share: float) -> Values:
        """Medians and 99th percentiles without and with the mails, once those that passed before have drained."""
        with Dialogue(way.connect()) as dialogue:
            self._paced(dialogue, self.settle_seconds)
            idle = self._paced(dialogue, self.idle_seconds * share)
            with self._mails(way) as sources:
                self._paced(dialogue, self.settle_seconds)
                busy = self._paced(dialogue, self.busy_seconds * share)
                if any(source.poll() is not None for source in sources):
                    raise AssertionError("the mails ended before the measurement did")
        (idle_p50, idle_p99), (busy_p50, busy_p99) = percentiles(idle), percentiles(busy)
        return {
            "idle_p50_ms": idle_p50 * 1e3,
            "idle_p99_ms": idle_p99 * 1e3,
            "busy_p50_ms": busy_p50 * 1e3,
            "busy_p99_ms": busy_p99 * 1e3,
        }

    def _paced(self, dialogue: Dialogue, seconds: float) -> list[float]:
        taken = []
        began = due = time.perf_counter()
        while time.perf_counter() - began < seconds:
            time.sleep(max(0.0, due - time.perf_counter()))
            taken.append(dialogue.noop())
            due += max(self.pace, taken[-1])
        return taken

    @contextmanager
    def _mails(self, way: Way) -> Iterator[list[subprocess.Popen[bytes]]]:
        """A process each: one smtp-source writes a whole message before it turns to its next session."""
        argv = ["smtp-source", "-s", "1", "-m", "1000", "-l", str(self.length), *_ADDRESSES]
        command = way.argv([*argv, way.running.entrance])
        sources = []
        with ExitStack() as stack:
            for _ in range(self.senders):
                source = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
                )
                stack.callback(source.wait)
                stack.callback(source.kill)
                sources.append(source)
            yield sources


@dataclass(frozen=True, slots=True)
class Delivery:
    """One small message by smtplib on a new connection: seconds until the last 250, in round trips of the line."""

    round_trip: float  # seconds
    name: str = "delivery"
    text: str = "one 1 KB message on a new connection, smtplib without pipelining, round trips until the last 250"
    sink: str = "smtp"

    def warm_up(self, way: Way) -> None:
        """One message: the carrier of a pair that keeps one is warm after it."""
        deliver(way.connect, 1000)

    def measure(self, way: Way, share: float) -> Values:
        """`share` has no meaning for one message."""
        return {"round_trips": deliver(way.connect, 1000) / self.round_trip}


@dataclass(frozen=True, slots=True)
class Batch:
    """Mails that all start at once, over a line that may lose packets; given up after a while."""

    name: str = "batch"
    text: str = "20 mails of 1 MB at once; where they did not all arrive within the limit, the rate is an upper bound"
    messages: int = 20
    length: int = 1_000_000
    limit: float = 12.0  # seconds
    sink: str = "smtp"

    def warm_up(self, way: Way) -> None:
        """One message: a carrier is there, and else as it is between two batches."""
        deliver(way.connect, 1000)

    def measure(self, way: Way, share: float) -> Values:
        """Megabytes a second over all of them, and whether they arrived within `share` of the limit."""
        argv = ["smtp-source", "-s", str(self.messages), "-m", str(self.messages), "-l", str(self.length)]
        began = time.perf_counter()
        done = True
        try:
            run(*way.argv([*argv, *_ADDRESSES, way.running.entrance]), deadline=self.limit * max(share, 0.2))
        except subprocess.TimeoutExpired:
            done = False
        seconds = time.perf_counter() - began
        return {"mb_per_s": self.messages * self.length / _MB / seconds, "arrived": float(done)}


MAIL = (
    Mail("new", "10 KiB, 20 at once, a connection each", 20, 1000, 10_240),
    Mail("kept", "10 KiB, 20 at once, connections kept", 20, 3000, 10_240, kept=True),
    Mail("large", "1 MiB, 4 at once, a connection each", 4, 40, 1 << 20),
)

_LIMITLESS = 1 << 50

BULK = (
    Bulk("one", "one stream", 1, Order(_LIMITLESS, 2.0, 0.3)),
    Bulk("sixteen", "16 streams at once", 16, Order(_LIMITLESS, 2.0, 0.3)),
)


def long_bulk(seconds: float, warm_up: float) -> Bulk:
    """One stream over a distance, counted once its window has opened."""
    return Bulk("bulk", "one stream", 1, Order(_LIMITLESS, seconds, warm_up))
