"""Whoever steals both hubs' link keys after a session was recorded: what he can do again, and that it opens nothing.

The thief runs the very machines of the two hubs against the recording, and has decapsulated what was encapsulated to
their link keys. All he lacks is what neither hub has any more: the ephemerals. The control gives him those too, and
then the recording opens.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from hubtunnel import crypto
from hubtunnel.protocol.constants import Record
from hubtunnel.protocol.handshake import Established, Initiator, Responder
from hubtunnel.protocol.records import Reader, TrafficKey
from tests.protocol.handshakes import ALICE, BOB, HALF_PAST, feed, work

Coins = dict[bytes, tuple[bytes, bytes]]

MAIL = bytes((Record.DATA,)) + b"MAIL FROM:<alice@a.example>\r\n"
SEED_I, SEED_R = bytes(range(96)), bytes(range(100, 196))
OTHER = bytes(range(150, 246))


@dataclass(frozen=True)
class Recording:
    """Everything that crossed the wire when Alice dialled Bob."""

    m1: bytes
    m2: bytes
    m3: bytes
    mail: bytes  # the record of Alice that followed
    ephemeral: tuple[bytes, tuple[bytes, bytes]]  # her ephemeral ML-KEM key, what was encapsulated to it, and how


@pytest.fixture
def coins(monkeypatch: pytest.MonkeyPatch) -> Coins:
    """(shared secret, ciphertext) by ML-KEM public key, as they were or will be; where none is known yet, drawn."""
    known: Coins = {}
    draw = crypto.mlkem_encapsulate

    def encapsulate(public: bytes) -> tuple[bytes, bytes]:
        if public not in known:
            known[public] = draw(public)
        return known[public]

    monkeypatch.setattr(crypto, "mlkem_encapsulate", encapsulate)
    return known


@pytest.fixture
def recording(coins: Coins) -> Recording:
    initiator = Initiator(ALICE.context(BOB), HALF_PAST, SEED_I)
    responder = Responder(BOB.listen(ALICE), lambda _: SEED_R)
    work(initiator)
    m1 = initiator.data_to_send()
    m2 = feed(responder, m1)
    feed(initiator, m2)
    assert initiator.established is not None
    m3 = initiator.established.first_flight
    feed(responder, m3)
    assert responder.established is not None
    assert len(coins) == 3
    # To Alice's ephemeral key: nobody can decapsulate that any more.
    ephemeral = crypto.mlkem_public(SEED_I[32:])
    return Recording(
        m1, m2, m3, bytes(TrafficKey(initiator.established.t_send, 0).seal(MAIL)), (ephemeral, coins.pop(ephemeral))
    )


def opens(key: bytes, record: bytes) -> bytes:
    reader = Reader(TrafficKey(key, 0))
    reader.feed(record)
    found = reader.next()
    assert found is not None
    return found[1]


def as_alice(recording: Recording, seed: bytes) -> Established | None:
    """The dial again, M1 as it was recorded whatever came out, then Bob's recorded answer."""
    thief = Initiator(ALICE.context(BOB), HALF_PAST, seed)
    work(thief)
    assert (thief.data_to_send() == recording.m1) == (seed == SEED_I)
    thief._m1 = recording.m1
    feed(thief, recording.m2)
    return thief.established


def as_bob(recording: Recording, seed: bytes) -> Established | None:
    """The answer to the recorded M1 again, then Alice's recorded M3."""
    thief = Responder(BOB.listen(ALICE), lambda _: seed)
    answered = feed(thief, recording.m1)
    assert len(answered) == len(recording.m2), "a thief of the link key does find the hint and pass the gate"
    feed(thief, recording.m3)
    return thief.established


@pytest.mark.parametrize(
    "seed",
    [OTHER, SEED_I[:32] + OTHER[32:], OTHER[:32] + SEED_I[32:]],
    ids=["no ephemeral", "the X25519 ephemeral alone", "the ML-KEM ephemeral alone"],
)
def test_dialling_again_opens_no_recording(recording: Recording, seed: bytes) -> None:
    """Nor does it with one of her two ephemerals, as a quantum computer, or a flaw of ML-KEM, might give it."""
    assert as_alice(recording, seed) is None


@pytest.mark.parametrize(
    ("seed", "decapsulated"),
    [(OTHER, False), (SEED_R, False), (OTHER, True)],
    ids=["no ephemeral", "the X25519 ephemeral alone", "the ML-KEM secret alone"],
)
def test_answering_again_opens_no_recording(
    recording: Recording, coins: Coins, seed: bytes, decapsulated: bool
) -> None:
    if decapsulated:
        public, drawn = recording.ephemeral
        coins[public] = drawn
    assert as_bob(recording, seed) is None


def test_control_with_the_ephemerals_the_recording_opens(recording: Recording, coins: Coins) -> None:
    public, drawn = recording.ephemeral
    coins[public] = drawn
    alice, bob = as_alice(recording, SEED_I), as_bob(recording, SEED_R)
    assert alice is not None
    assert bob is not None
    assert opens(alice.t_send, recording.mail) == MAIL
    assert opens(bob.t_receive, recording.mail) == MAIL
