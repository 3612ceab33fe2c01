"""Operations inside the daemon: one at a time, beside reloads, with their result taken over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hubtunnel.config import load
from hubtunnel.daemon.control import CALLER
from hubtunnel.daemon.operations import OperationRunner
from hubtunnel.daemon.workers import Workers
from hubtunnel.errors import ConfigError, HubtunnelError
from hubtunnel.identity.armour import armour
from hubtunnel.identity.caller import Caller
from hubtunnel.identity.state import State
from hubtunnel.identity.trail import Trail
from tests.conftest import RunLoop
from tests.identity.living import hub
from tests.identity.making import NOW, signed

ALICE = Caller(4711, "alice")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return hub(tmp_path / "a")


class Daemon:
    """Counts what is taken over, which takes the lock as the daemon's own does, and may fail."""

    def __init__(self, lock: asyncio.Lock, fails: str = "") -> None:
        self.lock, self.fails = lock, fails
        self.taken_up = self.reloaded = 0

    async def before(self, name: str, arguments: Mapping[str, Any], by: Caller) -> None:
        """What the daemon does ahead of an operation: here, nothing."""

    async def take_up(self) -> None:
        async with asyncio.timeout(10), self.lock:
            self.taken_up += 1
        if self.fails:
            raise HubtunnelError(self.fails)

    async def reload(self) -> None:
        async with asyncio.timeout(10), self.lock:
            self.reloaded += 1


def using(
    config: Path, body: Callable[[OperationRunner, Daemon, State], Awaitable[None]], fails: str = ""
) -> Callable[[], Any]:
    async def main() -> None:
        workers, lock = Workers(asyncio.get_running_loop()), asyncio.Lock()
        daemon = Daemon(lock, fails)
        loaded = load(config)
        with State.open(loaded.state, write=True) as state:
            runner = OperationRunner(
                state, workers, lock, lambda: loaded, lambda: NOW, daemon.take_up, daemon.reload, daemon.before
            )
            try:
                await body(runner, daemon, state)
            finally:
                workers.close()

    return main


def test_answer_names_the_caller_and_takes_up_keys(config: Path, run_loop: RunLoop) -> None:
    async def body(runner: OperationRunner, daemon: Daemon, state: State) -> None:
        answer = await runner.answer({"name": "rotate", "arguments": {}, CALLER: 0})
        assert answer["result"]["card"] == 2
        assert (daemon.taken_up, daemon.reloaded) == (1, 0)
        last = Trail(state).verify()
        assert last is not None
        assert (last.uid, last.what) == (0, "rotated")

    run_loop(using(config, body)())


def test_operations_wait_for_each_other(config: Path, run_loop: RunLoop) -> None:
    async def body(runner: OperationRunner, daemon: Daemon, state: State) -> None:
        async def rotate() -> int:
            result = await runner.run("rotate", {}, ALICE)
            return int(result["card"])

        assert sorted(await asyncio.gather(*(rotate() for _ in range(5)))) == [2, 3, 4, 5, 6]
        assert daemon.taken_up == 5

    run_loop(using(config, body)())


def test_record_changes_nothing_to_take_up(config: Path, run_loop: RunLoop) -> None:
    async def body(runner: OperationRunner, daemon: Daemon, state: State) -> None:
        await runner.run("record", {"what": "exported", "details": {"file": "x"}}, ALICE)
        assert (daemon.taken_up, daemon.reloaded) == (0, 0)

    run_loop(using(config, body)())


def test_failure_to_take_up_is_told_and_the_card_stays(config: Path, run_loop: RunLoop) -> None:
    async def body(runner: OperationRunner, daemon: Daemon, state: State) -> None:
        result = await runner.run("rotate", {}, ALICE)
        assert result["card"] == 2
        assert "could not take it over" in result["warnings"][-1]
        assert "a bad day" in result["warnings"][-1]

    run_loop(using(config, body, fails="a bad day")())


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"name": "rotate"}, "needs its arguments"),
        ({"name": "rotate", "arguments": []}, "needs its arguments"),
        ({"name": "format_disk", "arguments": {}}, "no operation"),
        ({"arguments": {}}, "no operation"),
        ({"name": "rotate", "arguments": {"sudo": True}}, "unexpected keyword argument 'sudo'"),
        ({"name": "revoke", "arguments": {}}, "missing a required argument: 'key'"),
        ({"name": "record", "arguments": {"what": "rotated", "details": {}}}, "by itself"),
    ],
)
def test_request_of_another_form_is_refused(config: Path, run_loop: RunLoop, asked: dict[str, Any], says: str) -> None:
    async def body(runner: OperationRunner, daemon: Daemon, state: State) -> None:
        with pytest.raises(HubtunnelError, match=says):
            await runner.answer({**asked, CALLER: 0})
        assert (daemon.taken_up, daemon.reloaded) == (0, 0)
        assert len(state.cards()) == 1

    run_loop(using(config, body)())


def test_repin_goes_with_files_that_are_read_first(config: Path, run_loop: RunLoop) -> None:
    """Another card of a peer changes `peers.d` too: a mistake there is told before, and all is reloaded after."""
    sound, write, pinned = config.read_text(), config.write_text, signed("b")
    arguments = {"peer": "mx.b.example", "pin": pinned.card.idfp, "card": armour(pinned)}

    async def body(runner: OperationRunner, daemon: Daemon, state: State) -> None:
        write(sound + "nonsense = 1\n")
        with pytest.raises(ConfigError, match="nonsense"):
            await runner.run("repin", arguments, ALICE)
        assert state.peer(pinned.card.idfp) is None
        write(sound)
        assert (await runner.run("repin", arguments, ALICE))["serial"] == 1
        assert (daemon.taken_up, daemon.reloaded) == (0, 1)

    run_loop(using(config, body)())
