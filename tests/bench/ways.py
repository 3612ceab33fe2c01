"""What a pair of programs is, where it stands, and the way through it: a near end, a far end, a sink behind."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.e2e.namespaces import Namespace
from tests.e2e.processes import Child

_CPUCLOCK_SCHED = 2  # linux/posix-timers.h: the clock's kind, in the bits below the process' number

NEVER = 120.0
"""Seconds after which anything that is measured here hangs."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one pair works. All addresses are HOST:PORT; without namespaces all are on this machine's loopback.

    `entrance` is for connections to the near end, `middle` is where the far end listens for the near one, `sink` is how
    the far end reaches the sink, and `direct` how the sink is reached from the near side without a pair.
    """

    directory: Path
    number: int
    entrance: str
    middle: str
    sink: str
    direct: str
    near: Namespace | None = None
    far: Namespace | None = None

    def start(self, name: str, argv: Sequence[str], inside: Namespace | None) -> Child:
        """A program of this pair, its output in the place's folder."""
        log = self.directory / f"{name}.log"
        return Child(name, list(argv) if inside is None else inside.argv(argv), log)

    def accepts(self, address: str, inside: Namespace | None) -> bool:
        """Whether somebody listens there, whatever they do with the connection."""
        try:
            connected(address, inside, timeout=2).close()
        except OSError:
            return False
        return True


def host_port(address: str) -> tuple[str, int]:
    """The parts of HOST:PORT."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def connected(address: str, inside: Namespace | None, timeout: float = NEVER) -> socket.socket:
    """A blocking connection, made inside a namespace; Nagle's wait is off, as it is in MTAs."""
    if inside is None:
        sock = socket.create_connection(host_port(address), timeout)
    else:
        sock = inside.connect(*host_port(address), timeout=timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@dataclass(frozen=True, slots=True)
class Running:
    """What a pair's `start` gives: the processes of both ends, and the address that leads to the sink.

    `start_seconds` is the time from the start of both processes until connections are taken: of pairs with processes.
    """

    pids: tuple[int, ...]
    entrance: str
    start_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """`programs` have to be installed. Where `own_network`, it needs two namespaces even on loopback.

    `share` of the messages of a load is enough for a pair that is slow, so that it does not take all the time.
    """

    name: str
    text: str
    start: Callable[[Place], AbstractContextManager[Running]]
    programs: tuple[str, ...] = ()
    own_network: bool = False
    share: float = 1.0
    lacking: Callable[[], str] = lambda: ""  # why it cannot run on this machine although the programs are there


@dataclass(frozen=True, slots=True)
class Way:
    """A pair that runs, and its place."""

    pair: Pair
    place: Place
    running: Running

    @property
    def pids(self) -> tuple[int, ...]:
        """Of both ends."""
        return self.running.pids

    def connect(self) -> socket.socket:
        """A connection to the sink, as an MTA at the near side makes it."""
        return connected(self.running.entrance, self.place.near)

    def argv(self, argv: Sequence[str]) -> list[str]:
        """A load generator at the near side."""
        return list(argv) if self.place.near is None else self.place.near.argv(argv)

    @property
    def cpu_seconds(self) -> float:
        """User and system time of both ends so far, all their threads together."""
        return sum(map(cpu_seconds, self.pids))

    @property
    def resident_bytes(self) -> tuple[int, ...]:
        """Memory of each end, near and far."""
        return tuple(map(rss_bytes, self.pids))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads, those that ended too.

    From its CPU clock (clock_getcpuclockid(3)): /proc/PID/stat counts in hundredths of a second.
    """
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


def rss_bytes(pid: int) -> int:
    """Resident set of a process, shared pages included, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@dataclass(frozen=True, slots=True)
class Program:
    """One end of a pair that needs no more than a command line: it is ready when it listens."""

    name: str
    argv: Sequence[str]
    listens: str
    inside: Namespace | None = field(default=None)


@contextmanager
def both_running(place: Place, near: Program, far: Program) -> Iterator[Running]:
    """Two programs from their start to their end."""
    children: list[Child] = []
    try:
        began = time.perf_counter()
        for program in (far, near):
            children.append(place.start(program.name, program.argv, program.inside))  # noqa: PERF401 - one may fail
        for child, program in zip(children, (far, near), strict=True):
            ready = partial(place.accepts, program.listens, program.inside)
            child.wait_for(ready, f"{program.name} to listen on {program.listens}")
        seconds = time.perf_counter() - began
        yield Running(tuple(child.pid for child in reversed(children)), place.entrance, seconds)
    finally:
        for child in children:
            child.stop()
