"""A command on a terminal of its own, as somebody at a keyboard has it: typed at, and read."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

PATIENCE = 40.0
"""Seconds that may pass until something is shown which is expected."""


class Terminal:
    """A running command. `typed` before it asks is read when it does."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._command = " ".join(map(str, command))
        self._patience = patience
        self._seen = b""
        self._ours, theirs = pty.openpty()
        try:
            self.process = subprocess.Popen(
                [*map(str, command)],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=environment,
                cwd=folder,
                start_new_session=True,
                preexec_fn=_take_it,
            )
        finally:
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """What still runs on it is killed, the command in the foreground first."""
        if self.process.poll() is None:
            for group in {os.tcgetpgrp(self._ours), self.process.pid}:
                try:
                    os.killpg(group, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.process.wait()
        os.close(self._ours)

    def types(self, line: str) -> None:
        """A line and the return key; no return key behind a control character."""
        os.write(self._ours, line.encode() + (b"" if line[-1:] < " " and line else b"\n"))

    def reads(self, until: str) -> str:
        """What is shown up to and with `until`. Fails when the command ends first, or when it takes too long."""
        wanted, deadline = until.encode(), time.monotonic() + self._patience
        while wanted not in self._seen:
            if not self._more(deadline - time.monotonic()):
                raise AssertionError(f"{self._command}: {until!r} was not shown:\n{self._text()}")
        end = self._seen.index(wanted) + len(wanted)
        shown, self._seen = self._seen[:end], self._seen[end:]
        return _plain(shown)

    def rest(self) -> str:
        """What is shown until the command ends."""
        deadline = time.monotonic() + self._patience
        while self._more(deadline - time.monotonic()):
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"{self._command}: does not end:\n{self._text()}")
        shown, self._seen = self._seen, b""
        return _plain(shown)

    def ends(self) -> int:
        """Wait for the command's end; its exit status."""
        return self.process.wait(self._patience)

    def _more(self, seconds: float) -> bool:
        """Read once; False at the end, or when nothing comes any more in that time."""
        if not select.select([self._ours], [], [], max(0.0, seconds))[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self._seen += data
        return bool(data)

    def _text(self) -> str:
        return _plain(self._seen)[-4000:]


def _take_it() -> None:
    """In the child: the terminal is its controlling one, so that Ctrl-C and /dev/tty work."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Whoever runs the tests in the background of a shell has it ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _plain(shown: bytes) -> str:
    return shown.decode(errors="replace").replace("\r\n", "\n")
