"""Programs that the administrator wants run when a peer comes up or goes down, for example to flush the MTA's queue."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from hubtunnel.daemon.logs import event, log

SETTLE = 10.0  # a peer that is back within so many seconds was never down
APART = 30.0  # seconds between the starts of two programs for one peer, however it comes and goes
TIMEOUT = 60.0
AT_ONCE = 8


class Hooks:
    """Runs `on_up` and `on_down` with the peer's name in ``$HUBTUNNEL_PEER``: one program per peer at a time.

    What is told is how things are when the program starts: a peer that came and went meanwhile is not told of twice.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_up: Sequence[str], on_down: Sequence[str]) -> None:
        self._loop = loop
        self._argv = {True: tuple(on_up), False: tuple(on_down)}
        self._reported: dict[str, bool] = {}
        self._wanted: dict[str, bool] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._began: dict[str, float] = {}  # when the latest program of a peer was started
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
                wait = self._began.get(peer, float("-inf")) + APART - self._loop.time()
                if wait > 0 or not up:
                    await asyncio.sleep(max(wait, 0.0 if up else SETTLE))
                    if self._wanted[peer] != up:
                        continue
                self._reported[peer] = up
                argv = self._argv[up]
                if argv:
                    async with self._slots:
                        self._began[peer] = self._loop.time()
                        await self._run(peer, argv)
        finally:
            del self._tasks[peer]

    async def _run(self, peer: str, argv: Sequence[str]) -> None:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HUBTUNNEL_PEER": peer}
        try:
            # Not through the event loop: uvloop leaves descriptors open in the program.
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - at most until exec; the administrator's own argv
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
                start_new_session=True,  # so that what it has started can be ended with it
            )
        except OSError as exc:
            event(log.error, "hook_failed", peer=peer, program=argv[0], error=exc.strerror)
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._ended(process.pid)
        except TimeoutError:
            event(log.error, "hook_failed", peer=peer, program=argv[0], error=f"ran longer than {TIMEOUT:.0f} s")
            return
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        status = process.returncode
        event(log.info if status == 0 else log.error, "hook", peer=peer, program=argv[0], status=status)

    async def _ended(self, pid: int) -> None:
        ended = asyncio.Event()
        fd = os.pidfd_open(pid)
        self._loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
        finally:
            self._loop.remove_reader(fd)
            os.close(fd)

    def forget(self, peer: str) -> None:
        """The peer was removed: nothing about it is told any more."""
        task = self._tasks.get(peer)
        if task is not None:
            task.cancel()
        for known in (self._wanted, self._reported, self._began):
            known.pop(peer, None)

    async def close(self) -> None:
        """End what runs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
