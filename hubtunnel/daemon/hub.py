"""The daemon: owns listeners, links, control socket and state; starts, reloads, drains and ends them."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from hubtunnel.config import Config, load
from hubtunnel.daemon import activation, changes, contexts, logs, memory, sockets
from hubtunnel.daemon.carddesk import CardDesk
from hubtunnel.daemon.control import Answer, ControlServer
from hubtunnel.daemon.gate import Gate
from hubtunnel.daemon.hooks import Hooks
from hubtunnel.daemon.keeper import KeyKeeper
from hubtunnel.daemon.link import PeerLink
from hubtunnel.daemon.listening import Listening
from hubtunnel.daemon.logs import event, log
from hubtunnel.daemon.notify import Notifier
from hubtunnel.daemon.operations import OperationRunner
from hubtunnel.daemon.pool import Key
from hubtunnel.daemon.services import Services
from hubtunnel.daemon.status import hub_status
from hubtunnel.daemon.strangers import Admission
from hubtunnel.daemon.workers import Workers
from hubtunnel.errors import ConfigError, HubtunnelError
from hubtunnel.identity.pins import HubKeys, PeerKeys, load_hub, load_own
from hubtunnel.identity.state import State
from hubtunnel.protocol.constants import Code
from hubtunnel.protocol.link import Budget
from hubtunnel.protocol.pair import PairContext, hour_of

TICK_LEAST = 0.05  # seconds between two looks at key windows
CLOSE_WAIT = 1.0  # seconds for the last records and the peers' answers once everything was closed

_Contexts = dict[str, tuple[PairContext, ...]]


class Hub:
    """One running daemon. `config`, `keys` and `state` are what `start` begins with; `path` is read again by reload."""

    def __init__(
        self, config: Config, keys: HubKeys, state: State, *, notifier: Notifier, allow_published: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        self.config = config
        self.keys = keys
        self.links: dict[str, PeerLink] = {}
        self.loop_name = type(loop).__module__.partition(".")[0]
        self._loop = loop
        self._state = state
        self._notifier = notifier
        self._allow_published = allow_published
        self._hooks = Hooks(loop, config.hooks.on_up, config.hooks.on_down)
        self._up: set[str] = set()  # names of peers
        self._contexts_hour = 0  # of the latest look at the clock for which all contexts were made
        self._reloading = asyncio.Lock()
        workers = Workers(loop)
        self.desk = CardDesk(
            state,
            workers,
            self._reloading,
            keys=lambda: self.keys,
            unix_time=lambda: self.services.unix_time(),
            in_force=self._put_in_force,
            load=self._load_own,
        )
        self.services = Services(
            loop=loop,
            workers=workers,
            budget=Budget(config.limits.memory),
            admission=Admission(config.limits.handshakes),
            peer_changed=self._peer_changed,
            card_event=self.desk.event,
            key_used=self.desk.used,
        )
        self.keeper = KeyKeeper(self, state)
        self.gate = Gate(self.services, self._link_of)
        self.listening = Listening(self.services, activation.take())
        self._stop_asked = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._drained = asyncio.Event()
        self._cut = 0  # streams that were broken off at the end
        self._ticker: asyncio.Task[None] | None = None
        self._reload_task: asyncio.Task[None] | None = None
        self.operations = OperationRunner(
            state,
            self.services.workers,
            self._reloading,
            lambda: self.config,
            lambda: self.services.unix_time(),
            self._take_up_keys,
            self.reload,
            self.keeper.before,
        )
        self._control = ControlServer(
            config.control_socket,
            {
                "status": self._answer_status,
                "ping": self._answer_ping,
                "rekey": self._answer_rekey,
                "reload": self._answer_reload,
                "operation": self.operations.answer,
                "stop": self._answer_stop,
            },
        )

    # --- life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, serve until asked to stop, drain. Raises `HubtunnelError` when it cannot start."""
        self._loop.set_exception_handler(self._on_loop_exception)
        try:
            # Before READY: a supervisor may ask for the end as soon as it has heard of the beginning.
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self.stop)
            self._loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
            await self.start()
            await self._stop_asked.wait()
            await self.drain()
        finally:
            await self.end()

    async def start(self) -> None:
        """Everything up to READY."""
        made = await self._make_contexts(self.config, self.keys)
        self.listening.bind(self.config)
        await self._control.start()
        self._log_notices(self.keys)
        self.keys = replace(self.keys, notices=())
        carriers, mail = self.listening.take(self.config, made)
        for peer in self.keys.peers:
            await self._add_link(self.config, self.keys, peer.name, made[peer.name], mail.pop(peer.name, None))
        self._apply_gate(carriers, made)
        self.listening.settle(self.config)
        self._ticker = self._loop.create_task(self._tick())
        self.keeper.start()
        event(
            log.info,
            "started",
            hub=self.config.name,
            peers=len(self.links),
            loop=self.loop_name,
            card=self.keys.card.card.serial,
        )
        memory.give_back()
        self._notifier.ready(self._summary())

    def stop(self) -> None:
        """Drain and end; asked again, end at once."""
        if self._stop_asked.is_set():
            self._stop_now.set()
            self.services.progress.set()
        self._stop_asked.set()

    async def _no_more_reloads(self) -> None:
        """What is being taken over is whole before anything closes under it, and nothing follows."""
        self._stop_asked.set()
        async with self._reloading:
            pass

    async def drain(self) -> None:
        """GOAWAY to everybody, then wait for the streams that run, up to `drain`."""
        await self._no_more_reloads()
        patience = self.config.session.drain
        self._notifier.stopping(patience)
        event(log.info, "draining", streams=self._open_streams(), seconds=patience)
        for link in self.links.values():
            link.local.stop_listening()
        self.listening.drain(self.config)
        await sockets.accepted()  # they become streams while they still can
        self.services.draining = True
        for link in self.links.values():
            link.drain(Code.RESTART)
        busy = set(self.links.values())

        def idle() -> bool:
            # Once is enough: a session that a peer begins anew, and anew, carries no mail and must not hold the end up.
            busy.difference_update([link for link in busy if link.drained])
            return not busy

        await self.until(lambda: idle() or self._stop_now.is_set(), patience)
        self._cut = self._open_streams()

    async def until(self, done: Callable[[], bool], seconds: float) -> None:
        """Wait until `done`, at most so long; it is asked again when a stream, session or carrier has ended."""
        progress = self.services.progress
        try:
            async with asyncio.timeout(seconds):
                while not done():
                    progress.clear()
                    await progress.wait()
        except TimeoutError:
            return

    async def end(self) -> None:
        """Close everything; nothing raises here."""
        await self._no_more_reloads()
        await self.keeper.close()
        await self.desk.close()
        # Before the goodbyes: a peer that dials at once on hearing one is refused, and not met with silence.
        self.gate.listen({})
        self.listening.close()
        for link in self.links.values():
            await link.close(Code.RESTART)
        await self.until(lambda: not any(link.connections for link in self.links.values()), CLOSE_WAIT)
        for link in self.links.values():
            link.abort()
        await self.gate.close()
        await self.services.mta.close()
        await self.services.resolver.close()
        for task in (self._ticker, self._reload_task):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._hooks.close()
        self._drained.set()
        await self._control.stop()
        for _ in range(2):
            await asyncio.sleep(0)  # transports that were closed or aborted close their sockets in the next turn
        self.services.workers.close()
        event(log.info, "stopped", hub=self.config.name, streams_cut=self._cut)

    # --- reload ---------------------------------------------------------------------------------------------

    async def reload(self) -> dict[str, list[str]]:
        """Read the configuration again and take it over whole, or not at all.

        Returns the peers `added`, `removed` and `changed`, and under `later`, if there are any, the settings that hold
        for new sessions. Raises `ConfigError` with every mistake; then nothing changed.
        """
        async with self._reloading:
            self._refuse_if_stopping()
            self._notifier.reloading()
            try:
                return await self._reload()
            finally:
                memory.give_back()
                self._notifier.ready(self._summary())

    def _refuse_if_stopping(self) -> None:
        if self._stop_asked.is_set():
            raise HubtunnelError("the daemon is stopping")

    async def _reload(self) -> dict[str, list[str]]:
        config = await self.services.workers.call(lambda: load(self.config.path))
        problems = changes.need_restart(self.config, config)
        if problems:
            raise ConfigError(problems)
        keys = await self.services.workers.call(
            lambda: load_hub(config, self._state, allow_published=self._allow_published, now=self.services.unix_time())
        )
        if all(signed.card.idfp != self.keys.idfp for signed in keys.cards):
            raise ConfigError([f"{config.state}: holds another identity than this daemon was started with: restart it"])
        made = await self._make_contexts(config, keys)
        self.listening.bind(config)
        stay = _staying(self.keys, keys)
        listened = {peer.name: peer.listen for peer in self.config.peers if peer.name in stay}
        moved = [peer.name for peer in config.peers if peer.name not in stay or peer.listen != listened[peer.name]]
        try:  # whatever can fail comes before anything that runs is touched
            carriers, mail = self.listening.take(config, moved)
        except ConfigError:
            self.listening.settle(self.config)
            raise
        later = changes.later(self.config, config)
        before, self.config, self.keys = self.keys, config, replace(keys, notices=())
        changed = await self._take_over(before, config, keys, made, mail)
        self._apply_gate(carriers, made)
        self.listening.settle(config)
        event(log.info, "reloaded", **{kind: len(names) for kind, names in changed.items()})
        return {**changed, "later": later} if later else changed

    async def _take_over(
        self, before: HubKeys, config: Config, keys: HubKeys, made: _Contexts, mail: dict[str, socket.socket]
    ) -> dict[str, list[str]]:
        self._log_notices(keys)
        logs.configure(config.log.format, config.log.level)
        self.services.budget.limit = config.limits.memory
        self.services.admission.resize(config.limits.handshakes)
        self._hooks.configure(config.hooks.on_up, config.hooks.on_down)
        old = {peer.name: peer for peer in before.peers}
        new = {peer.name: peer for peer in keys.peers}
        stay = _staying(before, keys)
        removed, added = sorted(old.keys() - stay), sorted(new.keys() - stay)
        for name in removed:
            link = self.links.pop(name)
            await link.close(Code.REFUSED)
            self._hooks.forget(name)
            self._up.discard(name)
            self.services.admission.list_addresses(name, ())
        changed = []
        for name in sorted(stay):
            link = self.links[name]
            if new[name].config.listen != old[name].config.listen:
                await link.local.listen(mail.pop(name, None))
            link.reconfigure(keys.own, new[name], config.session, config.limits.streams_per_peer, made[name])
            if new[name] != old[name]:
                changed.append(name)
        for name in added:
            await self._add_link(config, keys, name, made[name], mail.pop(name, None))
        targets = [link.local.target for link in self.links.values()]
        self.services.mta.reloaded(target.listener for target in targets if target.probed)
        self.desk.told.difference_update(removed)
        self.keeper.wake()
        return {
            "added": [name for name in added if name not in old],
            "removed": [name for name in removed if name not in new],
            "changed": sorted({*changed, *(set(added) & set(removed))}),
        }

    def _on_hangup(self) -> None:
        if self._reload_task is None or self._reload_task.done():
            self._reload_task = self._loop.create_task(self._reload_and_log())

    async def _reload_and_log(self) -> None:
        try:
            await self.reload()
        except ConfigError as exc:
            for problem in exc.problems:
                event(log.error, "reload_failed", problem=problem)
        except HubtunnelError as exc:
            event(log.error, "reload_failed", problem=str(exc))

    # --- keys -----------------------------------------------------------------------------------------------

    def _load_own(self) -> HubKeys:
        """In a worker, while the lock is held: our own keys anew from the state, the peers' as they are."""
        own = load_own(self._state, allow_published=self._allow_published)
        return HubKeys(own, self.keys.by_name, own.notices)

    async def _take_up_keys(self) -> None:
        """Put in force what was changed about our own keys, and nothing else. Raises `HubtunnelError`."""
        async with self._reloading:
            self._refuse_if_stopping()
            keys = await self.services.workers.call(self._load_own)
            self._log_notices(keys)
            await self._put_in_force(keys, None)
            for link in self.links.values():
                link.resting.keys_changed()

    async def _put_in_force(self, keys: HubKeys, names: Iterable[str] | None) -> None:
        """Take over what a card changed, for the peers named or for all. The lock is held."""
        self.keys = keys
        now = self.services.unix_time()
        changed = [keys.by_name[name] for name in (self.links if names is None else names) if name in self.links]
        made = {
            peer.name: link.contexts for peer in changed if (link := self.links[peer.name]).rests_on(keys.own, peer)
        }
        anew = [peer for peer in changed if peer.name not in made]
        if anew:
            made |= await self.services.workers.call(
                lambda: {peer.name: contexts.make_contexts(keys.own, peer, now) for peer in anew}
            )
        for peer in changed:
            self.links[peer.name].set_keys(keys.own, peer, made[peer.name])
        for peer in anew:
            self.gate.set_contexts_of(peer.name, self.links[peer.name].contexts)
        self.keeper.wake()

    # --- parts ----------------------------------------------------------------------------------------------

    async def _make_contexts(self, config: Config, keys: HubKeys) -> _Contexts:
        now = self.services.unix_time()
        self._contexts_hour = hour_of(now)
        return await self.services.workers.call(
            lambda: {peer.name: contexts.make_contexts(keys.own, peer, now) for peer in keys.peers}
        )

    async def _add_link(
        self, config: Config, keys: HubKeys, name: str, made: tuple[PairContext, ...], sock: socket.socket | None
    ) -> None:
        peer = keys.peer(name)
        assert peer is not None
        link = PeerLink(self.services, keys.own, peer, config.session, config.limits.streams_per_peer, made)
        self.links[name] = link
        link.note_addresses([str(e.ip) for e in peer.config.endpoints if e.ip is not None])
        await link.start(sock)

    def _apply_gate(self, carriers: dict[Key, socket.socket], made: _Contexts) -> None:
        self.gate.set_contexts(made)
        self.gate.listen(carriers)

    def _link_of(self, peer: object) -> PeerLink | None:
        return self.links.get(str(peer))

    def _peer_changed(self, name: str, up: bool) -> None:
        (self._up.add if up else self._up.discard)(name)
        self._notifier.status(self._summary())
        self._hooks.peer_changed(name, up)

    async def _tick(self) -> None:
        """Hours and key windows go by."""
        while True:
            now = self.services.unix_time()
            change = min((contexts.next_change(link.contexts, now) for link in self.links.values()), default=now)
            await asyncio.sleep(max(TICK_LEAST, min(self.services.tick, change - now)))
            await self.time_passed()

    async def time_passed(self) -> None:
        """Look at the wall clock: keys whose window has begun are used, those whose window ends are left."""
        made: _Contexts | None = None
        async with self._reloading:
            if hour_of(self.services.unix_time()) != self._contexts_hour:
                made = await self._make_contexts(self.config, self.keys)
            for name, link in self.links.items():
                link.time_passed(made[name] if made is not None else None)
            if made is not None:
                self.gate.set_contexts(made)
            else:
                self.gate.refresh()

    def _summary(self) -> str:
        return f"{len(self._up)} of {len(self.links)} peers up"

    def _open_streams(self) -> int:
        return sum(len(link.local.relays) for link in self.links.values())

    @staticmethod
    def _log_notices(keys: HubKeys) -> None:
        for notice in keys.notices:
            if notice.alarm:
                event(log.critical, "alarm", text=notice.text)
            else:
                # A file that is older than what the peer sent by itself is how things are after its next rotation.
                older = notice.why is not None and notice.why.code == Code.CARD_OLDER.word
                event(log.debug if older else log.warning, "notice", text=notice.text)

    def _on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody caught: a bug, or the loop's own complaint that it cannot accept."""
        text = str(context.get("message", ""))
        failure = context.get("exception")
        if isinstance(failure, OSError) and failure.errno in sockets.EXHAUSTED:
            self.services.refused["descriptors"] += 1
        held = self.services.throttle.allow(f"loop {text}")
        if held is not None:
            exc = context.get("exception")
            log.error("event_loop", exc_info=exc, extra={"fields": {"text": text, "repeated": held}})

    # --- control --------------------------------------------------------------------------------------------

    async def _answer_status(self, asked: Mapping[str, Any]) -> Answer:
        return {"status": hub_status(self)}

    async def _answer_ping(self, asked: Mapping[str, Any]) -> Answer:
        return {"rtt_ms": round(await self._named(asked).ping() * 1000, 3)}

    async def _answer_rekey(self, asked: Mapping[str, Any]) -> Answer:
        return {"begun": self._named(asked).rekey()}

    async def _answer_reload(self, asked: Mapping[str, Any]) -> Answer:
        return {**await self.reload()}

    async def _answer_stop(self, asked: Mapping[str, Any]) -> Answer:
        """Answered when everything has ended, just before the process does."""
        self.stop()
        await self._drained.wait()
        return {"streams_cut": self._cut}

    def _named(self, asked: Mapping[str, Any]) -> PeerLink:
        name = str(asked.get("peer", ""))
        link = self.links.get(name.lower().removesuffix("."))
        if link is None:
            known = ", ".join(sorted(self.links)) or "none"
            raise HubtunnelError(f"no peer {name!r}; configured are: {known}")
        return link


def _staying(before: HubKeys, after: HubKeys) -> set[str]:
    """Peers that go on. Another pin under the same name is another peer, and one that was pinned anew as if it were."""
    old = {peer.name: peer for peer in before.peers}
    return {peer.name for peer in after.peers if peer.name in old and _same_pin(old[peer.name], peer)}


def _same_pin(old: PeerKeys, new: PeerKeys) -> bool:
    return old.config.pin == new.config.pin and old.cards.first == new.cards.first
