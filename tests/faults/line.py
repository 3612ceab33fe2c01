"""A line between two namespaces whose faults are ours: delay, loss, a bit rate, darkness, and connections reset.

Each namespace has a TUN device; what one kernel sends is read here packet by packet, and given to the other kernel when
and if the line lets it pass. So loss is loss of IP packets, which TCP of the real kernels repeats; nothing is modelled
above that. It needs no netem, which many kernels lack.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.e2e.namespaces import ADDRESSES, Namespace
from tests.e2e.processes import ENVIRONMENT, run

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_TCP = 6
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_BATCH = 64  # packets read in a row from one side
_LONGEST_WAIT = 1.0
_WAKING = 0.00007  # seconds by which select returns late (measured, median): we ask to be woken so much sooner
_PORTS_KEPT = 4096  # of connections seen, the latest
_numbers = itertools.count(1000)  # apart from those of the laboratory with cables

Flow = frozenset[bytes]  # the two ends of a TCP connection, each an address and a port


@dataclass(frozen=True, slots=True)
class Quality:
    """What the line does to both directions alike."""

    delay: float = 0.0  # seconds, one way
    loss: float = 0.0  # share of packets
    rate: float = 0.0  # bits a second; 0: any
    queue: int = 256 * 1024  # bytes that wait for the rate; more are dropped


@dataclass
class Counts:
    """What happened on the line so far."""

    packets: int = 0
    octets: int = 0
    lost: int = 0  # by chance
    overflowed: int = 0  # the queue was full
    dark: int = 0  # while nothing passed
    resets: int = 0  # forged RSTs


@dataclass
class _Direction:
    """From one device to the other."""

    source: int
    target: int
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    free_at: float = 0.0  # when the last bit of what waits has left


class _Relay:
    """The loop of the child process."""

    def __init__(self, a: int, b: int, quality: Quality, seed: int) -> None:
        self.quality = quality
        self.counts = Counts()
        self._random = random.Random(seed)
        self._directions = {a: _Direction(a, b), b: _Direction(b, a)}
        self._dark = False
        self._flows: dict[Flow, None] = {}
        self._killed: set[Flow] = set()

    def run(self) -> None:
        """Until standard input ends. Each line of it is a command, answered by a line with the counts."""
        commands = sys.stdin.fileno()
        readers = [*self._directions, commands]
        for fd in self._directions:
            os.set_blocking(fd, False)
        while True:
            for fd in select.select(readers, [], [], self._wait())[0]:
                if fd == commands:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    self._obey(json.loads(line))
                    print(json.dumps(asdict(self.counts)), flush=True)
                else:
                    self._read(self._directions[fd])
            now = time.monotonic() + _WAKING
            for direction in self._directions.values():
                self._release(direction, now)

    def _obey(self, command: dict[str, object]) -> None:
        if "quality" in command:
            self.quality = Quality(**command["quality"])  # type: ignore[arg-type]
        if "dark" in command:
            self._dark = bool(command["dark"])
        if command.get("kill"):
            self._killed |= set(self._flows)
            self._flows.clear()

    def _wait(self) -> float:
        heads = [direction.waiting[0][0] for direction in self._directions.values() if direction.waiting]
        return min(_LONGEST_WAIT, max(0.0, min(heads) - _WAKING - time.monotonic())) if heads else _LONGEST_WAIT

    def _read(self, direction: _Direction) -> None:
        for _ in range(_BATCH):
            try:
                packet = os.read(direction.source, 65536)
            except BlockingIOError:
                return
            if packet[0] >> 4 == 4:
                self._take(direction, packet)

    def _take(self, direction: _Direction, packet: bytes) -> None:
        self.counts.packets += 1
        self.counts.octets += len(packet)
        if self._dark:
            self.counts.dark += 1
            return
        if packet[9] == _TCP and self._of_killed(direction, packet):
            return
        quality = self.quality
        if quality.loss and self._random.random() < quality.loss:
            self.counts.lost += 1
            return
        now = time.monotonic()
        if quality.rate:
            if (direction.free_at - now) * quality.rate / 8 > quality.queue:
                self.counts.overflowed += 1
                return
            direction.free_at = max(now, direction.free_at) + len(packet) * 8 / quality.rate
        else:
            direction.free_at = now
        direction.waiting.append((direction.free_at + quality.delay, packet))

    def _of_killed(self, direction: _Direction, packet: bytes) -> bool:
        """Whether the packet is of a connection that was killed: as a NAT that forgot it, the line answers with RST."""
        head = (packet[0] & 15) * 4
        flow = frozenset((packet[12:16] + packet[head : head + 2], packet[16:20] + packet[head + 2 : head + 4]))
        if packet[head + 13] & (_SYN | _ACK) == _SYN:
            self._killed.discard(flow)  # another connection of the same ports
        if flow not in self._killed:
            self._flows[flow] = None
            if len(self._flows) > _PORTS_KEPT:
                del self._flows[next(iter(self._flows))]
            return False
        if not packet[head + 13] & _RST:
            self._write(direction.source, _reset_for(packet, head))
            self.counts.resets += 1
        return True

    def _release(self, direction: _Direction, now: float) -> None:
        waiting = direction.waiting
        while waiting and waiting[0][0] <= now:
            packet = waiting.popleft()[1]
            if self._dark:
                self.counts.dark += 1
            else:
                self._write(direction.target, packet)

    def _write(self, fd: int, packet: bytes) -> None:
        try:
            os.write(fd, packet)
        except (BlockingIOError, OSError):
            self.counts.overflowed += 1


def _reset_for(packet: bytes, head: int) -> bytes:
    """The RST that a TCP packet's sender takes: its number is what that sender expects next (RFC 9293, 3.10.7)."""
    seq, ack = struct.unpack_from("!II", packet, head + 4)
    flags = packet[head + 13]
    ports = packet[head + 2 : head + 4] + packet[head : head + 2]
    if flags & _ACK:
        numbers = struct.pack("!IIBBH", ack, 0, 5 << 4, _RST, 0)
    else:
        length = len(packet) - head - (packet[head + 12] >> 4) * 4 + bool(flags & _SYN) + bool(flags & _FIN)
        numbers = struct.pack("!IIBBH", 0, (seq + length) & 0xFFFFFFFF, 5 << 4, _RST | _ACK, 0)
    addresses = packet[16:20] + packet[12:16]
    segment = ports + numbers
    check = _checksum(addresses + struct.pack("!BBH", 0, _TCP, 20) + segment + bytes(4))
    segment += struct.pack("!HH", check, 0)
    start = struct.pack("!BBHHHBB", 0x45, 0, 40, 0, 0, 64, _TCP)
    return start + struct.pack("!H", _checksum(start + bytes(2) + addresses)) + addresses + segment


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Line:
    """The line as its users see it. Every command is in force when its method returns."""

    def __init__(self, process: subprocess.Popen[str], quality: Quality) -> None:
        self._process = process
        self.quality = quality
        self.kills = 0

    def _say(self, **command: object) -> Counts:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise AssertionError(f"the line has ended with status {self._process.wait()}")
        return Counts(**json.loads(answer))

    def counts(self) -> Counts:
        """What happened so far."""
        return self._say()

    def set(self, quality: Quality) -> None:
        """Another quality from now on."""
        self.quality = quality
        self._say(quality=asdict(quality))

    def dark(self, on: bool) -> None:
        """Nothing passes, and nobody is told; until it is taken back."""
        self._say(dark=on)

    def kill(self) -> None:
        """Forget all TCP connections: whatever either end says on one of them is answered by RST."""
        self.kills += 1
        self._say(kill=True)


