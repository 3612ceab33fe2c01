"""`hubtunnel doctor`: proves, live, that mail goes through the tunnel and nothing else does."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

from hubtunnel.cli.check import examine as check_everything
from hubtunnel.cli.common import ANSWER_IS_NO, DONE, add_json, load_readable, print_json, print_table
from hubtunnel.config import config_path
from hubtunnel.daemon.control import ControlUnavailable, request
from hubtunnel.mta import inspection
from hubtunnel.mta.catalogue import NAMES
from hubtunnel.mta.doctor import examine
from hubtunnel.mta.findings import Finding, Verdict, noted, wrong

_ORDER = (Verdict.PROVED, Verdict.NOTED, Verdict.UNKNOWN, Verdict.WRONG)


def register(commands: Any) -> None:
    """Add `doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="prove, live, that mail goes through the tunnel and nothing else does",
        description="Talks to this host's mail server as the tunnel does, to the peers' mail servers through the"
        " tunnel, and asks the mail server for its routes. Every conversation ends before a message. As root, since"
        " [deliver] addresses and some tools want it. Exit status 0: nothing is wrong; 1: something is.",
        allow_abbrev=False,
    )
    parser.add_argument("--mta", choices=NAMES, help="the mail server of this host (default: found by its tools)")
    add_json(parser)
    parser.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    config = load_readable(args)
    try:
        status = request(config.control_socket, "status")["status"]
    except ControlUnavailable:
        status = None
    mta = args.mta or inspection.detect()
    found = [*_from_check(args), *examine(config, status, mta)]
    found.sort(key=lambda finding: _ORDER.index(finding.verdict))
    failed = sum(finding.verdict is Verdict.WRONG for finding in found)
    if args.json:
        print_json({"ok": not failed, "mta": mta, "findings": [_as_json(finding) for finding in found]})
    else:
        _show(found, failed, mta)
    return ANSWER_IS_NO if failed else DONE


def _from_check(args: argparse.Namespace) -> Iterator[Finding]:
    """Configuration, key files, windows and the clock, as `hubtunnel check` sees them."""
    findings = check_everything(config_path(args.config), time.time())
    for problem in findings.problems:
        yield wrong("check", "this hub", problem, "")  # it says itself what to do
    for warning in findings.warnings:
        yield noted("check", "this hub", warning)
    if not findings.problems:
        yield Finding(
            "check", "this hub", Verdict.PROVED, "configuration, key files, key windows and the clock: nothing is wrong"
        )


def _as_json(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "about": finding.about,
        "verdict": finding.verdict.value,
        "text": finding.text,
        "cure": finding.cure,
    }


def _show(found: list[Finding], failed: int, mta: str | None) -> None:
    print_table(
        ["VERDICT", "CHECK", "ABOUT", "WHAT WAS SEEN"],
        [[finding.verdict.value, finding.check, finding.about, finding.text] for finding in found],
    )
    for finding in found:
        if finding.cure and finding.verdict in (Verdict.WRONG, Verdict.UNKNOWN):
            print(f"{finding.check}, {finding.about}: {finding.cure}")
    print(f"mail server: {mta or 'not known'}; " + (f"{failed} wrong" if failed else "nothing is wrong"))
