"""One TCP connection between hubs: first a handshake, then a carrier of a link.

Bytes go to the handshake until it is through, then to the link's core. Nothing here knows records or frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from hubtunnel.daemon import sockets
from hubtunnel.daemon.ahead import Ahead
from hubtunnel.daemon.workers import Workers
from hubtunnel.protocol.constants import RECORD_DATA_MAX
from hubtunnel.protocol.events import Job
from hubtunnel.protocol.handshake import Established, Initiator, Responder
from hubtunnel.protocol.session import SEAL_PIECE

if TYPE_CHECKING:
    from hubtunnel.config import Endpoint
    from hubtunnel.daemon.link import PeerLink
    from hubtunnel.protocol.carrier import Carrier

CLOSE_TIMEOUT = 10.0  # seconds that a closing carrier may take to take its last bytes
FIN_LINGER = 2.0  # seconds between our FIN and our close towards a stranger, so that no unread byte makes it a RST
DRAIN_PAUSE = 1.0  # a stranger that floods is read one buffer a second


class Connection:
    """What a dialled and an accepted connection have in common, a protocol each: the life after the handshake."""

    def __init__(self, workers: Workers) -> None:
        self.transport: asyncio.Transport
        self.carrier: Carrier | None = None
        self.link: PeerLink | None = None
        self.address: tuple[str, int] = ("", 0)  # of the peer's side
        self.own_address: tuple[str, int] = ("", 0)
        self.lost = False
        self._workers = workers
        self._closing = False
        self.made = False
        self._aborted = False
        self._close_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is up."""
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        sockets.tune_carrier(sock)
        self._ahead = Ahead(sock)
        self.transport.set_write_buffer_limits(high=0)  # what the kernel does not take shows at once, and seals no more
        self.address = _address(transport.get_extra_info("peername"))
        self.own_address = _address(transport.get_extra_info("sockname"))
        self.made = True
        if self._aborted:
            self.transport.abort()

    def become_carrier(self, link: PeerLink, established: Established) -> None:
        """The handshake is through: from now on bytes go to the link."""
        self.link = link
        self.carrier = link.attach(self, established)

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer: never stop reading, credit and window bound what can come (PROTOCOL.md 5)."""
        link = self.link
        if link is not None and self.carrier is not None:
            link.carrier_data(self.carrier, data)
        else:
            self.handshake_data(data)

    def handshake_data(self, data: bytes) -> None:
        """Bytes before the handshake is through."""
        raise NotImplementedError

    def flush(self, now: float) -> None:
        """Seal and write while the socket has room; called once per turn, and when the socket has room again."""
        carrier, link, transport = self.carrier, self.link, self.transport
        if carrier is None or link is None or transport.is_closing():
            return
        core = link.core
        while not transport.get_write_buffer_size():
            data = core.data_to_send(carrier, now)
            if data:
                transport.write(data)
            if len(data) < min(SEAL_PIECE, carrier.record_room):
                break  # that was all
            if carrier.record_room < RECORD_DATA_MAX:
                self._ahead.look(carrier, now, full=False)
        else:
            self._ahead.look(carrier, now, full=True)
        if self._closing and not core.has_output(carrier):
            transport.close()

    def eof_received(self) -> bool:
        """A carrier has no half: the loop closes the connection."""
        return False

    def pause_writing(self) -> None:
        """The socket takes no more: `flush` has seen it."""

    def resume_writing(self) -> None:
        """The socket took most of what was sealed."""
        if self.link is not None:
            self.link.touch()

    def finish(self) -> None:
        """Send what the core still has for this carrier, then close; at the latest after `CLOSE_TIMEOUT`."""
        if self._closing or self.lost:
            return
        self._closing = True
        self._close_timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.transport.abort)

    def abort(self) -> None:
        """Close at once, whatever waits; a connection that is not made yet, as soon as it is."""
        self._aborted = True
        if self.made:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP is gone; the link decides what that means."""
        self.lost = True
        if self._close_timer is not None:
            self._close_timer.cancel()
        if self.link is not None and self.carrier is not None:
            self.link.detach(self, _why(exc))


