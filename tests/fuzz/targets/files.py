"""Files: the configuration and private keys. Both are read from real files, in a folder that ends with the process."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from hubtunnel import config as configuration
from hubtunnel.errors import ConfigError, KeyFileError
from hubtunnel.identity import keyfiles
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


def key_file(data: bytes) -> None:
    """A private key file: read, or refused in one line that shows nothing of what is in it."""
    choices = Choices(data)
    whole, kind = choices.below(2), choices.below(3)
    body = choices.rest()
    path = folder() / "some.key"
    path.write_bytes(body if whole else keyfiles.MAGIC + bytes((keyfiles.FORMAT,)) + body)
    path.chmod(0o600)
    limit, keyfiles.MEMLIMIT_MAX = keyfiles.MEMLIMIT_MAX, ARGON2_MEMORY
    try:
        if kind == 0:
            assert len(keyfiles.read_link_key(path).mlkem_seed) == 64
        elif kind == 1:
            assert len(keyfiles.read_identity(path, lambda: b"passphrase").ed25519_seed) == 32
        else:
            keyfiles.is_locked(path)
    except KeyFileError as error:
        require(str(error).startswith(str(path)) and "\n" not in str(error), str(error))
        require(error.__cause__ is None, "the decoder's own error could show bytes of a key")
    finally:
        keyfiles.MEMLIMIT_MAX = limit
