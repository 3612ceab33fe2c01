"""What ratchet steps cost: the same load through two pairs of daemons, of which one pair steps every 100 ms.

Rounds alternate between the pairs and what is compared stands in one round, so that the machine's other work falls on
both. A round is full load by `smtp-source`; beside it a few sessions of ours hand over letters and time each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hubtunnel.daemon.control import request
from tests.e2e.hubs import Hub
from tests.e2e.processes import Child, run
from tests.faults.mail import MEDIAN, spread
from tests.faults.stage import configure

PROGRAMS = ("smtp-source", "smtp-sink")
SESSIONS = 20
PROBES = 3
WARM_UP = 200
ALLOWED_THROUGHPUT = 0.95
ALLOWED_P99 = 1.10
_PAUSE = 0.005
_LETTER = b"Subject: probe\r\n\r\n" + (b"x" * 98 + b"\r\n") * (MEDIAN // 100) + b".\r\n"


@dataclass(frozen=True)
class Form:
    """How much: rounds, and messages of one pair in one."""

    rounds: int
    messages: int
    pairs: tuple[str, ...]


LONG = Form(rounds=60, messages=400, pairs=("none", "every 100 ms"))  # many and short: the machine has moods
SHORT = Form(rounds=1, messages=400, pairs=("every 64 KiB",))

SETTINGS: dict[str, dict[str, str]] = {
    "none": {},
    "every 100 ms": {"ratchet_after": "100ms"},
    "every 64 KiB": {"ratchet_after": "50ms", "ratchet_bytes": "64KiB"},
}


@dataclass
class Pair:
    """Two daemons in a row."""

    name: str
    near: Hub
    far: Hub
    entrance: str

    def epoch(self) -> int:
        """Steps of the session so far."""
        peer = request(self.near.directory / "control.sock", "status")["status"]["peers"][0]
        return int(peer["session"]["epoch"])

    def cpu_seconds(self) -> float:
        """Of both, user and system (fields 14 and 15 of proc(5) stat)."""
        ticks = 0
        for hub in (self.near, self.far):
            fields = Path(f"/proc/{hub.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@dataclass
class Measured:
    """One pair in one round."""

    per_second: float
    delays: list[float]
    steps_per_second: float
    cpu_us: float


@contextlib.asynccontextmanager
async def _pairs(names: tuple[str, ...], folder: Path, network: str) -> AsyncIterator[list[Pair]]:
    async with contextlib.AsyncExitStack() as stack:
        sink = f"{network}.1:2528"
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        server = Child("smtp-sink", ["smtp-sink", *user, sink, "1000"], folder / "sink.log")
        stack.callback(server.stop)
        await asyncio.to_thread(server.wait_for, lambda: _accepts(sink), "smtp-sink to listen")
        pairs = []
        for number, name in enumerate(names):
            pair = await asyncio.to_thread(_pair, name, folder / f"pair{number}", f"{network}.{10 + number}", sink)
            for hub in (pair.far, pair.near):
                configure(hub, **SETTINGS[name])
                stack.callback(hub.stop)
                hub.start()
            for hub in (pair.far, pair.near):
                await asyncio.to_thread(hub.wait_until_up)
            pairs.append(pair)
        yield pairs


def _pair(name: str, folder: Path, address: str, sink: str) -> Pair:
    folder.mkdir()
    entrance, middle = f"{address}:2524", f"{address}:2625"
    near = Hub("near.example", folder / "near", listen=f"{address}:0", deliver=sink, namespace=None)
    far = Hub("far.example", folder / "far", listen=middle, deliver=sink, namespace=None)
    near.introduce(far, listen=entrance, endpoint=middle)
    far.introduce(near, listen=f"{address}:2523")
    far.configure_peer(near, "[deliver]", 'proxy_protocol = "none"')
    return Pair(name, near, far, entrance)


def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


async def _probe(address: str, delays: list[float], over: asyncio.Event) -> None:
    """Letters over one session, each timed from MAIL to its 250, until the load is over."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def say(line: bytes) -> None:
        writer.write(line)
        while (answer := await reader.readline())[3:4] == b"-":
            pass
        if not answer.startswith((b"2", b"3")):
            raise AssertionError(f"the sink said {answer!r}")

    try:
        await reader.readline()
        await say(b"EHLO probe.example\r\n")
        while not over.is_set():
            began = time.perf_counter()
            for line in (b"MAIL FROM:<probe@a.example>\r\n", b"RCPT TO:<probe@b.example>\r\n", b"DATA\r\n", _LETTER):
                await say(line)
            delays.append(time.perf_counter() - began)
            await asyncio.sleep(_PAUSE)
    finally:
        writer.transport.abort()


