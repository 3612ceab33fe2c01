"""Files: configuration, private keys, state. They are real files, in a folder that ends with the process."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from hubtunnel import config as configuration
from hubtunnel.errors import CardError, ConfigError, KeyFileError
from hubtunnel.identity import acknowledged, bundle, keyfiles
from hubtunnel.identity.state import State, StateError
from hubtunnel.identity.trail import Trail, TrailError
from tests.fuzz.choices import Choices, require

HUB = b'name = "hub.example.org"\n'
ARGON2_MEMORY = 64 << 10  # bytes; the real limit would let an input take a gibibyte and a minute


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="hubtunnel-fuzz-")


def folder() -> Path:
    """A folder of this process."""
    return Path(_temporary().name)


def config(data: bytes) -> None:
    """hubtunnel.toml, or a file in peers.d beside a good one: mistakes become lines that name the file."""
    hub_file, peers = folder() / "hubtunnel.toml", folder() / "peers.d"
    peers.mkdir(exist_ok=True)
    peer_file = peers / "peer.example.net.toml"
    if data[:1] < b"\x80":
        hub_file.write_bytes(data[1:])
        peer_file.unlink(missing_ok=True)
    else:
        hub_file.write_bytes(HUB)
        peer_file.write_bytes(data[1:])
    try:
        loaded = configuration.load(hub_file)
    except ConfigError as error:
        require(error.problems, "no problem is named")
        for problem in error.problems:
            require(problem.startswith(str(folder())) and "\n" not in problem, problem)
    else:
        assert loaded.name


@contextmanager
def little_memory() -> Iterator[None]:
    """Files may ask for little memory only."""
    limit, keyfiles.MEMLIMIT_MAX = keyfiles.MEMLIMIT_MAX, ARGON2_MEMORY
    try:
        yield
    finally:
        keyfiles.MEMLIMIT_MAX = limit


def key_file(data: bytes) -> None:
    """A private key file: read, or refused in one line that shows nothing of what is in it."""
    choices = Choices(data)
    whole, kind = choices.below(2), choices.below(3)
    body = choices.rest()
    path = folder() / "some.key"
    path.write_bytes(body if whole else keyfiles.MAGIC + bytes((keyfiles.FORMAT,)) + body)
    path.chmod(0o600)
    try:
        with little_memory():
            if kind == 0:
                assert len(keyfiles.read_link_key(path).mlkem_seed) == 64
            elif kind == 1:
                assert len(keyfiles.read_identity(path, lambda: b"passphrase").ed25519_seed) == 32
            else:
                keyfiles.is_locked(path)
    except KeyFileError as error:
        check_key_error(error, path)


def check_key_error(error: KeyFileError, path: Path) -> None:
    require(str(error).startswith(str(path)) and "\n" not in str(error), str(error))
    require(error.__cause__ is None, "the decoder's own error could show bytes of a key")


def key_bundle(data: bytes) -> None:
    """A bundle of cards and link keys: read whole, or refused in one line."""
    choices = Choices(data)
    whole = choices.below(2)
    body = choices.rest()
    path = folder() / "some.bundle"
    try:
        with little_memory():
            opened = bundle.opened(body if whole else bundle.MAGIC + bytes((bundle.FORMAT,)) + body, str(path), b"word")
    except CardError as error:
        require(str(error), "an error without a text")
    except KeyFileError as error:
        check_key_error(error, path)
    else:
        assert bundle.Bundle.unpack(opened.pack()) == opened


def state_file(data: bytes) -> None:
    """Files of the state folder as a crash or a hand may leave them: the trail and its head, what peers hold of us."""
    choices = Choices(data)
    known = folder() / "peer.known"
    state = cast(State, SimpleNamespace(folder=folder(), writable=False, peer_path=lambda _pin: known))
    kind = choices.below(2)
    try:
        if kind == 0:
            head, *lines = choices.rest().split(b"\0")
            trail = Trail(state)
            (folder() / "trail.head").write_bytes(head)
            trail.path.write_bytes(b"\0".join(lines))
            entries = list(trail.entries())
            assert [entry.n for entry in entries] == list(range(1, len(entries) + 1))
            trail.verify()
        else:
            known.write_bytes(choices.rest())
            acknowledged.read(state, bytes(32))
    except (StateError, TrailError) as error:
        require(str(error).startswith(str(folder())), str(error))
