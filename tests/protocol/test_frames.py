"""Frames and HELLO (PROTOCOL.md 8.1 to 8.3)."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames
from hubtunnel.protocol.constants import Code, Frame, Record
from hubtunnel.protocol.events import (
    Notice,
    SessionUp,
    StreamOpened,
)
from hubtunnel.protocol.frames import FrameParser
from hubtunnel.protocol.link import Settings
from tests.protocol.framing import data, faulted, opening
from tests.protocol.puppet import HELLO, Line, Puppet, hello

# --- frames -------------------------------------------------------------------------------------------------------

LENGTHS = {
    Frame.END: (0, 0),
    Frame.RESET: (2, 2),
    Frame.CREDIT: (4, 4),
    Frame.GOAWAY: (6, 6),
    Frame.CARD_HAVE: (40, 40),
    Frame.CARD_PART: (17, 32784),
    Frame.CARD_ACK: (40, 40),
    Frame.CARD_NAK: (10, 10),
    Frame.CARD_GET: (8, 8),
    Frame.RECEIPT_ACK: (8, 8),
}
SESSION_FRAMES = {kind for kind in Frame if kind not in (Frame.OPEN, Frame.DATA, Frame.END, Frame.RESET, Frame.CREDIT)}


def parse(stream: bytes, sizes: list[int] | None = None) -> list[tuple[int, int, bytes]]:
    """Frames of a byte stream that was cut into records of these sizes."""
    parser, found, at = FrameParser(), [], 0
    for size in sizes or [len(stream)]:
        found += list(parser.feed(b"\x01" + stream[at : at + size]))
        at += size
    return found


@pytest.mark.parametrize("kind", Frame)
def test_FR3_lengths_and_streams_of_each_type(kind: Frame) -> None:
    """The bounds of the table hold to the byte; a stream where none may be, and none where one must be, are faults."""
    least, greatest = LENGTHS.get(kind, (0, c.FRAME_PAYLOAD_MAX))
    good_stream = 0 if kind in SESSION_FRAMES else 5
    for length in {least, greatest}:
        assert parse(frames.encode(kind, good_stream, bytes(length))) == [(kind, good_stream, bytes(length))]
    for length in {least - 1, greatest + 1} - {-1, c.FRAME_PAYLOAD_MAX + 1}:
        with pytest.raises(ProtocolError):
            parse(frames.encode(kind, good_stream, bytes(length)))
    with pytest.raises(ProtocolError):
        parse(frames.encode(kind, 5 - good_stream, bytes(least)))


@pytest.mark.parametrize("kind", sorted(set(range(256)) - set(Frame)))
def test_FR2_unknown_types(kind: int) -> None:
    """Below 0x80 a fault; from there on ignored, with any payload and on any stream."""
    for stream, payload in ((0, b""), (7, bytes(100))):
        puppet = Puppet()
        line = puppet.up(hub_dials=False)
        line.frames(frames.encode(kind, stream, payload))
        if kind < c.OPTIONAL_FRAME_FROM:
            assert faulted(line)
        else:
            line.frames(opening(1))
            assert len(puppet.seen(StreamOpened)) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from([Frame.DATA, Frame.OPEN]), st.integers(1, 9), st.binary(max_size=60)), max_size=9
    ),
    st.data(),
)
def test_FR1_cuts_of_the_stream_mean_nothing(content: list[tuple[Frame, int, bytes]], draw: st.DataObject) -> None:
    """Frames come out the same however the byte stream was cut into records."""
    stream = b"".join(frames.encode(*frame) for frame in content)
    sizes, left = [], len(stream)
    while left:
        size = draw.draw(st.integers(1, left))
        sizes.append(size)
        left -= size
    assert parse(stream, sizes) == content
    assert parse(stream, [1] * len(stream)) == content


@given(st.binary(max_size=300))
def test_parser_raises_nothing_but_its_own_error(noise: bytes) -> None:
    """Whatever comes, it is frames or a `ProtocolError`, whole or byte by byte."""
    for sizes in ([len(noise)], [1] * len(noise)):
        try:
            parse(noise, sizes)
        except ProtocolError:
            pass


# --- HELLO --------------------------------------------------------------------------------------------------------

GOOD_HELLO: dict[str, object] = {"version": "1", "capabilities": [], "requires": []}


def greeting(line: Line, *encoded: bytes) -> Line:
    """A line in state UP whose peer's first frames are these."""
    line.send(Record.START, line.puppet.start_record())
    line.take()
    line.frames(*encoded)
    return line


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x80",
        msgpack.packb([1]),
        msgpack.packb(GOOD_HELLO) + b"\x00",
        msgpack.packb(GOOD_HELLO)[:-1],
        msgpack.packb({1: 2, **GOOD_HELLO}),
        msgpack.packb({b"version": "1", **GOOD_HELLO}),
        *(msgpack.packb({key: GOOD_HELLO[key] for key in GOOD_HELLO if key != gone}) for gone in GOOD_HELLO),
        *(msgpack.packb({**GOOD_HELLO, "version": wrong}) for wrong in (None, 1, b"1", True, [], 1.5)),
        *(msgpack.packb({**GOOD_HELLO, "capabilities": wrong}) for wrong in (None, "a", [1], [b"a"], [None], {"a": 1})),
        *(msgpack.packb({**GOOD_HELLO, "requires": wrong}) for wrong in (None, "a", [1], [["a"]])),
        b"\x91" * 60000,
        b"\xdf\xff\xff\xff\xff",
    ],
    ids=lambda payload: payload[:12].hex() or "empty",
)
def test_FR5_hello_that_is_none(payload: bytes) -> None:
    """A first frame that is no HELLO as 8.3 has it: CLOSE(protocol)."""
    assert faulted(greeting(Puppet().line(hub_dials=False), frames.encode(Frame.HELLO, 0, payload)))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"later": None, "more": 1.5, "flag": True, "ext": msgpack.ExtType(5, b"abc"), "deep": [[[{"a": b"b"}]]]},
        {f"key {n}": n for n in range(300)},
        {"list": list(range(5000))},
        {"version": "v" * 1000},
        {"version": "\x1b[31mred\n‮"},
        {"capabilities": ["c" * 500, *(str(n) for n in range(300))]},
    ],
    ids=["as is", "types", "many keys", "long list", "long version", "escapes", "many capabilities"],
)
def test_FR5_hello_with_more_than_we_know(keys: dict[str, object]) -> None:
    """Unknown keys of any type and number are ignored; the version is untrusted text of any length."""
    puppet = Puppet()
    line = greeting(puppet.line(hub_dials=False), hello(**{**GOOD_HELLO, **keys}))
    assert line.closed is None
    (up,) = [event for event in puppet.seen(SessionUp) if isinstance(event, SessionUp)]
    assert up.version.isprintable()
    assert up.version.isascii()
    assert len(up.version) <= 64


