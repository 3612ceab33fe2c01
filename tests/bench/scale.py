"""One hub and many peers: start-up, idle CPU, memory, mail on some of them, and a restart after which all come back.

Peers are real hubs with real sessions, all in one process (generator.py), in a namespace of their own; see crowd.py.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.crowd import Crowd, handover, lay_addresses
from tests.bench.ground import ROOT, smtp_or_bulk_sink
from tests.bench.loads import PROGRAMS
from tests.bench.runs import Effort, Notebook
from tests.bench.samples import Sample
from tests.bench.smtp import Dialogue
from tests.bench.ways import connected as connect
from tests.bench.ways import cpu_seconds, rss_bytes
from tests.daemon.hubs import Place
from tests.e2e.namespaces import Namespace, two_namespaces
from tests.e2e.processes import Child, missing, run, wait_until

PART = "scale"
CONFIGURED = 1000
CONNECTED = 200
MAILED = 20  # peers that mail goes to
MAILS_EACH = 20
IDLE_SECONDS = 16.0  # longer than `keepalive`, so that every session is asked once
SHORT_IDLE_SECONDS = 8.0
STREAMS = (0, 500, 1000)
_SETTLED = 10.0  # what follows a start is over by then: cards that are acknowledged, and dials close to one another
_STOP_WITHIN = 5.0
_PATIENCE = 120.0
_starts = itertools.count(1)


def lacking() -> str:
    """Why it cannot be measured here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    absent = missing((*PROGRAMS, "ip"))
    return f"not installed: {', '.join(absent)}" if absent else ""


@dataclass
class _Scene:
    """Where it all happens."""

    folder: Path
    crowd: Crowd
    near: Namespace
    far: Namespace
    notebook: Notebook

    def note(self, load: str, x: int, **values: float) -> None:
        """One point of a curve: the round is its place on the axis."""
        self.notebook.write(Sample(PART, load, "hubtunnel", x, values))


