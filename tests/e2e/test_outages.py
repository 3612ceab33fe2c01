"""A peer that is away, a daemon that dies: mail waits in the MTA's own queue, and none is lost, halved or altered."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.e2e.carriers import tunnel_carrier
from tests.e2e.lab import TUNNEL, Laboratory
from tests.e2e.letters import expected_arrivals, make_letter, make_letters
from tests.e2e.processes import wait_until
from tests.e2e.smtp_client import SmtpClient, UnexpectedReplyError

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow]

LARGE = 7


def test_mail_waits_with_the_reason_beside_it(lab: Laboratory) -> None:
    """While the peer is down the queue says why; when it is back the mail goes, each letter once."""
    letters = make_letters(8, prefix="wait", sender_domain=lab.a.domain, domains=lab.b.domains)
    with tunnel_carrier(lab, loop_name="uvloop") as carrier:
        _, b = carrier.hubs
        assert b.stop() == 0
        lab.submit(lab.a, letters)
        wait_until(lambda: all(" deferred " in entry for entry in lab.queued()), "deferred mail", detail=lab.explain)
        waiting = lab.queued()
        assert len(waiting) == len(letters)
        assert [entry for entry in waiting if "421 4.4.1 hubtunnel: mx.b.example: refused" not in entry] == []
        assert lab.b.postfix.delivered_count() == 0

        b.start()
        b.wait_until_up()
        lab.a.postfix.flush()
        lab.wait_for_arrivals(lab.b, letters)
    assert lab.arrivals(lab.b) == expected_arrivals(letters)


@pytest.mark.parametrize("killed", ["near", "far"])
def test_a_killed_daemon_halves_no_message(lab: Laboratory, killed: str) -> None:
    """The session in the middle of a message breaks, its half message is never delivered, and all others arrive."""
    letters = make_letters(20, prefix="kill", sender_domain=lab.a.domain, domains=lab.b.domains)
    half = make_letter("half", shape=LARGE, sender_domain=lab.a.domain, domain=lab.b.domain)
    with tunnel_carrier(lab, loop_name="uvloop") as carrier:
        hub = carrier.hubs[0 if killed == "near" else 1]
        client = SmtpClient(lab.a.namespace, TUNNEL)
        rest = client.begin(half)
        lab.submit(lab.a, letters)
        hub.kill()
        hub.start()
        for each in carrier.hubs:
            each.wait_until_started()
        with pytest.raises((OSError, UnexpectedReplyError)):
            client.finish(rest)
        client.abort()
        hub.wait_until_up()
        wait_until(lambda: not any(" active " in entry for entry in lab.queued()), "no attempt", detail=lab.explain)
        lab.a.postfix.flush()
        lab.wait_for_arrivals(lab.b, letters)
        # The survivor keeps streams of the killed process for a while, and asked to stop it would wait for them.
        for each in carrier.hubs:
            each.kill()
    # What was taken while its 250 was on the way comes twice (RFC 5321, 4.5.3.2.6): SMTP itself promises no more.
    arrived = lab.arrivals(lab.b)
    assert Counter(set(arrived)) == expected_arrivals(letters)
