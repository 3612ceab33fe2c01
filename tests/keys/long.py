"""Two real daemons under steady mail while their keys change in every way: `python -m tests.keys.long [--short]`.

Rotations in turn at both hubs, a series of short-lived link keys as `key issue --every` makes them, a new identity and
a revocation, each asked of the running daemon as commands ask. It ends with a JSON report: every message that got a 250
arrived once and as it was sent, none was refused, and every change is on the hub's trail.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from hubtunnel.demo.hubs import Hub
from hubtunnel.demo.ports import Ports
from hubtunnel.demo.sink import Sink, Verdict
from tests.keys.steady import Steady

WITHIN = 30.0  # seconds in which a change has to be in use at both hubs


@dataclass(frozen=True)
class Form:
    """How much of everything."""

    rate: float  # messages a second, both directions together
    rotations: int
    keys: int
    every: float  # seconds from one key of the series to the next


LONG = Form(rate=200.0, rotations=20, keys=7, every=10.0)
SHORT = Form(rate=40.0, rotations=2, keys=2, every=6.0)


@dataclass
class Stage:
    """Two hubs with the mail servers behind them, and the senders."""

    hubs: tuple[Hub, Hub]
    sinks: tuple[Sink, Sink]
    senders: tuple[Steady, Steady]
    steps: list[dict[str, Any]] = field(default_factory=list)

    async def step(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do one change and note how long it took until it was in use."""
        began = time.monotonic()
        await work()
        self.steps.append({"step": name, "seconds": round(time.monotonic() - began, 2)})
        print(f"{self.steps[-1]['seconds']:7.2f} s  {name}", file=sys.stderr, flush=True)


@contextlib.asynccontextmanager
async def staged(folder: Path, form: Form) -> AsyncIterator[Stage]:
    """Hubs made, introduced and up, mail on its way."""
    names = ("mx.near.example", "mx.far.example")
    async with Sink(names[0], proxy=True) as near_sink, Sink(names[1], proxy=True) as far_sink:
        with Ports() as ports:
            sinks = (near_sink, far_sink)
            near, far = (
                Hub(name, folder / name, listen=ports.reserve(), submit=ports.reserve(), deliver=sink.port)
                for name, sink in zip(names, sinks, strict=True)
            )
            for hub in (near, far):
                await hub.make()
            await near.introduce(far, *await far.card(), endpoint=far.listen)
            await far.introduce(near, *await near.card(), endpoint=None)
            near.configure_peer(far, present_as="192.0.2.2")
            far.configure_peer(near, present_as="192.0.2.1")
            senders = tuple(
                Steady(hub.submit, hub.name, other.name, form.rate / 2, 5, first)
                for hub, other, first in ((near, far, 0), (far, near, 10_000_000))
            )
            tasks: list[asyncio.Task[None]] = []
            try:
                for hub in (far, near):
                    await hub.start()
                for hub in (far, near):
                    await hub.wait_until("up")
                tasks = [asyncio.create_task(sender.run()) for sender in senders]
                yield Stage((near, far), sinks, (senders[0], senders[1]))
                for sender in senders:
                    sender.stop()
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for hub in (near, far):
                    await hub.stop()


# --- changes ----------------------------------------------------------------------------------------------------


async def ask(hub: Hub, operation: str, **arguments: Any) -> dict[str, Any]:
    """What `hubtunnel key …` asks of the running daemon."""
    answer = await hub.ask("operation", name=operation, arguments=arguments)
    return dict(answer["result"])


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = WITHIN) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        await asyncio.sleep(0.1)


async def in_use(hub: Hub, key: str) -> bool:
    """Whether the carrier that is there rests on this key of the hub's own."""
    carriers = (await hub.glance())["carriers"]
    return bool(carriers) and all(carrier["our_key"] == key for carrier in carriers)


async def rotate(hub: Hub) -> None:
    key = (await ask(hub, "rotate", at_once=True))["made"][0]["id"]
    await until(lambda: in_use(hub, key), f"link key {key} in use")


async def series(hub: Hub, form: Form) -> None:
    made = await ask(hub, "issue", every=form.every, count=form.keys)
    for key in [key["id"] for key in made["made"]]:
        await until(lambda key=key: in_use(hub, key), f"link key {key} of the series in use", form.every + WITHIN)  # type: ignore[misc]


