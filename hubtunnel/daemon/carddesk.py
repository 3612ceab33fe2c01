"""Cards inside sessions: what peers send is verified and stored off the loop, and in force before it is acknowledged.

What peers say to hold of us is kept, for it decides which of our link keys they can be dialled with (LK2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubtunnel.daemon import reasons
from hubtunnel.daemon.logs import event, log
from hubtunnel.daemon.workers import Workers
from hubtunnel.errors import CardError, HubtunnelError
from hubtunnel.identity import acknowledged, incoming
from hubtunnel.identity.caller import Caller
from hubtunnel.identity.card import SignedCard
from hubtunnel.identity.incoming import Received
from hubtunnel.identity.pins import HubKeys, PeerKeys
from hubtunnel.identity.state import State
from hubtunnel.protocol.constants import Code, code_word
from hubtunnel.protocol.events import CardAcknowledged, CardReceived, CardRefused, OwnCardsBehind
from hubtunnel.protocol.pair import LinkSecret

if TYPE_CHECKING:
    from hubtunnel.daemon.link import PeerLink
    from hubtunnel.daemon.services import CardEvent

# Refusals that say that somebody signed, or sent, what the pinned hub should not have: an operator must look.
ALARMING = frozenset({Code.CARD_FORK, Code.CARD_SIGNATURE, Code.CARD_CHAIN, Code.REFUSED})


class CardDesk:
    """Takes the card events of all links, one at a time.

    `lock` is held while state is written. `in_force` puts keys in force for the links named; `load` reads our own
    anew from the state. Bounded: a session has at most one card that waits here (CD11), and few other events.
    """

    def __init__(
        self,
        state: State,
        workers: Workers,
        lock: asyncio.Lock,
        *,
        keys: Callable[[], HubKeys],
        unix_time: Callable[[], float],
        in_force: Callable[[HubKeys, Iterable[str] | None], Awaitable[None]],
        load: Callable[[], HubKeys],
    ) -> None:
        self.told: set[str] = set()  # peers that have said, since this daemon runs, what they hold of us
        self._state = state
        self._workers = workers
        self._lock = lock
        self._keys = keys
        self._unix_time = unix_time
        self._in_force = in_force
        self._load = load
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Let go of what waits; what was stored is kept, and what was not is sent again in the next session."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def event(self, link: PeerLink, happened: CardEvent) -> None:
        """Something happened to cards in one of the link's sessions."""
        if isinstance(happened, CardReceived):
            self._begin(self._received(link, happened))
        elif isinstance(happened, CardRefused):
            self._refused_by_peer(link, happened)
        elif isinstance(happened, OwnCardsBehind):
            self._behind(link, happened)
        else:
            self._acknowledged(link, happened)

    def used(self, link: PeerLink, key: LinkSecret) -> None:
        """A handshake was completed on our link key: the peer does not depend on earlier ones (LK4)."""
        known = link.keys.known
        if not known.used or (known.used != key.id.hex() and key.not_before >= known.used_begin):
            now = self._unix_time()
            self._begin(self._note(link, lambda pin: acknowledged.note_used(self._state, pin, key, now)))

    # --- what a peer holds of us ----------------------------------------------------------------------------

    def _acknowledged(self, link: PeerLink, happened: CardAcknowledged) -> None:
        self.told.add(link.name)
        link.services.progress.set()
        if link.keys.known.serial == happened.serial:
            return
        event(log.info, "card_acknowledged", peer=link.name, serial=happened.serial)
        now = self._unix_time()
        self._begin(
            self._note(link, lambda pin: acknowledged.note_acknowledged(self._state, pin, happened.serial, now))
        )

    def _behind(self, link: PeerLink, happened: OwnCardsBehind) -> None:
        self.told.add(link.name)
        link.services.progress.set()
        text = (
            f"{link.name} holds our card {happened.serial}, ours is {link.own.card.card.serial}: this state is older "
            "than what was signed (a restored backup, or a second copy of the identity key); the card is asked back, "
            "and nothing is signed before it is here"
        )
        event(log.critical, "alarm", peer=link.name, code="own_cards_behind", text=text)
        self._begin(self._note(link, lambda pin: acknowledged.note_newer(self._state, pin, happened.serial)))

    def _refused_by_peer(self, link: PeerLink, happened: CardRefused) -> None:
        word = code_word(happened.code)
        text = f"{link.name} refused our card {happened.serial}: {word}; its own log and `key list --trail` say more"
        event(log.error, "card_refused_by_peer", peer=link.name, serial=happened.serial, code=word)
        link.note_failure(reasons.card(text, self._unix_time()))

    async def _note(self, link: PeerLink, note: Callable[[bytes], bool]) -> None:
        async with self._lock:
            pin = link.peer.pin
            try:
                if not await self._workers.call(lambda: note(pin)):
                    return
                known = await self._workers.call(lambda: acknowledged.read(self._state, pin))
            except HubtunnelError as exc:
                event(log.error, "state_not_written", peer=link.name, text=str(exc))
                return
            await self._replace(link, lambda keys: replace(keys, known=known))

    async def _replace(self, link: PeerLink, change: Callable[[PeerKeys], PeerKeys]) -> None:
        """Put a change of one peer's keys in force, unless the peer is gone meanwhile."""
        keys = self._keys()
        peer = keys.peer(link.name)
        if peer is not None and not link.closed:
            await self._in_force(keys.with_peer(change(peer)), [link.name])

    # --- cards that come ------------------------------------------------------------------------------------

    async def _received(self, link: PeerLink, happened: CardReceived) -> None:
        session, serial = happened.session, happened.serial
        async with self._lock:
            if session.ended or link.closed:
                return
            keys, now = self._keys(), self._unix_time()
            try:
                received = await self._workers.call(lambda: self._take(keys, link.keys, happened, now))
                if received is None:
                    link.core.card_misnamed(session, serial, link.now())
                    link.touch()
                    return
                await self._put_in_force(link, received)
            except CardError as exc:
                self._refuse(link, happened, exc)
                return
            except HubtunnelError as exc:
                event(log.error, "card_not_stored", peer=link.name, serial=serial, text=str(exc))
                self._answer(link, lambda: link.core.card_refused(session, serial, Code.LIMIT))
                return
            card = received.signed.card
            event(log.info, "card_accepted", peer=link.name, serial=card.serial, what=received.kind)
            if received.problem is not None:
                event(log.critical, "alarm", peer=link.name, code="trail", text=received.problem)
            self._answer(link, lambda: link.core.card_accepted(session, card.serial, card.hash))
        # The acknowledgement leaves before what rests on revoked keys is cut.
        link.send_now()
        link.resting.keys_changed()

    def _take(self, keys: HubKeys, peer: PeerKeys, happened: CardReceived, now: float) -> Received | None:
        """In a worker: verify and store. None: the card has another serial than was said."""
        try:
            if SignedCard.parse(happened.data).card.serial != happened.serial:
                return None
        except CardError:
            pass  # `receive` says so, and puts it on the trail
        return incoming.receive(self._state, keys, peer, happened.data, Caller.daemon(), now)

    async def _put_in_force(self, link: PeerLink, received: Received) -> None:
        signed = received.signed
        if received.kind == "own":
            await self._in_force(await self._workers.call(self._load), None)
        elif received.kind == "accepted":
            await self._replace(link, lambda keys: replace(keys, cards=replace(keys.cards, latest=signed)))

    def _refuse(self, link: PeerLink, happened: CardReceived, exc: CardError) -> None:
        code = next((code for code in Code if code.word == exc.code), Code.REFUSED)
        text = f"card {happened.serial} of {link.name} was refused ({exc.code}): {exc}"
        if code in ALARMING:
            event(log.critical, "alarm", peer=link.name, code=exc.code, text=text)
            link.note_failure(reasons.alarm(text, self._unix_time()))
        else:
            event(log.warning, "card_refused", peer=link.name, serial=happened.serial, code=exc.code, text=str(exc))
            link.note_failure(reasons.card(text, self._unix_time()))
        self._answer(link, lambda: link.core.card_refused(happened.session, happened.serial, code))

    @staticmethod
    def _answer(link: PeerLink, say: Callable[[], None]) -> None:
        say()
        link.touch()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("card_desk", exc_info=task.exception(), extra={"fields": {}})
