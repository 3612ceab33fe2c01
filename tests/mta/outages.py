"""A peer of every mail server is down for minutes: `python -m tests.mta.outages [--minutes N] [--out FILE]`, as root.

Six hubs send, one of each mail server, to two peers; one of these goes down, and mail to it is sent all the while. The
reason has to stand where the sender's postmaster looks, mail to the other peer must not wait, nothing may bounce, and
once the peer is back the hook of `hubtunnel mta` has to bring all of it. The result that is committed was made so.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.mta import post, servers
from tests.mta.kept import RESULTS, keep, version_of
from tests.mta.lab import Laboratory, Site, laboratory

RESULT = RESULTS / "outages.json"
SOON = 30.0
"""Seconds within which all has to be there once the peer is back. Six queues are run on one machine."""


class Peer:
    """The one that goes down, for all senders at the same moment."""

    def __init__(self, site: Site, senders: int) -> None:
        self._site = site
        self._down = threading.Barrier(senders, action=site.stop_daemon)
        self._up = threading.Barrier(senders, action=site.start_daemon)

    def stop(self) -> None:
        self._down.wait(600)

    def start(self) -> None:
        self._up.wait(600)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    sending = [(server, f"mx.{server.name}.example") for server in servers.ALL]
    receiving = [(servers.POSTFIX, "mx.down.example"), (servers.POSTFIX, "mx.other.example")]
    half = len(sending)
    with laboratory([*sending, *receiving], lambda sites: [(a, b) for a in sites[:half] for b in sites[half:]]) as lab:
        senders, (down, other) = lab.sites[:half], lab.sites[half:]
        for sender in senders:
            sender.flush_by_hook()
        peer = Peer(down, half)

        def of(sender: Site) -> dict[str, Any] | str:
            return _outage(lab, sender, down, other, peer, options.minutes * 60)

        with ThreadPoolExecutor(half) as pool:
            found = dict(zip((site.server.name for site in senders), pool.map(of, senders), strict=True))
        versions = {site.server.name: version_of(site) for site in senders}
    seconds = keep(options.out, began, versions, {"minutes": options.minutes, "outages": found})
    wrong = [
        f"{name}: {each}"
        for name, each in found.items()
        if isinstance(each, str) or each["back"] > SOON or each["down"] < options.minutes * 60
    ]
    print("\n".join(wrong) or f"all of {half} mail servers in {seconds} s")
    return 1 if wrong else 0


def _outage(lab: Laboratory, sender: Site, down: Site, other: Site, peer: Peer, seconds: float) -> dict[str, Any] | str:
    try:
        return asdict(post.outage(sender, down, other, lab=lab, stop=peer.stop, start=peer.start, seconds=seconds))
    except AssertionError as exc:
        return str(exc).partition("\n")[0]


if __name__ == "__main__":
    raise SystemExit(main())
