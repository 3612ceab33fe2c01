"""Files that must survive a crash, and files that nobody else may read.

Everything of ours that is written is written here: to a temporary name beside the target, flushed, renamed, and
the folder flushed, so that a crash at any point leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

from hubtunnel.crypto import random_bytes
from hubtunnel.errors import KeyFileError

SERVICE_USER = "hubtunnel"
PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644
STATE_MODE = 0o700
PRIVATE_FILE_MAX = 64 * 1024  # no private file of ours is near this; what is larger is another file
ROOM_MIN = 1024 * 1024  # bytes; a change of keys takes some 100 KiB
_PIECE = 64 * 1024
_UNFINISHED = ".new"  # ends the temporary name of a file that is being written


def service_owner() -> tuple[int, int] | None:
    """(uid, gid) of the user that the daemon runs as, or None where that user does not exist."""
    try:
        entry = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None
    return entry.pw_uid, entry.pw_gid


def want_of_room(folder: Path) -> str | None:
    """What is wrong with the disk that `folder` is on, None where there is room for what a hub writes."""
    disk = os.statvfs(folder)
    left = disk.f_bavail * disk.f_frsize
    if left >= ROOM_MIN and (disk.f_favail or not disk.f_files):  # some file systems count no files
        return None
    what = f"{left // 1024} KiB" if left < ROOM_MIN else "no file"
    return f"{folder}: its disk is full ({what} left): no key and no card can be stored; make room there"


def state_owner() -> tuple[int, int] | None:
    """Whom state and key files are given to: the service user where we are root and it exists, else nobody else."""
    return service_owner() if os.geteuid() == 0 else None


def read_at_most(path: Path, most: int) -> bytes:
    """The first `most` bytes of a file. Raises `OSError`.

    In pieces: `read(most)` asks for the memory first, and what malloc learns from a megabyte that is given back at once
    (M_MMAP_THRESHOLD, mallopt(3)) is to keep two of them in each arena from then on.
    """
    pieces: list[bytes] = []
    with open(path, "rb") as file:
        while most > 0 and (piece := file.read(min(most, _PIECE))):
            pieces.append(piece)
            most -= len(piece)
    return b"".join(pieces)


def atomic_write(
    path: Path, data: bytes, *, mode: int = PUBLIC_MODE, owner: tuple[int, int] | None = None, replace: bool = True
) -> None:
    """Write `data` to `path` so that a crash leaves the old file or the new one, durably once this returns.

    `owner` is (uid, gid) for the new file; without it, that of the file replaced is kept where we may. With `replace`
    false an existing file is an error (`FileExistsError`), found and refused by the kernel in one step.
    """
    temporary = path.with_name(f".{path.name}.{random_bytes(6).hex()}{_UNFINISHED}")
    if owner is None and replace:
        owner = _owner_of(path)
    try:
        _write_new(temporary, data, mode, owner)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove what a crash in the middle of `atomic_write` left in `folder`. Only for whoever alone writes there."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Make `path` (and what leads to it) unless it is there; only a folder made here gets `mode` and `owner`."""
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=mode)
    own_folder(path, mode, owner)
    sync_folder(path.parent)


def own_folder(path: Path, mode: int, owner: tuple[int, int] | None) -> None:
    """Give a folder its mode whatever the umask was, and its owner if one is named."""
    path.chmod(mode)
    if owner is not None:
        os.chown(path, *owner)


def read_private(path: Path, what: str, limit: int = PRIVATE_FILE_MAX) -> bytes:
    """The bytes of a file that only its owner may read, at most `limit`.

    Raises `KeyFileError`, with the cure, when it is missing, not a plain file, another's, or open to others.
    """
    return read_checked(path, what, private_problem, limit)


def read_checked(
    path: Path, what: str, problem_of: Callable[[Path, os.stat_result, str], str | None], limit: int
) -> bytes:
    """The bytes of a file, at most `limit`, unless `problem_of` finds something wrong with its kind, mode or owner.

    These are of the file that was opened, so that nothing can be swapped in between. Raises `KeyFileError`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise KeyFileError(f"{path}: {what} cannot be read: {exc.strerror}") from exc
    try:
        problem = problem_of(path, os.fstat(descriptor), what)
        if problem:
            raise KeyFileError(problem)
        data = _read_up_to(descriptor, limit + 1)
    except OSError as exc:
        raise KeyFileError(f"{path}: {what} cannot be read: {exc.strerror}") from exc
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise KeyFileError(f"{path}: too large for {what}")
    return data


def _read_up_to(descriptor: int, limit: int) -> bytes:
    data = bytearray()
    while len(data) < limit and (chunk := os.read(descriptor, limit - len(data))):
        data += chunk
    return bytes(data)


def private_problem(path: Path, found: os.stat_result, what: str) -> str | None:
    """What is wrong with the kind, mode or owner of a private file, with the cure; None when nothing is."""
    if not stat.S_ISREG(found.st_mode):
        return f"{path}: {what} must be a plain file"
    if stat.S_IMODE(found.st_mode) & 0o177:
        return f"{path}: {what} has mode {stat.S_IMODE(found.st_mode):04o}, others might read it: chmod 0600 {path}"
    allowed = {os.geteuid()}
    service = state_owner()
    if service is not None:
        allowed.add(service[0])
    if found.st_uid not in allowed:
        owner, wanted = user_name(found.st_uid), user_name(service[0] if service is not None else os.geteuid())
        return f"{path}: {what} belongs to {owner}, not to {wanted}: chown {wanted} {path}"
    return None


def user_name(uid: int) -> str:
    """A user's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _owner_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if os.geteuid() != 0:
        return None
    return found.st_uid, found.st_gid


def _write_new(path: Path, data: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_MODE)
    with open(descriptor, "wb") as file:
        if owner is not None:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
