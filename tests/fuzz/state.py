"""What a session is, for comparing before and after, and what a link may hold at most."""

from __future__ import annotations

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.link import Link
from hubtunnel.protocol.session import Phase, Session

State = tuple[object, ...]

STREAM_FRAMES = 2 * (c.FRAME_HEADER_LEN + c.FRAME_PAYLOAD_MAX)  # what may come on top of a queue's bound at once


def of_session(session: Session) -> State:
    """All that a record may change, but for the clock and the carrier: its own loss is what a bad record may do."""
    ratchet, send, mux, cards = session._stepper.ratchet, session._send, session._mux, session.cards
    streams = sorted(
        (s.id, s.state, s.send_credit, s.receive_credit, s.queued, s.unconsumed) for s in mux.streams.values()
    )
    return (
        session.sid,
        session.peer_boot,
        session.peer_version,
        session.greeted,
        session.goaway_sent,
        session.goaway_received,
        dict(ratchet.roots),
        ratchet.index,
        ratchet.th,
        ratchet.d,
        send.base,
        send.end,
        session._count.offset,
        session._dispatcher._parser._partial,
        streams,
        mux._highest_opened,
        mux._next_own,
        cards.peer_has,
        bytes(cards._buffer),
    )


def of_link(link: Link) -> State:
    """The dials that it remembers, and its sessions; those that wait for the answer to CLOSE end with their carrier."""
    return (dict(link._dials), *(of_session(s) for s in link.sessions if s.phase is not Phase.CLOSING))


def check_bounds(link: Link) -> None:
    """No buffer, table or queue is beyond its bound, and the budget is what is really held."""
    held = 0
    closing = sum(session.phase is Phase.CLOSING for session in link.sessions)
    assert len(link.sessions) - closing <= c.SESSIONS_PER_LINK + 1
    assert len(link.sessions) <= 2 * c.SESSIONS_PER_LINK + 1  # where all that run are closed beside those refused (RV9)
    assert len(link._first) <= c.CARRIERS_PENDING_PER_LINK
    assert len(link._dials) <= c.BOOTS_REMEMBERED
    for carrier in link.carriers:
        if carrier._reader is not None:
            assert carrier._reader.held < c.RECORD_HEADER_LEN + c.RECORD_BODY_MAX
        assert len(carrier._control) <= 16
        assert len(carrier._asked) <= 16
    for session in link.sessions:
        send, mux = session._send, session._mux
        if session.ended:  # is taken out of the list with the next call that settles it
            assert (session.roots, mux.streams, len(send._kept)) == ({}, {}, 0)
            continue
        assert send.base <= send.next <= send.end
        assert len(session._dispatcher._parser._partial) < c.FRAME_HEADER_LEN + c.FRAME_PAYLOAD_MAX
        assert 0 <= mux._control_bytes <= c.CONTROL_QUEUE_MAX + STREAM_FRAMES
        assert mux._control_bytes == sum(map(len, mux._control))
        assert len(mux.streams) <= session._env.settings.streams_per_peer
        assert len(session.cards._buffer) <= c.CARD_MAX
        assert 1 <= len(session.roots) <= (1 if session.initiator else 2)
        assert session.unacknowledged <= session._env.settings.send_window + c.RECORD_DATA_MAX
        for stream in mux.streams.values():
            assert 0 <= stream.receive_credit <= c.CREDIT_MAX
            assert 0 <= stream.send_credit <= 0x7FFFFFFF
            held += stream.queued + stream.unconsumed
        held += sum(len(chunk) for _, chunk in send._kept)
    assert link._env.budget.used == held
