"""What the project wants to reach, each target with how it is computed from the samples."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tests.bench.parts import RATE, distance_name
from tests.bench.samples import Samples, Spread, spread

OURS = "hubtunnel"
COMPILED = "hubtunnel-compiled"
_100_MS = distance_name(0.100, 0.0)
_100_MS_LOSS = distance_name(0.100, 0.01)


class Verdict(StrEnum):
    """Of a target, by the median."""

    REACHED = "reached"
    MISSED = "**missed**"
    UNKNOWN = "not measured, or given up"


@dataclass(frozen=True, slots=True)
class Target:
    """`wanted` is the least, or with `at_most` the most, that what is `measured` of one of our pairs may be."""

    what: str
    unit: str
    wanted: float
    measured: Callable[[Samples, str], Spread | None]
    at_most: bool = False

    def judge(self, samples: Samples, pair: str = OURS) -> tuple[Spread | None, Verdict]:
        """What was measured, and what it is worth."""
        value = self.measured(samples, pair)
        if value is None:
            return None, Verdict.UNKNOWN
        good = value.median <= self.wanted if self.at_most else value.median >= self.wanted
        return value, Verdict.REACHED if good else Verdict.MISSED


def _ratio(part: str, load: str, other: str, value: str) -> Callable[[Samples, str], Spread | None]:
    return lambda samples, ours: samples.ratio(part, load, ours, other, value)


def _figure(part: str, load: str, value: str) -> Callable[[Samples, str], Spread | None]:
    return lambda samples, ours: samples.figure(part, load, ours, value)


def _added_latency(samples: Samples, ours: str) -> Spread | None:
    """What we add to a round trip, against what HAProxy with TLS adds."""
    pairs = (ours, "haproxy-tls", "direct")
    return samples.within_rounds(
        "latency", "noop", pairs, "p50_us", lambda own, tls, none: (own - none) / max(0.0, tls - none)
    )


def _crowding(samples: Samples, ours: str) -> Spread | None:
    return samples.derived(
        "crowded", "crowded", ours, lambda values: values["busy_p99_ms"] / (2 * values["idle_p99_ms"] + 10)
    )


def _link_share(samples: Samples, ours: str) -> Spread | None:
    return samples.derived(_100_MS, "bulk", ours, lambda values: 100 * values["mb_per_s"] * 8e6 / RATE)


def _batch(samples: Samples, ours: str) -> Spread | None:
    """Nothing where our batch was given up. Where the other's was, its rate is an upper bound, and the ratio a lower."""
    arrived = samples.figure(_100_MS_LOSS, "batch", ours, "arrived")
    if arrived is None or arrived.least < 1:
        return None
    return samples.ratio(_100_MS_LOSS, "batch", ours, "direct", "mb_per_s")


def per_peer_kb(samples: Samples, ours: str = OURS) -> Spread | None:
    """The slope of a straight line through memory against connected peers."""
    if ours != OURS:
        return None  # the one pair whose hubs have many
    points = samples.curve("scale", "connected", "resident_mb")
    if len(points) < 2:
        return None
    slope = statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope
    return spread([slope * 1000])


# ruff: noqa: E501 - one line a target reads as the table that it is
TARGETS = (
    Target("messages/s, a connection each, 10 KiB, 20 at once", "× HAProxy plain", 1.1, _ratio("mail", "new", "haproxy", "messages_per_s")),
    Target("the same", "× HAProxy TLS", 3, _ratio("mail", "new", "haproxy-tls", "messages_per_s")),
    Target("the same", "× stunnel", 5, _ratio("mail", "new", "stunnel", "messages_per_s")),
    Target("messages/s, connections kept", "× HAProxy plain", 0.95, _ratio("mail", "kept", "haproxy", "messages_per_s")),
    Target("the same", "× HAProxy TLS", 1.4, _ratio("mail", "kept", "haproxy-tls", "messages_per_s")),
    Target("bulk, one stream", "× HAProxy TLS", 1.5, _ratio("bulk", "one", "haproxy-tls", "mb_per_s")),
    Target("the same", "× stunnel", 2, _ratio("bulk", "one", "stunnel", "mb_per_s")),
    Target("the same", "× spiped", 8, _ratio("bulk", "one", "spiped", "mb_per_s")),
    Target("CPU per message, a connection each", "× HAProxy plain", 1.0, _ratio("mail", "new", "haproxy", "cpu_per_message_us"), at_most=True),
    Target("CPU per GB, one stream", "× HAProxy TLS", 1.0, _ratio("bulk", "one", "haproxy-tls", "cpu_per_gb_s"), at_most=True),
    Target("added latency of an idle SMTP round trip, median", "× HAProxy TLS", 1.5, _added_latency, at_most=True),
    Target("small replies' p99 while 25 MB mails pass at 100 Mbit/s", "× (2 × idle p99 + 10 ms)", 1.0, _crowding, at_most=True),
    Target("round trips until the 250 at 100 ms, warm", "round trips", 6.1, _figure("delivery", "delivery", "round_trips"), at_most=True),
    Target("bulk at 100 ms, no loss, 100 Mbit/s", "% of the link", 90, _link_share),
    Target("20 mails of 1 MB at once at 100 ms, 1 % loss", "× direct in clear", 0.8, _batch),
    Target("memory of a hub with one peer", "MB", 45, _figure("costs", "standing", "resident_mb"), at_most=True),
    Target("memory of an idle stream", "KB", 20, _figure("costs", "standing", "per_stream_kb"), at_most=True),
    Target("memory of a connected peer", "KB", 60, per_peer_kb, at_most=True),
)  # fmt: skip
