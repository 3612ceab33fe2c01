"""Mail in a peer's name that comes in clear, on port 25 of this host's own addresses, has to be refused."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hubtunnel.config import Config, Peer
from hubtunnel.daemon import proxy
from hubtunnel.mta.conversation import FOREIGN, SMTP_PORT, ConversationError, Door, conversation
from hubtunnel.mta.findings import Finding, Verdict, proved, unknown, wrong

_CHECK = "refused in clear"
_AT_ONCE = 8
ADDRESSES_MAX = 16
"""Of this host, that are looked at: a mail server seldom differs between more."""

_NET = Path("/proc/self/net")
_WORST_FIRST = (Verdict.WRONG, Verdict.UNKNOWN, Verdict.PROVED)

_Reply = tuple[int, str] | ConversationError


def refused_in_clear(peers: Iterable[Peer], config: Config) -> Iterator[Finding]:
    """For each domain of each peer, at every address of this host whose port 25 answers; mail servers may have a
    listener of its own for each, with rules of its own."""
    domains = [domain for peer in peers for domain in peer.domains]
    if not domains:
        return
    own = own_addresses()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = pool.map(_answers, own[:ADDRESSES_MAX])
        listeners = [_Listener(address, config.name) for address, does in zip(own, answers, strict=False) if does]
        if len(own) > ADDRESSES_MAX:
            yield unknown(_CHECK, "port 25", f"{ADDRESSES_MAX} of this host's {len(own)} addresses were looked at")
        elif not listeners:
            yield proved(_CHECK, "port 25", "nothing listens on port 25 of this host's own addresses")
        telling = []
        for listener, trusts in zip(listeners, pool.map(_Listener.trusts_this_host, listeners), strict=True):
            if trusts:
                # OpenSMTPD and sendmail take their host's own address for local, and no rule for others applies.
                text = (
                    f"the mail server trusts {listener.address}, this host's own: from here nothing can be seen of it"
                )
                cure = "from another host, MAIL FROM a peer's domain at port 25 has to be refused"
                yield unknown(_CHECK, "port 25", text, cure)
            else:
                telling.append(listener)
        found = [list(pool.map(listener.asked, (FOREIGN, *domains))) for listener in telling]
    for number, domain in enumerate(domains, 1):
        judged = [_judged(domain, each, found[i][number], found[i][0]) for i, each in enumerate(telling)]
        if judged:
            yield _worst(judged)


@dataclass(frozen=True, slots=True)
class _Listener:
    """Port 25 of one address, asked from that address itself, which is not loopback."""

    address: str
    hub: str

    def __str__(self) -> str:
        return f"[{self.address}]:{SMTP_PORT}"

    def asked(self, domain: str, recipient: str = "") -> _Reply:
        """What is said to mail from that domain's postmaster, for this host's own."""
        try:
            with conversation(Door(self.address, SMTP_PORT, source=self.address)) as session:
                return session.asked(f"postmaster@{domain}", recipient or f"postmaster@{self.hub}")
        except ConversationError as exc:
            return exc

    def trusts_this_host(self) -> bool:
        """Whether it would relay for this host's own address."""
        reply = self.asked(FOREIGN, f"somebody@{FOREIGN}")
        return not isinstance(reply, ConversationError) and reply[0] // 100 == 2


def _judged(domain: str, where: _Listener, reply: _Reply, control: _Reply) -> Finding:
    """`control` is the reply to mail from elsewhere, without which a refusal shows nothing."""
    if isinstance(reply, ConversationError):
        return unknown(_CHECK, domain, f"{where}: {reply}")
    code, text = reply
    if code // 100 == 2:
        cure = "whoever stands between can send as the peer: `hubtunnel mta NAME` prints the rule that refuses it"
        return wrong(_CHECK, domain, f"{where} takes mail from {domain}: {code} {text}", cure)
    if code // 100 == 5 and not isinstance(control, ConversationError) and control[0] // 100 == 2:
        return proved(_CHECK, domain, f"{where}: {code} {text}; from elsewhere mail is taken")
    said = str(control) if isinstance(control, ConversationError) else f"{control[0]} {control[1]}"
    return unknown(_CHECK, domain, f"{where}: {code} {text}; but from {FOREIGN} it is no better: {said}")


def _worst(findings: Sequence[Finding]) -> Finding:
    """One row for a domain: its worst, and at how many more addresses it is no better."""
    worst = min(findings, key=lambda finding: _WORST_FIRST.index(finding.verdict))
    alike = [finding for finding in findings if finding.verdict == worst.verdict]
    if len(alike) == 1:
        return worst
    more = f"{worst.text} (and so at {len(alike) - 1} more of this host's addresses)"
    return Finding(worst.check, worst.about, worst.verdict, more, worst.cure)


def own_addresses(net: Path = _NET) -> list[str]:
    """Every address of this host, by the kernel's own tables, but for loopback and those of one link alone.

    `net` is the folder of these tables (proc(5)). A table that is not there is one of a family that is not spoken.
    """
    found: list[str] = []
    with suppress(OSError):
        for before, line in pairwise((net / "fib_trie").read_text().splitlines()):
            if line.strip() == "/32 host LOCAL":
                found.append(before.rpartition(" ")[2])
    with suppress(OSError):
        lines = (net / "if_inet6").read_text().splitlines()
        found += [str(ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))) for line in lines]
    return [each for each in dict.fromkeys(found) if not proxy.misleads(each) and not _of_a_link(each)]


def _of_a_link(address: str) -> bool:
    return ipaddress.ip_address(address).is_link_local


def _answers(address: str) -> bool:
    try:
        socket.create_connection((address, SMTP_PORT), timeout=5.0, source_address=(address, 0)).close()
    except OSError:
        return False
    return True
