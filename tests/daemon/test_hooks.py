"""Programs run when a peer comes up or goes down."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from hubtunnel.daemon import hooks
from hubtunnel.daemon.hooks import Hooks
from tests.conftest import RunLoop
from tests.daemon.hubs import until


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "APART", 0.0)


def program(folder: Path, word: str, then: str = "") -> list[str]:
    """A program that notes `word` and the peer it was told of."""
    path = folder / word
    path.write_text(f'#!/bin/sh\necho "{word} $HUBTUNNEL_PEER" >> "{folder}/said"\n{then}\n')
    path.chmod(0o700)
    return [str(path)]


def said(folder: Path) -> list[str]:
    path = folder / "said"
    return path.read_text().splitlines() if path.exists() else []


def test_up_and_down(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "SETTLE", 0.05)

    async def scenario() -> None:
        made = Hooks(asyncio.get_running_loop(), program(tmp_path, "up"), program(tmp_path, "down"))
        made.peer_changed("b", True)
        await until(lambda: said(tmp_path) == ["up b"])
        made.peer_changed("b", False)
        await until(lambda: said(tmp_path) == ["up b", "down b"])
        await made.close()

    run_loop(scenario())


def test_short_absence_is_none(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A carrier that is replaced at once is no news; the peer that stays away afterwards is."""
    monkeypatch.setattr(hooks, "SETTLE", 0.3)

    async def scenario() -> None:
        made = Hooks(asyncio.get_running_loop(), program(tmp_path, "up"), program(tmp_path, "down"))
        made.peer_changed("b", True)
        await until(lambda: said(tmp_path) == ["up b"])
        for _ in range(5):
            made.peer_changed("b", False)
            await asyncio.sleep(0.01)
            made.peer_changed("b", True)
        await asyncio.sleep(0.5)
        assert said(tmp_path) == ["up b"]
        made.peer_changed("b", False)
        await until(lambda: said(tmp_path) == ["up b", "down b"])
        await made.close()

    run_loop(scenario())


def test_program_that_hangs_or_is_missing(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "TIMEOUT", 0.3)
    monkeypatch.setattr(hooks, "SETTLE", 0.01)

    async def scenario() -> None:
        made = Hooks(asyncio.get_running_loop(), program(tmp_path, "up", "exec sleep 99"), ["/nonexistent"])
        made.peer_changed("b", True)
        await until(lambda: said(tmp_path) == ["up b"])
        made.peer_changed("b", False)
        await until(lambda: not made._tasks)
        assert made._reported == {"b": False}
        await made.close()

    run_loop(scenario())


def test_close_ends_what_runs(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        made = Hooks(asyncio.get_running_loop(), program(tmp_path, "up", "exec sleep 99"), [])
        made.peer_changed("b", True)
        await until(lambda: said(tmp_path) == ["up b"])
        await made.close()
        assert not made._tasks

    run_loop(scenario())


def test_a_peer_that_comes_and_goes_is_told_of_now_and_then(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded per peer: in the end what is told is how things are."""
    monkeypatch.setattr(hooks, "SETTLE", 0.01)
    monkeypatch.setattr(hooks, "APART", 0.4)

    async def scenario() -> None:
        made = Hooks(asyncio.get_running_loop(), program(tmp_path, "up"), program(tmp_path, "down"))
        began = asyncio.get_running_loop().time()
        for number in range(40):
            made.peer_changed("b", number % 2 == 0)
            await asyncio.sleep(0.025)
        made.peer_changed("b", True)
        await until(lambda: not made._tasks)
        told = said(tmp_path)
        assert told[0] == told[-1] == "up b"
        assert len(told) <= 1 + (asyncio.get_running_loop().time() - began) / 0.4
        made.peer_changed("c", True)  # another peer does not wait
        await until(lambda: "up c" in said(tmp_path), 0.39)
        made.forget("b")
        assert "b" not in str([made._wanted, made._reported, made._began])
        await made.close()

    run_loop(scenario())


def test_what_a_program_gets(run_loop: RunLoop, tmp_path: Path) -> None:
    """Two names in its environment, no descriptor of ours but three that lead nowhere, and no secret in sight."""

    async def scenario() -> None:
        inherited = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(inherited, True)
        try:
            look = f'ls -l /proc/$$/fd > "{tmp_path}/fds"; env > "{tmp_path}/env"; pwd > "{tmp_path}/pwd"'
            made = Hooks(asyncio.get_running_loop(), program(tmp_path, "up", look), [])
            made.peer_changed("b", True)
            await until(lambda: not made._tasks)
            await made.close()
        finally:
            os.close(inherited)

    run_loop(scenario())
    targets = [line.partition(" -> ")[2] for line in (tmp_path / "fds").read_text().splitlines() if " -> " in line]
    others = [target for target in targets if target not in ("/dev/null", str(tmp_path / "up"), str(tmp_path / "fds"))]
    assert others == []
    assert len(targets) <= 5
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names <= {"PATH", "HUBTUNNEL_PEER", "PWD", "OLDPWD", "SHLVL", "_"}
    assert (tmp_path / "pwd").read_text() == "/\n"


def test_what_a_program_started_ends_with_it(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "TIMEOUT", 0.5)

    async def scenario() -> None:
        background = f'sleep 99 & echo $! > "{tmp_path}/pid"; wait'
        made = Hooks(asyncio.get_running_loop(), program(tmp_path, "up", background), [])
        made.peer_changed("b", True)
        await until(lambda: not made._tasks)
        pid = int((tmp_path / "pid").read_text())
        # Whoever inherits orphans here may take a while to bury this one.
        await until(lambda: _state(pid) in ("", "Z"))
        await made.close()

    run_loop(scenario())


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
