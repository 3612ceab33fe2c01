"""Mail while its carrier is killed at random moments: connections reset, a line that goes dark, daemons that stop.

Every letter must arrive once and as it was sent, and no SMTP session may notice more than a delay.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.faults.line import Quality
from tests.faults.mail import Harm, Sender, timetable
from tests.faults.stage import Bench, bench, run_mail, security_events

SHORTEST, LONGEST = 0.2, 5.0  # seconds that a line is dark or a daemon is stopped
HOLD = "20s"  # how long new SMTP connections wait for a carrier; the default of 5 s is as long as the longest fault


@dataclass(frozen=True)
class Form:
    """How much, over which line."""

    letters: int
    large: int
    kills: int
    stalls: int  # dark or stopped without a kill: the same carrier goes on
    seconds: float  # of mail
    longest: float = LONGEST
    quality: Quality = field(default_factory=lambda: Quality(delay=0.005, rate=100e6))


LONG = {
    "carriers": Form(5000, 50, kills=200, stalls=50, seconds=600.0),
    "lossy": Form(5000, 2, kills=200, stalls=50, seconds=700.0, quality=Quality(delay=0.05, loss=0.02, rate=100e6)),
    "slow": Form(1000, 2, kills=200, stalls=50, seconds=600.0, quality=Quality(delay=0.02, rate=1e6)),
}
SHORT = Form(120, 2, kills=8, stalls=2, seconds=6.0, longest=0.6)
CONTROL = Form(20, 0, kills=1, stalls=0, seconds=1.0, longest=0.3)
SHORT_LOSSY = Form(40, 0, kills=4, stalls=0, seconds=5.0, longest=0.6, quality=LONG["lossy"].quality)
SHORT_SLOW = Form(12, 0, kills=4, stalls=0, seconds=5.0, longest=0.6, quality=LONG["slow"].quality)


@dataclass
class Fault:
    """One that was done."""

    kind: str
    seconds: float
    under_way: int  # letters that were between MAIL and 250 when it struck


class Breaker:
    """Does the faults, spread at random over the time of the mail."""

    def __init__(self, form: Form, stage: Bench, senders: tuple[Sender, Sender], seed: int) -> None:
        self.done: list[Fault] = []
        self._form = form
        self._bench = stage
        self._senders = senders
        self._random = random.Random(seed)

    def _plan(self) -> list[tuple[str, float]]:
        """Kinds, each with how long it lasts. A quarter of the kills comes after darkness, a quarter while stopped."""
        kills, stalls = self._form.kills, self._form.stalls
        kinds = [("reset", "reset", "dark, then reset", "stopped and reset")[n % 4] for n in range(kills)]
        kinds += [("dark", "stopped")[n % 2] for n in range(stalls)]
        self._random.shuffle(kinds)
        longest = self._form.longest
        return [(kind, 0.0 if kind == "reset" else self._between(SHORTEST, longest)) for kind in kinds]

    def _between(self, least: float, most: float) -> float:
        """Short ones are as likely as long ones, by their logarithm."""
        return math.exp(self._random.uniform(math.log(least), math.log(most)))

    async def run(self) -> None:
        """All of them, each on a carrier that is there; what time they leave is shared out between them at random."""
        plan = self._plan()
        spare = self._form.seconds - sum(seconds for _, seconds in plan)
        gaps = [self._random.expovariate(1.0) for _ in plan]
        scale = max(spare, 0.05 * self._form.seconds) / sum(gaps)
        for (kind, seconds), gap in zip(plan, gaps, strict=True):
            await asyncio.sleep(gap * scale)
            await self._bench.until_up()
            self.done.append(Fault(kind, seconds, sum(sender.under_way for sender in self._senders)))
            await self._do(kind, seconds)

    async def _do(self, kind: str, seconds: float) -> None:
        line = self._bench.line
        if kind == "reset":
            line.kill()
        elif kind.startswith("dark"):
            line.dark(True)
            await asyncio.sleep(seconds)
            if kind != "dark":
                line.kill()
            line.dark(False)
        else:
            side = self._random.choice(self._bench.sides)
            side.stop_for(seconds)
            if kind != "stopped":
                line.kill()
            await asyncio.sleep(seconds)


async def run(form: Form, *, seed: int = 1) -> dict[str, Any]:
    """The mail and the faults, on a bench of their own."""
    async with bench(form.quality, seed=seed, hold=HOLD) as stage:
        return await run_on(stage, form, seed=seed)


async def run_on(stage: Bench, form: Form, *, seed: int = 1, harm: tuple[Harm, ...] = ()) -> dict[str, Any]:
    """The mail and the faults; what became of them. `harm` is the control: a sink that treats some letters badly."""
    stage.begin(form.quality)
    half = form.letters // 2
    senders = stage.senders(
        timetable(half, form.large // 2, form.seconds, seed=seed),
        timetable(form.letters - half, form.large - form.large // 2, form.seconds, seed=seed + 1, first=1_000_000),
    )
    for number, what in enumerate(harm):
        stage.b.sink.harmed[f"letter-{number}@{stage.b.hub.name}"] = what
    session = await stage.until_one()
    resumed = (await stage.a.glance())["session"]["resumed"]
    breaker = Breaker(form, stage, senders, seed)
    seconds = await run_mail(senders, asyncio.create_task(breaker.run()))
    same_session = await stage.until_one() == session
    after = [await side.glance() for side in stage.sides]
    account = stage.account(senders)
    alarms = [line for side in stage.sides for line in security_events(side.hub.directory)]
    return {
        "ok": account.exactly_once and not account.troubles and same_session and not alarms,
        **account.figures(),
        "seconds": round(seconds, 1),
        "faults": dict(Counter(fault.kind for fault in breaker.done)),
        "faulty_s": round(sum(fault.seconds for fault in breaker.done), 1),
        "faults_amid_letters": sum(fault.under_way > 0 for fault in breaker.done),
        "kills": stage.line.kills,
        "resumed": after[0]["session"]["resumed"] - resumed,
        "same_session": same_session,
        "streams_reset": sum(glance["streams"]["reset"] for glance in after),
        "security_events": alarms[:5],
        "line": {"delay_s": form.quality.delay, "loss": form.quality.loss, "bits_per_s": form.quality.rate},
        "line_counts": vars(stage.line.counts()),
    }
