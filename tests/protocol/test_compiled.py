"""What holds of the core whether it was compiled or not; `.ci/run` runs all of tests/protocol both ways."""

from __future__ import annotations

import types

from hubtunnel import protocol
from hubtunnel.protocol.session import Session
from tests.protocol.support import connected


def test_it_is_known_which_of_the_two_runs() -> None:
    assert protocol.compiled() is not isinstance(Session.record, types.FunctionType)


def test_what_holds_keys_shows_none() -> None:
    """Carriers, sessions and the keys themselves: what a log line or a traceback may show of them."""
    pair, wire = connected()
    link, carrier = pair.a.link, wire.ends["A"]
    (session,) = link.sessions
    holders = (link, session, session._stepper, session._stepper.ratchet, carrier, carrier.sending, carrier.receiving)
    shown = "".join(f"{holder!r}{holder}" for holder in holders) + repr(carrier.established)
    assert carrier.sending is not None
    established = carrier.established
    for secret in (*session.roots.values(), established.t_send, established.t_receive, carrier.sending._t):
        assert len(secret) == 32
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
    assert repr(established.sid)[2:-1] in shown, "control: what is public is shown, so that the search can find"
