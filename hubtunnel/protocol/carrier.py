"""One carrier: a TCP connection whose handshake is done, its keys and its records (PROTOCOL.md 5).

A carrier knows records and keys; it knows neither frames nor streams. When it is lost its keys are forgotten at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hubtunnel.protocol.constants import RECORD_DATA_MAX, Record
from hubtunnel.protocol.handshake import Established
from hubtunnel.protocol.records import Reader, TrafficKey
from hubtunnel.protocol.wire import u64

if TYPE_CHECKING:
    from hubtunnel.protocol.session import Session

_PINGS_OPEN = 16  # PINGs whose answers are awaited at most
_TYPE = tuple(bytes((number,)) for number in range(256))


class Carrier:
    """Records in both directions. Everything that is to be sent waits here unsealed, so that an epoch's end is a point.

    `app` is the shell's. Times are the caller's monotonic seconds.
    """

    def __init__(self, number: int, established: Established, now: float) -> None:
        self.id = number
        self.app: object = None
        self.established = established
        self.session: Session | None = None
        self.opened_at = now
        self.closed = False  # nothing is read or queued any more; what is queued may still leave
        self.heard = False  # whether a record was received
        self.rtt: float | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.hushed = False  # CLOSE was queued: after it nothing more
        self.silent = True  # only what `first` queued may leave: before START/RESUME was answered, or ruled on
        self.ack: int | None = None
        self.epoch = 0  # ratchet steps on this carrier
        self.record_room = RECORD_DATA_MAX  # bytes that a record takes of streams: the shell's, by how fast the way is
        self._flight = established.first_flight
        self._reader: Reader | None = Reader(TrafficKey(established.t_receive, 0))
        self._key: TrafficKey | None = TrafficKey(established.t_send, 0)
        self._control: list[bytes | TrafficKey] = []  # plaintexts; a key: from here on in the next epoch
        self._ping: bytes | None = None
        self._pong: bytes | None = None
        self._asked: dict[bytes, float] = {}

    @property
    def initiator(self) -> bool:
        """Whether we dialled it."""
        return self.established.initiator

    @property
    def records_in(self) -> int:
        """Records received, all epochs."""
        return self._reader.records if self._reader else 0

    @property
    def sending(self) -> TrafficKey | None:
        """The key under which the next record is sealed; its counter and bytes are those of this epoch."""
        return self._key

    @property
    def receiving(self) -> TrafficKey | None:
        """The same for what comes in."""
        return self._reader.key if self._reader else None

    # --- out ------------------------------------------------------------------------------------------------

    def queue(self, kind: Record, data: bytes) -> None:
        """A record that goes before all DATA.

        Bounded by the protocol: a first record, one step in flight, one CLOSE; ACK, PING and PONG have slots of one.
        """
        if not self.closed and not self.hushed:
            self._control.append(_TYPE[kind] + data)

    def queue_switch(self, key: TrafficKey) -> None:
        """RT6: everything queued from here on goes in the next epoch."""
        if not self.closed:
            self._control.append(key)

    def switch_now(self, key: TrafficKey) -> None:
        """RT8: the next record sealed is of the next epoch, whatever waits."""
        self._key = key

    def queue_ping(self, token: bytes, now: float) -> bytes:
        """LV1: PING. One waits at most: the token returned is that of the one which already does, if so."""
        if self._ping is None:
            self._ping = token
            if len(self._asked) >= _PINGS_OPEN:
                self._asked.pop(next(iter(self._asked)))
        self._asked[self._ping] = now
        return self._ping

    def queue_pong(self, token: bytes) -> None:
        """RC7: at most one answer waits, the newest."""
        self._pong = token

    def pong_received(self, token: bytes, now: float) -> list[tuple[bytes, float]]:
        """LV3: (token, when it was asked) of the PING that is answered and of those before it.

        A peer answers only the newest of several that reach it at once; empty for an answer to nothing.
        """
        if token not in self._asked:
            return []
        answered = []
        for asked in list(self._asked):
            answered.append((asked, self._asked.pop(asked)))
            if asked == token:
                break
        rtt = now - answered[-1][1]
        self.rtt = rtt if self.rtt is None else 0.75 * self.rtt + 0.25 * rtt
        return answered

    def hush(self) -> None:
        """CL1: after what is queued, nothing more."""
        self.hushed = True
        self.ack = None
        self._ping = self._pong = None

    @property
    def has_control(self) -> bool:
        """Whether anything but DATA waits."""
        if self._flight or self._control:
            return True
        return not self.silent and (self._ping is not None or self._pong is not None or self.ack is not None)

    def seal_control(self, out: list[bytes]) -> int:
        """Seal all that goes before DATA into `out`; returns the bytes added."""
        size = 0
        if self._flight:
            out.append(self._flight)
            size += len(self._flight)
            self._flight = b""
        if self._control:
            for item in self._control:
                if isinstance(item, TrafficKey):
                    self._key = item
                else:
                    size += self.seal(item, out)
            self._control.clear()
        if self.silent:
            return size
        if self.ack is not None:
            size += self.seal(_TYPE[Record.ACK] + u64(self.ack), out)
            self.ack = None
        if self._ping is not None:
            size += self.seal(_TYPE[Record.PING] + self._ping, out)
            self._ping = None
        if self._pong is not None:
            size += self.seal(_TYPE[Record.PONG] + self._pong, out)
            self._pong = None
        return size

    def seal(self, plaintext: bytes, out: list[bytes]) -> int:
        """Seal one record into `out`; returns its size."""
        if self._key is None:
            return 0
        record = self._key.seal(plaintext)
        out.append(record)
        return len(record)

    # --- in -------------------------------------------------------------------------------------------------

    def records(self, data: bytes) -> Iterator[tuple[Record, bytes]]:
        """Bytes of the socket, as records (type, plaintext with its type byte), until the carrier is closed.

        Raises `ProtocolError`: close at once.
        """
        reader = self._reader
        if reader is None:
            return
        self.bytes_in += len(data)
        reader.feed(data)
        while not self.closed and (record := reader.next()) is not None:
            yield record

    @property
    def switched(self) -> bool:
        """Whether the last record was the first of a new epoch."""
        return self._reader is not None and self._reader.switched

    def expect_epoch(self, key: TrafficKey) -> None:
        """RT6: accept the next epoch's records."""
        if self._reader is not None:
            self._reader.expect_epoch(key)

    def switch_reading(self, key: TrafficKey) -> None:
        """RT8: from now on only the next epoch's records."""
        if self._reader is not None:
            self._reader.switch(key)

    # --- the end --------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Read and queue nothing more; what is queued may still leave."""
        self.closed = True
        self._reader = None
        self._asked.clear()

    def forget_keys(self) -> None:
        """The carrier is gone: T, key and iv of both directions with it."""
        self.stop()
        self._key = None
        self._control.clear()
        self._flight = b""
        self._ping = self._pong = None
        self.ack = None
