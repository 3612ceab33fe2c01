"""One message's conversation over a distance, packet by packet: `python -m tests.bench.gaps`.

Says how long bytes stay in each hub between their arrival on one side and their departure on the other. A segment that
waits for an acknowledgement shows as a gap of a round trip, or of the 40 ms by which the kernel delays one. `--nagle`
takes TCP_NODELAY off the near hub's carrier, to see that a gap would be seen. Needs root, and smtp-sink.

Exit status: 0 no gap; 1 bytes waited.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.ground import SINK_PORT, at_distance
from tests.bench.pairs import PAIRS
from tests.bench.smtp import Dialogue
from tests.bench.ways import Way, host_port
from tests.e2e.namespaces import Namespace
from tests.faults.line import Quality

ROUND_TRIP = 0.040  # seconds: as long as the kernel delays an acknowledgement, so that neither wait is the shorter
WAITED = 0.020  # a gap of so much is no scheduling
MESSAGES = 3
_BETWEEN_WRITES = 0.003  # seconds: the second half of a message comes when the first has left, and is not acknowledged
_ETH_P_ALL = 0x0003  # by one protocol alone a packet socket sees only what comes in
_PACKET_OUTGOING = 4
_SO_TIMESTAMPNS = 35
_TCP = 6
_PIDFD_GETFD = 438  # syscall number, the same on all architectures

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Seen:
    """Bytes that came to a hub or left it, on its local side or its carrier."""

    at: float  # seconds
    local: bool
    into_hub: bool


class Recorder:
    """All segments with bytes on one hub's two legs, with the kernel's times."""

    def __init__(self, namespace: Namespace, local_port: int, *, hub_listens: bool) -> None:
        self._port = local_port
        self._hub_listens = hub_listens  # whether the local port is the hub's own
        self._line, self._loopback = (self._open(namespace, name) for name in (namespace.interface, "lo"))

    @staticmethod
    def _open(namespace: Namespace, interface: str) -> socket.socket:
        sock = namespace.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        with namespace.entered():
            sock.bind((interface, _ETH_P_ALL))
        sock.setblocking(False)
        return sock

    def close(self) -> None:
        self._line.close()
        self._loopback.close()

    def seen(self) -> list[Seen]:
        """What was recorded since the last call, in order."""
        events = [Seen(at, False, kind != _PACKET_OUTGOING) for at, kind, _, _ in _segments(self._line)]
        for at, kind, source, target in _segments(self._loopback):
            if kind != _PACKET_OUTGOING and self._port in (source, target):  # loopback shows each packet twice
                events.append(Seen(at, True, (target == self._port) is self._hub_listens))
        return sorted(events, key=lambda event: event.at)


def _segments(sock: socket.socket) -> Iterator[tuple[float, int, int, int]]:
    """Time, packet type, source and target port of each TCP segment with bytes that waits in a packet socket."""
    while True:
        try:
            packet, ancillary, _, address = sock.recvmsg(1 << 17, 64)
        except BlockingIOError:
            return
        if packet[0] >> 4 != 4 or packet[9] != _TCP:
            continue
        tcp = (packet[0] & 0x0F) * 4
        if struct.unpack_from("!H", packet, 2)[0] <= tcp + (packet[tcp + 12] >> 4) * 4:
            continue
        ((_, _, stamp),) = ancillary
        seconds, nanoseconds = struct.unpack("qq", stamp)
        source, target = struct.unpack_from("!HH", packet, tcp)
        yield seconds + nanoseconds / 1e9, address[2], source, target


def gaps(events: list[Seen]) -> list[float]:
    """Seconds that bytes stayed in a hub.

    From the local side: until the carrier's next segment. To it: since the carrier's last one, for there are also
    records on a carrier of which nothing goes further.
    """
    found = []
    for number, event in enumerate(events):
        if event.local and event.into_hub:
            found.append(
                next((e.at for e in events[number:] if not e.local and not e.into_hub), float("inf")) - event.at
            )
        elif event.local:
            came = next((e.at for e in reversed(events[:number]) if not e.local and e.into_hub), float("-inf"))
            found.append(event.at - came)
    return found


def tcp_sockets(pid: int) -> Iterator[socket.socket]:
    """Duplicates of a process's established TCP connections: options set on them are set on its own."""
    pidfd = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if not os.readlink(entry).startswith("socket:"):
                continue
            fd = _libc.syscall(_PIDFD_GETFD, pidfd, int(entry.name), 0)
            if fd < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            with socket.socket(fileno=fd) as sock:
                if sock.family == socket.AF_INET and sock.type == socket.SOCK_STREAM and _has_peer(sock):
                    yield sock
    finally:
        os.close(pidfd)


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def converse(way: Way) -> None:
    """One message, whose text comes in two small writes."""
    with way.connect() as connection, Dialogue(connection) as dialogue:
        dialogue.command(b"MAIL FROM:<load@a.example>\r\n")
        dialogue.command(b"RCPT TO:<rcpt@b.example>\r\n")
        dialogue.command(b"DATA\r\n", b"354")
        connection.sendall(b"Subject: one message\r\n\r\nits first half\r\n")
        time.sleep(_BETWEEN_WRITES)
        dialogue.command(b"its second half\r\n.\r\n")


@dataclass(frozen=True, slots=True)
class Watched:
    """The way between two real daemons, and a recorder at each."""

    way: Way
    near: Recorder
    far: Recorder

    def worst_gap(self) -> float:
        """The longest that bytes stayed in a hub, of the best of some messages: a trap is there in each of them."""
        return min(max(gap for events in self._conversation() for gap in gaps(events)) for _ in range(MESSAGES))

    def _conversation(self) -> tuple[list[Seen], list[Seen]]:
        self.near.seen()
        self.far.seen()
        converse(self.way)
        return self.near.seen(), self.far.seen()

    def without_delay(self) -> list[bool]:
        """Of every TCP connection of both daemons during a conversation: whether TCP_NODELAY is set."""
        with Dialogue(self.way.connect()):
            return [
                bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                for pid in self.way.pids
                for sock in tcp_sockets(pid)
            ]

    def nagle(self) -> None:
        """Take TCP_NODELAY off the near daemon's carrier: the control."""
        for sock in tcp_sockets(self.way.pids[0]):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)


@contextmanager
def watched() -> Iterator[Watched]:
    """Two daemons at a distance, warm."""
    with ExitStack() as stack:
        quality = Quality(delay=ROUND_TRIP / 2)
        _, ways = stack.enter_context(at_distance([PAIRS["hubtunnel"]], "smtp", quality))
        way = ways["hubtunnel"]
        assert way.place.near is not None
        assert way.place.far is not None
        near = Recorder(way.place.near, host_port(way.running.entrance)[1], hub_listens=True)
        stack.callback(near.close)
        far = Recorder(way.place.far, SINK_PORT["smtp"], hub_listens=False)
        stack.callback(far.close)
        converse(way)
        yield Watched(way, near, far)


def main() -> int:
    """Exit status as the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nagle", action="store_true", help="take TCP_NODELAY off the near hub's carrier")
    nagle = parser.parse_args().nagle
    with watched() as line:
        if nagle:
            line.nagle()
        options = line.without_delay()
        gap = line.worst_gap()
    print(f"TCP_NODELAY on {sum(options)} of {len(options)} connections of both hubs")
    print(f"longest stay of bytes in a hub, round trip {ROUND_TRIP * 1000:.0f} ms: {gap * 1000:.1f} ms")
    return int(gap >= WAITED)


if __name__ == "__main__":
    sys.exit(main())
