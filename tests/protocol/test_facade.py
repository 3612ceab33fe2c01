"""Whatever a peer says that holds the keys: the facade raises nothing, keeps its bounds, and gives its memory back."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames
from hubtunnel.protocol.constants import Code, Frame, Record
from tests.protocol.puppet import HELLO, Line, Puppet


def sized(kind: Record) -> st.SearchStrategy[bytes]:
    """Data of the length that the type wants, or of any."""
    length = c.RECORD_DATA_LEN[kind]
    return st.binary(max_size=100) if length is None else st.binary(min_size=length, max_size=length)


FRAMES = st.one_of(
    st.tuples(st.sampled_from(Frame), st.integers(0, 9), st.binary(max_size=50)),
    st.tuples(st.just(Frame.DATA), st.integers(0, 5), st.binary(max_size=300)),
    st.tuples(st.just(Frame.OPEN), st.integers(0, 9), st.just(frames.encode_open(None))),
    st.tuples(st.just(Frame.CREDIT), st.integers(0, 5), st.binary(min_size=4, max_size=4)),
    st.tuples(st.sampled_from([Frame.END, Frame.GOAWAY]), st.integers(0, 5), st.sampled_from([b"", bytes(6)])),
).map(lambda frame: (int(Record.DATA), frames.encode(*frame)))
RECORDS = st.one_of(
    st.sampled_from(Record).flatmap(lambda kind: st.tuples(st.just(int(kind)), sized(kind))),
    st.tuples(st.integers(0, 255), st.binary(max_size=40)),
    FRAMES,
    FRAMES,
)
BEGINNINGS = st.sampled_from(["first", "starting", "up at I", "up at R", "resuming"])


def begun(puppet: Puppet, how: str) -> Line:
    """A line in one of the states of 7.2."""
    if how == "resuming":
        puppet.cut(puppet.up(hub_dials=True))
    if how.startswith("up"):
        return puppet.up(hub_dials=how.endswith("I"))
    return puppet.line(hub_dials=how != "first")


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(how=BEGINNINGS, said=st.lists(RECORDS, max_size=15), busy=st.booleans())
def test_no_record_gets_through_as_an_exception(how: str, said: list[tuple[int, bytes]], busy: bool) -> None:
    """Records of any type with any data, in any state, while the hub has streams open; then everything ends."""
    puppet = Puppet()
    line = begun(puppet, how)
    if how == "starting":
        line.send(Record.STARTED, puppet.started_record())
        line.frames(HELLO)
    if busy and puppet.hub.link.ready:
        stream = puppet.hub.link.open_stream(("192.0.2.1", 25), puppet.now)
        stream.write(bytes(1000))
    for kind, data in said:
        if line.closed is None:
            line.send(kind, data)
            puppet.advance(0.05)
    for session in puppet.hub.link.sessions:
        assert len(session.roots) <= (1 if session.initiator else 2)
    puppet.hub.link.close(Code.DONE, puppet.now)
    puppet.advance(c.LINGER + c.CLOSE_ANSWER_TIMEOUT + 60)
    assert puppet.hub.link.sessions == []
    assert puppet.hub.budget.used == 0


@settings(max_examples=100)
@given(how=BEGINNINGS, noise=st.binary(min_size=1, max_size=200))
def test_noise_drops_the_carrier(how: str, noise: bytes) -> None:
    """Bytes that no key has sealed: the carrier goes, or waits for the rest; nothing is said, nothing is raised."""
    puppet = Puppet()
    line = begun(puppet, how)
    line.take()
    line.raw(noise)
    line.raw(bytes(c.RECORD_BODY_MAX + 3))
    assert line.dropped
    assert line.take() == []
