"""`hubtunnel mta`: the exact configuration of a mail server for the peers of this hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hubtunnel.cli.common import DONE, add_json, print_json
from hubtunnel.config import load
from hubtunnel.errors import UsageError


def register(commands: Any) -> None:
    """Add `mta` and a command below it for each mail server."""
    from hubtunnel.mta.catalogue import NAMES

    parser = commands.add_parser(
        "mta",
        help="print the configuration that points a mail server at the tunnel",
        description="Prints, for the peers configured here, what a mail server needs in both directions, with the"
        ' reasons as comments. Peers with mode = "testing" are left out. Nothing is changed: --write fills a folder'
        " of yours, and steps.sh in it puts the files into the mail server.",
        allow_abbrev=False,
    )
    servers = parser.add_subparsers(title="mail servers", metavar="MTA", dest="mta", required=True)
    for name in NAMES:
        server = servers.add_parser(name, help=f"for {name}", allow_abbrev=False)
        server.add_argument("--write", metavar="DIR", help="write the files into DIR, instead of printing them")
        server.add_argument(
            "--smarthost",
            metavar="PEER",
            help="all mail for elsewhere goes to this peer: a branch office's head office",
        )
        server.add_argument(
            "--local-domain",
            metavar="DOMAIN",
            action="append",
            default=[],
            help="a domain of this hub's own, for OpenSMTPD, whose rules have to name those it does not call local",
        )
        add_json(server)
        server.set_defaults(run=_mta)


def _mta(args: argparse.Namespace) -> int:
    from hubtunnel.mta import make_plan, recipe

    try:
        plan = make_plan(load(args.config), smarthost=args.smarthost, local_domains=args.local_domain)
    except ValueError as exc:
        raise UsageError(f"--local-domain: {exc}") from None
    made = recipe(args.mta, plan)
    if args.write is not None:
        written = made.write(Path(args.write))
        if args.json:
            print_json({"mta": made.mta, "files": [str(path) for path in written]})
        else:
            print("\n".join(map(str, written)))
    elif args.json:
        print_json({"mta": made.mta, "files": {file.name: file.text for file in made.every_file()}})
    else:
        print(made.text(), end="")
    return DONE
