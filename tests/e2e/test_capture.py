"""What a recording is put together from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tests.e2e.capture import _connections, _reassemble, _Segment

FLOW = (b"\x0a\0\0\1", 40000, b"\x0a\0\0\2", 25)


def _connection(start: int, *payloads: bytes) -> Iterator[_Segment]:
    yield _Segment(FLOW, start, True, b"")
    ends = itertools.accumulate(map(len, payloads), initial=start + 1)
    for sequence, payload in zip(ends, payloads, strict=False):
        yield _Segment(FLOW, sequence, False, payload)


def test_a_port_that_is_used_again_begins_another_connection() -> None:
    """Its numbers begin somewhere else, which is no gap; a SYN that is sent again begins nothing."""
    first, second = _connection(100, b"EHLO a", b"QUIT"), _connection(35_000_000, b"EHLO b")
    syn = next(first)
    streams = [_reassemble(one) for one in _connections([syn, syn, *first, *second])]
    assert streams == [b"EHLO aQUIT", b"EHLO b"]
