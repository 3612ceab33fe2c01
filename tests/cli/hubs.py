"""Runs the command: in this process through `main`, or as a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from hubtunnel.cli import main

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    """What a command left."""

    status: int
    out: str
    err: str


def run(*arguments: object, stdin: str = "") -> Result:
    """The command in this process, with no terminal anywhere."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), mock.patch.object(sys, "stdin", io.StringIO(stdin)):
        status = main([str(argument) for argument in arguments])
    assert "Traceback" not in err.getvalue()
    return Result(status, out.getvalue(), err.getvalue())


def spawn(*arguments: object, stdin: str = "", command: Sequence[str] = ()) -> Result:
    """The command as a process of its own, without a terminal."""
    done = subprocess.run(
        [*command, sys.executable, "-W", "error", "-m", "hubtunnel", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=environment(),
        start_new_session=True,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def environment() -> dict[str, str]:
    """Ours, with this tree on the path and no configuration of whoever runs the tests."""
    kept = {key: value for key, value in os.environ.items() if key != "HUBTUNNEL_CONFIG"}
    return {**kept, "PYTHONPATH": str(ROOT)}


class Hub:
    """A hub made by `init` in a folder of its own."""

    def __init__(self, folder: Path, who: str, port: int) -> None:
        self.name = f"mx.{who}.example"
        self.folder = folder
        self.config = folder / "hubtunnel.toml"
        made = run("init", "--name", self.name, "--dir", folder, "--listen", f"127.0.0.1:{port}")
        assert made.status == 0, made.err
        self.made = made.out
        self.card = folder.parent / f"{who}.card"
        self.card.write_text(self.run("card").out)

    def run(self, *arguments: object, stdin: str = "") -> Result:
        """A command for this hub."""
        return run("--config", self.config, *arguments, stdin=stdin)

    @property
    def fingerprint(self) -> str:
        return self.run("card", "--fingerprint").out.splitlines()[0]

    @property
    def words(self) -> str:
        return self.run("card", "--fingerprint").out.splitlines()[1]
