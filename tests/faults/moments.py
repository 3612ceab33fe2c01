"""Both sides do everything at the same instant: reload, dial, ratchet, rotate; again and again.

Over the protocol core, where the order of everything that crosses is drawn from a seed, and with two daemons, where it
is the machine's. The link must come back each time, with one session, and no stream may notice.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, replace
from typing import Any

from hubtunnel.daemon.control import request
from hubtunnel.errors import HubtunnelError
from hubtunnel.protocol import events as ev
from hubtunnel.protocol.cards import HeldCard
from hubtunnel.protocol.link import Settings
from hubtunnel.protocol.pair import HintTable, PairContext
from tests.faults.line import Quality
from tests.faults.mail import timetable
from tests.faults.stage import Bench, Side, bench, run_mail, security_events
from tests.protocol.letters import Post
from tests.protocol.standins import digest, kem_in_place
from tests.protocol.support import UNIX_TIME, Hub, make_secret, public_of

BACK_WITHIN = 60.0  # simulated seconds in which the link has to be one session again
DIALLED_WITHIN = 0.5  # longest time between the two dials of an instant


class Instants(Post):
    """Two hubs of the core whose cards, keys, settings and carriers change at the same time."""

    def __init__(self, seed: int) -> None:
        super().__init__(Settings(version="x"), seed=seed)
        self.random = random.Random(seed)
        self.serials = {"A": 1, "B": 1}
        self.lost: list[str] = []
        for hub in (self.a, self.b):
            self._announce(hub)

    def _card(self, hub: Hub, serial: int) -> HeldCard:
        data = digest(b"card", hub.name.encode(), serial.to_bytes(4, "big")) * 40
        return HeldCard(serial, digest(data), data)

    def _announce(self, hub: Hub) -> None:
        own = tuple(self._card(hub, serial) for serial in range(1, self.serials[hub.name] + 1))[-3:]
        peer = self.other(hub)
        known = getattr(hub, "knows", 1)
        hub.link.set_cards(own, self._card(peer, known), self.now)

    def _apply(self, hub: Hub, event: ev.Event) -> None:
        super()._apply(hub, event)
        if isinstance(event, ev.CardReceived):
            hub.knows = event.serial  # type: ignore[attr-defined]
            hub.link.card_accepted(event.session, event.serial, self._card(self.other(hub), event.serial).hash)
        elif isinstance(event, ev.StreamReset):
            self.lost.append(f"{hub.name}: stream {event.stream.id} was reset with code {event.code}")

    # --- what happens at an instant ---------------------------------------------------------------------------

    def reload(self, hub: Hub) -> None:
        """Other settings for what begins from now on, and the cards once more."""
        hub.settings = replace(hub.settings, linger=self.random.choice((120.0, 150.0)))
        hub.link.settings = hub.settings
        self._announce(hub)

    def rotate(self, hub: Hub) -> None:
        """Another link key, which the peer knows as well, and a card that tells of it."""
        hub.secret = make_secret(hub.rng, hub.rng.bytes(8))
        self.serials[hub.name] += 1
        for one in (self.a, self.b):
            peer = self.other(one)
            one.context = PairContext.make(
                peer=peer.name,
                own_idfp=one.idfp,
                own=one.secret,
                peer_idfp=peer.idfp,
                theirs=public_of(peer.secret),
                psk=None,
            )
            one.table = HintTable([one.context], UNIX_TIME)
        self._announce(hub)

    def ratchet(self, hub: Hub) -> None:
        """A step now, where this hub is the one to begin it."""
        hub.link.rekey(self.now)

    def redial(self, hub: Hub) -> None:
        """A new carrier, whether one is wanted or not."""
        self.dial(hub)

    def cut_all(self, hub: Hub) -> None:
        """This end's carriers break; the other end hears of it later."""
        for wire in self.wires:
            carrier = wire.ends.pop(hub.name, None)
            if carrier is not None:
                wire.to[hub.name].clear()
                hub.link.detach(carrier, "reset", self.now)

    def instant(self) -> None:
        """Everything at both hubs, in an order that is drawn, with bytes moving in between as the wires would."""
        works = [
            (work, hub) for work in (self.reload, self.redial, self.ratchet, self.rotate) for hub in (self.a, self.b)
        ]
        if self.random.random() < 0.3:
            works.append((self.cut_all, self.random.choice((self.a, self.b))))
        self.random.shuffle(works)
        self.run_jobs = False
        for work, hub in works:
            work(hub)
            self.flush(hub)
            self._something()
        self.run_jobs = True
        while self.held_jobs:
            self._a_job()
            self._something()

    def _a_job(self) -> None:
        hub, job = self.held_jobs.pop(self.random.randrange(len(self.held_jobs)))
        hub.link.job_done(job, job.run(), self.now)
        self.flush(hub)

    def _something(self) -> None:
        """A few wires deliver a few bytes, or a job is done."""
        for _ in range(self.random.randrange(4)):
            wires = [wire for wire in self.wires if wire.ends]
            if self.held_jobs and self.random.random() < 0.3:
                self._a_job()
            elif wires:
                wire, hub = self.random.choice(wires), self.random.choice((self.a, self.b))
                self.deliver(wire, hub, self.random.choice((1, 20, 500, 5000, None)))

    def come_back(self, *, one: bool) -> None:
        """Every session has its carrier again; with `one`, there is one, ready for the next stream at both ends.

        Raises where it takes too long. (What stays superseded stays while streams of it are open.)
        """
        end = self.now + BACK_WITHIN
        while True:
            self.dial_where_wanted()
            self.advance(DIALLED_WITHIN)
            sessions = [hub.link.sessions for hub in (self.a, self.b)]
            ready = [[s for s in found if s.ready] for found in sessions]
            if (
                all(session.up for found in sessions for session in found)
                and all(ready)
                and (not one or [[s.sid for s in found] for found in sessions] == [[ready[0][0].sid]] * 2)
            ):
                return
            if self.now > end:
                state = [[(s.phase.value, s.leaving, len(s.mux.streams)) for s in found] for found in sessions]
                raise AssertionError(f"not back again: {state}")


