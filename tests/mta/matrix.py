"""Every mail server as the sender to every mail server, by command: `python -m tests.mta.matrix [--out FILE]`, as root.

Twelve hubs, six of which send and six of which receive: 20 letters of mixed size and kind for each pair, and a bounce.
(Peers that go down are for `tests.mta.outages`.) The result that is committed was made so.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.e2e.letters import Letter
from tests.e2e.processes import wait_until
from tests.mta import post, servers
from tests.mta.kept import RESULTS, keep, version_of
from tests.mta.lab import Laboratory, Site, laboratory

LETTERS = 20
EVERY = 20.0
"""Seconds between two runs of the queues."""

RESULT = RESULTS / "matrix.json"
BACKSCATTER = "dropped by Courier as backscatter (ESMTP_BLOCKBACKSCATTER, as Debian ships it)"
_Cell = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT)
    out: Path = parser.parse_args(arguments).out
    began = time.monotonic()
    sending = [(server, f"mx.{server.name}.example") for server in servers.ALL]
    receiving = [(server, f"mx.{server.name}-in.example") for server in servers.ALL]
    half = len(sending)
    with laboratory([*sending, *receiving], lambda sites: [(a, b) for a in sites[:half] for b in sites[half:]]) as lab:
        senders, recipients = lab.sites[:half], lab.sites[half:]
        cells = _letters(lab, senders, recipients)
        _bounces(lab, senders, recipients, cells)
        queues = {site.name: site.queue_empty() for site in lab.sites}
        versions = {site.server.name: version_of(site) for site in senders}
    found = {"letters_each": LETTERS, "cells": cells, "queues_empty": queues}
    seconds = keep(out, began, versions, found)
    wrong = [
        f"{sender} -> {recipient}: {cell}"
        for sender, row in cells.items()
        for recipient, cell in row.items()
        if cell["identical"] != LETTERS or cell["surplus"] or cell["bounce"] not in ("arrived", BACKSCATTER)
    ]
    wrong += [f"{name}: mail left in the queue" for name, empty in queues.items() if not empty]
    print("\n".join(wrong) or f"all of {half * half} pairs in {seconds} s")
    return 1 if wrong else 0


def _letters(lab: Laboratory, senders: list[Site], recipients: list[Site]) -> dict[str, dict[str, _Cell]]:
    sent = {(here.name, there.name): post.letters(here, there, LETTERS) for here in senders for there in recipients}

    def submit(here: Site) -> None:
        for there in recipients:
            post.submit(here, sent[here.name, there.name])

    for here in senders:  # one after the other: sendmail leaves mail to its queue runs while the load is high
        submit(here)
    _run_queues(lab, lambda: all(_there(there, sent) for there in recipients))
    cells: dict[str, dict[str, _Cell]] = {here.server.name: {} for here in senders}
    for there in recipients:
        for here in senders:
            those = sent[here.name, there.name]
            names = {letter.id for letter in those}
            found = Counter({each: n for each, n in post.arrived(there).items() if each[0] in names})
            cells[here.server.name][there.server.name] = {
                "letters": len(those),
                "bytes": sum(len(letter.content) for letter in those),
                "identical": (found & post.expected(those)).total(),
                "surplus": (found - post.expected(those)).total(),
            }
    for site in lab.sites:
        wait_until(site.queue_empty, f"an empty queue at {site.name}", detail=site.explain, deadline=120)
    return cells


def _there(site: Site, sent: Mapping[tuple[str, str], list[Letter]]) -> bool:
    names = {letter.id for (_, there), those in sent.items() if there == site.name for letter in those}
    return names <= {name for name, _ in post.arrived(site)}


def _run_queues(lab: Laboratory, done: Callable[[], bool], *, deadline: float = 240.0) -> None:
    """Until `done`, and run all queues now and then as every mail server does by itself, if not so soon.

    Exim leaves what comes behind the tenth message of a connection to its next run, sendmail what comes under load.
    """
    end = time.monotonic() + deadline
    while not done() and time.monotonic() < end:
        try:
            wait_until(done, "all letters", deadline=EVERY)
        except AssertionError:
            for site in lab.sites:
                site.flush()


def _bounces(lab: Laboratory, senders: list[Site], recipients: list[Site], cells: dict[str, dict[str, _Cell]]) -> None:
    def of(here: Site) -> None:
        for there in recipients:
            cells[here.server.name][there.server.name]["bounce"] = _bounce(lab, here, there)

    with ThreadPoolExecutor(len(senders)) as pool:
        list(pool.map(of, senders))


def _bounce(lab: Laboratory, here: Site, there: Site) -> str:
    if there.server.name == "courier":
        return BACKSCATTER
    try:
        post.provoke_a_bounce(here, there, lab=lab, deadline=90)
    except AssertionError as exc:
        return str(exc).partition("\n")[0]
    return "arrived"


if __name__ == "__main__":
    raise SystemExit(main())
