"""Programs run when a peer comes up or goes down."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hubtunnel.daemon import hooks
from hubtunnel.daemon.hooks import Hooks
from tests.conftest import RunLoop
from tests.daemon.hubs import until


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
