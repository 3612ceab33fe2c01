"""The laboratory: two hubs in two network namespaces, each with its own Postfix; carriers.py joins them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.e2e.forward import Address
from tests.e2e.letters import Letter, expected_arrivals, read_arrival
from tests.e2e.namespaces import Namespace, two_namespaces
from tests.e2e.postfix import INBOUND, SUBMIT, Postfix
from tests.e2e.processes import wait_until
from tests.e2e.smtp_client import SmtpClient

TUNNEL = ("127.0.1.2", 24)
"""Where each hub's MTA hands over mail for the other hub."""

TRANSPORTS = {"": "hubtunnel", "single.": "hubtunnel-single", "kept.": "hubtunnel-kept"}
"""What stands before a site's domain -> the transport that carries mail for it."""

SUBMITTERS = 4
"""Connections by which letters are handed to one MTA at once."""

_TROUBLE = ("lost connection", "timeout", "timed out", "deferred", "bounced", "hubtunnel:", "warning:", "fatal:")
"""What a postmaster reads in the log when a session noticed anything."""

_NO_TROUBLE = ("file system clock is", "resetting file time stamps", "not updating queue file time stamps")
"""Warnings about this machine's clocks."""


@dataclass(frozen=True, slots=True)
class Site:
    """One hub's side of the laboratory."""

    namespace: Namespace
    postfix: Postfix
    domain: str

    @property
    def domains(self) -> tuple[str, ...]:
        """All of the site; the other one reaches them by transports that differ in how they use connections."""
        return tuple(prefix + self.domain for prefix in TRANSPORTS)


@dataclass(frozen=True, slots=True)
class Laboratory:
    directory: Path
    a: Site
    b: Site

    def submit(self, site: Site, letters: Sequence[Letter]) -> None:
        """Hand letters to a site's MTA over several connections at once; returns when it has taken all of them."""

        def some(part: Sequence[Letter]) -> None:
            with SmtpClient(site.namespace, SUBMIT) as client:
                for letter in part:
                    client.deliver_pipelined(letter)

        with ThreadPoolExecutor(SUBMITTERS) as pool:
            list(pool.map(some, [letters[start::SUBMITTERS] for start in range(SUBMITTERS)]))

    def wait_for_arrivals(self, site: Site, letters: Iterable[Letter], *, deadline: float = 45.0) -> None:
        """Until as many files are there as there are recipients, and no queue holds anything any more."""
        expected = expected_arrivals(letters).total()
        wait_until(
            lambda: site.postfix.delivered_count() >= expected,
            f"{expected} files in the maildir of {site.postfix.hostname}",
            deadline=deadline,
            detail=self.explain,
        )
        wait_until(lambda: not self.queued(), "empty queues", deadline=deadline, detail=self.explain)

    def wait_until_quiet(self) -> None:
        """Until the MTAs have ended all their SMTP sessions, those included that they keep a while for more mail."""
        for site in (self.a, self.b):
            for address in (TUNNEL, INBOUND):
                wait_until(
                    partial(_nobody_at, site.namespace, address),
                    f"no connection at {address} of {site.postfix.hostname}",
                )

    def queued(self) -> list[str]:
        return self.a.postfix.queued() + self.b.postfix.queued()

    def arrivals(self, site: Site) -> Counter[object]:
        return Counter(map(read_arrival, site.postfix.delivered()))

    def trouble(self) -> list[str]:
        """Lines of both mail logs that tell of a session that noticed something."""
        lines = (self.a.postfix.log + self.b.postfix.log).splitlines()
        return [line for line in lines if _tells(line, _TROUBLE) and not _tells(line, _NO_TROUBLE)]

    def explain(self) -> str:
        """For a failure's text: what waits, and what the logs complain of."""
        return "\n".join(["queued:", *self.queued()[:20], "log:", *self.trouble()[:40]])


@contextmanager
def laboratory(*, mta: bool = True) -> Iterator[Laboratory]:
    """Namespaces and MTAs, up and running unless `mta` is false; all gone at the end."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubtunnel-lab-")))
        # Postfix's processes, which run as users of their own, must pass.
        directory.chmod(0o711)
        namespaces = stack.enter_context(two_namespaces())
        sites = [
            _site(namespace, directory / letter, own=f"{letter}.example", other=f"{other}.example")
            for namespace, letter, other in zip(namespaces, "ab", "ba", strict=True)
        ]
        for site in sites if mta else ():
            stack.callback(site.postfix.stop)
            site.postfix.start()
        for site in sites if mta else ():
            site.postfix.wait_until_ready()
        yield Laboratory(directory, *sites)


def _site(namespace: Namespace, directory: Path, *, own: str, other: str) -> Site:
    handover = f"[{TUNNEL[0]}]:{TUNNEL[1]}"
    postfix = Postfix(
        namespace,
        directory / "postfix",
        hostname=f"mx.{own}",
        domains=tuple(prefix + own for prefix in TRANSPORTS),
        routes={prefix + other: f"{transport}:{handover}" for prefix, transport in TRANSPORTS.items()},
    )
    return Site(namespace, postfix, own)


def _tells(line: str, signs: tuple[str, ...]) -> bool:
    return any(sign in line for sign in signs)


def _nobody_at(namespace: Namespace, address: Address) -> bool:
    return namespace.established(*address) == 0
