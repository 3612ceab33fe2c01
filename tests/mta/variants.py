"""Arrangements besides two hubs with IPv4: `python -m tests.mta.variants [--out FILE]`, as root.

*IPv6 alone*: no host has an IPv4 address but on loopback, and mail is handed over and taken at ::1 wherever a mail
server can. Every one of them sends and receives.

*Branch offices*: each mail server is that of a branch, whose only peer is the head office, by `--smarthost`. Its mail
for elsewhere has to come to a third host, with which it has nothing in common, from the head office; the head office
relays for a branch by the line of docs/MTA.md, for its own domain and for nobody else's.

The result that is committed was made so.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.e2e.letters import Letter
from tests.e2e.processes import wait_until
from tests.e2e.smtp_client import SmtpClient
from tests.mta import post, servers
from tests.mta.kept import RESULTS, keep, version_of
from tests.mta.lab import Laboratory, Site, laboratory

RESULT = RESULTS / "variants.json"
LETTERS = 10
ROUNDS = 12
EVERY = 10.0
"""Seconds between two runs of a queue: under load sendmail leaves all mail to them."""

_Found = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT)
    out: Path = parser.parse_args(arguments).out
    began = time.monotonic()
    six, versions = _six()
    variants = {"ipv6_alone": six, "branch_offices": _branches()}
    seconds = keep(out, began, versions, {"letters_each": LETTERS, **variants})
    wrong = [
        f"{variant}: {name}: {found}"
        for variant, each in variants.items()
        for name, found in each.items()
        if found["identical"] != LETTERS or not all(found.values())
    ]
    print("\n".join(wrong) or f"all in {seconds} s")
    return 1 if wrong else 0


def _sent(here: Site, there: Site) -> list[Letter]:
    those = post.letters(here, there, LETTERS)
    post.submit(here, those)
    return those


def _identical(here: Site, there: Site, those: Sequence[Letter], lab: Laboratory) -> int:
    """How many arrived as they were, once all are there or nothing more comes."""
    names = {letter.id for letter in those}
    for _ in range(ROUNDS):
        with suppress(AssertionError):
            wait_until(
                lambda: names <= {name for name, _ in post.arrived(there)}, "all", deadline=EVERY, detail=lab.explain
            )
            break
        here.flush()
    found = Counter({each: times for each, times in post.arrived(there).items() if each[0] in names})
    return (found & post.expected(those)).total() if found <= post.expected(those) else 0


def _six() -> tuple[dict[str, _Found], dict[str, str]]:
    """Pairs, since ::1 is one address: a hub has one peer there."""
    named = [(server, f"mx.{server.name}.example") for server in servers.ALL]
    with laboratory(named, lambda sites: list(zip(sites[::2], sites[1::2], strict=True)), six=True) as lab:
        found = {}
        for here in lab.sites:
            there = next(site for site in lab.sites if site.name in here.peers)
            assert here.status()["peers"][0]["carriers"][0]["endpoint"].startswith("[2001:db8:")
            found[here.server.name] = {
                "to": there.server.name,
                "handed_over_at": "[::1]:24",
                "taken_at": here.inlet(26),
                "identical": _identical(here, there, _sent(here, there), lab),
            }
        return found, {site.server.name: version_of(site) for site in lab.sites}


def _branches() -> dict[str, _Found]:
    head_name = "mx.head.example"
    branches = [(server, f"mx.{server.name}.example") for server in servers.ALL]
    others = [(servers.POSTFIX, head_name), (servers.POSTFIX, "mx.elsewhere.example")]
    options = {name: ("--smarthost", head_name) for _, name in branches}
    half = len(branches)
    with laboratory(
        [*branches, *others], lambda sites: [(branch, sites[half]) for branch in sites[:half]], options=options
    ) as lab:
        head, elsewhere = lab.sites[half:]
        for number, branch in enumerate(lab.sites[:half], 26):
            _relay_for(head, branch, f"127.0.0.1:{number}")
        # As Debian's own script does before it starts Postfix, whose client is in a chroot.
        head.machine.run("cp", "/etc/resolv.conf", "/var/spool/postfix/etc/")
        head.machine.run("postfix", "reload")
        return {branch.server.name: _branch(branch, head, elsewhere, lab) for branch in lab.sites[:half]}


def _relay_for(head: Site, branch: Site, inlet: str) -> None:
    """As docs/MTA.md has it."""
    permit = f"check_sender_access,inline:{{{branch.name}=permit}},reject_unauth_destination"
    head.machine.run("postconf", "-P", f"{inlet}/inet/smtpd_relay_restrictions={permit}")


def _branch(branch: Site, head: Site, elsewhere: Site, lab: Laboratory) -> _Found:
    those = _sent(branch, elsewhere)
    identical = _identical(branch, elsewhere, those, lab)
    names = {letter.id for letter in those}
    messages = [message for message in elsewhere.mailbox() if post.without_trace(message)[0] in names]
    with SmtpClient(branch.namespace, (branch.peers[head.name], 24)) as client:
        client.send(b"MAIL FROM:<somebody@stranger.example>\r\n")
        client.expect("250")
        client.send(f"RCPT TO:<{elsewhere.user}>\r\n".encode())
        reply = client.expect("")
    return {
        "identical": identical,
        "by_the_head_office": all(f"from {head.name} ".encode() in message for message in messages),
        "another_sender_refused": reply[:1] in ("4", "5"),
    }


if __name__ == "__main__":
    raise SystemExit(main())
