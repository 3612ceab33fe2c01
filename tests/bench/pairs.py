"""What is measured: pairs of programs in a row, a near end that takes connections and a far end that hands them on.

A further peer is one more function here and one more line in PAIRS.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.e2e.hubs import Hub
from tests.e2e.processes import Child


@dataclass(frozen=True, slots=True)
class Place:
    """Where one pair works: three addresses of its own and a folder. All HOST:PORT."""

    directory: Path
    entrance: str
    middle: str
    sink: str


@dataclass(frozen=True, slots=True)
class Pair:
    """`start` gives the process ids of both ends once connections to the entrance reach the sink."""

    name: str
    text: str
    start: Callable[[Place], AbstractContextManager[tuple[int, ...]]]
    programs: tuple[str, ...] = ()


def cpu_seconds(pids: tuple[int, ...]) -> float:
    """User and system time of the processes so far, all their threads together (fields 14 and 15 of proc(5) stat)."""
    ticks = 0
    for pid in pids:
        # The name in parentheses may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def accepts(address: str) -> bool:
    """Whether somebody listens there, whatever they do with the connection."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


_HAPROXY = """\
global
    tune.bufsize 65536
    maxconn 2000
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen {name}
    bind {listen}
    server next {target}
"""


@contextmanager
def haproxy_plain(place: Place) -> Iterator[tuple[int, ...]]:
    """HAProxy as a TCP proxy, twice, without TLS: what can be had where nothing is protected."""
    ends = [
        _haproxy(place.directory, "near", place.entrance, place.middle),
        _haproxy(place.directory, "far", place.middle, place.sink),
    ]
    try:
        for end, address in zip(ends, (place.entrance, place.middle), strict=True):
            end.wait_for(partial(accepts, address), f"haproxy to listen on {address}")
        yield tuple(end.pid for end in ends)
    finally:
        for end in ends:
            end.stop()


def _haproxy(directory: Path, name: str, listen: str, target: str) -> Child:
    config = directory / f"{name}.cfg"
    config.write_text(_HAPROXY.format(name=name, listen=listen, target=target))
    return Child(f"haproxy {name}", ["haproxy", "-db", "-f", str(config)], directory / f"{name}.log")


@contextmanager
def hubtunnel(place: Place, *, loop: str) -> Iterator[tuple[int, ...]]:
    """Our own daemons, with their default settings but for the PROXY header, which the sink does not understand."""
    near, far = (
        Hub(f"{name}.example", place.directory / name, listen=listen, deliver=place.sink, namespace=None)
        # The near end needs no listener that anybody dials: any port will do.
        for name, listen in (("near", f"{place.middle.rpartition(':')[0]}:0"), ("far", place.middle))
    )
    unused = place.entrance.rpartition(":")[0] + ":2523"
    near.introduce(far, listen=place.entrance, endpoint=place.middle)
    far.introduce(near, listen=unused)
    far.configure_peer(near, "[deliver]", 'proxy_protocol = "none"')
    try:
        for hub in (near, far):
            hub.start(loop=loop)
        for hub in (near, far):
            hub.wait_until_up()
        yield (near.pid, far.pid)
    finally:
        for hub in (near, far):
            hub.stop()


PAIRS = {
    pair.name: pair
    for pair in (
        Pair("haproxy", "HAProxy, plain TCP, two in a row", haproxy_plain, ("haproxy",)),
        Pair("hubtunnel", "hubtunnel on uvloop", partial(hubtunnel, loop="uvloop")),
        Pair("hubtunnel-asyncio", "hubtunnel on asyncio's own loop", partial(hubtunnel, loop="asyncio")),
    )
}

REFERENCE = "haproxy"
"""The pair that all ratios are taken against."""
