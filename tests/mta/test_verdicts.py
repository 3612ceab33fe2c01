"""SPF and DKIM say the same of mail through the tunnel as of mail that comes directly; the name server is the
laboratory's own. The control: without the PROXY header SPF says something else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.e2e.letters import Letter
from tests.e2e.processes import wait_until
from tests.e2e.smtp_client import SmtpClient
from tests.mta import post
from tests.mta.lab import DKIM_SELECTOR, Laboratory, Site

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

# What an administrator of Exim adds who wants SPF's verdict in the message; the file is Debian's own hook for it.
_SPF = """\
warn
  spf = pass : fail : softfail : none : neutral : permerror : temperror
  add_header = X-SPF-Verdict: $spf_result $sender_host_address
"""
_DIRECT_SENDER = f"somebody@{Laboratory.switch_name}"


@pytest.fixture(scope="module")
def checking(ring: Laboratory) -> Iterator[Site]:
    """Exim with PROXY and SPF, which says in each message what it thinks of its sender."""
    site = ring.site("exim-heavy")
    local = site.machine.path("/etc/exim4")
    (local / "local_rcpt_acl").write_text(_SPF)
    (local / "exim4.conf.localmacros").write_text("CHECK_RCPT_LOCAL_ACL_FILE = /etc/exim4/local_rcpt_acl\n")
    site.restart_server()
    yield site
    (local / "exim4.conf.localmacros").unlink()
    site.restart_server()


def _arrived(site: Site, name: str, ring: Laboratory) -> bytes:
    sign = f"X-Letter: {name}\n".encode()
    (message,) = wait_until(
        lambda: [each for each in site.mailbox() if sign in each], f"{name} at {site.name}", detail=ring.explain
    )
    return message


def _verdict(site: Site, name: str, ring: Laboratory) -> str:
    found = re.search(rb"^X-SPF-Verdict: (.*)$", _arrived(site, name, ring), re.MULTILINE)
    assert found is not None
    return found[1].decode()


def _letter(name: str, sender: str, recipient: Site) -> Letter:
    content = f"X-Letter: {name}\r\nFrom: {sender}\r\nSubject: {name}\r\n\r\n{name}\r\n"
    return Letter(name, sender, (recipient.user,), content.encode())


def test_spf_says_the_same_through_the_tunnel(ring: Laboratory, checking: Site) -> None:
    """The peer's own domain passes, as it does from its address; somebody else's fails, as it does from there."""
    here = next(site for site in ring.sites if site.server.name == "postfix")
    tunnel = (here.peers[checking.name], 24)
    address = here.namespace.address
    with SmtpClient(here.namespace, (checking.namespace.address, 25)) as client:
        client.deliver(_letter("spf.direct.forged", _DIRECT_SENDER, checking))
    with SmtpClient(ring.switch, (checking.namespace.address, 25)) as client:
        client.deliver(_letter("spf.direct.own", _DIRECT_SENDER, checking))
    with SmtpClient(here.namespace, tunnel) as client:
        client.deliver(_letter("spf.tunnel.forged", _DIRECT_SENDER, checking))
        client.deliver(_letter("spf.tunnel.own", here.user, checking))
    assert _verdict(checking, "spf.direct.own", ring) == f"pass {ring.switch.address}"
    assert _verdict(checking, "spf.tunnel.own", ring) == f"pass {address}"
    assert _verdict(checking, "spf.direct.forged", ring) == f"fail {address}"
    assert _verdict(checking, "spf.tunnel.forged", ring) == f"fail {address}"


def test_without_the_proxy_header_spf_says_something_else(ring: Laboratory, checking: Site) -> None:
    """The control: what failed passes, since SPF trusts a loopback address whatever the sender."""
    here = next(site for site in ring.sites if site.server.name == "postfix")
    file = checking.directory / "peers.d" / f"{here.name}.toml"
    before = file.read_text()
    file.write_text(before + 'proxy_protocol = "none"\nsource = "127.0.0.26"\n')
    checking.hubtunnel("reload")
    try:
        with SmtpClient(here.namespace, (here.peers[checking.name], 24)) as client:
            client.deliver(_letter("spf.control", _DIRECT_SENDER, checking))
        assert _verdict(checking, "spf.control", ring) == "pass 127.0.0.26"
    finally:
        file.write_text(before)
        checking.hubtunnel("reload")


def test_a_dkim_signature_holds_through_the_tunnel(ring: Laboratory) -> None:
    """Signed by one Exim as Debian's configuration has it done, verified by the next; the control is a change."""
    signer = ring.site("exim-heavy")
    verifier = ring.pair("exim-heavy")[1]
    key = signer.machine.path("/etc/exim4/dkim.pem")
    key.write_bytes((ring.directory / "dkim.pem").read_bytes())
    signer.machine.sh("chown root:Debian-exim /etc/exim4/dkim.pem && chmod 640 /etc/exim4/dkim.pem")
    macros = signer.machine.path("/etc/exim4/exim4.conf.localmacros")
    before = macros.read_text() if macros.exists() else ""
    macros.write_text(
        before
        + f"DKIM_DOMAIN = {signer.name}\nDKIM_SELECTOR = {DKIM_SELECTOR}\nDKIM_PRIVATE_KEY = /etc/exim4/dkim.pem\n"
    )
    signer.restart_server()
    try:
        letter = _letter("dkim.held", signer.user, verifier)
        post.submit(signer, [letter])
        message = _arrived(verifier, letter.id, ring)
        signature = message[message.index(b"DKIM-Signature:") :]
        changed = signature.replace(b"\n", b"\r\n").replace(b"\r\n\r\ndkim.held", b"\r\n\r\nsomething else")
        with SmtpClient(signer.namespace, (signer.peers[verifier.name], 24)) as client:
            client.deliver(replace(letter, content=b"X-Letter: dkim.changed\r\n" + changed))
        _arrived(verifier, "dkim.changed", ring)
        # Exim names the signer of what it verified, and only of that, in the line of the message.
        assert len(re.findall(rf"<= .* DKIM={re.escape(signer.name)}", verifier.log())) == 1
    finally:
        macros.write_text(before)
        signer.restart_server()
