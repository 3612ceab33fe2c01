"""Drives the protocol core of one peer: feeds it bytes and time, does what its events say, and flushes once a turn."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from hubtunnel import __version__
from hubtunnel.config import Peer, SessionSettings
from hubtunnel.daemon import contexts, reasons
from hubtunnel.daemon.carrier import Connection
from hubtunnel.daemon.dialler import Dialler
from hubtunnel.daemon.local import LocalSide, text_of
from hubtunnel.daemon.logs import event, log, short
from hubtunnel.daemon.reasons import Failure
from hubtunnel.daemon.resting import Resting
from hubtunnel.daemon.services import CardEvent, Services
from hubtunnel.errors import HubtunnelError, Reason
from hubtunnel.identity.pins import OwnKeys, PeerKeys
from hubtunnel.protocol import events as ev
from hubtunnel.protocol.cards import HeldCard
from hubtunnel.protocol.carrier import Carrier
from hubtunnel.protocol.constants import RATCHET_INTERVAL_MIN, RATCHET_INTERVAL_REFUSED, Code, code_word
from hubtunnel.protocol.handshake import Established
from hubtunnel.protocol.link import Link, Settings
from hubtunnel.protocol.pair import PairContext
from hubtunnel.protocol.session import Session

PING_TIMEOUT = 10.0
LOOK_EVERY = 0.02  # seconds; under traffic the core is asked for its next deadline no oftener: so much late harms none
# Seconds that a turn waits for other conversations at most, while each look at the sockets finds one ready: what is
# done for many at once costs a fraction of what it costs alone, and they share a record. Nobody waits for a clock.
GATHER = 0.001
TIMER_SLACK = 0.001  # the loop's clock may be so much behind ours: a timer must not find that it came early


class PeerLink:
    """One configured peer."""

    def __init__(
        self,
        services: Services,
        own: OwnKeys,
        keys: PeerKeys,
        session: SessionSettings,
        streams_per_peer: int,
        pair_contexts: tuple[PairContext, ...],
    ) -> None:
        self.services = services
        self.own = own
        self.keys = keys
        self.contexts = pair_contexts
        self.now = time.monotonic  # uvloop's own time has steps of a millisecond, too coarse for a round trip
        self.core = Link(
            own_idfp=own.idfp,
            peer_idfp=keys.idfp,
            boot=services.boot,
            settings=core_settings(session, streams_per_peer),
            budget=services.budget,
            seed=services.seeds,
            random=services.entropy,
        )
        self.connections: tuple[Connection, ...] = ()
        self.last_error: Failure | None = None
        self.last_heard: float | None = None  # unix time at which the last carrier was lost
        self.wire_in = 0  # of carriers that are gone
        self.wire_out = 0
        self.up = False
        self._told: Failure | None = None
        self._addresses = (("", 0), ("", 0))  # of the latest carrier: the peer's, ours
        self._pings: dict[bytes, asyncio.Future[float]] = {}
        self._turn_due = False
        self._touched = False  # since the turn was asked for, or put off
        self._put_off_at = 0.0  # when it first was; 0 while it was not
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._look_at = 0.0
        self.closed = False
        self.local = LocalSide(self, session, streams_per_peer)
        self.dialler = Dialler(self)
        self.resting = Resting(self)
        self._hold_cards()

    @property
    def peer(self) -> Peer:
        """The peer's configuration."""
        return self.keys.config

    @property
    def name(self) -> str:
        """The peer's name here."""
        return self.keys.name

    @property
    def announced(self) -> frozenset[contexts.OwnKey]:
        """Our link keys that the peer is known to know."""
        return contexts.announced(self.own, self.keys)

    # --- life -----------------------------------------------------------------------------------------------

    async def start(self, sock: socket.socket | None) -> None:
        """Take connections of our MTA on `sock`, and dial."""
        await self.local.start(sock)
        self.dialler.start()

    def reconfigure(
        self,
        own: OwnKeys,
        keys: PeerKeys,
        session: SessionSettings,
        streams_per_peer: int,
        pair_contexts: tuple[PairContext, ...],
    ) -> None:
        """Take new settings and keys without touching what runs."""
        endpoints, psk = self.peer.endpoints, self.keys.psk
        self.local.reconfigure(keys.config, session, streams_per_peer)
        self.core.settings = core_settings(session, streams_per_peer)
        self.set_keys(own, keys, pair_contexts)
        self.resting.keys_changed()
        if keys.config.endpoints != endpoints:
            self.dialler.promising()
        if keys.psk != psk:
            self.resting.give_up("the pre-shared key was changed")
            self.dialler.promising()

    # --- keys -----------------------------------------------------------------------------------------------

    def set_keys(self, own: OwnKeys, keys: PeerKeys, pair_contexts: tuple[PairContext, ...]) -> None:
        """What is in force from now on: announced, and dialled with. (`resting.keys_changed` cuts what it revokes.)"""
        changed = pair_contexts != self.contexts
        self.own, self.keys = own, keys
        if changed:  # else those that there are, for others hold them too
            self.contexts = pair_contexts
        self.core.set_identities(own.idfp, keys.idfp)
        self._hold_cards()
        self.dialler.moves.look()
        if changed and not self.up:
            self.dialler.promising()

    def rests_on(self, own: OwnKeys, keys: PeerKeys) -> bool:
        """Whether these are the keys that its contexts were made of, whatever else the peer is known to hold of us."""
        same = self.own is own and self.keys == keys
        return same and contexts.identities(own, self.keys) == contexts.identities(own, keys)

    def _hold_cards(self) -> None:
        own = tuple(HeldCard(each.card.serial, each.card.hash, each.data) for each in self.own.cards)
        latest = self.keys.cards.latest
        self.core.set_cards(own, HeldCard(latest.card.serial, latest.card.hash, latest.data), self.now())
        self.touch()

    def time_passed(self, pair_contexts: tuple[PairContext, ...] | None = None) -> None:
        """Windows begin and end. `pair_contexts` are those of a new hour."""
        if pair_contexts is not None:
            self.contexts = pair_contexts
        self.dialler.moves.look()
        self.resting.time_passed()

    def better_pair(self) -> PairContext | None:
        """The pair of link keys that the session which we dialled should move to; None when it rests well."""
        return self.resting.better_pair()

    def cut(self, session: Session, why: str) -> None:
        """End a session at once, without a word to the peer."""
        event(log.warning, "session_cut", peer=self.name, session=short(session.sid), why=why)
        self.core.cut(session, why, self.now())
        self._drain_events()
        self.touch()

    def drain(self, code: int) -> None:
        """Take no new streams, tell the peer, and end when those that run have ended."""
        self.local.drain()
        self.core.drain(code, self.now())
        self.touch()

    @property
    def drained(self) -> bool:
        """Whether nothing of mail is under way."""
        return not self.core.sessions and not self.local.relays

    async def close(self, code: int) -> None:
        """End everything now; the peer is told if a carrier is there."""
        self.closed = True
        await self.dialler.stop()
        self.core.close(code, self.now())
        self._drain_events()
        await self.local.close(code)
        for connection in self.connections:
            connection.finish()
        self.touch()
        if self._timer is not None:
            self._timer.cancel()
        for waiting in self._pings.values():
            waiting.cancel()

    def abort(self) -> None:
        """Let go of what is left of the carriers."""
        for connection in self.connections:
            connection.abort()

    # --- carriers -------------------------------------------------------------------------------------------

    def attach(self, connection: Connection, established: Established) -> Carrier:
        """A handshake is through: this connection is a carrier now."""
        now = self.now()
        self.connections = (*self.connections, connection)
        self._addresses = (connection.address, connection.own_address)
        self.local.carrier_from(connection.address[0])
        self.services.admission.authenticated(connection.address[0], now)
        if established.initiator:
            self.dialler.carrier_up(now)
        event(
            log.info,
            "carrier_up",
            peer=self.name,
            address=text_of(connection.address),
            dialled=established.initiator,
            our_key=established.own.id.hex(),
            their_key=established.theirs.id.hex(),
        )
        carrier = self.core.attach(established, now)
        carrier.app = connection
        connection.carrier = carrier  # before events of what came behind the handshake are looked at
        self._drain_events()
        self.touch()
        self.services.key_used(self, established.own)
        self.dialler.moves.look()
        return carrier

    def carrier_data(self, carrier: Carrier, data: bytes) -> None:
        """Bytes of a carrier."""
        self.core.receive_data(carrier, data, self.now())
        self._drain_events()
        self.touch()

    def detach(self, connection: Connection, why: str) -> None:
        """A carrier's TCP connection is gone."""
        carrier = connection.carrier
        self.connections = tuple(c for c in self.connections if c is not connection)
        if carrier is None:
            return
        self.wire_in += carrier.bytes_in
        self.wire_out += carrier.bytes_out
        now = self.now()
        self.last_heard = self.services.unix_time()
        if carrier.initiator:
            session = carrier.session
            self.dialler.carrier_down(now, waits=session is not None and session.heard and not session.ended)
        event(log.info, "carrier_down", peer=self.name, address=text_of(connection.address), why=why)
        self.core.detach(carrier, why, now)
        self.services.progress.set()
        self._drain_events()
        self.touch()

    def note_addresses(self, addresses: list[str]) -> None:
        """What the peer's endpoints resolve to: half of the handshake slots are kept for such."""
        self.services.admission.list_addresses(self.name, addresses)

    # --- one turn of the loop -------------------------------------------------------------------------------

    def touch(self) -> None:
        """Something may have to be sent: flush once, when what is ready now was read."""
        self._touched = True
        if not self._turn_due:
            self._turn_due = True
            self.services.loop.call_soon(self._turn)

    def _turn(self) -> None:
        now = self.now()
        if self._touched and len(self.local.relays) > 1 and self._put_off(now):
            return
        self._turn_due = False
        self._put_off_at = 0.0
        self._send(now)

    def send_now(self) -> None:
        """Send what is there without waiting for a turn: what comes next may end the session that would carry it."""
        self._send(self.now())

    def _send(self, now: float) -> None:
        core = self.core
        self._drain_events()
        while (job := core.next_job()) is not None:
            self.services.workers.run(job, self._job_done)
        for connection in self.connections:
            connection.flush(now)
        if self._drain_events():
            self.touch()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self.dialler.look(now)
            at = core.next_deadline()
            if at is not None and at < self._timer_at and not self.closed:
                self._arm(at)
        elif self._timer_at > self._look_at and not self.closed:
            self._arm(self._look_at)

    def _put_off(self, now: float) -> bool:
        """Let the loop look at the sockets once more before this turn; False when that was done for long enough."""
        if not self._put_off_at:
            self._put_off_at = now
        elif now - self._put_off_at >= GATHER:
            return False
        self._touched = False
        self.services.loop.call_soon(self._turn)
        return True

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.services.loop.call_at(at + TIMER_SLACK, self._on_deadline)

    def _on_deadline(self) -> None:
        """May come early, when the deadline has moved: a timer is only ever moved forward."""
        self._timer = None
        self._timer_at = float("inf")
        self._look_at = 0.0
        self.core.handle_deadline(self.now())
        self._drain_events()
        self.touch()

    def _job_done(self, job: ev.Job, result: object) -> None:
        self.core.job_done(job, result, self.now())
        self._drain_events()
        self.touch()

    def _drain_events(self) -> bool:
        """Do what the core's events say; True when there was any."""
        next_event = self.core.next_event
        happened = next_event()
        if happened is None:
            return False
        while happened is not None:
            of_stream = _OF_STREAMS.get(type(happened))
            if of_stream is not None:
                of_stream(self.local, happened)
            else:
                _HANDLERS[type(happened)](self, happened)
            happened = next_event()
        return True

    # --- events ---------------------------------------------------------------------------------------------

    def _on_stream_opened(self, happened: ev.StreamOpened) -> None:
        carrier = happened.stream.session.carrier
        if carrier is not None and isinstance(carrier.app, Connection):
            self._addresses = (carrier.app.address, carrier.app.own_address)
        self.local.stream_opened(happened, *self._addresses)

    def _on_carrier_closing(self, happened: ev.CarrierClosing) -> None:
        connection = happened.carrier.app
        method = log.warning if happened.fault else log.info
        if happened.code == Code.LIMIT.word:
            self.services.refused["carriers"] += 1
        event(method, "carrier_closing", peer=self.name, code=happened.code, text=happened.text)
        if isinstance(connection, Connection):
            if happened.fault:
                connection.abort()
            else:
                connection.finish()

    def _on_carrier_lost(self, happened: ev.CarrierLost) -> None:
        event(log.info, "session_waits", peer=self.name, session=short(happened.session.sid), why=happened.why)
        if happened.why != "replaced":  # a session that moves to another carrier is not down
            self._session_changed()

    def _on_session_up(self, happened: ev.SessionUp) -> None:
        self._told = None
        event(
            log.info, "session_up", peer=self.name, session=short(happened.session.sid), version=happened.version[:64]
        )
        if self.services.draining:
            self.core.drain(Code.RESTART, self.now())  # begun while this hub stops: it must not hold the end up
        self._session_changed()

    def _on_session_resumed(self, happened: ev.SessionResumed) -> None:
        session = happened.session
        event(log.info, "session_resumed", peer=self.name, session=short(session.sid), times=session.resumed)
        self._session_changed()

    def _on_session_ended(self, happened: ev.SessionEnded) -> None:
        if happened.by_peer and happened.code != Code.DONE:
            self.hear(happened.code)
        self.services.refused["streams"] += happened.session.mux.refused
        event(
            log.info,
            "session_ended",
            peer=self.name,
            session=short(happened.session.sid),
            code=code_word(happened.code),
            text=happened.text,
        )
        self._session_changed()

    def _on_peer_going_away(self, happened: ev.PeerGoingAway) -> None:
        self.hear(happened.code)
        event(log.info, "peer_going_away", peer=self.name, code=code_word(happened.code))
        self._session_changed()

    def _session_changed(self) -> None:
        """A stream may be possible now, or no longer; perhaps a dial is wanted."""
        ready = self.core.ready
        self.dialler.moves.look()
        self.dialler.wake()
        self.services.progress.set()
        if ready:
            self.local.open_waiting()
        if ready == self.up:
            return
        self.up = ready
        event(log.info, "peer_up" if ready else "peer_down", peer=self.name)
        self.services.peer_changed(self.name, ready)

    def _on_ratcheted(self, happened: ev.Ratcheted) -> None:
        event(log.debug, "ratcheted", peer=self.name, session=short(happened.session.sid), index=happened.index)

    def _on_pong(self, happened: ev.Pong) -> None:
        waiting = self._pings.pop(happened.token, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(happened.rtt)

    def _on_alarm(self, happened: ev.Alarm) -> None:
        event(log.critical, "alarm", peer=self.name, code=happened.code, text=happened.text)
        self.note_failure(reasons.alarm(happened.text, self.services.unix_time()))

    def _on_notice(self, happened: ev.Notice) -> None:
        event(log.warning, "notice", peer=self.name, code=happened.code, text=happened.text)

    def _on_card_event(self, happened: CardEvent) -> None:
        self.services.card_event(self, happened)

    # --- reasons --------------------------------------------------------------------------------------------

    def note_failure(self, failure: Failure) -> None:
        """Keep it for `status`."""
        self.last_error = failure

    def hear(self, code: int) -> Failure:
        """The peer said why, inside the session."""
        if code == Code.RESTART:
            self.dialler.peer_restarts(self.now())
        failure = self._told = reasons.told(code, "", self.services.unix_time())
        self.note_failure(failure)
        return failure

    def trouble(self) -> Failure | None:
        """For `status`: the last failure; that of a peer which dials us is that it does not."""
        alarmed = self.last_error is not None and self.last_error.reason is Reason.AUTH
        if self.peer.endpoints or self.core.ready or self.connections or alarmed:
            return self.last_error
        heard = self.last_heard
        started = self.services.started_at
        return reasons.never(heard, started, heard if heard is not None else started)

    def is_over(self, failure: Failure) -> bool:
        """Whether it keeps no mail back now. What the peer said holds until a conversation was answered again."""
        return self.core.ready and failure.reason is not Reason.AUTH and failure is not self._told

    def answered(self) -> None:
        """The peer's MTA answered a conversation of ours."""
        self._told = None

    def why(self) -> str:
        """Why no stream can be opened now, code and text."""
        now = self.services.unix_time()
        latest = max((f for f in (self._told, self.dialler.failure) if f is not None), key=lambda f: f.at, default=None)
        if latest is not None:
            return latest.line
        if not self.peer.endpoints:
            return reasons.never(self.last_heard, self.services.started_at, now).line
        if self.dialler.phase == "handshaking":
            serial = self.own.card.card.serial
            return reasons.silent(self.dialler.endpoint, self.name, serial, self.keys.psk is not None, now).line
        endpoint = self.dialler.endpoint or str(self.peer.endpoints[0])
        return Failure(Reason.TIMEOUT, f"{endpoint}: no TCP connection yet", now).line

    # --- asked by the administrator -------------------------------------------------------------------------

    async def ping(self) -> float:
        """One round trip through the tunnel, in seconds. Raises `HubtunnelError` with the reason there is none."""
        token = self.core.ping(self.now())
        if token is None:
            raise HubtunnelError(f"{self.name}: {self.why()}")
        waiting: asyncio.Future[float] = self.services.loop.create_future()
        self._pings[token] = waiting
        self.touch()
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                return await waiting
        except TimeoutError:
            raise HubtunnelError(f"{self.name}: no answer within {PING_TIMEOUT:.0f} s") from None
        finally:
            self._pings.pop(token, None)

    def rekey(self) -> bool:
        """Begin a ratchet step; False when the session is the peer's to step, or there is none."""
        begun = self.core.rekey(self.now())
        self.touch()
        return begun


def core_settings(session: SessionSettings, streams_per_peer: int) -> Settings:
    """The core's settings out of the configuration's.

    Whoever wants steps oftener than every two seconds also takes them oftener from the peer, and says so (RT9).
    """
    return Settings(
        version=__version__,
        ratchet_after=session.ratchet_after,
        ratchet_interval_min=min(RATCHET_INTERVAL_MIN, session.ratchet_after),
        ratchet_interval_refused=min(RATCHET_INTERVAL_REFUSED, session.ratchet_after / 4),
        ratchet_bytes=session.ratchet_bytes,
        linger=session.linger,
        keepalive=session.keepalive,
        streams_per_peer=streams_per_peer,
    )


# Of the class and not of each of a thousand links, which would hold twenty bound methods each.
_OF_STREAMS: dict[type[ev.Event], Callable[[LocalSide, Any], None]] = {
    ev.StreamData: LocalSide.stream_data,
    ev.StreamEnd: LocalSide.stream_ended,
    ev.StreamReset: LocalSide.stream_reset,
    ev.StreamWritable: LocalSide.stream_writable,
}
_HANDLERS: dict[type[ev.Event], Callable[[PeerLink, Any], None]] = {
    ev.StreamOpened: PeerLink._on_stream_opened,
    ev.CarrierClosing: PeerLink._on_carrier_closing,
    ev.CarrierLost: PeerLink._on_carrier_lost,
    ev.SessionUp: PeerLink._on_session_up,
    ev.SessionResumed: PeerLink._on_session_resumed,
    ev.SessionEnded: PeerLink._on_session_ended,
    ev.PeerGoingAway: PeerLink._on_peer_going_away,
    ev.Ratcheted: PeerLink._on_ratcheted,
    ev.Pong: PeerLink._on_pong,
    ev.Alarm: PeerLink._on_alarm,
    ev.Notice: PeerLink._on_notice,
    ev.CardReceived: PeerLink._on_card_event,
    ev.CardAcknowledged: PeerLink._on_card_event,
    ev.CardRefused: PeerLink._on_card_event,
    ev.OwnCardsBehind: PeerLink._on_card_event,
}
