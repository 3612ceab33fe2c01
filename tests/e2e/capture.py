"""A recording of everything that crosses the wire between two hubs, put together again per TCP direction."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from tests.e2e.namespaces import Namespace

_ETH_P_ALL = 0x0003
_ETH_P_IP = 0x0800
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_SO_RCVBUFFORCE = 33
_BUFFER = 128 << 20
_TCP = 6
_SYN = 0x02

Flow = tuple[bytes, int, bytes, int]
"""Source address and port, destination address and port."""


@dataclass(frozen=True, slots=True)
class _Segment:
    flow: Flow
    sequence: int
    syn: bool
    payload: bytes


class Capture:
    """Records a hub's interface between `with` and its end; `streams` is to be asked afterwards.

    A packet socket sees each packet once. Nothing may be dropped: a lost packet fails the recording, since a search
    of it would prove nothing.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._frames: list[bytes] = []
        self._socket = namespace.open_socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        with namespace.entered():
            self._socket.bind((namespace.interface, _ETH_P_ALL))
        self._socket.setblocking(False)
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._thread = threading.Thread(target=self._record, name="capture", daemon=True)

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_writer.close()
        self._thread.join()
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self._socket.close()
        self._stop_reader.close()
        _, dropped = struct.unpack("II", statistics)
        if kind is None and dropped:
            raise AssertionError(f"the recording misses {dropped} packets")

    def _record(self) -> None:
        """Until told to stop, and then until the socket is empty."""
        told = False
        while True:
            try:
                self._frames.append(self._socket.recv(1 << 17))
            except BlockingIOError:
                if told:
                    return
                ready, _, _ = select.select([self._socket, self._stop_reader], [], [])
                told = self._stop_reader in ready

    def streams(self) -> list[bytes]:
        """The bytes of each direction of each TCP connection, in order, gaps and repetitions mended.

        Raises AssertionError for a gap inside: the wire here loses nothing, so it would be a fault of the recording.
        """
        segments = [segment for frame in self._frames if (segment := _parse(frame)) is not None]
        return [stream for connection in _connections(segments) if (stream := _reassemble(connection))]


def _connections(segments: Iterable[_Segment]) -> list[list[_Segment]]:
    """Segments by connection: ports that were used before begin another one with a SYN of another number."""
    found: list[list[_Segment]] = []
    latest: dict[Flow, list[_Segment]] = {}
    for segment in segments:
        known = latest.get(segment.flow)
        if known is None or (segment.syn and segment.sequence != known[0].sequence):
            found.append([])
            latest[segment.flow] = known = found[-1]
        known.append(segment)
    return found


def _parse(frame: bytes) -> _Segment | None:
    """The TCP segment in an Ethernet frame, None for anything else (ARP, neighbour discovery)."""
    if len(frame) < 34 or struct.unpack_from("!H", frame, 12)[0] != _ETH_P_IP or frame[23] != _TCP:
        return None
    ip = 14
    tcp = ip + (frame[ip] & 0x0F) * 4
    total = struct.unpack_from("!H", frame, ip + 2)[0]
    source, destination = frame[ip + 12 : ip + 16], frame[ip + 16 : ip + 20]
    source_port, destination_port, sequence = struct.unpack_from("!HHI", frame, tcp)
    data = tcp + (frame[tcp + 12] >> 4) * 4
    return _Segment(
        flow=(source, source_port, destination, destination_port),
        sequence=sequence,
        syn=bool(frame[tcp + 13] & _SYN),
        payload=frame[data : ip + total],
    )


def _reassemble(segments: list[_Segment]) -> bytes:
    start = segments[0].sequence + segments[0].syn
    pieces: dict[int, bytes] = {}
    for segment in segments:
        offset = (segment.sequence + segment.syn - start) & 0xFFFFFFFF
        if offset < 1 << 31 and len(segment.payload) > len(pieces.get(offset, b"")):
            pieces[offset] = segment.payload
    stream = bytearray()
    for offset in sorted(pieces):
        if offset > len(stream):
            raise AssertionError(f"the recording has a gap of {offset - len(stream)} bytes")
        stream += pieces[offset][len(stream) - offset :] if offset + len(pieces[offset]) > len(stream) else b""
    return bytes(stream)
