"""How much of a carrier is sealed ahead of the wire: what the way takes within milliseconds (PROTOCOL.md RC7).

What was given to the kernel can no longer be overtaken: a reply, an ACK or a ratchet step that comes now stands behind
all of it. On a fast way that is no time at all, and large records cost least; on one of 100 Mbit/s the same bytes are
tens of milliseconds.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from hubtunnel.protocol import constants as c

if TYPE_CHECKING:
    from hubtunnel.protocol.carrier import Carrier

LOOK_EVERY = 0.05  # seconds between two looks at the rate, while more waits than was written
# Of struct tcp_info (linux/tcp.h): the byte with tcpi_delivery_rate_app_limited, then in bytes a second
# tcpi_pacing_rate, which the kernel means to send; tcpi_min_rtt in microseconds; and tcpi_delivery_rate, which arrived
# lately.
_RATES = struct.Struct("=7xB96xQ36xI8xQ")
_APP_LIMITED = 0x01


class Ahead:
    """Of one carrier's socket: bounds what waits in the kernel, and how large records are, by how fast it leaves."""

    __slots__ = ("_look_at", "_room", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._look_at = 0.0
        self._room = c.RECORD_DATA_MAX
        self._bound()

    def look(self, carrier: Carrier, now: float, *, full: bool) -> None:
        """There is much to send: see how fast it leaves, unless that was seen a moment ago.

        `full`: the kernel did not take all of it. If it did, the rate may be that of what was written so far; where the
        kernel says so, it only counts if it is higher.
        """
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY
        flags, pacing, least_us, delivered = _RATES.unpack(
            self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RATES.size)
        )
        room = record_room(min(pacing, delivered), least_us / 1e6)
        if room > self._room or (room < self._room and (full or not flags & _APP_LIMITED)):
            self._room = carrier.record_room = room
            self._bound()

    def _bound(self) -> None:
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, ahead_of(self._room))


def record_room(rate: int, rtt: float) -> int:
    """Bytes of streams that a record takes, on a way of `rate` bytes a second and with a round trip of `rtt` seconds.

    That is a millisecond of it, or a small share of the round trip, within bounds. Who waits for a reply from far away
    does not notice the share, and what the kernel may send when acknowledgements come has to be there.
    """
    return max(c.RECORD_ROOM_MIN, min(c.RECORD_DATA_MAX, int(rate * max(c.RECORD_TIME, rtt / c.RECORDS_PER_RTT))))


def ahead_of(room: int) -> int:
    """Bytes that may wait in the kernel unsent, of records with so much room: some records, within bounds."""
    return min(c.SEAL_AHEAD, room * c.SEAL_AHEAD_RECORDS)
