"""Public-key work off the event loop: at most two jobs at once, so that strangers cannot have all the cores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from hubtunnel.protocol.events import Job

WORKERS = 2

_Result = TypeVar("_Result")


class Workers:
    """Runs the core's jobs; what waits is bounded by who issues them (one a handshake, one a session)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="hubtunnel-keys")
        self._closed = False

    def run(self, job: Job, done: Callable[[Job, object], None]) -> None:
        """Run `job` and call `done(job, result or exception)` on the loop."""

        def deliver(future: Future[object]) -> None:
            if not self._closed:
                self._loop.call_soon_threadsafe(finish, future)

        def finish(future: Future[object]) -> None:
            if not self._closed:
                done(job, future.exception() or future.result())

        if not self._closed:
            self._pool.submit(job.run).add_done_callback(deliver)

    async def call(self, work: Callable[[], _Result]) -> _Result:
        """Run other slow work (pair contexts at start and reload) and await its result."""
        return await self._loop.run_in_executor(self._pool, work)

    def close(self) -> None:
        """Take no more, forget what has not begun, wait for what has."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
