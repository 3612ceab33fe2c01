"""The handshake against bytes that nobody authenticated (PROTOCOL.md 4).

An input is a row of actions: bytes of its own, the honest message, the honest message with something changed. Only an
honest exchange, whole, unaltered and in order, may end in an established carrier, and a responder may answer nothing
but a good M1.
"""

from __future__ import annotations

import functools

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.handshake import Initiator, Responder
from hubtunnel.protocol.pair import HintTable
from tests.fuzz.choices import Choices, pieces
from tests.protocol.support import UNIX_TIME, Hub, Settings

Handshake = Initiator | Responder


@functools.cache
def hubs() -> tuple[Hub, Hub]:
    """The two ends, with their pair contexts made."""
    one, two = (Hub(name, seed, Settings()) for seed, name in enumerate("AB"))
    one.boot(two)
    two.boot(one)
    return one, two


def work(handshake: Handshake) -> bytes:
    """Jobs as a shell does them: their exceptions go back."""
    while (job := handshake.next_job()) is not None:
        try:
            result = job.run()
        except Exception as error:
            result = error
        handshake.job_done(job, result)
    return handshake.data_to_send()


def turn(choices: Choices, message: bytes) -> list[bytes]:
    """Bytes for one turn, in pieces; `message` is the honest one."""
    kind = choices.below(4)
    if kind == 0:
        return pieces(message, choices)
    if kind == 1:
        return pieces(choices.some(), choices)
    if kind == 2:
        altered = bytearray(message)
        altered[choices.below(len(message))] ^= choices.below(255) + 1
        return pieces(bytes(altered), choices)
    return pieces(message[: choices.below(len(message))] + choices.some(), choices)


def responder(data: bytes) -> None:
    """The responder, before and after M2."""
    choices = Choices(data)
    one, two = hubs()
    honest = Initiator(one.context, UNIX_TIME, bytes(range(96)))
    m1 = work(honest)
    machine = Responder(HintTable([two.context], UNIX_TIME), two.rng.seed)
    given, answered = b"", b""
    while choices.more:
        for part in turn(choices, honest_m3(honest, answered) if answered else m1):
            machine.receive_data(part)
            given += part
            out = work(machine)
            assert not out or (given[: c.M1_LEN] == m1 and len(out) == c.M2_LEN and not answered)
            answered += out
            assert len(machine._buffer) <= max(c.M1_LEN, c.M3_LEN) + len(part)
            assert not (machine.draining and machine.established)
    if machine.established is not None:
        assert given[: c.M1_LEN + c.M3_LEN] == m1 + honest_m3(honest, answered)
        assert machine.established.leftover == given[c.M1_LEN + c.M3_LEN :][: len(machine.established.leftover)]
    elif given[: c.M1_LEN] != m1[: len(given)]:
        assert not answered


def honest_m3(honest: Initiator, m2: bytes) -> bytes:
    if honest.established is None:
        honest.receive_data(m2)
        work(honest)
    assert honest.established is not None
    return honest.established.first_flight


def initiator(data: bytes) -> None:
    """The initiator, before M2 has verified."""
    choices = Choices(data)
    one, two = hubs()
    machine = Initiator(one.context, UNIX_TIME, bytes(range(96)))
    peer = Responder(HintTable([two.context], UNIX_TIME), two.rng.seed)
    peer.receive_data(work(machine))
    m2 = work(peer)
    given = b""
    while choices.more:
        for part in turn(choices, m2):
            machine.receive_data(part)
            given += part
            assert work(machine) == b""
            assert len(machine._buffer) <= c.M2_LEN + c.RECORD_BODY_MAX
    if machine.established is not None:
        assert given[: c.M2_LEN] == m2
        assert machine.failed is None
    elif len(given) >= c.M2_LEN:
        assert machine.failed == "auth"
