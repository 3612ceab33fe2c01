"""The state folder: own keys and cards, and per peer the first and the latest card accepted.

    format                 "hubtunnel state 1"
    lock                   held (flock) by whoever may write: the daemon, or a command while none runs
    identity.key           the identity key, unless it lives on another machine
    keys/ID.key            own link keys, by id
    cards/SERIAL.card      own cards, all of them
    identity-IDFP.key      the identity before or after that one, while a change of identity is under way
    peers/PIN.cards        the first and the latest accepted card of the peer pinned by PIN (hexadecimal)
    peers/PIN.known        what that peer is known to hold of us (see `acknowledged`)
    trail.jsonl            what was done to all these, and by whom (see `trail`)

Cards are armoured text, which keeps their exact bytes. Every file is written atomically and flushed before a method
that writes returns. Reading needs no lock.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from hubtunnel.errors import CardError, HubtunnelError, KeyFileError
from hubtunnel.identity import files, keyfiles
from hubtunnel.identity.armour import armour, armour_all, read_cards
from hubtunnel.identity.card import IdentitySecret, SignedCard
from hubtunnel.protocol.pair import LinkSecret

FORMAT = 1
_FOLDERS = ("keys", "cards", "peers")
_FORMAT_TEXT = "hubtunnel state "


class StateError(HubtunnelError):
    """The state folder cannot be used; the text names file and cure."""


class StateLockedError(StateError):
    """Another process holds the state folder: a daemon runs, or another command is at work."""


@dataclass(frozen=True, slots=True)
class PeerCards:
    """What was accepted of a peer."""

    first: SignedCard
    latest: SignedCard


class State:
    """The state folder of one hub. Make it with `create` or `open`; it is a context manager."""

    def __init__(self, folder: Path, lock: int | None) -> None:
        self.folder = folder
        self._lock = lock

    @classmethod
    def create(cls, folder: Path) -> State:
        """Make a new state folder and hold it. Raises `StateError` when something is there already."""
        owner = files.state_owner()
        try:
            files.make_folder(folder, files.STATE_MODE, owner)
            if any(folder.iterdir()):
                raise StateError(f"{folder}: is not empty; nothing is ever overwritten here")
            files.own_folder(folder, files.STATE_MODE, owner)  # an empty one may have been there for anybody
            for name in _FOLDERS:
                files.make_folder(folder / name, files.STATE_MODE, owner)
            # Last, so that a folder without it is one whose making was cut short.
            text = f"{_FORMAT_TEXT}{FORMAT}\n"
            files.atomic_write(folder / "format", text.encode(), mode=files.PRIVATE_MODE, owner=owner)
        except OSError as exc:
            raise StateError(f"{exc.filename or folder}: cannot be made: {exc.strerror}") from exc
        return cls.open(folder, write=True)

    @classmethod
    def open(cls, folder: Path, *, write: bool = False) -> State:
        """Open a state folder, to read it or, with `write`, to be the one process that writes it.

        Raises `StateLockedError` when another process writes it, and `StateError` when it is missing, unreadable or of
        another format.
        """
        _check_format(folder)
        if not write:
            return cls(folder, None)
        state = cls(folder, _take_lock(folder))
        for each in (folder, *(folder / name for name in _FOLDERS)):
            files.sweep(each)
        return state

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def writable(self) -> bool:
        """Whether this process holds the lock."""
        return self._lock is not None

    # --- own keys -------------------------------------------------------------------------------------------

    @property
    def identity_path(self) -> Path:
        return self.folder / "identity.key"

    def has_identity(self) -> bool:
        """Whether the identity key lives here; it may live on another machine."""
        return self.identity_path.exists()

    def identity(self, passphrase: keyfiles.Passphrase | None = None) -> IdentitySecret:
        """The identity key. Raises `KeyFileError`."""
        return keyfiles.read_identity(self.identity_path, passphrase)

    def add_identity(self, key: IdentitySecret, passphrase: bytes | None = None) -> None:
        """Store the identity key; there must be none."""
        self._must_write()
        keyfiles.write_identity(self.identity_path, key, passphrase)

    def identity_file(self, idfp: bytes) -> Path:
        """Where the key of an identity stands that is not, or not yet, the one in use."""
        return self.folder / f"identity-{idfp.hex()}.key"

    def add_identity_aside(self, key: IdentitySecret, passphrase: bytes | None = None) -> None:
        """Store an identity key that is to follow the one in use."""
        self._must_write()
        keyfiles.write_identity(self.identity_file(key.public.idfp), key, passphrase)

    def identities_aside(self) -> list[Path]:
        """Keys of identities that are not in use, in a fixed order."""
        return sorted(self.folder.glob("identity-*.key"))

    def link_key_path(self, key_id: bytes) -> Path:
        return self.folder / "keys" / f"{key_id.hex()}.key"

    def link_key_files(self) -> list[Path]:
        """All files of own link keys, in a fixed order."""
        return self._list("keys", ".key")

    def link_keys(self) -> tuple[list[LinkSecret], list[str]]:
        """All own link keys that can be read, and a line for each that cannot."""
        keys: list[LinkSecret] = []
        problems: list[str] = []
        for path in self.link_key_files():
            try:
                key = keyfiles.read_link_key(path)
            except KeyFileError as exc:
                problems.append(str(exc))
                continue
            if path.stem != key.id.hex():
                problems.append(f"{path}: holds the link key {key.id.hex()}; rename it back")
                continue
            keys.append(key)
        return keys, problems

    def add_link_key(self, key: LinkSecret) -> None:
        """Store a new own link key."""
        self._must_write()
        keyfiles.write_link_key(self.link_key_path(key.id), key)

    def remove_link_key(self, key_id: bytes) -> bool:
        """Delete an own link key; False when there was none. Flash memory may keep what a file held (THREATS.md)."""
        return self.remove(self.link_key_path(key_id))

    # --- own cards ------------------------------------------------------------------------------------------

    def cards(self) -> list[SignedCard]:
        """All own cards that we still have, oldest first. Raises `StateError` when one is damaged or foreign."""
        cards = [_read_cards(path)[0] for path in self._list("cards", ".card")]
        cards.sort(key=lambda signed: signed.card.serial)
        for before, after in pairwise(cards):
            if after.card.serial == before.card.serial + 1 and after.card.previous != before.card.hash:
                raise StateError(
                    f"{self.folder / 'cards'}: card {after.card.serial} does not follow card {before.card.serial}: "
                    "one of them is not ours; restore the folder from a backup"
                )
        return cards

    def card_path(self, serial: int) -> Path:
        return self.folder / "cards" / f"{serial:08d}.card"

    def add_card(self, signed: SignedCard) -> None:
        """Store a new own card."""
        self._write(self.card_path(signed.card.serial), armour(signed), replace=False)

    # --- peers ----------------------------------------------------------------------------------------------

    def peer_path(self, pin: bytes) -> Path:
        return self.folder / "peers" / f"{pin.hex()}.cards"

    def peer(self, pin: bytes) -> PeerCards | None:
        """The cards accepted of the peer that `pin` pins, None when there is none yet."""
        path = self.peer_path(pin)
        try:
            cards = _read_cards(path)
        except FileNotFoundError:
            return None
        return PeerCards(cards[0], cards[-1])

    def set_peer(self, pin: bytes, cards: PeerCards) -> None:
        """Store what is accepted of a peer, whole, old or new at any point of a crash."""
        both = [cards.first] if cards.first.data == cards.latest.data else [cards.first, cards.latest]
        self._write(self.peer_path(pin), armour_all(both), replace=True)

    # --- any file -------------------------------------------------------------------------------------------

    def store(self, path: Path, text: str) -> None:
        """Write a file of the state folder whole, old or new at any point of a crash. Raises `OSError`."""
        self._must_write()
        files.atomic_write(path, text.encode(), mode=files.PRIVATE_MODE, owner=files.state_owner())

    def rename(self, path: Path, to: Path) -> None:
        """Give a file of the state folder another name, durably. Raises `StateError`."""
        self._must_write()
        try:
            os.rename(path, to)
            files.sync_folder(self.folder)
        except OSError as exc:
            raise StateError(f"{path}: cannot become {to.name}: {exc.strerror}") from exc

    def remove(self, path: Path) -> bool:
        """Delete a file of the state folder, durably; False when there was none. Raises `StateError`."""
        self._must_write()
        try:
            path.unlink()
            files.sync_folder(path.parent)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise StateError(f"{path}: cannot be removed: {exc.strerror}") from exc
        return True

    # --- inner ----------------------------------------------------------------------------------------------

    def _list(self, name: str, suffix: str) -> list[Path]:
        folder = self.folder / name
        try:
            return sorted(p for p in folder.iterdir() if p.suffix == suffix and not p.name.startswith("."))
        except OSError as exc:
            raise StateError(f"{folder}: cannot be read: {exc.strerror}") from exc

    def _write(self, path: Path, text: str, *, replace: bool) -> None:
        self._must_write()
        try:
            files.atomic_write(
                path, text.encode("ascii"), mode=files.PRIVATE_MODE, owner=files.state_owner(), replace=replace
            )
        except FileExistsError:
            raise StateError(f"{path}: is there already; a card is never overwritten") from None
        except OSError as exc:
            raise StateError(f"{path}: cannot be written: {exc.strerror}") from exc

    def _must_write(self) -> None:
        if self._lock is None:
            raise RuntimeError("the state folder was opened for reading")


def _check_format(folder: Path) -> None:
    path = folder / "format"
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(80).strip()
    except FileNotFoundError:
        raise StateError(f"{folder}: is no state folder of hubtunnel; `hubtunnel init` makes one") from None
    except UnicodeDecodeError:
        text = ""
    except OSError as exc:
        raise StateError(f"{path}: cannot be read: {exc.strerror}; run this as its owner or as root") from exc
    number = text.removeprefix(_FORMAT_TEXT)
    if not text.startswith(_FORMAT_TEXT) or not number.isdecimal():
        raise StateError(f"{path}: is damaged; it should read {_FORMAT_TEXT + str(FORMAT)!r}")
    if int(number) > FORMAT:
        raise StateError(f"{folder}: has state format {number}, this release knows {FORMAT}: run a newer release")
    if int(number) < FORMAT:
        raise StateError(f"{folder}: has state format {number}, which no release used: is it damaged?")


def _take_lock(folder: Path) -> int:
    path = folder / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, files.PRIVATE_MODE)
    except OSError as exc:
        raise StateError(f"{path}: cannot be opened: {exc.strerror}; run this as its owner or as root") from exc
    try:
        owner = files.state_owner()
        if owner is not None:
            os.fchown(descriptor, *owner)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StateLockedError(
            f"{folder}: another process of hubtunnel is at work on it: its daemon (`hubtunnel status` shows it,"
            " `hubtunnel stop` ends it), or a command that is not done"
        ) from None
    except OSError as exc:
        os.close(descriptor)
        raise StateError(f"{path}: cannot be locked: {exc.strerror}") from exc
    return descriptor


def _read_cards(path: Path) -> list[SignedCard]:
    try:
        return read_cards(path)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise StateError(f"{path}: cannot be read: {exc.strerror}") from exc
    except CardError as exc:
        raise StateError(f"{path}: {exc}; restore it from a backup") from exc
