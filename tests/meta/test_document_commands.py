"""Every command that the documents show, in blocks and in running text, is one that the command line takes."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Iterator

import pytest

from hubtunnel.cli import build_parser
from hubtunnel.daemon.cures import CURES, TOLD
from tests.meta.tree import ROOT

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "keys").glob("*.md")])
_BLOCK = re.compile(r"^ *(?:[#$] )?(?:\.venv/bin/)?hubtunnel (.+)$", re.MULTILINE)
_INLINE = re.compile(r"`hubtunnel ([a-z][^`]*)`")


def shown(text: str) -> Iterator[str]:
    """What stands behind `hubtunnel`, without redirections and remarks."""
    for line in _BLOCK.findall(text):
        yield re.split(r"\s+(?:#|>|\|) ?", line)[0]
    for line in _INLINE.findall(" ".join(text.split())):
        yield line


def is_taken(words: list[str]) -> bool:
    """Whether the parser takes the words: whole in a block; a text may leave a command's arguments out."""
    parser = build_parser()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parser.parse_args(words)
    except SystemExit as exc:
        return exc.code == 0 or "the following arguments are required" in said.getvalue()
    except argparse.ArgumentError:
        return False
    return True


def cases() -> list[tuple[str, str]]:
    found = {(path.name, command) for path in DOCUMENTS for command in shown(path.read_text())}
    found |= {("cures", command) for cure in (*CURES.values(), *TOLD.values()) for command in _INLINE.findall(cure)}
    return sorted(found)


def test_there_are_many() -> None:
    assert len(cases()) > 40


@pytest.mark.parametrize(("document", "command"), cases())
def test_it_is_one(document: str, command: str) -> None:
    # `add|list|show` in a text stands for each of them.
    choices = [[word.strip("…").rstrip(",.;:)") for word in part.split("|")] for part in shlex.split(command)]
    for number in range(max(map(len, choices))):
        words = [choice[min(number, len(choice) - 1)] for choice in choices]
        stands_for = {"N": "4", "NAME": "postfix" if words[0] == "mta" else "NAME"}
        assert is_taken([stands_for.get(word, word) for word in words if word]), (
            f"{document}: hubtunnel {' '.join(words)}"
        )


@pytest.mark.parametrize("command", ["key lst", "stats", "status --wach", "peer add a b c", "mta sendmial"])
def test_one_that_is_none_would_be_found(command: str) -> None:
    assert not is_taken(command.split())
