"""Link keys live by themselves: rotated, deleted and warned about when their time comes (PROTOCOL.md 3.3).

Rotation goes through the same operation as `hubtunnel key rotate`, while the identity key is here and under no
passphrase, or under one that systemd gave to the service. Nothing is signed before the peers have said what they hold
of us, since a restored backup would fork the chain of its own cards.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubtunnel.config import Peer
from hubtunnel.daemon.logs import event, log
from hubtunnel.errors import HubtunnelError
from hubtunnel.identity import acknowledged, credentials, keyfiles, lifecycle, signing, windows
from hubtunnel.identity.acknowledged import Known, Records
from hubtunnel.identity.caller import Caller
from hubtunnel.identity.state import State
from hubtunnel.protocol.constants import HOUR

if TYPE_CHECKING:
    from hubtunnel.daemon.hub import Hub

LOOK_EVERY = float(HOUR)  # seconds at most between two looks
LOOK_APART = 0.2  # seconds at least
LOOK_APART_MOST = 5.0  # seconds that changes one after the other put the next look off at most
LOOK_REST = 20  # a look reads files of every peer: it is followed by so many times its CPU time without one
ASK_EVERY = 1.0  # seconds between two questions whether what is due may be signed now
TOLD_GRACE = 600.0  # seconds from the start after which peers that are away are not waited for before signing
TOLD_WAIT = 5.0  # seconds that a command waits for peers that are connected to say what they hold
MOVE_WAIT = 12.0  # seconds that a revocation waits for sessions to leave the key
SIGNING = frozenset({"rotate", "issue", "revoke", "delete"})


@dataclass(frozen=True)
class Plan:
    """What is to be done about own keys at a moment, and when to look again (unix seconds)."""

    delete: bool
    rotate: bool
    warnings: tuple[lifecycle.Warned, ...]
    behind: str | None  # why nothing may be signed
    next_at: float


def plan(state: State, hub_peers: tuple[Peer, ...], records: Records, now: float) -> Plan:
    """Read our own part of the state and say what is due. Raises `HubtunnelError`."""
    own = signing.newest(state)[-1].card
    there = [key for key in own.link_keys if state.link_key_path(key.id).exists()]
    rotation = windows.rotation_due(there, now)
    locked = state.has_identity() and keyfiles.is_locked(state.identity_path)
    can_sign = state.has_identity() and (not locked or credentials.identity_passphrase() is not None)
    claim = acknowledged.newest_claim(records, hub_peers, own.serial)
    behind = None
    if claim is not None:
        behind = (
            f"{claim.peer} holds our card {claim.serial}, this hub's newest is {own.serial}: no card is signed until "
            "it is back; let the peer connect, or `key import` it"
        )
    secrets = state.link_keys()[0]
    ends = [key.not_after + windows.GRACE for key in secrets if key.not_after + windows.GRACE > now]
    times = [*ends, rotation] if can_sign and rotation > now else ends
    return Plan(
        bool(lifecycle.due_deletions(state, now)) or lifecycle.old_identity_due(state, hub_peers, records),
        can_sign and rotation <= now,
        tuple(lifecycle.warnings(state, hub_peers, now, records)),
        behind,
        min(times, default=now + LOOK_EVERY),
    )


class KeyKeeper:
    """Looks after the hub's own keys while the daemon runs."""

    def __init__(self, hub: Hub, state: State) -> None:
        self.warnings: tuple[str, ...] = ()  # for `status`
        self.told_grace = TOLD_GRACE
        self._hub = hub
        self._state = state
        self._wake = asyncio.Event()
        self._said: set[tuple[str | None, int]] = set()
        self._to_sign = False  # a rotation is due, and waits for peers to say what they hold
        self._cost = 0.0  # CPU seconds of the latest look
        self._failure = ""
        self._task: asyncio.Task[None] | None = None
        self._since = 0.0

    def start(self) -> None:
        """Begin to look, now and whenever something is due."""
        loop = self._hub.services.loop
        self._since = loop.time()
        self._task = loop.create_task(self._run())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        """Keys, peers or what they hold have changed."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                wait = await self.look()
                self._failure = ""
            except HubtunnelError as exc:
                if str(exc) != self._failure:
                    self._failure = str(exc)
                    event(log.error, "keys_not_kept", text=str(exc))
                wait = LOOK_EVERY / 60
            rest = min(LOOK_APART_MOST, max(LOOK_APART, LOOK_REST * self._cost))
            await asyncio.sleep(rest)
            await self._sleep(wait - rest)

    async def _sleep(self, seconds: float) -> None:
        """Until woken, so long, or until what waits to be signed may be."""
        loop = self._hub.services.loop
        until = loop.time() + seconds
        while not self._wake.is_set() and loop.time() < until and not (self._to_sign and self._may_sign()):
            ask_at = loop.time() + ASK_EVERY if self._to_sign else until
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(until, ask_at)):
                    await self._wake.wait()

    async def look(self) -> float:
        """Do what is due; seconds after which to look again. Raises `HubtunnelError` when it cannot be done."""
        hub = self._hub
        now = hub.services.unix_time()
        # As the daemon holds them, for it alone writes them: the files of many peers take long to read, and often.
        held: dict[bytes, Known] = {keys.config.pin: keys.known for keys in hub.keys.peers}
        peers = tuple(hub.config.peers)
        self._to_sign = False
        found = await hub.services.workers.call(lambda: self._plan(peers, held.__getitem__, now))
        self._warn(found)
        by = Caller.daemon()
        if found.delete:
            await hub.operations.run("tidy", {}, by)
        wait = min(LOOK_EVERY, found.next_at - now)
        due = found.rotate and found.behind is None
        self._to_sign = due and not self._may_sign()
        if due and not self._to_sign:
            await hub.operations.run("rotate", {}, by)
            return 0.0
        return wait

    def _plan(self, peers: tuple[Peer, ...], records: Records, now: float) -> Plan:
        """In a worker."""
        began = time.thread_time()
        try:
            return plan(self._state, peers, records, now)
        finally:
            self._cost = time.thread_time() - began

    def _warn(self, found: Plan) -> None:
        texts = [warned.text for warned in found.warnings]
        self.warnings = (*texts, found.behind) if found.behind is not None else tuple(texts)
        due = {(warned.peer, warned.days) for warned in found.warnings}
        for warned in found.warnings:
            if (warned.peer, warned.days) not in self._said:
                event(log.warning, "keys_end", peer=warned.peer or "", days=warned.days, text=warned.text)
        self._said = due

    # --- before a card is signed ----------------------------------------------------------------------------

    def _may_sign(self) -> bool:
        """Whether all peers have said what they hold of us, or those that are away were waited for long enough."""
        hub = self._hub
        waited = hub.services.loop.time() - self._since >= self.told_grace
        return self._connected_have_told() and (waited or all(name in hub.desk.told for name in hub.links))

    def _connected_have_told(self) -> bool:
        hub = self._hub
        return all(name in hub.desk.told for name, link in hub.links.items() if link.up)

    async def before(self, name: str, arguments: Mapping[str, Any], by: Caller) -> None:
        """Before an operation that signs: hear the peers; before a revocation, let sessions move off the key.

        So a revocation costs no mail: what still rests on the key when the card is signed is not ours, or cannot move.
        """
        hub = self._hub
        if name not in SIGNING:
            return
        await hub.until(self._connected_have_told, TOLD_WAIT)
        if name != "revoke":
            return
        key = str(arguments.get("key", "")).lower().strip()
        if len(key) < 4 or not self._rests_on(key):
            return
        rotation = {"at_once": True, **{word: arguments[word] for word in ("passphrase", "force") if word in arguments}}
        await hub.operations.run("rotate", rotation, by)
        await hub.until(lambda: not self._rests_on(key), MOVE_WAIT)

    def _rests_on(self, key: str) -> bool:
        return any(
            connection.carrier is not None and connection.carrier.established.own.id.hex().startswith(key)
            for link in self._hub.links.values()
            for connection in link.connections
        )
