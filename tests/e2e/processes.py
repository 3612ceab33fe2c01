"""Child processes and waiting for facts: nothing here sleeps and hopes."""

from __future__ import annotations

import compileall
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that anything may take which is expected to happen: machines are shared."""

ENVIRONMENT = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
"""Of everything that is started: mail servers stand where an ordinary user's PATH does not lead."""

POLL = 0.02
"""Seconds between two looks at a fact."""


def wait_until(
    fact: Callable[[], T], what: str, *, deadline: float = PATIENCE, detail: Callable[[], str] = lambda: ""
) -> T:
    """Return the first true value of `fact`; raise AssertionError naming `what` after `deadline` seconds.

    `detail` is asked only on failure, for the logs that explain it.
    """
    end = time.monotonic() + deadline
    while True:
        value = fact()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what}\n{detail()}")
        time.sleep(POLL)


class Child:
    """A process of ours, its output in a file, in a process group of its own so that it can be ended whole."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, *, cwd: Path | None = None) -> None:
        self.name = name
        self.log_path = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=ENVIRONMENT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(
        self, fact: Callable[[], T], what: str, *, deadline: float = PATIENCE, detail: Callable[[], str] = lambda: ""
    ) -> T:
        """`wait_until`, ended early when the process ends first; a failure comes with its output and with `detail`."""

        def explain() -> str:
            return f"{self.log}\n{detail()}"

        def fact_or_death() -> T:
            if not self.running:
                raise AssertionError(
                    f"{self.name} ended with status {self._process.returncode} before: {what}\n{explain()}"
                )
            return fact()

        return wait_until(fact_or_death, what, deadline=deadline, detail=explain)

    def stop(self, deadline: float = 10.0) -> int:
        """SIGTERM, then SIGKILL for the group; the exit status (negative: the signal)."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(deadline)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return self._process.wait()


def compile_package(folder: Path) -> None:
    """Bytecode for all of a package, as pip leaves it: where Python is told to write none, each start compiles anew."""
    compileall.compile_dir(folder, quiet=2)


def missing(programs: Iterable[str]) -> list[str]:
    """Those that are not installed."""
    return [program for program in programs if shutil.which(program, path=ENVIRONMENT["PATH"]) is None]


def run(*argv: str, deadline: float = 30.0, cwd: Path | None = None) -> str:
    """Run a command to its end and return its standard output; a failure raises with all that it printed."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=deadline,
        check=False,
        cwd=cwd,
        env=ENVIRONMENT,
    )
    if done.returncode != 0:
        raise AssertionError(f"`{' '.join(argv)}` ended with status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
