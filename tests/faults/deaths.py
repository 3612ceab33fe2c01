"""A daemon killed by SIGKILL in the middle of mail, again and again, and started anew by its service manager.

Its sessions are gone, so SMTP sessions break, and whoever sent retries. A letter comes twice only where the 250 of the
first time was lost with the session (RFC 5321, 4.5.3.2.6): each of those is counted and held against an attempt that
broke behind its final dot. Nothing else may come twice, halved, or not at all.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from tests.faults.line import Quality
from tests.faults.mail import Sender, timetable
from tests.faults.stage import Bench, bench, run_mail, security_events


@dataclass(frozen=True)
class Form:
    """How much."""

    letters: int
    large: int
    kills: int
    seconds: float
    quality: Quality = field(default_factory=lambda: Quality(delay=0.01, rate=50e6))


LONG = Form(2000, 20, kills=30, seconds=180.0)
SHORT = Form(100, 2, kills=2, seconds=5.0)


async def run(form: Form, *, seed: int = 1) -> dict[str, Any]:
    """The mail and the deaths, on a bench of their own."""
    async with bench(form.quality, seed=seed) as stage:
        return await run_on(stage, form, seed=seed)


async def run_on(stage: Bench, form: Form, *, seed: int = 1) -> dict[str, Any]:
    """The mail and the deaths; what became of the letters."""
    stage.begin(form.quality)
    half = form.letters // 2
    senders = stage.senders(
        timetable(half, form.large // 2, form.seconds, seed=seed),
        timetable(form.letters - half, form.large - form.large // 2, form.seconds, seed=seed + 1, first=1_000_000),
        retry=True,
    )
    amid: list[int] = []

    async def reaper() -> None:
        rng = random.Random(seed)
        for number in range(form.kills):
            await asyncio.sleep(rng.uniform(0.3, 1.7) * form.seconds / form.kills)
            await stage.until_up()
            await _until_amid(senders)
            amid.append(sum(sender.under_way for sender in senders))
            hub = stage.sides[number % 2].hub
            await asyncio.to_thread(hub.kill)
            await asyncio.to_thread(hub.start)
        await stage.until_up()

    seconds = await run_mail(senders, asyncio.create_task(reaper()))
    account = stage.account(senders)
    alarms = [line for side in stage.sides for line in security_events(side.hub.directory)]
    return {
        "ok": account.accepted == account.asked
        and not (account.lost or account.altered)
        and account.doubled == account.doubled_explained
        and account.identical + account.doubled == account.asked
        and len(amid) == form.kills
        and bool(account.troubles)
        and not alarms,
        **account.figures(),
        "seconds": round(seconds, 1),
        "killed": len(amid),
        "killed_amid_letters": sum(count > 0 for count in amid),
        "security_events": alarms[:5],
    }


async def _until_amid(senders: tuple[Sender, ...]) -> None:
    """A letter is under way; without one in a while, so be it."""
    for _ in range(100):
        if any(sender.under_way for sender in senders):
            return
        await asyncio.sleep(0.01)
