"""The side that strangers can reach: accepts carriers, lets handshakes happen, and keeps quiet (PROTOCOL.md 4.4)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping

from hubtunnel.daemon import contexts, sockets
from hubtunnel.daemon.carrier import AcceptedConnection
from hubtunnel.daemon.link import PeerLink
from hubtunnel.daemon.listeners import CarrierListener
from hubtunnel.daemon.logs import event, log
from hubtunnel.daemon.pool import Key
from hubtunnel.daemon.services import Services
from hubtunnel.daemon.strangers import PinBucket, Slot, deadline_of
from hubtunnel.protocol.handshake import Established, Responder
from hubtunnel.protocol.pair import HintTable, PairContext

Contexts = dict[str, tuple[PairContext, ...]]  # by the peer's name

# Left without a word, or never authenticated in time: what every port scan does; not worth a line above debug.
_HARMLESS = frozenset({"left", "timeout"})


class Gate:
    """All carrier listeners, the table of hints, and the connections that have not authenticated."""

    def __init__(self, services: Services, link_of: Callable[[object], PeerLink | None]) -> None:
        self._services = services
        self._link_of = link_of
        self._contexts: Contexts = {}
        self._usable: Contexts = {}  # those of them that are in the table
        self._table = HintTable((), services.unix_time())
        self._buckets: dict[object, PinBucket] = {}
        self._listeners: dict[Key, CarrierListener] = {}
        self._pending: dict[AcceptedConnection, Slot] = {}
        self._tasks: set[asyncio.Task[object]] = set()

    # --- keys -----------------------------------------------------------------------------------------------

    def set_contexts(self, of_peers: Mapping[str, tuple[PairContext, ...]]) -> None:
        """Take the contexts of all peers, by the peers' names; gates that were seen stay seen."""
        for peer in [name for name in self._contexts if name not in of_peers]:
            self.set_contexts_of(peer, ())
            del self._contexts[peer], self._usable[peer]
            self._buckets.pop(peer, None)
        self._contexts.update(of_peers)
        self.refresh()

    def set_contexts_of(self, peer: str, pairs: tuple[PairContext, ...]) -> None:
        """Take the contexts of one peer; those of the others stay as they are."""
        self._contexts[peer] = pairs
        self._take_usable(peer, self._services.unix_time())

    def refresh(self) -> None:
        """Follow the clock: windows of keys begin and end, and each hour has its own hints."""
        now = self._services.unix_time()
        if self._table.rebuild_needed(now):
            self._table = self._table.rebuilt((), now)
            self._usable.clear()
        for peer in self._contexts:
            self._take_usable(peer, now)

    def _take_usable(self, peer: str, now: float) -> None:
        before, usable = self._usable.get(peer, ()), tuple(contexts.listening(self._contexts[peer], now))
        if usable != before:
            self._table.change(before, usable)
        self._usable[peer] = usable

    # --- listeners ------------------------------------------------------------------------------------------

    def listen(self, socks: Mapping[Key, socket.socket]) -> None:
        """Listen on exactly these sockets, by key; those whose key is there already go on untouched."""
        for key in [k for k in self._listeners if k not in socks]:
            self._listeners.pop(key).close()
        for key, sock in socks.items():
            if key in self._listeners:
                sock.close()
                continue
            self._listeners[key] = CarrierListener(
                self._services.loop, sock, self._accepted, self._services.throttle, self._services.refused
            )

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where we listen for carriers."""
        return [listener.address for listener in self._listeners.values()]

    async def close(self) -> None:
        """Stop listening, and let go of everybody who has not authenticated."""
        self.listen({})
        for connection in tuple(self._pending):
            connection.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- connections ----------------------------------------------------------------------------------------

    def _accepted(self, sock: socket.socket, address: tuple[str, int]) -> None:
        services = self._services
        now = services.loop.time()
        slot = services.admission.admit(address[0], now)
        if slot is not None and not slot.known and services.descriptors.short(sock):
            services.admission.release(slot)
            services.refused["descriptors"] += 1
            slot = None
        if slot is None:
            sock.close()
            services.knocks.count(address[0], "over_limit", services.unix_time())
            held = services.throttle.allow("over_limit")
            if held is not None:
                event(log.warning, "handshakes_full", address=address[0], repeated=held)
            return
        connection = AcceptedConnection(
            services.workers,
            Responder(self._table, services.seeds),
            deadline_of(now, services.random),
            may_work=self._may_work,
            on_established=self._established,
            on_failed=self._failed,
            on_closed=self._closed,
        )
        self._pending[connection] = slot
        accepting = services.loop.connect_accepted_socket(lambda: sockets.as_protocol(connection), sock)
        task = services.loop.create_task(accepting)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._connected(done, connection, sock))

    def _connected(self, task: asyncio.Task[object], connection: AcceptedConnection, sock: socket.socket) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is not None:  # gone before it began
            sock.close()
            self._closed(connection)

    def _may_work(self, peer: object) -> bool:
        bucket = self._buckets.get(peer)
        return bucket is None or bucket.allows(self._services.loop.time())

    def _established(self, connection: AcceptedConnection, established: Established) -> PeerLink | None:
        self._release(connection)
        link = self._link_of(established.peer)
        return link if link is not None and connection.responder.context in link.contexts else None

    def _failed(self, connection: AcceptedConnection, cause: str) -> None:
        """Somebody is read from and left without an answer: count it by source, say it at most once a minute."""
        services = self._services
        address = connection.address[0]
        if not address:
            return
        context = connection.responder.context
        peer = None if context is None else str(context.peer)
        if cause == "bad_auth" and context is not None:
            bucket = self._buckets.setdefault(context.peer, PinBucket(services.loop.time()))
            bucket.wrong_auth(services.loop.time())
        count = services.knocks.count(address, cause, services.unix_time())
        held = services.throttle.allow(f"knock {address} {cause}")
        if held is None:
            return
        method = log.debug if cause in _HARMLESS else log.warning
        event(method, "no_answer_given", address=address, cause=cause, peer=peer, count=count)

    def _closed(self, connection: AcceptedConnection) -> None:
        self._release(connection)

    def _release(self, connection: AcceptedConnection) -> None:
        slot = self._pending.pop(connection, None)
        if slot is not None:
            self._services.admission.release(slot)
