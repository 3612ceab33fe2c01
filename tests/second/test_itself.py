"""The second implementation against itself, in memory: before it judges another program it must agree with its own."""

from __future__ import annotations

import pytest

from tests.second import records, streams
from tests.second.card import from_text, to_text
from tests.second.hub import Hub, carry
from tests.second.initiator import Initiator
from tests.second.records import Drop
from tests.second.responder import Responder
from tests.second.schedule import WrongAuth
from tests.second.session import Session
from tests.second.streams import Fault


@pytest.fixture(scope="module")
def acquainted() -> tuple[Hub, Hub]:
    one, two = Hub("one.example"), Hub("two.example")
    one.peer, two.peer = two.card, one.card
    return one, two


@pytest.fixture
def hubs(acquainted: tuple[Hub, Hub]) -> tuple[Hub, Hub]:
    """Two hubs that have exchanged cards, each a new process."""
    for hub in acquainted:
        hub.start_process()
    return acquainted


def connect(hubs: tuple[Hub, Hub], resume: Session | None = None, piece: int = 1 << 20) -> tuple[Initiator, Responder]:
    a, b = hubs[0].dial(resume), hubs[1].accept()
    carry(a, b, piece)
    return a, b


def sessions(a: Initiator, b: Responder) -> tuple[Session, Session]:
    assert a.session is not None
    assert b.session is not None
    return a.session, b.session


def check_same(a: Session, b: Session) -> None:
    assert (a.sid, a.index, a.roots[a.index], a.th) == (b.sid, b.index, b.roots[b.index], b.th)


def test_a_card_survives_its_text(hubs: tuple[Hub, Hub]) -> None:
    card = from_text("words before\n" + to_text(hubs[0].card).replace("-----\n", "-----\n# name\n", 1))
    assert card.signed == hubs[0].card.signed


@pytest.mark.parametrize("piece", [1 << 20, 97])
def test_streams_both_ways(hubs: tuple[Hub, Hub], piece: int) -> None:
    a, b = connect(hubs, piece=piece)
    one, two = sessions(a, b)
    check_same(one, two)
    letter = bytes(range(256)) * 80
    out = one.streams.open(source=("192.0.2.1", 40000))
    back = two.streams.open()
    one.streams.send(out, letter)
    one.streams.end(out)
    two.streams.send(back, letter[::-1])
    carry(a, b, piece)
    assert two.streams.streams[1].source == ("192.0.2.1", 40000)
    assert two.streams.streams[1].received == letter
    assert two.streams.streams[1].peer_ended
    assert not back.peer_ended
    assert one.streams.streams[2].received == letter[::-1]
    two.streams.reset(back, streams.BROKEN)
    carry(a, b)
    assert one.streams.streams[2].reset == streams.BROKEN
    assert one.all_acknowledged
    assert two.all_acknowledged


def test_steps_and_key_steps(hubs: tuple[Hub, Hub]) -> None:
    a, b = connect(hubs)
    one, two = sessions(a, b)
    stream = one.streams.open()
    one.cut = 3
    one.streams.send(stream, bytes(3 * 1100))
    a.start_step()
    one.streams.send(stream, b"while the step is under way")
    carry(a, b, 4000)
    check_same(one, two)
    assert (one.index, a.steps_done, b.steps_done, a.sender.epoch, b.sender.epoch) == (1, 1, 1, 1, 1)
    assert len(two.roots) == 1
    assert bytes(two.streams.streams[1].received).endswith(b"while the step is under way")


def test_a_step_too_soon_is_dropped(hubs: tuple[Hub, Hub]) -> None:
    a, b = connect(hubs)
    a.start_step()
    carry(a, b)
    a.start_step()
    with pytest.raises(Drop, match="too soon"):
        carry(a, b)


