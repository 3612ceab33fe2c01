"""What README.md says is done here: its commands are run, its Postfix lines read by Postfix, its sample compared."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtunnel.cli import build_parser
from hubtunnel.demo.ports import Ports
from tests.meta.tree import ROOT, files

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
TRY = {"sh contrib/try demo", "sh contrib/try test"}


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
    """A folder with `hubtunnel` in `bin`, and a name short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="ht-") as name:
        folder = Path(name)
        command = folder / "bin" / "hubtunnel"
        command.parent.mkdir()
        command.write_text(
            f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m hubtunnel "$@"\n'
        )
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        yield folder


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_introduction_of_two_hubs_works_as_written(scratch: Path) -> None:
    script = "\n".join(block for block in blocks("sh") if block not in TRY)
    assert "peer add" in script
    with Ports() as ports:
        # Only the ports are others, since those of the text may be in use here.
        for port in set(re.findall(r"127\.0\.\d\.\d:(\d+)", script)):
            script = script.replace(f":{port}", f":{ports.reserve()}")
        shell = subprocess.Popen(
            ["sh", "-eu", "-c", script],
            cwd=scratch,
            env=os.environ | {"PATH": f"{scratch / 'bin'}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = shell.communicate(timeout=100)
        finally:
            # The daemons that it left in the background when it failed.
            try:
                os.killpg(shell.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    assert shell.returncode == 0, output
    assert output.count("nothing is wrong") == 2
    assert "mx.b.example" in output
    assert re.findall(r"^stopped$", output, re.MULTILINE) == ["stopped", "stopped"]


def test_commands_that_need_root_are_commands_that_exist() -> None:
    (block,) = blocks("console")
    lines = block.splitlines()
    assert all(line.startswith("# ") for line in lines)
    parser = build_parser()
    typed = [shlex.split(line[2:].split(" > ")[0]) for line in lines if line.startswith("# hubtunnel ")]
    assert len(typed) >= 5
    for words in typed:
        parser.parse_args(words[1:])
    for name in re.findall(r"contrib/\S+", block):
        assert Path(name) in files()


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if "://" not in link and Path(link) not in files()] == []


# --- Postfix ------------------------------------------------------------------------------------------------------


def master_lines() -> list[str]:
    return [block for block in blocks("text") if block.startswith("# /etc/postfix/master.cf")]


def test_the_postfix_lines_are_those_that_the_end_to_end_tests_use() -> None:
    from tests.e2e.postfix import _INBOUND_OPTIONS, _OUTBOUND_OPTIONS

    outbound, inbound = master_lines()
    assert re.findall(r"-o (\S+)", outbound) == list(_OUTBOUND_OPTIONS)
    assert re.findall(r"-o (\S+)", inbound) == list(_INBOUND_OPTIONS)


def test_postfix_reads_them(tmp_path: Path) -> None:
    if shutil.which("postconf") is None:
        pytest.skip("needs postconf: apt-get install postfix")
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    (tmp_path / "master.cf").write_text("\n".join(master_lines()) + "\n")
    read = subprocess.run(
        ["postconf", "-c", str(tmp_path), "-M"], capture_output=True, text=True, check=True, timeout=30
    )
    assert read.stderr == ""
    assert [line.split()[:2] for line in read.stdout.splitlines() if not line.startswith(" ")] == [
        ["hubtunnel", "unix"],
        ["127.0.0.1:26", "inet"],
    ]


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
