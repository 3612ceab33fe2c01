"""SIGKILL of a running daemon between its writes: what it finds when it starts again, and what its peer sees."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hubtunnel.cli import main
from hubtunnel.daemon.control import ControlUnavailable, request
from hubtunnel.identity.state import State
from tests.daemon.hubs import TIMES, Place, free_port, name_of
from tests.daemon.living import settled, trail
from tests.identity.faults import killing, patched
from tests.identity.living import check

WITHIN = 30.0
STEPS_MAX = 120


class Daemon:
    """`hubtunnel run` as a process of its own, a fork of this one, which spares it the imports.

    With a `step`, SIGKILL ends it right after its step-th change to files that follows `arm`.
    """

    def __init__(self, place: Place, step: int | None = None) -> None:
        self.place = place
        self._armed = place.folder / "armed"
        self._armed.unlink(missing_ok=True)
        self.pid = os.fork()
        if self.pid == 0:
            self._be(step)

    def _be(self, step: int | None) -> None:
        status = 3
        try:
            sys.stdout = sys.stderr = open(self.place.folder / "log", "a", buffering=1)  # noqa: SIM115
            with patched(self._react(step)):
                status = main(["--config", str(self.place.config), "run"])
        finally:
            os._exit(status)

    def _react(self, step: int | None) -> Callable[..., Any]:
        kill = killing(step or 0, after=True)
        changes = 0

        def react(name: str, _: int, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
            nonlocal changes
            if step is None or not self._armed.exists():
                return real()
            changes += 1
            return kill(name, changes, real, args)

        return react

    def arm(self) -> None:
        self._armed.touch()

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return request(self.place.folder / "control.sock", command, **arguments)

    def peer(self) -> dict[str, Any]:
        """Its one peer, as in `status`."""
        found: dict[str, Any] = self.ask("status")["status"]["peers"][0]
        return found

    @property
    def alive(self) -> bool:
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = 0
        return self.pid != 0

    def end(self) -> None:
        """Whatever it takes."""
        with contextlib.suppress(ControlUnavailable):
            self.ask("stop")
        deadline = time.monotonic() + WITHIN
        while self.alive:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)

    @property
    def log(self) -> str:
        return (self.place.folder / "log").read_text()


def wait(condition: Callable[[], object], *daemons: Daemon) -> None:
    """Until it holds; an answer that does not come, because a daemon is not up yet, is none."""
    deadline = time.monotonic() + WITHIN
    while True:
        with contextlib.suppress(ControlUnavailable):
            if condition():
                return
        assert time.monotonic() < deadline, "\n".join(daemon.log for daemon in daemons)
        time.sleep(0.01)


@pytest.fixture
def b(tmp_path: Path) -> Iterator[Daemon]:
    """A hub whose daemon lives through it all, and which sees every card that a ever announces."""
    a, b = settled(tmp_path, "a"), settled(tmp_path, "b")
    port = free_port()
    # A hub that dies every half a second leaves sessions behind; b need not wait for their carriers.
    b.write(listen=f"127.0.0.1:{port}", times=TIMES.replace("20s", "300ms"))
    b.add_peer(a)
    a.add_peer(b, endpoints=[f"127.0.0.1:{port}"])
    daemon = Daemon(b)
    wait(lambda: daemon.ask("status"), daemon)
    yield daemon
    daemon.end()


def in_step(*daemons: Daemon) -> bool:
    """Whether both are up, each holds the newest card of the other, and both know that."""
    one, other = (daemon.ask("status")["status"] for daemon in daemons)
    return all(
        theirs["peers"][0]["state"] == "up"
        and theirs["peers"][0]["card"]["accepted"] == own["peers"][0]["card"]["acknowledged"] == own["card"]
        for own, theirs in ((one, other), (other, one))
    )


def ahead(daemon: Daemon) -> str:
    """An own link key that is not in use yet, so that no session has to leave it first."""
    with State.open(daemon.place.folder / "state") as state:
        return state.cards()[-1].card.link_keys[-1].id.hex()


def of_a(name: str, arguments: Callable[[Daemon], dict[str, Any]]) -> Callable[[Daemon, Daemon], None]:
    """A change that a command asks of the daemon that is to die."""

    def do(a: Daemon, _: Daemon) -> None:
        given = arguments(a)
        a.arm()
        a.ask("operation", name=name, arguments=given)

    return do


def card_of_b(a: Daemon, b: Daemon) -> None:
    """b signs, and a is told."""
    a.arm()
    wanted = b.ask("operation", name="rotate", arguments={})["result"]["card"]
    while a.alive and b.peer()["card"]["acknowledged"] != wanted:
        time.sleep(0.005)
    if not a.alive:
        raise ControlUnavailable("a is dead")


# What is changed, and from one write that kills to the next: where the operation runs as it does without a daemon,
# `tests.identity.test_crashes` looks at every single one.
CHANGES: dict[str, tuple[Callable[[Daemon, Daemon], None], int]] = {
    "rotate": (of_a("rotate", lambda _: {}), 3),
    "revoke": (of_a("revoke", lambda a: {"key": ahead(a)}), 6),
    "new identity": (of_a("rotate", lambda _: {"identity": True}), 6),
    "delete": (of_a("delete", lambda a: {"key": ahead(a), "force": True}), 6),
    "a card of the peer": (card_of_b, 1),
}


def holdings(place: Place) -> tuple[int, int]:
    """Serials of the own newest card and of the peer's that is accepted, both of which must be whole."""
    with State.open(place.folder / "state") as state:
        (path,) = (state.folder / "peers").glob("*.cards")
        cards = state.peer(bytes.fromhex(path.stem))
        assert cards is not None
        return state.cards()[-1].card.serial, cards.latest.card.serial


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("change", CHANGES)
def test_killed_between_its_writes(tmp_path: Path, b: Daemon, change: str) -> None:
    """One chain of cards through all the deaths of its hub: every time the old state or the new, and no fork."""
    do, stride = CHANGES[change]
    place = Place(tmp_path / "a", "a")
    kills, found = 0, set()
    for step in range(1, STEPS_MAX, stride):
        a = Daemon(place, step)
        try:
            wait(lambda a=a: in_step(a, b), a, b)  # type: ignore[misc]
            before = holdings(place)
            do(a, b)
            killed = False
        except ControlUnavailable:
            killed = True
        finally:
            a.end()
        check(place.config, time.time())
        after = holdings(place)
        moved = (after[0] - before[0], after[1] - before[1])
        found.add(max(moved))
        if not killed:
            break
        kills += 1
    else:
        raise AssertionError("never came to its end")
    assert kills * stride > 10, "the faults were never placed"
    assert found >= {0, 1}

    last = Daemon(place)
    try:
        wait(lambda: in_step(last, b), last, b)
        last.ask("operation", name="rotate", arguments={})
        wait(lambda: in_step(last, b), last, b)
    finally:
        last.end()
    for seen in (Place(tmp_path / "b", "b"), place):
        assert "card refused" not in [entry.what for entry in trail(seen)]
    for said in (b.log, last.log):
        assert not [line for line in said.splitlines() if " alarm " in line and ("fork" in line or "card" in line)]
    assert name_of("a") in b.log
