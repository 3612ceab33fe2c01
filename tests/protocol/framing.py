"""Frames by hand, and how a hub meets a fault in them."""

from __future__ import annotations

import msgpack

from hubtunnel.protocol import frames
from hubtunnel.protocol.constants import Code, Frame, Record
from hubtunnel.protocol.events import (
    SessionEnded,
)
from hubtunnel.protocol.session import Phase
from tests.protocol.puppet import Line

OPEN_PAYLOAD = frames.encode_open(None)


def opening(number: int, **keys: object) -> bytes:
    """An OPEN frame, of an SMTP stream unless other keys are given."""
    return frames.encode(Frame.OPEN, number, msgpack.packb(keys) if keys else OPEN_PAYLOAD)


def data(number: int, payload: bytes = b"x") -> bytes:
    """A DATA frame."""
    return frames.encode(Frame.DATA, number, payload)


def end(number: int) -> bytes:
    """An END frame."""
    return frames.encode(Frame.END, number)


def faulted(line: Line, code: int = Code.PROTOCOL) -> bool:
    """FR1: the session ends for both, with this code said to the peer."""
    said = [payload for kind, payload in line.take() if kind is Record.CLOSE]
    assert [payload[0] for payload in said] == [code]
    assert line.session.phase is Phase.CLOSING
    line.send(Record.CLOSE, bytes((code,)) + bytes(8))
    (ended,) = [event for event in line.puppet.seen(SessionEnded) if isinstance(event, SessionEnded)]
    return ended.code == code and not ended.by_peer
