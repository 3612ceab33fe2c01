"""The steps of the demo, in their order, and what each one proves.

Harm to the carrier is placed by bytes, not by time: it strikes `HARM_AFTER` bytes after several letters began to move
at once, each of them longer than that, so that on every machine it is in the middle of messages.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hubtunnel import __version__
from hubtunnel.demo.letters import needles
from hubtunnel.demo.post import Posted, greeting
from hubtunnel.demo.proofs import DemoError, Report, amount, many
from hubtunnel.demo.search import Findings, search
from hubtunnel.demo.show import Show
from hubtunnel.demo.sink import Sink
from hubtunnel.demo.stage import CLIENTS, FAR, NEAR, Stage
from hubtunnel.demo.tap import Fault, Harm, Tap, Way
from hubtunnel.errors import HubtunnelError

KB, MB = 1_000, 1_000_000
CONTROL_SIZES = (1 * KB, 5 * KB, 20 * KB, 100 * KB, 1 * MB)
NEAR_SIZES = (25 * MB, *[1 * MB] * 6, *[100 * KB] * 20, *range(1 * KB, 16 * KB, 125))
FAR_SIZES = (5 * MB, *[100 * KB] * 12, *range(1 * KB, 16 * KB, 250))

HARM_SIZES = (1_200 * KB,) * 4
HARM_AFTER = 500 * KB
HARMS = ((Harm.FLIP, Way.OUT), (Harm.CUT, Way.OUT), (Harm.CUT, Way.BACK))
CARRIER_END_S = 15.0  # by then a carrier with a flipped byte must have ended

STRANGER_WAIT_S = 3.0
REPLAYED = 64 * KB
MOVE_S = 15.0  # hubs spread over a few seconds what one new key makes them all do
LOOK_EVERY_S = 0.1
RATCHET_EVERY_S = 2.1  # whoever dialled keeps two seconds between steps
HOLD = "1s"  # in place of 5: how long a client waits to be told that the peer is away
PRESENT_AS = {NEAR: "192.0.2.1", FAR: "192.0.2.2"}  # RFC 5737; on loopback the carrier's own address would mislead

Status = dict[str, Any]


@dataclass
class Struck:
    """One fault, and what followed it."""

    fault: Fault
    ended: bool
    before: Status
    after: Status
    posted: Posted

    @property
    def resumed(self) -> bool:
        """The carrier ended, and the session went on over another one."""
        old, new = self.before["session"], self.after["session"]
        return self.ended and old["id"] == new["id"] and new["resumed"] > old["resumed"]


@dataclass(frozen=True)
class Moved:
    """A rotation: the peer's status before it and after it, and how long that took."""

    before: Status
    after: Status
    seconds: float


async def prove(stage: Stage, show: Show) -> Report:
    """Play all steps on `stage`. Raises `DemoError` when one cannot be played at all."""
    started = time.monotonic()
    report = Report(__version__)
    control = await search_plain_smtp(stage, show)
    await introduce(stage, show)
    await start(stage, show)
    ratchet = asyncio.create_task(keep_ratcheting(stage))
    try:
        before = await stage.near.hub.status()
        strangers = asyncio.create_task(knock(stage))
        rotation = asyncio.create_task(rotate(stage, before))
        await exchange_mail(stage, show)
        moved = await rotation
        errors = [*stage.near.posted.errors, *stage.far.posted.errors]
        struck = await harm(stage, show)
        answers = await strangers
    finally:
        ratchet.cancel()
        await asyncio.gather(ratchet, return_exceptions=True)
    prove_mail(stage, report)
    prove_harm(struck, report)
    prove_keys(before, await stage.near.hub.status(), report)
    prove_rotation(moved, errors, report)
    prove_strangers(stage, answers, report)
    prove_origin(stage, report)
    await prove_absence(stage, show, report)
    await prove_secrecy(stage, show, control, report)
    report.complete = True
    report.seconds = time.monotonic() - started
    return report


# --- before there is a tunnel ---------------------------------------------------------------------------------------


