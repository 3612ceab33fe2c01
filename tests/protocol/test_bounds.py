"""Nothing that a peer with all the keys does makes a table of the core grow beyond its bound."""

from __future__ import annotations

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Code, Record
from hubtunnel.protocol.events import CarrierClosing, SessionEnded
from tests.protocol.puppet import Puppet


def test_sessions_whose_CLOSE_is_not_answered_do_not_pile_up() -> None:
    """RV9, CL3: each session too many is closed at once; of those, the oldest is given up long before its 60 s."""
    puppet = Puppet()
    for _ in range(c.SESSIONS_PER_LINK):
        puppet.up(hub_dials=False)
    for _ in range(100):
        line = puppet.line(hub_dials=False)
        line.send(Record.START, puppet.start_record())
        assert [data[0] for kind, data in line.take() if kind is Record.CLOSE] == [Code.LIMIT]
        assert len(puppet.hub.link.sessions) <= 2 * c.SESSIONS_PER_LINK
        assert len(puppet.hub.link.carriers) <= 2 * c.SESSIONS_PER_LINK
    ended = puppet.seen(SessionEnded)
    assert len(ended) == 100 - c.SESSIONS_PER_LINK
    assert not any(event.fault for event in puppet.seen(CarrierClosing) if isinstance(event, CarrierClosing))
    assert all(line.session.ready for line in puppet.lines[: c.SESSIONS_PER_LINK])
