"""Every mail server of Debian 12 once as sender and once as receiver, with the generated configuration and no other.

Six hubs stand in a ring, and each one's mail server sends to the next one's.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.processes import wait_until
from tests.e2e.smtp_client import SmtpClient
from tests.mta import post, servers
from tests.mta.lab import Laboratory, Site, laboratory

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

LETTERS = 20
SENDERS = [server.name for server in servers.ALL]


def _next(sites: list[Site]) -> list[tuple[Site, Site]]:
    return list(zip(sites, sites[1:] + sites[:1], strict=True))


@pytest.fixture(scope="module")
def ring(able: None) -> Iterator[Laboratory]:
    """All mail servers; one laboratory for all tests of this file, for it takes most of their time."""
    with laboratory([(server, f"mx.{server.name}.example") for server in servers.ALL], _next) as lab:
        yield lab


def _pair(ring: Laboratory, sender: str) -> tuple[Site, Site]:
    return next(pair for pair in _next(ring.sites) if pair[0].server.name == sender)


def test_letters_arrive_whole_and_queues_are_empty(ring: Laboratory) -> None:
    sent = {
        sender.name: (sender, recipient, post.letters(sender, recipient, LETTERS))
        for sender, recipient in _next(ring.sites)
    }
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda one: post.submit(one[0], one[2]), sent.values()))
    for _, recipient, those in sent.values():
        post.wait_for(recipient, those, lab=ring)
        assert post.arrived(recipient) & post.expected(those) == post.expected(those), recipient.name
        assert {name for name, _ in post.arrived(recipient)} == {letter.id for letter in those}
    for site in ring.sites:
        wait_until(site.queue_empty, f"an empty queue at {site.name}", detail=ring.explain)


FOREIGN = "elsewhere.example"


def _asked(client: SmtpClient, sender: str, recipient: str) -> str:
    """The reply to a recipient, or to the sender where that one is refused already."""
    client.send(f"MAIL FROM:<{sender}>\r\n".encode())
    reply = client.expect("")
    if reply.startswith("250"):
        client.send(f"RCPT TO:<{recipient}>\r\n".encode())
        reply = client.expect("")
    return reply


@pytest.mark.parametrize("sender", SENDERS)
def test_a_peer_is_no_relay_user(ring: Laboratory, sender: str) -> None:
    """Through the tunnel to the stock configuration with the recipe in it: its own user, and nobody elsewhere."""
    here, there = _pair(ring, sender)
    recipients = (
        there.user,
        f"somebody@{FOREIGN}",
        f"somebody%{FOREIGN}@{there.name}",
        f"{FOREIGN}!somebody@{there.name}",
        f'"somebody@{FOREIGN}"@{there.name}',
        f"@{there.name}:somebody@{FOREIGN}",
    )

    def taken(recipient: str) -> bool:
        with SmtpClient(here.namespace, (here.peers[there.name], 24)) as client:
            return _asked(client, here.user, recipient).startswith("250")

    # Each in a session of its own and all at once: some servers make a client wait after an error.
    with ThreadPoolExecutor(len(recipients)) as pool:
        assert list(pool.map(taken, recipients)) == [True, *[False] * (len(recipients) - 1)]


@pytest.mark.parametrize("recipient", [name for name in SENDERS if name != "courier"])
def test_a_peers_domain_is_refused_in_clear(ring: Laboratory, recipient: str) -> None:
    """Port 25, from another host: the peer's domain is refused, any other is not. (Courier has no such rule.)"""
    there = ring.site(recipient)
    there.accept_from_anywhere()
    peer = next(iter(there.peers))
    replies = []
    for domain in (peer, ring.switch_name):
        with SmtpClient(ring.switch, (there.namespace.address, 25)) as client:
            replies.append(_asked(client, f"somebody@{domain}", there.user))
    assert replies[0].startswith("5")
    assert replies[1].startswith("250")
