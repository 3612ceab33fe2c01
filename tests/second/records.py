"""Section 5 of docs/PROTOCOL.md: records of one direction of a carrier, with key steps."""

from __future__ import annotations

from tests.second.gcm import TAG, AesGcm, Forged
from tests.second.kdf import expand, number, u8, u16, u64

PAD, DATA, ACK, CLOSE, RESUME, RESUMED, PING, PONG, START, STARTED = range(10)
RK1, RK2, RK3 = 16, 17, 18
DATA_LENGTHS = {ACK: 8, CLOSE: 9, RESUME: 96, RESUMED: 65, PING: 8, PONG: 8, START: 24, STARTED: 16} | {
    RK1: 2304,
    RK2: 2240,
    RK3: 32,
}
NAMES = {
    value: name
    for name, value in list(globals().items())
    if isinstance(value, int) and name.isupper() and name != "TAG"
}
DATA_MAX = 65518
KEY_STEP = 1024


class Drop(Exception):
    """Something is wrong with a record: the carrier is closed at once (the reaction *drop*)."""


class Traffic:
    """One direction in one epoch: T, the key and iv that it gives now, and the counter."""

    def __init__(self, secret: bytes, epoch: int) -> None:
        self._secret = secret
        self.epoch = epoch % 256
        self.counter = 0
        self._derive()

    def _derive(self) -> None:
        """RC2."""
        self._key = AesGcm(expand(self._secret, "key"))
        self._iv = expand(self._secret, "iv", b"", 12)

    def skip_to(self, counter: int) -> None:
        """Go on as if all records before `counter` had been there."""
        while self.counter < counter:
            self._advance()

    def _advance(self) -> None:
        """RC3."""
        self.counter += 1
        if self.counter % KEY_STEP == 0:
            self._secret = expand(self._secret, "step")
            self._derive()

    def _nonce(self) -> bytes:
        mask = bytes(4) + u64(self.counter)
        return bytes(a ^ b for a, b in zip(self._iv, mask, strict=True))

    def seal(self, kind: int, data: bytes) -> bytes:
        header = u8(self.epoch) + u16(1 + len(data) + TAG)
        record = header + self._key.seal(self._nonce(), u8(kind) + data, header)
        self._advance()
        return record

    def open(self, header: bytes, body: bytes) -> tuple[int, bytes]:
        """Type and data; Drop for what does not verify or is not in table `records`."""
        try:
            plain = self._key.open(self._nonce(), body, header)
        except Forged:
            raise Drop(f"the tag of record {self.counter} of epoch {self.epoch} does not verify") from None
        self._advance()
        kind, data = plain[0], plain[1:]
        if kind not in (PAD, DATA) and DATA_LENGTHS.get(kind) != len(data):
            raise Drop(f"a record of type {kind} with {len(data)} bytes")
        return kind, data


class Receiver:
    """Cuts what arrives into records and opens them."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.next_traffic: Traffic | None = None
        """RT6: keys of the epoch that may begin with any record."""
        self.buffer = bytearray()

    def record(self) -> tuple[int, bytes] | None:
        """The next whole record, or None when more bytes are needed."""
        if len(self.buffer) < 3:
            return None
        header = bytes(self.buffer[:3])
        epoch, length = header[0], number(header[1:])
        if length < 1 + TAG:
            raise Drop(f"a record of {length} bytes")
        upcoming = self.next_traffic
        if epoch != self.traffic.epoch and (upcoming is None or epoch != upcoming.epoch):
            raise Drop(f"a record of epoch {epoch} in epoch {self.traffic.epoch}")
        if len(self.buffer) < 3 + length:
            return None
        body = bytes(self.buffer[3 : 3 + length])
        del self.buffer[: 3 + length]
        if upcoming is None or epoch == self.traffic.epoch:
            return self.traffic.open(header, body)
        opened = upcoming.open(header, body)
        self.traffic, self.next_traffic = upcoming, None
        return opened
