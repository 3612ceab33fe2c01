"""What features cost: of real daemons where a setting switches one, of two cores in one process where none does.

The daemons hand their mail over to HAProxy before the sink, which understands PROXY headers; it stands there in every
variant, so that what differs is ours alone.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from hubtunnel.daemon.memory import shape_malloc
from tests.bench import cores
from tests.bench.ground import absent, on_loopback
from tests.bench.loads import MAIL, PROGRAMS
from tests.bench.pairs import hubtunnel
from tests.bench.proxies import proxied_sink
from tests.bench.runs import Effort, Notebook, interleaved
from tests.bench.samples import Sample
from tests.bench.ways import Pair, Place, Running

PART = "features"
DEFAULTS = "defaults"
_MAIL_ROUNDS = 10  # of few messages each: what is sought is a hundredth of what a busy moment costs
_MAIL_SHARE = 0.3
_CORE_ROUNDS = 5
_REPETITIONS = 12  # of which the best counts, in each round
_STEPS = 10
_PRESENTED = 'present_as = "192.0.2.1"'  # the carrier's own address is loopback here, which is never presented


@dataclass(frozen=True, slots=True)
class Variant:
    """Daemons with one setting that is not the default: lines of the hubs' and of the peers' files."""

    name: str
    text: str
    proxy: str = "v2"
    hub: tuple[str, ...] = ()
    peer: tuple[str, ...] = ()

    @contextmanager
    def start(self, place: Place) -> Iterator[Running]:
        """Both daemons and their HAProxy."""
        with proxied_sink(place, accept_proxy=self.proxy != "none") as sink:
            there = replace(place, sink=sink)
            lines = (_PRESENTED, *self.peer)
            with hubtunnel(there, loop="uvloop", proxy=self.proxy, hub=self.hub, peer=lines) as running:
                yield running


def variants() -> tuple[Variant, ...]:
    """The first one has all defaults."""
    user = pwd.getpwuid(os.getuid()).pw_name
    return (
        Variant(DEFAULTS, "hubtunnel as it is: PROXY v2, a line in the log for each conversation, anybody may connect"),
        Variant("no PROXY", '`proxy_protocol = "none"`', proxy="none"),
        Variant("PROXY v1", '`proxy_protocol = "v1"`', proxy="v1"),
        Variant("log as JSON", '`format = "json"`', hub=('format = "json"',)),
        Variant("log of warnings", '`level = "warning"`: no line for a conversation', hub=('level = "warning"',)),
        Variant(
            "users",
            "`listen_users`: the kernel is asked whose each connection is",
            peer=(f'listen_users = ["{user}"]',),
        ),
    )


TEXTS = {one.name: one.text for one in (*variants(), *cores.PIECES)}
LOADS = {
    carried.name: f"two cores without sockets, each {carried.name}: {carried.text}"
    for carried in (cores.FRAMES, cores.BULK)
}
LOADS["step"] = "one step of the ratchet, which comes every two minutes of traffic at most"


def measure(effort: Effort, notebook: Notebook) -> None:
    """Both kinds."""
    of_daemons(effort, notebook)
    of_cores(effort, notebook)


def of_daemons(effort: Effort, notebook: Notebook) -> None:
    """All variants beside one another, a connection for each message."""
    pairs = [Pair(variant.name, variant.text, variant.start, ("haproxy",)) for variant in variants()]
    lacking = absent(pairs, PROGRAMS)
    if lacking:
        notebook.skipped[f"{PART}: daemons"] = lacking[DEFAULTS]
        return
    with on_loopback(pairs, "smtp") as ways:
        interleaved(PART, ways, MAIL[:1], _MAIL_ROUNDS, replace(effort, share=effort.share * _MAIL_SHARE), notebook)


def of_cores(effort: Effort, notebook: Notebook) -> None:
    """Each part of the core that does nothing, in turns with the whole."""
    shape_malloc()  # as the daemon does
    for number in range(effort.rounds or _CORE_ROUNDS):
        for carried in (cores.FRAMES, cores.BULK):
            for piece in cores.PIECES:
                whole, without = cores.compare(carried, piece, _REPETITIONS, effort.share)
                values = {"whole_us": whole, "without_us": without, "costs_us": whole - without}
                notebook.write(Sample(PART, carried.name, piece.name, number, values))
        notebook.write(Sample(PART, "step", "hubtunnel", number, {"step_us": cores.ratchet_step(_STEPS)}))
