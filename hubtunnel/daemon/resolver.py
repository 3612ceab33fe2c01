"""Names to addresses, beside the event loop and bounded: a resolver that hangs holds up nothing but its own answer.

The event loops' own way has few threads, which a resolver that does not answer would hold against all other peers, and
against the end of the process, which waits for them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from itertools import zip_longest

THREADS = 8  # names looked up at the same time; those that come later wait for their turn


class Resolver:
    """Looks a name up anew each time it is asked; whoever asks meanwhile for the same gets the same answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots = asyncio.Semaphore(THREADS)
        self._running: dict[tuple[str, int], asyncio.Task[list[str]]] = {}

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of `host`, best first (RFC 6724), families by turns (RFC 8305). Raises `OSError`.

        Whoever stops waiting does not stop the look-up: bound the wait, not the question.
        """
        key = host, port
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = self._loop.create_task(self._look_up(host, port))
            running.add_done_callback(lambda done: self._over(key, done))
        return await asyncio.shield(running)

    def _over(self, key: tuple[str, int], done: asyncio.Task[list[str]]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # whoever asked may have left

    async def _look_up(self, host: str, port: int) -> list[str]:
        async with self._slots:
            answer: asyncio.Future[list[str]] = self._loop.create_future()

            def tell(found: list[str] | Exception) -> None:
                if answer.done():
                    return
                if isinstance(found, Exception):
                    answer.set_exception(found)
                else:
                    answer.set_result(found)

            def work() -> None:
                found: list[str] | Exception
                try:
                    found = _addresses(host, port)
                except Exception as exc:
                    found = exc
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(tell, found)

            # A daemon thread: getaddrinfo(3) cannot be called off, and the process does not wait for it.
            threading.Thread(target=work, name="hubtunnel-name", daemon=True).start()
            return await answer

    async def close(self) -> None:
        """Wait for no answer any more."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except UnicodeError as exc:  # of Python's own codec for names
        raise socket.gaierror(socket.EAI_NONAME, str(exc)) from None
    return by_turns((family, str(name[0])) for family, _, _, _, name in found)


def by_turns(found: Iterable[tuple[int, str]]) -> list[str]:
    """Addresses with their family, ordered: the first family's first, then one of each by turns; each once."""
    families: dict[int, list[str]] = {}
    for family, address in dict.fromkeys(found):
        families.setdefault(family, []).append(address)
    rounds = zip_longest(*families.values())
    return [address for each in rounds for address in each if address is not None]
