"""Programs that the administrator wants run when a peer comes up or goes down, for example to flush the MTA's queue."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from hubtunnel.daemon.logs import event, log

SETTLE = 10.0  # a peer that is back within so many seconds was never down
TIMEOUT = 60.0
AT_ONCE = 8


class Hooks:
    """Runs `on_up` and `on_down` with the peer's name in ``$HUBTUNNEL_PEER``: one program per peer at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_up: Sequence[str], on_down: Sequence[str]) -> None:
        self._loop = loop
        self._argv = {True: tuple(on_up), False: tuple(on_down)}
        self._reported: dict[str, bool] = {}
        self._wanted: dict[str, bool] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def configure(self, on_up: Sequence[str], on_down: Sequence[str]) -> None:
        """Take new programs."""
        self._argv = {True: tuple(on_up), False: tuple(on_down)}

    def peer_changed(self, peer: str, up: bool) -> None:
        """A peer came up or went down."""
        self._wanted[peer] = up
        if peer not in self._tasks:
            self._tasks[peer] = self._loop.create_task(self._report(peer))

    async def _report(self, peer: str) -> None:
        try:
            while (up := self._wanted[peer]) != self._reported.get(peer, False):
                if not up:
                    await asyncio.sleep(SETTLE)
                    if self._wanted[peer]:
                        continue
                self._reported[peer] = up
                argv = self._argv[up]
                if argv:
                    async with self._slots:
                        await self._run(peer, argv)
        finally:
            del self._tasks[peer]

    async def _run(self, peer: str, argv: Sequence[str]) -> None:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HUBTUNNEL_PEER": peer}
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment,
            )
        except OSError as exc:
            event(log.error, "hook_failed", peer=peer, program=argv[0], error=exc.strerror)
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                status = await process.wait()
        except (TimeoutError, asyncio.CancelledError) as exc:
            process.kill()
            await process.wait()
            if isinstance(exc, asyncio.CancelledError):
                raise
            event(log.error, "hook_failed", peer=peer, program=argv[0], error=f"ran longer than {TIMEOUT:.0f} s")
            return
        event(log.info if status == 0 else log.error, "hook", peer=peer, program=argv[0], status=status)

    async def close(self) -> None:
        """End what runs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