def run_core(count: int, *, seed: int = 1) -> dict[str, Any]:
    """So many instants; raises at the first after which something is wrong."""
    began = time.monotonic()
    with kem_in_place():
        post = Instants(seed)
        post.dial(post.a)
        post.come_back(one=True)
        for number in range(count):
            letters = [(hub, post.post(hub, 20_000)) for hub in (post.a, post.b)]
            try:
                post.instant()
                post.come_back(one=False)
                for hub, letter in letters:
                    assert letter is not None
                    post.end(hub, letter)
                post.come_back(one=True)
                post.check()
                post.check_arrived()
                assert post.alarms == []
                assert post.lost == []
            except AssertionError as exc:
                raise AssertionError(f"instant {number} of seed {seed}: {exc}") from exc
            for hub in (post.a, post.b):
                post.sent[hub.name].clear()
                post.received[hub.name].clear()
                hub.received.clear()
                hub.events.clear()
        indexes = [session.index for session in post.a.link.sessions]
    return {
        "ok": True,
        "instants": count,
        "cards": post.serials,
        "last_index": max(indexes),
        "seconds": round(time.monotonic() - began, 1),
    }


# --- two daemons ----------------------------------------------------------------------------------------------------


async def _ask(side: Side, command: str, **arguments: Any) -> None:
    try:
        await asyncio.to_thread(request, side.hub.directory / "control.sock", command, **arguments)
    except HubtunnelError as exc:
        if "no session" not in str(exc):
            raise


async def _at_once(stage: Bench, *, rotate: bool) -> None:
    """Both hubs reload, step and rotate, and both lose the carrier, so that both want another."""
    works = []
    for side in stage.sides:
        works += [_ask(side, "reload"), _ask(side, "rekey", peer=_other(stage, side).hub.name)]
        if rotate:
            works.append(_ask(side, "operation", name="rotate", arguments={"at_once": True}))
    stage.line.kill()
    await asyncio.gather(*works)


def _other(stage: Bench, side: Side) -> Side:
    return stage.b if side is stage.a else stage.a


@dataclass(frozen=True)
class Form:
    """How many instants, seconds from one to the next at least, and how many of them with new link keys."""

    instants: int
    every: float
    rotations: int


LONG = Form(instants=1000, every=0.5, rotations=25)  # a card has room for 64 link keys
QUALITY = Quality(delay=0.002)
SHORT = Form(instants=6, every=0.5, rotations=2)


async def run_daemons(form: Form, *, seed: int = 1) -> dict[str, Any]:
    """The instants, under mail, on a bench of their own."""
    async with bench(QUALITY, seed=seed, hold="20s") as stage:
        return await run_on(stage, form, seed=seed)


async def run_on(stage: Bench, form: Form, *, seed: int = 1) -> dict[str, Any]:
    """The instants, under mail."""
    stage.begin(QUALITY)
    seconds = form.instants * form.every
    letters = max(10, round(seconds * 2))
    senders = stage.senders(
        timetable(letters, 0, seconds, seed=seed), timetable(letters, 0, seconds, seed=seed + 1, first=1_000_000)
    )
    resumed = (await stage.a.glance())["session"]["resumed"]
    slowest = 0.0

    async def instants() -> None:
        nonlocal slowest
        for number in range(form.instants):
            began = time.monotonic()
            await _at_once(stage, rotate=number % max(1, form.instants // form.rotations) == 0)
            await stage.until_up()
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(max(0.0, form.every - (time.monotonic() - began)))

    taken = await run_mail(senders, asyncio.create_task(instants()))
    await stage.until_one()
    account = stage.account(senders)
    after = [await side.glance() for side in stage.sides]
    alarms = [line for side in stage.sides for line in security_events(side.hub.directory)]
    return {
        "ok": account.exactly_once and not account.troubles and not alarms,
        **account.figures(),
        "instants": form.instants,
        "rotations_of_each": form.rotations,
        "seconds": round(taken, 1),
        "slowest_instant_s": round(slowest, 2),
        "resumed": after[0]["session"]["resumed"] - resumed,
        "streams_reset": sum(glance["streams"]["reset"] for glance in after),
        "security_events": alarms[:5],
    }