async def search_plain_smtp(stage: Stage, show: Show) -> Findings:
    """The control: the same search over mail that crosses the same kind of tap without a tunnel."""
    show.step("control: the search for clear text, over plain SMTP, where it has to find it")
    letters = stage.write(CONTROL_SIZES, NEAR, "control.example")
    async with (
        Sink("control.example", proxy=False) as sink,
        Tap(("127.0.0.1", sink.port), stage.folder / "control") as tap,
    ):
        posted = await stage.near.office.send(tap.port, [[letter] for letter in letters], helo=NEAR)
        if posted.errors:
            raise DemoError(f"the control run could not send: {posted.errors[0]}")
        return await asyncio.to_thread(search, tap.recordings(), needles(stage.marker))


async def introduce(stage: Stage, show: Show) -> None:
    """Make keys and cards, and have each hub pin the other."""
    show.step("two hubs: init, card and peer add on each, with keys made just now")
    near, far = stage.near.hub, stage.far.hub
    await asyncio.gather(near.make(), far.make())
    near_card, far_card = await asyncio.gather(near.card(), far.card())
    await asyncio.gather(
        near.introduce(far, *far_card, endpoint=stage.tap.port), far.introduce(near, *near_card, endpoint=None)
    )
    for hub, peer in ((near, far), (far, near)):
        hub.configure("session", hold=HOLD)
        hub.configure_peer(peer, present_as=PRESENT_AS[peer.name])


async def start(stage: Stage, show: Show) -> None:
    """Start both daemons and wait until each says that the other is there."""
    show.step("two daemons, and between them a tap that records every byte")
    await stage.far.hub.start()
    await stage.far.hub.wait_until("listening")  # a dial that fails would be made up for only after a while
    await stage.near.hub.start()
    await asyncio.gather(stage.near.hub.wait_until("up"), stage.far.hub.wait_until("up"))


# --- traffic --------------------------------------------------------------------------------------------------------


async def exchange_mail(stage: Stage, show: Show) -> None:
    """Letters of all sizes both ways at once."""
    sizes = (*NEAR_SIZES, *FAR_SIZES)
    text = f"{len(sizes)} messages, 1 KB to 25 MB, both ways, {2 * CLIENTS} SMTP sessions at once"
    with show.meter(text, sum(sizes)) as advance:
        await asyncio.gather(stage.send(stage.near, NEAR_SIZES, advance), stage.send(stage.far, FAR_SIZES, advance))


async def rotate(stage: Stage, before: Status) -> Moved:
    """Give the near hub a new link key while letters move, and wait until the session rests on it."""
    started = time.monotonic()
    await stage.near.hub.command("key", "rotate", "--now")
    while True:
        now = await stage.near.hub.glance()
        seconds = time.monotonic() - started
        if now["link_key"]["ours"]["id"] != before["link_key"]["ours"]["id"] or seconds > MOVE_S:
            return Moved(before, now, seconds)
        await asyncio.sleep(LOOK_EVERY_S)


async def harm(stage: Stage, show: Show) -> list[Struck]:
    """Flip and cut the carrier while messages are on it."""
    struck = []
    with show.meter(
        "one bit flipped, then the carrier cut, in the middle of messages", sum(HARM_SIZES) * len(HARMS)
    ) as advance:
        for kind, way in HARMS:
            side = stage.near if way is Way.OUT else stage.far
            before = await stage.near.hub.glance()
            fault = stage.tap.arm(kind, way, HARM_AFTER)
            posted = await stage.send(side, HARM_SIZES, advance)
            ended = await carrier_ended(fault)
            struck.append(Struck(fault, ended, before, await stage.near.hub.glance(), posted))
    return struck


async def carrier_ended(fault: Fault) -> bool:
    """Whether the carrier that a fault struck ended, at the hands of whoever read the harm."""
    if fault.passage is None:
        return False
    try:
        async with asyncio.timeout(CARRIER_END_S):
            await fault.passage.ended.wait()
    except TimeoutError:
        return False
    reader = "far end" if fault.way is Way.OUT else "dialler"
    return fault.passage.ended_by == ("cut" if fault.harm is Harm.CUT else reader)


async def keep_ratcheting(stage: Stage) -> None:
    """Ask for a ratchet step every two seconds, as long as there is traffic to step under."""
    while True:
        await asyncio.sleep(RATCHET_EVERY_S)
        try:
            await stage.near.hub.ask("rekey", peer=FAR)
        except HubtunnelError:
            continue  # between two carriers there is nothing to step; the next round asks again