@contextmanager
def joined(quality: Quality | None = None, *, seed: int = 1) -> Iterator[tuple[Namespace, Namespace, Line]]:
    """Two namespaces with ADDRESSES and the line between them; all gone at the end."""
    quality = quality or Quality()
    number = next(_numbers)
    with ExitStack() as stack:
        sides = []
        for letter, address, other in zip("ab", ADDRESSES, reversed(ADDRESSES), strict=True):
            namespace = Namespace(f"hubtunnel-{os.getpid()}-{number}{letter}")
            stack.callback(namespace.remove)
            namespace.address, namespace.interface = address, f"line-{letter}"
            device = _device(namespace, other)
            stack.callback(os.close, device)
            sides.append((namespace, device))
        (a, a_device), (b, b_device) = sides
        arguments = json.dumps({"fds": [a_device, b_device], "quality": asdict(quality), "seed": seed})
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.line", arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(a_device, b_device),
            text=True,
            cwd=Path(__file__).parents[2],
            env=ENVIRONMENT,
        )
        stack.callback(_end, process)
        line = Line(process, quality)
        line.counts()  # it runs
        yield a, b, line


def _device(namespace: Namespace, other: str) -> int:
    """A TUN device in the namespace, up, with the namespace's address and a route to the other end."""
    with namespace.entered():
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", namespace.interface.encode(), _IFF_TUN | _IFF_NO_PI))
    at = ("dev", namespace.interface)
    run("ip", "-n", namespace.name, "address", "add", namespace.address, "peer", other, *at)
    run("ip", "-n", namespace.name, "link", "set", *at, "up")
    return fd


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def main() -> None:
    """The child process."""
    arguments = json.loads(sys.argv[1])
    with suppress(PermissionError):  # a wire waits for no processor: what it adds would count as the hubs' time
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    a, b = arguments["fds"]
    _Relay(a, b, Quality(**arguments["quality"]), arguments["seed"]).run()


if __name__ == "__main__":
    main()
