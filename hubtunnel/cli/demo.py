"""`hubtunnel demo`: two hubs and real mail on loopback, and a table of what was proved."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from hubtunnel.cli.common import ANSWER_IS_NO, DONE, USAGE, CommandError


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `demo`."""
    parser = commands.add_parser(
        "demo",
        help="two hubs and real mail on loopback, and a table of what was proved",
        description="Starts two hubs in a temporary folder, sends mail through them, harms the connection between"
        " them, and shows what that proved. Needs no root and no configuration, and leaves nothing behind.",
    )
    parser.add_argument("--keep", action="store_true", help="stay up afterwards, to send mail by hand, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print one JSON value for programs")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    if find_spec("aiosmtpd") is None:
        raise CommandError(
            "the demo needs aiosmtpd, for the mail servers behind its hubs",
            "pip install 'hubtunnel[demo]'",
            status=USAGE,
        )
    from hubtunnel.demo.play import play  # imports aiosmtpd, which is optional

    return DONE if play(keep=args.keep, as_json=args.json) else ANSWER_IS_NO
