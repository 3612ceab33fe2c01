"""Letters through real mail servers, and what of each must be found again at the other end."""

from __future__ import annotations

import hashlib
import itertools
import quopri
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from hubtunnel.daemon.hooks import SETTLE
from tests.e2e.letters import Letter, make_letter
from tests.e2e.processes import wait_until
from tests.e2e.smtp_client import SmtpClient
from tests.mta.lab import Laboratory, Site, astray

_TRACE = (
    b"return-path:", b"received:", b"delivered-to:", b"x-original-to:", b"envelope-to:", b"delivery-date:",
    b"x-hubtunnel-peer:", b"x-authentication-warning:", b"received-spf:",
)  # fmt: skip
_NAME = b"X-Letter: "
IN_ONE_SESSION = 5


def letters(sender: Site, recipient: Site, count: int) -> list[Letter]:
    """Mixed sizes and kinds: dots, 8 bits, quoted-printable, attachments, long lines, no body, up to 600 kB."""
    made = []
    for number in range(count):
        name = f"{sender.server.name}.{recipient.server.name}.{number}"
        letter = make_letter(name, shape=number, sender_domain=sender.name, domain=recipient.name)
        made.append(replace(letter, sender=sender.user, recipients=(recipient.user,)))
    return made


def submit(site: Site, those: Sequence[Letter]) -> None:
    """As users' programs do: over SMTP on loopback, a few messages in one session.

    Of more than ten in one session Exim leaves the rest to its next queue run (smtp_accept_queue_per_connection).
    """
    for start in range(0, len(those), IN_ONE_SESSION):
        with SmtpClient(site.namespace, site.submission) as client:
            for letter in those[start : start + IN_ONE_SESSION]:
                client.deliver(letter)


def without_trace(message: bytes) -> tuple[str, str]:
    """A delivered message's letter id and digest, without the headers that mail servers put in front; ("", ...) when
    it is no letter."""
    rest = message.replace(b"\r\n", b"\n")
    while rest.lower().startswith(_TRACE):
        end = rest.index(b"\n") + 1
        while rest[end : end + 1] in (b" ", b"\t"):
            end = rest.index(b"\n", end) + 1
        rest = rest[end:]
    rest = _as_it_was(rest)
    name = ""
    if rest.startswith(_NAME):
        name = rest[len(_NAME) : rest.index(b"\n")].decode()
    return name, hashlib.sha256(rest).hexdigest()


def _as_it_was(message: bytes) -> bytes:
    """sendmail's stock local delivery decodes quoted-printable, ends the last line twice and says what it did: encoded
    again, it must be the letter."""
    said = re.search(rb"^X-MIME-Autoconverted: from quoted-printable to 8bit by .*\n", message, re.MULTILINE)
    if said is None:
        return message
    headers, _, body = message.replace(said[0], b"", 1).partition(b"\n\n")
    headers = headers.replace(b"Content-Transfer-Encoding: 8bit", b"Content-Transfer-Encoding: quoted-printable")
    return headers + b"\n\n" + quopri.encodestring(body.removesuffix(b"\n"))


def expected(those: Iterable[Letter]) -> Counter[tuple[str, str]]:
    return Counter((letter.id, letter.digest) for letter in those)


def arrived(site: Site) -> Counter[tuple[str, str]]:
    """The letters in a site's mailbox; bounces and whatever else is no letter are left out."""
    return Counter(found for found in map(without_trace, site.mailbox()) if found[0])


def wait_for(site: Site, those: Sequence[Letter], *, lab: Laboratory, deadline: float = 60.0) -> None:
    """Until all of them are in the mailbox; what is there then is for `arrived`."""
    names = {letter.id for letter in those}
    wait_until(
        lambda: names <= {name for name, _ in map(without_trace, site.mailbox())},
        f"{len(names)} letters at {site.name}",
        deadline=deadline,
        detail=lambda: f"there: {sorted(name for name, _ in arrived(site))}\n{lab.explain()}",
    )


def bounces(site: Site) -> list[bytes]:
    """Messages in the mailbox that an MTA wrote, and not a letter of ours, though they may hold one."""
    return [message for message in site.mailbox() if not without_trace(message)[0]]


