"""Ratchet steps by hand, between a hub and a puppet."""

from __future__ import annotations

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Record
from hubtunnel.protocol.ratchet import Ratchet
from tests.protocol.puppet import Line, Puppet

INTERVAL = c.RATCHET_INTERVAL_MIN


def answered(line: Line, roots: Ratchet) -> bytes:
    """What the hub, which dialled, says to RK2: RK3. The puppet then is in the new epoch and says one record."""
    puppet = line.puppet
    ((_, rk1),) = [said for said in line.take() if said[0] is Record.RK1]
    line.send(Record.RK2, puppet.answer(line, roots, rk1))
    record = line.reader.next()
    while record is not None and record[0] is not Record.RK3:
        record = line.reader.next()
    assert record is not None
    line.switch(roots.read_rk3(record[1][1:]))
    return record[1][1:]


def stepped(line: Line, roots: Ratchet) -> None:
    """A whole step with the puppet as initiator, up to the hub's first record of the new epoch."""
    puppet = line.puppet
    line.send(Record.RK1, puppet.offer(line, roots))
    (rk2,) = [data for kind, data in line.take() if kind is Record.RK2]
    rk3, secrets = puppet.confirm(line, roots, rk2)
    line.send(Record.RK3, rk3)
    line.switch(secrets)
    roots.turned()
    assert line.kinds() == [Record.PAD]


def idle_up(puppet: Puppet, *, hub_dials: bool) -> Line:
    """A session whose DATA of the beginning is old enough for any interval to be over, and acknowledged."""
    line = puppet.up(hub_dials=hub_dials)
    sent = line.session.unacknowledged
    line.send(Record.ACK, sent.to_bytes(8, "big"))
    puppet.advance(INTERVAL + 1)
    line.take()
    return line
