"""Draws docs/screens: `demo`, `status --watch` and `doctor`, each as a real one was seen on a terminal of its own.

    .venv/bin/python contrib/screens.py

The hubs are those of `hubtunnel demo --keep`. What is drawn is what the terminal was sent: no picture shows what the
command does not.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
SCREENS = ROOT / "docs" / "screens"
COLUMNS, LINES = 116, 60
PATIENCE = 120.0  # seconds; the demo takes about twenty

_CLEAR = re.compile(r"\x1b\[(?:2J|H)+")
_NOT_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]")  # whatever moves the cursor


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self._ours, theirs = pty.openpty()
        self._name = " ".join(("hubtunnel", *command))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hubtunnel", *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ
            | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES), "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        os.close(theirs)
        self._seen = b""

    def until(self, wanted: str | None) -> str:
        """All that was sent when `wanted` is in it; None: when the command has ended."""
        deadline = time.monotonic() + PATIENCE
        while wanted is None or wanted.encode() not in self._seen:
            if time.monotonic() > deadline:
                sys.exit(f"{self._name}: no {wanted or 'end'} in {PATIENCE:.0f} s:\n{self._text}")
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    self._seen += os.read(self._ours, 65536)
                except OSError:  # the other end of the terminal is closed
                    if wanted is None:
                        break
                    sys.exit(f"{self._name} ended without {wanted!r}:\n{self._text}")
        return self._text

    @property
    def _text(self) -> str:
        return self._seen.decode(errors="replace")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        os.close(self._ours)


def draw(name: str, title: str, sent: str) -> None:
    """One picture of what a terminal shows after `sent`."""
    last = [part for part in _CLEAR.split(sent.replace("\r\n", "\n")) if part.strip()][-1]
    lines = [line.rsplit("\r", 1)[-1] for line in _NOT_STYLE.sub("", last).strip("\n").split("\n")]
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, highlight=False)
    while not lines[-1].strip():
        lines.pop()  # what is left of the screen
    console.print(Text.from_ansi("\n".join(lines)))
    SCREENS.mkdir(exist_ok=True)
    (SCREENS / f"{name}.svg").write_text(console.export_svg(title=title))
    print(SCREENS / f"{name}.svg")


def main() -> None:
    """All pictures."""
    with Terminal("demo", "--keep") as demo:
        shown = demo.until("Ctrl-C ends it")
        draw("demo", "hubtunnel demo", re.split(r"\r?\nBoth hubs stay up", shown)[0])
        config = re.search(r"--config (\S+) status", shown)
        assert config is not None
        with Terminal("--config", config[1], "status", "--watch") as watch:
            watch.until("1 of 1 peers up")
            draw("status", "hubtunnel status --watch", watch.until("KEYS UNTIL"))
        with Terminal("--config", config[1], "doctor") as doctor:
            draw("doctor", "hubtunnel doctor", doctor.until(None))


if __name__ == "__main__":
    main()