def provoke_a_bounce(here: Site, there: Site, *, lab: Laboratory, deadline: float = 40.0) -> None:
    """A message to an alias that leads back to nobody; the bounce must come from `there`, through the tunnel."""
    (letter,) = letters(here, there, 1)
    letter = _named(letter, f"bounce.{letter.id}")
    submit(here, [replace(letter, recipients=(f"{astray(here.name)}@{there.name}",))])
    (bounce,) = wait_until(
        lambda: [bounce for bounce in bounces(here) if letter.id.encode() in bounce],
        f"a bounce at {here.name}",
        deadline=deadline,
        detail=lab.explain,
    )
    head = bounce.replace(b"\r\n", b"\n").partition(b"\n\n")[0].decode()
    assert re.search(rf"(from |helo=){there.name}", head), head
    wait_until(here.queue_empty, f"an empty queue at {here.name}", detail=lab.explain, deadline=deadline)


@dataclass(frozen=True)
class Outage:
    """What an outage of a peer looked like from one sender. Times in seconds."""

    down: float
    """From when the sender's daemon had noticed until it had a session again."""
    letters: int
    """For the peer that was down, all of which arrived."""
    back: float
    """From the new session until the last of them was there."""
    others_slowest: float
    """Of letters to another peer meanwhile, from submission to mailbox."""
    reason: str
    """What the sender's postmaster read."""


def outage(
    here: Site, there: Site, other: Site, *, lab: Laboratory, stop: Callable[[], None], start: Callable[[], None],
    seconds: float = SETTLE + 1, every: float = 30.0, reason: str = "ref",
) -> Outage:  # fmt: skip
    """The peer `there` goes down: the reason stands where the sender's postmaster looks, mail to `other` does not wait,
    nothing bounces, and once the peer is back the hook has all of it there, whatever the sender's own clock says.

    `stop` and `start` are for its daemon; while it is down mail is sent every so many seconds. `reason` is how the
    reason begins: `refused` in whole is more than sendmail's listing has room for.
    """
    before = len(bounces(here))
    waiting: list[Letter] = []
    slowest = 0.0
    stop()
    try:
        wait_until(lambda: here.peer_state(there) != "up", "the peer to be noticed as gone")
        began = time.monotonic()
        for number in itertools.count():
            those = [_named(letter, f"down{number}.{letter.id}") for letter in letters(here, there, 2)]
            between = [_named(letter, f"other{number}.{letter.id}") for letter in letters(here, other, 1)]
            submit(here, [*those, *between])
            waiting += those
            submitted = time.monotonic()
            wait_for(other, between, lab=lab, deadline=30)
            slowest = max(slowest, time.monotonic() - submitted)
            if number == 0:
                here.flush()  # under load sendmail tries nothing before its next queue run
                line = f"421 4.4.1 hubtunnel: {there.name}: {reason}"
                said = wait_until(
                    partial(_line_with, line, here), f"the reason at {here.name}", deadline=30, detail=here.explain
                )
            left = began + seconds - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, every))  # an outage is time that passes
    finally:
        start()
    wait_until(lambda: here.peer_state(there) == "up", "the peer to be back", deadline=60, detail=here.explain)
    up = time.monotonic()
    wait_for(there, waiting, lab=lab, deadline=60)
    back = time.monotonic() - up
    assert arrived(there) & expected(waiting) == expected(waiting)
    wait_until(here.queue_empty, f"an empty queue at {here.name}", detail=lab.explain)
    assert len(bounces(here)) == before
    return Outage(round(up - began, 1), len(waiting), round(back, 1), round(slowest, 1), said)


def _line_with(reason: str, site: Site) -> str:
    """The reason as far as that mail server shows it, folded as it may be; nothing where it is not there."""
    found = re.search(re.escape(reason) + r"[^)?]*", " ".join(site.where_reasons_stand().split()))
    return found[0] if found else ""


def flush_until(site: Site, done: Callable[[], object], *, lab: Laboratory) -> None:
    """More than once: for ten seconds after a failure OpenSMTPD counts mail as on its way and schedules nothing."""
    for _ in range(6):
        site.flush()
        try:
            wait_until(done, f"mail out of the queue of {site.name}", deadline=5, detail=lab.explain)
        except AssertionError:
            continue
        return
    wait_until(done, f"mail out of the queue of {site.name}", deadline=5, detail=lab.explain)


def _named(letter: Letter, name: str) -> Letter:
    """The letter under another name, which its content says too."""
    return replace(letter, id=name, content=letter.content.replace(letter.id.encode(), name.encode()))
