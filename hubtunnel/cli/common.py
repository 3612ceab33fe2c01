"""What all commands share: complaints, output for people and for programs, loading configuration and state."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubtunnel.config import Config, load_with_problems
from hubtunnel.errors import ConfigError, HubtunnelError
from hubtunnel.identity.state import State

if TYPE_CHECKING:
    from rich.console import Console

DONE = 0
ANSWER_IS_NO = 1
USAGE = 2
_WIDE = 200  # columns of a table that no terminal shows


class CommandError(HubtunnelError):
    """A command cannot or will not do what was asked. `hints` say what to do about it."""

    def __init__(self, text: str, *hints: str, status: int = ANSWER_IS_NO) -> None:
        super().__init__(text)
        self.hints = hints
        self.status = status


def complain(text: str, hints: Iterable[str] = ()) -> None:
    """Tell on stderr what is wrong and what to do about it."""
    lines = text.splitlines() or [""]
    print(f"hubtunnel: {lines[0]}", *lines[1:], sep="\n  ", file=sys.stderr)
    for hint in hints:
        print(f"hint: {hint}", file=sys.stderr)


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`, which every reading command has."""
    parser.add_argument("--json", action="store_true", help="print one JSON value for programs")


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def plain_or_terminal() -> Console:
    """Stdout for people: with colour and folded to its width on a terminal, plain and whole elsewhere."""
    from rich.console import Console

    # No markup: "[fe80::1]:2625" is an address, not a style.
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(_WIDE, console.width)
    return console


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table on stdout."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    plain_or_terminal().print(table)


def load_readable(args: argparse.Namespace) -> Config:
    """The configuration for a command that only reads: mistakes in `peers.d` do not stand in its way."""
    config, problems = load_with_problems(args.config)
    if config is None or any(problem.startswith(f"{config.path}:") for problem in problems):
        raise ConfigError(problems)
    return config


def open_state(config: Config) -> State:
    """The hub's state, to read."""
    return State.open(config.state)


def rfc3339(unix_time: float) -> str:
    """A time as RFC 3339 text in UTC, to the second."""
    try:
        moment = datetime.datetime.fromtimestamp(int(unix_time), datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"@{int(unix_time)}"  # beyond the year 9999: a card may say so, a calendar cannot
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def command_for(config_path: Path, command: str) -> str:
    """A command as the user would type it for this configuration."""
    from hubtunnel.config import config_path as default

    return f"hubtunnel {command}" if default(None) == config_path else f"hubtunnel --config {config_path} {command}"
