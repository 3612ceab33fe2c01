"""The parts of the benchmark: which pairs, which loads, on which ground, how often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench import costs, features, mtas, scale
from tests.bench.ground import absent, at_distance, on_loopback
from tests.bench.loads import BULK, MAIL, PROGRAMS, Batch, Crowded, Delivery, Load, RoundTrips, long_bulk
from tests.bench.pairs import PAIRS
from tests.bench.runs import Effort, Notebook, interleaved
from tests.bench.ways import Pair
from tests.faults.line import Quality

RATE = 100e6
"""Bits a second of the line where it has a rate."""

QUEUE_20_MS = int(RATE / 8 * 0.020)

DISTANCES = tuple((delay, loss) for delay in (0.020, 0.100, 0.300) for loss in (0.0, 0.01))
"""Round trip in seconds, and the share of packets that is lost in each direction."""

DISTANCE_PAIRS = ("direct", "haproxy-tls", "hubtunnel")
DELIVERY_PAIRS = tuple(name for name in PAIRS if name != "hubtunnel-asyncio")
DELIVERIES = 7  # a single message each, of which a cold processor makes some slower by a tenth of a round trip


@dataclass(frozen=True, slots=True)
class Part:
    """One sub-choice of the command."""

    name: str
    text: str
    run: Callable[[Effort, Notebook], None]


def distance_name(delay: float, loss: float) -> str:
    """The name of the part for a line, as it stands in the samples."""
    return f"distance {delay * 1000:.0f} ms {loss * 100:.0f} %"


def chosen(part: str, pairs: Sequence[str], effort: Effort, notebook: Notebook) -> list[Pair]:
    """The pairs that can be measured here; the others are noted with the reason."""
    wanted = [PAIRS[name] for name in effort.pairs or pairs if name in pairs]
    lacking = absent(wanted, PROGRAMS)
    notebook.skipped |= {f"{part}: {name}": reason for name, reason in lacking.items()}
    return [pair for pair in wanted if pair.name not in lacking]


def _loopback(
    part: str, sink: str, loads: Sequence[Load], rounds: int, pairs: Sequence[str]
) -> Callable[[Effort, Notebook], None]:
    def run(effort: Effort, notebook: Notebook) -> None:
        there = chosen(part, pairs, effort, notebook)
        if there:
            with on_loopback(there, sink) as ways:
                interleaved(part, ways, loads, rounds, effort, notebook)

    return run


def crowded(effort: Effort, notebook: Notebook) -> None:
    """Small replies beside large mails, on a line of 100 Mbit/s whose queue holds 20 ms."""
    pairs = chosen("crowded", ("direct", "haproxy-tls", "stunnel", "hubtunnel"), effort, notebook)
    if pairs:
        with at_distance(pairs, "smtp", Quality(rate=RATE, queue=QUEUE_20_MS)) as (_, ways):
            interleaved("crowded", ways, [Crowded()], 2, effort, notebook)


def delivery(effort: Effort, notebook: Notebook) -> None:
    """One message at a distance of 100 ms, counted in round trips; STARTTLS directly between client and server too."""
    round_trip = 0.100
    pairs = chosen("delivery", DELIVERY_PAIRS, effort, notebook)
    if pairs:
        with at_distance(pairs, "smtp", Quality(delay=round_trip / 2)) as (_, ways):
            interleaved("delivery", ways, [Delivery(round_trip)], DELIVERIES, effort, notebook)
    if effort.pairs is None or "starttls" in effort.pairs:
        mtas.starttls_delivery(round_trip, effort.rounds or DELIVERIES, notebook)


def distance(effort: Effort, notebook: Notebook) -> None:
    """Bulk and a batch of mails over 20, 100 and 300 ms, without loss and with 1 %, at 100 Mbit/s."""
    # A carrier of BBR begins with seconds in which it fills the queue and loses packets, and lets the way run dry for a
    # fifth of a second every ten: what it carries once it runs shows over ten.
    for sink, load in (("bulk", long_bulk(10.0, 4.0)), ("smtp", Batch())):
        pairs = chosen("distance", DISTANCE_PAIRS, effort, notebook)
        if not pairs:
            return
        with at_distance(pairs, sink, Quality(rate=RATE, queue=QUEUE_20_MS)) as (line, ways):
            for delay, loss in DISTANCES:
                # What a broken-off batch left in the pairs drains while the line is short and loses nothing.
                line.set(Quality(rate=RATE, queue=QUEUE_20_MS))
                for way in ways.values():
                    load.warm_up(way)
                line.set(Quality(delay=delay / 2, loss=loss, rate=RATE, queue=QUEUE_20_MS))
                # Who keeps a connection begins another: the kernel remembers a round trip for seconds, and would send
                # over this distance no more than what the short line held.
                line.kill()
                for way in ways.values():
                    load.warm_up(way)
                interleaved(distance_name(delay, loss), ways, [load], 1, effort, notebook, warm=True)


PARTS = {
    part.name: part
    for part in (
        Part("mail", "messages a second and CPU per message", _loopback("mail", "smtp", MAIL, 4, tuple(PAIRS))),
        Part("bulk", "bytes a second and CPU per GB", _loopback("bulk", "bulk", BULK, 3, tuple(PAIRS))),
        Part(
            "latency",
            "idle SMTP round trips",
            _loopback("latency", "smtp", [RoundTrips()], 3, tuple(PAIRS)),
        ),
        Part("crowded", "small replies while 25 MB mails pass at 100 Mbit/s", crowded),
        Part("delivery", "round trips until the 250 at 100 ms", delivery),
        Part("distance", "bulk and batches of mail over 20, 100 and 300 ms with and without loss", distance),
        Part("costs", "memory, start-up, handshakes a second", costs.measure),
        Part("features", "PROXY, log, users; resend buffer, ACK, credit and more: what each costs", features.measure),
        Part("mtas", "Postfix to Postfix: in clear, STARTTLS with pinned fingerprints, through us", mtas.measure),
        Part("scale", "a hub with 1,000 peers of which 200 are connected", scale.measure),
    )
}
