"""Listening sockets by address, so that a reload binds what is new before it gives up anything that is old."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping

from hubtunnel.daemon import sockets
from hubtunnel.daemon.sockets import ListenError
from hubtunnel.errors import ListenConfigError

# (host, port, owner): the owner tells sockets with port 0 apart, which take any free port each.
Key = tuple[str, int, str]
_Place = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]


def key_of(address: tuple[str, int], owner: str) -> Key:
    """The key of a listening address of `owner` (a peer's name, or "" for carriers)."""
    host, port = address
    return host, port, owner if port == 0 else ""


class SocketPool:
    """Keeps one listening socket per address; listeners get duplicates, so that an address can change its owner.

    `inherited` sockets belong to a supervisor, which goes on holding them: those that are wanted are used in place of
    new ones, and none is closed before `close`.
    """

    def __init__(self, inherited: Iterable[socket.socket] = ()) -> None:
        self._sockets: dict[Key, socket.socket] = {}
        self._inherited = {_place(sock.getsockname()): sock for sock in inherited}

    def bind_missing(self, wanted: Mapping[Key, str]) -> list[Key]:
        """Bind all of `wanted` (key: what to name in an error) that are not there; the keys that were new.

        Raises `ListenConfigError` with a line for each that failed; then none of them is bound.
        """
        new: list[Key] = []
        problems: list[str] = []
        for key, what in wanted.items():
            if key in self._sockets:
                continue
            try:
                self._sockets[key] = self._inherit(key, what) or sockets.listen(key[0], key[1], what)
                new.append(key)
            except ListenError as exc:
                problems.append(str(exc))
        if problems:
            self.release(new)
            raise ListenConfigError(problems)
        return new

    def _inherit(self, key: Key, what: str) -> socket.socket | None:
        place = _place(key)
        sock = self._inherited.get(place)
        if sock is not None:
            return sockets.duplicate(sock, what)
        both = self._inherited.get((ipaddress.IPv6Address("::"), place[1]))
        if both is not None and place[0].version == 4 and not both.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            raise ListenError(
                f"{what}: {key[0]} port {key[1]} is taken by the supervisor's socket [::]:{key[1]}, which takes IPv4"
                " too: set BindIPv6Only=ipv6-only in hubtunnel.socket, and list both addresses there"
            )
        return None

    def take(self, keys: Iterable[Key]) -> dict[Key, socket.socket]:
        """Duplicates of bound sockets, for listeners to own: all of them, or none and a `ListenConfigError`."""
        taken: dict[Key, socket.socket] = {}
        try:
            for key in keys:
                taken[key] = sockets.duplicate(self._sockets[key], f"{key[0]} port {key[1]}")
        except ListenError as exc:
            for sock in taken.values():
                sock.close()
            raise ListenConfigError([str(exc)]) from None
        return taken

    def unused(self) -> dict[Key, socket.socket]:
        """Sockets of the supervisor that nothing is configured to listen on."""
        used = {_place(key) for key in self._sockets}
        return {(str(place[0]), place[1], ""): sock for place, sock in self._inherited.items() if place not in used}

    @property
    def inherited(self) -> int:
        """How many sockets the supervisor holds for us."""
        return len(self._inherited)

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
        for sock in self._inherited.values():
            sock.close()
        self._inherited.clear()


def _place(name: tuple[object, ...]) -> _Place:
    return ipaddress.ip_address(str(name[0]).partition("%")[0]), int(str(name[1]))
