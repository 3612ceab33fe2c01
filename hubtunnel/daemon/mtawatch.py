"""When the local MTA's listeners are probed, and what is known of each: at start, on reload and after failures.

While a listener fails, peers' streams are reset with `mta_unreachable` before a byte of theirs reaches it, and it is
asked again, at first after a second and then ever later. A listener that passed is not asked again without a reason.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from hubtunnel.daemon import probe, reasons, sockets
from hubtunnel.daemon.logs import event, log, rfc3339
from hubtunnel.daemon.probe import MtaListener, ProbeError

AT_ONCE = 4  # probes at the same time, of all listeners
FIRST_WAIT = 1.0  # seconds between the starts of two probes of one listener, whatever asks for them
WAIT_MAX = 60.0  # the same while it fails and no mail comes for it, doubled each time
ADDRESSES_MAX = 16  # of peers, kept for the header's source

_UNKNOWN, _PASSED, _FAILING = "unknown", "passed", "failing"


class MtaWatch:
    """What is known of one listener."""

    def __init__(
        self,
        listener: MtaListener,
        loop: asyncio.AbstractEventLoop,
        slots: asyncio.Semaphore,
        unix_time: Callable[[], float],
    ) -> None:
        self.listener = listener
        self.state = _UNKNOWN
        self.text = ""  # why it fails
        self._loop = loop
        self._slots = slots
        self._unix_time = unix_time
        self._since = unix_time()  # of the state
        self._probes = 0
        self._failures = 0  # in a row
        self._addresses: OrderedDict[str, None] = OrderedDict()  # that peers present themselves with, latest last
        self._began_at = float("-inf")
        self._again = False  # one more probe is wanted
        self._sooner = asyncio.Event()
        self._known = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def failure(self) -> str | None:
        """Why mail must not be handed over now; None when it may, or when that is not known yet (see `verdict`)."""
        return self.text if self.state == _FAILING else None

    @property
    def passed(self) -> bool:
        """Whether mail may be handed over now."""
        return self.state == _PASSED

    async def verdict(self) -> str | None:
        """`failure`, once it is known."""
        await self._known.wait()
        return self.failure

    def ask(self) -> None:
        """Probe it, at once or as soon as `FIRST_WAIT` allows."""
        self._again = True
        self._sooner.set()
        if self._task is None:
            self._task = self._loop.create_task(self._run())

    def presented(self, address: str) -> None:
        """A peer presents itself to this listener with that address: a probe that failed may fare better with it."""
        news = address not in self._addresses
        self._addresses[address] = None
        self._addresses.move_to_end(address)
        if len(self._addresses) > ADDRESSES_MAX:
            self._addresses.popitem(last=False)
        if news and self.state == _FAILING:
            self.ask()

    def unreachable(self, text: str) -> None:
        """A stream's connection was not taken: no other needs to try before a probe did."""
        if self.state != _FAILING:
            self._become(_FAILING, text)
        self.ask()

    def shown(self) -> dict[str, Any]:
        """For `status`."""
        host, port = self.listener.host, self.listener.port
        return {
            "address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "proxy_protocol": self.listener.proxy_protocol,
            "state": self.state,
            "since": rfc3339(self._since),
            "text": self.text or None,
            "probes": self._probes,
        }

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- the task, while there is something to find out -------------------------------------------------------

    async def _run(self) -> None:
        try:
            while self._again or self.state != _PASSED:
                await self._wait()
                self._again = False
                self._sooner.clear()
                async with self._slots:
                    self._began_at = self._loop.time()
                    await self._probe()
        finally:
            self._task = None

    async def _wait(self) -> None:
        """Until the next probe may start; `ask` brings that forward, but not below `FIRST_WAIT`."""
        await self._sleep_until(self._began_at + FIRST_WAIT, None)
        if not self._again:
            wait = min(WAIT_MAX, FIRST_WAIT * 2.0 ** min(self._failures - 1, 16))
            await self._sleep_until(self._began_at + wait, self._sooner)

    async def _sleep_until(self, at: float, cut_short: asyncio.Event | None) -> None:
        seconds = at - self._loop.time()
        if seconds <= 0:
            return
        if cut_short is None:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await cut_short.wait()
        except TimeoutError:
            return

    async def _probe(self) -> None:
        self._probes += 1
        try:
            await probe.probe(self.listener, self._source())
        except ProbeError as exc:
            self._become(_FAILING, str(exc))
        except TimeoutError:
            self._become(_FAILING, f"no connection, or no answer, within {probe.TIMEOUT:.0f} s")
        except OSError as exc:
            if exc.errno in sockets.EXHAUSTED:  # says nothing about the listener
                self._failures += 1
                self._again = self.state == _PASSED
                return
            self._become(_FAILING, reasons.system_text(exc))
        else:
            self._become(_PASSED, "")

    def _source(self) -> tuple[str, int]:
        """The latest address that is known; after a failure another one, for one peer's may be shut out there."""
        known = list(reversed(self._addresses))
        return (known[self._failures % len(known)], probe.NOBODY[1]) if known else probe.NOBODY

    def _become(self, state: str, text: str) -> None:
        changed = (state, text) != (self.state, self.text)
        if state != self.state:
            self._since = self._unix_time()
        first = self.state == _UNKNOWN
        self._failures = 0 if state == _PASSED else self._failures + 1
        self.state, self.text = state, text
        self._known.set()
        if not changed:
            return
        shown = self.shown()
        if state == _FAILING:
            event(log.error, "mta_fails", address=shown["address"], proxy=shown["proxy_protocol"], text=text)
        else:
            method = log.debug if first else log.info
            event(method, "mta_answers", address=shown["address"], proxy=shown["proxy_protocol"])


class MtaWatches:
    """One `MtaWatch` a listener; several peers may share one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, unix_time: Callable[[], float]) -> None:
        self._loop = loop
        self._unix_time = unix_time
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._watches: dict[MtaListener, MtaWatch] = {}
        self._retired: set[asyncio.Task[None]] = set()

    def of(self, listener: MtaListener) -> MtaWatch:
        """The watch of a listener, made and asked at first sight."""
        watch = self._watches.get(listener)
        if watch is None:
            watch = self._watches[listener] = MtaWatch(listener, self._loop, self._slots, self._unix_time)
            watch.ask()
        return watch

    def reloaded(self, wanted: Iterable[MtaListener]) -> None:
        """Forget the listeners that no peer has any more, and ask the others anew."""
        keep = set(wanted)
        for listener in [listener for listener in self._watches if listener not in keep]:
            task = self._loop.create_task(self._watches.pop(listener).close())
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
        for watch in self._watches.values():
            watch.ask()

    def shown(self) -> list[dict[str, Any]]:
        """For `status`."""
        return [watch.shown() for watch in self._watches.values()]

    async def close(self) -> None:
        """Ask no more."""
        await asyncio.gather(*(watch.close() for watch in self._watches.values()), *self._retired)
