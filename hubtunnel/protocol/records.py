"""Records: sealing, opening, key steps, framing on the carrier (PROTOCOL.md 5)."""

from __future__ import annotations

from struct import Struct

from hubtunnel import crypto
from hubtunnel.errors import CryptoError, ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Label, Record

_HEADER = Struct(">BH")
_IV_LEN = 12

# RC4: types and the exact length of their data, by number; -1: any length.
_DATA_LEN: tuple[int | None, ...] = tuple(
    None
    if number not in Record._value2member_map_
    else (-1 if c.RECORD_DATA_LEN[Record(number)] is None else c.RECORD_DATA_LEN[Record(number)])
    for number in range(256)
)
_RECORDS: tuple[Record | None, ...] = tuple(
    Record(number) if number in Record._value2member_map_ else None for number in range(256)
)


class TrafficKey:
    """One direction of one epoch: T, the AEAD under the key of now, and the counter (RC1, RC2).

    The key steps by itself before record 1024, 2048, …; the T and the key before it are dropped then.
    """

    __slots__ = ("_aead", "_iv", "_t", "bytes", "counter", "epoch")

    def __init__(self, t: bytes, epoch: int) -> None:
        self.epoch = epoch & 0xFF
        self.counter = 0
        self.bytes = 0  # of whole records
        self._rekey(t)

    def _rekey(self, t: bytes) -> None:
        self._t = t
        self._aead = crypto.Aead(crypto.expand(t, Label.KEY))
        self._iv = int.from_bytes(crypto.expand(t, Label.IV, b"", _IV_LEN), "big")

    def _nonce(self) -> bytes:
        """The nonce of the next record, after the key step that may fall before it (RC3)."""
        counter = self.counter
        if counter and counter % c.KEY_STEP_RECORDS == 0:
            self._rekey(crypto.expand(self._t, Label.STEP))
        self.counter = counter + 1
        return (self._iv ^ counter).to_bytes(_IV_LEN, "big")

    def seal(self, plaintext: bytes) -> bytes:
        """A whole record, header included; `plaintext` begins with its type."""
        length = len(plaintext) + crypto.TAG_LEN
        self.bytes += c.RECORD_HEADER_LEN + length
        header = _HEADER.pack(self.epoch, length)
        nonce = self._nonce()  # before `_aead` is looked up: a key step replaces it
        return header + self._aead.seal(nonce, plaintext, header)

    def open(self, header: bytes, body: memoryview) -> bytes:
        """The plaintext of a record's body, type first. Raises `CryptoError`; any error ends the carrier."""
        self.bytes += len(header) + len(body)
        nonce = self._nonce()  # before `_aead` is looked up: a key step replaces it
        return self._aead.open(nonce, body, header)


class Reader:
    """Bytes of a carrier to records (RC4): bounded by one record, checked before the body is waited for.

    Records are opened where they lie in what was fed; only one that is not yet whole is copied. Call `next` until it
    gives None before `data` is used for something else.
    """

    __slots__ = ("_at", "_data", "_next_key", "_partial", "key", "records", "switched")

    def __init__(self, key: TrafficKey) -> None:
        self.key = key
        self.records = 0
        self.switched = False  # whether the last record was the first one of the next epoch
        self._next_key: TrafficKey | None = None
        self._data: bytes = b""
        self._at = 0  # up to where `_data` was read
        self._partial = bytearray()  # the beginning of a record, header included

    def expect_epoch(self, key: TrafficKey) -> None:
        """RT6: accept the next epoch from the first record on that is marked with it and authenticates."""
        self._next_key = key

    def switch(self, key: TrafficKey) -> None:
        """RT8: from the next record on, only this epoch."""
        self.key = key
        self._next_key = None

    def feed(self, data: bytes) -> None:
        """Add bytes of the carrier."""
        if self._at < len(self._data):
            data = self._data[self._at :] + data
        self._data = data
        self._at = 0

    @property
    def held(self) -> int:
        """Bytes that wait: after `next` gave None, of a record that is not yet whole."""
        return len(self._partial) + len(self._data) - self._at

    def next(self) -> tuple[Record, bytes] | None:
        """The next whole record as (type, plaintext *with* its type byte), or None.

        Raises `ProtocolError` for everything that must end the carrier at once.
        """
        data, at = self._data, self._at
        if self._partial or len(data) - at < c.RECORD_HEADER_LEN:
            return self._next_of_partial() if data else None
        epoch, length = _HEADER.unpack_from(data, at)
        body = at + c.RECORD_HEADER_LEN
        end = body + length
        if length < c.RECORD_BODY_MIN or end > len(data):
            return self._next_of_partial()
        key = self._check_epoch(epoch)
        if end == len(data):
            self._all_read()
        else:
            self._at = end
        with memoryview(data) as view, view[body:end] as sealed:
            return self._opened(key, data[at:body], sealed)

    def _next_of_partial(self) -> tuple[Record, bytes] | None:
        """As `next`, for a record that came in pieces, or is still coming."""
        partial = self._partial
        self._fill(c.RECORD_HEADER_LEN)
        if len(partial) < c.RECORD_HEADER_LEN:
            self._all_read()
            return None
        epoch, length = _HEADER.unpack_from(partial)
        if length < c.RECORD_BODY_MIN:
            raise ProtocolError(f"record of length {length}", "bad_record")
        key = self._check_epoch(epoch)
        self._fill(c.RECORD_HEADER_LEN + length)
        if len(partial) < c.RECORD_HEADER_LEN + length:
            self._all_read()
            return None
        self._partial = bytearray()
        with memoryview(partial) as view, view[c.RECORD_HEADER_LEN :] as sealed:
            return self._opened(key, bytes(view[: c.RECORD_HEADER_LEN]), sealed)

    def _fill(self, size: int) -> None:
        """Move bytes to the record that is not whole until it has `size`, as far as there are any."""
        end = min(self._at + size - len(self._partial), len(self._data))
        if end > self._at:
            self._partial += memoryview(self._data)[self._at : end]
            self._at = end

    def _all_read(self) -> None:
        """Let go of what was fed."""
        self._data = b""
        self._at = 0

    def _opened(self, key: TrafficKey, header: bytes, sealed: memoryview) -> tuple[Record, bytes]:
        try:
            plaintext = key.open(header, sealed)
        except CryptoError:
            raise ProtocolError("record does not authenticate", "bad_record") from None
        # RT6: only now, after the AEAD accepted it, the old epoch ends.
        self.switched = key is not self.key
        if self.switched:
            self.switch(key)
        self.records += 1
        return check_record(plaintext)

    def _check_epoch(self, epoch: int) -> TrafficKey:
        if epoch == self.key.epoch:
            return self.key
        if self._next_key is not None and epoch == self._next_key.epoch:
            return self._next_key
        raise ProtocolError(f"record of epoch {epoch}", "bad_record")


def check_record(plaintext: bytes) -> tuple[Record, bytes]:
    """RC4: the type is known and its data has the right length."""
    kind = _RECORDS[plaintext[0]]
    expected = _DATA_LEN[plaintext[0]]
    if kind is None or expected is None:
        raise ProtocolError(f"record of unknown type {plaintext[0]}", "bad_record")
    if expected >= 0 and len(plaintext) - 1 != expected:
        raise ProtocolError(f"{kind.name} record with {len(plaintext) - 1} bytes", "bad_record")
    return kind, plaintext
