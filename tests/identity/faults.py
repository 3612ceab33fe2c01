"""Kills this process, or fills the disk, at the n-th call that changes files."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

STEPS = ("open", "write", "fsync", "replace", "link", "rename", "unlink", "fchmod", "ftruncate")
NEEDS_ROOM = ("open", "write", "fsync", "link")  # what fails on a full disk; names can still be taken away
WRITES = os.O_WRONLY | os.O_RDWR


@contextlib.contextmanager
def patched(react: Callable[[str, int, Callable[[], Any], tuple[Any, ...]], Any]) -> Iterator[None]:
    """Every changing call goes through `react(name, number, real, arguments)`; numbers begin with 1."""
    count = 0

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal count
            if name == "open" and not args[1] & WRITES:
                return real(*args, **named)
            count += 1
            return react(name, count, lambda: real(*args, **named), args)

        return call

    patches = [mock.patch.object(os, name, wrap(name, getattr(os, name))) for name in STEPS]
    try:
        for patch in patches:
            patch.start()
        yield
    finally:
        for patch in reversed(patches):
            patch.stop()


def killing(step: int, *, after: bool) -> Callable[[str, int, Callable[[], Any], tuple[Any, ...]], Any]:
    """For `patched`: SIGKILL ends this process before or after its `step`-th change.

    A `write` that is killed "after" has written half.
    """

    def react(name: str, number: int, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        if number != step:
            return real()
        if after and name == "write":
            _raw_write(args[0], bytes(args[1])[: len(args[1]) // 2])
        elif after:
            with contextlib.suppress(OSError):  # a temporary name that is taken away when it is no more
                real()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    return react


def killed_at(step: int, action: Callable[[], object], *, after: bool) -> bool:
    """Run `action` in a child with `killing`. False when it ended by itself."""
    child = os.fork()
    if child == 0:
        status = 3
        try:
            with patched(killing(step, after=after)):
                action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the action failed by itself"
    return False


_raw_write = os.write


class DiskFull:
    """From the `step`-th change on nothing more can be written; `hit` tells whether that was ever so."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.hit = False

    def __call__(self, name: str, number: int, real: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        if number >= self.step and name in NEEDS_ROOM:
            self.hit = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
        return real()
