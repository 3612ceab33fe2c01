"""Both event loops for everything in the demo that runs in one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[Any]], Any]:
    """Run a coroutine in a fresh loop of each kind, and see that it left no task behind."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run_in_loop(work: Coroutine[Any, Any, T]) -> T:
        async def checked() -> T:
            assert (type(asyncio.get_running_loop()).__module__ == "uvloop") == (request.param == "uvloop")
            result = await work
            await asyncio.sleep(0)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks left behind: {left}"
            return result

        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(checked())

    return run_in_loop