def test_FR5_key_that_stands_twice() -> None:
    """The last one counts."""
    puppet = Puppet()
    pairs = b"".join(
        msgpack.packb(item) for item in ("version", 1, "version", "two", "capabilities", [], "requires", [])
    )
    greeting(puppet.line(hub_dials=False), frames.encode(Frame.HELLO, 0, b"\x84" + pairs))
    (up,) = [event for event in puppet.seen(SessionUp) if isinstance(event, SessionUp)]
    assert up.version == "two"


@pytest.mark.parametrize("first", [opening(1), frames.encode_goaway(0, 0), frames.encode(0x90, 0), data(1)])
def test_FR5_another_first_frame(first: bytes) -> None:
    """Anything else before HELLO is a fault."""
    assert faulted(greeting(Puppet().line(hub_dials=False), first))


def test_FR5_second_hello() -> None:
    """HELLO comes once."""
    line = Puppet().up(hub_dials=False)
    line.frames(HELLO)
    assert faulted(line)


def test_FR6_required_capability() -> None:
    """What the peer insists on and we lack ends the session with its own code; what we have does not."""
    wish = {**GOOD_HELLO, "requires": ["wings"]}
    line = greeting(Puppet().line(hub_dials=False), hello(**wish))
    assert faulted(line, Code.REQUIRED_CAPABILITY)
    nasty = greeting(Puppet().line(hub_dials=False), hello(**{**GOOD_HELLO, "requires": ["\x1b[2J\n" + "w" * 9999]}))
    (notice,) = nasty.puppet.seen(Notice)
    assert isinstance(notice, Notice)
    assert notice.text.isprintable()
    assert len(notice.text) < 200
    puppet = Puppet(Settings(version="test", capabilities=("wings",)))
    assert greeting(puppet.line(hub_dials=False), hello(**wish)).session.ready


@pytest.mark.parametrize(
    "frame", [frames.encode(Frame.RECEIPT, 0, b"x"), frames.encode(Frame.RECEIPT_ACK, 0, bytes(8))]
)
def test_FR4_receipts_are_not_spoken(frame: bytes) -> None:
    """Frames of a capability that nobody has named."""
    line = Puppet().up(hub_dials=False)
    line.frames(frame)
    assert faulted(line)
