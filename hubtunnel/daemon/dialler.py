"""When to dial a peer, and what becomes of a dial: names resolved anew each time, a reason for every failure."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hubtunnel.config import Endpoint
from hubtunnel.daemon import contexts, reasons, sockets
from hubtunnel.daemon.backoff import Backoff
from hubtunnel.daemon.carrier import DialledConnection
from hubtunnel.daemon.logs import event, log
from hubtunnel.daemon.moves import Move, Moves
from hubtunnel.daemon.race import ADDRESSES_MAX, Race
from hubtunnel.daemon.reasons import Failure
from hubtunnel.errors import Reason
from hubtunnel.protocol.constants import HANDSHAKE_TIMEOUT
from hubtunnel.protocol.handshake import Initiator
from hubtunnel.protocol.pair import PairContext

if TYPE_CHECKING:
    from hubtunnel.daemon.link import PeerLink

CONNECT_TIMEOUT = 10.0
_NEVER = float("inf")
_LEAST = 0.001  # seconds: the loop's clock may be so much behind ours


class Dialler:
    """Dials whenever the link wants a carrier; one dial at a time, which may try several addresses at once."""

    def __init__(self, link: PeerLink) -> None:
        self.phase = "idle"  # idle | backoff | dialing | handshaking
        self.endpoint = ""  # that of the latest attempt
        self.failure: Failure | None = None  # of the latest dial; None after a success
        self.moves = Moves(link, self.wake)
        self._link = link
        self._services = link.services
        self._backoff = Backoff(link.services.random)
        self._next_at: float | None = None
        self._paced = False  # `_next_at` is a slot of the pace that the dials to all absent peers share
        self._turn = 0  # which of the live key pairs is tried next
        self._won = False  # a handshake of the dial under way is through
        self._running = False
        self._woken = False  # it will look in this turn of the loop
        self._timer: asyncio.TimerHandle | None = None  # of the next look
        self._task: asyncio.Task[None] | None = None  # while a dial is under way; nothing lasts where all is well
        self._racing: asyncio.Task[Failure | None] | None = None
        self._over: Callable[[], Failure | None] | None = None  # why the dial under way is worth nothing any more
        self._given_up: Failure | None = None
        self._addresses: dict[Endpoint, list[str]] = {}  # as last resolved

    def start(self) -> None:
        """Begin to watch."""
        self._running = True
        self.wake()

    async def stop(self) -> None:
        """Dial no more."""
        self._running = False
        self._sleep(_NEVER)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- what makes it look again ---------------------------------------------------------------------------

    def wake(self) -> None:
        """Something changed: look again whether a carrier is wanted."""
        if self._running and not self._woken:
            self._woken = True
            self._services.loop.call_soon(self._awake)

    def look(self, now: float) -> None:
        """The state of the link may have changed, in whatever way."""
        if self.phase == "idle" and self._link.peer.endpoints and self._link.core.wants_carrier(now):
            self.wake()

    def demand(self) -> None:
        """Our MTA waits for the peer now: a dial that back-off has put far off comes sooner."""
        if self._next_at is not None:
            self._next_at = min(self._next_at, self._backoff.soon(self._link.now()))
            self._paced = True  # it need not wait for another
        self.wake()

    def promising(self) -> None:
        """A dial now is worth more than before: the peer was just here, or its endpoints or keys changed."""
        self._backoff.reset()
        self._next_at = None
        self._turn = 0
        self.wake()

    def peer_restarts(self, now: float) -> None:
        """The peer has said so: it is expected back soon."""
        self._backoff.restarts(now)

    def carrier_up(self, now: float) -> None:
        """Our dial became a carrier."""
        self._backoff.up(now)

    def carrier_down(self, now: float, *, waits: bool) -> None:
        """That carrier is gone. `waits`: its session is not over and waits for the next."""
        self._backoff.down(now, waits=waits)
        self._next_at = None
        self.wake()

    # --- what is to be done now -----------------------------------------------------------------------------

    def _awake(self) -> None:
        """In a turn of the loop of its own: whatever woke us is through with its changes."""
        self._woken = False
        if not self._running:
            return
        if self._task is None:
            self._next()
        elif self._racing is not None and self._over is not None and (failure := self._over()) is not None:
            self._given_up = failure
            self._racing.cancel()

    def _next(self) -> None:
        """Dial, or say when to look again."""
        core, now = self._link.core, self._link.now()
        # A hub that stops begins nothing new; conversations that wait for a carrier still get theirs.
        wanted = core.wants_resume if self._services.draining else core.wants_carrier(now)
        if not self._link.peer.endpoints or not wanted:
            self.phase = "idle"
            self._move_or_sleep(now)
            return
        if self._next_at is None:
            self._next_at = self._backoff.next_dial_at(now)
            self._paced = not self._backoff.at_its_ceiling
        if self._next_at <= now and not self._paced:
            self._next_at = self._services.pace.slot(now)
            self._paced = True
        if self._next_at > now:
            self.phase = "backoff"
            self._sleep(self._next_at - now)
            return
        self._next_at = None
        self._backoff.dialling(now)
        self._begin(self._dial_and_note())

    def _move_or_sleep(self, now: float) -> None:
        move = None
        while move is None and self.moves.at <= now:
            move = self.moves.take(now)
        if move is None or self._services.draining:
            self._sleep(self.moves.at - now)
        else:
            self._begin(self._move(move))

    def _sleep(self, seconds: float) -> None:
        """Until woken, or so long; infinite seconds are fine."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds == _NEVER else self._services.loop.call_later(max(_LEAST, seconds), self.wake)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._sleep(_NEVER)
        self._task = self._services.loop.create_task(work)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("dialler", exc_info=exc, extra={"fields": {"peer": self._link.name}})
        self.wake()

    async def _move(self, move: Move) -> None:
        failure = await self._try(move)
        self.phase = "idle"
        self.moves.done(move, failure)

    async def _dial_and_note(self) -> None:
        self._note(await self._dial())

    async def _try(self, move: Move) -> Failure | None:
        """The dial of a move; given up when the session loses the carrier that it has: then every endpoint counts."""
        link = self._link

        def over() -> Failure | None:
            if not link.core.wants_carrier(link.now()):
                return None
            return reasons.given_up(self.endpoint, self._services.unix_time())

        return await self._race(move.endpoints, move.context, over)

    async def _race(
        self, endpoints: Sequence[Endpoint], context: PairContext, over: Callable[[], Failure | None]
    ) -> Failure | None:
        """One dial, until `over` says why it is worth nothing any more; it is asked whenever something has changed."""
        self.phase, self._won = "dialing", False
        self._over = over
        self._racing = asyncio.create_task(Race(endpoints, self._resolve, partial(self._attempt, context)).run())
        try:
            return await self._racing
        except asyncio.CancelledError:
            if self._given_up is None:
                raise
            return self._given_up
        finally:
            self._over = self._racing = self._given_up = None

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
        endpoints, context = self._link.peer.endpoints, pairs[self._turn % len(pairs)]

        def over() -> Failure | None:
            """Keys or endpoints are no longer in force: nobody may answer, and silence takes ten seconds."""
            if context in self._link.contexts and endpoints == self._link.peer.endpoints:
                return None
            return reasons.keys_changed(self.endpoint, self._services.unix_time())

        return await self._race(endpoints, context, over)

    def _resolve(self, endpoint: Endpoint) -> list[str] | Coroutine[Any, Any, list[str] | Failure]:
        address = endpoint.ip
        return self._look_up(endpoint) if address is None else [str(address)]

    async def _look_up(self, endpoint: Endpoint) -> list[str] | Failure:
        """The name's addresses, now; those of last time when the resolver does not answer, for keys decide."""
        self._addresses = {
            known: found for known, found in self._addresses.items() if known in self._link.peer.endpoints
        }
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                found = await self._services.resolve(endpoint.host, endpoint.port)
        except OSError as exc:  # TimeoutError is one
            failure = reasons.from_dns(str(endpoint), exc, self._services.unix_time())
            return self._addresses.get(endpoint, failure) if reasons.is_temporary(exc) else failure
        if not found:
            return reasons.from_dns(str(endpoint), OSError(errno.ENODATA, ""), self._services.unix_time())
        self._addresses[endpoint] = found[:ADDRESSES_MAX]
        self._link.note_addresses([address for known in self._addresses.values() for address in known])
        return found

    async def _attempt(
        self, context: PairContext, endpoint: Endpoint, address: str, connected: Callable[[], None]
    ) -> Failure | None:
        """TCP and handshake with one address."""
        services = self._services
        self.endpoint = str(endpoint)

        def handshake() -> Initiator:
            return Initiator(context, services.unix_time(), services.seeds(context.own))

        connection = DialledConnection(services.workers, handshake, lambda _: self._carried_by(context))
        connection.endpoint = endpoint
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await services.loop.create_connection(lambda: sockets.as_protocol(connection), address, endpoint.port)
            self.phase = "handshaking"
            connected()
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                outcome = await asyncio.shield(connection.outcome)
        except OSError as exc:  # TimeoutError is one
            if connection.made:
                outcome = "silent"
            elif exc.errno in sockets.EXHAUSTED:
                services.refused["descriptors"] += 1
                return reasons.no_descriptor(exc, services.unix_time())
            else:
                return reasons.from_connect(str(endpoint), address, exc, services.unix_time())
        finally:
            if connection.carrier is None:
                connection.abort()
        return None if outcome is None else self._why(connection, outcome)

    def _why(self, connection: DialledConnection, outcome: str) -> Failure:
        where, now, link = str(connection.endpoint), self._services.unix_time(), self._link
        if outcome == "changed":
            return reasons.keys_changed(where, now)
        if outcome == "silent":
            return reasons.silent(where, link.name, link.own.card.card.serial, link.keys.psk is not None, now)
        if outcome == "broken":
            return reasons.broken_off(where, connection.broken_by, now)
        return reasons.bad_auth(where, now)

    def _carried_by(self, context: PairContext) -> PeerLink | None:
        """Our link, unless what this dial was made with is no longer in force, or another address was sooner."""
        if self._won or context not in self._link.contexts:
            return None
        self._won = True
        return self._link
