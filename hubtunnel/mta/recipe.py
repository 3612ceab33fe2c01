"""What `hubtunnel mta` prints: files for a mail server, and the commands that put them where they belong."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hubtunnel.errors import UsageError

STEPS = "steps.sh"


@dataclass(frozen=True, slots=True)
class File:
    """One file of a recipe; `name` is what it is called in the folder that `--write` fills."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """The files, in the order in which they are read, and `steps`: a shell script that stands among them.

    The script finds the files beside itself. It may be run again whenever peers have changed.
    """

    mta: str
    files: tuple[File, ...]
    steps: str

    def every_file(self) -> tuple[File, ...]:
        """The files and the script behind them."""
        return *self.files, File(STEPS, self.steps)

    def text(self) -> str:
        """All of it for people: each file under its name."""
        return "\n".join(f"#==== {file.name}\n{file.text}" for file in self.every_file())

    def write(self, folder: Path) -> list[Path]:
        """Write all files into `folder`, which is made where it is missing; returns their paths.

        Raises `UsageError` for a folder that belongs to a mail server: what stands there is the administrator's.
        """
        target = Path(os.path.realpath(folder))
        for owned in _MTA_FOLDERS:
            if target == owned or owned in target.parents:
                raise UsageError(f"{target} is {owned.name}'s own folder: write elsewhere, read it, then run {STEPS}")
        target.mkdir(parents=True, exist_ok=True)
        written = []
        for file in self.every_file():
            path = target / file.name
            beside = path.with_name(f".{file.name}.new")
            beside.write_text(file.text, encoding="ascii")
            beside.chmod(0o755 if file.text.startswith("#!") else 0o644)
            beside.replace(path)
            written.append(path)
        return written


_MTA_FOLDERS = tuple(
    Path(folder)
    for folder in (
        *("/etc/postfix", "/etc/exim4", "/etc/exim", "/etc/mail", "/etc/courier", "/etc/opensmtpd"),
        *("/usr/local/etc/postfix", "/usr/local/etc/exim", "/usr/local/etc/mail", "/var/qmail"),
    )
)
