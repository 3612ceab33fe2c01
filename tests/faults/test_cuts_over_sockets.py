"""Carriers of two daemons cut at bytes of handshake, RESUME and the ratchet step that follows; sampled, over sockets.

At every byte it is done over the core (`cuts`). Here the daemons dial, time out and flush as they do in the field.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from hubtunnel.daemon import backoff
from hubtunnel.protocol import constants as c
from tests.conftest import RunLoop
from tests.daemon.hubs import Mta, connected, link, mail_port, pair, read_exactly, until
from tests.daemon.wire import Wire

RECORD = c.RECORD_HEADER_LEN + c.RECORD_BODY_MIN
# The ends of what is said on a carrier that resumes, in each direction.
THERE = (c.M1_LEN, c.M3_LEN, 96 + RECORD, 2304 + RECORD, 32 + RECORD)
BACK = (c.M2_LEN, 65 + RECORD, 2240 + RECORD)
SAMPLES = 20  # in each direction, besides the ends
SEED = 7


def places(lengths: tuple[int, ...]) -> list[int]:
    """Bytes at which to cut: before and behind the end of each message, and some at random."""
    ends = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    rng = random.Random(SEED)
    return sorted({*ends, *(end - 1 for end in ends), *(rng.randrange(ends[-1]) for _ in range(SAMPLES))})


@pytest.mark.slow
@pytest.mark.parametrize(("direction", "lengths"), [("there", THERE), ("back", BACK)])
def test_every_carrier_is_cut_somewhere_and_the_next_goes_on(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str, lengths: tuple[int, ...]
) -> None:
    """A word passes each way after each cut, over the one stream that is there from the beginning."""
    monkeypatch.setattr(backoff, "FIRST_CEILING", 0.02)
    monkeypatch.setattr(backoff, "CEILING", 0.02)

    async def scenario() -> None:
        async with Mta() as mta, Wire(("", 0)) as wire:
            cuts: dict[int, int] = {}  # the connection that is to be cut, and behind which byte

            def mangle(which: str, number: int, offset: int, data: bytes) -> bytes:
                at = cuts.get(number)
                if which != direction or at is None or offset + len(data) < at:
                    return data
                asyncio.get_running_loop().call_soon(wire.cut)
                return data[: max(0, at - offset)]

            wire.mangle = mangle

            def through(endpoint: str) -> str:
                host, _, port = endpoint.rpartition(":")
                wire.target = (host, int(port))
                return wire.address

            async with (
                pair(tmp_path, mta.address, a_endpoint=through) as hubs,
                connected(mail_port(hubs.a, "b")) as (reader, writer),
            ):
                far_reader, far_writer = await mta.next()
                (session,) = link(hubs.a, "b").core.sessions
                for word, at in enumerate(places(lengths)):
                    dialled, resumed = wire.connections, session.resumed
                    cuts[dialled] = at
                    wire.cut()
                    text = b"%08d" % word
                    writer.write(text)
                    far_writer.write(text)
                    assert await read_exactly(far_reader, 8) == text
                    assert await read_exactly(reader, 8) == text
                    await until(lambda dialled=dialled: wire.connections >= dialled + 2)  # type: ignore[misc]
                    await until(lambda resumed=resumed: session.resumed > resumed and session.ready)  # type: ignore[misc]
                assert link(hubs.a, "b").core.sessions == [session]
                assert link(hubs.a, "b").local.reset == link(hubs.b, "a").local.reset == 0

    run_loop(scenario())
