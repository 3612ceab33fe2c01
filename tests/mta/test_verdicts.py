"""SPF, DKIM and DMARC say the same of mail through the tunnel as of mail that comes directly; the name server is the
laboratory's own. The control: without the PROXY header they say something else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from tests.e2e.letters import Letter
from tests.e2e.namespaces import Namespace
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


# And an administrator of Postfix: Debian's packages for SPF and DMARC. They refuse nothing, so that there is a verdict.
_POLICY = """\
debugLevel = 1
TestOnly = 1
HELO_reject = False
Mail_From_reject = False
skip_addresses = 127.0.0.0/8,::ffff:127.0.0.0/104,::1
"""
_DMARC = """\
AuthservID {name}
PublicSuffixList /usr/share/publicsuffix/public_suffix_list.dat
RejectFailures false
Socket inet:8893@127.0.0.1
SPFIgnoreResults true
SPFSelfValidate true
Syslog true
UserID opendmarc
"""
_JUDGES = """\
postconf -Me 'policyd-spf/unix=policyd-spf unix - n n - 0 spawn user=policyd-spf argv=/usr/bin/policyd-spf'
postconf -e 'smtpd_recipient_restrictions = check_policy_service unix:private/policyd-spf'
postconf -e 'smtpd_milters = inet:127.0.0.1:8893'
opendmarc -c /etc/opendmarc.conf
postfix reload
"""
_NO_JUDGES = """\
postconf -MX policyd-spf/unix
postconf -X smtpd_recipient_restrictions smtpd_milters
postfix reload
pkill -x opendmarc
"""


@dataclass(frozen=True)
class Checking:
    """A mail server that writes into each message what it thinks of its sender."""

    site: Site
    peer: Site
    """Who sends to it through the tunnel."""
    headers: str
    """Its verdicts, each a group."""
    without_proxy: str
    """What is to be changed of its `[deliver]` so that no header comes, and mail is taken all the same."""
    trusting: str
    """What it says of a sender that fails, when it is asked about a loopback address."""


@contextmanager
def _exim(ring: Laboratory) -> Iterator[Checking]:
    site = ring.site("exim-heavy")
    local = site.machine.path("/etc/exim4")
    (local / "local_rcpt_acl").write_text(_SPF)
    (local / "exim4.conf.localmacros").write_text("CHECK_RCPT_LOCAL_ACL_FILE = /etc/exim4/local_rcpt_acl\n")
    site.restart_server()
    headers = r"^X-SPF-Verdict: (\S+) (\S+)$"
    yield Checking(site, ring.site("postfix"), headers, 'source = "127.0.0.26"', "pass 127.0.0.26")
    (local / "exim4.conf.localmacros").unlink()
    site.restart_server()


@contextmanager
def _postfix(ring: Laboratory) -> Iterator[Checking]:
    site = ring.site("postfix")
    site.machine.path("/etc/postfix-policyd-spf-python/policyd-spf.conf").write_text(_POLICY)
    site.machine.path("/etc/opendmarc.conf").write_text(_DMARC.format(name=site.name))
    site.machine.sh(_JUDGES)
    dmarc = rf"^Authentication-Results: {re.escape(site.name)};\s+dmarc=(\w+)"
    headers = rf"{dmarc}.*^Received-SPF: (\w+).*client-ip=([\d.]+)|^X-Comment: (SPF .*?) -"
    yield Checking(
        site, ring.site("courier"), headers, 'address = "127.0.0.1:25"', "spf check n/a for local connections"
    )
    site.machine.sh(_NO_JUDGES)


@pytest.fixture(scope="module", params=[_exim, _postfix], ids=["exim", "postfix"])
def checking(ring: Laboratory, request: pytest.FixtureRequest) -> Iterator[Checking]:
    with request.param(ring) as server:
        yield server


def _arrived(site: Site, name: str, ring: Laboratory) -> bytes:
    sign = f"X-Letter: {name}\n".encode()
    (message,) = wait_until(
        lambda: [each for each in site.mailbox() if sign in each], f"{name} at {site.name}", detail=ring.explain
    )
    return message


def _verdict(checking: Checking, name: str, ring: Laboratory) -> str:
    message = _arrived(checking.site, name, ring).decode()
    found = re.search(checking.headers, message, re.MULTILINE | re.DOTALL)
    return " ".join(filter(None, found.groups())).lower() if found else ""


def _letter(name: str, sender: str, recipient: Site) -> Letter:
    content = f"X-Letter: {name}\r\nFrom: {sender}\r\nSubject: {name}\r\n\r\n{name}\r\n"
    return Letter(name, sender, (recipient.user,), content.encode())


def test_verdicts_are_the_same_through_the_tunnel(ring: Laboratory, checking: Checking) -> None:
    """The peer's own domain passes, as it does from its address; somebody else's fails, as it does from there."""
    here, there = checking.peer, checking.site
    tunnel, direct = (here.peers[there.name], 24), (there.namespace.address, 25)
    own, stranger = here.namespace.address, ring.switch.address
    for place, way, name, sender in (
        (here, direct, "direct.forged", _DIRECT_SENDER),
        (ring.switch, direct, "direct.own", _DIRECT_SENDER),
        (here, tunnel, "tunnel.forged", _DIRECT_SENDER),
        (here, tunnel, "tunnel.own", here.user),
    ):
        with SmtpClient(place if isinstance(place, Namespace) else place.namespace, way) as client:
            client.deliver(_letter(name, sender, there))
    passed, failed = (_verdict(checking, f"direct.{name}", ring) for name in ("own", "forged"))
    assert passed.endswith(f"pass {stranger}")
    assert failed.endswith(f"fail {own}")
    assert _verdict(checking, "tunnel.own", ring) == passed.replace(stranger, own)
    assert _verdict(checking, "tunnel.forged", ring) == failed


def test_without_the_proxy_header_verdicts_are_others(ring: Laboratory, checking: Checking) -> None:
    """The control: a sender that failed does not, since loopback is trusted whatever the sender."""
    here, there = checking.peer, checking.site
    file = there.directory / "peers.d" / f"{here.name}.toml"
    before = file.read_text()
    key = checking.without_proxy.partition(" ")[0]
    deliver = re.sub(rf"^{key} = .*\n", "", before.partition("[deliver]\n")[2], flags=re.MULTILINE)
    head = before.partition("[deliver]\n")[0]
    file.write_text(f'{head}[deliver]\n{deliver}proxy_protocol = "none"\n{checking.without_proxy}\n')
    there.hubtunnel("reload")
    try:
        with SmtpClient(here.namespace, (here.peers[there.name], 24)) as client:
            client.deliver(_letter("control", _DIRECT_SENDER, there))
        assert _verdict(checking, "control", ring) == checking.trusting
    finally:
        file.write_text(before)
        there.hubtunnel("reload")


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
