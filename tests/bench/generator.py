"""Many real hubs in one process, each with one peer: `python -m tests.bench.generator FOLDER COUNT`.

It says `ready` on its own line once all run, and after that `up N M` whenever the number of sessions has changed: of
all, and of the peers of even numbers, which wait to be dialled. At SIGUSR1 those that dial do so at once, however long
they have done so in vain.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import uvloop

from hubtunnel.daemon import logs
from tests.bench.crowd import CROWD_HUB, Crowd
from tests.daemon.hubs import link, running

_LOOK = 0.02  # seconds between two looks at the sessions


async def _run(crowd: Crowd, count: int) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        hubs = [await stack.enter_async_context(running(crowd.peer(number))) for number in range(count)]

        def dial_anew() -> None:
            for hub in hubs:
                link(hub, CROWD_HUB).dialler.promising()

        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, dial_anew)
        print("ready", flush=True)
        told = ""
        while not stopped.is_set():
            up = [link(hub, CROWD_HUB).core.ready for hub in hubs]
            if (now := f"up {sum(up)} {sum(up[::2])}") != told:
                print(now, flush=True)
                told = now
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), _LOOK)


def main() -> None:
    """Until SIGTERM."""
    logs.configure("text", "critical")
    folder, count = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(Crowd(Path(folder)), int(count)))


if __name__ == "__main__":
    main()
