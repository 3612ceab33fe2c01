"""Makes what is made from the command line's own parsers and from docs/SETTINGS.md: completions and manual pages.

    .venv/bin/python contrib/generate.py             writes contrib/completion and contrib/man
    .venv/bin/python contrib/generate.py --check     status 1 and the names of those that are not current

Packagers install them as they stand; needs `shtab` and `argparse-manpage` (extra `dev`).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import shtab  # noqa: E402 - this tree's `hubtunnel` goes before an installed one
from argparse_manpage.manpage import Manpage  # noqa: E402

from hubtunnel import __version__  # noqa: E402
from hubtunnel.cli import build_parser  # noqa: E402

COMPLETIONS = {"bash": "hubtunnel.bash", "zsh": "_hubtunnel", "fish": "hubtunnel.fish"}
# Names of the hub's peers; a hub in another folder is completed without. A dollar would be a variable to fish.
_PEERS = shtab.cmd("ls /etc/hubtunnel/peers.d 2>/dev/null | sed -n 's/[.]toml//p'")
_WIDTH = "10000"  # columns: argparse folds nothing, troff does

_DESCRIPTION = """\
.B hubtunnel
runs beside the mail server of each hub. Mail for a hub that it knows goes to it instead of out to the Internet, and it
carries the SMTP conversation to the other hub through one forward\\-secret, mutually authenticated, post\\-quantum
connection. It encrypts the link between hubs, not the mail from end to end: each hub sees the mail.
.PP
Every command that reads has
.B \\-\\-json
for programs. Commands that change something are in force when they return, with a daemon running and without.
.PP
"""
_MORE = """\
.SH EXIT STATUS
.TP
.B 0
done
.TP
.B 1
it ran, and the answer is no
.TP
.B 2
usage or configuration
.SH ENVIRONMENT
.TP
.B HUBTUNNEL_CONFIG
the configuration file, where
.B \\-\\-config
does not name one
.TP
.B NO_COLOR
no colour on terminals
.SH FILES
.TP
.I /etc/hubtunnel/hubtunnel.toml
configuration, see
.BR hubtunnel.toml (5)
.TP
.IR /etc/hubtunnel/peers.d/NAME.toml ,\\  NAME.card
one peer: its pin, its addresses, its card
.TP
.I /var/lib/hubtunnel
private keys, own cards and the cards accepted of peers; only the service's user reads it
.TP
.I /run/hubtunnel/control.sock
how commands reach the running daemon
.SH SEE ALSO
.BR hubtunnel.toml (5),
and the documents that come with hubtunnel: OPERATING.md, KEYS.md, THREATS.md and PROTOCOL.md
"""


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _actions(child)


def completion(shell: str) -> str:
    """The completion file of a shell."""
    parser = build_parser()
    for action in _actions(parser):
        if action.metavar in ("FILE", "CARD"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in ("PEER", "NAME") and not action.option_strings:
            action.complete = _PEERS  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell))


def command_page() -> str:
    """hubtunnel(1). What every command takes is said once, with the options of `hubtunnel` itself."""
    parser = build_parser()
    parser.description = parser.epilog = None  # said below, and in sections of their own
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for child in _parsers(commands):
        _drop_common(child)
    page = Manpage(
        parser,
        format="single-commands-section",
        _data={
            "version": __version__,
            "date": " ",  # of the release, which the version names; a date of today would change at each run
            "project_name": "hubtunnel",
            "manual_title": "hubtunnel",
            "description": "mail between hubs that know each other, through one tunnel",
        },
    )
    text = str(page).replace(".SH OPTIONS\n", f".SH DESCRIPTION\n{_DESCRIPTION}.SH OPTIONS\n", 1)
    return _tidy(text) + _MORE


def _drop_common(parser: argparse.ArgumentParser) -> None:
    common = {
        id(action)
        for group in parser._action_groups
        if group.title == "common options"
        for action in group._group_actions
    }
    parser._action_groups = [group for group in parser._action_groups if group.title != "common options"]
    parser._actions = [
        action
        for action in parser._actions
        if id(action) not in common and not isinstance(action, argparse._HelpAction)
    ]


def _parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> Iterator[argparse.ArgumentParser]:
    for child in commands.choices.values():
        yield child
        for action in child._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from _parsers(action)


def _tidy(page: str) -> str:
    """Blank lines are vertical space in troff: the macros make their own."""
    return re.sub(r"\n{2,}", "\n.PP\n", page.rstrip("\n")) + "\n"


# --- hubtunnel.toml(5) ------------------------------------------------------------------------------------------


def settings_page() -> str:
    """hubtunnel.toml(5), out of docs/SETTINGS.md."""
    out = [
        f'.TH HUBTUNNEL.TOML "5" " " "hubtunnel {__version__}" "hubtunnel"',
        ".SH NAME",
        "hubtunnel.toml \\- settings of a mail hub",
        ".SH SYNOPSIS",
        ".I /etc/hubtunnel/hubtunnel.toml",
        ".br",
        ".I /etc/hubtunnel/peers.d/NAME.toml",
        ".SH DESCRIPTION",
    ]
    for block in (ROOT / "docs" / "SETTINGS.md").read_text().split("\n\n"):
        if block.startswith("## "):
            out.append(f".SH {_troff(block[3:])}")
        elif block.startswith("| "):
            for row in block.strip().splitlines()[2:]:
                key, default, meaning = (cell.strip() for cell in row.strip("|").split("|"))
                given = f" (default {_troff(default)})" if default else ""
                out += [".TP", f"{_troff(key)}{given}", _troff(meaning)]
        elif not block.startswith("# "):
            out += [".PP", _troff(" ".join(block.split()))]
    return "\n".join([*out, ".SH SEE ALSO", ".BR hubtunnel (1)"]) + "\n"


def _troff(markdown: str) -> str:
    """A paragraph of text with `code` in it."""
    text = markdown.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    return f"\\&{text}" if text.startswith((".", "'")) else text


# --- files --------------------------------------------------------------------------------------------------------


def generated() -> dict[Path, str]:
    """Every file that is made here, with what belongs into it."""
    os.environ["COLUMNS"] = _WIDTH
    made = {ROOT / "contrib" / "completion" / name: completion(shell) for shell, name in COMPLETIONS.items()}
    made[ROOT / "contrib" / "man" / "hubtunnel.1"] = command_page()
    made[ROOT / "contrib" / "man" / "hubtunnel.toml.5"] = settings_page()
    return made


def main() -> int:
    """0: all current (now); 1: `--check` found some that are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = [(path, text) for path, text in generated().items() if not path.exists() or path.read_text() != text]
    for path, text in stale:
        print(path.relative_to(ROOT))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
