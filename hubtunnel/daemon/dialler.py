"""Dialling a peer: endpoints in order, names resolved anew each time, a reason for every failure."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from hubtunnel.config import Endpoint
from hubtunnel.daemon import contexts, reasons
from hubtunnel.daemon.backoff import Backoff
from hubtunnel.daemon.carrier import DialledConnection
from hubtunnel.daemon.logs import event, log
from hubtunnel.daemon.reasons import Failure
from hubtunnel.errors import Reason
from hubtunnel.protocol.constants import HANDSHAKE_TIMEOUT
from hubtunnel.protocol.handshake import Initiator
from hubtunnel.protocol.pair import PairContext

if TYPE_CHECKING:
    from hubtunnel.daemon.link import PeerLink

CONNECT_TIMEOUT = 10.0
LOOK_AGAIN = 5.0  # seconds after which an idle dialler asks again, for what the link wants can change with time alone
ADDRESSES_MAX = 4  # of one name
MOVE_AGAIN = 30.0  # seconds from one failed attempt to move a session to the next, doubled each time
MOVE_AGAIN_MAX = 600.0
# Of several endpoints' failures the one that says most is kept: who got furthest.
_TELLING = (Reason.DNS, Reason.UNREACHABLE, Reason.TIMEOUT, Reason.REFUSED, Reason.SILENT, Reason.AUTH)


class Dialler:
    """Dials whenever the link wants a carrier; one dial at a time."""

    def __init__(self, link: PeerLink) -> None:
        self.phase = "idle"  # idle | backoff | dialing | handshaking
        self.endpoint = ""  # that of the dial under way
        self.failure: Failure | None = None  # of the latest dial; None after a success
        self._link = link
        self._services = link.services
        self._backoff = Backoff(link.services.random)
        self._wake = asyncio.Event()
        self._next_at: float | None = None
        self._turn = 0  # which of the live key pairs is tried next
        self._task: asyncio.Task[None] | None = None
        self._resolving: asyncio.Future[list[str]] | None = None
        self._move_at: float | None = None  # when a session that works moves to better keys
        self._moves_failed = 0

    def start(self) -> None:
        """Begin to watch."""
        self._task = self._services.loop.create_task(self._run())

    async def stop(self) -> None:
        """Dial no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def wake(self) -> None:
        """Something changed: look again whether a carrier is wanted."""
        self._wake.set()

    def promising(self) -> None:
        """A dial now is worth more than before: the peer was just here, or its endpoints or keys changed."""
        self._backoff.reset()
        self._next_at = None
        self._turn = 0
        self._wake.set()

    def look_for_better_keys(self) -> None:
        """Keys, windows or what the peer knows have changed: does our session rest on the best pair (LK2, LK5)?"""
        if self._link.better_pair() is None:
            self._move_at = None
            self._moves_failed = 0
        elif self._move_at is None:
            # Many hubs learn of a new key at once: they do not all shake hands in the same second.
            self._move_at = self._link.now() + self._services.random() * self._services.move_spread
            self._wake.set()

    def carrier_up(self, now: float) -> None:
        """Our dial became a carrier."""
        self._backoff.up(now)

    def carrier_down(self, now: float, *, waits: bool) -> None:
        """That carrier is gone. `waits`: its session is not over and waits for the next."""
        self._backoff.down(now, waits=waits)
        self._next_at = None
        self._wake.set()

    async def _run(self) -> None:
        core = self._link.core
        while True:
            self._wake.clear()
            now = self._link.now()
            if not self._link.peer.endpoints or not core.wants_carrier(now):
                self.phase = "idle"
                await self._move_or_sleep(now)
                continue
            if self._next_at is None:
                self._next_at = self._backoff.next_dial_at(now)
            if self._next_at > now:
                self.phase = "backoff"
                await self._sleep(self._next_at - now)
                continue
            self._next_at = None
            self._backoff.dialling(now)
            failure = await self._dial()
            self._note(failure)

    async def _move_or_sleep(self, now: float) -> None:
        if self._move_at is not None and self._move_at <= now:
            await self._move()
        else:
            await self._sleep(LOOK_AGAIN if self._move_at is None else min(LOOK_AGAIN, self._move_at - now))

    async def _move(self) -> None:
        """Make before break: a carrier on better keys, over which the session goes on while the old one still works."""
        link = self._link
        self._move_at = None
        context = link.better_pair()
        if context is None or self._services.draining:
            return
        self.phase = "idle"
        failure = await self._dial_endpoints(context)
        if failure is None:
            self._moves_failed = 0
            event(
                log.info,
                "session_moves",
                peer=link.name,
                our_key=context.own.id.hex(),
                their_key=context.theirs.id.hex(),
            )
            return
        wait = min(MOVE_AGAIN_MAX, MOVE_AGAIN * 2.0 ** min(self._moves_failed, 8))
        self._moves_failed += 1
        self._move_at = link.now() + wait * (0.5 + self._services.random() / 2)
        method = log.warning if self._moves_failed == 1 else log.debug
        event(method, "move_failed", peer=link.name, code=failure.reason.value, text=failure.text)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def _note(self, failure: Failure | None) -> None:
        self.phase = "idle"
        changed = failure is not None and (self.failure is None or failure.reason is not self.failure.reason)
        self.failure = failure
        if failure is None:
            self._turn = 0
            return
        if failure.reason is Reason.SILENT:
            self._turn += 1
        self._link.note_failure(failure)
        method = log.error if failure.reason is Reason.AUTH else log.warning if changed else log.debug
        event(method, "dial_failed", peer=self._link.name, code=failure.reason.value, text=failure.text)

    # --- one dial -------------------------------------------------------------------------------------------

    async def _dial(self) -> Failure | None:
        now = self._services.unix_time()
        pairs = contexts.dialling(self._link.contexts, self._link.announced, now)
        if not pairs:
            return reasons.no_keys(self._link.name, now)
        return await self._dial_endpoints(pairs[self._turn % len(pairs)])

    async def _dial_endpoints(self, context: PairContext) -> Failure | None:
        """All endpoints in order. Of several failures the one that says most is kept."""
        worst: Failure | None = None
        for endpoint in self._link.peer.endpoints:
            failure = await self._dial_endpoint(endpoint, context)
            if failure is None:
                return None
            if worst is None or _TELLING.index(failure.reason) >= _TELLING.index(worst.reason):
                worst = failure
        return worst

    async def _dial_endpoint(self, endpoint: Endpoint, context: PairContext) -> Failure | None:
        self.phase, self.endpoint = "dialing", str(endpoint)
        try:
            addresses = await self._resolve(endpoint)
        except OSError as exc:
            return reasons.from_dns(str(endpoint), exc, self._services.unix_time())
        failure: Failure | None = None
        for address in addresses:
            failure = await self._dial_address(endpoint, address, context)
            if failure is None:
                break
        return failure

    async def _resolve(self, endpoint: Endpoint) -> list[str]:
        """The endpoint's addresses, now. A resolver that hangs keeps at most one thread per peer."""
        if endpoint.ip is not None:
            return [str(endpoint.ip)]
        if self._resolving is None or self._resolving.done():
            self._resolving = asyncio.ensure_future(self._services.resolve(endpoint.host, endpoint.port))
        done, _ = await asyncio.wait([self._resolving], timeout=CONNECT_TIMEOUT)
        if not done:
            raise TimeoutError(errno.ETIMEDOUT, "no answer")
        found = self._resolving.result()[:ADDRESSES_MAX]
        self._link.note_addresses(found)
        return found

    async def _dial_address(self, endpoint: Endpoint, address: str, context: PairContext) -> Failure | None:
        services, link = self._services, self._link
        self.phase = "dialing"
        where = str(endpoint)
        initiator = Initiator(context, services.unix_time(), services.seeds(context.own))
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, connection = await services.loop.create_connection(
                    lambda: DialledConnection(services.workers, initiator, lambda _: self._carried_by(context)),
                    address,
                    endpoint.port,
                )
        except OSError as exc:  # TimeoutError is one
            return reasons.from_connect(where, address, exc, services.unix_time())
        self.phase = "handshaking"
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                outcome = await asyncio.shield(connection.outcome)
        except TimeoutError:
            outcome = "silent"
        except asyncio.CancelledError:
            connection.abort()
            raise
        if outcome is None:
            return None
        connection.abort()
        now = services.unix_time()
        if outcome == "changed":
            return reasons.keys_changed(where, now)
        if outcome == "silent":
            return reasons.silent(where, link.name, link.own.card.card.serial, link.keys.psk is not None, now)
        return reasons.bad_auth(where, now)

    def _carried_by(self, context: PairContext) -> PeerLink | None:
        """Our link, unless what this dial was made with is no longer in force."""
        return self._link if context in self._link.contexts else None
