"""A puppet that loses its carrier, and what a hub says to one that comes back."""

from __future__ import annotations

from hubtunnel.protocol.constants import Record
from hubtunnel.protocol.session import Phase, Session
from tests.protocol.puppet import Line, Puppet

ZEROS = bytes(48)


def lost(puppet: Puppet, *, hub_dials: bool) -> tuple[Line, Session, bytes]:
    """A session that was up and has lost its carrier: the old line, the session, its root."""
    line = puppet.up(hub_dials=hub_dials)
    session = line.session
    puppet.cut(line)
    assert session.phase is Phase.LOST
    return line, session, session.roots[session.index]


def refused(line: Line) -> bool:
    """RS10: status 0 was said and a new session begun on the line: HELLO follows, no RK1."""
    said = line.take()
    assert said[0] == (Record.RESUMED, b"\0" + line.puppet.hub.link._env.boot + ZEROS)
    assert Record.RK1 not in [kind for kind, _ in said]
    session = line.session
    assert (session.sid, session.index, session.initiator) == (line.established.sid, 0, False)
    assert session.roots == {0: line.established.root}
    assert b"test" in b"".join(data for kind, data in said if kind is Record.DATA)
    return True


def hub_received(session: Session) -> int:
    """How many bytes of the puppet's stream the hub has taken."""
    return session._count.offset
