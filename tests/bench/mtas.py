"""MTA to MTA: what a postmaster compares us with is Postfix's own STARTTLS with pinned fingerprints.

Two Postfixes in two namespaces. A backlog of messages waits in the near queue, then goes at once over one of the paths;
the queue costs the same on all of them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.bench.proxies import certificates
from tests.bench.runs import Effort, Notebook
from tests.bench.samples import Sample
from tests.bench.smtp import deliver
from tests.bench.ways import connected
from tests.e2e.carriers import text_of, tunnel_carrier
from tests.e2e.forward import LoopThread
from tests.e2e.lab import TUNNEL, Laboratory, laboratory
from tests.e2e.namespaces import ADDRESSES
from tests.e2e.postfix import SUBMIT
from tests.e2e.processes import missing, run, wait_until
from tests.faults.line import Quality, joined

PART = "mtas"
ROUNDS = 3
BACKLOG = 400
PROGRAMS = ("ip", "postfix", "postqueue", "postconf", "smtp-source", "openssl")
_CLEAR_PORT, _TLS_PORT = 2540, 2541

PATHS = {
    "clear": "Postfix to Postfix, in clear",
    "starttls": "Postfix to Postfix, STARTTLS, pinned fingerprints both ways",
    "hubtunnel": "Postfix through hubtunnel, with the PROXY header",
}


def lacking() -> str:
    """Why it cannot be measured here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root for network namespaces and Postfix"
    absent = missing(PROGRAMS)
    return f"not installed: {', '.join(absent)}" if absent else ""


def measure(effort: Effort, notebook: Notebook) -> None:
    """Messages a second from the moment the queue is let go until the last 250."""
    if reason := lacking():
        notebook.skipped[PART] = reason
        return
    count = max(50, round(BACKLOG * effort.share))
    paths = [path for path in PATHS if effort.pairs is None or path in effort.pairs]
    with _two_mtas() as lab:
        for number in range(effort.rounds or ROUNDS):
            turn = number % len(paths)
            for path in [*paths[turn:], *paths[:turn]]:
                notebook.write(Sample(PART, "backlog", path, number, {"messages_per_s": _backlog(lab, path, count)}))


@contextmanager
def _two_mtas() -> Iterator[Laboratory]:
    with ExitStack() as stack:
        lab = stack.enter_context(laboratory(mta=False))
        near, far = certificates(lab.directory)
        _configure_near(lab, near, far)
        _configure_far(lab, near, far)
        for site in (lab.a, lab.b):
            stack.callback(site.postfix.stop)
            site.postfix.start()
        for site in (lab.a, lab.b):
            site.postfix.wait_until_ready()
        carrier = stack.enter_context(tunnel_carrier(lab, loop_name="uvloop"))
        for hub in carrier.hubs:
            hub.wait_until_up()
        yield lab


def _configure_near(lab: Laboratory, own: Path, other: Path) -> None:
    tls = (
        f"smtp_tls_chain_files={own}",
        "smtp_tls_security_level=fingerprint",
        "smtp_tls_mandatory_protocols=>=TLSv1.3",
        "smtp_tls_fingerprint_digest=sha256",
        f"smtp_tls_fingerprint_cert_match={_fingerprint(other)}",
    )
    far = ADDRESSES[1]
    handover = f"[{TUNNEL[0]}]:{TUNNEL[1]}"
    lab.a.postfix.extend(
        {},
        [
            ("clear unix - - n - - smtp", ("smtp_tls_security_level=none",)),
            ("starttls unix - - n - - smtp", tls),
        ],
        {
            "clear.b.example": f"clear:[{far}]:{_CLEAR_PORT}",
            "starttls.b.example": f"starttls:[{far}]:{_TLS_PORT}",
            "hubtunnel.b.example": f"hubtunnel:{handover}",
        },
    )


def _configure_far(lab: Laboratory, near: Path, own: Path) -> None:
    pinned = lab.directory / "relay_clientcerts"
    pinned.write_text(f"{_fingerprint(near)} near\n")
    tls = (
        "smtpd_tls_security_level=encrypt",
        f"smtpd_tls_chain_files={own}",
        "smtpd_tls_mandatory_protocols=>=TLSv1.3",
        "smtpd_tls_ask_ccert=yes",
        "smtpd_tls_fingerprint_digest=sha256",
        f"relay_clientcerts=texthash:{pinned}",
        "smtpd_client_restrictions=permit_tls_clientcerts,reject",
    )
    listen = ADDRESSES[1]
    domains = " ".join(f"{path}.b.example" for path in PATHS)
    lab.b.postfix.extend(
        {
            "inet_interfaces": "all",
            "virtual_mailbox_domains": domains,
            "virtual_transport": "discard:",
            "smtpd_relay_restrictions": "reject_unauth_destination",
        },
        [
            (f"{listen}:{_CLEAR_PORT} inet n - n - - smtpd", ("smtpd_tls_security_level=none",)),
            (f"{listen}:{_TLS_PORT} inet n - n - - smtpd", tls),
            ("discard unix - - n - - discard", ()),
        ],
        {},
    )


def _fingerprint(certificate: Path) -> str:
    text = run("openssl", "x509", "-in", str(certificate), "-noout", "-fingerprint", "-sha256")
    return text.strip().partition("=")[2]


def _backlog(lab: Laboratory, path: str, count: int) -> float:
    near = lab.a.postfix
    near.set_main("defer_transports", path)
    recipient = f"rcpt@{path}.b.example"
    load = ["smtp-source", "-s", "10", "-m", str(count), "-l", "10240", "-f", "load@a.example", "-t", recipient]
    run(*lab.a.namespace.argv([*load, text_of(SUBMIT)]), deadline=60)
    wait_until(lambda: len(near.queued()) == count, f"{count} messages in the queue", detail=lab.explain)
    before = _sent(near.log, path)
    near.set_main("defer_transports", "")
    began = time.perf_counter()
    near.flush()
    wait_until(
        lambda: _sent(near.log, path) - before >= count, f"{count} messages sent", deadline=60, detail=lab.explain
    )
    return count / (time.perf_counter() - began)


def _sent(log: str, path: str) -> int:
    return sum(f"@{path}.b.example>" in line and "status=sent (250" in line for line in log.splitlines())


class _Sink:
    """Takes everything."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return "250 2.0.0 kept"


def starttls_delivery(round_trip: float, rounds: int, notebook: Notebook) -> None:
    """One message over a distance from smtplib to a server of TLS 1.3, nothing between them but the line."""
    if reason := lacking():
        notebook.skipped["delivery: starttls"] = reason
        return
    with ExitStack() as stack:
        near, far, _ = stack.enter_context(joined(Quality(delay=round_trip / 2)))
        own = certificates(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubtunnel-bench-"))))[1]
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.minimum_version = ssl.TLSVersion.TLSv1_3
        tls.load_cert_chain(own)
        thread = stack.enter_context(LoopThread())
        listener = far.listen(ADDRESSES[1], _TLS_PORT)
        thread.run(_serve(listener, tls))
        stack.callback(listener.close)
        context = ssl.create_default_context(cafile=str(own))
        for number in range(rounds):
            seconds = deliver(lambda: connected(f"{ADDRESSES[1]}:{_TLS_PORT}", near), 1000, context)
            values = {"round_trips": seconds / round_trip}
            notebook.write(Sample("delivery", "delivery", "starttls", number, values))


async def _serve(listener: socket.socket, tls: ssl.SSLContext) -> None:
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: SMTP(_Sink(), tls_context=tls, require_starttls=True, loop=loop), sock=listener)
