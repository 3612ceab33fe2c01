"""Real mail from a real Postfix to a real Postfix, both ways at once, through two daemons in two network namespaces."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.capture import Capture
from tests.e2e.conftest import Join
from tests.e2e.lab import TUNNEL, Laboratory, Site
from tests.e2e.letters import (
    NEEDLES,
    Letter,
    expected_arrivals,
    letters_readable_in,
    make_letters,
    readable_in,
)
from tests.e2e.smtp_client import SmtpClient

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow]

LETTERS_EACH_WAY = 200


def letters_both_ways(lab: Laboratory, count: int) -> tuple[list[Letter], list[Letter]]:
    """From A to B, and from B to A."""
    return (
        make_letters(count, prefix="a", sender_domain=lab.a.domain, domains=lab.b.domains),
        make_letters(count, prefix="b", sender_domain=lab.b.domain, domains=lab.a.domains),
    )


def sessions_received(site: Site) -> list[int]:
    """The number of messages of each SMTP session that ended at a site's inbound listener.

    A client that kept its connection for more mail than came ends it without QUIT; Postfix does.
    """
    ended = re.findall(r"postfix/hubtunnel/smtpd\[\d+\]: disconnect from \S+ .*\bmail=(\d+)", site.postfix.log)
    return [int(messages) for messages in ended]


def clients_seen(site: Site) -> set[str]:
    """The client addresses of all messages that a site's inbound listener took."""
    return set(re.findall(r"postfix/hubtunnel/smtpd\[\d+\]: [0-9A-Za-z]+: client=\S+\[(.*?)\]", site.postfix.log))


def test_letters_both_ways_at_once_arrive_whole_and_unreadable(lab: Laboratory, join_on_both_loops: Join) -> None:
    """Every letter once, whole, with its envelope; nothing of it on the wire, unless the wire is the plain control."""
    to_b, to_a = letters_both_ways(lab, LETTERS_EACH_WAY)
    with Capture(lab.a.namespace) as capture, join_on_both_loops(lab) as carrier:
        with ThreadPoolExecutor(2) as pool:
            for submitted in [pool.submit(lab.submit, lab.a, to_b), pool.submit(lab.submit, lab.b, to_a)]:
                submitted.result()
        lab.wait_for_arrivals(lab.b, to_b)
        lab.wait_for_arrivals(lab.a, to_a)
        lab.wait_until_quiet()
        carrier.wait_until_idle()

    assert lab.arrivals(lab.b) == expected_arrivals(to_b)
    assert lab.arrivals(lab.a) == expected_arrivals(to_a)
    assert lab.trouble() == []
    for site, other in ((lab.a, lab.b), (lab.b, lab.a)):
        assert clients_seen(site) == {other.namespace.address}
        sessions = sessions_received(site)
        assert min(sessions) == 1 < max(sessions), "sessions of one message and of many were both meant to happen"
        assert sum(sessions) == LETTERS_EACH_WAY

    streams = capture.streams()
    assert sum(map(len, streams)) > sum(len(letter.content) for letter in to_a + to_b)
    assert readable_in(streams) == (set() if carrier.secret else set(NEEDLES))
    assert letters_readable_in(streams) == (set() if carrier.secret else {letter.id for letter in to_a + to_b})


def test_a_client_straight_to_the_tunnel_may_use_all_of_smtp(lab: Laboratory, join: Join) -> None:
    """BDAT, pipelining and one command at a time; many messages in a session and one; a reply of the server to each."""
    to_b, to_a = letters_both_ways(lab, 48)
    with join(lab):
        for site, letters in ((lab.a, to_b), (lab.b, to_a)):
            with SmtpClient(site.namespace, TUNNEL) as client:
                assert {"PIPELINING", "CHUNKING", "8BITMIME", "SMTPUTF8"} <= client.extensions
                for letter in letters[:16]:
                    client.deliver_chunked(letter)
                for letter in letters[16:32]:
                    client.deliver_pipelined(letter)
            for letter in letters[32:]:
                with SmtpClient(site.namespace, TUNNEL) as client:
                    client.deliver(letter)
        lab.wait_for_arrivals(lab.b, to_b)
        lab.wait_for_arrivals(lab.a, to_a)

    assert lab.arrivals(lab.b) == expected_arrivals(to_b)
    assert lab.arrivals(lab.a) == expected_arrivals(to_a)
    assert lab.trouble() == []
    assert sorted(sessions_received(lab.b)) == [1] * 16 + [32]


def test_a_peer_is_no_relay_user(lab: Laboratory, join: Join) -> None:
    """The far MTA takes mail for its own domains and nothing else: the peer is a stranger to it."""
    (letter,) = make_letters(1, prefix="relay", sender_domain=lab.a.domain, domains=("elsewhere.example",))
    with join(lab), SmtpClient(lab.a.namespace, TUNNEL) as client:
        assert client.refused(letter).startswith("554 5.7.1")
    assert lab.arrivals(lab.b) == expected_arrivals([])
