"""Network namespaces joined by a veth pair, and sockets inside them.

A socket belongs for good to the namespace in which it was made, so the test process can hold sockets of every
hub at once: a thread steps into the namespace, makes the socket and steps back.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import signal
import socket
import string
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.processes import POLL, Child, run

_CLONE_NEWNET = 0x40000000
_TCP_ESTABLISHED = "01"
_TCP_LISTEN = "0A"
ADDRESSES = ("192.0.2.1", "192.0.2.2")
"""Of the two hubs, in TEST-NET-1."""

_OWN_NAME = re.compile(r"hubtunnel-([0-9]+)-[0-9]+[a-z]")

_LAST_GRACE = 5.0
"""Seconds for processes to end by themselves before a namespace is removed."""

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def _setns(fd: int) -> None:
    # os.setns came with Python 3.12.
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "setns")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _remove(name: str, *, grace: float) -> None:
    end = time.monotonic() + grace
    while inside := run("ip", "netns", "pids", name).split():
        if time.monotonic() > end:
            for pid in inside:
                _kill(int(pid))
        time.sleep(POLL)
    run("ip", "netns", "del", name)


def _remove_left_behind() -> None:
    """Namespaces of test runs that were killed before they could clean up, with what runs inside them."""
    for line in run("ip", "netns", "list").splitlines():
        found = _OWN_NAME.match(line)
        if found is not None and not Path(f"/proc/{found[1]}").exists():
            _remove(found[0], grace=0.0)


class Namespace:
    """One network namespace with its own loopback; `address` is set once a veth end is in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ""
        self.interface = ""
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def remove(self) -> None:
        """The namespace goes, and with it every process that is still inside."""
        _remove(self.name, grace=_LAST_GRACE)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread alone is inside; keep it short and do not await in it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def open_socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0
    ) -> socket.socket:
        with self.entered():
            return socket.socket(family, kind, proto)

    def listen(self, host: str, port: int) -> socket.socket:
        listener = self.open_socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
        return listener

    def connect(self, host: str, port: int, timeout: float = 20.0) -> socket.socket:
        """A connected blocking socket with `timeout`; raises OSError as connect does."""
        connection = self.open_socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        connection.settimeout(timeout)
        try:
            connection.connect((host, port))
        except BaseException:
            connection.close()
            raise
        return connection

    def argv(self, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]

    def start(self, name: str, command: Sequence[str], log: Path, *, cwd: Path | None = None) -> Child:
        return Child(name, self.argv(command), log, cwd=cwd)

    def established(self, host: str, port: int) -> int:
        """How many connections stand at a local address."""
        return self._in_state(_TCP_ESTABLISHED, host, port)

    def listens(self, host: str, port: int) -> bool:
        """Whether a server waits at the address; asked without a connection that it would log."""
        return self._in_state(_TCP_LISTEN, host, port) > 0

    def _in_state(self, state: str, host: str, port: int) -> int:
        """From the kernel's own table, which gives addresses in the byte order of the machine."""
        local = f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
        with self.entered():
            table = Path("/proc/thread-self/net/tcp").read_text()
        return sum(fields[1] == local and fields[3] == state for fields in map(str.split, table.splitlines()))


@contextmanager
def two_namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces with ADDRESSES, joined by veth; removed whatever happens.

    The names hold our process id and a number, so that runs side by side never meet.
    """
    _remove_left_behind()
    number = next(_numbers)
    made: list[Namespace] = []
    try:
        # One by one, so that the first is known should the second fail.
        made.append(Namespace(f"hubtunnel-{os.getpid()}-{number}a"))
        made.append(Namespace(f"hubtunnel-{os.getpid()}-{number}b"))
        a, b = made
        a.interface, b.interface = "hub-a", "hub-b"
        run(
            *("ip", "link", "add", a.interface, "netns", a.name, "type", "veth"),
            *("peer", "name", b.interface, "netns", b.name),
        )
        for namespace, address in zip((a, b), ADDRESSES, strict=True):
            namespace.address = address
            run("ip", "-n", namespace.name, "address", "add", f"{address}/24", "dev", namespace.interface)
            run("ip", "-n", namespace.name, "link", "set", namespace.interface, "up")
        _wait_for_carrier(a, b)
        yield a, b
    finally:
        for namespace in made:
            namespace.remove()


@contextmanager
def switched_namespaces(addresses: Sequence[str]) -> Iterator[list[Namespace]]:
    """One namespace for each address (of one /24, or /64 of IPv6) and all on one switch; removed whatever happens.

    The first one holds the switch itself, with its address on it.
    """
    _remove_left_behind()
    number = next(_numbers)
    made: list[Namespace] = []
    try:
        for letter, address in zip(string.ascii_lowercase, addresses, strict=False):
            made.append(Namespace(f"hubtunnel-{os.getpid()}-{number}{letter}"))
            made[-1].address = address
        switch = made[0]
        switch.interface = "switch"
        run("ip", "-n", switch.name, "link", "add", switch.interface, "type", "bridge", "forward_delay", "0")
        run("ip", "-n", switch.name, "link", "set", switch.interface, "up")
        for index, namespace in enumerate(made[1:], 1):
            namespace.interface = "hub"
            port = f"port{index}"
            run(
                *("ip", "link", "add", port, "netns", switch.name, "type", "veth"),
                *("peer", "name", namespace.interface, "netns", namespace.name),
            )
            run("ip", "-n", switch.name, "link", "set", port, "master", switch.interface, "up")
        for namespace in made:
            # Of IPv6 no look for duplicates, for whose end one would have to wait.
            address = [f"{namespace.address}/64", "nodad"] if ":" in namespace.address else [f"{namespace.address}/24"]
            run("ip", "-n", namespace.name, "address", "add", *address, "dev", namespace.interface)
            run("ip", "-n", namespace.name, "link", "set", namespace.interface, "up")
        _wait_for_carrier(*made)
        yield made
    finally:
        for namespace in reversed(made):
            namespace.remove()


def _wait_for_carrier(*namespaces: Namespace) -> None:
    end = time.monotonic() + 5
    for namespace in namespaces:
        while "LOWER_UP" not in run("ip", "-n", namespace.name, "link", "show", "dev", namespace.interface):
            if time.monotonic() > end:
                raise AssertionError(f"{namespace.interface} in {namespace.name} does not come up")
            time.sleep(POLL)