@pytest.mark.parametrize("kept", [0, 1, 9000])
def test_resume_after_a_cut_in_the_middle(hubs: tuple[Hub, Hub], kept: int) -> None:
    """`kept` bytes of what was on its way arrive; the rest is sent again."""
    a, b = connect(hubs)
    one, two = sessions(a, b)
    letter = bytes(range(256)) * 80
    one.cut = 1000
    stream = one.streams.open()
    two.streams.open()
    one.streams.send(stream, letter)
    b.feed(bytes(a.out[:kept]))
    a.close()
    b.close()
    a, b = connect(hubs, resume=one)
    assert sessions(a, b) == (one, two)
    assert two.streams.streams[1].received == letter
    assert 2 in one.streams.streams
    check_same(one, two)
    assert (one.index, len(two.roots), a.steps_done) == (2, 1, 1)


def test_a_pending_root_survives_the_carrier(hubs: tuple[Hub, Hub]) -> None:
    """RS9: R has answered a step, I has not seen the answer; and the other way round."""
    for seen, index in ((False, 2), (True, 3)):
        a, b = connect(hubs)
        one, two = sessions(a, b)
        a.start_step()
        b.feed(bytes(a.out))
        if seen:
            a.feed(bytes(b.out))
        assert set(two.roots) == {0, 1}
        a.close()
        b.close()
        connect(hubs, resume=one)
        check_same(one, two)
        assert one.index == index


def test_status_0(hubs: tuple[Hub, Hub]) -> None:
    a, b = connect(hubs)
    one, two = sessions(a, b)
    a.close()
    two.roots = {}
    a, b = connect(hubs, resume=one)
    assert a.not_resumed
    assert one.over
    fresh = sessions(a, b)
    assert fresh[0].sid != one.sid
    check_same(*fresh)
    assert fresh[0].streams.hello is not None
    assert fresh[1].streams.hello is not None


def test_goaway_and_close(hubs: tuple[Hub, Hub]) -> None:
    a, b = connect(hubs)
    one, two = sessions(a, b)
    stream = one.streams.open()
    carry(a, b)
    two.streams.send_goaway(streams.DRAINED)
    carry(a, b)
    assert one.streams.goaway == (streams.DRAINED, stream.number)
    a.ping(b"12345678")
    carry(a, b)
    assert a.pongs == [b"12345678"]
    two.close(streams.DRAINED)
    carry(a, b)
    assert one.over
    assert two.over
    assert one.closed == (streams.DRAINED, one.received_offset)
    assert two.closed == (streams.DRAINED, two.received_offset)


def test_a_late_dial_and_a_stranger_are_refused(hubs: tuple[Hub, Hub]) -> None:
    connect(hubs)
    hubs[0]._dial = 0
    with pytest.raises(Drop, match="not higher"):
        connect(hubs)
    stranger = Hub("stranger.example")
    stranger.peer = hubs[1].card
    with pytest.raises(WrongAuth, match="hint"):
        connect((stranger, hubs[1]))


@pytest.mark.parametrize(
    ("kind", "number", "payload"),
    [
        (streams.DATA, 1, bytes(65537 - 7)),
        (streams.DATA, 3, b"x"),
        (streams.OPEN, 2, b"\x80"),
        (streams.END, 1, b"x"),
        (streams.CREDIT, 1, b"\x7f\xff\xff\xff"),
        (streams.HELLO, 0, b"\x80"),
        (0x7F, 0, b""),
        (streams.GOAWAY, 0, b"\0\1\0\0\0\4"),
    ],
)
def test_faults_are_seen(hubs: tuple[Hub, Hub], kind: int, number: int, payload: bytes) -> None:
    """The control: a peer that breaks a rule does not pass."""
    a, b = connect(hubs)
    one, two = sessions(a, b)
    one.streams.open()
    carry(a, b)
    two.streams.streams[1].gives_credit = False
    one.streams.send_frame(kind, number, payload[:65530])
    one.streams.send_frame(streams.DATA, 1, bytes(20))
    with pytest.raises(Fault):
        carry(a, b)
    assert two.close_sent is not None
    carry(a, b)
    assert one.closed == (streams.PROTOCOL, one.received_offset)


def test_records_out_of_place_are_dropped(hubs: tuple[Hub, Hub]) -> None:
    for kind, data in ((records.START, bytes(24)), (records.RK3, bytes(32)), (records.DATA, b""), (5, bytes(65))):
        a, b = connect(hubs)
        a.send(kind, data)
        with pytest.raises(Drop):
            carry(a, b)
        assert b.closed
