"""This tree against the release before it, or the commit before it while there is none: two hubs are never upgraded at
the same moment. Mail both ways, ratchet steps, and carriers killed, with either of them as the one that dials.

The other version is built as a wheel out of git and run from where that is unpacked, with this Python's dependencies.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hubtunnel.daemon.control import request
from tests.e2e.hubs import ROOT, Hub
from tests.e2e.namespaces import Namespace
from tests.e2e.processes import run as run_command
from tests.faults.line import Quality
from tests.faults.mail import timetable
from tests.faults.stage import Bench, Side, bench, run_mail, security_events

REF = "HUBTUNNEL_PREVIOUS"
"""Variable of the environment that names another commit."""

LETTERS = 30
SECONDS = 2.0
KILLS = 3
STEPS = 2
WITHIN = 60.0  # seconds; other versions may wait longer before they dial again


class NoPreviousError(Exception):
    """There is no other version to be had here; the text says why and what helps."""


def previous() -> str:
    """The commit of the last tag before this one, else the commit before this one. Raises `NoPreviousError`."""
    if not (ROOT / ".git").exists():
        raise NoPreviousError("this is no git checkout, so there is no version before it: clone the repository")
    for ref in filter(None, (os.environ.get(REF), _last_tag(), "HEAD~1")):
        found = _git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        if found:
            return found
    if _git("rev-parse", "--is-shallow-repository") == "true":
        _git("fetch", "--quiet", "--deepen=1")
        found = _git("rev-parse", "--verify", "--quiet", "HEAD~1^{commit}")
        if found:
            return found
        raise NoPreviousError(f"this clone is shallow: `git fetch --deepen=1`, or set {REF} to a commit that is here")
    raise NoPreviousError("this is the first commit")


def commit() -> str:
    """That of this tree; empty where there is no git."""
    return _git("rev-parse", "HEAD")


def _last_tag() -> str:
    return _git("describe", "--tags", "--abbrev=0", "HEAD~1")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


@contextmanager
def installed(commit: str) -> Iterator[Path]:
    """A folder with the package as the wheel of that commit installs it."""
    with tempfile.TemporaryDirectory(prefix="hubtunnel-previous-") as name:
        folder = Path(name)
        source, wheels, package = folder / "source", folder / "wheels", folder / "package"
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True).stdout
        source.mkdir()
        subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
        if importlib.util.find_spec("hatchling") is None:
            raise NoPreviousError("needs hatchling to build the wheel: `sh contrib/try setup` installs it")
        build = ["-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
        run_command(sys.executable, *build, cwd=source, deadline=120.0)
        (wheel,) = wheels.glob("*.whl")
        pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(package), str(wheel)]
        run_command(sys.executable, *pip, cwd=folder, deadline=120.0)
        yield package


def hub_of(package: Path) -> type[Hub]:
    """Hubs that run that package and nothing of this tree."""

    class PreviousHub(Hub):
        def __init__(
            self, name: str, directory: Path, *, listen: str, deliver: str, namespace: Namespace | None
        ) -> None:
            super().__init__(name, directory, listen=listen, deliver=deliver, namespace=namespace, package=package)

    return PreviousHub


async def run(package: Path, *, seed: int = 1) -> dict[str, Any]:
    """Both pairings; what came of each."""
    where = run_command(sys.executable, "-c", "import hubtunnel; print(hubtunnel.__file__)", cwd=package)
    assert Path(where.strip()).is_relative_to(package), where  # it is the other one that runs
    old = hub_of(package)
    pairings: dict[str, tuple[type[Hub], type[Hub]]] = {"previous dials": (old, Hub), "this one dials": (Hub, old)}
    results = await asyncio.gather(*(_pairing(programs, seed) for programs in pairings.values()))
    found = dict(zip(pairings, results, strict=True))
    return {"ok": all(pairing["ok"] for pairing in found.values()), **found}


async def _pairing(programs: tuple[type[Hub], type[Hub]], seed: int) -> dict[str, Any]:
    quality = Quality(delay=0.002)
    async with bench(quality, seed=seed, programs=programs, dials=(True, False), hold="20s") as stage:
        senders = stage.senders(
            timetable(LETTERS // 2, 1, SECONDS, seed=seed),
            timetable(LETTERS // 2, 1, SECONDS, seed=seed + 1, first=1_000_000),
        )
        before = [(await side.glance())["session"]["id"] for side in stage.sides]
        await run_mail(senders, asyncio.create_task(_faults_and_steps(stage)))
        await stage.until_up()
        after = [await side.glance() for side in stage.sides]
        account = stage.account(senders)
        alarms = [line for side in stage.sides for line in security_events(side.hub.directory)]
        epochs = [glance["session"]["epoch"] for glance in after]
        resumed = [glance["session"]["resumed"] for glance in after]
        return {
            "ok": account.exactly_once
            and not account.troubles
            and not alarms
            and [glance["session"]["id"] for glance in after] == before
            and min(resumed) >= KILLS
            and epochs[0] == epochs[1] >= 2 * KILLS + STEPS,
            **account.figures(),
            "epochs": epochs,
            "resumed": resumed,
            "security_events": alarms[:5],
        }


async def _faults_and_steps(stage: Bench) -> None:
    """Steps that were asked for, and carriers killed, in turn. Each resume brings one step of its own (RS7, RS8)."""
    due = 0
    for number in range(max(KILLS, STEPS)):
        await _until_above(stage.a, "epoch", due - 1)  # the step of the last resume is over: a kill would take it away
        if number < STEPS:
            await _until_above(stage.a, "epoch", due, ask=partial(_rekey, stage))
            due += 1
        if number < KILLS:
            stage.line.kill()
            await _until_above(stage.a, "resumed", number)
            due += 2
    await _until_above(stage.a, "epoch", due - 1)


async def _count(side: Side, what: str) -> int:
    session = (await side.glance())["session"]
    return -1 if session is None else int(session[what])  # there may be none to be shown just now


async def _rekey(stage: Bench) -> None:
    """Ask for a step. What is asked while one is under way is that one."""
    await asyncio.to_thread(request, stage.a.hub.directory / "control.sock", "rekey", peer=stage.b.hub.name)


async def _until_above(side: Side, what: str, count: int, *, ask: Callable[[], Awaitable[None]] | None = None) -> None:
    end = time.monotonic() + WITHIN
    while await _count(side, what) <= count:
        if ask is not None:
            await ask()
        if time.monotonic() > end:
            raise AssertionError(f"the session's {what!r} stays at {count}\n{side.hub.log[-4000:]}")
        await asyncio.sleep(0.05)
