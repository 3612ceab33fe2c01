"""One dial over all addresses of a peer: they overlap, and the first handshake that is through wins (RFC 8305).

The names of all endpoints are looked up at once. The addresses are tried in the order of the endpoints; the next one
starts when the one before it has failed, or has had its head start and is still under way. So a dead preferred endpoint
costs a fraction of a second, not a timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from hubtunnel.config import Endpoint
from hubtunnel.daemon.reasons import Failure, most_telling

STAGGER = 0.25  # seconds of head start: RFC 8305's recommended "Connection Attempt Delay"
STAGGER_CONNECTED = 2.0  # the same once TCP is up: the rest is up to the other side's work on the handshake
AT_ONCE = 6  # attempts at the same time
ADDRESSES_MAX = 4  # of one endpoint

# The addresses of an endpoint, or what will find them.
Resolve = Callable[[Endpoint], list[str] | Coroutine[Any, Any, list[str] | Failure]]
# (endpoint, address, to be called once TCP is up): None when the handshake is through
Attempt = Callable[[Endpoint, str, Callable[[], None]], Awaitable[Failure | None]]
_Task = asyncio.Task[list[str] | Failure | None]


class Race:
    """One dial. `attempt` must leave nothing behind when it is cancelled, and no two of them may succeed."""

    def __init__(self, endpoints: Sequence[Endpoint], resolve: Resolve, attempt: Attempt) -> None:
        self._endpoints = endpoints
        self._resolve = resolve
        self._attempt = attempt
        self._clock = asyncio.get_running_loop().time
        self._untried: list[list[str]] = [[] for _ in endpoints]
        self._lookups: dict[_Task, int] = {}  # to the number of the endpoint
        self._attempts: set[_Task] = set()
        self._failures: list[Failure] = []
        self._next_at = 0.0  # when the next attempt may start while another is under way
        self._held_until = 0.0  # TCP is up somewhere: so long the others wait

    async def run(self) -> Failure | None:
        """None when a carrier is there; else of all failures the one that says most."""
        loop = asyncio.get_running_loop()
        for number, endpoint in enumerate(self._endpoints):
            found = self._resolve(endpoint)
            if isinstance(found, list):
                self._untried[number] = found[:ADDRESSES_MAX]
            else:
                self._lookups[loop.create_task(found)] = number
        self._next_at = self._clock() + STAGGER  # the head start of the preferred endpoint's name
        try:
            while self._lookups or self._attempts or any(self._untried):
                wait = self._start_what_may_start()
                running = {*self._lookups, *self._attempts}
                done, _ = await asyncio.wait(running, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if self._won(done):
                    return None
            return most_telling(self._failures)
        finally:
            left = [*self._lookups, *self._attempts]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _start_what_may_start(self) -> float | None:
        """Start at most one attempt; seconds after which to look again if nothing happens before."""
        number = next((n for n, untried in enumerate(self._untried) if untried), None)
        if number is None or len(self._attempts) >= AT_ONCE:
            return None
        now = self._clock()
        better_may_come = any(n < number for n in self._lookups.values())
        at = max(self._next_at, self._held_until) if self._attempts or better_may_come else now
        if at > now:
            return at - now
        endpoint, address = self._endpoints[number], self._untried[number].pop(0)
        self._next_at = now + STAGGER
        task = asyncio.get_running_loop().create_task(self._one(endpoint, address))
        self._attempts.add(task)
        return STAGGER

    async def _one(self, endpoint: Endpoint, address: str) -> Failure | None:
        return await self._attempt(endpoint, address, self._connected)

    def _connected(self) -> None:
        self._held_until = self._clock() + STAGGER_CONNECTED

    def _won(self, done: set[_Task]) -> bool:
        """Take up what has come to an end; whether one of it is a carrier."""
        for task in done:
            result = task.result()
            if result is None:
                return True
            if isinstance(result, Failure):
                self._failures.append(result)
            else:
                self._untried[self._lookups[task]] = result[:ADDRESSES_MAX]
            if task in self._attempts:
                self._next_at = self._held_until = 0.0  # it failed: the next one need not wait
            self._attempts.discard(task)
            self._lookups.pop(task, None)
        return False
