"""The `hubtunnel` command: one module a group of commands, each with `register(subparsers)`.

Only the module of the command that was typed is imported: what a daemon never needs is not to lie in its memory.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from hubtunnel import __version__, protocol
from hubtunnel.cli.common import ANSWER_IS_NO, USAGE, CommandError, complain
from hubtunnel.config import DEFAULT_PATH, ENVIRONMENT
from hubtunnel.errors import CardError, ConfigError, HubtunnelError, KeyFileError, ListenConfigError, UsageError
from hubtunnel.identity.fingerprint import FingerprintError
from hubtunnel.identity.state import StateError

# The commands, in the order of the help, and the module that has each.
_MODULES = {
    "init": "setup",
    "card": "card",
    "peer": "peer",
    "key": "key",
    "check": "check",
    "run": "running",
    "reload": "running",
    "stop": "running",
    "ping": "running",
    "status": "status",
    "mta": "mta",
    "doctor": "doctor",
    "demo": "demo",
}
_EPILOG = """exit status: 0 done; 1 it ran and the answer is no; 2 usage or configuration

hubtunnel is link encryption between mail hubs, not end-to-end encryption: each hub sees the mail."""


class _Parser(argparse.ArgumentParser):
    """Complains as every other part of the command does, and takes no abbreviations: they break with new options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        complain(message, [f"{self.prog} --help"])
        raise SystemExit(USAGE)


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The whole command line, or as much of it as this command needs."""
    parser = _Parser(
        prog="hubtunnel",
        description="Carries mail between hubs that know each other through one authenticated tunnel.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    built = " (compiled)" if protocol.compiled() else ""
    parser.add_argument("--version", action="version", version=f"hubtunnel {__version__}{built}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    modules = dict.fromkeys(_MODULES.values()) if command is None else (_MODULES[command],)
    for module in modules:
        importlib.import_module(f"hubtunnel.cli.{module}").register(commands)
    parser.set_defaults(config=None, traceback=False)
    for each in _with_subcommands(parser):
        _add_common(each)
    return parser


def typed_command(argv: Sequence[str]) -> str | None:
    """The command in these words; None where it takes the whole command line to answer: for help, and mistakes."""
    words = iter(argv)
    for word in words:
        if word == "--config":
            next(words, None)
        elif not word.startswith("-"):
            return word if word in _MODULES else None
        elif word != "--traceback" and not word.startswith("--config="):
            return None
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status. Errors are told on stderr, never as a traceback."""
    try:
        words = sys.argv[1:] if argv is None else argv
        args = build_parser(typed_command(words)).parse_args(words)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else USAGE
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read our output has seen enough. The descriptor must not be flushed again at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ANSWER_IS_NO
    except KeyboardInterrupt:
        return 130
    except Exception as exc:
        if args.traceback:
            raise
        return _tell(exc)


def _tell(exc: Exception) -> int:
    if isinstance(exc, CommandError):
        complain(str(exc), exc.hints)
        return exc.status
    if isinstance(exc, ConfigError):
        for problem in exc.problems:
            complain(problem)
        # What passes by itself is worth another start: the systemd unit makes none after status 2.
        return ANSWER_IS_NO if isinstance(exc, ListenConfigError) else USAGE
    if isinstance(exc, CardError):
        complain(f"the card is refused ({exc.code}): {exc}")
        return ANSWER_IS_NO
    if isinstance(exc, UsageError | KeyFileError | StateError | FingerprintError):
        complain(str(exc))
        return USAGE
    if isinstance(exc, HubtunnelError):
        complain(str(exc), [f"also: {problem}" for problem in getattr(exc, "problems", [])])
        return ANSWER_IS_NO
    if isinstance(exc, OSError):
        place = f"{exc.filename}: " if exc.filename else ""
        complain(f"{place}{exc.strerror or exc}")
        return ANSWER_IS_NO
    complain(f"internal error, a fault of hubtunnel: {type(exc).__name__}", ["again with --traceback shows where"])
    return ANSWER_IS_NO


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Options that every command takes, before its name or behind it."""
    group = parser.add_argument_group("common options")
    group.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"configuration file (default ${ENVIRONMENT}, else {DEFAULT_PATH})",
    )
    group.add_argument(
        "--traceback", action="store_true", default=argparse.SUPPRESS, help="show where an error comes from"
    )


def _with_subcommands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _with_subcommands(child)
