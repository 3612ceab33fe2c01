"""The line between two machines forgets connections as a NAT does: those that there were, not those that begin."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from tests.faults.line import Quality, _Relay

SYN, ACK = 0x02, 0x10


def packet(flags: int) -> bytes:
    """From one end of the one connection to the other."""
    ends = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0) + ends
    return head + struct.pack("!HHIIBBHHH", 40_000, 25, 7, 9, 5 << 4, flags, 1024, 0, 0)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two machines' sides of the line."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        yield one, other


def test_a_connection_that_was_forgotten_is_reset_and_the_next_of_its_ports_is_not(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    client, server = ends
    line = _Relay(client.fileno(), server.fileno(), Quality(), seed=1)
    direction = line._directions[client.fileno()]

    def passes(flags: int) -> bool:
        line._take(direction, packet(flags))
        return bool(direction.waiting) and direction.waiting.pop() is not None

    assert passes(SYN)
    assert passes(ACK)
    line._obey({"kill": True})
    assert not passes(ACK)
    assert line.counts.resets == 1
    assert passes(SYN)
    assert passes(ACK)
    assert line.counts.resets == 1
