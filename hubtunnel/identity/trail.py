"""The trail: an append-only record of what was done to keys, cards and pins, when, and by whom.

    trail.jsonl    one JSON object a line: n (1, 2, 3 …), at, what, by {uid, user}, details, prev
    trail.head     number and hash of the last line

`prev` is the hash of the exact line before, so a line that is changed or taken out of the middle is found; `trail.head`
finds lines taken off the end. Both are in one folder: who may write it can make a whole trail anew, so copy the hash of
the head elsewhere (`hubtunnel key list --trail` prints it) where that matters.

The trail is never rotated: it grows by some 300 bytes a change, a megabyte in thirty years of monthly rotation.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from hubtunnel import crypto
from hubtunnel.errors import CardError, HubtunnelError
from hubtunnel.identity import files
from hubtunnel.identity.caller import Caller
from hubtunnel.identity.card import SignedCard
from hubtunnel.identity.state import State

LINE_MAX = 64 * 1024
BEFORE_FIRST = bytes(32).hex()  # `prev` of the first line
_DOMAIN = b"hubtunnel trail\0"  # a file's, not the wire's


class TrailError(HubtunnelError):
    """The trail was altered or cannot be written; the text names file, line and what to do."""


@dataclass(frozen=True)
class Entry:
    """One line."""

    n: int
    at: str
    what: str
    uid: int
    user: str
    details: dict[str, Any]
    hash: str


@dataclass(frozen=True)
class _Head:
    n: int
    hash: str


@dataclass(frozen=True)
class _Verified:
    """The end of a trail whose every line was checked, and the file as it was then: inode, size, ctime in ns."""

    head: _Head
    stamp: tuple[int, int, int]


# Of each state that is open. Whoever changes the file changes its ctime, which nobody can set back.
_VERIFIED: WeakKeyDictionary[State, _Verified] = WeakKeyDictionary()


class Trail:
    """The trail of one state folder. Appending needs the state's lock; reading does not."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.path: Path = state.folder / "trail.jsonl"
        self._head_path = state.folder / "trail.head"

    def append(self, what: str, by: Caller, now: float, **details: Any) -> None:
        """Add a line, durable once this returns. Secrets never belong into `details`.

        Raises `TrailError` when the trail is broken or cannot be written.
        """
        self.append_each(what, by, now, [details])

    def append_each(self, what: str, by: Caller, now: float, each: Sequence[Mapping[str, Any]]) -> None:
        """A line for each of these details, durable once for all.

        The trail is verified before, unless nobody has changed it since this process did that or added to it.

        A crash in between leaves the first of them. Raises as `append` does.
        """
        if not self._state.writable:
            raise RuntimeError("the state folder was opened for reading")
        last = self._last(by, now)
        self._write(last, what, by, now, each)

    def append_daily(self, what: str, by: Caller, now: float, about: tuple[str, ...], **details: Any) -> None:
        """The same, at most once a day for the same values of the details named by `about`.

        For what a peer causes or what would be said at every start: nobody must be able to fill the disk.
        """
        day = _rfc3339(now)[:10]
        wanted = [details.get(name) for name in about]
        for entry in self.entries():
            if entry.what == what and entry.at[:10] == day and [entry.details.get(name) for name in about] == wanted:
                return
        self.append(what, by, now, **details)

    def entries(self) -> Iterator[Entry]:
        """All whole lines, each checked against the one before. Raises `TrailError` at the first that is broken."""
        previous = BEFORE_FIRST
        for n, line in enumerate(self._lines(), 1):
            entry, prev = self._parse(n, line)
            if prev != previous:
                raise self._broken(n, "does not follow the line before it: one was changed or taken out")
            previous = entry.hash
            yield entry

    def verify(self) -> Entry | None:
        """The last line after all were checked, None of an empty trail. Raises `TrailError` at the first broken one."""
        last: Entry | None = None
        for entry in self.entries():
            last = entry
        head = self._read_head()
        if head is not None and (last is None or last.n < head.n):
            raise self._broken((last.n if last else 0) + 1, f"is missing: there were {head.n} lines")
        if head is not None and last is not None and last.n == head.n and last.hash != head.hash:
            raise self._broken(head.n, "is not the line that was written last")
        return last

    # --- writing ------------------------------------------------------------------------------------------------

    def _last(self, by: Caller, now: float) -> _Head:
        """The line to continue; what a crash left behind is put right first."""
        torn = self._cut_torn_line()
        verified = _VERIFIED.get(self._state)
        if verified is not None and verified.stamp == self._stamp() and verified.head == self._read_head():
            return verified.head  # a hub with many peers adds a line for each card of theirs
        entry = self.verify()
        last = _Head(entry.n, entry.hash) if entry is not None else _Head(0, BEFORE_FIRST)
        if torn:
            last = self._write(last, "repaired", by, now, [{"note": f"{torn} bytes of a line cut off by a crash"}])
        return last

    def _write(self, head: _Head, what: str, by: Caller, now: float, each: Sequence[Mapping[str, Any]]) -> _Head:
        lines = []
        for details in each:
            line = self._line(head, what, by, now, details)
            head = _Head(head.n + 1, _hash(line))
            lines.append(line + b"\n")
        if not lines:
            return head
        try:
            self._append(b"".join(lines))
            # A crash in between leaves a head some lines behind, which the next append puts right.
            self._state.store(self._head_path, f"{head.n} {head.hash}\n")
            stamp = self._stamp()
        except OSError as exc:
            raise TrailError(f"{self.path}: cannot be written: {exc.strerror}") from exc
        if stamp is not None:
            _VERIFIED[self._state] = _Verified(head, stamp)
        return head

    def _stamp(self) -> tuple[int, int, int] | None:
        """None where there is no file."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_ctime_ns

    def _line(self, last: _Head, what: str, by: Caller, now: float, details: Mapping[str, Any]) -> bytes:
        line = json.dumps(
            {
                "n": last.n + 1,
                "at": _rfc3339(now),
                "what": what,
                "by": {"uid": by.uid, "user": by.name},
                "details": dict(details),
                "prev": last.hash,
            }
        ).encode("ascii")
        if len(line) > LINE_MAX:
            raise TrailError(f"{self.path}: a line of {len(line)} bytes is too long")
        return line

    def _append(self, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        made = not self.path.exists()
        descriptor = os.open(self.path, flags, files.PRIVATE_MODE)
        try:
            owner = files.state_owner()
            if made and owner is not None:
                os.fchown(descriptor, *owner)
            size = os.fstat(descriptor).st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)  # a full disk leaves no half line
                raise
        finally:
            os.close(descriptor)
        if made:
            files.sync_folder(self.path.parent)

    def _cut_torn_line(self) -> int:
        """Take off what stands behind the last line's end: a crash left it. Returns how many bytes."""
        try:
            with open(self.path, "r+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - LINE_MAX - 1))
                tail = file.read()
                torn = len(tail) - (tail.rfind(b"\n") + 1)
                if torn:
                    file.truncate(size - torn)
                    os.fsync(file.fileno())
                return torn
        except FileNotFoundError:
            return 0
        except OSError as exc:
            raise TrailError(f"{self.path}: cannot be written: {exc.strerror}") from exc

    # --- reading ------------------------------------------------------------------------------------------------

    def _lines(self) -> Iterator[bytes]:
        """All lines that are whole."""
        try:
            with open(self.path, "rb") as file:
                while line := file.readline(LINE_MAX + 1):
                    if not line.endswith(b"\n"):
                        return
                    yield line[:-1]
        except FileNotFoundError:
            return
        except OSError as exc:
            raise TrailError(f"{self.path}: cannot be read: {exc.strerror}") from exc

    def _parse(self, n: int, line: bytes) -> tuple[Entry, str]:
        try:
            fields = json.loads(line)
            by = fields["by"]
            entry = Entry(
                int(fields["n"]),
                str(fields["at"]),
                str(fields["what"]),
                int(by["uid"]),
                str(by["user"]),
                dict(fields["details"]),
                _hash(line),
            )
            prev = str(fields["prev"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise self._broken(n, "is damaged") from None
        if entry.n != n:
            raise self._broken(n, f"has the number {entry.n}: a line was taken out or put in")
        return entry, prev

    def _read_head(self) -> _Head | None:
        try:
            n, digest = self._head_path.read_text(encoding="ascii").split()
            return _Head(int(n), digest)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise TrailError(f"{self._head_path}: cannot be read: {exc.strerror}") from exc
        except ValueError:
            raise TrailError(
                f"{self._head_path}: is damaged; compare the trail with a backup, then remove it"
            ) from None

    def _broken(self, n: int, text: str) -> TrailError:
        return TrailError(
            f"{self.path}: line {n} {text}; keep this file for whoever looks into it, "
            f"move it and {self._head_path.name} away, and a new trail begins"
        )


def note_accepted(state: State, by: Caller, now: float, accepted: Mapping[str, SignedCard]) -> str | None:
    """Put peers' cards, by the peers' names, on the trail. Returns why that failed: the cards count all the same."""
    each = [
        {"peer": peer, "serial": signed.card.serial, "hash": signed.card.hash.hex()}
        for peer, signed in accepted.items()
    ]
    try:
        Trail(state).append_each("card accepted", by, now, each)
    except TrailError as exc:
        return str(exc)
    return None


def note_refused(state: State, by: Caller, now: float, peer: str, why: CardError) -> str | None:
    """Put a refusal on the trail, once a day for each peer and code. Returns why that failed."""
    try:
        Trail(state).append_daily("card refused", by, now, ("peer", "code"), peer=peer, code=why.code, reason=str(why))
    except TrailError as exc:
        return str(exc)
    return None


def _rfc3339(now: float) -> str:
    return datetime.datetime.fromtimestamp(int(now), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _hash(line: bytes) -> str:
    return crypto.H(_DOMAIN, line).hex()
