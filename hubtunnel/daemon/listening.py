"""Every address that the hub listens on: all of a configuration's or none, bound before anything old is given up."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from hubtunnel.config import Config
from hubtunnel.daemon.listeners import CarrierListener
from hubtunnel.daemon.logs import event, log
from hubtunnel.daemon.pool import Key, SocketPool, key_of
from hubtunnel.daemon.services import Services


class Listening:
    """Owns the bound sockets; gate and links are given duplicates."""

    def __init__(self, services: Services, inherited: Iterable[socket.socket]) -> None:
        self._services = services
        self._pool = SocketPool(inherited)
        self._refusers: dict[Key, CarrierListener] = {}

    def bind(self, config: Config) -> None:
        """Bind what is not bound yet. Raises `ConfigError` with every address that cannot be; then none is."""
        self._pool.bind_missing(_wanted(config))

    def take(self, config: Config, names: Iterable[str]) -> tuple[dict[Key, socket.socket], dict[str, socket.socket]]:
        """Duplicates for the gate by key, and for links by peer's name: for those of `names` that have an address.

        Raises `ConfigError` when there are not descriptors enough for all of them; then none is taken.
        """
        carriers = _carrier_keys(config)
        mail = {
            key_of(peer.listen, peer.name): peer.name
            for peer in map(config.peer, names)
            if peer is not None and peer.listen is not None
        }
        taken = self._pool.take([*carriers, *mail])
        return {key: taken[key] for key in carriers}, {name: taken[key] for key, name in mail.items()}

    def settle(self, config: Config) -> None:
        """Let go of what `config` does not want. On a supervisor's socket that nobody wants nobody is left hanging."""
        self._pool.keep_only(_wanted(config))
        unused = self._pool.unused()
        for key in [key for key in self._refusers if key not in unused]:
            self._refusers.pop(key).close()
        for key in [key for key in unused if key not in self._refusers]:
            event(
                log.warning, "socket_unused", address=f"{key[0]} port {key[1]}", cure="take it out of hubtunnel.socket"
            )
            self._refusers[key] = CarrierListener(
                self._services.loop,
                unused[key].dup(),
                lambda sock, _: sock.close(),
                self._services.throttle,
                self._services.refused,
            )

    def drain(self, config: Config) -> None:
        """Keep the carriers' sockets alone, for resumes. At a supervisor's others one waits for the next daemon."""
        self._stop_refusing()
        carriers = _carrier_keys(config)
        self._pool.keep_only(dict.fromkeys(carriers, ""))

    @property
    def inherited(self) -> int:
        """How many sockets a supervisor holds for us."""
        return self._pool.inherited

    def close(self) -> None:
        """Listen nowhere."""
        self._stop_refusing()
        self._pool.close()

    def _stop_refusing(self) -> None:
        for refuser in self._refusers.values():
            refuser.close()
        self._refusers.clear()


def _carrier_keys(config: Config) -> list[Key]:
    return [key_of(address, "") for address in config.listen]


def _wanted(config: Config) -> dict[Key, str]:
    """All listening addresses with what to name in an error."""
    wanted = {key_of(address, ""): f"{config.path}: listen" for address in config.listen}
    for peer in config.peers:
        if peer.listen is not None:
            wanted[key_of(peer.listen, peer.name)] = f"{peer.path}: listen"
    return wanted
