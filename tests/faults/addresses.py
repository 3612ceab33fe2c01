"""A hub whose address changes in the middle of mail, as behind a dynamic line: its session goes on from the new one.

It is the one that dials; for one that is dialled its peers need the new address first.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.e2e.processes import run as run_command
from tests.faults.line import Quality
from tests.faults.mail import timetable
from tests.faults.stage import Bench, bench, run_mail, security_events

NEW = "192.0.2.3"
LETTERS = 20
SECONDS = 3.0
KEEPALIVE = "2s"  # after three times that without a word the old carrier is given up


async def run(*, seed: int = 1) -> dict[str, Any]:
    """Mail both ways, and the change when a third of it is due."""
    quality = Quality(delay=0.005, rate=20e6)
    async with bench(quality, seed=seed, dials=(True, False), hold="20s", keepalive=KEEPALIVE) as stage:
        return await _run_on(stage, seed)


async def _run_on(stage: Bench, seed: int) -> dict[str, Any]:
    senders = stage.senders(
        timetable(LETTERS // 2, 1, SECONDS, seed=seed),
        timetable(LETTERS // 2, 1, SECONDS, seed=seed + 1, first=1_000_000),
    )
    session = await stage.until_one()
    resumed = (await stage.a.glance())["session"]["resumed"]

    async def change() -> None:
        await asyncio.sleep(SECONDS / 3)
        await asyncio.to_thread(_change, stage)

    seconds = await run_mail(senders, asyncio.create_task(change()))
    same_session = await stage.until_one() == session
    after = await stage.a.glance()
    far = await stage.b.glance()
    seen = {carrier["endpoint"].rpartition(":")[0] for carrier in far["carriers"]}
    account = stage.account(senders)
    alarms = [line for side in stage.sides for line in security_events(side.hub.directory)]
    return {
        "ok": account.exactly_once and not account.troubles and same_session and not alarms and seen == {NEW},
        **account.figures(),
        "seconds": round(seconds, 1),
        "resumed": after["session"]["resumed"] - resumed,
        "same_session": same_session,
        "peer_is_seen_at": sorted(seen),
        "security_events": alarms[:5],
    }


def _change(stage: Bench) -> None:
    """The old address is gone at once, and the connections that it had with it."""
    near, far = stage.a.namespace, stage.b.namespace
    device = ("dev", near.interface)
    run_command("ip", "-n", far.name, "route", "add", NEW, "dev", far.interface)
    run_command("ip", "-n", near.name, "address", "del", near.address, "peer", far.address, *device)
    run_command("ip", "-n", near.name, "address", "add", NEW, "peer", far.address, *device)