async def new_identity(hub: Hub, peer: Hub) -> None:
    changed = await ask(hub, "rotate", identity=True)

    async def followed() -> bool:
        return bool((await hub.glance())["card"]["acknowledged"] == changed["card"])

    await until(followed, "new identity acknowledged")
    seen, own = (await peer.glance())["identity"], (await hub.ask("status"))["status"]["fingerprint"]
    assert seen == own, f"{peer.name} has {seen}, {hub.name} is {own}"


async def revoke(hub: Hub, peer: Hub) -> None:
    key = (await hub.glance())["carriers"][0]["our_key"]
    await ask(hub, "revoke", key=key)
    for each in (hub, peer):
        for carrier in (await each.glance())["carriers"]:
            assert key not in (carrier["our_key"], carrier["their_key"]), f"{each.name} still uses {key}"


# --- the run ----------------------------------------------------------------------------------------------------


async def run(form: Form, folder: Path) -> dict[str, Any]:
    """All of it; the report."""
    async with staged(folder, form) as stage:
        began = time.monotonic()
        near, far = stage.hubs
        for n in range(form.rotations):
            hub = stage.hubs[n % 2]
            await stage.step(f"rotation {n + 1}, at {hub.name}", lambda hub=hub: rotate(hub))  # type: ignore[misc]
        await stage.step(f"{form.keys} keys, one every {form.every:.0f} s", lambda: series(near, form))
        await stage.step("a new identity", lambda: new_identity(far, near))
        await stage.step("a revocation", lambda: revoke(far, near))
        seconds = time.monotonic() - began
        sessions = [(await hub.glance())["session"] for hub in stage.hubs]
        listed = [json.loads(await hub.command("key", "list", "--json")) for hub in stage.hubs]
    verdict = Verdict()
    verdict.add(stage.sinks[1].compare(stage.senders[0].accepted))
    verdict.add(stage.sinks[0].compare(stage.senders[1].accepted))
    failures = [failure for sender in stage.senders for failure in sender.failures]
    trails = [json.loads(await hub.command("key", "list", "--trail", "--json")) for hub in stage.hubs]
    accepted = sum(len(sender.accepted) for sender in stage.senders)
    return {
        "ok": verdict.clean and not failures and accepted > 0 and verdict.identical == accepted,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "seconds": round(seconds, 1),
        "messages": accepted,
        "per_second": round(accepted / seconds, 1),
        "asked_per_second": form.rate,
        "identical": verdict.identical,
        "lost": len(verdict.missing),
        "altered": len(verdict.altered),
        "doubled": len(verdict.doubled),
        "refused_or_broken": len(failures),
        "failures": failures[:10],
        "slowest_message_s": round(max(sender.slowest for sender in stage.senders), 2),
        "session_resumed": [session["resumed"] for session in sessions],
        "in_use": [facts["in_use"] for facts in listed],
        "key_list": [_key_list(facts) for facts in listed],
        "steps": stage.steps,
        "on_trail": [_counts(line["what"] for line in trail) for trail in trails],
        "in_log": [_counts(_logged(hub)) for hub in stage.hubs],
    }


def _key_list(facts: dict[str, Any]) -> dict[str, Any]:
    """How many link keys are in which state, and whether the peer has acknowledged the newest card."""
    return {
        "card": facts["card"],
        "acknowledged": [peer["acknowledged"] for peer in facts["peers"]],
        "keys": _counts(key["state"] for key in facts["keys"]),
    }


def _logged(hub: Hub) -> Iterator[str]:
    """What a hub's log says of keys and cards."""
    for line in hub.log.read_text().splitlines():
        event, *fields = line.split()[2:]
        if event == "keys_changed":
            yield next(field for field in fields if field.startswith("operation="))
        elif event in ("card_accepted", "card_acknowledged", "key_deleted", "alarm"):
            yield event


def _counts(words: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.keys.long", description=__doc__)
    parser.add_argument("--short", action="store_true", help="what CI runs")
    parser.add_argument("--output", type=Path, help="write the report here as well")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(run(SHORT if args.short else LONG, Path(folder)))
    text = json.dumps(report, indent=2)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
