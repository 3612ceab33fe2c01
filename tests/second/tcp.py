"""Plain TCP ends for the tests: the MTA that the daemon delivers to, and the client that hands mail to the daemon."""

from __future__ import annotations

import socket
import struct

PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n"


def listener(port: int) -> socket.socket:
    listening = socket.create_server(("127.0.0.1", port))
    listening.setblocking(False)
    return listening


def accepted(listening: socket.socket) -> socket.socket | None:
    """A connection that waits, or None."""
    try:
        connection, _ = listening.accept()
    except BlockingIOError:
        return None
    return connection


class End:
    """One end of a TCP connection that never blocks: `poll` moves what can be moved and says what is there."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.setblocking(False)
        self.received = bytearray()
        self.waiting = bytearray()
        self.ended = False
        """The other side has ended its direction in order."""
        self.reset = False
        """The connection was broken by RST."""

    @classmethod
    def to(cls, port: int) -> End:
        return cls(socket.create_connection(("127.0.0.1", port), timeout=5))

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._socket.getsockname()
        return host, port

    def send(self, data: bytes) -> None:
        self.waiting += data
        self.poll()

    def poll(self) -> None:
        """Send what waits and take what has come."""
        if self.reset or self._socket.fileno() < 0:
            return
        try:
            if self.waiting:
                del self.waiting[: self._socket.send(self.waiting)]
            while not self.ended and (data := self._socket.recv(65536)):
                self.received += data
            self.ended = True
        except BlockingIOError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            self.reset = True

    def shut(self) -> None:
        """End our direction."""
        assert not self.waiting
        self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        self._socket.close()


class Delivered(End):
    """A connection that the daemon made to the MTA: a PROXY v2 header, then the conversation."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.proxy_source: tuple[str, int] | None = None
        self.proxy_values: dict[int, bytes] = {}  # what follows the addresses: type, two bytes of length, value

    def introduced(self) -> bool:
        """Whether the whole header is there; it is taken off what was received."""
        if self.proxy_source is not None:
            return True
        self.poll()
        data = self.received
        if len(data) < 28:
            return False
        assert data[:14] == PROXY_V2 + b"\x21\x11", data[:28]
        end = 16 + int.from_bytes(data[14:16], "big")
        if len(data) < end:
            return False
        at = 28
        while at < end:
            behind = at + 3 + int.from_bytes(data[at + 1 : at + 3], "big")
            self.proxy_values[data[at]] = bytes(data[at + 3 : behind])
            at = behind
        assert at == end, data[:end]
        self.proxy_source = socket.inet_ntoa(bytes(data[16:20])), int.from_bytes(data[24:26], "big")
        del data[:end]
        return True
