"""A local TCP connection and a stream, spliced: bytes, half-close each way, and a break that stays a break.

Hot path: protocols and callbacks, no task and no timer per connection. What the local socket does not take is not given
back as credit, and what the stream does not take is not read from the socket.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from hubtunnel.daemon import sockets
from hubtunnel.daemon.reasons import code_of, reply_421
from hubtunnel.protocol.constants import Code

if TYPE_CHECKING:
    from hubtunnel.daemon.local import LocalSide
    from hubtunnel.protocol.streams import Stream

# Bytes in a local socket's user-space buffer at which credit is no longer given back, and at which it is again.
LOCAL_HIGH = 64 * 1024
LOCAL_LOW = 16 * 1024
GOODBYE = 2.0  # seconds that a refused connection has to close its side, so that no RST overtakes the 421


class Relay:
    """One splice, a protocol (`sockets.as_protocol`). Subclasses say how it begins; this is how it goes on and ends."""

    ours = True  # whether our side opened the stream

    __slots__ = (
        "_local_ended",
        "_over",
        "_owed",
        "_paused",
        "_peer_ended",
        "active_at",
        "bytes_from_peer",
        "bytes_to_peer",
        "refused_for",
        "session_id",
        "side",
        "source",
        "started_at",
        "stream",
        "stream_id",
        "transport",
    )

    def __init__(self, side: LocalSide, now: float) -> None:
        self.side = side
        self.transport: asyncio.Transport | None = None
        self.stream: Stream | None = None
        self.stream_id = 0
        self.session_id = b""
        self.source: tuple[str, int] | None = None
        self.bytes_from_peer = 0
        self.bytes_to_peer = 0
        self.refused_for: str | None = None  # the code in the 421
        self.started_at = now
        self.active_at = now
        self._owed = 0
        self._paused = False
        self._local_ended = False
        self._peer_ended = False
        self._over = False

    # --- from the local socket ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The local socket is there. (Both event loops set TCP_NODELAY on it themselves.)"""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=LOCAL_HIGH, low=LOCAL_LOW)

    def data_received(self, data: bytes) -> None:
        """The local MTA speaks."""
        stream, transport = self.stream, self.transport
        if stream is None or transport is None:
            self._without_stream(data)
            return
        side = self.side
        self.active_at = side.now()
        self.bytes_to_peer += len(data)
        if not stream.write(data):
            transport.pause_reading()
        side.touch()

    def _without_stream(self, data: bytes) -> None:
        """The local MTA speaks while there is no stream: it is over, but for what subclasses know."""

    def eof_received(self) -> bool:
        """The local MTA sends nothing more; the other direction stays open."""
        self._local_ended = True
        if self.stream is not None:
            self.stream.end()
            self.side.touch()
            self._finish_if_both_ended()
        return True

    def pause_writing(self) -> None:
        """The local MTA does not read: keep its credit back."""
        self._paused = True

    def resume_writing(self) -> None:
        """It reads again: what it owed is credit now."""
        self._paused = False
        if self._owed and self.stream is not None:
            self.stream.consumed(self._owed)
            self._owed = 0
            self.active_at = self.side.now()
            self.side.touch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The local socket broke before both sides had ended: so does the stream."""
        self.transport = None  # nothing is left of it that could be reset
        if self._local_ended:
            # It had said all it wanted and did not wait for the rest, as clients do that close right behind QUIT.
            self._end("left", Code.DONE)
        else:
            self._end("local_broken", Code.BROKEN if self.ours else Code.MTA_FAILED)

    # --- from the stream ------------------------------------------------------------------------------------

    def stream_data(self, data: bytes | memoryview) -> None:
        """The peer's MTA speaks."""
        transport, stream = self.transport, self.stream
        if transport is None or stream is None:
            self._without_socket(data)
            return
        if transport.is_closing():
            return  # the local socket broke a moment ago: `connection_lost` comes and resets the stream
        self.active_at = self.side.now()
        self.bytes_from_peer += len(data)
        transport.write(data)
        if self._paused:
            self._owed += len(data)
        else:
            stream.consumed(len(data))

    def _without_socket(self, data: bytes | memoryview) -> None:
        """The peer's MTA speaks while there is no local socket: it is gone, but for what subclasses know."""

    def stream_ended(self) -> None:
        """The peer's MTA sends nothing more."""
        self._peer_ended = True
        if self.transport is not None:
            if not self._local_ended:
                sockets.half_close(self.transport)
            self._finish_if_both_ended()

    def stream_writable(self) -> None:
        """The stream took what was queued."""
        transport = self.transport
        if transport is not None and not self._local_ended and not transport.is_closing():
            transport.resume_reading()

    def stream_reset(self, code: int) -> None:
        """The stream broke: RST, for a clean end would be a lie."""
        self.stream = None
        self._end("left" if code == Code.DONE and self._peer_ended else "reset", None)

    # --- the end --------------------------------------------------------------------------------------------

    def _finish_if_both_ended(self) -> None:
        if self._local_ended and self._peer_ended and not self._over and self.transport is not None:
            self._over = True
            self.transport.close()  # after what is still buffered
            self.side.relay_over(self, "done")

    def _end(self, how: str, code: int | None) -> None:
        """Break both sides, whichever are left; `code` is what the peer hears."""
        if self._over:
            return
        self._over = True
        if self.stream is not None and code is not None:
            self.stream.reset(code)
            self.side.touch()
        self._break_local()
        self.side.relay_over(self, how)

    def _break_local(self) -> None:
        if self.transport is not None:
            sockets.reset(self.transport)

    def break_off(self, how: str, code: int) -> None:
        """End from our side: idle too long, the peer was removed, the daemon ends."""
        self._end(how, code)


