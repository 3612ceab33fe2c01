"""`status`: what an administrator wants to know at a glance, once or kept on the screen with `--watch`."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from hubtunnel.cli.common import DONE, add_json, load_readable, plain_or_terminal, print_json
from hubtunnel.daemon.control import ControlUnavailable, request

if TYPE_CHECKING:
    from rich.console import Console

WATCH_EVERY = 1.0


def register(subparsers: Any) -> None:
    """Add the command."""
    status = subparsers.add_parser(
        "status", help="peers, carriers, sessions, streams, keys, last errors", allow_abbrev=False
    )
    status.add_argument("--watch", action="store_true", help="keep it on the screen; Ctrl-C ends it")
    add_json(status)
    status.set_defaults(run=_status)


def _status(args: argparse.Namespace) -> int:
    from hubtunnel.cli.status_screen import screen

    config = load_readable(args)
    console = plain_or_terminal()
    if args.watch and not args.json:
        return _watch(config.control_socket, console)
    found = request(config.control_socket, "status")["status"]
    if args.json:
        print_json(found)
    else:
        console.print(screen(found, console.width), soft_wrap=not console.is_terminal)  # whole lines, for grep
    return DONE


def _watch(socket: Any, console: Console) -> int:
    """A daemon that is restarted meanwhile is waited for: whoever watches wants to see it come back."""
    from rich.live import Live
    from rich.text import Text

    from hubtunnel.cli.status_screen import screen

    found = request(socket, "status")["status"]
    try:
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                height = console.height if console.is_terminal else None
                live.update(screen(found, console.width, height), refresh=True)
                time.sleep(WATCH_EVERY)
                try:
                    found = request(socket, "status")["status"]
                except ControlUnavailable as exc:
                    live.update(Text(f"{exc}\nwaiting for it", style="yellow"), refresh=True)
    except KeyboardInterrupt:
        return DONE
