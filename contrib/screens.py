"""Draws docs/screens: `demo`, `status --watch` and `doctor`, each as a real one was seen on a terminal of its own.

    .venv/bin/python contrib/screens.py

The hubs are those of `hubtunnel demo --keep`. What is drawn is what the terminal was sent: no picture shows what the
command does not.
"""

from __future__ import annotations

import os
import re
import sys
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402 - this tree goes before anything installed
from rich.text import Text  # noqa: E402

from tests.terminal import Terminal  # noqa: E402

SCREENS = ROOT / "docs" / "screens"
COLUMNS, LINES = 116, 60
PATIENCE = 120.0  # seconds; the demo takes about twenty

_CLEAR = re.compile(r"\x1b\[(?:2J|H)+")
_NOT_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]")  # whatever moves the cursor


def shown_by(*command: str) -> Terminal:
    """One of our commands on a terminal of this size."""
    size = {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "hubtunnel", *command]
    return Terminal(argv, environment=os.environ | size, patience=PATIENCE)


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
    with shown_by("demo", "--keep") as demo:
        try:
            shown = demo.reads("Ctrl-C ends it")
            draw("demo", "hubtunnel demo", re.split(r"\nBoth hubs stay up", shown)[0])
            config = re.search(r"--config (\S+) status", shown)
            assert config is not None
            with shown_by("--config", config[1], "status", "--watch") as watch:
                until = ("1 of 1 peers up", "KEYS UNTIL", "mx.far.example", "\n")
                draw("status", "hubtunnel status --watch", "".join(map(watch.reads, until)))
            with shown_by("--config", config[1], "doctor") as doctor:
                draw("doctor", "hubtunnel doctor", doctor.rest())
        finally:
            demo.types("\x03")
            demo.ends()


if __name__ == "__main__":
    main()
