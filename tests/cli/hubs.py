"""Runs the command: in this process through `main`, or as a process of its own."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from hubtunnel.cli import main
from hubtunnel.daemon.control import ControlUnavailable, request

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


class Running:
    """A hub with its daemon, which has these variables in its environment."""

    def __init__(self, hub: Hub, **variables: str) -> None:
        self.hub = hub
        self.log = hub.folder / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hubtunnel", "--config", str(hub.config), "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment() | variables,
            )
        try:
            self.status()
        except BaseException:
            self.end()
            raise

    def status(self) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while True:
            try:
                answer: dict[str, Any] = request(self.hub.folder / "control.sock", "status")["status"]
                return answer
            except ControlUnavailable:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=20) == 0, self.log.read_text()

    def end(self) -> None:
        """Whatever became of it."""
        self.process.kill()
        self.process.wait()
