"""Every mail server of Debian 12 once as sender and once as receiver, with the generated configuration and no other.

Six hubs stand in a ring, and each one's mail server sends to the next one's.
"""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.e2e.processes import wait_until
from tests.e2e.smtp_client import SmtpClient
from tests.mta import post, servers
from tests.mta.lab import Laboratory, Site, next_to

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

LETTERS = 20
SENDERS = [server.name for server in servers.ALL]


def test_letters_arrive_whole_and_queues_are_empty(ring: Laboratory) -> None:
    sent = {
        sender.name: (sender, recipient, post.letters(sender, recipient, LETTERS))
        for sender, recipient in next_to(ring.sites)
    }
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda one: post.submit(one[0], one[2]), sent.values()))
    for _, recipient, those in sent.values():
        post.wait_for(recipient, those, lab=ring)
        names = {letter.id for letter in those}
        there = Counter({found: times for found, times in post.arrived(recipient).items() if found[0] in names})
        assert there == post.expected(those), recipient.name
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
    here, there = ring.pair(sender)
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


TELLS = ("postfix", "exim-heavy", "exim-light")
"""Those whose recipe has them write the authenticated peer into a header."""


@pytest.mark.parametrize("recipient", TELLS)
def test_the_mail_server_can_see_which_peer_was_authenticated(ring: Laboratory, recipient: str) -> None:
    """The topmost of these headers is the listener's; one that the message brought does not count."""
    there = ring.site(recipient)
    here = next(sender for sender, other in next_to(ring.sites) if other is there)
    forged = "X-Hubtunnel-Peer: mx.forged.example\r\n"
    (letter,) = post.letters(here, there, 1)
    letter = replace(letter, id="which.peer", content=forged.encode() + b"X-Which: peer\r\n" + letter.content)
    post.submit(here, [letter])
    wait_until(lambda: _with(there, b"X-Which: peer"), "the letter", detail=ring.explain)
    (message,) = _with(there, b"X-Which: peer")
    assert re.findall(rb"^X-Hubtunnel-Peer: (\S+)", message, re.MULTILINE)[0] == here.name.encode()


def _with(site: Site, sign: bytes) -> list[bytes]:
    return [message for message in site.mailbox() if sign in message]


@pytest.mark.parametrize("sender", [name for name in SENDERS if name not in ("sendmail", "courier")])
def test_a_bounce_comes_back_through_the_tunnel(ring: Laboratory, sender: str) -> None:
    """The recipient's server takes the message, finds that an alias leads nowhere, and writes a bounce to the sender.

    Not to sendmail, whose recipient is Courier: that drops what it calls backscatter, unless told otherwise. Courier
    as the sender takes its time, and is in the whole matrix only.
    """
    here, there = ring.pair(sender)
    post.provoke_a_bounce(here, there, lab=ring)


def test_while_a_peer_is_down_mail_waits_with_the_reason_and_then_arrives(ring: Laboratory) -> None:
    """Of one sender here, for the time it takes; of all of them, for minutes, by `python -m tests.mta.outages`."""
    there, here = ring.pair("exim-heavy")  # which dials: it is back as soon as it is started
    other = next(site for site in ring.sites if site.name in here.peers and site is not there)
    before = here.config.read_text()
    here.flush_by_hook()

    def start() -> None:
        there.start_daemon()
        there.wait_until_up()

    try:
        found = post.outage(here, there, other, lab=ring, stop=there.stop_daemon, start=start, reason="told: restart")
    finally:
        here.config.write_text(before)
        here.hubtunnel("reload")
    assert found.back < SOON


SOON = 15.0
"""Seconds from a peer's return until its mail is there; by itself Exim would wait for half an hour."""


@pytest.mark.parametrize("sender", [name for name in SENDERS if name != "sendmail"])
def test_a_listener_for_another_user_takes_nothing_from_the_mail_server(ring: Laboratory, sender: str) -> None:
    """Its own user is named in all other tests here, and mail goes; so that user it is. (sendmail is root.)"""
    here, there = ring.pair(sender)
    file = here.directory / "peers.d" / f"{there.name}.toml"
    before = file.read_text()
    user = here.machine.run("id", "-u", here.server.user).strip()
    (letter,) = post.letters(here, there, 1)
    letter = replace(letter, id="another.user", content=b"X-Another: user\r\n" + letter.content)
    file.write_text(before.replace(f'listen_users = ["{user}"]', 'listen_users = ["4711"]'))
    try:
        if here.namespace.established(here.peers[there.name], 24):  # Courier keeps connections, and they would serve
            here.stop_daemon()
            here.start_daemon()
            here.wait_until_up()
        else:
            here.hubtunnel("reload")
        post.submit(here, [letter])
        post.flush_until(here, lambda: _users_refused(here) == {user}, lab=ring)
        assert not _with(there, b"X-Another: user")
    finally:
        file.write_text(before)
        here.hubtunnel("reload")
    post.flush_until(here, lambda: _with(there, b"X-Another: user"), lab=ring)


def _users_refused(site: Site) -> set[str]:
    assert site.daemon is not None
    return set(re.findall(r" user_refused .* uid=(\d+)", site.daemon.log))