class AcceptedRelay(Relay):
    """Our MTA connected to hand over mail for the peer.

    While no session is ready it waits; if that takes longer than `hold`, or the stream is reset before a byte crossed,
    it is told why in the one line of SMTP that we speak.
    """

    __slots__ = ("_early", "_refused", "_timer")

    def __init__(self, side: LocalSide, now: float) -> None:
        super().__init__(side, now)
        self._early = b""
        self._refused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open a stream, or wait for a session."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self.source = (name[0], name[1]) if name else None
        self.side.accepted(self)

    def wait(self, hold: float) -> None:
        """No session is ready: give the link `hold` seconds."""
        self._timer = asyncio.get_running_loop().call_later(hold, self.side.hold_over, self)

    def open(self, stream: Stream) -> None:
        """The stream is there."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.stream = stream
        self.stream_id = stream.id
        self.session_id = stream.session.sid
        stream.app = self
        if self._early:
            early, self._early = self._early, b""
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()
            self.data_received(early)
        if self._local_ended:
            stream.end()

    def _without_stream(self, data: bytes) -> None:
        """What comes before the stream is there waits for it; after a refusal nothing is wanted."""
        if not self._refused and self.transport is not None:
            self._early += data  # one read at most: an SMTP client waits for the greeting anyway
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """A client that was refused, or that left before there was a stream, is simply gone."""
        if self._refused:
            return False
        if self.stream is None:
            self._end("gave_up", None)
            return False
        return super().eof_received()

    def stream_reset(self, code: int) -> None:
        """Before the first byte the MTA can still be told why; after it only RST is honest."""
        if self.bytes_from_peer or self.bytes_to_peer or self._over:
            super().stream_reset(code)
            return
        self.stream = None
        self.refuse(self.side.told_line(code))

    def refuse(self, why: str) -> None:
        """Say why in a 421, and close."""
        if self._over or self.transport is None or self.transport.is_closing():
            return
        self._over = self._refused = True
        self._early = b""
        if self._timer is not None:
            self._timer.cancel()
        self.refused_for = code_of(why)
        self.transport.write(reply_421(self.side.name, why))
        sockets.half_close(self.transport)
        self.transport.resume_reading()
        self._timer = asyncio.get_running_loop().call_later(GOODBYE, self.hang_up)
        self.side.relay_over(self, "refused")

    def hang_up(self) -> None:
        """A refused client had its time."""
        if self._timer is not None:
            self._timer.cancel()
        if self.transport is not None:
            self.transport.close()

    def _break_local(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super()._break_local()

    def connection_lost(self, exc: Exception | None) -> None:
        """The local MTA is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self.side.refused_gone(self)
        super().connection_lost(exc)