def measure(effort: Effort, notebook: Notebook) -> None:
    """With `effort.share` of the peers."""
    if reason := lacking():
        notebook.skipped[PART] = reason
        return
    configured, connected = (max(20, round(n * effort.share)) for n in (CONFIGURED, CONNECTED))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubtunnel-bench-")))
        near, far = stack.enter_context(two_namespaces())
        lay_addresses(folder, near, far, connected)
        stack.enter_context(smtp_or_bulk_sink("smtp", "0.0.0.0:2526", folder, far))
        scene = _Scene(folder, Crowd(folder), near, far, notebook)
        scene.crowd.make_peers(connected)
        for x in (1, configured // 4, configured // 2):
            _configured(scene, x)
        for x in (connected // 4, connected // 2, connected):
            _connected(scene, x)
        _full(scene, configured, connected)


def _configured(scene: _Scene, x: int) -> None:
    """So many peers, of whom nobody is there. Only the first start stores their cards."""
    place = scene.crowd.make_hub(f"configured-{x}", x, 0)
    with _hub(scene, place) as (_, first):
        pass
    with _hub(scene, place) as (hub, seconds):
        cpu = _idle(hub, SHORT_IDLE_SECONDS)
        values = {"idle_cpu_percent": cpu, "resident_mb": rss_bytes(hub.pid) / 1e6}
        scene.note("configured", x, first_start_s=first, start_s=seconds, **values)


def _connected(scene: _Scene, x: int) -> None:
    """So many peers, who are all there. At the first contact each side has a new card for the other."""
    place = scene.crowd.make_hub(f"connected-{x}", x, x)
    with _peers(scene, x) as peers:
        with _hub(scene, place) as (hub, _):
            _until_up(peers, x)
            time.sleep(_SETTLED)
            first = rss_bytes(hub.pid) / 1e6
        _until_down(peers)
        with _hub(scene, place) as (hub, seconds):
            up = _until_up(peers, x)
            values = {"idle_cpu_percent": _idle(hub, SHORT_IDLE_SECONDS), "resident_mb": rss_bytes(hub.pid) / 1e6}
            scene.note("connected", x, start_s=seconds, **up, **values, first_resident_mb=first)


def _full(scene: _Scene, configured: int, connected: int) -> None:
    """What the issue of size is about: many configured, some of them connected, and a restart."""
    place = scene.crowd.make_hub("full", configured, connected)
    with _peers(scene, connected) as peers:
        with _hub(scene, place) as (hub, first):
            up = _until_up(peers, connected)
            after_dials = rss_bytes(hub.pid) / 1e6
            cpu = _idle(hub, IDLE_SECONDS)
            rate, per_message = _mail(scene, hub, min(MAILED, connected))
            values = {"first_start_s": first, **up, "resident_mb": after_dials, "idle_cpu_percent": cpu}
            scene.note("full", connected, **values, messages_per_s=rate, cpu_per_message_us=per_message)
            _streams(scene, hub, min(MAILED, connected))
        _until_down(peers)
        with _hub(scene, place) as (hub, seconds):
            up = _until_up(peers, connected, at_once=False)
            used = cpu_seconds(hub.pid)
            scene.note("restart", connected, start_s=seconds, **up, cpu_s=used, stop_s=_stop(hub))
            scene.note("configured", configured, first_start_s=first, start_s=seconds)


def _streams(scene: _Scene, hub: Child, mailed: int) -> None:
    """Idle streams, spread over some peers."""
    with ExitStack() as stack:
        opened = 0
        for x in STREAMS:
            while opened < x * mailed // MAILED:
                sock = connect(handover(opened % mailed), scene.near)
                stack.enter_context(Dialogue(sock))
                opened += 1
            resident = rss_bytes(hub.pid) / 1e6
            cpu = cpu_seconds(hub.pid)
            rate, _ = _mail(scene, hub, mailed)
            mails = mailed * MAILS_EACH
            used = (cpu_seconds(hub.pid) - cpu) * 1e6 / mails
            scene.note("streams", opened, resident_mb=resident, messages_per_s=rate, cpu_per_message_us=used)


def _mail(scene: _Scene, hub: Child, mailed: int) -> tuple[float, float]:
    """To some peers at once: messages a second, and CPU of the hub for each, microseconds."""

    def load(number: int) -> None:
        argv = ["smtp-source", "-s", "2", "-m", str(MAILS_EACH), "-l", "10240"]
        addresses = ["-f", "load@a.example", "-t", "rcpt@b.example", handover(number)]
        run(*scene.near.argv([*argv, *addresses]), deadline=_PATIENCE)

    cpu, began = cpu_seconds(hub.pid), time.perf_counter()
    with ThreadPoolExecutor(mailed) as pool:
        list(pool.map(load, range(mailed)))
    seconds = time.perf_counter() - began
    messages = mailed * MAILS_EACH
    return messages / seconds, (cpu_seconds(hub.pid) - cpu) * 1e6 / messages


def _idle(hub: Child, seconds: float) -> float:
    """CPU of a hub with nothing to do, in percent of one core. What was still to do gets some time first."""
    time.sleep(_SETTLED)
    cpu, began = cpu_seconds(hub.pid), time.perf_counter()
    time.sleep(seconds)
    return 100 * (cpu_seconds(hub.pid) - cpu) / (time.perf_counter() - began)


@contextmanager
def _hub(scene: _Scene, place: Place) -> Iterator[tuple[Child, float]]:
    """The hub as a real daemon, and the seconds from its start until it listens.

    Its folder is there before its peers are: while it is made, they would dial in vain and ever more seldom.
    """
    argv = [sys.executable, "-m", "hubtunnel", "--config", str(place.config), "run"]
    log = scene.folder / f"{place.folder.name}-{next(_starts)}.log"
    began = time.perf_counter()
    hub = scene.near.start("the hub", argv, log, cwd=ROOT)
    try:
        hub.wait_for(lambda: " info started " in hub.log, "`started` in the log", deadline=_PATIENCE)
        yield hub, time.perf_counter() - began
    finally:
        _stop(hub)


def _stop(hub: Child) -> float:
    """Seconds that it takes to end. Asked a second time after a while, it has to end at once."""
    began = time.perf_counter()
    for patience in (_STOP_WITHIN, _STOP_WITHIN):
        if hub.running:
            os.kill(hub.pid, signal.SIGTERM)
        try:
            wait_until(lambda: not hub.running, "the end of the hub", deadline=patience)
            break
        except AssertionError:
            continue
    seconds = time.perf_counter() - began
    hub.stop()
    return seconds


@contextmanager
def _peers(scene: _Scene, count: int) -> Iterator[Child]:
    argv = [sys.executable, "-m", "tests.bench.generator", str(scene.folder), str(count)]
    peers = scene.far.start("the peers", argv, scene.folder / f"peers-{next(_starts)}.log", cwd=ROOT)
    try:
        peers.wait_for(lambda: "ready" in peers.log, f"{count} peers", deadline=_PATIENCE)
        yield peers
    finally:
        peers.stop()


@dataclass(frozen=True, slots=True)
class _Up:
    """Sessions that stand: of all peers, and of those that the hub dials."""

    all: int
    dialled: int


def _until_up(peers: Child, count: int, *, at_once: bool = True) -> dict[str, float]:
    """Seconds until the sessions stand that the hub dials, and until all do.

    The others all dial `at_once`; else at their own pace, which grew slower while there was no hub.
    """
    began = time.perf_counter()
    if at_once:
        os.kill(peers.pid, signal.SIGUSR1)
    _until(peers, lambda up: up.dialled >= (count + 1) // 2, f"sessions with the {count} peers that are dialled")
    dialled = time.perf_counter() - began
    _until(peers, lambda up: up.all >= count, f"{count} sessions")
    return {"dialled_up_s": dialled, "up_s": time.perf_counter() - began}


def _until_down(peers: Child) -> None:
    _until(peers, lambda up: up.all == 0, "the end of all sessions")


def _until(peers: Child, fact: Callable[[_Up], bool], what: str) -> None:
    def holds() -> bool:
        told = re.findall(r"^up (\d+) (\d+)$", peers.log, re.MULTILINE)
        return bool(told) and fact(_Up(*map(int, told[-1])))

    peers.wait_for(holds, what, deadline=_PATIENCE)
