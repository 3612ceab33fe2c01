"""The ground on which pairs stand: addresses on loopback or two namespaces, a sink behind, and all gone at the end."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.bench.ways import Pair, Place, Way, connected
from tests.e2e.namespaces import ADDRESSES, Namespace, two_namespaces
from tests.e2e.processes import Child, missing
from tests.faults.line import Line, Quality, joined

ROOT = Path(__file__).resolve().parents[2]
SINK_PORT = {"smtp": 2526, "bulk": 2527}
SINK_SESSIONS = 2000


def absent(pairs: Sequence[Pair], others: Sequence[str] = ()) -> dict[str, str]:
    """Pair -> why it cannot be measured here; the programs of `others` are needed by all of them."""
    needed = missing(others)
    reasons = {}
    for pair in pairs:
        lacks = [*needed, *missing(pair.programs)]
        reason = f"not installed: {', '.join(lacks)}" if lacks else pair.lacking()
        if reason:
            reasons[pair.name] = reason
    return reasons


@contextmanager
def on_loopback(pairs: Sequence[Pair], sink: str) -> Iterator[dict[str, Way]]:
    """All pairs running beside one another on this machine, with one sink of that kind ("smtp" or "bulk").

    Pairs that need a network of their own get one, of two namespaces and a veth, with a sink in it.
    """
    with _folder() as folder, ExitStack() as stack:
        network = f"127.{64 + os.getpid() // 250 % 128}.{os.getpid() % 250}"
        port = SINK_PORT[sink]
        stack.enter_context(smtp_or_bulk_sink(sink, f"{network}.1:{port}", folder, None))
        ways = {}
        for number, pair in enumerate(pairs):
            own = folder / pair.name
            own.mkdir()
            if pair.own_network:
                near, far = stack.enter_context(two_namespaces())
                stack.enter_context(smtp_or_bulk_sink(sink, f"0.0.0.0:{port}", own, far))
                place = _in_namespaces(own, number, near, far, port)
            else:
                entrance, middle = f"{network}.{10 + 2 * number}:2524", f"{network}.{11 + 2 * number}:2625"
                place = Place(own, number, entrance, middle, f"{network}.1:{port}", f"{network}.1:{port}")
            ways[pair.name] = Way(pair, place, stack.enter_context(pair.start(place)))
        yield ways


@contextmanager
def at_distance(pairs: Sequence[Pair], sink: str, quality: Quality) -> Iterator[tuple[Line, dict[str, Way]]]:
    """All pairs between the same two namespaces, with a line between these whose delay, loss and rate are ours."""
    with _folder() as folder, ExitStack() as stack:
        near, far, line = stack.enter_context(joined(quality))
        port = SINK_PORT[sink]
        stack.enter_context(smtp_or_bulk_sink(sink, f"0.0.0.0:{port}", folder, far))
        ways = {}
        for number, pair in enumerate(pairs):
            own = folder / pair.name
            own.mkdir()
            place = _in_namespaces(own, number, near, far, port)
            ways[pair.name] = Way(pair, place, stack.enter_context(pair.start(place)))
        yield line, ways


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hubtunnel-bench-") as name:
        yield Path(name)


def _in_namespaces(folder: Path, number: int, near: Namespace, far: Namespace, port: int) -> Place:
    return Place(
        directory=folder,
        number=number,
        entrance=f"127.0.0.{10 + number}:2524",
        middle=f"{ADDRESSES[1]}:{2625 + number}",
        sink=f"127.0.0.1:{port}",
        direct=f"{ADDRESSES[1]}:{port}",
        near=near,
        far=far,
    )


@contextmanager
def smtp_or_bulk_sink(kind: str, address: str, folder: Path, inside: Namespace | None) -> Iterator[None]:
    """A sink of that kind at HOST:PORT."""
    if kind == "smtp":
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        argv = ["smtp-sink", *user, "-m", str(SINK_SESSIONS), address, str(SINK_SESSIONS)]
    else:
        argv = [sys.executable, "-m", "tests.bench.bulk", address]
    sink = Child(f"{kind} sink", argv if inside is None else inside.argv(argv), folder / "sink.log", cwd=ROOT)
    probed = address.replace("0.0.0.0", "127.0.0.1")
    try:
        sink.wait_for(partial(_answers, probed, inside), f"the {kind} sink to listen on {address}")
        yield
    finally:
        sink.stop()


def _answers(address: str, inside: Namespace | None) -> bool:
    try:
        connected(address, inside, timeout=2).close()
    except OSError:
        return False
    return True
