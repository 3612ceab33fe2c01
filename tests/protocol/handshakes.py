"""Handshakes between two hubs, stopped wherever a test wants to interfere."""

from __future__ import annotations

import copy
from typing import TypeVar

from hubtunnel.protocol.constants import HOUR
from hubtunnel.protocol.handshake import Initiator, Responder
from hubtunnel.protocol.pair import HintTable, PairContext
from tests.protocol.support import UNIX_TIME, Randomness, make_secret, public_of

HALF_PAST = (UNIX_TIME // HOUR) * HOUR + HOUR / 2


class Party:
    """A hub's keys, without a link."""

    def __init__(self, name: bytes, seed: int) -> None:
        self.rng = Randomness(seed)
        self.secret = make_secret(self.rng)
        self.idfp = name * 32

    def context(self, other: Party, psk: bytes | None = None) -> PairContext:
        """What it has in common with another."""
        return PairContext.make(
            peer=other,
            own_idfp=self.idfp,
            own=self.secret,
            peer_idfp=other.idfp,
            theirs=public_of(other.secret),
            psk=psk,
        )

    def dial(self, other: Party, unix_time: float = HALF_PAST, psk: bytes | None = None) -> Initiator:
        """A dial to another, with its M1 ready."""
        initiator = Initiator(self.context(other, psk), unix_time, self.rng.bytes(96))
        work(initiator)
        return initiator

    def listen(self, *others: Party, unix_time: float = HALF_PAST, psk: bytes | None = None) -> HintTable:
        """The look-up table of a listener that knows these others."""
        return HintTable([self.context(other, psk) for other in others], unix_time)

    def accept(self, table: HintTable) -> Responder:
        """A connection that was accepted."""
        return Responder(table, self.rng.seed)


ALICE, BOB, CAROL = Party(b"a", 11), Party(b"b", 12), Party(b"c", 13)


def work(handshake: Initiator | Responder) -> None:
    """Do the public-key work that waits."""
    while (job := handshake.next_job()) is not None:
        try:
            result = job.run()
        except Exception as exc:
            result = exc
        handshake.job_done(job, result)


def feed(handshake: Initiator | Responder, data: bytes) -> bytes:
    """Give it bytes, let it work, and take what it says."""
    handshake.receive_data(data)
    work(handshake)
    return handshake.data_to_send()


def shake(initiator: Initiator, responder: Responder) -> None:
    """A whole handshake without interference."""
    feed(initiator, feed(responder, initiator.data_to_send()))
    assert initiator.established is not None, initiator.failed
    feed(responder, initiator.established.first_flight)
    assert responder.established is not None, responder.failed


Either = TypeVar("Either", Initiator, Responder)


def twin(handshake: Either) -> Either:
    """A handshake as it is now, to be gone on with in another way; a responder's table stays common."""
    other = copy.copy(handshake)
    other._buffer = bytearray(handshake._buffer)
    return other
