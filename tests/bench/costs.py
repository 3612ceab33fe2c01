"""What standing costs: memory of a hub, of an idle stream, start-up, and handshakes a second on one core."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

from hubtunnel.protocol.handshake import Initiator
from tests.bench.ground import absent, on_loopback
from tests.bench.loads import PROGRAMS
from tests.bench.pairs import PAIRS
from tests.bench.runs import Effort, Notebook
from tests.bench.samples import Sample
from tests.bench.smtp import Dialogue
from tests.bench.ways import Way
from tests.e2e.processes import POLL
from tests.protocol.handshakes import HALF_PAST, Party, shake, work

PART = "costs"
ROUNDS = 3
STREAMS = 400  # below the default limit of 500 a peer
HANDSHAKES = 200
_SETTLED = 1.0  # seconds in which a process does what it does after its start
_COMPARED = ("haproxy", "haproxy-tls", "stunnel", "spiped", "hubtunnel")


def measure(effort: Effort, notebook: Notebook) -> None:
    """Every pair on its own, started anew for each round."""
    wanted = [PAIRS[name] for name in effort.pairs or _COMPARED if name in _COMPARED]
    lacking = absent(wanted, PROGRAMS)
    notebook.skipped |= {f"{PART}: {name}": reason for name, reason in lacking.items()}
    for number in range(effort.rounds or ROUNDS):
        for pair in wanted:
            if pair.name in lacking:
                continue
            with on_loopback([pair], "smtp") as ways:
                way = ways[pair.name]
                values = _memory(way, max(50, round(STREAMS * effort.share)))
                if way.running.start_seconds is not None:
                    values["start_ms"] = way.running.start_seconds * 1e3
            notebook.write(Sample(PART, "standing", pair.name, number, values))
        rate = handshakes_per_second(max(20, round(HANDSHAKES * effort.share)))
        notebook.write(Sample(PART, "handshakes", "hubtunnel", number, {"handshakes_per_s": rate}))


def _memory(way: Way, streams: int) -> dict[str, float]:
    """Of the larger end: resident, and what each idle stream adds."""
    with Dialogue(way.connect()):
        pass
    time.sleep(_SETTLED)
    before = way.resident_bytes
    with ExitStack() as stack:
        for _ in range(streams):
            stack.enter_context(Dialogue(way.connect()))
        time.sleep(10 * POLL)
        during = way.resident_bytes
    added = max(after - first for first, after in zip(before, during, strict=True))
    return {"resident_mb": max(before) / 1e6, "per_stream_kb": added / streams / 1e3}


def handshakes_per_second(count: int) -> float:
    """Both sides of our handshake on one core, one after the other, with fresh ephemeral keys each; no sockets."""
    a, b = Party(b"a", 1), Party(b"b", 2)
    context, table = a.context(b), b.listen(a)
    began = time.process_time()
    for _ in range(count):
        initiator = Initiator(context, HALF_PAST, os.urandom(96))
        work(initiator)
        shake(initiator, b.accept(table))
    return count / (time.process_time() - began)
