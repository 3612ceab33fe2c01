"""Our MTA's side of one peer: the connections it makes to us, those we make to it, and who waits for a session."""

from __future__ import annotations

import asyncio
import socket
from logging import INFO
from typing import TYPE_CHECKING

from hubtunnel.config import Peer, SessionSettings
from hubtunnel.daemon import owners, proxy, reasons, sockets
from hubtunnel.daemon.delivery import CONNECT_TIMEOUT, DeliveredRelay
from hubtunnel.daemon.logs import event, event_soon, log, short
from hubtunnel.daemon.mtawatch import MtaWatch
from hubtunnel.daemon.relay import AcceptedRelay, Relay
from hubtunnel.daemon.target import Target, target_of
from hubtunnel.protocol import events as ev
from hubtunnel.protocol.constants import Code
from hubtunnel.protocol.link import NotReady

if TYPE_CHECKING:
    from hubtunnel.daemon.link import PeerLink

_SWEEPS = 20  # looks at idle streams per `idle`, so that a stream ends at most a twentieth late
STOPPING = "stopped: this hub is stopping"


class LocalSide:
    """All relays of one link."""

    def __init__(self, link: PeerLink, session: SessionSettings, streams_max: int) -> None:
        self.relays: set[Relay] = set()
        self.opened = 0
        self.refused = 0
        self.reset = 0
        self.mail_in = 0
        self.mail_out = 0
        self.name = link.name
        self.now = link.now
        self.touch = link.touch
        self._link = link
        self._services = link.services
        self._session = session
        self._streams_max = streams_max
        self._target = target_of(link.peer)
        self._users = _uids_of(link.peer)
        self._watch = self._watched()
        self._server: asyncio.Server | None = None
        self._waiting: dict[AcceptedRelay, None] = {}  # in order of arrival
        self._leaving: set[AcceptedRelay] = set()  # refused, and not gone yet
        self._sweeper: asyncio.TimerHandle | None = None

    def reconfigure(self, peer: Peer, session: SessionSettings, streams_max: int) -> None:
        """Take new settings; relays that run keep what they were begun with."""
        self._session = session
        self._streams_max = streams_max
        self._target = target_of(peer)
        self._users = _uids_of(peer)
        self._watch = self._watched()

    # --- life -----------------------------------------------------------------------------------------------

    async def start(self, sock: socket.socket | None) -> None:
        """Take connections on `sock`."""
        await self.listen(sock)

    async def listen(self, sock: socket.socket | None) -> None:
        """Replace the listener; connections that were accepted stay."""
        old, self._server = self._server, None
        if sock is not None:
            # The loop's own server: accepting is on the hot path, and both loops survive a lack of descriptors.
            self._server = await self._services.loop.create_server(self._relay, sock=sock)
        if old is not None:
            sockets.stop_accepting(self._services.loop, old)
            await sockets.accepted()
            old.close()

    def _relay(self) -> asyncio.Protocol:
        return sockets.as_protocol(AcceptedRelay(self, self.now()))

    @property
    def target(self) -> Target:
        """Where mail of this peer goes."""
        return self._target

    @property
    def address(self) -> tuple[str, int] | None:
        """Where our MTA hands over mail for this peer."""
        return None if self._server is None else sockets.address_of(self._server)

    def stop_listening(self) -> None:
        """Accept nothing more; what was accepted is served."""
        if self._server is not None:
            sockets.stop_accepting(self._services.loop, self._server)

    def drain(self) -> None:
        """After `stop_listening` and `sockets.accepted`: who waits is told."""
        if self._server is not None:
            self._server.close()
        for relay in tuple(self._waiting):
            self._refuse(relay, STOPPING)

    async def close(self, code: int) -> None:
        """Break off what runs."""
        await self.listen(None)
        for waiting in tuple(self._waiting):
            self._refuse(waiting, STOPPING)
        for relay in tuple(self.relays):
            relay.break_off("closed", code)
        for refused in tuple(self._leaving):
            refused.hang_up()
        if self._sweeper is not None:
            self._sweeper.cancel()

    # --- connections that our MTA makes ---------------------------------------------------------------------

    def accepted(self, relay: AcceptedRelay) -> None:
        """Our MTA connected: open a stream, or let it wait for a session."""
        self._begun(relay)
        if self._services.draining:
            self._refuse(relay, STOPPING)
        elif self.short_of_descriptors(relay):
            self._refuse(relay, self._limit_line("descriptors"))
            relay.hang_up()  # at once: its descriptor is wanted
        elif self._users and (objection := self._objection(relay)):
            self._refuse(relay, objection)
        elif len(self._waiting) >= self._streams_max:
            self._refuse(relay, self._limit_line("streams"))
        elif self._link.core.ready:
            self._open(relay)
        else:
            self._waiting[relay] = None
            self._link.dialler.demand()
            relay.wait(self._session.hold)

    def _objection(self, relay: AcceptedRelay) -> str:
        """Why this connection is not one of our MTA's users; nothing where it is."""
        target = None if relay.transport is None else relay.transport.get_extra_info("sockname")
        uid, file = None, self._link.peer.path.name
        try:
            if relay.source is None or not target:
                raise owners.OwnerUnknownError("it is closed already")
            uid = owners.uid_of(relay.source, (target[0], target[1]))
            if uid in self._users:
                return ""
            objection = reasons.not_listed(uid, file)
        except owners.OwnerUnknownError as exc:
            objection = reasons.owner_unknown(str(exc), file)
        held = self._services.throttle.allow(f"user {self.name} {uid}")
        if held is not None:
            event(log.warning, "user_refused", peer=self.name, uid=uid, text=objection, repeated=held)
        return objection

    def open_waiting(self) -> None:
        """A session is ready: everybody who waits gets a stream."""
        for relay in tuple(self._waiting):
            self._open(relay)

    def _open(self, relay: AcceptedRelay) -> None:
        try:
            stream = self._link.core.open_stream(relay.source, self.now())
        except NotReady as exc:
            self._refuse(relay, self._limit_line(self._lacking()) if exc.code == Code.LIMIT else self._link.why())
            return
        self._waiting.pop(relay, None)
        self.opened += 1
        relay.open(stream)
        self.touch()

    def hold_over(self, relay: AcceptedRelay) -> None:
        """It waited long enough."""
        self._refuse(relay, self._link.why())

    def told_line(self, code: int) -> str:
        """A stream of ours was reset before a byte crossed it: the reason, for the 421."""
        return self._link.hear(code).line

    def refused_gone(self, relay: AcceptedRelay) -> None:
        """A connection of our MTA is closed for good."""
        self._leaving.discard(relay)

    def _refuse(self, relay: AcceptedRelay, why: str) -> None:
        self._waiting.pop(relay, None)
        relay.refuse(why)

    def short_of_descriptors(self, relay: Relay) -> bool:
        """Whether this connection has taken one that is kept for what must go on."""
        sock = None if relay.transport is None else relay.transport.get_extra_info("socket")
        return self._services.descriptors.short(sock)

    def no_descriptor(self) -> None:
        """A connection to our MTA could not be opened for want of one."""
        self._services.refused["descriptors"] += 1

    def _lacking(self) -> str:
        return "memory" if self._services.budget.full else "streams"

    def _limit_line(self, what: str) -> str:
        self._services.refused[what] += 1
        text = {
            "descriptors": f"this process may have {self._services.descriptors.bound} descriptors (LimitNOFILE=)",
            "memory": "[limits] memory is used up",
            "streams": f"{len(self.relays)} connections for this peer, [limits] streams_per_peer",
        }[what]
        return reasons.own_limit(text, self._services.unix_time()).line

    # --- connections that we make to our MTA ----------------------------------------------------------------

    def stream_opened(self, happened: ev.StreamOpened, carrier: tuple[str, int], own: tuple[str, int]) -> None:
        """The peer opened a stream over a carrier from `carrier` to `own`: connect, as the peer's address."""
        stream = happened.stream
        failure = None if self._watch is None else self._watch.failure
        if self._watch is not None and failure is not None:
            self._watch.ask()  # mail is a reason to look sooner
            self.refused += 1
            self.mta_unreachable(failure)
            stream.reset(Code.MTA_UNREACHABLE)
            return
        header = self._target.header(carrier, own, peer=self.name, session=stream.session.sid)
        if header is None:
            self._deliver_failed(
                f"the carrier comes from {carrier[0]}, which our MTA would trust as its own: "
                f"set present_as in {self._link.peer.path.name}"
            )
            stream.reset(Code.MTA_UNREACHABLE)
            return
        relay = DeliveredRelay(self, stream, header, self.now())
        stream.app = relay
        self._begun(relay)
        self.opened += 1
        relay.start(self._services.loop, self._target, self._watch)

    def carrier_from(self, address: str) -> None:
        """A carrier of the peer comes from there: so does its mail, for our MTA."""
        if self._watch is not None and not self._target.present_as and not proxy.misleads(address):
            self._watch.presented(address)

    def _watched(self) -> MtaWatch | None:
        """What is known of the listener of our MTA; None where it is not to be probed."""
        target = self._target
        if not target.probed:
            return None
        watch = self._services.mta.of(target.listener)
        if target.present_as:
            watch.presented(target.present_as)
        return watch

    def mta_unreachable(self, text: str) -> None:
        """Our MTA did not take a connection."""
        listener = self._target.listener
        self._deliver_failed(f"{listener.host} port {listener.port}: {text}")

    def _deliver_failed(self, text: str) -> None:
        held = self._services.throttle.allow(f"deliver {self.name}")
        if held is not None:
            event(log.error, "mta_unreachable", peer=self.name, text=text, repeated=held)

    # --- events of streams ----------------------------------------------------------------------------------

    def stream_data(self, happened: ev.StreamData) -> None:
        """Bytes of the peer's MTA."""
        relay = happened.stream.app
        if isinstance(relay, Relay):
            self.mail_in += len(happened.data)
            relay.stream_data(happened.data)

    def stream_ended(self, happened: ev.StreamEnd) -> None:
        """The peer's half-close."""
        if isinstance(happened.stream.app, Relay):
            happened.stream.app.stream_ended()

    def stream_reset(self, happened: ev.StreamReset) -> None:
        """The stream is over."""
        if isinstance(happened.stream.app, Relay):
            happened.stream.app.stream_reset(happened.code)

    def stream_writable(self, happened: ev.StreamWritable) -> None:
        """There is room for more from our MTA."""
        if isinstance(happened.stream.app, Relay):
            happened.stream.app.stream_writable()

    # --- the end of a relay ---------------------------------------------------------------------------------

    def relay_over(self, relay: Relay, how: str) -> None:
        """One line in the log joins our MTA's lines and the peer's."""
        self.relays.discard(relay)
        if isinstance(relay, AcceptedRelay):
            self._waiting.pop(relay, None)
        self.mail_out += relay.bytes_to_peer
        if self._services.draining:
            self._services.progress.set()
        if how == "refused":
            self.refused += 1
            if isinstance(relay, AcceptedRelay):
                self._leaving.add(relay)
        elif how not in ("done", "left", "gave_up"):
            self.reset += 1
        if relay.ours and relay.bytes_from_peer:
            self._link.answered()
        if how in ("local_broken", "done") and not (relay.ours or relay.bytes_to_peer) and self._watch is not None:
            self._watch.ask()  # our MTA ended a conversation before it had said a word
        if not log.isEnabledFor(INFO):
            return
        event_soon(
            log.info,
            "stream",
            peer=self.name,
            session=short(relay.session_id) if relay.session_id else None,
            stream=relay.stream_id or None,
            direction="out" if relay.ours else "in",
            local=text_of(relay.source) if relay.source else None,
            to_peer=relay.bytes_to_peer,
            from_peer=relay.bytes_from_peer,
            seconds=self.now() - relay.started_at,
            end=how,
            why=relay.refused_for,
        )

    def _begun(self, relay: Relay) -> None:
        """There is a conversation; while there are any, they are looked at."""
        self.relays.add(relay)
        if self._sweeper is None:
            self._sweep_later()

    def _sweep_later(self) -> None:
        seconds = min(self._session.idle / _SWEEPS, CONNECT_TIMEOUT / 2)
        self._sweeper = self._services.loop.call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """End streams on which nothing moved for `idle`, and connects that hang."""
        self._sweeper = None
        now, idle = self.now(), self._session.idle
        for relay in tuple(self.relays):
            if isinstance(relay, DeliveredRelay) and relay.connecting:
                if now - relay.started_at > CONNECT_TIMEOUT:
                    self.mta_unreachable("no answer to connect")
                    relay.break_off("mta_unreachable", Code.MTA_UNREACHABLE)
            elif now - relay.active_at > idle and relay not in self._waiting:
                relay.break_off("timed_out", Code.TIMED_OUT)
        if self.relays and not self._link.closed:
            self._sweep_later()


def _uids_of(peer: Peer) -> frozenset[int]:
    """Whose connections are taken; empty for everybody's. Root could become any of them, and doctor runs as root."""
    return frozenset({0, *(user.uid for user in peer.listen_users)}) if peer.listen_users else frozenset()


def text_of(address: tuple[str, int]) -> str:
    """An address as it stands in logs and `status`."""
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
