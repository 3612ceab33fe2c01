"""Records, frames and their payloads: what a peer that holds the keys may send (PROTOCOL.md 5 and 8)."""

from __future__ import annotations

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames as codec
from hubtunnel.protocol.constants import Frame, Record
from hubtunnel.protocol.records import Reader, TrafficKey
from tests.fuzz.choices import Choices, pieces, require

SECRET = bytes(32)


def records(data: bytes) -> None:
    """The reader, fed with records that authenticate and bytes that do not, in pieces.

    What opens is what was sealed, in order; the first fault is the last thing; nothing is kept beyond one record.
    """
    choices = Choices(data)
    sealer, reader = TrafficKey(SECRET, 0), Reader(TrafficKey(SECRET, 0))
    sealed: list[bytes] = []
    opened: list[bytes] = []
    try:
        while choices.more:
            if choices.below(4):
                plaintext = choices.take(1).ljust(1, b"\0") + choices.some()
                sealed.append(plaintext)
                stream = bytes(sealer.seal(plaintext))
            else:
                stream = choices.some()
            for piece in pieces(stream, choices):
                reader.feed(piece)
                while (record := reader.next()) is not None:
                    opened.append(record[1])
                assert reader.held < c.RECORD_HEADER_LEN + c.RECORD_BODY_MAX
    except ProtocolError as error:
        require(error.code == "bad_record", error.code)
    assert opened == sealed[: len(opened)]


def frames(data: bytes) -> None:
    """The frame parser: however the bytes are cut, the same frames come out, or the same fault."""
    choices = Choices(data)
    cut = pieces(choices.rest(), Choices(data[::-1]))
    assert b"".join(cut) == data
    whole, in_pieces = parsed([data]), parsed(cut)
    assert whole == in_pieces


def parsed(parts: list[bytes]) -> tuple[list[tuple[int, int, bytes]], str]:
    parser = codec.FrameParser()
    found: list[tuple[int, int, bytes]] = []
    try:
        for part in parts:
            found += parser.feed(bytes((Record.DATA,)) + part)
            assert len(parser._partial) < c.FRAME_HEADER_LEN + c.FRAME_PAYLOAD_MAX
    except ProtocolError as error:
        return found, str(error)
    return found, ""


def payloads(data: bytes) -> None:
    """HELLO and OPEN: what is taken can be said again and is taken again, as the same."""
    if not data:
        return
    try:
        if data[0] % 2:
            hello = codec.decode_hello(data[1:])
            assert hello.version.isprintable()
            assert codec.decode_hello(codec.encode_hello(hello)[c.FRAME_HEADER_LEN :]) == hello
        else:
            service, source = codec.decode_open(data[1:])
            if service == "smtp":
                assert codec.decode_open(codec.encode_open(source)) == (service, source)
    except ProtocolError:
        return
    codec.check_frame(Frame.HELLO, 0, len(data))
