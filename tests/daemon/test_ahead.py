"""On a slow way little is sealed ahead of the wire (PROTOCOL.md RC7): measured on sockets that the kernel paces."""

from __future__ import annotations

import asyncio
import socket
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from hubtunnel.daemon import ahead
from hubtunnel.daemon.ahead import ahead_of, record_room
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.session import SEAL_PIECE
from tests.conftest import RunLoop
from tests.daemon.hubs import Mta, Talk, link, pair, talking, until
from tests.daemon.test_bounds import Source

MBIT = 125_000  # bytes a second
SLOW = 40 * MBIT
_SO_MAX_PACING_RATE = 47  # asm-generic/socket.h; the socket module has no name for it
# To a host so near the kernel sends in bursts of 64 KiB whatever the rate: one is on its way, one is being made.
KERNEL = 2 * 64 * 1024
LETTERS = 6


@pytest.mark.parametrize(
    ("rate", "rtt", "room", "waiting"),
    [
        (0, 0.0, 4096, 16 * 1024),
        (10 * MBIT, 0.001, 4096, 16 * 1024),
        (100 * MBIT, 0.001, 12_500, 50_000),
        (100 * MBIT, 0.032, 25_000, 100_000),
        (100 * MBIT, 0.3, c.RECORD_DATA_MAX, c.SEAL_AHEAD),
        (10_000 * MBIT, 0.001, c.RECORD_DATA_MAX, c.SEAL_AHEAD),
        (10 * MBIT, 2.0**32 / 1e6, c.RECORD_DATA_MAX, c.SEAL_AHEAD),  # a round trip that the kernel does not know yet
    ],
)
def test_RC7_bounds_by_rate_and_distance(rate: int, rtt: float, room: int, waiting: int) -> None:
    """Four records of a millisecond of the way wait at most, on a long way of a sixteenth of its round trip."""
    assert record_room(rate, rtt) == room
    assert ahead_of(room) == pytest.approx(waiting, rel=0.001)


class Letters:
    """Large mails that pass at once; counts what of them has arrived."""

    def __init__(self, talks: Sequence[Talk]) -> None:
        self.arrived = 0
        loop = asyncio.get_running_loop()
        self._sources = [Source(talk.writer) for talk in talks]
        self._readers = [loop.create_task(self._read(talk.far_reader)) for talk in talks]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while block := await reader.read(1 << 16):
            self.arrived += len(block)

    async def end(self) -> None:
        await asyncio.gather(*(source.end() for source in self._sources), *self._readers)


async def stood_before_replies(tmp_path: Path, replies: int) -> tuple[float, int]:
    """Bytes of letters that arrive between a reply's writing and its arrival (the median), and the room of records."""
    async with AsyncExitStack() as stack:
        mta = await stack.enter_async_context(Mta())
        hubs = await stack.enter_async_context(pair(tmp_path, mta.address))
        # Each has the credit of 64 KiB that a stream begins with: what several may send does not fit ahead of the wire.
        small, *large = [await stack.enter_async_context(talking(hubs.a, "b", mta)) for _ in range(1 + LETTERS)]
        connection = link(hubs.a, "b").connections[0]
        sock = connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, SLOW)
        carrier = connection.carrier
        assert carrier is not None
        letters = Letters(large)
        await until(lambda: letters.arrived > 20 * c.SEAL_AHEAD)
        stood = []
        for n in range(replies):
            before = letters.arrived
            await small.there(b"250 2.0.0 Ok: queued as %06d\r\n" % n)
            stood.append(letters.arrived - before)
            assert connection.transport.get_write_buffer_size() <= SEAL_PIECE + c.RECORD_DATA_MAX
        room = carrier.record_room
        sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, 1 << 30)
        await letters.end()
        return statistics.median(stood), room


def bound(room: int) -> int:
    """What may stand before a reply: in the kernel, in our buffer, and in the record that is its own."""
    return ahead_of(room) + 3 * room + KERNEL


def test_RC7_little_of_letters_stands_before_a_reply(run_loop: RunLoop, tmp_path: Path) -> None:
    """A reply stands behind what a few milliseconds carry, whatever the letters could send."""
    stood, room = run_loop(stood_before_replies(tmp_path, 20))
    assert room == pytest.approx(SLOW * c.RECORD_TIME, rel=0.3)
    assert stood <= bound(room)


def test_control_it_is_the_rate_that_bounds(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody looks at the rate, a reply stands behind all that a fast way is given."""
    monkeypatch.setattr(ahead.Ahead, "look", lambda *_, **__: None)
    stood, room = run_loop(stood_before_replies(tmp_path, 5))
    assert room == c.RECORD_DATA_MAX
    assert stood > bound(record_room(SLOW, 0.0))