async def _measure(pair: Pair, messages: int) -> Measured:
    load = ["smtp-source", "-s", str(SESSIONS), "-m", str(messages), "-l", str(MEDIAN)]
    load += ["-f", "load@a.example", "-t", "rcpt@b.example", pair.entrance]
    delays: list[float] = []
    over = asyncio.Event()
    probes = [asyncio.create_task(_probe(pair.entrance, delays, over)) for _ in range(PROBES)]
    try:
        epoch, cpu = await asyncio.to_thread(pair.epoch), pair.cpu_seconds()
        began = time.perf_counter()
        await asyncio.to_thread(run, *load, deadline=120.0)
        seconds = time.perf_counter() - began
        cpu = pair.cpu_seconds() - cpu
        steps = await asyncio.to_thread(pair.epoch) - epoch
    finally:
        over.set()
        await asyncio.gather(*probes)
    handed = messages + len(delays)
    return Measured(handed / seconds, delays, steps / seconds, cpu * 1e6 / handed)


async def measure(form: Form) -> dict[str, Any]:
    """Rounds over all pairs; medians of the ratios of rates within each round, and tails over all."""
    with TemporaryDirectory(prefix="hubtunnel-ratchets-") as folder:
        network = f"127.{192 + os.getpid() // 250 % 60}.{os.getpid() % 250}"
        async with _pairs(form.pairs, Path(folder), network) as pairs:
            for pair in pairs:
                await _measure(pair, WARM_UP)
            rounds: list[dict[str, Measured]] = []
            for number in range(form.rounds):
                turn = number % len(pairs)
                rounds.append({p.name: await _measure(p, form.messages) for p in [*pairs[turn:], *pairs[:turn]]})
    return _report(form, rounds)


def _report(form: Form, rounds: list[dict[str, Measured]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in form.pairs:
        own = [measured[name] for measured in rounds]
        found[name] = {
            "messages_per_second": round(statistics.median(m.per_second for m in own)),
            "cpu_us_per_message": round(statistics.median(m.cpu_us for m in own)),
            "steps_per_second": round(statistics.median(m.steps_per_second for m in own), 2),
            "delay_s": spread(delay for m in own for delay in m.delays),
            "letters_timed": sum(len(m.delays) for m in own),
        }
        if name != "none" and "none" in form.pairs:
            beside = [(measured[name], measured["none"]) for measured in rounds]
            speeds = [a.per_second / b.per_second for a, b in beside]
            tail = found[name]["delay_s"]["p99"] / found["none"]["delay_s"]["p99"]
            found[name]["throughput_ratio"] = round(statistics.median(speeds), 3)
            found[name]["p99_ratio"] = round(tail, 3)  # over all rounds: one has too few letters for its tail
            cpu = [a.cpu_us / b.cpu_us for a, b in beside if b.cpu_us]
            found[name]["cpu_ratio"] = round(statistics.median(cpu), 3) if cpu else None
            found[name]["throughput_ratios"] = [round(ratio, 3) for ratio in speeds]
    often = found.get("every 100 ms")
    return {
        "ok": often is not None
        and often["throughput_ratio"] >= ALLOWED_THROUGHPUT
        and often["p99_ratio"] <= ALLOWED_P99
        and often["steps_per_second"] >= 5,
        "nice": os.nice(0),
        "rounds": form.rounds,
        "messages_a_round": form.messages,
        **found,
    }
