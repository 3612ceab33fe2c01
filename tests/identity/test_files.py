"""Atomic writes: a crash at any step leaves old or new. Private files: refused when others may read them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hubtunnel.errors import KeyFileError
from hubtunnel.identity import files

OLD, NEW = b"old", b"new" * 10_000
STEPS = ("open", "fchmod", "fsync", "replace", "link", "unlink")


class PowerCut(BaseException):
    """The process is gone: nothing of it runs any more."""


class FailingOs:
    """Stands in for `os` in `files` and fails at the n-th call that changes the disk."""

    def __init__(self, at: int, error: BaseException, *, dead_afterwards: bool) -> None:
        self.calls: list[str] = []
        self._at, self._error, self._dead = at, error, dead_afterwards

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in STEPS:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) - 1 == self._at or (self._dead and len(self.calls) - 1 > self._at):
                raise self._error
            return real(*arguments, **options)

        return call


def _every_failure(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, *, dead: bool, write: Callable[[], None]
) -> Iterator[str]:
    """Run `write` with a failure at its first, second, … step; yields the step's name after each."""
    for at in range(50):
        failing = FailingOs(at, error, dead_afterwards=dead)
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", failing)
            try:
                write()
            except type(error):
                pass
        if len(failing.calls) <= at:
            assert at >= 5, "the control: a write has at least five steps that can fail"
            return
        yield failing.calls[at]
    pytest.fail("never came to its end")


def test_power_cut_at_any_step_leaves_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "card"
    seen = set()

    def write() -> None:
        target.write_bytes(OLD)
        files.atomic_write(target, NEW)

    for step in _every_failure(monkeypatch, PowerCut(), dead=True, write=write):
        assert target.read_bytes() in (OLD, NEW), step
        seen.add(target.read_bytes())
    assert seen == {OLD, NEW}


def test_power_cut_while_a_new_file_is_made_leaves_none_or_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "link.key"
    seen = set()

    def write() -> None:
        target.unlink(missing_ok=True)
        files.atomic_write(target, NEW, mode=0o600, replace=False)

    for step in _every_failure(monkeypatch, PowerCut(), dead=True, write=write):
        found = target.read_bytes() if target.exists() else None
        assert found in (None, NEW), step
        seen.add(found)
    assert seen == {None, NEW}
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"link.key"}


def test_full_disk_at_any_step_is_an_error_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "card"
    full = OSError(errno.ENOSPC, "No space left on device")

    def write() -> None:
        target.write_bytes(OLD)
        files.atomic_write(target, NEW)

    for step in _every_failure(monkeypatch, full, dead=False, write=write):
        assert target.read_bytes() in (OLD, NEW), step
        if step != "unlink":
            assert [path.name for path in tmp_path.iterdir()] == ["card"], step
        files.sweep(tmp_path)


def test_data_is_flushed_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = FailingOs(1000, PowerCut(), dead_afterwards=False)
    monkeypatch.setattr(files, "os", failing)

    files.atomic_write(tmp_path / "card", NEW)

    assert failing.calls == ["open", "fchmod", "fsync", "replace", "unlink", "open", "fsync"]


def test_an_existing_file_is_never_replaced_unasked(tmp_path: Path) -> None:
    target = tmp_path / "identity.key"
    target.write_bytes(OLD)

    with pytest.raises(FileExistsError):
        files.atomic_write(target, NEW, replace=False)
    assert target.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_mode_does_not_depend_on_the_umask(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o077 if mode == 0o644 else 0)
    try:
        files.atomic_write(tmp_path / "x", NEW, mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


def test_owner_of_a_replaced_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, or the file would change hands each time that a command touches it."""
    target = tmp_path / "peer.toml"
    target.write_bytes(OLD)
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda _fd, uid, gid: given.append((uid, gid)))

    files.atomic_write(target, NEW)

    assert given == [(target.stat().st_uid, target.stat().st_gid)]


# --- private files --------------------------------------------------------------------------------------------


def _private(tmp_path: Path, mode: int) -> Path:
    path = tmp_path / "x.key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_private_file_is_read(tmp_path: Path, mode: int) -> None:
    assert files.read_private(_private(tmp_path, mode), "a key") == b"secret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602, 0o666, 0o700])
def test_private_file_that_others_might_read_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    path = _private(tmp_path, mode)

    with pytest.raises(KeyFileError, match=rf"{path}: a key has mode {mode:04o}.*chmod 0600 {path}"):
        files.read_private(path, "a key")


def test_private_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _private(tmp_path, 0o600)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)

    with pytest.raises(KeyFileError, match=r"belongs to .*chown"):
        files.read_private(path, "a key")


def test_private_file_must_be_a_plain_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)

    for path, says in ((fifo, "plain file"), (tmp_path, "plain file"), (tmp_path / "none", "No such file")):
        with pytest.raises(KeyFileError, match=says):
            files.read_private(path, "a key")


def test_private_file_of_absurd_size_is_refused(tmp_path: Path) -> None:
    path = _private(tmp_path, 0o600)
    path.write_bytes(bytes(files.PRIVATE_FILE_MAX + 1))

    with pytest.raises(KeyFileError, match="too large"):
        files.read_private(path, "a key")


@pytest.mark.parametrize(
    ("blocks", "free_files", "said"), [(255, 9, "1020 KiB left"), (256, 0, "no file left"), (256, 9, None)]
)
def test_a_disk_that_is_full_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, free_files: int, said: str | None
) -> None:
    disk = SimpleNamespace(f_bavail=blocks, f_frsize=4096, f_favail=free_files, f_files=1000)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    found = files.want_of_room(tmp_path)
    assert (found is None) == (said is None)
    assert said is None or said in str(found)