class DialledConnection(Connection):
    """A dial: M1 goes out as soon as it is computed. `outcome` becomes None, or the word why not.

    ``auth``: the answer does not verify; ``broken``: the other side ended the connection (`broken_by` says how);
    ``key``: our own key or the peer's card cannot be used; ``changed``: `on_established` knows no link any more, since
    keys were changed meanwhile, or another dial was sooner: then M3 is not sent, and the peer has no carrier of it.
    """

    def __init__(
        self,
        workers: Workers,
        handshake: Callable[[], Initiator],
        on_established: Callable[[Established], PeerLink | None],
    ) -> None:
        super().__init__(workers)
        self.outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.endpoint: Endpoint | None = None  # that was dialled
        self.broken_by: OSError | None = None
        self._handshake = handshake
        self._initiator: Initiator
        self._on_established = on_established

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake; most dials to a peer that is away do not get so far."""
        super().connection_made(transport)
        self._initiator = self._handshake()
        self._step()

    def handshake_data(self, data: bytes) -> None:
        """M2, and what may follow it."""
        self._initiator.receive_data(data)
        self._step()

    def _step(self) -> None:
        initiator = self._initiator
        if self.outcome.done():
            return
        job = initiator.next_job()
        if job is not None:
            self._workers.run(job, self._job_done)
        established = initiator.established
        link = None if established is None else self._on_established(established)
        if established is not None and link is None:
            self.transport.close()
            self._end("changed")
            return
        out = initiator.data_to_send()
        if out and not self.transport.is_closing():
            self.transport.write(out)
        if established is not None and link is not None:
            self.become_carrier(link, established)
            self._end(None)
        elif initiator.failed is not None:
            self.transport.close()
            self._end(initiator.failed)

    def _job_done(self, job: Job, result: object) -> None:
        if not self.lost:
            self._initiator.job_done(job, result)
            self._step()

    def _end(self, outcome: str | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def connection_lost(self, exc: Exception | None) -> None:
        """Before the handshake is through, this is how the dial ended."""
        super().connection_lost(exc)
        self.broken_by = exc if isinstance(exc, OSError) else None
        self._end("broken")


class AcceptedConnection(Connection):
    """A connection that somebody made to us: silent until its gate verifies, read and discarded after any failure.

    `deadline` was drawn at accept. `may_work(peer)` asks the pin's token bucket; `established` and `failed` report, and
    `closed` gives the slot back.
    """

    def __init__(
        self,
        workers: Workers,
        responder: Responder,
        deadline: float,
        *,
        may_work: Callable[[object], bool],
        on_established: Callable[[AcceptedConnection, Established], PeerLink | None],
        on_failed: Callable[[AcceptedConnection, str], None],
        on_closed: Callable[[AcceptedConnection], None],
    ) -> None:
        super().__init__(workers)
        self.responder = responder
        self._deadline = deadline
        self._may_work = may_work
        self._on_established = on_established
        self._on_failed = on_failed
        self._on_closed = on_closed
        self._timer: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._draining = False
        self._fin_sent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The clock of admission runs."""
        super().connection_made(transport)
        self._timer = asyncio.get_running_loop().call_at(self._deadline, self._deadline_passed)

    def handshake_data(self, data: bytes) -> None:
        """Bytes of somebody who has not authenticated."""
        if self._draining:
            if not self._fin_sent and self._pause is None:
                self.transport.pause_reading()
                self._pause = asyncio.get_running_loop().call_later(DRAIN_PAUSE, self._read_on)
            return
        self.responder.receive_data(data)
        self._step()

    def _read_on(self) -> None:
        self._pause = None
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _step(self) -> None:
        responder = self.responder
        job = responder.next_job()
        if job is not None:
            if responder.context is not None and self._may_work(responder.context.peer):
                self._workers.run(job, self._job_done)
            else:
                self._drain("bucket")
                return
        out = responder.data_to_send()
        if out and not self.transport.is_closing():
            self.transport.write(out)
        if responder.established is not None:
            self._authenticated(responder.established)
        elif responder.draining:
            self._drain(responder.failed or "unknown")

    def _job_done(self, job: Job, result: object) -> None:
        if not self.lost and not self._draining:
            self.responder.job_done(job, result)
            self._step()

    def _authenticated(self, established: Established) -> None:
        if self._timer is not None:
            self._timer.cancel()
        link = self._on_established(self, established)
        if link is None:  # the peer was removed, or keys were changed, while this ran
            self.transport.close()
        else:
            self.become_carrier(link, established)

    def _drain(self, cause: str) -> None:
        """One path, whatever the cause: read on, say nothing, close at the deadline (RD8)."""
        if not self._draining:
            self._draining = True
            self._on_failed(self, cause)

    def _deadline_passed(self) -> None:
        """FIN first; then what still comes is read away for a moment, for an unread byte turns a close into a RST."""
        if self.carrier is not None or self.lost:
            return
        self._drain("timeout")
        self._fin_sent = True
        if self._pause is not None:
            self._pause.cancel()
            self._read_on()
        sockets.half_close(self.transport)
        self._timer = asyncio.get_running_loop().call_later(FIN_LINGER, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the slot back."""
        super().connection_lost(exc)
        for timer in (self._timer, self._pause):
            if timer is not None:
                timer.cancel()
        if self.carrier is None and not self._draining:
            self._on_failed(self, "left")
        self._on_closed(self)


def _address(name: object) -> tuple[str, int]:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("", 0)


def _why(exc: Exception | None) -> str:
    if exc is None:
        return "closed by the peer"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return type(exc).__name__