async def knock(stage: Stage) -> dict[str, int]:
    """Speak to the far hub as strangers do, and count the bytes of its answer to each."""
    recorded = stage.tap.passages[0].files[Way.OUT].read_bytes()[:REPLAYED]
    openings = {"an SMTP greeting": b"EHLO stranger.example\r\n", "random bytes": os.urandom(8 * KB)}
    openings |= {"a replay of the recorded carrier": recorded, "silence": b""}
    counts = await asyncio.gather(*(answer_to(stage.far.hub.listen, opening) for opening in openings.values()))
    return dict(zip(openings, counts, strict=True))


async def answer_to(port: int, opening: bytes) -> int:
    """Bytes that come back within `STRANGER_WAIT_S` after `opening` was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    try:
        writer.write(opening)
        async with asyncio.timeout(STRANGER_WAIT_S):
            while data := await reader.read(64 * KB):
                count += len(data)
    except (TimeoutError, ConnectionError):
        pass  # silent, or closed on us: either way what counts is what was said
    finally:
        writer.transport.abort()
    return count


# --- what it proved -------------------------------------------------------------------------------------------------


def prove_mail(stage: Stage, report: Report) -> None:
    """Everything arrived once and as it was sent, and no client saw an error."""
    verdict = stage.verdict()
    sides = (stage.near, stage.far)
    report.messages = sum(len(side.sent) for side in sides)
    report.bytes = stage.bytes_sent()
    report.identical = verdict.identical
    errors = [error for side in sides for error in side.posted.errors]
    sessions = sum(side.posted.sessions for side in sides)
    sizes = [letter.size for side in sides for letter in side.sent] or [0]
    wrong = [verdict.faults()] if not verdict.clean else []
    wrong += [f"{many(len(errors), 'SMTP session')} failed, the first: {errors[0]}"] if errors else []
    report.prove(
        "Every message arrives once, and as it was sent",
        verdict.clean and not errors and verdict.identical == report.messages > 0,
        "; ".join(wrong)
        or f"{many(report.messages, 'message')} of {amount(min(sizes))} to {amount(max(sizes))}, {amount(report.bytes)}"
        f" in {many(sessions, 'SMTP session')} both ways: the SHA-256 of each is the same at both ends",
    )


def prove_harm(struck: Sequence[Struck], report: Report) -> None:
    """A flip ends the carrier and a cut is one; either way the session resumes and no client notices."""
    flips = [one for one in struck if one.fault.harm is Harm.FLIP]
    cuts = [one for one in struck if one.fault.harm is Harm.CUT]
    report.carriers_flipped = sum(one.ended for one in flips)
    report.carriers_cut = sum(one.ended for one in cuts)
    report.sessions_resumed = sum(one.resumed for one in struck)
    report.prove(
        "One flipped bit ends the carrier, and not the mail on it",
        bool(flips) and all(one.resumed and not one.posted.errors for one in flips),
        "; ".join(map(tell_struck, flips)),
    )
    report.prove(
        "A carrier cut in the middle of messages costs none of them",
        bool(cuts) and all(one.resumed and not one.posted.errors for one in cuts),
        "; ".join(map(tell_struck, cuts)),
    )


def tell_struck(one: Struck) -> str:
    """One fault in words."""
    fault = one.fault
    if fault.passage is None:
        return f"the {fault.harm.value} never struck: fewer than {amount(HARM_AFTER)} went that way"
    way = "near to far" if fault.way is Way.OUT else "far to near"
    what = "a bit flipped in" if fault.harm is Harm.FLIP else "cut after"
    where = f"{what} byte {fault.at:,} of carrier {fault.passage.number}, {way}"
    if not one.ended:
        return f"{where}: the carrier did not end as it had to (ended by: {fault.passage.ended_by or 'nobody'})"
    if not one.resumed:
        return f"{where}: the session did not resume"
    if one.posted.errors:
        return f"{where}: {one.posted.errors[0]}"
    return f"{where}: resumed, {many(one.posted.accepted, 'message')} in flight arrived, no SMTP session noticed"


def prove_keys(before: Status, after: Status, report: Report) -> None:
    """The session's keys were replaced while mail was moving."""
    first, last = before["session"]["epoch"], after["session"]["epoch"]
    report.epochs = last - first
    steps = report.epochs - (after["session"]["resumed"] - before["session"]["resumed"])
    report.prove(
        "Session keys are replaced while mail moves",
        steps >= 2 and before["session"]["id"] == after["session"]["id"],
        f"{many(steps, 'ratchet step')} and {many(report.epochs - steps, 'resumption')} brought session"
        f" {after['session']['id'][:8]} from epoch {first} to {last}, says `hubtunnel status`",
    )


