"""What README.md says is done here: its commands are run, its Postfix lines read by Postfix, its sample compared."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shlex
import smtplib
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from hubtunnel.cli import build_parser
from hubtunnel.demo.letters import Letter, new_marker, write_letter
from hubtunnel.demo.ports import Ports
from hubtunnel.demo.sink import Sink
from tests.meta.tree import ROOT, files
from tests.terminal import Terminal

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
TRY = {"sh contrib/try demo", "sh contrib/try test"}
NUMBERS = {6: "Six", 7: "Seven", 8: "Eight"}


def blocks(language: str) -> list[str]:
    return [text.strip() for kind, text in BLOCKS if kind == language]


def test_every_block_is_of_a_kind_that_is_looked_at_here() -> None:
    assert README.count("\n```") == 2 * len(BLOCKS)
    assert {kind for kind, _ in BLOCKS} == {"sh", "text", "console"}


def test_the_first_two_commands_are_a_line_each_and_ci_runs_them() -> None:
    assert blocks("sh")[:2] == ["sh contrib/try demo", "sh contrib/try test"]
    run = (ROOT / ".ci" / "run").read_text()
    for command in TRY:
        assert f"readme '{command}'" in run


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with `hubtunnel` where `contrib/try setup` puts it, and a name short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="ht-") as name:
        folder = Path(name)
        command = folder / ".venv" / "bin" / "hubtunnel"
        command.parent.mkdir(parents=True)
        command.write_text(
            f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m hubtunnel "$@"\n'
        )
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        yield folder


def prompts(prompt: str) -> list[list[str]]:
    """What is to be typed behind this prompt, block by block."""
    shown = [block.splitlines() for block in blocks("console") if block.startswith(prompt)]
    assert all(line.startswith(prompt) for lines in shown for line in lines)
    return [[line.removeprefix(prompt) for line in lines] for lines in shown]


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_from_nothing_to_mail_both_ways_as_written(scratch: Path) -> None:
    """Two shells on terminals, and what README.md says typed into them: counted, the questions answered, mail sent."""
    assert "sh contrib/try setup" in blocks("sh")
    walk = prompts("$ ")
    assert len(walk) == 2
    counted = 1 + sum(map(len, walk))
    assert counted <= 8
    assert f"{NUMBERS[counted]} commands" in README
    asyncio.run(_walk(scratch, walk))


async def _walk(folder: Path, walk: list[list[str]]) -> None:
    """`init` in both shells, `peer add` in both, `run` in both; then a message each way."""
    names = ("mx.a.example", "mx.b.example")
    async with Sink(names[0], proxy=True) as a, Sink(names[1], proxy=True) as b:
        with Ports() as ports, Shell(folder) as first, Shell(folder) as second:
            # Only the ports are others, since those of the text may be in use here.
            text = "\n\n".join("\n".join(lines) for lines in walk)
            others = {"2601": a.port, "2602": b.port}
            for port in set(re.findall(r"127\.0\.\d\.\d:(\d+)", text)):
                text = text.replace(f":{port}", f":{others.get(port) or ports.reserve()}")
            one, other = (lines.splitlines() for lines in text.split("\n\n"))
            hand_over = [re.findall(r"--listen (127\.0\.1\.\d):(\d+)", lines[1])[0] for lines in (one, other)]
            said = [await asyncio.to_thread(shell.types, lines[0]) for shell, lines in ((first, one), (second, other))]
            told = [re.findall(r"In words: +(.+)", text)[0].split() for text in said]
            for shell, lines, theirs in ((first, one, told[1]), (second, other, told[0])):
                asked = await asyncio.to_thread(shell.types, lines[1], until="Type yes or no: ")
                assert theirs == asked.split("This card's are:")[1].split()[: len(theirs)], (
                    "the words of the other init"
                )
                answered = await asyncio.to_thread(shell.types, "yes")
                assert "is a peer now" in answered
            for shell, lines in ((first, one), (second, other)):
                await asyncio.to_thread(shell.types, lines[2], until=" started ")
            for shell in (first, second):
                await asyncio.to_thread(shell.reads, " peer_up ")
            for number, (host, port) in enumerate(hand_over):
                letter = write_letter(number, names[number], names[1 - number], 4096, new_marker())
                await asyncio.to_thread(_send, host, int(port), letter)
                sink = (b, a)[number]
                assert sink.compare([letter]).clean
            assert ("192.0.2.2" in a.sources, "192.0.2.1" in b.sources) == (True, True)
            for shell in (first, second):
                await asyncio.to_thread(shell.types, "\x03", until=" stopped ")


def _send(host: str, port: int, letter: Letter) -> None:
    with smtplib.SMTP(host, port, timeout=30) as smtp:
        smtp.sendmail(letter.sender, [letter.recipient], letter.content)


class Shell:
    """`sh` on a terminal of its own."""

    PROMPT = "shell> "

    def __init__(self, folder: Path) -> None:
        prompt = os.environ | {"PS1": self.PROMPT, "ENV": "", "COLUMNS": "200"}
        self._terminal = Terminal(["/bin/sh"], environment=prompt, folder=folder)

    def __enter__(self) -> Self:
        self.reads(self.PROMPT)
        return self

    def __exit__(self, *exc: object) -> None:
        self._terminal.__exit__()

    def types(self, line: str, until: str = PROMPT) -> str:
        """Type a line and read what comes, up to `until`."""
        self._terminal.types(line)
        return self.reads(until)

    def reads(self, until: str) -> str:
        """What the terminal shows, up to `until`."""
        return self._terminal.reads(until).removesuffix(until)


def test_commands_that_need_root_are_commands_that_exist() -> None:
    once, each, _ = prompts("# ")
    parser = build_parser()
    typed = [shlex.split(line) for line in each if line.startswith("hubtunnel ")]
    assert len(typed) == 2
    for words in typed:
        parser.parse_args(words[1:])
    assert 2 * len(each) <= 8
    for name in re.findall(r"contrib/\S+", "\n".join(once)):
        assert Path(name) in files()


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if "://" not in link and Path(link) not in files()] == []


# --- mail servers -------------------------------------------------------------------------------------------------


def test_the_commands_for_the_mail_server_are_ours() -> None:
    parser = build_parser()
    typed = [shlex.split(line) for line in prompts("# ")[2]]
    ours = [words for words in typed if words[0] == "hubtunnel"]
    assert [words[1] for words in ours] == ["mta", "doctor"]
    for words in ours:
        parser.parse_args(words[1:])


# --- the sample of the demo's output ------------------------------------------------------------------------------


def claims() -> set[str]:
    """What the demo claims, read from its source: the first argument of every `report.prove(…)`."""
    tree = ast.parse((ROOT / "hubtunnel" / "demo" / "scenario.py").read_text())
    return {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "prove"
        and isinstance(node.args[0], ast.Constant)
    }


def sample_rows() -> list[list[str]]:
    """The rows of the table in the sample, each cell in one line."""
    (sample,) = (block for block in blocks("text") if "What was claimed" in block)
    rows: list[list[str]] = []
    fresh = False
    for line in sample.splitlines():
        if line[:1] in "┡├└":
            fresh = True
        elif line.startswith("│"):
            cells = [cell.strip() for cell in line.strip("│").split("│")]
            if fresh:
                rows.append(cells)
            else:
                rows[-1] = [f"{before} {more}".strip() for before, more in zip(rows[-1], cells, strict=True)]
            fresh = False
    return rows


def test_the_sample_shows_every_claim_proved() -> None:
    rows = sample_rows()
    assert {claim for _, claim, _ in rows} == claims()
    assert {mark for mark, _, _ in rows} == {"proved"}
    assert f"{len(rows)} of {len(rows)} proved" in README
