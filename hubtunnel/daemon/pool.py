"""Listening sockets by address, so that a reload binds what is new before it gives up anything that is old."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from hubtunnel.daemon import sockets
from hubtunnel.daemon.sockets import ListenError
from hubtunnel.errors import ConfigError

# (host, port, owner): the owner tells sockets with port 0 apart, which take any free port each.
Key = tuple[str, int, str]


def key_of(address: tuple[str, int], owner: str) -> Key:
    """The key of a listening address of `owner` (a peer's name, or "" for carriers)."""
    host, port = address
    return host, port, owner if port == 0 else ""


class SocketPool:
    """Keeps one listening socket per address; listeners get duplicates, so that an address can change its owner."""

    def __init__(self) -> None:
        self._sockets: dict[Key, socket.socket] = {}

    def bind_missing(self, wanted: Mapping[Key, str]) -> list[Key]:
        """Bind all of `wanted` (key: what to name in an error) that are not there; the keys that were new.

        Raises `ConfigError` with a line for each that failed; then none of them is bound.
        """
        new: list[Key] = []
        problems: list[str] = []
        for key, what in wanted.items():
            if key in self._sockets:
                continue
            try:
                self._sockets[key] = sockets.listen(key[0], key[1], what)
                new.append(key)
            except ListenError as exc:
                problems.append(str(exc))
        if problems:
            self.release(new)
            raise ConfigError(problems)
        return new

    def take(self, key: Key) -> socket.socket:
        """A duplicate of a bound socket, for a listener to own."""
        return self._sockets[key].dup()

    def keep_only(self, wanted: Mapping[Key, str]) -> None:
        """Let go of every address that is no longer wanted."""
        self.release([key for key in self._sockets if key not in wanted])

    def release(self, keys: list[Key]) -> None:
        """Let go of these addresses."""
        for key in keys:
            self._sockets.pop(key).close()

    def close(self) -> None:
        """Let go of all."""
        self.release(list(self._sockets))