def prove_rotation(moved: Moved, errors: Sequence[str], report: Report) -> None:
    """The session rests on a new link key, it is the same session, and no client of the mail meanwhile saw an error."""
    old, new = moved.before["link_key"]["ours"]["id"], moved.after["link_key"]["ours"]["id"]
    goes_on = moved.before["session"]["id"] == moved.after["session"]["id"]
    report.rotations = int(old != new)
    if old == new:
        evidence = f"{moved.seconds:.1f} s after `key rotate --now` the session still rests on link key {old}"
    elif not goes_on:
        evidence = f"the session ended when link key {new} took the place of {old}"
    else:
        evidence = (
            f"{moved.seconds:.1f} s after `key rotate --now` session {moved.after['session']['id'][:8]} moved from link"
            f" key {old} to {new}, which the far hub had taken up: no SMTP session noticed"
        )
    report.prove(
        "A link key is replaced while mail moves",
        old != new and goes_on and not errors,
        f"{evidence}; {errors[0]}" if errors else evidence,
    )


def prove_strangers(stage: Stage, answers: dict[str, int], report: Report) -> None:
    """Nobody but the peer gets a byte; the peer's own carrier is the control."""
    to_peer = stage.tap.passages[0].count[Way.BACK]
    spoken = [f"{count} bytes to {what}" for what, count in answers.items() if count]
    report.prove(
        "A stranger gets no answer, not even with a recording of the peer",
        bool(answers) and not spoken and to_peer > 0,
        "; ".join(spoken)
        or f"nothing in {STRANGER_WAIT_S:.0f} s to {', '.join(answers)}; the peer itself got {amount(to_peer)} there",
    )


def prove_origin(stage: Stage, report: Report) -> None:
    """The mail servers were told where mail came from, and it never looked like their own."""
    wanted = {stage.near.sink: PRESENT_AS[FAR], stage.far.sink: PRESENT_AS[NEAR]}
    connections = sum(sink.proxied for sink in wanted)
    told = sorted(set().union(*(sink.sources for sink in wanted)))
    report.prove(
        "Mail from a peer never looks like local mail to the mail server",
        connections > 0 and all(sink.sources == {source} for sink, source in wanted.items()),
        f"{many(connections, 'connection')} to the two mail servers, each with a PROXY header from {' or '.join(told)}",
    )


async def prove_absence(stage: Stage, show: Show, report: Report) -> None:
    """With the far hub stopped, whoever sends is told so, with the reason, and keeps the mail."""
    show.step("the far hub stops: what the near mail server is told then")
    await stage.far.hub.command("stop")
    line = await greeting(stage.near.hub.submit)
    report.prove(
        "A peer that is away is said to be, with the reason",
        line.startswith(f"421 4.4.1 hubtunnel: {FAR}: "),
        line or "the connection ended without a word",
    )


async def prove_secrecy(stage: Stage, show: Show, control: Findings, report: Report) -> None:
    """Nothing of any letter or of SMTP stands in what the tap recorded, and the search is one that finds."""
    show.step("searching everything that crossed the wire")
    found = await asyncio.to_thread(search, stage.tap.recordings(), needles(stage.marker))
    report.plaintext_on_wire = found.total
    report.plaintext_in_control = control.total
    report.wire_bytes = found.searched
    missed = [name for name, hits in control.hits.items() if not hits]
    report.prove(
        "Nothing can be read on the wire",
        found.total == 0 and found.searched > report.bytes > 0 and not missed,
        (f"clear text {found.total} times: {'; '.join(found.where[:3])}" if found.total else "no clear text")
        + f" in the {amount(found.searched)} of {many(len(stage.tap.passages), 'carrier')}; over plain SMTP the same"
        + f" search found {control.total:,} pieces in {amount(control.searched)}"
        + (f" but missed {', '.join(missed)}" if missed else ""),
    )
