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


@pytest.mark.parametrize("sender", SENDERS)
def test_a_peer_is_no_relay_user(ring: Laboratory, sender: str) -> None:
    """Through the tunnel to the stock configuration with the recipe in it: its own user, and nobody elsewhere."""
    here, there = _pair(ring, sender)
    with SmtpClient(here.namespace, (here.peers[there.name], 24)) as client:
        for recipient in (
            f"somebody@{FOREIGN}",
            f"somebody%{FOREIGN}@{there.name}",
            f"{FOREIGN}!somebody@{there.name}",
            f'"somebody@{FOREIGN}"@{there.name}',
            f"@{there.name}:somebody@{FOREIGN}",
        ):
            client.send(f"MAIL FROM:<{here.user}>\r\n".encode())
            client.expect("250")
            client.send(f"RCPT TO:<{recipient}>\r\n".encode())
            reply = client.expect("")
            client.send(b"RSET\r\n")
            client.expect("250")
            assert reply[0] in "45", f"{there.name} took {recipient}: {reply}"
        client.send(f"MAIL FROM:<{here.user}>\r\n".encode())
        client.expect("250")
        client.send(f"RCPT TO:<{there.user}>\r\n".encode())
        client.expect("250")


@pytest.mark.parametrize("recipient", SENDERS)
def test_a_peers_domain_is_refused_in_clear(ring: Laboratory, recipient: str) -> None:
    """Port 25, from another host: the peer's domain is refused, any other is not."""
    there = ring.site(recipient)
    there.accept_from_anywhere()
    peer = next(iter(there.peers))
    with SmtpClient(ring.switch, (there.namespace.address, 25)) as client:
        for domain, code in ((peer, "5"), (ring.switch_name, "250")):
            client.send(f"MAIL FROM:<somebody@{domain}>\r\n".encode())
            reply = client.expect("")
            if reply.startswith("250"):
                client.send(f"RCPT TO:<{there.user}>\r\n".encode())
                reply = client.expect("")
            assert reply.startswith(code), f"from {domain}: {reply}"
            if domain == peer:
                assert "hubtunnel" in reply, reply
            client.send(b"RSET\r\n")
            client.expect("250")
