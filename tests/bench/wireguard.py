"""wireguard-go between two network namespaces: everything between the hubs in one encrypted network of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench.ways import Place, Running, host_port
from tests.e2e.namespaces import Namespace
from tests.e2e.processes import Child, run

_ADDRESSES = ("198.51.100.1", "198.51.100.2")  # TEST-NET-2, inside the tunnel
_FIRST_PORT = 21820


def lacking() -> str:
    """Why it cannot run on this machine; empty when it can."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    return "" if Path("/dev/net/tun").exists() else "this kernel has no TUN device (/dev/net/tun)"


@contextmanager
def wireguard(place: Place) -> Iterator[Running]:
    """The sink, as its place has it, reached through the tunnel's own addresses."""
    assert place.near is not None
    assert place.far is not None
    ends = (place.near, place.far)
    keys = [place.directory / "near.key", place.directory / "far.key"]
    publics = []
    for key in keys:
        key.write_text(run("wg", "genkey"))
        key.chmod(0o600)
        publics.append(run("sh", "-c", 'wg pubkey < "$1"', "sh", str(key)).strip())
    port = _FIRST_PORT + place.number
    children: list[Child] = []
    try:
        # The sockets by which `wg` reaches the programs have the interfaces' names, in one folder for all namespaces.
        names = [f"wg{os.getpid() % 100_000}x{place.number}{side}" for side in "ab"]
        for own, other in ((0, 1), (1, 0)):
            children.append(_started(place, names[own], ends[own]))
            _configure(names[own], ends[own], keys[own], publics[other], port, ends[other].address)
            run("ip", "-n", ends[own].name, "address", "add", f"{_ADDRESSES[own]}/30", "dev", names[own])
            run("ip", "-n", ends[own].name, "link", "set", names[own], "up")
        entrance = f"{_ADDRESSES[1]}:{host_port(place.direct)[1]}"
        children[0].wait_for(partial(place.accepts, entrance, place.near), f"{entrance} through WireGuard")
        yield Running(tuple(child.pid for child in children), entrance)
    finally:
        for child in children:
            child.stop()


def _started(place: Place, name: str, inside: Namespace) -> Child:
    child = place.start(name, ["wireguard-go", "-f", name], inside)
    child.wait_for(Path(f"/var/run/wireguard/{name}.sock").exists, f"the control socket of {name}")
    return child


def _configure(name: str, inside: Namespace, key: Path, peer: str, port: int, endpoint: str) -> None:
    peer_options = ("peer", peer, "allowed-ips", "198.51.100.0/30", "endpoint", f"{endpoint}:{port}")
    own_options = ("listen-port", str(port), "private-key", str(key))
    run(*inside.argv(["wg", "set", name, *own_options, *peer_options]))
